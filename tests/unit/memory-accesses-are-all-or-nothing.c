/* The slow half of data accesses: page crossing, devices, ROM, APIC pages, pages with code, alignment checks,
 * breakpoints, read-modify-write, fetch. */
#include "mmu_rig.h"

#include "cpu/intc.h"

#include <pthread.h>

#define LA 0x7f1234567000ull
#define PA 0x200000ull

/* Two neighbouring linear pages on scattered physical ones. */
static void open_pair(struct rig *r, u64 flags0, u64 flags1)
{
	rig_open(r, RIG_64);
	rig_map(r, LA, PA, flags0, 12);
	rig_map(r, LA + 0x1000, PA + 0x8000, flags1, 12);
}

static void crossing_reads_and_writes_reach_both_pages(void **state)
{
	struct rig r;
	open_pair(&r, P | W, P | W);
	for (unsigned size = 2; size <= 8; size *= 2)
		for (unsigned off = 0x1000 - size + 1; off < 0x1000; off++) {
			u64 v, want = 0x8877665544332211ull & low_mask(8 * size);
			assert_true(mmu_write(r.cpu, LA + off, size, want));
			assert_true(mmu_read(r.cpu, LA + off, size, &v));
			assert_int_equal(v, want);
			assert_int_equal(mem_read_le(&r.mem, gpa(PA + off), 1), 0x11);
			assert_int_equal(mem_read_le(&r.mem, gpa(PA + 0x8000), 1), want >> (8 * (0x1000 - off)) & 0xff);
		}
	rig_close(&r);
}

static void a_fault_on_the_second_page_changes_nothing(void **state)
{
	struct rig r;
	open_pair(&r, P | W, P);
	u8 bytes[64] = { 1, 2, 3 };
	assert_false(mmu_write(r.cpu, LA + 0xffd, 4, ~0u));
	rig_expect_vector(&r, VEC_PF);
	assert_int_equal(r.cpu->fault.error, 3);
	assert_int_equal(r.cpu->fault.payload, LA + 0x1000);
	assert_int_equal(mem_read_le(&r.mem, gpa(PA + 0xffd), 2), 0);
	assert_false(mmu_write_bytes(r.cpu, LA + 0xff0, bytes, 64));
	assert_int_equal(mem_read_le(&r.mem, gpa(PA + 0xff0), 8), 0);
	assert_false(mmu_probe_write(r.cpu, LA + 0xff0, 64));
	assert_true(mmu_probe_read(r.cpu, LA + 0xff0, 64));
	assert_true(mmu_read_bytes(r.cpu, LA + 0xff0, bytes, 64));
	bool slow;
	assert_null(mmu_rmw(r.cpu, LA + 0xffd, 4, &slow));
	assert_false(slow);
	rig_expect_vector(&r, VEC_PF);
	rig_close(&r);
}

static void non_canonical_addresses_are_gp(void **state)
{
	static const u64 bad[] = { 0x800000000000ull, 0xffff7fffffffffffull, 0x7ffffffffffdull, 0x8000000000000000ull };
	for (unsigned i = 0; i < array_len(bad); i++) {
		struct rig r;
		u64 v = 0, len = 8;
		rig_open(&r, RIG_64);
		assert_false(mmu_read(r.cpu, bad[i], 8, &v));
		rig_expect_vector(&r, VEC_GP);
		assert_int_equal(r.cpu->fault.has_error, 1);
		assert_false(mmu_write(r.cpu, bad[i], 8, v));
		rig_expect_vector(&r, VEC_GP);
		if (!cpu_canonical(bad[i])) {
			assert_null(mmu_fetch(r.cpu, bad[i]));
			rig_expect_vector(&r, VEC_GP);
			assert_null(mmu_span(r.cpu, bad[i], true, &len));
			rig_expect_vector(&r, VEC_GP);
		}
		rig_close(&r);
	}
}

static void outside_64_bit_mode_addresses_wrap_at_4g(void **state)
{
	struct rig r;
	u64 v;
	rig_open(&r, RIG_REAL);
	rig_map(&r, 0, 0, 0, 12);
	assert_true(mmu_write(r.cpu, 0xfffffffe, 4, 0x44332211));
	assert_int_equal(mem_read_le(&r.mem, gpa(0), 2), 0x4433);
	assert_int_equal(r.io_at, 0xfffffffe);
	assert_int_equal(r.io_value, 0x2211);
	assert_true(mmu_read(r.cpu, 0xfffffffe, 4, &v));
	assert_int_equal(v, 0x44337788);
	rig_close(&r);
}

