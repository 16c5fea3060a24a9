/* Guest page tables inside a nested table (EPT): addresses, rights, order of faults, flags, and what is cached. The
 * nested table here is an offset with settable holes. */
#include "mmu_rig.h"

#define LA 0x7f1234567000ull
#define PA 0x200000ull    /* guest-physical */
#define OFFSET 0x400000ull /* L1-physical minus guest-physical */

static struct {
	u64 deny_page;  /* l2gpa */
	u32 deny_acc;
	bool no_dirty, no_x, no_xu;
	unsigned walks;
	u64 last_at;
	u32 last_acc;
	enum npt_use last_use;
	bool last_la_valid;
	u64 last_la;
	u64 root;
} npt;

static bool npt_walk(struct cpu *c, l2gpa_t at, u32 acc, enum npt_use use, bool la_valid, gva_t la,
	struct npt_page *out)
{
	npt.walks++;
	npt.last_at = at.v;
	npt.last_acc = acc;
	npt.last_use = use;
	npt.last_la_valid = la_valid;
	npt.last_la = la.v;
	bool denied = (at.v & PAGE_MASK) == npt.deny_page;
	if (denied && (acc & npt.deny_acc)) {
		c->fault = (struct event){ .kind = EVENT_VIRT };
		return false;
	}
	u32 rights = denied ? ~npt.deny_acc : ~0u;
	*out = (struct npt_page){ .gpa = at.v + OFFSET, .size = PAGE_SIZE, .r = rights & ACC_R, .w = rights & ACC_W,
				  .x = !npt.no_x && (rights & ACC_X), .xu = !npt.no_xu && (rights & ACC_X),
				  .dirty_ok = !npt.no_dirty || (acc & ACC_W) };
	return true;
}
static bool npt_enabled(const struct cpu *c) { return true; }
static u64 no_page(const struct cpu *c) { return ~0ull; }
static void tag(const struct cpu *c, u16 *v, u64 *root) { *v = 1; *root = npt.root; }
static const struct virt_ops ops = { .npt_walk = npt_walk, .npt_enabled = npt_enabled,
	.apic_access_page = no_page, .tlb_tag = tag };

/* The tables are built at L1-physical T and used at guest-physical T - OFFSET. */
static u64 open_nested(struct rig *r, u64 flags)
{
	rig_open(r, RIG_64);
	memset(&npt, 0, sizeof npt);
	npt.root = 0x1000;
	npt.deny_page = ~0ull;
	u64 leaf = rig_map(r, LA, PA, flags, 12);
	u64 at[4];
	for (unsigned level = 1; level < 4; level++)
		at[level] = rig_entry(r, LA, level);
	for (unsigned level = 1; level < 4; level++)
		rig_set(r, at[level], rig_get(r, at[level]) - OFFSET);
	r->cpu->arch.cr3 -= OFFSET;
	r->cpu->virt = &ops;
	r->cpu->arch.guest_mode = 1;
	rig_update(r);
	return leaf;
}

static void hits_reach_the_composed_address(void **state)
{
	struct rig r;
	u64 leaf = open_nested(&r, P | W | U), v, pa;
	mem_write_le(&r.mem, gpa(PA + OFFSET + 8), 0x1234, 8);
	assert_true(mmu_read(r.cpu, LA + 8, 8, &v));
	assert_int_equal(v, 0x1234);
	assert_int_equal(rig_get(&r, leaf) & (A | D), A);
	assert_true(mmu_translate_probe(r.cpu, LA + 8, &pa));
	assert_int_equal(pa, PA + OFFSET + 8);
	unsigned walks = npt.walks;
	assert_true(mmu_read(r.cpu, LA + 16, 8, &v));
	assert_int_equal(npt.walks, walks);
	rig_close(&r);
}

static void table_pages_are_cached_until_their_root_is_flushed(void **state)
{
	struct rig r;
	open_nested(&r, P | W | U | A | D);
	rig_expect_ok(&r, LA, ACC_R);
	mmu_flush_vpid(r.cpu, 1, true); /* linear mappings only */
	npt.walks = 0;
	rig_expect_ok(&r, LA, ACC_R);
	assert_int_equal(npt.walks, 1);
	assert_int_equal(npt.last_use, NPT_DATA);
	assert_int_equal(npt.last_at, PA);
	mmu_flush_npt(r.cpu, 0x2000);
	mmu_flush_vpid(r.cpu, 1, true);
	npt.walks = 0;
	rig_expect_ok(&r, LA, ACC_R);
	assert_int_equal(npt.walks, 1);
	mmu_flush_npt(r.cpu, 0x1000);
	npt.walks = 0;
	rig_expect_ok(&r, LA, ACC_R);
	assert_int_equal(npt.walks, 5);
	npt.root = 0x2000; /* another nested table shares nothing */
	mmu_switch(r.cpu);
	npt.walks = 0;
	rig_expect_ok(&r, LA, ACC_R);
	assert_int_equal(npt.walks, 5);
	rig_close(&r);
}

static void expect_virt(struct rig *r, u64 la, u32 acc)
{
	assert_false(rig_access(r, la, acc));
	assert_int_equal(r->cpu->fault.kind, EVENT_VIRT);
	assert_true(npt.last_la_valid);
	assert_int_equal(npt.last_la, la);
}

