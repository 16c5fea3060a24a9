/* Walks of all paging modes: addresses, error codes, rights, accessed and dirty flags (SDM "Paging"). */
#include "mmu_rig.h"

#include <pthread.h>

#define LA 0x7f1234567000ull
#define PA 0x200000ull

enum { EP = 1, EW = 2, EU = 4, ERSVD = 8, EI = 16, EPK = 32 };

static u64 translate(struct rig *r, u64 la)
{
	u64 pa = 0;
	assert_true(mmu_translate_probe(r->cpu, la, &pa));
	return pa;
}

/* What one user, supervisor, SMEP, SMAP... configuration permits on one kind of page: each row is one access. */
static const struct row {
	const char *what;
	u64 leaf;
	bool user;
	u64 cr0_off, cr4_on, flags_on;
	u32 pkru;
	u32 acc;
	int error; /* -1: works */
} rows[] = {
	{ "supervisor-reads-supervisor-page", P, .acc = ACC_R, .error = -1 },
	{ "supervisor-writes-read-only-page-with-WP", P, .acc = ACC_W, .error = EP | EW },
	{ "supervisor-writes-read-only-page-without-WP", P, .cr0_off = CR0_WP, .acc = ACC_W, .error = -1 },
	{ "supervisor-writes-writable-page", P | W, .acc = ACC_W, .error = -1 },
	{ "user-reads-supervisor-page", P | W, .user = true, .acc = ACC_R, .error = EP | EU },
	{ "user-writes-supervisor-page", P | W, .user = true, .acc = ACC_W, .error = EP | EU | EW },
	{ "user-writes-read-only-page-without-WP",
	  P | U, .user = true, .cr0_off = CR0_WP, .acc = ACC_W, .error = EP | EU | EW },
	{ "user-writes-user-page", P | W | U, .user = true, .acc = ACC_W, .error = -1 },
	{ "user-reads-absent-page", 0, .user = true, .acc = ACC_R, .error = EU },
	{ "supervisor-writes-absent-page", 0, .acc = ACC_W, .error = EW },
	{ "user-fetches-absent-page", 0, .user = true, .acc = ACC_X, .error = EU | EI },
	{ "user-executes-user-page", P | U, .user = true, .acc = ACC_X, .error = -1 },
	{ "user-executes-supervisor-page", P, .user = true, .acc = ACC_X, .error = EP | EU | EI },
	{ "user-executes-no-execute-page", P | U | NX, .user = true, .acc = ACC_X, .error = EP | EU | EI },
	{ "supervisor-executes-user-page-without-SMEP", P | U, .acc = ACC_X, .error = -1 },
	{ "supervisor-executes-user-page-with-SMEP", P | U, .cr4_on = CR4_SMEP, .acc = ACC_X, .error = EP | EI },
	{ "supervisor-executes-supervisor-page-with-SMEP", P, .cr4_on = CR4_SMEP, .acc = ACC_X, .error = -1 },
	{ "supervisor-reads-user-page-with-SMAP", P | U, .cr4_on = CR4_SMAP, .acc = ACC_R, .error = EP },
	{ "supervisor-writes-user-page-with-SMAP", P | W | U, .cr4_on = CR4_SMAP, .acc = ACC_W, .error = EP | EW },
	{ "supervisor-writes-user-page-with-SMAP-and-AC",
	  P | W | U, .cr4_on = CR4_SMAP, .flags_on = FLAG_AC, .acc = ACC_W, .error = -1 },
	{ "implicit-access-ignores-AC",
	  P | W | U, .cr4_on = CR4_SMAP, .flags_on = FLAG_AC, .acc = ACC_R | ACC_SYS, .error = EP },
	{ "implicit-access-at-CPL-3-is-supervisor", P | W, .user = true, .acc = ACC_R | ACC_SYS, .error = -1 },
	{ "implicit-access-at-CPL-3-faults-without-U", 0, .user = true, .acc = ACC_W | ACC_SYS, .error = EW },
	{ "user-reads-user-page-with-SMAP", P | U, .user = true, .cr4_on = CR4_SMAP, .acc = ACC_R, .error = -1 },
	{ "SMAP-does-not-touch-fetches", P | U, .cr4_on = CR4_SMAP, .acc = ACC_X, .error = -1 },
	{ "key-access-disable-stops-user-reads",
	  P | U | (5ull << 59), .user = true, .cr4_on = CR4_PKE, .pkru = 1u << 10, .acc = ACC_R, .error = EP | EU | EPK },
	{ "key-of-another-page-does-not",
	  P | U | (6ull << 59), .user = true, .cr4_on = CR4_PKE, .pkru = 1u << 10, .acc = ACC_R, .error = -1 },
	{ "key-access-disable-stops-supervisor-reads-of-user-pages",
	  P | U | (5ull << 59), .cr4_on = CR4_PKE, .pkru = 1u << 10, .acc = ACC_R, .error = EP | EPK },
	{ "key-does-not-apply-to-supervisor-pages",
	  P | W | (5ull << 59), .cr4_on = CR4_PKE, .pkru = 3u << 10, .acc = ACC_W, .error = -1 },
	{ "key-write-disable-allows-reads",
	  P | W | U | (5ull << 59), .user = true, .cr4_on = CR4_PKE, .pkru = 2u << 10, .acc = ACC_R, .error = -1 },
	{ "key-write-disable-stops-user-writes",
	  P | W | U | (5ull << 59), .user = true, .cr4_on = CR4_PKE, .pkru = 2u << 10, .acc = ACC_W,
	  .error = EP | EW | EU | EPK },
	{ "key-write-disable-stops-supervisor-with-WP",
	  P | W | U | (5ull << 59), .cr4_on = CR4_PKE, .pkru = 2u << 10, .acc = ACC_W, .error = EP | EW | EPK },
	{ "key-write-disable-spares-supervisor-without-WP",
	  P | W | U | (5ull << 59), .cr0_off = CR0_WP, .cr4_on = CR4_PKE, .pkru = 2u << 10, .acc = ACC_W, .error = -1 },
	{ "key-does-not-apply-to-fetches",
	  P | U | (5ull << 59), .user = true, .cr4_on = CR4_PKE, .pkru = 3u << 10, .acc = ACC_X, .error = -1 },
	{ "keys-are-ignored-without-PKE",
	  P | U | (5ull << 59), .user = true, .pkru = 3u << 10, .acc = ACC_R, .error = -1 },
	{ "address-bit-above-MAXPHYADDR-is-reserved", P | W | U | BIT(39), .acc = ACC_R, .error = EP | ERSVD },
	{ "address-bit-51-is-reserved-for-user-writes",
	  P | W | U | BIT(51), .user = true, .acc = ACC_W, .error = EP | EW | EU | ERSVD },
	{ "bits-52-to-58-are-ignored", P | W | U | BIT(52) | BIT(58), .acc = ACC_R, .error = -1 },
};