static void devices_hear_each_access_with_its_size(void **state)
{
	struct rig r;
	u64 v;
	rig_open(&r, RIG_64);
	rig_map(&r, LA, RIG_DEVICE, P | W, 12);
	for (unsigned size = 1; size <= 8; size *= 2) {
		assert_true(mmu_read(r.cpu, LA + 0x18, size, &v));
		assert_int_equal(r.io_size, size);
		assert_int_equal(r.io_at, RIG_DEVICE + 0x18);
		assert_int_equal(v, 0x1122334455667788ull & low_mask(8 * size));
		assert_true(mmu_write(r.cpu, LA + 0x20, size, 0x99));
		assert_int_equal(r.io_size, size);
		assert_int_equal(r.io_value, 0x99);
	}
	assert_int_equal(r.io_reads, 4);
	assert_int_equal(r.io_writes, 4);
	u8 bytes[16];
	assert_true(mmu_read_bytes(r.cpu, LA, bytes, 16));
	assert_int_equal(r.io_reads, 6);
	u64 len = 64;
	assert_null(mmu_span(r.cpu, LA, false, &len));
	assert_int_equal(r.cpu->fault.kind, EVENT_NONE);
	bool slow;
	assert_null(mmu_rmw(r.cpu, LA, 4, &slow));
	assert_true(slow);
	rig_close(&r);
}

static void rom_reads_directly_and_writes_reach_the_bus(void **state)
{
	struct rig r;
	u64 v;
	rig_open(&r, RIG_64);
	rig_map(&r, LA, RIG_ROM, P | W, 12);
	*(u32 *)mem_ptr(&r.mem, gpa(RIG_ROM), 4) = 0x12345678;
	assert_true(mmu_read(r.cpu, LA, 4, &v));
	assert_int_equal(v, 0x12345678);
	assert_int_equal(r.io_reads, 0);
	assert_true(mmu_write(r.cpu, LA, 2, 0xbeef));
	assert_true(mmu_write(r.cpu, LA, 2, 0xbeef));
	assert_int_equal(r.io_writes, 2);
	assert_int_equal(mem_read_le(&r.mem, gpa(RIG_ROM), 4), 0x12345678);
	rig_close(&r);
}

/* ---- APIC pages ---- */
static u32 apic_off;
static unsigned apic_accesses;
static u64 apic_read(void *intc, u32 off, unsigned size) { apic_accesses++; apic_off = off; return 0xaabbccdd; }
static void apic_write(void *intc, u32 off, u64 value, unsigned size) { apic_accesses++; apic_off = off; }
static const struct intc_ops intc = { .mmio_read = apic_read, .mmio_write = apic_write };

static void the_local_apic_page_hides_what_is_below(void **state)
{
	struct rig r;
	u64 v;
	rig_open(&r, RIG_64);
	rig_map(&r, LA, PA, P | W, 12);
	r.cpu->intc = &intc;
	r.cpu->arch.apic_base = PA | BIT(11);
	assert_true(mmu_read(r.cpu, LA + 0x30, 4, &v));
	assert_int_equal(v, 0xaabbccdd);
	assert_int_equal(apic_off, 0x30);
	assert_true(mmu_write(r.cpu, LA + 0xb0, 4, 0));
	assert_int_equal(apic_off, 0xb0);
	r.cpu->arch.apic_base = PA | BIT(11) | BIT(10); /* x2APIC: the page is plain memory again */
	mmu_flush_all(r.cpu);
	assert_true(mmu_write(r.cpu, LA + 0x30, 4, 7));
	assert_int_equal(mem_read_le(&r.mem, gpa(PA + 0x30), 4), 7);
	assert_int_equal(apic_accesses, 2);
	rig_close(&r);
}

