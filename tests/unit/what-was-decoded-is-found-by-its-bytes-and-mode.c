/* interp/memo.c: a decoded instruction is found again by its bytes and its mode, whatever lies behind it, and never by others'. */
#include "interp/interp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static struct interp e;
static int open_it(void **state) { return memo_create(&e); }
static int close_it(void **state) { memo_destroy(&e); return 0; }

static struct insn insn(unsigned len, u64 imm) { return (struct insn){ .len = (u8)len, .imm = imm, .base = GPR_ZERO, .index = GPR_ZERO }; }

static void found_by_bytes_and_mode(void **state)
{
	const u8 mov[] = { 0x48, 0x89, 0xc8 }, behind[] = { 0x48, 0x89, 0xc8, 0x90, 0xff, 0xff, 0xff, 0xff }, other[] = { 0x48, 0x89, 0xc9, 0x90 };
	struct insn i = insn(3, 77);
	assert_null(memo_find(&e, 5, behind, sizeof behind));
	memo_keep(&e, 5, mov, &i);
	assert_int_equal(memo_find(&e, 5, behind, sizeof behind)->imm, 77);
	assert_int_equal(memo_find(&e, 5, mov, 3)->imm, 77);
	assert_null(memo_find(&e, 6, behind, sizeof behind)); /* DEC EAX; MOV EAX, ECX there */
	assert_null(memo_find(&e, 5, behind, 2));             /* the page ends before */
	assert_null(memo_find(&e, 5, other, sizeof other));
}

/* 1 to 8 bytes of which each is the beginning of the next, as no machine has them: the tables keep them apart. */
static void zeros_are_bytes_too(void **state)
{
	const u8 zeros[16] = { 0 };
	for (unsigned len = 8; len; len--) {
		struct insn i = insn(len, len);
		memo_keep(&e, 1, zeros, &i);
		assert_int_equal(memo_find(&e, 1, zeros, len)->len, len);
	}
}

static void what_depends_on_more_is_not_kept(void **state)
{
	const u8 bytes[16] = { 0x0f, 0x01, 0x02, 0x03, 4, 5, 6, 7, 8, 9 };
	struct insn with[4] = { insn(3, 0), insn(4, 0), insn(5, 0), insn(9, 0) };
	with[0].aux = with;             /* its handler's own */
	with[1].flags = INSN_RIPREL;    /* where it is */
	with[2].base = GPR_BLOCK_RIP;
	for (unsigned n = 0; n < 4; n++)
		memo_keep(&e, 2, bytes, &with[n]); /* the last one is too long */
	assert_null(memo_find(&e, 2, bytes, sizeof bytes));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(found_by_bytes_and_mode, open_it, close_it),
		cmocka_unit_test_setup_teardown(zeros_are_bytes_too, open_it, close_it),
		cmocka_unit_test_setup_teardown(what_depends_on_more_is_not_kept, open_it, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
