/* Drives a fuzz target without libFuzzer: `target [RUNS [SEED]]` or `target --seconds N [SEED]` with random inputs, `target FILE...` with saved ones.
 * A run that dies, or that takes longer than HANG_S for one input, says which seed did it: `target 1 SEED` does it again. */
#include "fuzz_input.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { MAX_INPUT = 2048, HANG_S = 30 };

static volatile u64 seed_now;

static u64 next_random(u64 *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s * 0x2545f4914f6cdd1dull;
}

/* Half of all bytes are small: indices and sizes that mean something. */
static void run_seed(u64 seed)
{
	static u8 buf[MAX_INPUT];
	u64 s = seed * 0x9e3779b97f4a7c15ull + 1;
	size_t len = next_random(&s) % MAX_INPUT;

	for (size_t i = 0; i < len; i++) {
		u64 r = next_random(&s) >> 20;

		buf[i] = (u8)(r & 0x100 ? r & 0x0f : r);
	}
	seed_now = seed;
	alarm(HANG_S);
	LLVMFuzzerTestOneInput(buf, len);
}

static int run_file(const char *path)
{
	static u8 buf[1 << 20];
	FILE *f = fopen(path, "rb");

	if (!f) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return 2;
	}
	LLVMFuzzerTestOneInput(buf, fread(buf, 1, sizeof(buf), f));
	fclose(f);
	return 0;
}

static void say_seed(void)
{
	char text[64];
	int n = snprintf(text, sizeof text, "died in seed %llu\n", (unsigned long long)seed_now);

	if (write(STDERR_FILENO, text, (size_t)n) < 0)
		_exit(1);
}

static void on_signal(int sig)
{
	say_seed();
	if (sig == SIGALRM)
		fprintf(stderr, "one input takes longer than %d s\n", HANG_S);
	signal(sig, SIG_DFL);
	raise(sig == SIGALRM ? SIGABRT : sig);
}

#ifdef __SANITIZE_ADDRESS__
void __sanitizer_set_death_callback(void (*fn)(void));
static void catch_deaths(void) { __sanitizer_set_death_callback(say_seed); }
#else
static void catch_deaths(void) { signal(SIGSEGV, on_signal); }
#endif

int main(int argc, char **argv)
{
	bool timed = argc > 2 && !strcmp(argv[1], "--seconds");
	char *end = "";
	u64 runs = argc > 1 && !timed ? strtoull(argv[1], &end, 10) : 2000, seconds = timed ? strtoull(argv[2], NULL, 10) : 0;
	u64 seed = argc > 2 + timed ? strtoull(argv[2 + timed], NULL, 10) : 1, done = 0;
	time_t start = time(NULL);

	if (argc > 1 && *end) {
		int err = 0;

		for (int i = 1; i < argc; i++)
			err |= run_file(argv[i]);
		return err;
	}
	catch_deaths();
	signal(SIGABRT, on_signal);
	signal(SIGALRM, on_signal);
	for (; timed ? (u64)(time(NULL) - start) < seconds : done < runs; done++) {
		if (done % 1000 == 0) {
			printf("seed %llu\n", (unsigned long long)(seed + done));
			fflush(stdout);
		}
		run_seed(seed + done);
	}
	alarm(0);
	printf("%llu inputs in %lld s\n", (unsigned long long)done, (long long)(time(NULL) - start));
	return 0;
}
