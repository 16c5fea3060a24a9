/* What stays and what goes: INVLPG, CR3 loads, PCID, VPID, nested roots, mode bits, large pages, write protection. */
#include "mmu_rig.h"

#define LA 0x7f1234567000ull
#define PA 0x200000ull

static u16 vpid;
static u64 root;
static void tag(const struct cpu *c, u16 *v, u64 *r) { *v = vpid; *r = root; }
static bool no_npt(const struct cpu *c) { return false; }
static u64 no_page(const struct cpu *c) { return ~0ull; }
static const struct virt_ops ops = { .tlb_tag = tag, .npt_enabled = no_npt, .apic_access_page = no_page };

static bool cached(struct rig *r, u64 la) { return mmu_hit(r->cpu, la, TLB_R(1)); }

/* Two pages, the second global, both in the TLB. */
static void open_two(struct rig *r)
{
	rig_open(r, RIG_64);
	rig_map(r, LA, PA, P | W | U, 12);
	rig_map(r, LA + 0x1000, PA + 0x1000, P | W | U | G, 12);
	rig_expect_ok(r, LA, ACC_W);
	rig_expect_ok(r, LA + 0x1000, ACC_W);
}

static void stale_until_invlpg_then_gone(void **state)
{
	struct rig r;
	open_two(&r);
	rig_set(&r, rig_entry(&r, LA, 0), 0);
	rig_expect_ok(&r, LA, ACC_R);
	mmu_invlpg(r.cpu, gva(LA + 0x123));
	rig_expect_pf(&r, LA, ACC_R, 0);
	assert_true(cached(&r, LA + 0x1000));
	mmu_invlpg(r.cpu, gva(LA + 0x1000));
	assert_false(cached(&r, LA + 0x1000));
	rig_close(&r);
}

#define LB (LA + TLB_ENTRIES * 4096ull) /* the same place in the TLB */

static void open_colliding(struct rig *r, u64 flags)
{
	rig_open(r, RIG_64);
	rig_map(r, LA, PA, P | W | U | flags, 12);
	rig_map(r, LB, PA + 0x1000, P | W | U, 12);
	rig_expect_ok(r, LA, ACC_W);
	rig_expect_ok(r, LB, ACC_W); /* LA's entry moves aside */
	assert_false(cached(r, LA));
}

static void a_replaced_entry_comes_back_without_a_walk(void **state)
{
	struct rig r;
	open_colliding(&r, 0);
	u64 walks = r.cpu->stats.walks;
	for (unsigned n = 0; n < 10; n++) {
		rig_expect_ok(&r, LA, ACC_W);
		rig_expect_ok(&r, LB, ACC_W);
	}
	assert_int_equal(r.cpu->stats.walks, walks);
	rig_close(&r);
}

static void a_replaced_entry_is_invalidated_as_well(void **state)
{
	struct rig r;
	open_colliding(&r, 0);
	rig_set(&r, rig_entry(&r, LA, 0), 0);
	rig_expect_ok(&r, LA, ACC_R); /* stale */
	rig_expect_ok(&r, LB, ACC_R);
	mmu_invlpg(r.cpu, gva(LA));
	rig_expect_pf(&r, LA, ACC_R, 0);
	rig_expect_ok(&r, LB, ACC_R);
	rig_close(&r);
	open_colliding(&r, G);
	rig_set(&r, rig_entry(&r, LA, 0), 0);
	mmu_flush_current(r.cpu, false);
	rig_expect_ok(&r, LA, ACC_R); /* global */
	rig_expect_ok(&r, LB, ACC_R);
	mmu_flush_current(r.cpu, true);
	rig_expect_pf(&r, LA, ACC_R, 0);
	rig_close(&r);
}

static void a_replaced_entry_loses_write_permission_too(void **state)
{
	struct rig r;
	open_colliding(&r, 0);
	mmu_write_protect(r.cpu, (u64)mem_frame(&r.mem, gpa(PA)));
	rig_expect_ok(&r, LA, ACC_R);
	assert_true(mmu_hit(r.cpu, LA, TLB_R(1)));
	assert_false(mmu_hit(r.cpu, LA, TLB_W(1)));
	rig_close(&r);
}

