/* dev/ahci, ata, atapi: commands as a driver issues them, and what comes back. Port 0 is a disk of 64 sectors, port 1 a CD-ROM of 16 blocks. */
#include "dev_rig.h"
#include "rig_disk.h"
#include "dev/ahci.h"

enum { ABAR = 0xc1000000, LIST = 0x10000, FIS = 0x11000, TABLE = 0x12000, DATA = 0x20000 };
enum { P_IS = 0x10, P_IE = 0x14, P_CMD = 0x18, P_TFD = 0x20, P_SIG = 0x24, P_SSTS = 0x28, P_SCTL = 0x2c, P_SERR = 0x30, P_SACT = 0x34, P_CI = 0x38 };

static struct rig *r;
static struct disk *disk, *cd;

static u32 port_get(unsigned p, u32 reg) { return (u32)bus_mmio_read(&r->bus, ABAR + 0x100 + p * 0x80 + reg, 4); }
static void port_set(unsigned p, u32 reg, u32 v) { bus_mmio_write(&r->bus, ABAR + 0x100 + p * 0x80 + reg, v, 4); }

static int setup(void **state)
{
	r = rig_create();
	struct ahci *a = ahci_create(r->pci, 31, 2);
	disk = rig_scratch_disk(64 * 512);
	cd = rig_scratch_disk(16 * 2048);
	assert_int_equal(ahci_attach(a, disk, false, "serial-1"), 0);
	assert_int_equal(ahci_attach(a, cd, true, "cd"), 0);
	/* 31.2 is beyond cfg_set's function 0: by ECAM. */
	u64 ecam = RIG_ECAM + (31 << 15) + (2 << 12);
	bus_mmio_write(&r->bus, ecam + 0x24, ABAR, 4);
	bus_mmio_write(&r->bus, ecam + 4, 6, 2);
	for (unsigned p = 0; p < 2; p++) {
		port_set(p, 0x00, LIST + p * 0x400);
		port_set(p, 0x08, FIS + p * 0x100);
		port_set(p, P_SERR, ~0u);
		port_set(p, P_IS, ~0u);
		port_set(p, P_IE, ~0u);
		port_set(p, P_CMD, 0x11);
	}
	bus_mmio_write(&r->bus, ABAR + 4, 2, 4);
	return 0;
}
static int teardown(void **state)
{
	rig_free(r);
	disk_close(disk);
	disk_close(cd);
	return 0;
}

/* Slot's command: ATA command with 48-bit LBA and count, one PRD of bytes at DATA. */
static void prepare(unsigned p, unsigned slot, u8 command, u64 lba, u32 count, u32 bytes, bool write)
{
	u8 h[32] = { 5 | (write ? 0x40 : 0), 0, bytes ? 1 : 0 }, t[0x90] = { 0x27, 0x80, command };
	u32 table = TABLE + slot * 0x100;
	t[4] = (u8)lba; t[5] = (u8)(lba >> 8); t[6] = (u8)(lba >> 16); t[7] = 0x40; t[8] = (u8)(lba >> 24);
	t[12] = (u8)count; t[13] = (u8)(count >> 8);
	if (command == 0x60 || command == 0x61) {
		t[3] = (u8)count;
		t[12] = (u8)(slot << 3);
	}
	store_le(h + 8, table, 4);
	store_le(t + 0x80, DATA + slot * 0x4000, 4);
	store_le(t + 0x8c, bytes - 1, 4);
	mem_write(&r->mem, gpa(LIST + p * 0x400 + slot * 32), h, sizeof h);
	mem_write(&r->mem, gpa(table), t, sizeof t);
}

static void packet(unsigned slot, const u8 cdb[12])
{
	prepare(1, slot, 0xa0, 0, 0, 0x4000, false);
	mem_write(&r->mem, gpa(TABLE + slot * 0x100 + 0x40), cdb, 12);
}

static void go(unsigned p, u32 slots)
{
	port_set(p, P_CI, slots);
	dev_list_quiesce(&r->devs);
}

static void the_ports_show_what_is_plugged_in(void **state)
{
	assert_int_equal(port_get(0, P_SIG), 0x00000101);
	assert_int_equal(port_get(1, P_SIG), 0xeb140101);
	assert_int_equal(port_get(0, P_SSTS) & 15, 3);
	assert_int_equal(port_get(2, P_SSTS), 0);
	assert_int_equal(bus_mmio_read(&r->bus, ABAR, 4) & 0x1f, 5);
}