static void rights_and_error_codes(void **state)
{
	for (unsigned i = 0; i < array_len(rows); i++) {
		const struct row *w = &rows[i];
		struct rig r;
		rig_open(&r, RIG_64);
		u64 leaf = rig_map(&r, LA, PA, w->leaf, 12), before = rig_get(&r, leaf);
		r.cpu->arch.cr0 &= ~w->cr0_off;
		r.cpu->arch.cr4 |= w->cr4_on;
		r.cpu->arch.rflags |= w->flags_on;
		r.cpu->arch.pkru = w->pkru;
		rig_user(&r, w->user);
		print_message("  %s\n", w->what);
		if (w->error < 0) {
			rig_expect_ok(&r, LA, w->acc);
			assert_int_equal(rig_get(&r, leaf), before | A | (w->acc & ACC_W ? D : 0));
			assert_int_equal(rig_get(&r, rig_entry(&r, LA, 3)) & A, A);
		} else {
			rig_expect_pf(&r, LA, w->acc, w->error);
			assert_int_equal(rig_get(&r, leaf), before);
			assert_int_equal(rig_get(&r, rig_entry(&r, LA, 3)) & A, 0);
		}
		rig_close(&r);
	}
}

static void rights_are_the_and_of_all_levels(void **state)
{
	static const struct { u64 off, on; u32 acc; u32 error; } cut[] = {
		{ P, 0, ACC_R, EU }, { W, 0, ACC_W, EP | EW | EU }, { U, 0, ACC_R, EP | EU },
		{ 0, NX, ACC_X, EP | EU | EI }, { 0, BIT(40), ACC_R, EP | EU | ERSVD },
	};
	for (unsigned level = 0; level < 4; level++)
		for (unsigned i = 0; i < array_len(cut); i++) {
			struct rig r;
			rig_open(&r, RIG_64);
			rig_map(&r, LA, PA, P | W | U, 12);
			u64 at = rig_entry(&r, LA, level);
			rig_set(&r, at, (rig_get(&r, at) & ~cut[i].off) | cut[i].on);
			rig_user(&r, true);
			rig_expect_pf(&r, LA, cut[i].acc, cut[i].error);
			rig_close(&r);
		}
}