static void violations_name_the_exact_address_and_use(void **state)
{
	struct rig r;
	u64 leaf = open_nested(&r, P | W | U);
	npt.deny_page = PA;
	npt.deny_acc = ACC_R;
	expect_virt(&r, LA + 0x123, ACC_R);
	assert_int_equal(npt.last_at, PA + 0x123);
	assert_int_equal(npt.last_use, NPT_DATA);
	assert_true(npt.last_acc & ACC_UPAGE);
	assert_int_equal(rig_get(&r, leaf) & A, 0); /* no trace */
	npt.deny_page = (leaf - OFFSET) & PAGE_MASK;
	mmu_flush_npt(r.cpu, npt.root);
	expect_virt(&r, LA, ACC_W);
	assert_int_equal(npt.last_at, leaf - OFFSET);
	assert_int_equal(npt.last_use, NPT_GUEST_PT);
	assert_int_equal(npt.last_acc, ACC_R);
	npt.deny_acc = ACC_W; /* readable tables, but flags cannot be set */
	expect_virt(&r, LA, ACC_R);
	assert_int_equal(npt.last_at, leaf - OFFSET);
	assert_int_equal(npt.last_acc, ACC_R | ACC_W);
	rig_set(&r, leaf, rig_get(&r, leaf) | A);
	rig_expect_ok(&r, LA, ACC_R); /* nothing to set */
	rig_close(&r);
}

static void a_page_fault_comes_before_the_final_violation(void **state)
{
	struct rig r;
	open_nested(&r, P | U);
	npt.deny_page = PA;
	npt.deny_acc = ACC_W;
	rig_expect_pf(&r, LA, ACC_W, 3);
	rig_expect_ok(&r, LA, ACC_R);
	rig_close(&r);
}

static void rights_are_those_of_both_tables(void **state)
{
	struct rig r;
	open_nested(&r, P | W | U | A | D);
	npt.deny_page = PA;
	npt.deny_acc = ACC_W | ACC_X;
	rig_expect_ok(&r, LA, ACC_R);
	expect_virt(&r, LA, ACC_W);
	expect_virt(&r, LA, ACC_X);
	npt.deny_acc = ACC_X; /* made writable: no flush is needed */
	rig_expect_ok(&r, LA, ACC_W);
	rig_close(&r);
}

static void a_clean_nested_page_is_walked_again_by_the_first_write(void **state)
{
	struct rig r;
	open_nested(&r, P | W | U | A | D);
	npt.no_dirty = true;
	rig_expect_ok(&r, LA, ACC_R);
	npt.walks = 0;
	rig_expect_ok(&r, LA, ACC_W);
	assert_int_equal(npt.walks, 1);
	assert_true(npt.last_acc & ACC_W);
	rig_expect_ok(&r, LA, ACC_W);
	assert_int_equal(npt.walks, 1);
	rig_close(&r);
}

static void mode_based_execute_looks_at_the_linear_page(void **state)
{
	struct rig r;
	open_nested(&r, P | W | U | A | D);
	npt.no_xu = true; /* npt_walk should have refused; the entry must not permit it either way */
	rig_expect_ok(&r, LA, ACC_R);
	assert_null(mmu_hit(r.cpu, LA, TLB_XS));
	npt.no_xu = false;
	npt.no_x = true; /* supervisor pages only: this is a user page */
	mmu_flush_all(r.cpu);
	rig_expect_ok(&r, LA, ACC_X);
	assert_true(npt.last_acc & ACC_UPAGE);
	rig_close(&r);
}

static void without_guest_paging_the_nested_table_is_all(void **state)
{
	struct rig r;
	open_nested(&r, P);
	r.cpu->arch.cr0 &= ~CR0_PG;
	r.cpu->arch.efer &= ~(EFER_LMA | EFER_LME);
	r.cpu->mode = MODE_PE;
	rig_update(&r);
	rig_expect_ok(&r, 0x3000, ACC_W);
	assert_int_equal(mem_read_le(&r.mem, gpa(0x3000 + OFFSET), 1), 0x5a);
	npt.deny_page = 0x5000;
	npt.deny_acc = ACC_R;
	expect_virt(&r, 0x5010, ACC_R);
	rig_close(&r);
}

static void pdptes_are_read_through_the_nested_table(void **state)
{
	struct rig r;
	bool virt;
	open_nested(&r, P);
	r.cpu->arch.efer &= ~(EFER_LMA | EFER_LME);
	rig_set(&r, 0x6008 + OFFSET, 0x7000 | P);
	assert_true(mmu_load_pdptes(r.cpu, 0x6000, &virt));
	assert_int_equal(r.cpu->arch.pdpte[1], 0x7000 | P);
	assert_false(npt.last_la_valid);
	npt.deny_page = 0x6000;
	npt.deny_acc = ACC_R;
	assert_false(mmu_load_pdptes(r.cpu, 0x6000, &virt));
	assert_true(virt);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hits_reach_the_composed_address),
		cmocka_unit_test(table_pages_are_cached_until_their_root_is_flushed),
		cmocka_unit_test(violations_name_the_exact_address_and_use),
		cmocka_unit_test(a_page_fault_comes_before_the_final_violation),
		cmocka_unit_test(rights_are_those_of_both_tables),
		cmocka_unit_test(a_clean_nested_page_is_walked_again_by_the_first_write),
		cmocka_unit_test(mode_based_execute_looks_at_the_linear_page),
		cmocka_unit_test(without_guest_paging_the_nested_table_is_all),
		cmocka_unit_test(pdptes_are_read_through_the_nested_table),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
