/* Fresh guest memory is brought in before the guest asks for it: see mem.h. A page's first touch costs a page fault in the host of some 3 us, and a guest that boots touches tens
 * of thousands; another CPU of the host can do that meanwhile.
 *
 * Guests use fresh memory in runs: who has touched a few pages of a chunk soon touches the others. A thread populates such chunks. How much memory that may cost is bounded:
 * what was brought in and not touched yet stays below SPARE and a sixteenth of what the guest has touched.
 *
 * Surprise: nobody waits for that thread, and it never has to be right. What it has not done the guest's own faults do, and all counts are hints, which races may bend. */
#include "mem/mem.h"

#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define CHUNK 512u                   /* pages: as many as one page of the host's tables holds */
#define PIECE 64u                    /* pages, by one call */
#define ENOUGH 16u                   /* touched pages that say that the rest follows */
#define SPARE (8 * MiB / PAGE_SIZE)
#define QUEUE 16u

/* What count[] holds of a chunk: touched pages, or these. */
enum { COME = CHUNK + 1, /* it was asked for, or done */ LEFT_ALONE };

struct mem_ahead {
	struct mem *mem;
	u64 *touched;                /* a bit per frame; atomic */
	u16 *count;                  /* per chunk; atomic */
	u64 ntouched, ncame, nspare; /* pages; atomic */
	pthread_t thread;
	pthread_mutex_t lock; /* the rest */
	pthread_cond_t more;
	u64 queue[QUEUE], in, out; /* chunks */
	bool stop;
};

static u64 chunks(const struct mem *m) { return (m->frames + CHUNK - 1) / CHUNK; }

/* From the end, for the guest comes from the beginning. */
static bool populate(struct mem_ahead *a, u64 chunk)
{
	const struct mem *m = a->mem;
	for (u64 first = chunk * CHUNK, at = min_u64(first + CHUNK, m->frames), n; at > first; at -= n) {
		n = min_u64(PIECE, at - first);
		if (madvise(m->base + (at - n) * PAGE_SIZE, n * PAGE_SIZE, MADV_POPULATE_WRITE))
			return errno != EINVAL; /* an older kernel; others (no memory) may pass */
		__atomic_fetch_add(&a->ncame, n, __ATOMIC_RELAXED);
	}
	return true;
}

static void *run(void *opaque)
{
	struct mem_ahead *a = opaque;
	pthread_mutex_lock(&a->lock);
	while (!a->stop) {
		if (a->in == a->out) {
			pthread_cond_wait(&a->more, &a->lock);
			continue;
		}
		u64 chunk = a->queue[a->out++ % QUEUE];
		pthread_mutex_unlock(&a->lock);
		bool ok = __atomic_load_n(&a->count[chunk], __ATOMIC_RELAXED) != COME || populate(a, chunk);
		pthread_mutex_lock(&a->lock);
		a->stop |= !ok;
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

static bool may_come(const struct mem_ahead *a)
{
	return !a->mem->is_private && !a->mem->source && /* such pages come from elsewhere */
	       __atomic_load_n(&a->nspare, __ATOMIC_RELAXED) + CHUNK <= SPARE + __atomic_load_n(&a->ntouched, __ATOMIC_RELAXED) / 16;
}

static void spare(struct mem_ahead *a, u64 more, u64 less)
{
	u64 was = __atomic_load_n(&a->nspare, __ATOMIC_RELAXED);
	__atomic_store_n(&a->nspare, was + more - min_u64(was, less), __ATOMIC_RELAXED);
}

static void ask(struct mem_ahead *a, u64 chunk, u16 n)
{
	pthread_mutex_lock(&a->lock);
	if (a->in - a->out < QUEUE && !a->stop && __atomic_compare_exchange_n(&a->count[chunk], &n, COME, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
		spare(a, CHUNK - n, 0);
		a->queue[a->in++ % QUEUE] = chunk;
		pthread_cond_signal(&a->more);
	}
	pthread_mutex_unlock(&a->lock);
}

void mem_ahead_first_touch(struct mem *m, u64 frame)
{
	struct mem_ahead *a = m->ahead;
	u16 *count = &a->count[frame / CHUNK], n = __atomic_load_n(count, __ATOMIC_RELAXED);
	if (__atomic_fetch_or(&a->touched[frame / 64], bit(frame % 64), __ATOMIC_RELAXED) & bit(frame % 64))
		return; /* another vCPU was faster */
	__atomic_fetch_add(&a->ntouched, 1, __ATOMIC_RELAXED);
	if (n == COME)
		spare(a, 0, 1);
	if (n >= CHUNK || !__atomic_compare_exchange_n(count, &n, n + 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		return;
	if (++n % ENOUGH == 0 && n <= CHUNK / 2 && may_come(a))
		ask(a, frame / CHUNK, n);
}

void mem_ahead_leave(struct mem *m, u64 first, u64 n)
{
	struct mem_ahead *a = m->ahead;
	for (u64 k = first / CHUNK; a && n && k <= (first + n - 1) / CHUNK; k++) {
		u64 used = 0;
		for (u64 w = k * (CHUNK / 64); w < min_u64((k + 1) * (CHUNK / 64), mem_bitmap_words(m)); w++)
			used += (u64)__builtin_popcountll(__atomic_load_n(&a->touched[w], __ATOMIC_RELAXED));
		if (__atomic_exchange_n(&a->count[k], LEFT_ALONE, __ATOMIC_RELAXED) == COME)
			spare(a, 0, CHUNK - used);
	}
}

void mem_ahead_stats(const struct mem *m, struct mem_ahead_stats *s)
{
	const struct mem_ahead *a = m->ahead;
	*s = (struct mem_ahead_stats){ 0 };
	if (a)
		*s = (struct mem_ahead_stats){ __atomic_load_n(&a->ntouched, __ATOMIC_RELAXED), __atomic_load_n(&a->ncame, __ATOMIC_RELAXED),
					       __atomic_load_n(&a->nspare, __ATOMIC_RELAXED) };
}

static void *zeroes(u64 bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static u64 touched_bytes(const struct mem *m) { return align_up((m->frames + 63) / 64 * sizeof(u64), PAGE_SIZE); }
static u64 count_bytes(const struct mem *m) { return align_up(chunks(m) * sizeof(u16), PAGE_SIZE); }

static void free_all(struct mem_ahead *a)
{
	if (a->touched)
		munmap(a->touched, touched_bytes(a->mem));
	if (a->count)
		munmap(a->count, count_bytes(a->mem));
	pthread_cond_destroy(&a->more);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

static bool one_cpu(void)
{
	cpu_set_t cpus;
	return !sched_getaffinity(0, sizeof cpus, &cpus) && CPU_COUNT(&cpus) == 1;
}

void mem_ahead_start(struct mem *m)
{
	struct mem_ahead *a = m->ahead || one_cpu() ? NULL : calloc(1, sizeof *a);
	if (!a)
		return;
	a->mem = m;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->more, NULL);
	a->touched = zeroes(touched_bytes(m));
	a->count = zeroes(count_bytes(m));
	if (!a->touched || !a->count || pthread_create(&a->thread, NULL, run, a))
		free_all(a);
	else {
		m->touched = a->touched;
		m->ahead = a;
	}
}

void mem_ahead_stop(struct mem *m)
{
	struct mem_ahead *a = m->ahead;
	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->stop = true;
	pthread_cond_signal(&a->more);
	pthread_mutex_unlock(&a->lock);
	pthread_join(a->thread, NULL);
	m->ahead = NULL;
	m->touched = NULL;
	free_all(a);
}