static void pages_of_2m_and_1g_map_their_offsets(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	rig_map(&r, 0x40000000, 0, P | W | U | D, 30);
	rig_map(&r, 0x80000000, 0x200000, P | W | U, 21);
	assert_int_equal(translate(&r, 0x40000000 + 0x3123456), 0x3123456);
	assert_int_equal(translate(&r, 0x80000000 + 0x1ff123), 0x3ff123);
	mem_write_le(&r.mem, gpa(0x3ff120), 0x77, 8);
	u64 v;
	assert_true(mmu_read(r.cpu, 0x80000000 + 0x1ff120, 8, &v));
	assert_int_equal(v, 0x77);
	rig_close(&r);
}

static void reserved_bits_of_large_pages_fault(void **state)
{
	static const struct { unsigned shift; u64 bad; } bad[] = {
		{ 21, BIT(13) }, { 21, BIT(20) }, { 21, BIT(39) }, { 30, BIT(13) }, { 30, BIT(29) }, { 30, BIT(51) },
		{ 39, 0 }, /* PS in a PML4 entry */
	};
	for (unsigned i = 0; i < array_len(bad); i++) {
		struct rig r;
		rig_open(&r, RIG_64);
		rig_map(&r, LA & ~low_mask(bad[i].shift), bad[i].bad, P | W | U, bad[i].shift);
		rig_expect_pf(&r, LA, ACC_R, EP | ERSVD);
		rig_close(&r);
	}
	struct rig r;
	rig_open(&r, RIG_64); /* bit 12 of a large page is PAT */
	rig_map(&r, LA & ~low_mask(21), BIT(12), P | W | U, 21);
	rig_expect_ok(&r, LA, ACC_R);
	rig_close(&r);
}

static void nx_is_reserved_without_nxe_and_then_no_i_bit(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	r.cpu->arch.efer &= ~EFER_NXE;
	rig_map(&r, LA, PA, P | W | U | NX, 12);
	rig_update(&r);
	rig_expect_pf(&r, LA, ACC_R, EP | ERSVD);
	rig_map(&r, LA, PA, 0, 12);
	rig_expect_pf(&r, LA, ACC_X, 0);
	r.cpu->arch.cr4 |= CR4_SMEP;
	rig_update(&r);
	rig_expect_pf(&r, LA, ACC_X, EI);
	rig_close(&r);
}

static void dirty_is_set_by_the_first_write_after_a_read(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	u64 leaf = rig_map(&r, LA, PA, P | W | U, 12);
	rig_expect_ok(&r, LA, ACC_R);
	assert_int_equal(rig_get(&r, leaf) & (A | D), A);
	rig_expect_ok(&r, LA, ACC_W);
	assert_int_equal(rig_get(&r, leaf) & (A | D), A | D);
	rig_close(&r);
}

static void without_paging_linear_is_physical(void **state)
{
	struct rig r;
	rig_open(&r, RIG_REAL);
	r.cpu->arch.cr4 |= CR4_SMAP | CR4_SMEP;
	rig_update(&r);
	assert_int_equal(translate(&r, 0x123456), 0x123456);
	rig_expect_ok(&r, 0x1234, ACC_W);
	rig_expect_ok(&r, 0x1234, ACC_X);
	assert_int_equal(mem_read_le(&r.mem, gpa(0x1234), 1), 0x5a);
	rig_close(&r);
}