static void identify_tells_size_and_serial(void **state)
{
	u8 id[512];
	prepare(0, 0, 0xec, 0, 0, 512, false);
	go(0, 1);
	assert_int_equal(port_get(0, P_CI), 0);
	assert_int_equal(port_get(0, P_IS) & 2, 2);
	mem_read(&r->mem, gpa(DATA), id, sizeof id);
	assert_int_equal(load_le(id + 200, 8), 64);
	assert_memory_equal(id + 20, "esirla1-", 8);
	assert_int_equal(mem_read_le(&r->mem, gpa(LIST + 4), 4), 512);
}

static void written_sectors_read_back_and_interrupt(void **state)
{
	u8 out[1024], in[1024];
	for (unsigned i = 0; i < sizeof out; i++)
		out[i] = (u8)(i * 7);
	mem_write(&r->mem, gpa(DATA), out, sizeof out);
	prepare(0, 0, 0x35, 3, 2, sizeof out, true);
	go(0, 1);
	assert_int_equal(port_get(0, P_TFD) & 0xff, 0x50);
	assert_int_equal(bus_mmio_read(&r->bus, ABAR + 8, 4) & 1, 1);
	prepare(0, 2, 0x25, 3, 2, sizeof out, false);
	go(0, 4);
	mem_read(&r->mem, gpa(DATA + 2 * 0x4000), in, sizeof in);
	assert_memory_equal(in, out, sizeof in);
}

static void queued_commands_end_in_any_order_with_set_device_bits(void **state)
{
	for (unsigned s = 0; s < 8; s++)
		prepare(0, s, 0x60, s, 1, 512, false);
	port_set(0, P_SACT, 0xff);
	go(0, 0xff);
	assert_int_equal(port_get(0, P_SACT), 0);
	assert_int_equal(port_get(0, P_CI), 0);
	assert_int_equal(port_get(0, P_IS) & 8, 8);
}

static void beyond_the_end_is_an_error_that_stops_the_port_until_it_is_restarted(void **state)
{
	prepare(0, 0, 0x25, 63, 2, 1024, false);
	prepare(0, 1, 0x25, 0, 1, 512, false);
	go(0, 3);
	assert_int_equal(port_get(0, P_TFD), 0x1041);
	assert_int_equal(port_get(0, P_IS) >> 30 & 1, 1);
	assert_int_equal(port_get(0, P_CI), 3);
	port_set(0, P_CMD, 0x10);
	assert_int_equal(port_get(0, P_CI), 0);
	port_set(0, P_IS, ~0u);
	port_set(0, P_CMD, 0x11);
	go(0, 2);
	assert_int_equal(port_get(0, P_CI), 0);
}

static void unknown_commands_are_aborted(void **state)
{
	prepare(0, 0, 0xb0, 0, 0, 512, false);
	go(0, 1);
	assert_int_equal(port_get(0, P_TFD), 0x0441);
}

static void a_reset_brings_the_signature_back(void **state)
{
	port_set(1, P_CMD, 0);
	port_set(1, P_SCTL, 1);
	assert_int_equal(port_get(1, P_SSTS), 0);
	port_set(1, P_SCTL, 0);
	assert_int_equal(port_get(1, P_SSTS) & 15, 3);
	assert_int_equal(port_get(1, P_SIG), 0xeb140101);
	assert_int_equal(port_get(1, P_SERR) >> 26 & 1, 1);
}

static void a_disc_is_read_by_packets(void **state)
{
	u8 block[2048], want[2048] = { 1, 2, 3 };
	u8 cap[8];
	packet(0, (const u8[12]){ 0x25 });
	go(1, 1);
	mem_read(&r->mem, gpa(DATA), cap, sizeof cap);
	assert_memory_equal(cap, ((const u8[8]){ 0, 0, 0, 15, 0, 0, 8, 0 }), 8);
	packet(1, (const u8[12]){ 0x28, 0, 0, 0, 0, 3, 0, 0, 1 });
	mem_write(&r->mem, gpa(DATA + 0x4000), want, sizeof want);
	go(1, 2);
	mem_read(&r->mem, gpa(DATA + 0x4000), block, sizeof block);
	memset(want, 0, sizeof want);
	assert_memory_equal(block, want, sizeof block); /* the scratch disc holds zeros */
	packet(2, (const u8[12]){ 0x28, 0, 0, 0, 0, 15, 0, 0, 2 });
	go(1, 4);
	assert_int_equal(port_get(1, P_TFD) & 1, 1);
	port_set(1, P_CMD, 0x10);
	port_set(1, P_IS, ~0u);
	port_set(1, P_CMD, 0x11);
	packet(3, (const u8[12]){ 0x03, 0, 0, 0, 18 });
	go(1, 8);
	mem_read(&r->mem, gpa(DATA + 3 * 0x4000), block, 18);
	assert_int_equal(block[2], 5);
	assert_int_equal(block[12], 0x21);
}

