/* Drives a fuzz target without libFuzzer: `target [RUNS [SEED]]` with random inputs, `target FILE...` with saved
 * ones. The seed of a run that dies is the last one printed. */
#include "fuzz_input.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_INPUT = 2048 };

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

int main(int argc, char **argv)
{
	char *end;
	u64 runs = argc > 1 ? strtoull(argv[1], &end, 10) : 2000, seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;

	if (argc > 1 && *end) {
		int err = 0;

		for (int i = 1; i < argc; i++)
			err |= run_file(argv[i]);
		return err;
	}
	for (u64 i = 0; i < runs; i++) {
		if (i % 1000 == 0) {
			printf("seed %llu\n", (unsigned long long)(seed + i));
			fflush(stdout);
		}
		run_seed(seed + i);
	}
	printf("%llu inputs\n", (unsigned long long)runs);
	return 0;
}
