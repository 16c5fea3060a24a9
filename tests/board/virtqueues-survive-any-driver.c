/* Transport and rings, with the entropy device as the simplest user: what drivers may do, and what broken ones do. */
#include "virtio_driver.h"
#include "virtio/virtio_rng.h"

enum { SLOT = 2, BUF = 0x100000 };

static struct rig *r;
static struct vdrv d;
static struct virtio_device *v;

static int setup(void **state)
{
	r = rig_create();
	v = virtio_rng_create(r->pci, SLOT);
	return 0;
}

static int teardown(void **state)
{
	rig_check_save_load(r);
	rig_free(r);
	return 0;
}

static void start(u64 features) { vdrv_start(&d, r, SLOT, features, 1); }

static void assert_broken(void)
{
	u32 head, len;

	assert_true(vdrv_status(&d) & VIRTIO_S_NEEDS_RESET);
	assert_int_equal(r->msi_data[r->msis % 16], 0x41); /* configuration change */
	assert_false(vdrv_used(&d, 0, &head, &len));
	vdrv_set_common(&d, 0x14, 0, 1);
	assert_int_equal(vdrv_status(&d), 0);
}

static void the_device_is_a_modern_one(void **state)
{
	vdrv_find(&d, r, SLOT);
	assert_int_equal(cfg_get(r, SLOT, 0, 4), 0x10441af4);
	assert_int_equal(cfg_get(r, SLOT, PCI_REVISION, 1), 1);
	assert_int_equal(vdrv_common(&d, 0x12, 2), 1);
	assert_true((vdrv_offered(&d) & VIRTIO_F_VERSION_1) != 0);
	assert_int_equal(vdrv_common(&d, 0x18, 2), 64);
}

static void features_not_offered_are_refused(void **state)
{
	vdrv_find(&d, r, SLOT);
	assert_int_equal(vdrv_negotiate(&d, VIRTIO_F_VERSION_1 | BIT(40)), 3);
	vdrv_set_common(&d, 0x14, 0, 1);
	assert_int_equal(vdrv_negotiate(&d, 0), 3); /* a driver from before 1.0 */
	vdrv_set_common(&d, 0x14, 0, 1);
	assert_int_equal(vdrv_negotiate(&d, VIRTIO_F_VERSION_1), 0x0b);
}

static void a_request_is_served_and_signalled(void **state)
{
	struct vbuf b = { BUF, 64, VD_WRITE };
	u8 zero[64] = { 0 }, got[64];
	u32 head, len;

	start(0);
	u16 want = vdrv_add(&d, 0, &b, 1);

	vdrv_kick(&d, 0);
	assert_true(vdrv_used(&d, 0, &head, &len));
	assert_int_equal(head, want);
	assert_int_equal(len, 64);
	mem_read(&r->mem, gpa(BUF), got, 64);
	assert_memory_not_equal(got, zero, 64);
	assert_int_equal(r->msis, 1);
	assert_int_equal(r->msi_data[1], 0x40);
}

static void without_msix_the_isr_and_intx_tell(void **state)
{
	struct vbuf b = { BUF, 8, VD_WRITE };
	unsigned gsi = 16 + SLOT;

	start(0);
	cfg_set(r, SLOT, cfg_find_cap(r, SLOT, PCI_CAP_MSIX, 0) + 2, 0, 2);
	vdrv_add(&d, 0, &b, 1);
	vdrv_kick(&d, 0);
	assert_int_equal(r->level[gsi], 1);
	assert_int_equal(bus_mmio_read(&r->bus, d.isr, 1), 1);
	assert_int_equal(r->level[gsi], 0);
	assert_int_equal(bus_mmio_read(&r->bus, d.isr, 1), 0);
}

