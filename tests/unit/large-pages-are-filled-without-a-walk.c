/* A large page's first miss is walked, the others of its run of 2 MiB are not; and the run goes with every invalidation that names a piece of it, or its context. The
 * page's entry is taken away behind the MMU's back, so that a run that is still there shows by giving what is gone. */
#include "mmu_rig.h"
#include "cpu/paging.h"

#define AT 0x40000000ull
#define PA 0x200000ull
#define PIECE(n) (AT + (n) * 4096ull)

static u16 vpid;
static u64 root, npt_size;
static u64 apic_page;
static bool nested;
static unsigned npt_walks;
static void tag(const struct cpu *c, u16 *v, u64 *r) { *v = vpid; *r = root; }
static bool npt_enabled(const struct cpu *c) { return nested; }
static u64 apic_access_page(const struct cpu *c) { return apic_page; }
static bool npt_walk(struct cpu *c, l2gpa_t at, u32 acc, enum npt_use use, bool la_valid, gva_t la, struct npt_page *out)
{
	npt_walks++;
	*out = (struct npt_page){ .gpa = at.v, .size = npt_size, .r = true, .w = true, .x = true, .xu = true, .dirty_ok = acc & ACC_W, .accessed_ok = true };
	return true;
}
static const struct virt_ops ops = { .tlb_tag = tag, .npt_enabled = npt_enabled, .apic_access_page = apic_access_page, .npt_walk = npt_walk };

/* The large page, one piece of which is in the TLB; returns its entry's address. */
static u64 open_large(struct rig *r, u64 flags, u32 acc)
{
	rig_open(r, RIG_64);
	vpid = 0;
	root = 0;
	nested = false;
	apic_page = ~0ull;
	u64 leaf = rig_map(r, AT, PA, P | W | U | flags, 21);
	rig_expect_ok(r, AT, acc);
	return leaf;
}

static void expect_walks(struct rig *r, u64 la, u32 acc, unsigned n)
{
	u64 before = r->cpu->stats.walks;
	rig_expect_ok(r, la, acc);
	assert_int_equal(r->cpu->stats.walks - before, n);
}

static void pieces_need_no_walk(void **state)
{
	struct rig r;
	open_large(&r, 0, ACC_W);
	for (unsigned n = 1; n < 512; n += 3) {
		expect_walks(&r, PIECE(n), ACC_W, 0);
		assert_int_equal(mmu_hit(r.cpu, PIECE(n), 0)->gpa, PA + n * 4096ull);
	}
	expect_walks(&r, PIECE(7), ACC_X, 0);
	rig_close(&r);
}

static void small_pages_and_others_are_walked(void **state)
{
	struct rig r;
	open_large(&r, 0, ACC_R);
	rig_map(&r, AT + 0x200000, PA, P | W | U, 12);
	rig_map(&r, AT + 0x201000, PA, P | W | U, 12);
	expect_walks(&r, AT + 0x200000, ACC_R, 1);
	expect_walks(&r, AT + 0x201000, ACC_R, 1);
	rig_expect_pf(&r, AT + 0x40000000ull, ACC_R, 0); /* the same place in the table */
	rig_close(&r);
}

static void a_huge_page_is_many_runs(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	u64 leaf = rig_map(&r, AT, 0, P | W | U, 30);
	expect_walks(&r, AT, ACC_R, 1);
	expect_walks(&r, AT + 0x1000, ACC_R, 0);
	expect_walks(&r, AT + 0x200000, ACC_R, 1);
	expect_walks(&r, AT + 0x234000, ACC_R, 0);
	assert_int_equal(mmu_hit(r.cpu, AT + 0x234000, 0)->gpa, 0x234000);
	rig_set(&r, leaf, 0);
	mmu_invlpg(r.cpu, gva(AT + 0x600000));
	rig_expect_pf(&r, AT + 0x235000, ACC_R, 0);
	rig_expect_pf(&r, AT + 0x5000, ACC_R, 0);
	rig_close(&r);
}

