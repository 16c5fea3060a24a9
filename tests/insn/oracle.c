/* The silicon oracle's command line. Exit status: 0 no difference, 1 differences, 2 usage or host failure. */
#include "oracle.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static struct {
	u64 seed, start, count, one;
	bool have_one;
	unsigned seconds, max_failures;
	u32 only, modes;
	const char *mnemonic;
	bool quiet, list;
} opt = { .seed = 1, .count = 100000, .max_failures = 5, .only = ~0u, .modes = ~0u };

static void usage(FILE *to)
{
	fprintf(to, "usage: oracle [--seed N] [--start N] [--count N] [--seconds N] [--only CLASS[,CLASS]] [--mnemonic NAME] [--mode 64|32|16]\n"
	            "              [--case SEED] [--max-failures N] [--list] [--engine interp|jit]\n"
	            "Runs random instructions on this machine's CPU and on nestbox's, and compares everything.\n"
	            "--case repeats one case by the seed it was reported with (with the same --only, --mnemonic and --mode). Classes:");
	for (unsigned c = 0; c < O_CLASSES; c++)
		fprintf(to, " %s", oclass_names[c]);
	fprintf(to, "\n");
}

static u32 parse_classes(char *text)
{
	u32 set = 0;

	for (char *w = strtok(text, ","); w; w = strtok(NULL, ",")) {
		unsigned c = 0;

		while (c < O_CLASSES && strcmp(w, oclass_names[c]))
			c++;
		if (c == O_CLASSES) {
			fprintf(stderr, "oracle: no class \"%s\"\n", w);
			usage(stderr);
			exit(2);
		}
		set |= 1u << c;
	}
	return set;
}

static void parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "seed", 1, 0, 's' }, { "start", 1, 0, 'S' }, { "count", 1, 0, 'n' }, { "seconds", 1, 0, 't' }, { "only", 1, 0, 'o' },
		{ "mnemonic", 1, 0, 'm' }, { "case", 1, 0, 'c' }, { "mode", 1, 0, 'M' }, { "max-failures", 1, 0, 'f' }, { "list", 0, 0, 'l' }, { "engine", 1, 0, 'e' }, { "help", 0, 0, 'h' }, { 0 },
	};
	int o;

	while ((o = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (o) {
		case 's': opt.seed = strtoull(optarg, NULL, 0); break;
		case 'S': opt.start = strtoull(optarg, NULL, 0); break;
		case 'n': opt.count = strtoull(optarg, NULL, 0); break;
		case 't': opt.seconds = (unsigned)atoi(optarg); opt.count = ~(u64)0; break;
		case 'o': opt.only = parse_classes(optarg); break;
		case 'm': opt.mnemonic = optarg; break;
		case 'c': opt.one = strtoull(optarg, NULL, 0); opt.have_one = true; break;
		case 'M': opt.modes = 1u << (atoi(optarg) == 16 ? O_16 : atoi(optarg) == 32 ? O_32 : O_64); break;
		case 'f': opt.max_failures = (unsigned)atoi(optarg); break;
		case 'l': opt.list = true; break;
		case 'e':
			if (guest_engine(optarg))
				break;
			usage(stderr);
			exit(2);
		case 'h': usage(stdout); exit(0);
		default: usage(stderr); exit(2);
		}
	}
}

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* True when the two CPUs agree. */
static bool run_one(u64 seed, unsigned long *faults, bool show)
{
	static struct ocase k;
	static struct ostate n, g;
	static u8 nmem[O_DATA_SIZE], gmem[O_DATA_SIZE];
	bool ran, same;

	k.seed = seed;
	gen_case(&k);
	if (touches_code(&k) || is_wild(&k))
		return true;
	native_run(&k, &n, nmem);
	ran = guest_run(&k, &g, gmem);
	*faults += n.vector != VECTOR_NONE;
	same = ran && same_outcome(&k, &n, &g, nmem, gmem);
	if (!same || show)
		print_case(&k, &n, &g, nmem, gmem);
	return same;
}

int main(int argc, char **argv)
{
	unsigned long done = 0, faults = 0, failures = 0;
	double begin;

	setvbuf(stdout, NULL, _IOLBF, 0);
	parse(argc, argv);
	if (native_init() < 0 || guest_init() < 0) {
		fprintf(stderr, "oracle: cannot set up the two CPUs\n");
		return 2;
	}
	gen_init(&(struct filter){ opt.only, opt.modes, guest_shows, opt.mnemonic });
	for (unsigned c = 0; opt.list && c < O_CLASSES; c++)
		printf("%-8s %u, %u and %u templates in 64-, 32- and 16-bit mode\n", oclass_names[c], gen_templates(O_64, c), gen_templates(O_32, c), gen_templates(O_16, c));
	if (opt.list)
		return 0;
	if (opt.have_one)
		return run_one(opt.one, &faults, true) ? 0 : 1;
	begin = now_s();
	for (u64 n = opt.start; n - opt.start < opt.count && failures < opt.max_failures; n++, done++) {
		if (!run_one(opt.seed << 40 | n, &faults, false))
			failures++;
		if (opt.seconds && !(done & 1023) && now_s() - begin > opt.seconds)
			break;
	}
	printf("%lu cases, %lu exceptions, %lu differences, %.0f cases/s (--seed %llu)\n", done, faults, failures, (double)done / (now_s() - begin),
	       (unsigned long long)opt.seed);
	return failures ? 1 : 0;
}