static void indirect_chains_work(void **state)
{
	u64 table = 0x180000;
	u32 head, len;

	start(VIRTIO_F_INDIRECT_DESC);
	for (unsigned i = 0; i < 3; i++) {
		mem_write_le(&r->mem, gpa(table + 16 * i), BUF + 0x1000 * i, 8);
		mem_write_le(&r->mem, gpa(table + 16 * i + 8), 100, 4);
		mem_write_le(&r->mem, gpa(table + 16 * i + 12), i < 2 ? 3 : 2, 2);
		mem_write_le(&r->mem, gpa(table + 16 * i + 14), i + 1, 2);
	}
	vdrv_desc(&d, 0, 5, table, 48, VD_INDIRECT, 0);
	vdrv_publish(&d, 0, 5);
	vdrv_kick(&d, 0);
	assert_true(vdrv_used(&d, 0, &head, &len));
	assert_int_equal(head, 5);
	assert_int_equal(len, 300);
}

static void the_ring_wraps(void **state)
{
	struct vbuf b = { BUF, 4, VD_WRITE };
	u32 head, len;

	start(0);
	for (unsigned i = 0; i < 70000; i++) {
		u16 want = vdrv_add(&d, 0, &b, 1);

		vdrv_kick(&d, 0);
		assert_true(vdrv_used(&d, 0, &head, &len));
		assert_int_equal(head, want);
	}
}

static void event_index_suppresses_interrupts(void **state)
{
	struct vbuf b = { BUF, 4, VD_WRITE };
	u32 head, len;

	start(VIRTIO_F_EVENT_IDX);
	for (unsigned i = 0; i < 6; i++) {
		mem_write_le(&r->mem, gpa(d.q[0].avail + 4 + 2 * VD_QSIZE), 3, 2); /* used_event: after the fourth */
		vdrv_add(&d, 0, &b, 1);
		vdrv_kick(&d, 0);
		assert_true(vdrv_used(&d, 0, &head, &len));
		assert_int_equal(r->msis, i >= 3);
	}
	assert_int_equal(mem_read_le(&r->mem, gpa(d.q[0].used + 4 + 8 * VD_QSIZE), 2), 6); /* avail_event */
}

static void the_no_interrupt_flag_is_honoured(void **state)
{
	struct vbuf b = { BUF, 4, VD_WRITE };

	start(0);
	mem_write_le(&r->mem, gpa(d.q[0].avail), 1, 2);
	vdrv_add(&d, 0, &b, 1);
	vdrv_kick(&d, 0);
	assert_int_equal(r->msis, 0);
}

static void nothing_is_served_before_driver_ok(void **state)
{
	struct vbuf b = { BUF, 4, VD_WRITE };
	u32 head, len;

	vdrv_find(&d, r, SLOT);
	vdrv_negotiate(&d, VIRTIO_F_VERSION_1);
	vdrv_queue(&d, 0, VD_QSIZE);
	vdrv_add(&d, 0, &b, 1);
	vdrv_kick(&d, 0);
	assert_false(vdrv_used(&d, 0, &head, &len));
	vdrv_set_common(&d, 0x14, 0x0f, 1);
	assert_true(vdrv_used(&d, 0, &head, &len));
}

static void queue_registers_refuse_nonsense(void **state)
{
	vdrv_find(&d, r, SLOT);
	vdrv_set_common(&d, 0x18, 65, 2);
	assert_int_equal(vdrv_common(&d, 0x18, 2), 64);
	vdrv_set_common(&d, 0x18, 0, 2);
	assert_int_equal(vdrv_common(&d, 0x18, 2), 64);
	vdrv_set_common(&d, 0x18, 12, 2);
	assert_int_equal(vdrv_common(&d, 0x18, 2), 64);
	vdrv_set_common(&d, 0x1a, 7, 2); /* there are two vectors */
	assert_int_equal(vdrv_common(&d, 0x1a, 2), 0xffff);
	vdrv_set_common(&d, 0x16, 9, 2);
	assert_int_equal(vdrv_common(&d, 0x18, 2), 0);
	vdrv_set_common(&d, 0x1c, 1, 2);
	assert_int_equal(vdrv_common(&d, 0x1c, 2), 0);
	start(0);
	vdrv_set_common(&d, 0x20, 0x5000, 8); /* an enabled queue stays where it is */
	assert_int_equal(vdrv_common(&d, 0x20, 8), d.q[0].desc);
}