static void the_first_write_walks_and_sets_the_dirty_flag(void **state)
{
	struct rig r;
	u64 leaf = open_large(&r, 0, ACC_R);
	expect_walks(&r, PIECE(1), ACC_R, 0);
	assert_int_equal(rig_get(&r, leaf) & D, 0);
	expect_walks(&r, PIECE(2), ACC_W, 1);
	assert_int_equal(rig_get(&r, leaf) & D, D);
	expect_walks(&r, PIECE(3), ACC_W, 0);
	rig_set(&r, leaf, rig_get(&r, leaf) & ~(u64)D);
	mmu_invlpg(r.cpu, gva(AT));
	rig_expect_ok(&r, PIECE(4), ACC_R);
	expect_walks(&r, PIECE(5), ACC_W, 1);
	assert_int_equal(rig_get(&r, leaf) & D, D);
	rig_close(&r);
}

/* Each of these makes a piece that no entry knows be looked for in the guest's tables again. */
static void invlpg(struct rig *r) { mmu_invlpg(r->cpu, gva(PIECE(300))); }
static void flush_all(struct rig *r) { mmu_flush_all(r->cpu); }
static void flush_locals(struct rig *r) { mmu_flush_current(r->cpu, false); }
static void flush_globals(struct rig *r) { mmu_flush_current(r->cpu, true); }
static void flush_vpid(struct rig *r) { mmu_flush_vpid(r->cpu, 0, true); }
static void flush_vpid_locals(struct rig *r) { mmu_flush_vpid(r->cpu, 0, false); }
static void flush_pcid(struct rig *r) { mmu_flush_pcid(r->cpu, 0, 0); }
static void flush_npt(struct rig *r) { mmu_flush_npt(r->cpu, 0); }
static void invlpg_vpid(struct rig *r) { mmu_invlpg_vpid(r->cpu, 0, gva(PIECE(300))); }
static void other_mode(struct rig *r)
{
	r->cpu->arch.cr4 |= CR4_SMAP;
	rig_update(r);
}
static void other_pcid(struct rig *r)
{
	r->cpu->arch.cr4 |= CR4_PCIDE;
	r->cpu->arch.cr3 |= 5;
	mmu_switch(r->cpu);
}
static void other_root(struct rig *r)
{
	r->cpu->virt = &ops;
	r->cpu->arch.guest_mode = 1;
	root = 0x5000;
	mmu_switch(r->cpu);
}
static void contexts_run_out(struct rig *r)
{
	u64 cr3 = r->cpu->arch.cr3;
	r->cpu->arch.cr4 |= CR4_PCIDE;
	for (unsigned i = 1; i <= TLB_CONTEXTS; i++) {
		r->cpu->arch.cr3 = cr3 | i;
		mmu_switch(r->cpu);
	}
	r->cpu->arch.cr3 = cr3;
	mmu_switch(r->cpu);
}

static void every_invalidation_reaches_it(void **state)
{
	static void (*const how[])(struct rig *r) = { invlpg, flush_all, flush_locals, flush_globals, flush_vpid, flush_vpid_locals, flush_pcid, flush_npt, invlpg_vpid,
		other_mode, other_pcid, other_root, contexts_run_out };
	for (unsigned n = 0; n < array_len(how); n++) {
		struct rig r;
		u64 leaf = open_large(&r, 0, ACC_R);
		rig_set(&r, leaf, 0);
		expect_walks(&r, PIECE(1), ACC_R, 0); /* stale, as it may be */
		how[n](&r);
		rig_expect_pf(&r, PIECE(2), ACC_R, 0);
		rig_expect_pf(&r, PIECE(1), ACC_R, 0);
		rig_close(&r);
	}
}

static void half_of_a_4_mib_page_is_no_longer_there_either(void **state)
{
	struct rig r;
	rig_open(&r, RIG_32);
	u64 at = r.cpu->arch.cr3 + 4 * (AT >> 22);
	mem_write_le(&r.mem, gpa(at), P | W | U | PS, 4); /* to 0 */
	rig_expect_ok(&r, AT, ACC_R);
	rig_expect_ok(&r, AT + 0x200000, ACC_R);
	expect_walks(&r, AT + 0x1000, ACC_R, 0);
	expect_walks(&r, AT + 0x201000, ACC_R, 0);
	assert_int_equal(mmu_hit(r.cpu, AT + 0x201000, 0)->gpa, 0x201000);
	mem_write_le(&r.mem, gpa(at), 0, 4);
	mmu_invlpg(r.cpu, gva(AT + 0x5000));
	rig_expect_pf(&r, AT + 0x202000, ACC_R, 0);
	rig_expect_pf(&r, AT + 0x2000, ACC_R, 0);
	rig_close(&r);
}

