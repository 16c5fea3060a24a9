/* Stores whose bytes lie in two pages that are neighbours for the guest only, and stores to a page with decoded code, from code that is hot: C does them, and host code goes on.
 * Values of every size, wherever the border is in them; in blocks and in a loop that is a region, where loads do the same; and the address of the fault. */
#include "interp_rig.h"
#include "jit/jit.h"

#include <stdlib.h>

#define DIRECTORY (AT_TABLES + 0x2000)
#define TABLE 0x110000u
#define DATA(n) (0x120000u + (n) * 0x2000u) /* not side by side */
#define BORDER (8 * MiB + 0x1000)
#define BORDER2 (8 * MiB + 0x3000)
#define ROUNDS 3000u

static struct core r;

static int open_pages(void **state)
{
	interp_open(&r, CORE_LONG);
	core_set(&r, DIRECTORY, 8, 0x87);
	core_set(&r, DIRECTORY + 8 * 4, 8, TABLE | 7);
	core_set(&r, AT_TABLES + 0x1000, 8, DIRECTORY | 7);
	for (unsigned page = 0; page < 4; page++)
		core_set(&r, TABLE + 8 * page, 8, DATA(page) | 7);
	assert_int_not_equal(cpu_set_cr3(r.cpu, AT_TABLES), STEP_FAULT);
	/* a: mov [rsi], rax; mov [rdi], bx; mov dword ptr [r9], 55667788h; mov [r10], cl; dec ecx; jz b; jmp r8; b: hlt. Not a region. */
	interp_put(&r, 0x22000, "488906 66891f 41c70188776655 41880a ffc9 7403 41ffe0 f4");
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	return 0;
}

static bool translates(void)
{
	const char *engine = getenv("NESTBOX_TEST_ENGINE");
	return engine && !strcmp(engine, "jit");
}

/* Where linear address la is. */
static u64 place(u64 la) { return DATA((la - 8 * MiB) >> 12) + (la & 0xfff); }
static void set(u64 la, unsigned size, u64 v)
{
	for (unsigned n = 0; n < size; n++)
		core_set(&r, place(la + n), 1, v >> (8 * n) & 0xff);
}
static u64 get(u64 la, unsigned size)
{
	u64 v = 0;
	for (unsigned n = 0; n < size; n++)
		v |= core_get(&r, place(la + n), 1) << (8 * n);
	return v;
}

static void start(u64 rsi, u64 rdi, u64 r9, u64 r10)
{
	u64 *g = r.cpu->arch.gpr;
	g[GPR_RAX] = 0x1122334455667788;
	g[GPR_RBX] = 0xffff99aa;
	g[GPR_RSI] = rsi;
	g[GPR_RDI] = rdi;
	g[GPR_R9] = r9;
	g[GPR_R10] = r10;
	g[GPR_R8] = 0x22000;
	g[GPR_RCX] = ROUNDS;
	interp_go(&r, 0x22000);
}

static void values(void **state)
{
	for (unsigned before = 1; before < 8; before++) {
		set(BORDER - 16, 8, 0);
		set(BORDER - 8, 8, 0);
		set(BORDER, 8, 0);
		start(BORDER - before, BORDER2 - 1, BORDER2 - 0x100, BORDER - 16);
		assert_int_equal(get(BORDER - before, 8), 0x1122334455667788);
		assert_int_equal(get(BORDER - before - 1, 1), 0);
		assert_int_equal(get(BORDER - before + 8, 1), 0);
		assert_int_equal(get(BORDER2 - 1, 2), 0x99aa);
		assert_int_equal(get(BORDER - 16, 1), 1);
	}
	for (unsigned before = 1; before < 4; before++) {
		start(BORDER - 0x100, BORDER - 0x80, BORDER2 - before, BORDER - 16);
		assert_int_equal(get(BORDER2 - before, 4), 0x55667788);
	}
	if (translates())
		assert_true(jit_of(r.cpu)->stats.stores > 5 * ROUNDS);
}

static void a_page_with_code(void **state)
{
	interp_put(&r, 0x50000, "ffc0 f4"); /* inc eax; hlt */
	interp_go(&r, 0x50000);
	start(0x50100, 0x50200, 0x50300, 0x50400);
	assert_int_equal(core_get(&r, 0x50100, 8), 0x1122334455667788);
	assert_int_equal(core_get(&r, 0x50200, 2), 0x99aa);
	assert_int_equal(core_get(&r, 0x50300, 4), 0x55667788);
	assert_int_equal(core_get(&r, 0x50400, 1), 1);
	assert_int_equal(mem_code_lines(&r.mem, 0x50), 1);
	start(0x50100, 0x50200, 0x50001, 0x50004);
	assert_int_equal(mem_code_lines(&r.mem, 0x50), 0);
	if (translates())
		assert_true(jit_of(r.cpu)->stats.stores > ROUNDS);
}

