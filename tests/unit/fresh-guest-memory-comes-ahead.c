/* mem/ahead.c: a part of a chunk was touched, so the host's memory for the rest of it comes; and what must never come. */
#include "mem/mem.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <time.h>
#include <cmocka.h>

#define CHUNK 512u
#define CHUNKS 32u

static struct mem m;

static unsigned resident(u64 chunk)
{
	unsigned char in[CHUNK];
	unsigned n = 0;
	assert_int_equal(mincore(m.base + chunk * CHUNK * PAGE_SIZE, sizeof in * PAGE_SIZE, in), 0);
	for (unsigned k = 0; k < CHUNK; k++)
		n += in[k] & 1;
	return n;
}

static void touch(u64 chunk, unsigned first, unsigned n)
{
	for (unsigned k = first; k < first + n; k++)
		mem_ahead_touch(&m, chunk * CHUNK + k);
}

/* As long as it takes: the test's own time limit ends it. */
static void wait_for(u64 chunk)
{
	while (resident(chunk) < CHUNK)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
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
	struct mem_ahead_stats s;
	if (!works())
		skip();
	touch(1, 0, 15);
	touch(3, 5, 16);
	wait_for(3);
	assert_int_equal(resident(1), 0); /* too little */
	assert_int_equal(resident(4), 0);
	touch(1, 0, 16); /* one more */
	wait_for(1);
	do {
		mem_ahead_stats(&m, &s);
	} while (s.came < 2 * CHUNK);
	assert_int_equal(s.touched, 32);
	assert_int_equal(s.spare, 2 * CHUNK - 32);
	touch(3, 0, CHUNK);
	mem_ahead_stats(&m, &s);
	assert_int_equal(s.spare, CHUNK - 16);
}

static void what_was_given_back_stays_away(void **state)
{
	struct mem_ahead_stats s;
	if (!works())
		skip();
	assert_int_equal(mem_discard(&m, gpa(2 * 2 * MiB + 5 * PAGE_SIZE), PAGE_SIZE), PAGE_SIZE);
	touch(2, 0, CHUNK);
	touch(3, 0, 16);
	wait_for(3); /* asked for later */
	assert_int_equal(resident(2), 0);
	assert_int_equal(mem_discard(&m, gpa(3 * 2 * MiB), 2 * MiB), 2 * MiB);
	mem_ahead_stats(&m, &s);
	assert_int_equal(s.spare, 0);
	touch(3, 0, CHUNK);
	touch(4, 0, 16);
	wait_for(4);
	assert_int_equal(resident(3), 0);
}

static void it_takes_little_more_than_is_used(void **state)
{
	struct mem_ahead_stats s;
	if (!works())
		skip();
	for (unsigned k = 0; k < CHUNKS; k++) {
		touch(k, 0, 16);
		mem_ahead_stats(&m, &s);
		assert_true(s.spare <= (8 * MiB + s.touched * PAGE_SIZE / 16) / PAGE_SIZE);
	}
	assert_true(s.spare > 0);
	touch(0, 0, CHUNK); /* came and is used: now others may */
	touch(CHUNKS - 1, 16, 16);
	wait_for(CHUNKS - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_rest_of_a_chunk_comes, open_it, close_it),
		cmocka_unit_test_setup_teardown(what_was_given_back_stays_away, open_it, close_it),
		cmocka_unit_test_setup_teardown(it_takes_little_more_than_is_used, open_it, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
