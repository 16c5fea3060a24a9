/* interp/memo.c: a decoded instruction is found again by its bytes and its mode, whatever lies behind it, and never by others'. */
#include "interp/interp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static struct interp e;
static int open_it(void **state) { return memo_create(&e, 1); }
static int close_it(void **state) { memo_destroy(&e); return 0; }

static struct insn insn(unsigned len, u64 imm) { return (struct insn){ .len = (u8)len, .imm = imm, .base = GPR_ZERO, .index = GPR_ZERO }; }

static struct insn got;
static bool end, last;
static bool known(u32 mode, const u8 *bytes, unsigned avail) { return memo_find(&e, mode, bytes, avail, 40, &got, &end, &last); }

static void found_by_bytes_and_mode(void **state)
{
	const u8 mov[] = { 0x48, 0x89, 0xc8 }, behind[] = { 0x48, 0x89, 0xc8, 0x90, 0xff, 0xff, 0xff, 0xff }, other[] = { 0x48, 0x89, 0xc9, 0x90 };
	struct insn i = insn(3, 77);
	assert_false(known(5, behind, sizeof behind));
	memo_keep(&e, 5, mov, &i, false, false);
	assert_true(known(5, behind, sizeof behind));
	assert_int_equal(got.imm, 77);
	assert_int_equal(got.off, 40);
	assert_false(end || last);
	assert_true(known(5, mov, 3));
	assert_false(known(6, behind, sizeof behind)); /* DEC EAX; MOV EAX, ECX there */
	assert_false(known(5, behind, 2));             /* the page ends before */
	assert_false(known(5, other, sizeof other));
}

/* 1 to 8 bytes of which each is the beginning of the next, as no machine has them: the tables keep them apart. */
static void zeros_are_bytes_too(void **state)
{
	const u8 zeros[16] = { 0 };
	for (unsigned len = 8; len; len--) {
		struct insn i = insn(len, len);
		memo_keep(&e, 1, zeros, &i, false, false);
		assert_true(known(1, zeros, len));
		assert_int_equal(got.len, len);
	}
}

static void an_end_is_an_end(void **state)
{
	const u8 jz[] = { 0x74, 0x10 }, cli[] = { 0xfa };
	struct insn i = insn(2, 0x10), j = insn(1, 0);
	memo_keep(&e, 2, jz, &i, true, true);
	memo_keep(&e, 2, cli, &j, true, false);
	assert_true(known(2, jz, 2) && end && last);
	assert_int_equal(got.imm, 0x10);
	assert_int_equal(got.disp, 0);
	i.off = 7; /* chained: from the block's start */
	i.disp = 7 + 2;
	i.imm = 0x10 + 7 + 2;
	memo_keep(&e, 2, jz, &i, true, true);
	assert_true(known(2, jz, 2));
	assert_int_equal(got.disp, 40 + 2);
	assert_int_equal(got.imm, 0x10 + 40 + 2);
	assert_true(known(2, cli, 1) && end && !last);
}

static void a_distance_counts_from_where_it_is(void **state)
{
	const u8 lea[] = { 0x48, 0x8d, 0x05, 0xf0, 0xff, 0xff, 0x7f }, far[] = { 0x48, 0x8d, 0x05, 0x00, 0x01, 0x00, 0x00 };
	struct insn i = insn(7, 0);
	i.base = GPR_BLOCK_RIP;
	i.flags = INSN_RIPREL | INSN_MEM;
	i.asize = 8;
	i.off = 100;
	i.disp = 0x100 + 100 + 7;
	memo_keep(&e, 2, far, &i, false, false);
	assert_true(known(2, far, 7));
	assert_int_equal(got.disp, 0x100 + 40 + 7);
	i.off = 2;
	i.disp = 0x7ffffff0 + 2 + 7;
	memo_keep(&e, 2, lea, &i, false, false);
	assert_false(known(2, lea, 7)); /* beyond what a displacement holds, there */
	assert_true(memo_find(&e, 2, lea, 7, 8, &got, &end, &last));
	assert_int_equal(got.disp, 0x7fffffff);
}

static void what_is_too_long_or_none_is_not_kept(void **state)
{
	const u8 bytes[16] = { 0x0f, 0x01, 0x02, 0x03, 4, 5, 6, 7, 8, 9 };
	struct insn with[2] = { insn(9, 0), insn(0, 0) };
	for (unsigned n = 0; n < 2; n++)
		memo_keep(&e, 2, bytes, &with[n], false, false); /* one is too long, the other is none */
	assert_false(known(2, bytes, sizeof bytes));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(found_by_bytes_and_mode, open_it, close_it),
		cmocka_unit_test_setup_teardown(zeros_are_bytes_too, open_it, close_it),
		cmocka_unit_test_setup_teardown(an_end_is_an_end, open_it, close_it),
		cmocka_unit_test_setup_teardown(a_distance_counts_from_where_it_is, open_it, close_it),
		cmocka_unit_test_setup_teardown(what_is_too_long_or_none_is_not_kept, open_it, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
