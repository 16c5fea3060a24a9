/* mem/ahead.c: a part of a chunk was touched, so the host's memory for the rest of it comes, and the next one's in a row; and what must never come, whoever is at work meanwhile.
 * Pages are touched here without being written, so what is resident came ahead. No touch here is of a piece as a whole where its pages shall come: they need not. */
#include "mem/mem.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define CHUNK 512u
#define PIECE MEM_AHEAD_PIECE
#define CHUNKS 32u
#define LEAST (4 * MiB / PAGE_SIZE) /* what may come before much was touched */

static struct mem m;

static unsigned resident_pages(u64 first, unsigned n)
{
	unsigned char in[CHUNK];
	unsigned count = 0;
	assert_int_equal(mincore(m.base + first * PAGE_SIZE, n * PAGE_SIZE, in), 0);
	for (unsigned k = 0; k < n; k++)
		count += in[k] & 1;
	return count;
}
static unsigned resident(u64 chunk) { return resident_pages(chunk * CHUNK, CHUNK); }

static void touch(u64 chunk, unsigned first, unsigned n)
{
	for (unsigned k = first; k < first + n; k++)
		mem_ahead_touch(&m, chunk * CHUNK + k);
}
static u64 give_back(u64 chunk, unsigned first, unsigned n) { return mem_discard(&m, gpa((chunk * CHUNK + first) * PAGE_SIZE), n * PAGE_SIZE) / PAGE_SIZE; }

static void pause_us(unsigned us) { nanosleep(&(struct timespec){ .tv_nsec = us * 1000 }, NULL); }

/* As long as it takes: the test's own time limit ends it. */
static void wait_for(u64 chunk)
{
	while (resident(chunk) < CHUNK)
		pause_us(1000);
}

static struct mem_ahead_stats stats(void)
{
	struct mem_ahead_stats s;
	mem_ahead_stats(&m, &s);
	return s;
}

static void nothing_is_there(void)
{
	for (u64 k = 0; k < CHUNKS; k++)
		assert_int_equal(resident(k), 0);
	assert_int_equal(stats().spare + stats().touched, 0);
}

static int open_it(void **state)
{
	assert_int_equal(mem_init(&m, CHUNKS * 2 * MiB), 0);
	assert_int_equal(mem_add_slot(&m, gpa(0), CHUNKS * 2 * MiB, MEM_RAM, "ram"), 0);
	mem_ahead_start(&m);
	return 0;
}
static int close_it(void **state) { mem_free(&m); return 0; }

static bool works(void)
{
	cpu_set_t cpus;
	static u8 page[PAGE_SIZE] __attribute__((aligned(4096)));
	return !sched_getaffinity(0, sizeof cpus, &cpus) && CPU_COUNT(&cpus) > 1 && !madvise(page, sizeof page, 23 /* MADV_POPULATE_WRITE */);
}

static void the_rest_of_a_chunk_comes(void **state)
{
	if (!works())
		skip();
	touch(1, 5, 15);
	touch(3, 5, 16);
	wait_for(3);
	assert_int_equal(resident(1), 0); /* too little */
	assert_int_equal(resident(4), 0);
	touch(1, 5, 16); /* one more */
	wait_for(1);
	while (stats().came < 2 * CHUNK - 32)
		pause_us(100);
	assert_int_equal(stats().came, 2 * CHUNK - 32);
	assert_int_equal(stats().spare, 2 * CHUNK - 32);
	assert_int_equal(stats().touched, 32);
	touch(3, 0, CHUNK);
	assert_int_equal(stats().spare, CHUNK - 16);
}

static void the_next_chunk_comes(u64 before, u64 used, u64 next)
{
	touch(before, 5, 16);
	wait_for(before);
	assert_int_equal(resident(used), 0);
	touch(before, 0, CHUNK); /* else too much lies unused */
	touch(used, 5, 16);
	wait_for(next);
	pause_us(1000);
	for (unsigned k = 0; k < CHUNKS; k++)
		assert_int_equal(resident(k), k == before || k == used || k == next ? CHUNK : 0);
}

static void the_next_chunk_of_those_in_a_row_comes(void **state)
{
	if (!works())
		skip();
	the_next_chunk_comes(5, 6, 7);
	close_it(state);
	open_it(state);
	the_next_chunk_comes(20, 19, 18);
	close_it(state);
	open_it(state);
	touch(CHUNKS - 2, 5, 16); /* there is none behind the last, and none before the first */
	touch(CHUNKS - 1, 5, 16);
	wait_for(CHUNKS - 1);
	close_it(state);
	open_it(state);
	touch(1, 5, 16);
	touch(0, 5, 16);
	wait_for(0);
}

