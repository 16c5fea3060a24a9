/* A driver gone mad in front of the SATA controller: registers, command lists, tables and FISes hold rubbish, or nearly sense. */
#include "fuzz_input.h"
#include "dev_rig.h"
#include "rig_disk.h"
#include "dev/ahci.h"
#include "base/log.h"

enum { ABAR = 0xc1000000, LIST = 0x10000, TABLE = 0x20000, ARENA_BYTES = 0x20000 };

static struct rig *r;

static void create(void)
{
	r = rig_create();
	struct ahci *a = ahci_create(r->pci, 31, 2);

	ahci_attach(a, rig_scratch_disk(64 * 512), false, "fuzz");
	ahci_attach(a, rig_scratch_disk(64 * 2048), true, "fuzz");
	log_set_level(LOG_ERROR);
}

static u64 address(struct fuzz_input *in)
{
	return fuzz_take(in, 1) < 220 ? LIST + fuzz_take(in, 2) % ARENA_BYTES : fuzz_take(in, 8);
}

static void op_command(struct fuzz_input *in)
{
	static const u8 ata[16] = { 0x25, 0x35, 0x60, 0x61, 0xec, 0xea, 0x06, 0xef, 0x2f, 0xa0, 0xa1, 0xc8, 0x20, 0xa0, 0xa0, 0xe7 };
	static const u8 cdb[16] = { 0x00, 0x03, 0x12, 0x25, 0x28, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0xa8, 0xbd, 0xbe, 0x28, 0xa8, 0x28 };
	u8 h[32] = { 5 }, t[0xc0] = { 0x27, 0x80, ata[fuzz_take(in, 1) & 15], (u8)fuzz_take(in, 1), (u8)fuzz_take(in, 1) & 63 };
	unsigned slot = fuzz_take(in, 1) & 31, port = fuzz_take(in, 1) & 1;
	u64 table = TABLE + slot * 0x100;

	t[12] = (u8)fuzz_take(in, 1) & 15;
	t[0x40] = cdb[fuzz_take(in, 1) & 15];
	for (unsigned i = 1; i < 12; i++)
		t[0x40 + i] = (u8)fuzz_take(in, 1) & 31;
	h[2] = (u8)fuzz_take(in, 1) & 7;
	store_le(h + 8, fuzz_take(in, 1) < 240 ? table : address(in), 8);
	for (unsigned i = 0; i < 4; i++) {
		store_le(t + 0x80 + 16 * i, address(in), 8);
		store_le(t + 0x8c + 16 * i, fuzz_take(in, 2), 4);
	}
	if (fuzz_take(in, 1) < 20)
		t[fuzz_take(in, 1) % 64] = (u8)fuzz_take(in, 1);
	mem_write(&r->mem, gpa(LIST + port * 0x400 + slot * 32), h, sizeof(h));
	mem_write(&r->mem, gpa(table), t, sizeof(t));
}

static void op_issue(struct fuzz_input *in)
{
	u64 port = ABAR + 0x100 + (fuzz_take(in, 1) & 1) * 0x80;
	u32 slots = (u32)fuzz_take(in, 4);

	bus_mmio_write(&r->bus, port + 0x34, fuzz_take(in, 1) & 1 ? slots : 0, 4);
	bus_mmio_write(&r->bus, port + 0x38, slots, 4);
}

static void op_restart(struct fuzz_input *in)
{
	unsigned n = fuzz_take(in, 1) & 1;
	u64 port = ABAR + 0x100 + n * 0x80;

	bus_mmio_write(&r->bus, port + 0x18, 0, 4);
	bus_mmio_write(&r->bus, port + 0x00, LIST + n * 0x400, 8);
	bus_mmio_write(&r->bus, port + 0x08, LIST + 0x2000 + n * 0x100, 8);
	bus_mmio_write(&r->bus, port + 0x10, ~0u, 4);
	bus_mmio_write(&r->bus, port + 0x30, ~0u, 4);
	bus_mmio_write(&r->bus, port + 0x18, 0x11, 4);
}

static void op_register(struct fuzz_input *in)
{
	unsigned size = fuzz_size(in);
	u64 at = ABAR + (fuzz_take(in, 2) & 0x1ff & ~(u64)(size - 1));

	bus_mmio_write(&r->bus, at, fuzz_take(in, size), size);
	bus_mmio_read(&r->bus, at, size);
}

static void op_memory(struct fuzz_input *in) { mem_write_le(&r->mem, gpa(address(in)), fuzz_take(in, 8), 8); }
static void op_wait(struct fuzz_input *in) { dev_list_quiesce(&r->devs); }

static void (*const op[8])(struct fuzz_input *in) = { op_command, op_issue, op_command, op_register, op_restart, op_memory, op_issue, op_wait };

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };
	u64 ecam = RIG_ECAM + (31 << 15) + (2 << 12);

	if (!r)
		create();
	dev_list_quiesce(&r->devs);
	dev_list_reset(&r->devs);
	bus_mmio_write(&r->bus, ecam + 0x24, ABAR, 4);
	bus_mmio_write(&r->bus, ecam + 4, 6, 2);
	for (unsigned i = 0; i < 2; i++) {
		struct fuzz_input port = { (const u8 *)&i, (const u8 *)&i + 1 };

		op_restart(&port);
	}
	while (fuzz_more(&in))
		op[fuzz_take(&in, 1) & 7](&in);
	rig_check_save_load(r);
	return 0;
}
