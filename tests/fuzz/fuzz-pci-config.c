/* Configuration space by both ways, BARs that land anywhere, MSI-X tables, and all small ports of the board, with
 * rubbish. */
#include "fuzz_input.h"
#include "base/log.h"
#include "virtio_driver.h"
#include "dev/i8042.h"
#include "dev/pc_ports.h"
#include "dev/pc_testdev.h"
#include "dev/pci_testdev.h"
#include "dev/uart16550.h"
#include "virtio/virtio_console.h"
#include "virtio/virtio_rng.h"

static struct rig *r;

static void create(void)
{
	struct irq_line line[PC_TESTDEV_IRQS];

	r = rig_create();
	for (unsigned i = 0; i < PC_TESTDEV_IRQS; i++)
		line[i] = rig_line(r, i);
	pci_testdev_create(r->pci, 1);
	virtio_rng_create(r->pci, 2);
	virtio_console_create(r->pci, 3, &(struct virtio_console_config){ 0 });
	pc_testdev_create(&r->bus, &r->devs, line);
	pc_ports_create(&r->bus, &r->devs, NULL, NULL);
	i8042_create(&r->bus, &r->devs, rig_line(r, 1), rig_line(r, 12));
	uart16550_create(&r->bus, &r->devs, &(struct uart16550_config){ "com1", 0x3f8, rig_line(r, 4), NULL, NULL, NULL });
	log_set_level(LOG_ERROR);
}

static const u8 slot[8] = { 0, 1, 2, 3, 31, 2, 3, 9 };

static void op_cf8(struct fuzz_input *in)
{
	unsigned s = slot[fuzz_take(in, 1) & 7], size = 1u << (fuzz_take(in, 1) % 3), off = fuzz_take(in, 1) & ~(size - 1);

	cfg_set(r, s, off, (u32)fuzz_take(in, size), size);
	cfg_get(r, s, off, size);
}

static void op_ecam(struct fuzz_input *in)
{
	unsigned size = fuzz_size(in);
	u64 at = RIG_ECAM + ((u64)slot[fuzz_take(in, 1) & 7] << 15) + (fuzz_take(in, 2) & 0xfff & ~(size - 1));

	bus_mmio_write(&r->bus, at, fuzz_take(in, size), size);
	bus_mmio_read(&r->bus, at, size);
}

static const u16 port_base[16] = { 0x3f8, 0x60, 0x64, 0x92, 0xb2, 0x80, 0xe0, 0xe8, 0x2000, 0x600, 0x620, 0xcf8, 0xc000, 0x402, 0x630, 0x3f8 };

static void op_port(struct fuzz_input *in)
{
	u16 port = port_base[fuzz_take(in, 1) & 15] + (fuzz_take(in, 1) & 15);
	unsigned size = 1u << (fuzz_take(in, 1) % 3);

	bus_port_write(&r->bus, port, fuzz_take(in, size), size);
	bus_port_read(&r->bus, port, size);
}

static void op_mmio(struct fuzz_input *in)
{
	static const u32 base[4] = { 0xc0000000, 0xff000000, 0xfed1c000, 0xc0010000 };
	unsigned size = fuzz_size(in);
	u64 at = base[fuzz_take(in, 1) & 3] + (fuzz_take(in, 2) & ~(size - 1));

	bus_mmio_write(&r->bus, at, fuzz_take(in, size), size);
	bus_mmio_read(&r->bus, at, size);
}

static void op_time(struct fuzz_input *in)
{
	rig_advance(r, fuzz_take(in, 4));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static void (*const op[8])(struct fuzz_input *in) = { op_cf8, op_ecam, op_port, op_mmio, op_time, op_port, op_mmio, op_cf8 };
	struct fuzz_input in = { data, data + size };

	if (!r)
		create();
	dev_list_reset(&r->devs);
	rig_assign(r);
	while (fuzz_more(&in))
		op[fuzz_take(&in, 1) & 7](&in);
	rig_check_save_load(r);
	return 0;
}