static void what_was_given_back_stays_away(void **state)
{
	if (!works())
		skip();
	assert_int_equal(give_back(2, 5, 1), 1);
	touch(2, PIECE + 5, 2 + 16); /* two are owed for it */
	while (resident(2) < CHUNK - PIECE)
		pause_us(1000);
	touch(8, 5, 16);
	wait_for(8); /* asked for later */
	assert_int_equal(resident_pages(2 * CHUNK, PIECE), 0);
	assert_int_equal(give_back(8, 0, CHUNK), CHUNK);
	assert_int_equal(resident(8), 0);
	touch(8, 5, 300);
	touch(10, 0, CHUNK);
	touch(12, 0, 2 * CHUNK - 300 - CHUNK); /* now it owes nothing */
	touch(8, 305, 32);
	touch(14, 5, 16);
	wait_for(14);
	assert_int_equal(resident_pages(8 * CHUNK, PIECE) + resident_pages(9 * CHUNK - 11 * PIECE, 11 * PIECE), 0); /* where it has not touched all again */
	touch(14, 0, CHUNK);
	assert_int_equal(give_back(16, 5, 1), 1);
	touch(16, 5, 18);
	wait_for(16); /* it has */
}

static void who_gives_back_gets_nothing_ahead(void **state)
{
	if (!works())
		skip();
	touch(24, 5, 16);
	touch(26, 5, 16); /* comes next */
	while (!stats().came)
		;
	assert_int_equal(give_back(31, 0, CHUNK), CHUNK);
	u64 came = stats().came; /* while chunk 24 was under way */
	for (unsigned k = 0; k < 2 * CHUNK / 64; k++)
		touch(k, 0, 64 - !k);
	pause_us(2000);
	assert_int_equal(stats().came, came);
	for (unsigned k = 0; k < 2 * CHUNK / 64; k++)
		assert_int_equal(resident(k), 0);
	touch(1, 64, 1);
	touch(24, 0, CHUNK); /* what came of these is no spare now */
	touch(26, 0, CHUNK);
	touch(20, 5, 16);
	wait_for(20);
}

static void it_takes_little_more_than_is_used(void **state)
{
	if (!works())
		skip();
	for (unsigned k = 0; k < CHUNKS; k += 2) {
		touch(k, 5, 16);
		pause_us(500);
		struct mem_ahead_stats s = stats();
		assert_true(s.spare <= LEAST + s.touched / 32);
	}
	while (stats().came < LEAST - PIECE)
		pause_us(1000);
	pause_us(5000);
	assert_true(stats().spare <= LEAST + CHUNKS / 2 * 16 / 32);
	touch(0, 0, CHUNK); /* came and is used: now others may */
	for (unsigned k = 41; resident(CHUNKS - 2) < CHUNK && k < CHUNK; k += 2) {
		touch(CHUNKS - 2, k, 1);
		pause_us(2000);
	}
	assert_int_equal(resident(CHUNKS - 2), CHUNK);
}

/* The chunk is given back while its pieces come: at another moment in each round. */
static void nothing_comes_that_is_given_back_meanwhile(void **state)
{
	if (!works())
		skip();
	for (unsigned round = 0; round < 100; round++) {
		u64 chunk = round % CHUNKS;
		touch(chunk, 5, 16);
		while (!stats().came)
			;
		pause_us(round * 10);
		unsigned first = round % 3 * 100, n = round % 2 ? CHUNK - first : 200;
		assert_int_equal(give_back(chunk, first, n), n);
		assert_int_equal(resident_pages(chunk * CHUNK + first, n), 0);
		pause_us(500);
		assert_int_equal(resident_pages(chunk * CHUNK + first, n), 0);
		mem_ahead_stop(&m); /* what is under way ends */
		assert_int_equal(resident_pages(chunk * CHUNK + first, n), 0);
		give_back(chunk, 0, CHUNK);
		mem_ahead_start(&m);
	}
}

static bool stop; /* atomic */

static void *gives_back(void *opaque)
{
	unsigned seed = 1;
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		give_back((u64)rand_r(&seed) % CHUNKS, (unsigned)rand_r(&seed) % (CHUNK - 8), 8);
		pause_us(50);
	}
	return NULL;
}