static void more_permission_needs_no_invalidation(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	u64 leaf = rig_map(&r, LA, PA, P | NX, 12);
	rig_expect_pf(&r, LA, ACC_W, 3);
	rig_expect_ok(&r, LA, ACC_R);
	rig_set(&r, leaf, PA | P | W);
	rig_expect_ok(&r, LA, ACC_W);
	rig_expect_ok(&r, LA, ACC_X);
	rig_user(&r, true);
	rig_expect_pf(&r, LA, ACC_R, 5);
	rig_set(&r, leaf, PA | P | W | U);
	rig_expect_ok(&r, LA, ACC_R);
	rig_close(&r);
}

static void cr3_load_keeps_global_pages(void **state)
{
	struct rig r;
	open_two(&r);
	mmu_flush_current(r.cpu, false);
	assert_false(cached(&r, LA));
	assert_true(cached(&r, LA + 0x1000));
	mmu_flush_current(r.cpu, true);
	assert_false(cached(&r, LA + 0x1000));
	rig_close(&r);
}

static void global_needs_pge(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	r.cpu->arch.cr4 &= ~CR4_PGE;
	rig_update(&r);
	rig_map(&r, LA, PA, P | W | U | G, 12);
	rig_expect_ok(&r, LA, ACC_R);
	mmu_flush_current(r.cpu, false);
	assert_false(cached(&r, LA));
	rig_close(&r);
}

static void pcids_keep_their_own_entries(void **state)
{
	struct rig r;
	open_two(&r);
	r.cpu->arch.cr4 |= CR4_PCIDE;
	for (unsigned pcid = 1; pcid <= 3; pcid++) {
		r.cpu->arch.cr3 = RIG_TABLES | pcid;
		mmu_switch(r.cpu);
		assert_false(cached(&r, LA));
		rig_expect_ok(&r, LA, ACC_R);
		rig_expect_ok(&r, LA + 0x1000, ACC_R);
	}
	r.cpu->arch.cr3 = RIG_TABLES | 1;
	mmu_switch(r.cpu);
	assert_true(cached(&r, LA));
	mmu_flush_pcid(r.cpu, 0, 2);
	assert_true(cached(&r, LA));
	mmu_invlpg(r.cpu, gva(LA + 0x1000));
	r.cpu->arch.cr3 = RIG_TABLES | 2;
	mmu_switch(r.cpu);
	assert_false(cached(&r, LA));
	assert_false(cached(&r, LA + 0x1000)); /* global: INVLPG drops it for all PCIDs */
	r.cpu->arch.cr3 = RIG_TABLES | 3;
	mmu_switch(r.cpu);
	assert_true(cached(&r, LA));
	rig_close(&r);
}

static void vpids_and_nested_roots_are_apart(void **state)
{
	struct rig r;
	open_two(&r);
	r.cpu->virt = &ops;
	static const struct { u16 vpid; u64 root; } t[] = { { 1, 0 }, { 1, 0x5000 }, { 2, 0x5000 }, { 2, 0x6000 } };
	r.cpu->arch.guest_mode = 1;
	for (unsigned i = 0; i < array_len(t); i++) {
		vpid = t[i].vpid;
		root = t[i].root;
		mmu_switch(r.cpu);
		assert_false(cached(&r, LA));
		rig_expect_ok(&r, LA, ACC_R);
		rig_expect_ok(&r, LA + 0x1000, ACC_R);
	}
#define AT(v, ro) (vpid = (v), root = (ro), mmu_switch(r.cpu), cached(&r, LA))
	assert_true(AT(1, 0));
	assert_true(AT(1, 0x5000));
	mmu_flush_npt(r.cpu, 0x5000);
	assert_false(AT(1, 0x5000));
	assert_false(AT(2, 0x5000));
	assert_true(AT(2, 0x6000));
	assert_true(AT(1, 0));
	mmu_flush_vpid(r.cpu, 2, false);
	assert_false(AT(2, 0x6000));
	assert_true(cached(&r, LA + 0x1000));
	mmu_flush_vpid(r.cpu, 2, true);
	assert_false(cached(&r, LA + 0x1000));
	mmu_invlpg_vpid(r.cpu, 1, gva(LA));
	assert_false(AT(1, 0));
	r.cpu->arch.guest_mode = 0;
	mmu_switch(r.cpu);
	assert_true(cached(&r, LA)); /* the host's own */
	mmu_flush_all(r.cpu);
	assert_false(cached(&r, LA));
	rig_close(&r);
}