static void the_configuration_window_reaches_registers(void **state)
{
	unsigned cap;

	vdrv_find(&d, r, SLOT);
	for (cap = cfg_find_cap(r, SLOT, PCI_CAP_VENDOR, 0); cfg_get(r, SLOT, cap + 3, 1) != 5;)
		cap = cfg_find_cap(r, SLOT, PCI_CAP_VENDOR, cap);
	cfg_set(r, SLOT, cap + 4, 4, 1);
	cfg_set(r, SLOT, cap + 8, 0x14, 4);
	cfg_set(r, SLOT, cap + 12, 1, 4);
	cfg_set(r, SLOT, cap + 16, VIRTIO_S_ACK, 4);
	assert_int_equal(vdrv_status(&d), VIRTIO_S_ACK);
	assert_int_equal(cfg_get(r, SLOT, cap + 16, 4), VIRTIO_S_ACK);
	cfg_set(r, SLOT, cap + 8, 0xfffffffc, 4);
	cfg_set(r, SLOT, cap + 16, 0xff, 4);
}

/* Each row is a way to break the rules; none may do more than ask for a reset. */
static void bad_head(void) { vdrv_publish(&d, 0, VD_QSIZE); }
static void loop(void)
{
	vdrv_desc(&d, 0, 0, BUF, 4, 3, 1);
	vdrv_desc(&d, 0, 1, BUF, 4, 3, 0);
	vdrv_publish(&d, 0, 0);
}
static void outside(void) { vdrv_add(&d, 0, &(struct vbuf){ 0x100000000ull, 4, VD_WRITE }, 1); }
static void wraps(void) { vdrv_add(&d, 0, &(struct vbuf){ ~(u64)0, 4, VD_WRITE }, 1); }
static void too_long(void) { vdrv_add(&d, 0, &(struct vbuf){ BUF, 0xffffffff, VD_WRITE }, 1); }
static void into_rom(void) { vdrv_add(&d, 0, &(struct vbuf){ 0xfffc0000, 16, VD_WRITE }, 1); }
static void order(void) { vdrv_add(&d, 0, (struct vbuf[]){ { BUF, 4, VD_WRITE }, { BUF, 4, 0 } }, 2); }
static void index_jump(void) { mem_write_le(&r->mem, gpa(d.q[0].avail + 2), VD_QSIZE + 1, 2); }
static void indirect_not_negotiated(void)
{
	vdrv_desc(&d, 0, 0, 0x180000, 16, VD_INDIRECT, 0);
	vdrv_publish(&d, 0, 0);
}

static void broken_rules_only_break_the_device(void **state)
{
	static void (*const how[])(void) = { bad_head, loop, outside, wraps, too_long, into_rom, order, index_jump, indirect_not_negotiated };

	for (unsigned i = 0; i < array_len(how); i++) {
		start(0);
		how[i]();
		vdrv_kick(&d, 0);
		assert_broken();
	}
}

static void bad_indirect_tables_only_break_the_device(void **state)
{
	static const struct { u64 at; u32 len; u16 flags; } row[] = {
		{ 0x180000, 15, VD_INDIRECT }, { 0x180000, 0, VD_INDIRECT }, { 0x180000, 16, VD_INDIRECT | 1 },
		{ 0x180000, 16, VD_INDIRECT | VD_WRITE }, { 0xfffffffff0000000, 16, VD_INDIRECT }, { 0x180000, 0xfffffff0, VD_INDIRECT },
		{ 0x180000, 32, VD_INDIRECT }, /* its first entry is indirect again */
	};

	mem_write_le(&r->mem, gpa(0x180000 + 8), 16, 4);
	mem_write_le(&r->mem, gpa(0x180000 + 12), VD_INDIRECT, 2);
	for (unsigned i = 0; i < array_len(row); i++) {
		start(VIRTIO_F_INDIRECT_DESC);
		vdrv_desc(&d, 0, 0, row[i].at, row[i].len, row[i].flags, 1);
		vdrv_publish(&d, 0, 0);
		vdrv_kick(&d, 0);
		assert_broken();
	}
}