static void a_list_that_is_no_memory_is_a_host_bus_error(void **state)
{
	port_set(0, P_CMD, 0x10);
	port_set(0, 0x00, 0xdead0000);
	port_set(0, P_CMD, 0x11);
	go(0, 1);
	assert_int_equal(port_get(0, P_IS) >> 29 & 1, 1);
	rig_check_save_load(r);
}

static void trim_discards_every_range_or_none(void **state)
{
	u8 ones[512], in[512], list[512] = { 0 }, zeros[512] = { 0 };
	struct disk_counters k;

	memset(ones, 0xff, sizeof ones);
	for (unsigned s = 0; s < 64; s++)
		assert_int_equal(rig_disk_do(disk, DISK_WRITE, s * 512, ones, 512), 0);
	store_le(list, 8 | (u64)8 << 48, 8);
	store_le(list + 16, 40 | (u64)24 << 48, 8); /* after an empty one */
	mem_write(&r->mem, gpa(DATA), list, sizeof list);
	prepare(0, 0, 0x06, 0, 1, 512, true);
	mem_write_le(&r->mem, gpa(TABLE + 3), 1, 1);
	go(0, 1);
	assert_int_equal(port_get(0, P_TFD) & 0xff, 0x50);
	disk_get_counters(disk, &k);
	assert_int_equal(k.discards, 2);
	for (unsigned s = 0; s < 64; s++) {
		assert_int_equal(rig_disk_do(disk, DISK_READ, s * 512, in, 512), 0);
		assert_memory_equal(in, (s >= 8 && s < 16) || s >= 40 ? zeros : ones, 512);
	}
	store_le(list + 24, 60 | (u64)5 << 48, 8); /* beyond the end */
	mem_write(&r->mem, gpa(DATA), list, sizeof list);
	go(0, 1);
	assert_int_equal(port_get(0, P_TFD) & 0xff, 0x41);
	disk_get_counters(disk, &k);
	assert_int_equal(k.discards, 2);
}

/* As Linux does: IS is cleared last; what came meanwhile, or was left, is told by another message. */
static void with_msi_each_event_is_a_message_and_the_pin_is_silent(void **state)
{
	u64 ecam = RIG_ECAM + (31 << 15) + (2 << 12), cap = ecam + bus_mmio_read(&r->bus, ecam + 0x34, 1);
	unsigned pin = 16 + pci_pirq(31, 0);

	assert_int_equal(bus_mmio_read(&r->bus, cap, 1), 5);
	assert_int_equal(bus_mmio_read(&r->bus, cap + 2, 2), 0x80);
	port_set(0, P_IS, ~0u);
	port_set(1, P_IS, ~0u);
	bus_mmio_write(&r->bus, ABAR + 8, ~0u, 4);
	assert_int_equal(r->level[pin], 0);
	prepare(0, 0, 0xec, 0, 0, 512, false);
	go(0, 1);
	assert_int_equal(r->level[pin], 1);
	bus_mmio_write(&r->bus, cap + 4, 0xfee01000, 4);
	bus_mmio_write(&r->bus, cap + 8, 1, 4);
	bus_mmio_write(&r->bus, cap + 12, 0x4041, 2);
	bus_mmio_write(&r->bus, cap + 2, 1, 2);
	assert_int_equal(r->level[pin], 0);
	port_set(0, P_IS, ~0u);
	bus_mmio_write(&r->bus, ABAR + 8, 1, 4);
	assert_int_equal(r->msis, 0);
	go(0, 1);
	assert_int_equal(r->msis, 1);
	assert_true(r->msi_addr[1] == 0x1fee01000 && r->msi_data[1] == 0x4041);
	prepare(1, 0, 0xa1, 0, 0, 512, false);
	go(1, 1);
	assert_int_equal(r->msis, 2); /* another port */
	port_set(0, P_IS, ~0u);
	bus_mmio_write(&r->bus, ABAR + 8, 1, 4);
	assert_int_equal(r->msis, 3); /* port 1 is left */
	port_set(1, P_IS, ~0u);
	bus_mmio_write(&r->bus, ABAR + 8, 2, 4);
	assert_int_equal(r->msis, 3);
	assert_int_equal(r->level[pin], 0);
	rig_check_save_load(r);
	assert_int_equal(r->msis, 3);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_ports_show_what_is_plugged_in), T(identify_tells_size_and_serial), T(written_sectors_read_back_and_interrupt),
		T(queued_commands_end_in_any_order_with_set_device_bits), T(beyond_the_end_is_an_error_that_stops_the_port_until_it_is_restarted),
		T(unknown_commands_are_aborted), T(a_reset_brings_the_signature_back), T(a_disc_is_read_by_packets),
		T(a_list_that_is_no_memory_is_a_host_bus_error), T(trim_discards_every_range_or_none), T(with_msi_each_event_is_a_message_and_the_pin_is_silent),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
