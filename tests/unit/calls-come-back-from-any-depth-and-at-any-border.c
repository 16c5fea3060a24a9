/* Returns of translated code, whose addresses are on the host's stack too: of a recursion deeper than what is kept of them, of a CALL that ends its page when nothing is translated
 * behind it, and of calls in a row that go forward only. */
#include "interp_rig.h"

extern unsigned jit_hot;

#define STACK 0x1f0000u
#define PAGE 0x22000u
#define CHAIN 0x100000u
#define CALLS 30000u /* of 5 bytes */
#define NEXT "0fa2 0fa2 c3" /* two CPUIDs and a RET: never worth to be translated */

static void recursion(void **state)
{
	struct core r;
	interp_open(&r, CORE_LONG);
	/* main: call f; hlt. f: add rax, rcx; dec ecx; jz out; call f; inc ebx; out: ret */
	interp_put(&r, PAGE, "e80b000000 f4");
	interp_put(&r, PAGE + 0x10, "4801c8 ffc9 7407 e8f4ffffff ffc3 c3");
	for (u64 depth = 1; depth <= 100000; depth *= 10)
		for (unsigned turn = 0; turn < 3; turn++) {
			u64 *g = r.cpu->arch.gpr, before = r.cpu->icount;
			g[GPR_RSP] = STACK;
			g[GPR_RAX] = g[GPR_RBX] = 0;
			g[GPR_RCX] = depth;
			interp_go(&r, PAGE);
			assert_int_equal(g[GPR_RAX], depth * (depth + 1) / 2);
			assert_int_equal(g[GPR_RBX], depth - 1);
			assert_int_equal(g[GPR_RSP], STACK);
			assert_int_equal(r.cpu->icount - before, 6 * depth);
		}
	interp_close(&r);
}

static void at_the_end_of_a_page(void **state)
{
	unsigned hot = jit_hot;
	struct core r;
	interp_open(&r, CORE_LONG);
	jit_hot = 2;
	/* main: call a; inc r12; dec r13; jnz main; hlt. a: call b; ret. b: jmp to the end of the page, where it calls c; and NEXT. c: ret */
	interp_put(&r, PAGE, "e80b000000 49ffc4 49ffcd 75f3 f4");
	interp_put(&r, PAGE + 0x10, "e80b000000 c3");
	interp_put(&r, PAGE + 0x20, "e9d60f0000");
	interp_put(&r, PAGE + 0x30, "c3");
	interp_put(&r, PAGE + 0xffb, "e830f0ffff");
	interp_put(&r, PAGE + 0x1000, NEXT);
	u64 *g = r.cpu->arch.gpr;
	g[GPR_RSP] = STACK;
	g[GPR_R12] = 0;
	g[GPR_R13] = 500;
	interp_go(&r, PAGE);
	assert_int_equal(g[GPR_R12], 500);
	assert_int_equal(g[GPR_RSP], STACK);
	jit_hot = hot;
	interp_close(&r);
}

/* CALL to what follows it: the host's stack must not grow for ever, nor may an interrupt have to wait. */
static void forward(void **state)
{
	struct core r;
	interp_open(&r, CORE_LONG);
	for (unsigned n = 0; n < CALLS; n++)
		interp_put(&r, CHAIN + 5 * n, "e800000000");
	interp_put(&r, CHAIN + 5 * CALLS, "f4");
	u64 *g = r.cpu->arch.gpr;
	for (unsigned turn = 0; turn < 3; turn++) {
		g[GPR_RSP] = STACK;
		interp_go(&r, CHAIN);
		assert_int_equal(g[GPR_RSP], STACK - 8 * CALLS);
		assert_int_equal(core_get(&r, STACK - 8 * CALLS, 8), CHAIN + 5 * CALLS);
	}
	interp_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(recursion), cmocka_unit_test(at_the_end_of_a_page), cmocka_unit_test(forward) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
