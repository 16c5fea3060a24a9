/* Three pages 8 MiB apart have one place in the bank that host code probes, and a place each aside. Code that goes from one to the next sees each as it is now: mapped
 * elsewhere, or no longer writable. */
#include "interp_rig.h"

#define DIRECTORY (AT_TABLES + 0x2000)
#define TABLE(n) (0x110000u + (n) * 0x1000u)
#define DATA(n) (0x120000u + (n) * 0x1000u)
#define PAGE_AT(n) ((u64)((n) + 1) * 8 * MiB)
#define ROUNDS 9000u

static void map(struct core *r, unsigned n, u64 entry)
{
	core_set(r, TABLE(n), 8, entry);
	mmu_invlpg(r->cpu, gva(PAGE_AT(n)));
}

static void open_pages(struct core *r)
{
	interp_open(r, CORE_LONG);
	core_set(r, DIRECTORY, 8, 0x87);
	core_set(r, AT_TABLES + 0x1000, 8, DIRECTORY | 7);
	for (unsigned n = 0; n < 3; n++) {
		core_set(r, DIRECTORY + 8 * (4 * (n + 1)), 8, TABLE(n) | 7);
		core_set(r, TABLE(n), 8, DATA(n) | 7);
	}
	for (unsigned n = 0; n < 4; n++)
		core_set(r, DATA(n), 8, 1u << (8 * n));
	assert_int_not_equal(cpu_set_cr3(r->cpu, AT_TABLES), STEP_FAULT);
	/* a: mov rax, [rsi]; add rdx, rax; inc qword ptr [rsi+8]; xchg rdi, rsi; xchg rbx, rdi; dec ecx; jz b; jmp r8; b: hlt. Not a region: those ask C. */
	interp_put(r, 0x22000, "488b06 4801c2 48ff4608 4887f7 4887fb ffc9 7403 41ffe0 f4");
}

static u64 run(struct core *r, unsigned rounds)
{
	u64 *g = r->cpu->arch.gpr;
	g[GPR_RSI] = PAGE_AT(0);
	g[GPR_RDI] = PAGE_AT(1);
	g[GPR_RBX] = PAGE_AT(2);
	g[GPR_RDX] = 0;
	g[GPR_R8] = 0x22000;
	g[GPR_RCX] = rounds;
	interp_go(r, 0x22000);
	return g[GPR_RDX];
}

static void remapped(void **state)
{
	struct core r;
	open_pages(&r);
	assert_int_equal(run(&r, 3 * ROUNDS), ROUNDS * 0x010101ull);
	for (unsigned n = 0; n < 3; n++)
		assert_int_equal(core_get(&r, DATA(n) + 8, 8), ROUNDS);
	map(&r, 1, DATA(3) | 7);
	assert_int_equal(run(&r, 3 * ROUNDS), ROUNDS * 0x01010001ull);
	assert_int_equal(core_get(&r, DATA(1) + 8, 8), ROUNDS);
	assert_int_equal(core_get(&r, DATA(3) + 8, 8), ROUNDS);
	assert_int_equal(core_get(&r, DATA(0) + 8, 8), 2 * ROUNDS);
	interp_close(&r);
}

static void read_only(void **state)
{
	for (unsigned n = 0; n < 3; n++) {
		struct core r;
		open_pages(&r);
		run(&r, 3 * ROUNDS);
		assert_int_not_equal(cpu_set_cr0(r.cpu, r.cpu->arch.cr0 | BIT(16)), STEP_FAULT); /* WP */
		map(&r, n, DATA(n) | 5);
		interp_catch(&r);
		run(&r, 3 * ROUNDS);
		assert_int_equal(interp_caught(&r), 14);
		assert_int_equal(r.cpu->arch.cr2, PAGE_AT(n) + 8);
		assert_int_equal(core_get(&r, DATA(n) + 8, 8), ROUNDS);
		assert_int_equal(r.cpu->arch.gpr[GPR_RCX], 3 * ROUNDS - n);
		interp_close(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(remapped), cmocka_unit_test(read_only) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
