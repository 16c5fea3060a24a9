/* A load whose bytes lie in two pages that are neighbours for the guest only, from code that is hot: values of every size, wherever the border is in them, what the second page
 * is mapped to now, and the address of the fault when it is not. */
#include "interp_rig.h"
#include "jit/jit.h"

#include <stdlib.h>

#define DIRECTORY (AT_TABLES + 0x2000)
#define TABLE 0x110000u
#define TABLE_BELOW 0x111000u
#define DATA(n) (0x120000u + (n) * 0x2000u) /* not side by side */
#define BORDER (8 * MiB + 0x1000)
#define COPY 0x130000u
#define ROUNDS 3000u

static void map(struct core *r, unsigned page, u64 entry)
{
	core_set(r, TABLE + 8 * page, 8, entry);
	mmu_invlpg(r->cpu, gva(8 * MiB + page * 0x1000));
}

static void open_pages(struct core *r)
{
	interp_open(r, CORE_LONG);
	core_set(r, DIRECTORY, 8, 0x87);
	core_set(r, DIRECTORY + 8 * 4, 8, TABLE | 7);
	core_set(r, AT_TABLES + 0x1000, 8, DIRECTORY | 7);
	for (unsigned page = 0; page < 2; page++)
		core_set(r, TABLE + 8 * page, 8, DATA(page) | 7);
	for (unsigned n = 0; n < 32; n++) {
		core_set(r, DATA(0) + 0x1000 - 32 + n, 1, 0x40 + n);
		core_set(r, DATA(1) + n, 1, 0x60 + n);
		core_set(r, DATA(2) + n, 1, 0xa0 + n);
	}
	assert_int_not_equal(cpu_set_cr3(r->cpu, AT_TABLES), STEP_FAULT);
	assert_int_not_equal(cpu_set_cr4(r->cpu, CR4_PAE | CR4_OSFXSR), STEP_FAULT);
	/* a: mov rax, [rsi]; movzx ebx, word ptr [rdi]; movups xmm1, [r9]; movups [r10], xmm1; dec ecx; jz b; jmp r8; b: hlt. Not a region. */
	interp_put(r, 0x22000, "488b06 0fb71f 410f1009 410f110a ffc9 7403 41ffe0 f4");
}

static void run(struct core *r, u64 border, unsigned before)
{
	u64 *g = r->cpu->arch.gpr;
	g[GPR_RSI] = border - before;
	g[GPR_RDI] = border - 1;
	g[GPR_R9] = border - 2 * before;
	g[GPR_R10] = COPY;
	g[GPR_R8] = 0x22000;
	g[GPR_RCX] = ROUNDS;
	interp_go(r, 0x22000);
}

/* What `size` bytes from `before` the border are, when the second page has bytes from `second` on. */
static u64 expected(unsigned size, unsigned before, u64 second)
{
	u64 v = 0;
	for (unsigned n = 0; n < size; n++)
		v |= (n < before ? 0x60 - before + n : second + n - before) << (8 * n);
	return v;
}

static void values(void **state)
{
	struct core r;
	open_pages(&r);
	for (unsigned turn = 0; turn < 2; turn++) {
		u64 second = turn ? 0xa0 : 0x60;
		map(&r, 1, DATA(turn + 1) | 7);
		for (unsigned before = 1; before < 8; before++) {
			run(&r, BORDER, before);
			assert_int_equal(r.cpu->arch.gpr[GPR_RAX], expected(8, before, second));
			assert_int_equal(r.cpu->arch.gpr[GPR_RBX], expected(2, 1, second));
			assert_int_equal(core_get(&r, COPY, 8), expected(8, 2 * before, second));
			assert_int_equal(core_get(&r, COPY + 8, 8), 2 * before < 8 ? expected(8, 0, second + 8 - 2 * before) : expected(8, 2 * before - 8, second));
		}
	}
	const char *engine = getenv("NESTBOX_TEST_ENGINE");
	if (engine && !strcmp(engine, "jit"))
		assert_true(jit_of(r.cpu)->hot->borders > 14 * 3 * (ROUNDS - 100));
	interp_close(&r);
}

/* The first page has the last place in a bank, the second one the first. */
static void at_the_banks_end(void **state)
{
	struct core r;
	_Static_assert((8 * MiB / PAGE_SIZE) % TLB_ENTRIES == 0, "the second page");
	open_pages(&r);
	core_set(&r, DIRECTORY + 8 * 3, 8, TABLE_BELOW | 7);
	core_set(&r, TABLE_BELOW + 8 * 511, 8, DATA(3) | 7);
	for (unsigned n = 0; n < 32; n++) {
		core_set(&r, DATA(3) + 0x1000 - 32 + n, 1, 0x40 + n);
		core_set(&r, DATA(0) + n, 1, 0xc0 + n);
	}
	for (unsigned before = 1; before < 8; before++) {
		run(&r, 8 * MiB, before);
		assert_int_equal(r.cpu->arch.gpr[GPR_RAX], expected(8, before, 0xc0));
		assert_int_equal(r.cpu->arch.gpr[GPR_RBX], expected(2, 1, 0xc0));
		assert_int_equal(core_get(&r, COPY, 8), expected(8, 2 * before, 0xc0));
	}
	interp_close(&r);
}

static void faults(void **state)
{
	for (unsigned page = 0; page < 2; page++) {
		struct core r;
		open_pages(&r);
		run(&r, BORDER, 3);
		map(&r, page, DATA(page));
		interp_catch(&r);
		run(&r, BORDER, 3);
		assert_int_equal(interp_caught(&r), 14);
		assert_int_equal(r.cpu->arch.cr2, page ? BORDER : BORDER - 3);
		assert_int_equal(r.cpu->arch.gpr[GPR_RCX], ROUNDS);
		interp_close(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(values), cmocka_unit_test(at_the_banks_end), cmocka_unit_test(faults) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