static unsigned vapic_calls, vapic_fetches;
static u64 vapic_page(const struct cpu *c) { return PA; }
static bool vapic(struct cpu *c, u32 off, unsigned size, bool write, bool fetch, u64 *value, gva_t la)
{
	vapic_calls++;
	vapic_fetches += fetch;
	c->fault.kind = EVENT_VIRT;
	*value = 0x77;
	return off != 0x300 && !fetch;
}
static void tag(const struct cpu *c, u16 *v, u64 *root) { *v = 1; *root = 0; }
static bool no_npt(const struct cpu *c) { return false; }
static const struct virt_ops vapic_ops = { .tlb_tag = tag, .npt_enabled = no_npt,
	.apic_access_page = vapic_page, .virtual_apic = vapic };

static void the_vmx_apic_access_page_is_virtual_in_guest_mode(void **state)
{
	struct rig r;
	u64 v;
	rig_open(&r, RIG_64);
	rig_map(&r, LA, PA, P | W, 12);
	r.cpu->virt = &vapic_ops;
	rig_expect_ok(&r, LA, ACC_W);
	assert_int_equal(vapic_calls, 0);
	r.cpu->arch.guest_mode = 1;
	mmu_switch(r.cpu);
	assert_true(mmu_read(r.cpu, LA + 0x80, 4, &v));
	assert_int_equal(v, 0x77);
	assert_false(mmu_write(r.cpu, LA + 0x300, 4, 0));
	assert_int_equal(r.cpu->fault.kind, EVENT_VIRT);
	assert_int_equal(vapic_calls, 2);
	assert_null(mmu_fetch(r.cpu, LA));
	assert_int_equal(vapic_fetches, 1);
	rig_close(&r);
}

/* ---- code and dirty pages ---- */
static unsigned heard, heard_first, heard_last;
static void hear(void *opaque, u64 frame, unsigned first, unsigned last)
{
	heard++;
	heard_first = first;
	heard_last = last;
}

static void writes_to_lines_with_code_are_heard_others_are_not(void **state)
{
	struct rig r;
	open_pair(&r, P | W, P | W);
	mem_add_listener(&r.mem, (struct mem_listener){ hear, NULL });
	r.mem.code_lines[PA >> 12] = bit(3) | bit(5) | bit(63);
	heard = 0;
	assert_true(mmu_write(r.cpu, LA + 0x80, 8, 1));
	assert_int_equal(heard, 0);
	assert_true(mmu_write(r.cpu, LA + 0xbe, 4, 1));
	assert_int_equal(heard, 1);
	assert_int_equal(heard_first, 2);
	assert_int_equal(heard_last, 3);
	assert_true(mmu_write(r.cpu, LA + 0xfff, 8, 1)); /* last byte of the page, rest on the next */
	assert_int_equal(heard, 2);
	bool slow;
	assert_null(mmu_rmw(r.cpu, LA + 0x10, 4, &slow));
	assert_true(slow);
	u64 len = 8;
	assert_null(mmu_span(r.cpu, LA + 0x10, true, &len));
	assert_int_equal(r.cpu->fault.kind, EVENT_NONE);
	assert_non_null(mmu_span(r.cpu, LA + 0x10, false, &len));
	rig_close(&r);
}

static void the_dirty_log_sees_first_writes(void **state)
{
	struct rig r;
	open_pair(&r, P | W | D | A, P | W | D | A);
	rig_expect_ok(&r, LA, ACC_W);
	r.mem.dirty_log = true;
	mmu_flush_all(r.cpu);
	rig_expect_ok(&r, LA, ACC_R);
	assert_null(mmu_hit(r.cpu, LA, TLB_W(1)));
	assert_false(r.mem.dirty[(PA >> 12) / 64] & bit((PA >> 12) % 64));
	rig_expect_ok(&r, LA, ACC_W);
	assert_true(r.mem.dirty[(PA >> 12) / 64] & bit((PA >> 12) % 64));
	assert_non_null(mmu_hit(r.cpu, LA, TLB_W(1)));
	rig_close(&r);
}

/* ---- alignment and breakpoints ---- */

