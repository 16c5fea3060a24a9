/* Three functions whose addresses have one place in the jump table that host code looks in, called in turn, by direct and by indirect calls. Each is found, the one that is there
 * now: a page mapped elsewhere, or other code. Translated, C is hardly asked. */
#include "interp_rig.h"
#include "jit/jit.h"

#include <stdlib.h>

#define DIRECTORY (AT_TABLES + 0x2000)
#define TABLE 0x110000u
#define FRAME(n) (0x120000u + (n) * 0x1000u)
#define FUNCTION(n) (8 * MiB + (n) * 0x2002u)
#define AT_LOOP 0x22000u
#define ROUNDS 9000u

static struct core r;

static void map(unsigned n, unsigned frame)
{
	core_set(&r, TABLE + 8 * 2 * n, 8, FRAME(frame) | 7);
	mmu_invlpg(r.cpu, gva(FUNCTION(n)));
}

static int open_it(void **state)
{
	static const char *const code[] = { "48ffc0 c3", "48ffc3 c3", "48ffc2 c3" }; /* inc rax; ret. inc rbx; ret. inc rdx; ret */
	interp_open(&r, CORE_LONG);
	core_set(&r, DIRECTORY, 8, 0x87);
	core_set(&r, DIRECTORY + 8 * 4, 8, TABLE | 7);
	core_set(&r, AT_TABLES + 0x1000, 8, DIRECTORY | 7);
	for (unsigned n = 0; n < 3; n++) {
		map(n, n);
		interp_put(&r, FRAME(n) + 2 * n, code[n]);
		assert_int_equal(mmu_jump_slot(FUNCTION(n)), mmu_jump_slot(FUNCTION(0)));
		assert_true(!n || mmu_jump_aside_slot(FUNCTION(n)) != mmu_jump_aside_slot(FUNCTION(n - 1)));
	}
	assert_int_not_equal(cpu_set_cr3(r.cpu, AT_TABLES), STEP_FAULT);
	/* call f0; call f1; call f2; call r8; call r9; call r10; dec ecx; jz end; jmp r11; end: hlt */
	for (unsigned n = 0; n < 3; n++) {
		core_set(&r, AT_LOOP + 5 * n, 1, 0xe8);
		core_set(&r, AT_LOOP + 5 * n + 1, 4, (u32)(FUNCTION(n) - (AT_LOOP + 5 * n + 5)));
	}
	interp_put(&r, AT_LOOP + 15, "41ffd0 41ffd1 41ffd2 ffc9 7403 41ffe3 f4");
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	return 0;
}

static void run(u64 rax, u64 rbx, u64 rdx)
{
	u64 *g = r.cpu->arch.gpr;
	g[GPR_RAX] = g[GPR_RBX] = g[GPR_RDX] = 0;
	for (unsigned n = 0; n < 3; n++)
		g[GPR_R8 + n] = FUNCTION(n);
	g[GPR_R11] = AT_LOOP;
	g[GPR_RCX] = ROUNDS;
	g[GPR_RSP] = AT_STACK0;
	interp_go(&r, AT_LOOP);
	assert_int_equal(g[GPR_RAX], rax * ROUNDS);
	assert_int_equal(g[GPR_RBX], rbx * ROUNDS);
	assert_int_equal(g[GPR_RDX], rdx * ROUNDS);
	assert_int_equal(g[GPR_RSP], AT_STACK0);
}

static void in_turn(void **state)
{
	const char *engine = getenv("NESTBOX_TEST_ENGINE");
	run(2, 2, 2);
	if (engine && !strcmp(engine, "jit"))
		assert_in_range(jit_of(r.cpu)->stats.jumps, 1, ROUNDS / 10);
}

static void mapped_elsewhere(void **state)
{
	run(2, 2, 2);
	interp_put(&r, FRAME(3) + 2, "4883c310 c3"); /* add rbx, 16 */
	map(1, 3);
	run(2, 32, 2);
	map(1, 1);
	run(2, 2, 2);
}

static void other_code(void **state)
{
	for (unsigned n = 0; n < 3; n++) {
		static const u8 inc[] = { 0xc0, 0xc3, 0xc2 };
		run(2, 2, 2);
		core_set(&r, FRAME(n) + 2 * n + 2, 1, inc[n] | 8); /* dec */
		run(n == 0 ? (u64)-2 : 2, n == 1 ? (u64)-2 : 2, n == 2 ? (u64)-2 : 2);
		core_set(&r, FRAME(n) + 2 * n + 2, 1, inc[n]);
	}
}

/* MOV to CR3 drops what is known, aside too. */
static void flushed(void **state)
{
	run(2, 2, 2);
	assert_int_not_equal(cpu_set_cr3(r.cpu, AT_TABLES), STEP_FAULT);
	run(2, 2, 2);
	interp_put(&r, FRAME(3) + 4, "4883c220 c3"); /* add rdx, 32 */
	core_set(&r, TABLE + 8 * 4, 8, FRAME(3) | 7);
	assert_int_not_equal(cpu_set_cr3(r.cpu, AT_TABLES), STEP_FAULT);
	run(2, 2, 64);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(in_turn, open_it, close_it),
		cmocka_unit_test_setup_teardown(mapped_elsewhere, open_it, close_it),
		cmocka_unit_test_setup_teardown(other_code, open_it, close_it),
		cmocka_unit_test_setup_teardown(flushed, open_it, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