/* ---- 32-bit paging ---- */

static void set32(struct rig *r, u64 at, u32 v) { mem_write_le(&r->mem, gpa(at), v, 4); }
static u32 get32(struct rig *r, u64 at) { return (u32)mem_read_le(&r->mem, gpa(at), 4); }

static void two_level_paging_walks_4k_and_4m_pages(void **state)
{
	struct rig r;
	rig_open(&r, RIG_32);
	u64 pd = RIG_TABLES, pt = pd + 0x1000;
	set32(&r, pd + 4 * 0x300, pt | P | W | U);
	set32(&r, pt + 4 * 0x11, 0x345000 | P | W);
	set32(&r, pd + 4 * 0x301, 0x400000 | P | W | U | PS);
	assert_int_equal(translate(&r, 0xc0011abc), 0x345abc);
	assert_int_equal(translate(&r, 0xc0712345), 0x712345);
	rig_expect_ok(&r, 0xc0011abc, ACC_W);
	assert_int_equal(get32(&r, pt + 4 * 0x11), 0x345000 | P | W | A | D);
	assert_int_equal(get32(&r, pd + 4 * 0x300), pt | P | W | U | A);
	rig_user(&r, true);
	rig_expect_pf(&r, 0xc0011abc, ACC_R, EP | EU);
	rig_expect_ok(&r, 0xc0412345, ACC_W);
	assert_int_equal(get32(&r, pd + 4 * 0x301) & (A | D), A | D);
	rig_expect_pf(&r, 0xc0812345, ACC_X, EU); /* no NX, no SMEP: no I bit */
	rig_close(&r);
}

static void pse36_takes_address_bits_from_the_entry(void **state)
{
	struct rig r;
	rig_open(&r, RIG_32);
	set32(&r, RIG_TABLES, 0x400000 | P | W | PS | 5u << 13);
	assert_int_equal(translate(&r, 0x1234), 0x500401234ull);
	set32(&r, RIG_TABLES, 0x400000 | P | W | PS | BIT(21));
	rig_expect_pf(&r, 0x1234, ACC_R, EP | ERSVD);
	rig_maxphyaddr = 36; /* bits 21:17 are reserved then */
	set32(&r, RIG_TABLES, 0x400000 | P | W | PS | BIT(17));
	rig_expect_pf(&r, 0x1234, ACC_R, EP | ERSVD);
	set32(&r, RIG_TABLES, 0x400000 | P | W | PS | BIT(16));
	assert_int_equal(translate(&r, 0x1234), 0x800401234ull);
	rig_close(&r);
}

static void ps_is_ignored_without_pse(void **state)
{
	struct rig r;
	rig_open(&r, RIG_32);
	r.cpu->arch.cr4 &= ~CR4_PSE;
	rig_update(&r);
	set32(&r, RIG_TABLES, (RIG_TABLES + 0x1000) | P | W | PS);
	set32(&r, RIG_TABLES + 0x1000 + 4, 0x5000 | P | W);
	assert_int_equal(translate(&r, 0x1234), 0x5234);
	rig_close(&r);
}

/* ---- PAE ---- */

static void pae_uses_latched_pdptes(void **state)
{
	struct rig r;
	rig_open(&r, RIG_PAE);
	bool virt;
	u64 pdpt = RIG_TABLES + 0x20, pd = RIG_TABLES + 0x1000, pt = RIG_TABLES + 0x2000;
	r.cpu->arch.cr3 = pdpt;
	rig_set(&r, pdpt + 8 * 2, pd | P);
	assert_true(mmu_load_pdptes(r.cpu, pdpt, &virt));
	rig_set(&r, pdpt + 8 * 2, 0); /* memory is not read again */
	rig_set(&r, pd, pt | P | W | U);
	rig_set(&r, pt + 8 * 3, 0x777000 | P | W | U | NX);
	rig_set(&r, pd + 8, 0x600000 | P | W | U | PS);
	assert_int_equal(translate(&r, 0x80003123), 0x777123);
	assert_int_equal(translate(&r, 0x80234567), 0x634567);
	rig_expect_ok(&r, 0x80003123, ACC_W);
	rig_expect_pf(&r, 0x80003123, ACC_X, EP | EI);
	rig_expect_pf(&r, 0x40000000, ACC_R, 0);
	rig_set(&r, pd + 16, 0x600000 | P | W | U | PS | BIT(62)); /* PAE: all of 62:MAXPHYADDR is reserved */
	rig_expect_pf(&r, 0x80412345, ACC_R, EP | ERSVD);
	rig_close(&r);
}