static void alignment_checks_at_cpl_3_only(void **state)
{
	struct rig r;
	u64 v;
	open_pair(&r, P | W | U, P | W | U);
	r.cpu->arch.cr0 |= CR0_AM;
	r.cpu->arch.rflags |= FLAG_AC;
	rig_user(&r, true);
	assert_int_equal(r.cpu->acc_class, 3);
	assert_true(mmu_read(r.cpu, LA + 8, 8, &v));
	assert_false(mmu_read(r.cpu, LA + 4, 8, &v));
	rig_expect_vector(&r, VEC_AC);
	assert_int_equal(r.cpu->fault.has_error, 1);
	assert_int_equal(r.cpu->fault.error, 0);
	assert_false(mmu_write(r.cpu, LA + 1, 2, 0));
	assert_true(mmu_read_sys(r.cpu, LA + 1, 2, &v));
	bool slow;
	assert_null(mmu_rmw(r.cpu, LA + 2, 4, &slow));
	assert_true(slow);
	rig_user(&r, false);
	assert_true(mmu_read(r.cpu, LA + 4, 8, &v));
	rig_close(&r);
}

static void data_breakpoints_are_told_of_every_access(void **state)
{
	struct rig r;
	u64 v, len = 8;
	open_pair(&r, P | W | U, P | W | U);
	r.cpu->arch.dr[7] = BIT(0); /* instruction breakpoints leave the fast path alone */
	rig_update(&r);
	assert_int_equal(r.cpu->acc_class, 1);
	r.cpu->arch.dr[7] = BIT(2) | 3ull << 20;
	rig_update(&r);
	assert_int_equal(r.cpu->acc_class, 3);
	assert_true(mmu_read(r.cpu, LA + 0x40, 4, &v));
	assert_int_equal(r.debug_calls, 1);
	assert_int_equal(r.debug_la, LA + 0x40);
	assert_int_equal(r.debug_size, 4);
	assert_false(r.debug_write);
	assert_true(mmu_write(r.cpu, LA + 0xffe, 4, 0));
	assert_int_equal(r.debug_calls, 3);
	assert_true(r.debug_write);
	assert_null(mmu_span(r.cpu, LA, true, &len));
	assert_int_equal(r.cpu->fault.kind, EVENT_NONE);
	rig_close(&r);
}

/* ---- read-modify-write ---- */

static void add_one(void *bytes, void *arg)
{
	u64 v;
	memcpy(&v, bytes, 8);
	v++;
	memcpy(bytes, &v, 8);
}

static void slow_read_modify_write_works_on_anything(void **state)
{
	struct rig r;
	open_pair(&r, P | W, P | W);
	assert_true(mmu_write(r.cpu, LA + 0xffe, 4, 0x0001ffff));
	bool slow;
	assert_null(mmu_rmw(r.cpu, LA + 0xffe, 4, &slow));
	assert_true(slow);
	u64 v;
	assert_true(mmu_rmw_slow(r.cpu, LA + 0xffe, 4, add_one, NULL));
	assert_true(mmu_read(r.cpu, LA + 0xffe, 4, &v));
	assert_int_equal(v, 0x00020000);
	assert_true(mmu_rmw_slow(r.cpu, LA + 0x20, 16, add_one, NULL));
	assert_int_equal(mem_read_le(&r.mem, gpa(PA + 0x20), 8), 1);
	for (unsigned size = 1; size <= 8; size *= 2)
		assert_true(mmu_rmw_slow(r.cpu, LA + 0x30, size, add_one, NULL));
	assert_int_equal(mem_read_le(&r.mem, gpa(PA + 0x30), 8), 4);
	rig_map(&r, LA + 0x2000, RIG_DEVICE, P | W, 12);
	assert_true(mmu_rmw_slow(r.cpu, LA + 0x2000, 4, add_one, NULL));
	assert_int_equal(r.io_value, 0x55667789);
	rig_close(&r);
}

static void crossing_onto_the_next_host_page_stays_direct(void **state)
{
	struct rig r;
	rig_open(&r, RIG_64);
	rig_map(&r, LA, PA, P | W, 12);
	rig_map(&r, LA + 0x1000, PA + 0x1000, P | W, 12);
	bool slow = true;
	void *p = mmu_rmw(r.cpu, LA + 0xffc, 8, &slow);
	assert_ptr_equal(p, mem_ptr(&r.mem, gpa(PA + 0xffc), 8));
	assert_false(slow);
	rig_close(&r);
}

