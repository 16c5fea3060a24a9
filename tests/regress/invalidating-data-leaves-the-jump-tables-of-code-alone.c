/* bench/run --smp, two vCPUs that take page faults: when a program's pages happened to meet the kernel's in the filter of pages that a jump table knows, each
 * INVLPG of one of them emptied the table; such a boot was up to four times slower than others. The same with the filter of
 * large pages. */
#include "mmu_rig.h"

#define CODE 0xffffffff81000000ull
#define CODE_PAGES 400u /* of a kernel's text, that is run */

static void run_code(struct rig *r)
{
	static u8 code;
	for (unsigned n = 0; n < CODE_PAGES; n++)
		mmu_bank_jump(r->cpu, CODE + n * PAGE_SIZE + 16 * n, &code);
}

static struct tlb_bank *open_with_code(struct rig *r)
{
	rig_open(r, RIG_64);
	assert_int_equal(mmu_banks_create(r->cpu), 0);
	run_code(r);
	return mmu_bank(r->cpu);
}

static bool knows(const struct tlb_bank *b, unsigned n)
{
	u64 rip = CODE + n * PAGE_SIZE + 16 * n;
	return b->jump[mmu_jump_slot(rip)].rip == rip;
}

/* Wherever a program's MiB lies. */
static void data_pages(void **state)
{
	struct rig r;
	struct tlb_bank *b = open_with_code(&r);
	assert_true(knows(b, CODE_PAGES - 1));
	u32 gen = r.cpu->tlb->jump_gen;
	for (u64 la = 0x7f0000000000; la < 0x7f0004000000; la += PAGE_SIZE) {
		mmu_invlpg(r.cpu, gva(la));
		if (!knows(b, 0))
			run_code(&r);
	}
	assert_in_range(r.cpu->tlb->emptied.by_page, 0, 8); /* of 16384 */
	assert_in_range(r.cpu->tlb->jump_gen - gen, 0, 8);
	rig_close(&r);
}

/* A kernel sees all memory through large pages; a program's small pages lie in none of them. */
static void data_beside_large_pages(void **state)
{
	struct rig r;
	struct tlb_bank *b = open_with_code(&r);
	for (u64 n = 0; n < 128; n++) {
		u64 la = 0xffff888000000000 + n * 4 * MiB;
		rig_map(&r, la, 0x200000, P | W, 21);
		rig_expect_ok(&r, la, ACC_R);
	}
	for (u64 n = 0; n < 4096; n++) {
		mmu_invlpg(r.cpu, gva(0x7f0000000000 + n * 4 * MiB));
		if (!knows(b, 0))
			run_code(&r);
	}
	assert_in_range(r.cpu->tlb->emptied.by_flush, 0, 8); /* of 4096 */
	mmu_invlpg(r.cpu, gva(0xffff888000000000 + 4 * MiB + 0x5000));
	assert_false(mmu_hit(r.cpu, 0xffff888000000000 + 4 * MiB, TLB_R(1)));
	assert_false(knows(b, 0));
	rig_close(&r);
}

static void code_pages(void **state)
{
	for (unsigned n = 0; n < CODE_PAGES; n += 7) {
		struct rig r;
		struct tlb_bank *b = open_with_code(&r);
		u32 gen = r.cpu->tlb->jump_gen;
		mmu_invlpg(r.cpu, gva(CODE + n * PAGE_SIZE + 0x123));
		assert_false(knows(b, n));
		assert_true(r.cpu->tlb->jump_gen != gen);
		rig_close(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(data_pages), cmocka_unit_test(data_beside_large_pages), cmocka_unit_test(code_pages) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