static void pdptes_with_reserved_bits_are_refused(void **state)
{
	static const u64 bad[] = { BIT(1), BIT(2), BIT(5), BIT(8), BIT(39), BIT(63) };
	struct rig r;
	rig_open(&r, RIG_PAE);
	bool virt = true;
	r.cpu->arch.pdpte[0] = 0x1234;
	for (unsigned i = 0; i < array_len(bad); i++) {
		rig_set(&r, RIG_TABLES + 24, bad[i] | P);
		assert_false(mmu_load_pdptes(r.cpu, RIG_TABLES, &virt));
		assert_false(virt);
		assert_int_equal(r.cpu->arch.pdpte[0], 0x1234);
		rig_set(&r, RIG_TABLES + 24, bad[i]); /* not present: anything goes */
		assert_true(mmu_load_pdptes(r.cpu, RIG_TABLES, &virt));
		r.cpu->arch.pdpte[0] = 0x1234;
	}
	rig_close(&r);
}

/* ---- oddities ---- */

static void tables_outside_memory_read_as_ones(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	r.cpu->arch.cr3 = 0x7000000000ull;
	rig_update(&r);
	rig_expect_pf(&r, LA, ACC_R, EP | ERSVD);
	assert_int_equal(r.io_reads, 0);
	rig_close(&r);
}

static void tables_in_rom_work_but_keep_their_flags(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	rig_map(&r, LA, PA, P | W | U, 12);
	u64 rom_pt = RIG_ROM + 0x1000, at = rom_pt + 8 * (LA >> 12 & 511);
	*(u64 *)mem_ptr(&r.mem, gpa(at), 8) = PA | P | W | U;
	rig_set(&r, rig_entry(&r, LA, 1), rom_pt | P | W | U);
	rig_expect_ok(&r, LA, ACC_W);
	assert_int_equal(rig_get(&r, at), PA | P | W | U);
	rig_close(&r);
}

static void probe_changes_nothing(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	u64 leaf = rig_map(&r, LA, PA, P | W | U, 12), pa;
	r.cpu->fault.vector = 99;
	translate(&r, LA);
	assert_false(mmu_translate_probe(r.cpu, LA + 0x40000000, &pa));
	assert_int_equal(rig_get(&r, leaf), PA | P | W | U);
	assert_int_equal(r.cpu->fault.vector, 99);
	rig_close(&r);
}

static unsigned heard;
static u64 heard_frame;
static void hear(void *opaque, u64 frame, unsigned first, unsigned last) { heard++; heard_frame = frame; }

static void page_table_writes_by_the_cpu_are_heard(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	u64 leaf = rig_map(&r, LA, PA, P | W | U, 12);
	mem_add_listener(&r.mem, (struct mem_listener){ hear, NULL });
	r.mem.code_lines[leaf >> 12] = ~0ull; /* someone executes a page table */
	heard = 0;
	rig_expect_ok(&r, LA, ACC_R);
	assert_int_equal(heard, 1);
	assert_int_equal(heard_frame, leaf >> 12);
	rig_close(&r);
}

/* ---- hostile tables ---- */

static u64 seed = 1;
static u64 rnd(void)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return seed >> 11 ^ seed << 21;
}

/* Entries that often point into the tables themselves, sometimes anywhere. */
static void scribble(struct rig *r, unsigned n)
{
	while (n--) {
		u64 e = rnd() % 4 ? (RIG_TABLES + (rnd() & 0xf000)) | (rnd() & 0xfff) | P : rnd();
		rig_set(r, RIG_TABLES + (rnd() & 0xfff8), e);
	}
}