#define RACE_LOOPS 200000
static void *race(void *arg)
{
	u64 *p = arg;
	for (unsigned i = 0; i < RACE_LOOPS; i++)
		__atomic_fetch_add(p, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void slow_words_do_not_lose_another_vcpus_updates(void **state)
{
	struct rig r;
	pthread_t t;
	rig_open(&r, RIG_64);
	rig_map(&r, LA, PA, P | W, 12);
	r.mem.code_lines[PA >> 12] = bit(9);
	u64 *p = mem_ptr(&r.mem, gpa(PA), 8);
	pthread_create(&t, NULL, race, p);
	for (unsigned i = 0; i < RACE_LOOPS; i++)
		assert_true(mmu_rmw_slow(r.cpu, LA, 8, add_one, NULL));
	pthread_join(t, NULL);
	assert_int_equal(*p, 2 * RACE_LOOPS);
	rig_close(&r);
}

/* ---- strings, fetch ---- */

static void spans_end_at_the_page(void **state)
{
	struct rig r;
	open_pair(&r, P | W, P);
	u64 len = 10000;
	u8 *p = mmu_span(r.cpu, LA + 0x100, true, &len);
	assert_ptr_equal(p, mem_ptr(&r.mem, gpa(PA + 0x100), 1));
	assert_int_equal(len, 0xf00);
	len = 16;
	assert_non_null(mmu_span(r.cpu, LA + 0x1000, false, &len));
	assert_int_equal(len, 16);
	assert_null(mmu_span(r.cpu, LA + 0x1000, true, &len));
	rig_expect_vector(&r, VEC_PF);
	rig_close(&r);
}

static void fetch_crosses_pages_and_names_the_byte_that_fails(void **state)
{
	struct rig r;
	u8 bytes[15];
	u64 where = 0;
	open_pair(&r, P, P);
	mem_write(&r.mem, gpa(PA + 0xff8), "abcdefgh", 8);
	mem_write(&r.mem, gpa(PA + 0x8000), "ijklmnop", 8);
	assert_int_equal(mmu_fetch_bytes(r.cpu, LA + 0xff8, bytes, 15, &where), 15);
	assert_memory_equal(bytes, "abcdefghijklmno", 15);
	rig_set(&r, rig_entry(&r, LA + 0x1000, 0), 0);
	mmu_flush_all(r.cpu);
	assert_int_equal(mmu_fetch_bytes(r.cpu, LA + 0xff8, bytes, 15, &where), 8);
	assert_int_equal(where, LA + 0x1000);
	assert_int_equal(r.cpu->fault.kind, EVENT_NONE);
	assert_null(mmu_fetch(r.cpu, where));
	assert_int_equal(r.cpu->fault.payload, LA + 0x1000);
	assert_int_equal(mmu_fetch_bytes(r.cpu, LA + 0x1000, bytes, 15, &where), 0);
	rig_expect_vector(&r, VEC_PF);
	rig_map(&r, LA, RIG_DEVICE, P, 12);
	mmu_flush_all(r.cpu);
	assert_int_equal(mmu_fetch(r.cpu, LA)->frame, TLB_NO_FRAME);
	assert_int_equal(mmu_fetch_bytes(r.cpu, LA, bytes, 4, &where), 4);
	assert_int_equal(bytes[3], 0x88);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crossing_reads_and_writes_reach_both_pages),
		cmocka_unit_test(a_fault_on_the_second_page_changes_nothing),
		cmocka_unit_test(non_canonical_addresses_are_gp),
		cmocka_unit_test(outside_64_bit_mode_addresses_wrap_at_4g),
		cmocka_unit_test(devices_hear_each_access_with_its_size),
		cmocka_unit_test(rom_reads_directly_and_writes_reach_the_bus),
		cmocka_unit_test(the_local_apic_page_hides_what_is_below),
		cmocka_unit_test(the_vmx_apic_access_page_is_virtual_in_guest_mode),
		cmocka_unit_test(writes_to_lines_with_code_are_heard_others_are_not),
		cmocka_unit_test(the_dirty_log_sees_first_writes),
		cmocka_unit_test(alignment_checks_at_cpl_3_only),
		cmocka_unit_test(data_breakpoints_are_told_of_every_access),
		cmocka_unit_test(slow_read_modify_write_works_on_anything),
		cmocka_unit_test(crossing_onto_the_next_host_page_stays_direct),
		cmocka_unit_test(slow_words_do_not_lose_another_vcpus_updates),
		cmocka_unit_test(spans_end_at_the_page),
		cmocka_unit_test(fetch_crosses_pages_and_names_the_byte_that_fails),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
