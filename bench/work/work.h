/* The benchmark's workloads. A unit is a fixed piece of work that ends in the same checksum every time, on every machine. */
#ifndef BENCH_WORK_H
#define BENCH_WORK_H
#include <stdint.h>
#include <stddef.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

#define noinline __attribute__((noinline, noclone))
#define GOLDEN 0x9e3779b97f4a7c15ull

struct workload {
	const char *name;
	const char *kind;       /* compute, system, more, exit: which means it counts for */
	u64 (*unit)(void);      /* 0.1 to 2 ms on a machine of 2020 */
	void (*setup)(void);    /* not timed; may be NULL */
	void (*done)(void);     /* may be NULL */
	int (*usable)(void);    /* may be NULL: always */
};

#define W(name, kind, setup, done, usable) u64 name##_unit(void);
#include "work.def"
#undef W

void sort_setup(void);
void matrix_setup(void);
void avx2_setup(void);
int avx2_usable(void);
void chase_setup(void);
void copy_setup(void);
void repmovs_setup(void);
void strings_setup(void);
void pipe_setup(void);
void pipe_done(void);
void codegen_setup(void);

void *pages(size_t bytes, int prot);  /* 4 KB pages from the system, or the end of the program */
void broken(const char *what);        /* the system refused something: say it and end */

static inline u64 mix(u64 h, u64 v)
{
	h = (h ^ v) * GOLDEN;
	return h ^ (h >> 29);
}

static inline u32 next_random(u32 *seed) /* xorshift */
{
	u32 x = *seed;
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return *seed = x;
}
#endif