static void any_access(struct rig *r)
{
	static const unsigned levels[] = { 3, 12, 21, 30, 39 };
	u8 bytes[300];
	u64 la = rnd() & low_mask(48) & ~(rnd() << levels[rnd() % 5] & low_mask(47)), v, len = rnd() & 0xffff, where;
	unsigned size = 1u << (rnd() % 4);
	bool slow;
	if (la >> 47)
		la |= 0xffff000000000000ull;
	switch (rnd() % 8) {
	case 0: mmu_read(r->cpu, la, size, &v); break;
	case 1: mmu_write(r->cpu, la, size, RIG_TABLES | 0x67); break;
	case 2: mmu_read_bytes(r->cpu, la, bytes, rnd() % 300); break;
	case 3: mmu_write_bytes(r->cpu, la, bytes, rnd() % 300); break;
	case 4: mmu_fetch_bytes(r->cpu, la, bytes, 15, &where); break;
	case 5: mmu_rmw(r->cpu, la, size, &slow); break;
	case 6: mmu_span(r->cpu, la, rnd() & 1, &len); break;
	case 7: mmu_invlpg(r->cpu, gva(la)); break;
	}
}

static void random_tables_never_leave_guest_memory(void **state)
{
	for (enum rig_mode mode = RIG_REAL; mode <= RIG_64; mode++) {
		struct rig r;
		rig_open(&r, mode);
		for (unsigned i = 0; i < 3000; i++) {
			scribble(&r, 200);
			r.cpu->arch.cr4 ^= rnd() & (CR4_SMEP | CR4_SMAP | CR4_PKE);
			rig_user(&r, rnd() & 1);
			for (unsigned k = 0; k < 20; k++)
				any_access(&r);
		}
		rig_close(&r);
	}
}

static bool stop;
static void *scribbler(void *arg)
{
	struct rig *r = arg;
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		for (unsigned level = 0; level < 4; level++) {
			u64 at = r->path[level];
			__atomic_fetch_xor((u64 *)mem_ptr(&r->mem, gpa(at), 8), W, __ATOMIC_RELAXED);
			__atomic_fetch_and((u64 *)mem_ptr(&r->mem, gpa(at), 8), ~(u64)(A | D), __ATOMIC_RELAXED);
		}
	return NULL;
}

static void tables_rewritten_by_another_vcpu_do_not_hang_a_walk(void **state)
{
	struct rig r;
	pthread_t t;
	rig_open(&r, RIG_64);
	rig_map(&r, LA, PA, P | W | U, 12);
	for (unsigned level = 0; level < 4; level++)
		r.path[level] = rig_entry(&r, LA, level);
	stop = false;
	pthread_create(&t, NULL, scribbler, &r);
	for (unsigned i = 0; i < 100000; i++) {
		if (!rig_access(&r, LA, i & 1 ? ACC_W : ACC_R))
			rig_expect_vector(&r, VEC_PF);
		mmu_invlpg(r.cpu, gva(LA));
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rights_and_error_codes),
		cmocka_unit_test(rights_are_the_and_of_all_levels),
		cmocka_unit_test(pages_of_2m_and_1g_map_their_offsets),
		cmocka_unit_test(reserved_bits_of_large_pages_fault),
		cmocka_unit_test(nx_is_reserved_without_nxe_and_then_no_i_bit),
		cmocka_unit_test(dirty_is_set_by_the_first_write_after_a_read),
		cmocka_unit_test(without_paging_linear_is_physical),
		cmocka_unit_test(two_level_paging_walks_4k_and_4m_pages),
		cmocka_unit_test(pse36_takes_address_bits_from_the_entry),
		cmocka_unit_test(ps_is_ignored_without_pse),
		cmocka_unit_test(pae_uses_latched_pdptes),
		cmocka_unit_test(pdptes_with_reserved_bits_are_refused),
		cmocka_unit_test(tables_outside_memory_read_as_ones),
		cmocka_unit_test(tables_in_rom_work_but_keep_their_flags),
		cmocka_unit_test(probe_changes_nothing),
		cmocka_unit_test(page_table_writes_by_the_cpu_are_heard),
		cmocka_unit_test(random_tables_never_leave_guest_memory),
		cmocka_unit_test(tables_rewritten_by_another_vcpu_do_not_hang_a_walk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