static void a_fault_forgets_it(void **state)
{
	struct rig r;
	u64 leaf = open_large(&r, 0, ACC_R);
	rig_set(&r, leaf, 0);
	rig_expect_pf(&r, PIECE(1), ACC_W, 2);
	rig_expect_pf(&r, PIECE(2), ACC_R, 0);
	rig_close(&r);
}

/* They need no walk either, while PKRU stays. */
static void expect_pieces_of_a_key(void)
{
	struct rig r;
	rig_open(&r, RIG_64);
	r.cpu->arch.cr4 |= CR4_PKE;
	rig_update(&r);
	rig_map(&r, AT, PA, P | W | U, 21);
	rig_expect_ok(&r, AT, ACC_R);
	expect_walks(&r, PIECE(1), ACC_R, 0);
	mmu_flush_pkeys(r.cpu);
	expect_walks(&r, PIECE(2), ACC_R, 1);
	rig_close(&r);
}

static void keys_are_asked_for_each_page(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	r.cpu->arch.cr4 |= CR4_PKE;
	rig_update(&r);
	rig_map(&r, AT, PA, P | W | U, 21);
	rig_expect_ok(&r, AT, ACC_R);
	r.cpu->arch.pkru = 1;
	mmu_flush_pkeys(r.cpu);
	rig_expect_pf(&r, PIECE(1), ACC_R, 0x21);
	rig_close(&r);
	expect_pieces_of_a_key();
}

/* What the host's memory allows is each page's own. */
static void pages_with_code_or_to_be_logged_or_of_devices_stay_closed(void **state)
{
	struct rig r;
	open_large(&r, 0, ACC_W);
	r.mem.code_lines[(PA >> 12) + 5] = bit(40); /* a line that nothing here writes */
	for (unsigned n = 4; n < 7; n++) {
		expect_walks(&r, PIECE(n), ACC_W, 0);
		assert_int_equal(!!mmu_hit(r.cpu, PIECE(n), TLB_W(1)), n != 5);
	}
	mem_dirty_take(&r.mem, NULL);
	mmu_flush_all(r.cpu);
	rig_expect_ok(&r, AT, ACC_W);
	expect_walks(&r, PIECE(8), ACC_R, 0);
	assert_null(mmu_hit(r.cpu, PIECE(8), TLB_W(1)));
	rig_close(&r);

	open_large(&r, 0, ACC_W);
	r.cpu->virt = &ops;
	r.cpu->arch.guest_mode = 1;
	apic_page = PA + 9 * 4096;
	mmu_switch(r.cpu);
	rig_expect_ok(&r, AT, ACC_W);
	for (unsigned n = 8; n < 11; n++) {
		mmu_probe_read(r.cpu, PIECE(n), 8);
		assert_int_equal(!!mmu_hit(r.cpu, PIECE(n), TLB_R(1)), n != 9);
	}
	rig_close(&r);
}

static void nested_pages_must_be_large_too(void **state)
{
	static const struct { u64 size; unsigned walks; } t[] = { { PAGE_SIZE, 1 }, { 2 * MiB, 0 }, { GiB, 0 } };
	for (unsigned n = 0; n < array_len(t); n++) {
		struct rig r;
		u64 leaf = open_large(&r, 0, ACC_W);
		r.cpu->virt = &ops;
		r.cpu->arch.guest_mode = 1;
		nested = true;
		npt_size = t[n].size;
		root = 0x5000;
		mmu_switch(r.cpu);
		rig_expect_ok(&r, AT, ACC_R);
		npt_walks = 0;
		expect_walks(&r, PIECE(1), ACC_R, t[n].walks);
		assert_int_equal(!!npt_walks, t[n].walks);
		expect_walks(&r, PIECE(2), ACC_W, 1); /* NPT's dirty flag */
		expect_walks(&r, PIECE(3), ACC_W, t[n].walks);
		rig_set(&r, leaf, 0);
		mmu_flush_npt(r.cpu, 0x5000);
		rig_expect_pf(&r, PIECE(4), ACC_R, 0);
		rig_close(&r);
	}
}

