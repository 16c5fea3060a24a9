/* The policy behind memory=MIN:START:MAX as a function. */
#include "vm/memory_policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void a_guest_that_is_short_gets_memory_at_once(void **state)
{
	u64 next = memory_policy_next(256 * MiB, 4 * GiB, GiB, 50 * MiB, 0);
	assert_true(next > GiB + 200 * MiB && next < GiB + 400 * MiB);
	/* what it aims at: a quarter available */
	u64 available = 50 * MiB + (next - GiB);
	assert_true(available * 100 / next >= 23 && available * 100 / next <= 26);
	assert_int_equal(memory_policy_next(256 * MiB, GiB + 100 * MiB, GiB, 50 * MiB, 0), GiB + 100 * MiB);
	/* A small one fills 15 % in less time than it takes to ask it again. */
	assert_true(memory_policy_next(256 * MiB, 4 * GiB, 300 * MiB, 60 * MiB, 60 * MiB) >= 340 * MiB);
}

static void a_guest_with_plenty_gives_back_slowly_and_stops(void **state)
{
	u64 size = 2 * GiB, used = 300 * MiB;
	assert_int_equal(memory_policy_next(256 * MiB, 2 * GiB, size, size - used, size - used), size - 64 * MiB);
	for (unsigned i = 0; i < 100; i++)
		size = memory_policy_next(256 * MiB, 2 * GiB, size, size - used, size - used);
	assert_true(size >= 400 * MiB && size <= 480 * MiB); /* where 25 to 35 % is available */
	assert_int_equal(memory_policy_next(256 * MiB, 2 * GiB, size, size - used, size - used), size);
}

static void a_guest_keeps_what_it_used_a_moment_ago(void **state)
{
	u64 size = 2 * GiB, used = 300 * MiB, before = 900 * MiB;
	for (unsigned i = 0; i < 100; i++)
		size = memory_policy_next(256 * MiB, 2 * GiB, size, size - used, size - before);
	assert_true(size >= before + 250 * MiB);
}

static void min_and_max_hold_whatever_the_guest_says(void **state)
{
	assert_int_equal(memory_policy_next(512 * MiB, GiB, 512 * MiB, 512 * MiB, 512 * MiB), 512 * MiB);
	assert_int_equal(memory_policy_next(512 * MiB, GiB, GiB, 0, 0), GiB);
	assert_int_equal(memory_policy_next(512 * MiB, GiB, GiB, ~0ull, ~0ull), GiB - 64 * MiB);
	assert_int_equal(memory_policy_next(512 * MiB, GiB, 0, 0, 0), 512 * MiB);
	assert_int_equal(memory_policy_next(32 * MiB, GiB, 40 * MiB, 40 * MiB, 40 * MiB), 112 * MiB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_that_is_short_gets_memory_at_once),
		cmocka_unit_test(a_guest_with_plenty_gives_back_slowly_and_stops),
		cmocka_unit_test(a_guest_keeps_what_it_used_a_moment_ago),
		cmocka_unit_test(min_and_max_hold_whatever_the_guest_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
