/* Fresh guest memory is brought in before the guest asks for it: see mem.h. A page's first touch costs a page fault in the host of some 3 us, and a guest that boots touches tens
 * of thousands; another CPU of the host can do that meanwhile.
 *
 * Guests use fresh memory in runs: who has touched some pages of a chunk soon touches the others. A thread populates such chunks, piece by piece. What that may cost is bounded:
 * the pages that came and were not touched since are counted, and stay below SPARE and a part of what has been touched.
 *
 * Never comes what the guest gave back: who gives back, or puts other memory below the guest's, holds `lock`, and each piece is looked at and populated under it. A page that was
 * given back keeps its piece away until the guest touches it again; and a guest that gives memory back gets nothing ahead until it has touched twice as much, for a balloon that
 * inflates touches (zeroes) what it is about to give.
 *
 * Surprise: nobody waits for that thread, and it need not come in time. What it has not done the guest's own faults do. */
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

#define PIECE MEM_AHEAD_PIECE             /* pages, by one call: the lock is held for some 50 us */
#define CHUNK 512u                        /* pages: as many as one page of the host's tables holds */
#define ENOUGH 16u                        /* touched pages of a chunk that say that the rest follows */
#define SPARE (4 * MiB / PAGE_SIZE)
#define SPARE_PART 32                     /* of what has been touched */
#define OWED_MOST (64 * MiB / PAGE_SIZE)  /* touches that a guest owes for what it gave back */
#define QUEUE 16u

/* A piece's word has three bits per page. CAME: by the thread, and not given back since. GIVEN: given back and not touched since. */
#define TOUCHED low_mask(PIECE)
enum { CAME = PIECE, GIVEN = 2 * PIECE };

/* What count[] holds of a chunk: its first touches, or that it was asked for. */
#define ASKED 0xffffu

struct mem_ahead {
	struct mem *mem;
	u64 *piece;                         /* a word per piece; atomic */
	u16 *count;                         /* per chunk, a hint; atomic */
	u64 ntouched, ncame, nspare, owed;  /* pages; atomic */
	pthread_t thread;
	pthread_mutex_t lock;               /* nothing is populated */
	unsigned wanted;                    /* who waits for it; atomic */
	pthread_mutex_t queue_lock;         /* the rest */
	pthread_cond_t more;
	u64 queue[QUEUE], in, out;          /* chunks; `in` is atomic, too; `out` is the thread's */
	bool stop;                          /* atomic, too */
};