/* ---- windows: what host code looks at ---- */
static const struct tlb_fast *window(struct rig *r) { return &mmu_bank(r->cpu)->window[mmu_window_slot(AT)]; }
static bool may_read(struct rig *r) { return window(r)->r == AT; }
static bool may_write(struct rig *r) { return window(r)->w == AT; }

/* Missed often: now there is one. */
static void want(struct rig *r)
{
	for (unsigned n = 1; n < TLB_WINDOW_MISSES; n++)
		assert_false(mmu_bank_window(r->cpu, PIECE(n)));
	mmu_bank_window(r->cpu, AT);
}

static void open_window(struct rig *r)
{
	open_large(r, 0, ACC_W);
	assert_int_equal(mmu_banks_create(r->cpu), 0);
	want(r);
}

static void a_window_goes_with_its_run(void **state)
{
	for (unsigned n = 0; n < 5; n++) {
		struct rig r;
		open_window(&r);
		assert_true(may_read(&r) && may_write(&r));
		assert_ptr_equal(window(&r)->host, r.mem.base + PA);
		if (n == 0)
			mmu_invlpg(r.cpu, gva(PIECE(300)));
		else if (n == 1)
			mmu_flush_all(r.cpu);
		else if (n == 2)
			tlb_forget_run(r.cpu, PIECE(7));
		else if (n == 3)
			mmu_flush_current(r.cpu, false);
		else
			mmu_flush_vpid(r.cpu, 0, false);
		assert_false(may_read(&r) || may_write(&r));
		rig_close(&r);
	}
}

static void a_window_is_closed_to_writes_that_must_be_seen(void **state)
{
	struct rig r;
	open_window(&r);
	mmu_write_protect(r.cpu, (PA >> 12) + 512);
	mmu_write_protect(r.cpu, (PA >> 12) - 1);
	assert_true(may_write(&r));
	mmu_write_protect(r.cpu, (PA >> 12) + 511);
	assert_true(may_read(&r) && !may_write(&r));
	rig_close(&r);
	open_large(&r, 0, ACC_W);
	assert_int_equal(mmu_banks_create(r.cpu), 0);
	r.mem.code_lines[(PA >> 12) + 100] = 1;
	want(&r);
	assert_true(may_read(&r) && !may_write(&r));
	rig_close(&r);
	open_large(&r, 0, ACC_W);
	assert_int_equal(mmu_banks_create(r.cpu), 0);
	r.mem.dirty_log = true;
	want(&r);
	assert_true(may_read(&r) && !may_write(&r));
	rig_close(&r);
	open_large(&r, 0, ACC_R); /* the page is not dirty yet */
	assert_int_equal(mmu_banks_create(r.cpu), 0);
	want(&r);
	assert_true(may_read(&r) && !may_write(&r));
	rig_close(&r);
}

static void no_window_shows_a_device(void **state)
{
	struct rig r;
	open_large(&r, 0, ACC_W);
	assert_int_equal(mmu_banks_create(r.cpu), 0);
	r.cpu->virt = &ops;
	r.cpu->arch.guest_mode = 1;
	apic_page = PA + 77 * PAGE_SIZE;
	mmu_switch(r.cpu);
	rig_expect_ok(&r, AT, ACC_W);
	want(&r);
	assert_false(may_read(&r) || may_write(&r));
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pieces_need_no_walk), cmocka_unit_test(small_pages_and_others_are_walked), cmocka_unit_test(a_huge_page_is_many_runs),
		cmocka_unit_test(the_first_write_walks_and_sets_the_dirty_flag), cmocka_unit_test(every_invalidation_reaches_it),
		cmocka_unit_test(half_of_a_4_mib_page_is_no_longer_there_either), cmocka_unit_test(a_fault_forgets_it), cmocka_unit_test(keys_are_asked_for_each_page),
		cmocka_unit_test(pages_with_code_or_to_be_logged_or_of_devices_stay_closed), cmocka_unit_test(nested_pages_must_be_large_too),
		cmocka_unit_test(a_window_goes_with_its_run), cmocka_unit_test(a_window_is_closed_to_writes_that_must_be_seen), cmocka_unit_test(no_window_shows_a_device),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