static void invlpg_drops_every_piece_of_a_large_page(void **state)
{
	static const unsigned shifts[] = { 21, 30 };
	for (unsigned i = 0; i < array_len(shifts); i++) {
		struct rig r;
		rig_open(&r, RIG_64);
		u64 leaf = rig_map(&r, 0x40000000, 0, P | W | U, shifts[i]);
		rig_map(&r, LA, PA, P | W | U, 12);
		rig_expect_ok(&r, LA, ACC_R);
		for (u64 off = 0; off < 0x200000; off += 0x11000)
			rig_expect_ok(&r, 0x40000000 + off, ACC_R);
		rig_set(&r, leaf, 0);
		rig_expect_ok(&r, 0x40011000, ACC_R);
		mmu_invlpg(r.cpu, gva(0x40001000)); /* a piece that was never touched */
		for (u64 off = 0; off < 0x200000; off += 0x11000)
			rig_expect_pf(&r, 0x40000000 + off, ACC_R, 0);
		assert_true(cached(&r, LA));
		rig_close(&r);
	}
}

static void wp_and_smap_toggles_find_no_stale_rights(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	rig_map(&r, LA, PA, P | U, 12);
	r.cpu->arch.cr0 &= ~CR0_WP;
	mmu_switch(r.cpu);
	rig_expect_ok(&r, LA, ACC_W);
	r.cpu->arch.cr0 |= CR0_WP;
	mmu_switch(r.cpu);
	rig_expect_pf(&r, LA, ACC_W, 3);
	r.cpu->arch.cr4 |= CR4_SMAP;
	rig_update(&r);
	rig_expect_pf(&r, LA, ACC_R, 1);
	r.cpu->arch.rflags |= FLAG_AC;
	rig_update(&r);
	rig_expect_ok(&r, LA, ACC_R);
	rig_close(&r);
}

static void pkru_flush_drops_user_pages_only(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	r.cpu->arch.cr4 |= CR4_PKE;
	rig_update(&r);
	rig_map(&r, LA, PA, P | U, 12);
	rig_map(&r, LA + 0x1000, PA, P, 12);
	rig_expect_ok(&r, LA, ACC_R);
	rig_expect_ok(&r, LA + 0x1000, ACC_R);
	r.cpu->arch.pkru = 1;
	mmu_flush_pkeys(r.cpu);
	assert_true(cached(&r, LA + 0x1000));
	rig_expect_pf(&r, LA, ACC_R, 0x21);
	rig_close(&r);
}

static void more_address_spaces_than_contexts_evict_the_oldest(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	r.cpu->arch.cr4 |= CR4_PCIDE;
	rig_map(&r, LA, PA, P | W | U, 12);
	for (unsigned i = 0; i < 3 * TLB_CONTEXTS; i++) {
		r.cpu->arch.cr3 = RIG_TABLES | i;
		mmu_switch(r.cpu);
		assert_false(cached(&r, LA));
		rig_expect_ok(&r, LA, ACC_R);
	}
	for (unsigned i = 2 * TLB_CONTEXTS; i < 3 * TLB_CONTEXTS; i++) {
		r.cpu->arch.cr3 = RIG_TABLES | i;
		mmu_switch(r.cpu);
		assert_true(cached(&r, LA));
	}
	rig_close(&r);
}