static u64 load(const u64 *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static u64 pieces(const struct mem *m) { return (m->frames + PIECE - 1) / PIECE; }
static u64 chunks(const struct mem *m) { return (m->frames + CHUNK - 1) / CHUNK; }
static unsigned count_bits(u64 v) { return (unsigned)__builtin_popcountll(v); }

/* ---- the thread ---- */

static bool may_come(const struct mem_ahead *a)
{
	return !load(&a->owed) && load(&a->nspare) + PIECE <= SPARE + load(&a->ntouched) / SPARE_PART;
}

static bool is_used(const struct mem_ahead *a, u64 chunk)
{
	unsigned n = 0;
	for (u64 p = chunk * (CHUNK / PIECE); n < ENOUGH && p < min_u64((chunk + 1) * (CHUNK / PIECE), pieces(a->mem)); p++)
		n += count_bits(load(&a->piece[p]) & TOUCHED);
	return n >= ENOUGH;
}

/* Under lock. 0: go on, also with a piece that is there or has to stay away. */
static int populate(struct mem_ahead *a, u64 p)
{
	const struct mem *m = a->mem;
	u64 was = load(&a->piece[p]), n = min_u64(PIECE, m->frames - p * PIECE), fresh = ~(was | was >> CAME) & low_mask((unsigned)n), came;
	if (was >> GIVEN || !fresh)
		return 0;
	if (madvise(m->base + p * PIECE * PAGE_SIZE, n * PAGE_SIZE, MADV_POPULATE_WRITE))
		return -errno;
	do
		came = fresh & ~was; /* what was touched meanwhile is no spare */
	while (!__atomic_compare_exchange_n(&a->piece[p], &was, was | came << CAME, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	__atomic_fetch_add(&a->nspare, count_bits(came), __ATOMIC_RELAXED);
	__atomic_fetch_add(&a->ncame, count_bits(fresh), __ATOMIC_RELAXED);
	return 0;
}

/* What was asked for goes before a guess. */
static bool go_on(const struct mem_ahead *a, bool guessed)
{
	return !__atomic_load_n(&a->stop, __ATOMIC_RELAXED) && !__atomic_load_n(&a->wanted, __ATOMIC_SEQ_CST) && !(guessed && load(&a->in) != a->out);
}

/* As long as `used` is a used chunk: this one, which is populated from the end because the guest comes from the beginning, or a neighbour, from there. What changes between two
 * pieces ends it. 0, -EAGAIN, or why there is no use in going on. */
static int populate_chunk(struct mem_ahead *a, u64 chunk, u64 used)
{
	u64 first = chunk * (CHUNK / PIECE), end = min_u64(first + CHUNK / PIECE, pieces(a->mem));
	int err = 0;
	for (u64 i = 0; i < end - first && !err; i++) {
		if (!go_on(a, used != chunk))
			return -EAGAIN;
		pthread_mutex_lock(&a->lock);
		err = a->mem->is_private || !may_come(a) || !is_used(a, used) ? -EAGAIN : populate(a, used < chunk ? first + i : end - 1 - i);
		pthread_mutex_unlock(&a->lock);
	}
	return err == -EINTR ? -EAGAIN : err;
}

/* Three chunks in a row, up or down: two are used, and so will be the third. */
static int populate_next(struct mem_ahead *a, u64 chunk)
{
	bool below = chunk && is_used(a, chunk - 1), above = chunk + 1 < chunks(a->mem) && is_used(a, chunk + 1);
	if (below == above || (above && !chunk) || (below && chunk + 1 == chunks(a->mem)))
		return 0;
	return populate_chunk(a, below ? chunk + 1 : chunk - 1, chunk);
}

/* Linux before 5.14 says EINVAL. */
static void give_up(int err)
{
	if (err != -EINVAL)
		log_info("guest memory comes as it is touched from now on: populating it ahead failed: %s", strerror(-err));
}

/* 0, or why there is no use in going on. */
static int serve(struct mem_ahead *a, u64 chunk)
{
	int err = populate_chunk(a, chunk, chunk);
	if (err)
		__atomic_store_n(&a->count[chunk], 0, __ATOMIC_RELAXED); /* later, perhaps */
	else
		err = populate_next(a, chunk);
	return err == -EAGAIN ? 0 : err;
}

static void *run(void *opaque)
{
	struct mem_ahead *a = opaque;
	pthread_mutex_lock(&a->queue_lock);
	while (!a->stop) {
		if (a->in == a->out) {
			pthread_cond_wait(&a->more, &a->queue_lock);
			continue;
		}
		u64 chunk = a->queue[a->out++ % QUEUE];
		pthread_mutex_unlock(&a->queue_lock);
		int err = serve(a, chunk);
		if (err)
			give_up(err);
		pthread_mutex_lock(&a->queue_lock);
		if (err)
			__atomic_store_n(&a->stop, true, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&a->queue_lock);
	return NULL;
}

/* ---- the guest touches ---- */

static void ask(struct mem_ahead *a, u64 chunk)
{
	pthread_mutex_lock(&a->queue_lock);
	if (a->in - a->out < QUEUE && !a->stop) {
		__atomic_store_n(&a->count[chunk], ASKED, __ATOMIC_RELAXED);
		a->queue[a->in % QUEUE] = chunk;
		__atomic_store_n(&a->in, a->in + 1, __ATOMIC_RELAXED);
		pthread_cond_signal(&a->more);
	}
	pthread_mutex_unlock(&a->queue_lock);
}

/* It may count one too few. True: nothing is owed. */
static bool pay(struct mem_ahead *a)
{
	u64 owed = load(&a->owed);
	if (owed)
		__atomic_compare_exchange_n(&a->owed, &owed, owed - 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	return !owed;
}

void mem_ahead_first_touch(struct mem *m, u64 frame)
{
	struct mem_ahead *a = m->ahead;
	u64 *piece = &a->piece[frame / PIECE], page = bit(frame % PIECE), was = load(piece);
	u16 *count = &a->count[frame / CHUNK], n;
	do {
		if (was & page) /* another vCPU was faster */
			return;
	} while (!__atomic_compare_exchange_n(piece, &was, (was | page) & ~(page << GIVEN), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	__atomic_fetch_add(&a->ntouched, 1, __ATOMIC_RELAXED);
	if (was & page << CAME)
		__atomic_fetch_sub(&a->nspare, 1, __ATOMIC_RELAXED);
	n = __atomic_load_n(count, __ATOMIC_RELAXED);
	if (!pay(a) || n == ASKED || !__atomic_compare_exchange_n(count, &n, (u16)(n + 1), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		return;
	if (++n % ENOUGH == 0 && n <= CHUNK / 2 && may_come(a) && !m->is_private && !m->source) /* such pages come from elsewhere */
		ask(a, frame / CHUNK);
}

/* ---- memory is given back, or becomes another ---- */

void mem_ahead_hold(struct mem *m)
{
	struct mem_ahead *a = m->ahead;
	if (!a)
		return;
	__atomic_fetch_add(&a->wanted, 1, __ATOMIC_SEQ_CST); /* mutexes are not fair, and the thread takes its one again and again */
	pthread_mutex_lock(&a->lock);
	__atomic_fetch_sub(&a->wanted, 1, __ATOMIC_SEQ_CST);
}

void mem_ahead_release(struct mem *m)
{
	if (m->ahead)
		pthread_mutex_unlock(&m->ahead->lock);
}

static void give(struct mem_ahead *a, u64 p, u64 pages)
{
	u64 was = load(&a->piece[p]);
	while (!__atomic_compare_exchange_n(&a->piece[p], &was, (was & ~(pages | pages << CAME)) | pages << GIVEN, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	__atomic_fetch_sub(&a->ntouched, count_bits(was & pages), __ATOMIC_RELAXED);
	__atomic_fetch_sub(&a->nspare, count_bits((was >> CAME) & ~was & pages), __ATOMIC_RELAXED);
}

void mem_ahead_given(struct mem *m, u64 first, u64 n)
{
	struct mem_ahead *a = m->ahead;
	if (!a || !n)
		return;
	for (u64 at = first, end = first + n, next; at < end; at = next) {
		next = min_u64(end, align_down(at, PIECE) + PIECE);
		give(a, at / PIECE, low_mask((unsigned)(next - at)) << at % PIECE);
	}
	for (u64 k = first / CHUNK; k <= (first + n - 1) / CHUNK; k++)
		__atomic_store_n(&a->count[k], 0, __ATOMIC_RELAXED);
	__atomic_store_n(&a->owed, min_u64(load(&a->owed) + 2 * n, OWED_MOST), __ATOMIC_RELAXED);
}

static u64 piece_bytes(const struct mem *m) { return align_up(pieces(m) * sizeof(u64), PAGE_SIZE); }
static u64 count_bytes(const struct mem *m) { return align_up(chunks(m) * sizeof(u16), PAGE_SIZE); }

void mem_ahead_forget(struct mem *m)
{
	struct mem_ahead *a = m->ahead;
	if (!a)
		return;
	madvise(a->piece, piece_bytes(m), MADV_DONTNEED);
	madvise(a->count, count_bytes(m), MADV_DONTNEED);
	__atomic_store_n(&a->ntouched, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&a->nspare, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&a->owed, 0, __ATOMIC_RELAXED);
}

/* ---- start and stop ---- */

void mem_ahead_stats(const struct mem *m, struct mem_ahead_stats *s)
{
	const struct mem_ahead *a = m->ahead;
	*s = (struct mem_ahead_stats){ 0 };
	if (a)
		*s = (struct mem_ahead_stats){ load(&a->ntouched), load(&a->ncame), load(&a->nspare) };
}

static void *zeroes(u64 bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static void free_all(struct mem_ahead *a)
{
	if (a->piece)
		munmap(a->piece, piece_bytes(a->mem));
	if (a->count)
		munmap(a->count, count_bytes(a->mem));
	pthread_cond_destroy(&a->more);
	pthread_mutex_destroy(&a->queue_lock);
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
	pthread_mutex_init(&a->queue_lock, NULL);
	pthread_cond_init(&a->more, NULL);
	a->piece = zeroes(piece_bytes(m));
	a->count = zeroes(count_bytes(m));
	if (!a->piece || !a->count || pthread_create(&a->thread, NULL, run, a))
		free_all(a);
	else {
		m->touched = a->piece;
		m->ahead = a;
	}
}

void mem_ahead_stop(struct mem *m)
{
	struct mem_ahead *a = m->ahead;
	if (!a)
		return;
	pthread_mutex_lock(&a->queue_lock);
	__atomic_store_n(&a->stop, true, __ATOMIC_RELAXED);
	pthread_cond_signal(&a->more);
	pthread_mutex_unlock(&a->queue_lock);
	pthread_join(a->thread, NULL);
	m->ahead = NULL;
	m->touched = NULL;
	free_all(a);
}