/* Several stores with one probe: a: mov [rsi], rax; mov [rsi + 8], rbx; mov [rsi + 16], ecx; dec ecx; jz b; jmp r8; b: hlt */
static void a_group_in_a_page_with_code(void **state)
{
	interp_put(&r, 0x22000, "488906 48895e08 894e10 ffc9 7403 41ffe0 f4");
	start(0x50100, 0, 0, 0);
	interp_put(&r, 0x50000, "ffc0 f4"); /* inc eax; hlt */
	for (unsigned turn = 0; turn < 2; turn++) {
		interp_go(&r, 0x50000);
		core_set(&r, 0x50100, 8, 0);
		core_set(&r, 0x50108, 8, 0);
		u64 stores = translates() ? jit_of(r.cpu)->stats.stores : 0;
		start(turn ? 0x50030 : 0x50100, 0, 0, 0);
		for (unsigned n = 0; n < 2; n++)
			assert_int_equal(core_get(&r, (turn ? 0x50030 : 0x50100) + 8 * n, 8), n ? 0xffff99aa : 0x1122334455667788);
		assert_int_equal(core_get(&r, (turn ? 0x50030 : 0x50100) + 16, 4), 1);
		assert_int_equal(mem_code_lines(&r.mem, 0x50), !turn);
		if (translates())
			assert_true(turn || jit_of(r.cpu)->stats.stores > stores + ROUNDS / 2);
	}
}

static void a_fault(void **state)
{
	for (unsigned turn = 0; turn < 2; turn++) {
		core_set(&r, TABLE + 8, 8, DATA(1) | 7);
		mmu_invlpg(r.cpu, gva(BORDER));
		set(BORDER - 8, 8, 0);
		start(BORDER - 3, BORDER2 - 0x80, BORDER2 - 0x40, BORDER2 - 0x20);
		set(BORDER - 8, 8, 0);
		core_set(&r, TABLE + 8, 8, turn ? DATA(1) | 5 : 0); /* read-only, with CR0.WP; or nothing */
		mmu_invlpg(r.cpu, gva(BORDER));
		assert_int_not_equal(cpu_set_cr0(r.cpu, r.cpu->arch.cr0 | BIT(16)), STEP_FAULT);
		interp_catch(&r);
		start(BORDER - 3, BORDER2 - 0x80, BORDER2 - 0x40, BORDER2 - 0x20);
		assert_int_equal(interp_caught(&r), 14);
		assert_int_equal(r.cpu->arch.cr2, BORDER);
		assert_int_equal(r.cpu->arch.gpr[GPR_RCX], ROUNDS);
		assert_int_equal(get(BORDER - 8, 8), 0);
	}
}

/* a: mov rax, [rsi]; add rax, 1; mov [rdi], rax; mov [r10], r9; add rsi, 24; add rdi, 24; dec ecx; jnz a; hlt */
static void in_a_region(void **state)
{
	unsigned slice = jit_slice, samples = jit_samples, n = 160;
	u64 *g = r.cpu->arch.gpr, from = BORDER2 - 24 * 70 - 3, to = BORDER - 24 * 90 - 5;
	jit_slice = 500;
	jit_samples = 1;
	interp_put(&r, 0x22000, "488b06 4883c001 488907 4d890a 4883c618 4883c718 ffc9 75e7 f4");
	for (unsigned k = 0; k < n; k++)
		set(from + 24 * k, 8, 0x0102030405060708ull * (k + 1));
	for (unsigned round = 0; round < 40; round++) {
		for (unsigned k = 0; k < n; k++)
			set(to + 24 * k, 8, 0);
		g[GPR_RSI] = from;
		g[GPR_RDI] = to;
		g[GPR_R10] = BORDER - 14;
		g[GPR_R9] = 0x1234567890 + round;
		g[GPR_RCX] = n;
		u64 before = r.cpu->icount;
		interp_go(&r, 0x22000);
		assert_int_equal(r.cpu->icount - before, 8 * n + 1);
		for (unsigned k = 0; k < n; k++)
			assert_int_equal(get(to + 24 * k, 8), 0x0102030405060708ull * (k + 1) + 1);
		assert_int_equal(get(BORDER - 14, 8), 0x1234567890 + round);
		assert_int_equal(g[GPR_R10], BORDER - 14);
		assert_int_equal(g[GPR_RDI], to + 24 * n);
	}
	jit_slice = slice;
	jit_samples = samples;
	if (translates()) {
		assert_true(jit_of(r.cpu)->stats.regions > 0);
		assert_true(jit_of(r.cpu)->stats.stores > 20);
		assert_true(jit_of(r.cpu)->hot->borders > 20);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(values, open_pages, close_it),
		cmocka_unit_test_setup_teardown(a_page_with_code, open_pages, close_it),
		cmocka_unit_test_setup_teardown(a_group_in_a_page_with_code, open_pages, close_it),
		cmocka_unit_test_setup_teardown(a_fault, open_pages, close_it),
		cmocka_unit_test_setup_teardown(in_a_region, open_pages, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