static void write_protection_reaches_every_context(void **state)
{
	struct rig r;
	open_two(&r);
	r.cpu->arch.cr4 |= CR4_PCIDE;
	r.cpu->arch.cr3 = RIG_TABLES | 1;
	mmu_switch(r.cpu);
	rig_expect_ok(&r, LA, ACC_W);
	assert_non_null(mmu_hit(r.cpu, LA, TLB_W(1)));
	r.mem.code_lines[PA >> 12] = bit(40); /* a line that nothing here writes */
	mmu_write_protect(r.cpu, PA >> 12);
	for (unsigned pcid = 0; pcid < 2; pcid++) {
		r.cpu->arch.cr3 = RIG_TABLES | pcid;
		mmu_switch(r.cpu);
		assert_null(mmu_hit(r.cpu, LA, TLB_W(1)));
		assert_non_null(mmu_hit(r.cpu, LA, TLB_R(1)));
	}
	rig_expect_ok(&r, LA, ACC_W);
	assert_null(mmu_hit(r.cpu, LA, TLB_W(1)));
	r.mem.code_lines[PA >> 12] = 0; /* the code is forgotten: the next write opens the page again */
	rig_expect_ok(&r, LA, ACC_W);
	assert_non_null(mmu_hit(r.cpu, LA, TLB_W(1)));
	r.mem.code_lines[PA >> 12] = bit(40);
	mmu_write_protect(r.cpu, PA >> 12);
	assert_null(mmu_hit(r.cpu, LA, TLB_W(1)));
	mmu_write_protect(r.cpu, r.mem.frames + 5);
	rig_close(&r);
}

/* Pages that are like the one whose miss goes on with a sequence are brought along, others are not. */
static void misses_in_sequence_bring_the_pages_after_them(void **state)
{
	struct rig r;
	u64 at = 0x40000000ull;
	rig_open(&r, RIG_64);
	for (unsigned n = 0; n < 12; n++)
		rig_map(&r, at + n * 4096ull, PA + n * 4096ull, P | W | U | (n == 1 ? 0 : A) | (n == 4 ? 0 : D), 12);
	rig_set(&r, rig_entry(&r, at + 6 * 4096, 0), (PA + 6 * 4096) | P | U | A | D); /* another right: the end */
	rig_expect_ok(&r, at, ACC_W);
	assert_false(cached(&r, at + 2 * 4096));
	rig_expect_ok(&r, at + 4096, ACC_W);
	for (unsigned n = 2; n < 6; n++) {
		assert_true(cached(&r, at + n * 4096ull));
		assert_int_equal(n != 4, !!mmu_hit(r.cpu, at + n * 4096ull, TLB_W(1))); /* a clean page wants its D flag first */
		assert_int_equal(mmu_hit(r.cpu, at + n * 4096ull, 0)->gpa, PA + n * 4096ull);
	}
	for (unsigned n = 6; n < 12; n++)
		assert_false(cached(&r, at + n * 4096ull));
	rig_expect_ok(&r, at + 4 * 4096, ACC_W);
	assert_int_equal(rig_get(&r, rig_entry(&r, at + 4 * 4096, 0)) & D, D);
	rig_close(&r);
}

static void a_page_never_accessed_is_not_brought_along(void **state)
{
	struct rig r;
	u64 at = 0x40000000ull;
	rig_open(&r, RIG_64);
	for (unsigned n = 0; n < 4; n++)
		rig_map(&r, at + n * 4096ull, PA + n * 4096ull, P | W | U, 12);
	rig_expect_ok(&r, at, ACC_R);
	rig_expect_ok(&r, at + 4096, ACC_R);
	assert_false(cached(&r, at + 2 * 4096));
	assert_int_equal(rig_get(&r, rig_entry(&r, at + 2 * 4096, 0)) & A, 0);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_replaced_entry_comes_back_without_a_walk), cmocka_unit_test(a_replaced_entry_is_invalidated_as_well),
		cmocka_unit_test(a_replaced_entry_loses_write_permission_too), cmocka_unit_test(stale_until_invlpg_then_gone),
		cmocka_unit_test(more_permission_needs_no_invalidation),
		cmocka_unit_test(cr3_load_keeps_global_pages),
		cmocka_unit_test(global_needs_pge),
		cmocka_unit_test(pcids_keep_their_own_entries),
		cmocka_unit_test(vpids_and_nested_roots_are_apart),
		cmocka_unit_test(invlpg_drops_every_piece_of_a_large_page),
		cmocka_unit_test(wp_and_smap_toggles_find_no_stale_rights),
		cmocka_unit_test(pkru_flush_drops_user_pages_only),
		cmocka_unit_test(more_address_spaces_than_contexts_evict_the_oldest),
		cmocka_unit_test(write_protection_reaches_every_context),
		cmocka_unit_test(misses_in_sequence_bring_the_pages_after_them), cmocka_unit_test(a_page_never_accessed_is_not_brought_along),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