static void rings_outside_memory_only_break_the_device(void **state)
{
	vdrv_find(&d, r, SLOT);
	vdrv_negotiate(&d, VIRTIO_F_VERSION_1);
	vdrv_set_common(&d, 0x16, 0, 2);
	vdrv_set_common(&d, 0x20, 0xffffffffffff0000, 8);
	vdrv_set_common(&d, 0x28, 0xfffffffffffffffc, 8);
	vdrv_set_common(&d, 0x30, 0x800000000, 8);
	vdrv_set_common(&d, 0x1c, 1, 2);
	vdrv_set_common(&d, 0x14, 0x0f, 1);
	vdrv_kick(&d, 0);
	assert_true(vdrv_status(&d) & VIRTIO_S_NEEDS_RESET);
	vdrv_kick(&d, 5);
}

static void a_queue_that_never_runs_dry_gives_the_bus_back(void **state)
{
	u32 head, len;
	unsigned n = 0;

	vdrv_find(&d, r, SLOT);
	vdrv_negotiate(&d, VIRTIO_F_VERSION_1);
	vdrv_queue(&d, 0, 64);
	vdrv_set_common(&d, 0x14, 0x0f, 1);
	for (unsigned i = 0; i < 64; i++)
		vdrv_add(&d, 0, &(struct vbuf){ BUF, 4, VD_WRITE }, 1);
	vdrv_kick(&d, 0);
	assert_int_equal(v->regs.later, 1);
	rig_advance(r, 100000);
	assert_int_equal(v->regs.later, 0);
	while (vdrv_used(&d, 0, &head, &len))
		n++;
	assert_int_equal(n, 64);
}

static void state_survives_a_running_driver(void **state)
{
	struct vbuf b = { BUF, 4, VD_WRITE };
	u32 head, len;

	start(VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC);
	vdrv_add(&d, 0, &b, 1);
	vdrv_kick(&d, 0);
	rig_check_save_load(r);
	assert_true(vdrv_used(&d, 0, &head, &len));
	vdrv_add(&d, 0, &b, 1);
	vdrv_kick(&d, 0);
	assert_true(vdrv_used(&d, 0, &head, &len));
}

static void registers_from_a_bad_snapshot_do_no_harm(void **state)
{
	struct state_buf b = { 0 };
	size_t pos = 0;

	start(0);
	v->regs.queue[0].size = 3;
	v->regs.queue[5].enabled = 1;
	dev_list_save(&r->devs, &b);
	assert_int_equal(dev_list_load(&r->devs, &b, &pos), 0);
	state_buf_free(&b);
	assert_int_equal(v->regs.queue[0].enabled, 0);
	vdrv_kick(&d, 0);
	vdrv_kick(&d, 5);
	start(0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_device_is_a_modern_one), T(features_not_offered_are_refused), T(a_request_is_served_and_signalled),
		T(without_msix_the_isr_and_intx_tell), T(indirect_chains_work), T(the_ring_wraps), T(event_index_suppresses_interrupts),
		T(the_no_interrupt_flag_is_honoured), T(nothing_is_served_before_driver_ok), T(queue_registers_refuse_nonsense),
		T(the_configuration_window_reaches_registers), T(broken_rules_only_break_the_device),
		T(bad_indirect_tables_only_break_the_device), T(rings_outside_memory_only_break_the_device),
		T(a_queue_that_never_runs_dry_gives_the_bus_back), T(state_survives_a_running_driver),
		T(registers_from_a_bad_snapshot_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
