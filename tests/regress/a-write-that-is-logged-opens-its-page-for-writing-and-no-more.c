/* nestbox checkpoint, an L2 that starts programs: when the dirty log had seen a page's first write, what banks have of it (by access class) became rights of it: to be
 * global, so that a flush for another program left it there, and to be executed. A WRPKRU hid it. */
#include "mmu_rig.h"

#define LA 0x401000ull

/* What happens to a page that host code has read, when it is written for the first time since the log was taken. */
static struct tlb_entry *read_and_write(struct rig *r, u64 flags, unsigned cls)
{
	struct cpu *c = r->cpu;
	assert_int_equal(mmu_banks_create(c), 0);
	rig_map(r, LA, 0x300000, flags | A | D, 12);
	mem_dirty_take(c->mem, NULL);
	mmu_flush_all(c);
	c->arch.cpl = cls == 2 ? 3 : 0;
	c->acc_class = (u8)cls;
	u64 v = 0;
	assert_true(mmu_read_slow(c, LA, 8, &v));
	struct tlb_entry *e = mmu_hit(c, LA, TLB_R(cls));
	assert_non_null(e);
	mmu_bank_fill(c, e);
	assert_null(mmu_hit(c, LA, TLB_W(cls)));
	assert_true(mmu_write_slow(c, LA, 8, 1));
	e = mmu_hit(c, LA, TLB_R(cls) | TLB_W(cls));
	assert_non_null(e);
	return e;
}

static void it_is_not_global(void **state)
{
	for (unsigned cls = 1; cls <= 2; cls++) {
		struct rig r;
		rig_open(&r, RIG_64);
		struct tlb_entry *e = read_and_write(&r, P | W | U, cls);
		assert_int_equal(e->perm & (TLB_GLOBAL | TLB_LARGE | TLB_HUGE | TLB_PKEY | TLB_IO | TLB_ROM), 0);
		mmu_flush_current(r.cpu, false);
		assert_null(mmu_hit(r.cpu, LA, 0));
		assert_true(mmu_bank(r.cpu)->e[(LA >> 12) & (TLB_ENTRIES - 1)].r != LA);
		rig_close(&r);
	}
}

static void it_is_not_code(void **state)
{
	for (unsigned cls = 0; cls <= 2; cls++) {
		struct rig r;
		rig_open(&r, RIG_64);
		r.cpu->arch.efer |= EFER_NXE;
		r.cpu->arch.cr4 |= cls == 0 ? CR4_SMAP : 0;
		mmu_switch(r.cpu);
		struct tlb_entry *e = read_and_write(&r, P | W | NX | (cls == 2 ? U : 0), cls);
		assert_int_equal(e->perm & (TLB_XS | TLB_XU), 0);
		rig_close(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(it_is_not_global), cmocka_unit_test(it_is_not_code) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