static void *touches(void *opaque)
{
	unsigned seed = (unsigned)(uintptr_t)opaque;
	for (unsigned k = 0; k < 20000; k++) {
		touch((u64)rand_r(&seed) % CHUNKS, (unsigned)rand_r(&seed) % (CHUNK - 24), 24);
		if (k % 16 == 0)
			pause_us(10);
	}
	return NULL;
}

static void counts_are_exact_whoever_is_at_work(void **state)
{
	pthread_t giver, toucher[2];
	if (!works())
		skip();
	assert_int_equal(pthread_create(&giver, NULL, gives_back, NULL), 0);
	for (uintptr_t k = 0; k < 2; k++)
		assert_int_equal(pthread_create(&toucher[k], NULL, touches, (void *)(k + 2)), 0);
	for (unsigned k = 0; k < 2; k++)
		pthread_join(toucher[k], NULL);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(giver, NULL);
	for (unsigned k = 0; k < CHUNKS; k++)
		assert_int_equal(give_back(k, 0, CHUNK), CHUNK);
	assert_true(stats().came > 0);
	nothing_is_there();
}

static int image_of_ones(void)
{
	static u8 ones[2 * MiB];
	int fd = memfd_create("image", 0);
	memset(ones, 1, sizeof ones);
	assert_true(fd >= 0);
	for (unsigned k = 0; k < CHUNKS; k++)
		assert_int_equal(pwrite(fd, ones, sizeof ones, k * 2 * MiB), sizeof ones);
	return fd;
}

/* Populating an image that others share would copy it, before they have filled it in. */
static void nothing_comes_of_memory_that_became_another(void **state)
{
	if (!works())
		skip();
	for (unsigned round = 0; round < 20; round++) {
		u64 chunk = round % CHUNKS, before = stats().came, end = CHUNKS * 2 * MiB, n = 0;
		int fd = image_of_ones();
		touch(chunk, 5, 16);
		touch((chunk + 4) % CHUNKS, 5, 16); /* comes next */
		for (unsigned k = 21; stats().came == before && k < CHUNK; k++) {
			touch(chunk, k, 1);
			pause_us(10);
		}
		pause_us(round * 30);
		assert_int_equal(mem_map_private(&m, fd), 0);
		touch((chunk + 4) % CHUNKS, 5, 16);
		pause_us(500);
		assert_int_equal(fallocate(m.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)end), 0); /* copies would still be ones */
		for (u64 at = 0; at < end; at += PAGE_SIZE)
			n += m.base[at];
		assert_int_equal(n, 0);
		touch(chunk, 0, CHUNK);
		pause_us(500);
		assert_int_equal(stats().spare, 0);
		assert_int_equal(mem_clear(&m), 0);
		pause_us(500);
		nothing_is_there();
		touch(chunk, 5, 16);
		touch((chunk + 4) % CHUNKS, 5, 16);
		pause_us(round * 30);
		assert_int_equal(mem_clear(&m), 0);
		pause_us(500);
		nothing_is_there();
	}
}

/* The host has no memory: here, because the file ends. */
static void a_host_without_memory_ends_it(void **state)
{
	if (!works())
		skip();
	assert_int_equal(ftruncate(m.memfd, 4 * 2 * MiB), 0);
	touch(8, 5, 16);
	pause_us(2000);
	touch(2, 5, 300);
	pause_us(2000);
	mem_ahead_stop(&m);
	assert_int_equal(resident(2), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_rest_of_a_chunk_comes, open_it, close_it),
		cmocka_unit_test_setup_teardown(the_next_chunk_of_those_in_a_row_comes, open_it, close_it),
		cmocka_unit_test_setup_teardown(what_was_given_back_stays_away, open_it, close_it),
		cmocka_unit_test_setup_teardown(who_gives_back_gets_nothing_ahead, open_it, close_it),
		cmocka_unit_test_setup_teardown(it_takes_little_more_than_is_used, open_it, close_it),
		cmocka_unit_test_setup_teardown(nothing_comes_that_is_given_back_meanwhile, open_it, close_it),
		cmocka_unit_test_setup_teardown(counts_are_exact_whoever_is_at_work, open_it, close_it),
		cmocka_unit_test_setup_teardown(nothing_comes_of_memory_that_became_another, open_it, close_it),
		cmocka_unit_test_setup_teardown(a_host_without_memory_ends_it, open_it, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
