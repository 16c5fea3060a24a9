/* Walks every instance of a full board: rows cover each register byte exactly once, what is saved is what is loaded,
 * and reset is power-on. */
#include "rig_disk.h"
#include "virtio_driver.h"
#include "dev/ahci.h"
#include "dev/fw_cfg.h"
#include "dev/i8042.h"
#include "dev/nvme.h"
#include "dev/pc_ports.h"
#include "dev/pc_testdev.h"
#include "dev/pci_testdev.h"
#include "dev/pflash.h"
#include "dev/uart16550.h"
#include "dev/vga.h"
#include "virtio/virtio_balloon.h"
#include "virtio/virtio_mem.h"
#include "virtio/virtio_blk.h"
#include "virtio/virtio_console.h"
#include "virtio/virtio_net.h"
#include "virtio/virtio_rng.h"
#include "virtio/virtio_serial.h"
#include "virtio/virtio_vsock.h"
#include <stdlib.h>

static struct rig *r;
static struct disk *disk;

static void add_net(unsigned slot)
{
	struct virtio_net_config cfg = { .port = calloc(1, sizeof(struct net_port)), .mac = { 2, 0, 0, 0, 0, 1 }, .pairs = 3, .allow = "" };

	cfg.port->fd = cfg.port->listen_fd = -1;
	assert_non_null(virtio_net_create(r->pci, slot, &cfg));
}

static void add_virtio(void)
{
	struct virtio_blk_config cfg = { .disk = disk = rig_scratch_disk(4096), .queues = 2, .id = "x" };

	assert_non_null(virtio_blk_create(r->pci, 2, &cfg));
	nvme_create(r->pci, 29, &(struct nvme_config){ disk, "x" });
	virtio_rng_create(r->pci, 3);
	virtio_console_create(r->pci, 4, &(struct virtio_console_config){ 0 });
	virtio_console_create(r->pci, 5, &(struct virtio_console_config){ 0 });
	add_net(20);
	virtio_serial_create(r->pci, 6, (const struct virtio_serial_port[]){ { "a" }, { "b" } }, 2);
	virtio_balloon_create(r->pci, 7, &(struct virtio_balloon_config){ 0 });
	virtio_mem_create(r->pci, 27, 4 * GiB, 256 * MiB);
	virtio_vsock_create(r->pci, 26, &(struct virtio_vsock_config){ .cid = 3 });
}

static int setup(void **state)
{
	struct irq_line line[PC_TESTDEV_IRQS];

	r = rig_create();
	for (unsigned i = 0; i < PC_TESTDEV_IRQS; i++)
		line[i] = rig_line(r, i);
	uart16550_create(&r->bus, &r->devs, &(struct uart16550_config){ "com1", 0x3f8, rig_line(r, 4), NULL, NULL, NULL });
	uart16550_create(&r->bus, &r->devs, &(struct uart16550_config){ "com1", 0x2f8, rig_line(r, 3), NULL, NULL, NULL });
	i8042_create(&r->bus, &r->devs, rig_line(r, 1), rig_line(r, 12));
	pc_ports_create(&r->bus, &r->devs, NULL, NULL);
	fw_cfg_create(&r->bus, &r->devs);
	pc_testdev_create(&r->bus, &r->devs, line);
	pci_testdev_create(r->pci, 1);
	add_virtio();
	assert_int_equal(mem_add_view(&r->mem, gpa(0), 0, 0x200, MEM_RAM, "vga"), 0);
	assert_int_equal(mem_add_view(&r->mem, gpa(0x80000000), 0x10000, 0x300, MEM_ROM, "flash"), 0);
	vga_create(r->pci, 28, 0x200, 0x40000);
	pflash_create(&r->bus, &r->devs, &(struct pflash_config){ "flash", 0x80000000, 0x10000, 0x300, NULL, NULL });
	assert_int_equal(ahci_attach(ahci_create(r->pci, 31, 2), disk, false, "x"), 0);
	return 0;
}

static int teardown(void **state)
{
	rig_free(r);
	disk_close(disk);
	return 0;
}

static void rows_cover_each_struct_exactly(void **state)
{
	for (unsigned i = 0; i < r->devs.count; i++) {
		const struct state_desc *d = r->devs.item[i].desc;
		u64 sum = 0;

		for (unsigned k = 0; d && k < d->nrows; k++)
			sum += (u64)d->rows[k].size * d->rows[k].count;
		assert_int_equal(sum, d ? d->size : 0);
	}
}

/* Rubbish in every register of one instance: it must come back as it was, byte for byte. */
static void check_instance(const struct dev_instance *inst)
{
	struct state_buf a = { 0 };
	size_t pos = 0, size = inst->desc->size;
	u8 *was = malloc(size), *rubbish = malloc(size);

	memcpy(was, inst->regs, size);
	for (size_t i = 0; i < size; i++)
		rubbish[i] = (u8)(was[i] ^ (i * 37 + 1));
	memcpy(inst->regs, rubbish, size);
	state_save(&a, inst->desc, inst->name, inst->regs);
	memcpy(inst->regs, was, size);
	assert_int_equal(state_load(&a, &pos, inst->desc, inst->name, inst->regs), 0);
	assert_memory_equal(inst->regs, rubbish, size);
	memcpy(inst->regs, was, size);
	state_buf_free(&a);
	free(was);
	free(rubbish);
}

static void every_register_byte_is_saved_and_loaded(void **state)
{
	unsigned with_state = 0;

	for (unsigned i = 0; i < r->devs.count; i++) {
		if (!r->devs.item[i].desc)
			continue;
		check_instance(&r->devs.item[i]);
		with_state++;
	}
	assert_true(with_state >= 36);
}

static void save_load_save_is_identical(void **state)
{
	rig_assign(r);
	rig_check_save_load(r);
}

/* A snapshot file may hold anything: after loading rubbish and touching everything, nothing has crashed. */
static void rubbish_registers_do_no_harm(void **state)
{
	for (unsigned round = 1; round < 40; round++) {
		struct state_buf b = { 0 };
		size_t pos = 0;
		u64 s = round * 0x9e3779b97f4a7c15ull;

		for (unsigned i = 0; i < r->devs.count; i++)
			for (unsigned k = 0; r->devs.item[i].desc && k < r->devs.item[i].desc->size; k++) {
				s = s * 6364136223846793005ull + 1442695040888963407ull;
				((u8 *)r->devs.item[i].regs)[k] = (u8)(s >> 56);
			}
		dev_list_save(&r->devs, &b);
		assert_int_equal(dev_list_load(&r->devs, &b, &pos), 0);
		state_buf_free(&b);
		for (unsigned port = 0; port < 0x10000; port++)
			bus_port_read(&r->bus, (u16)port, 1);
		for (unsigned i = 0; i < r->bus.nmmio; i++)
			for (u64 off = 0; off < 0x4000; off += 4) {
				bus_mmio_read(&r->bus, r->bus.mmio[i].base + off, 4);
				bus_mmio_write(&r->bus, r->bus.mmio[i].base + off, off, 4);
			}
		rig_advance(r, NSEC_PER_SEC);
		dev_list_quiesce(&r->devs);
	}
	dev_list_reset(&r->devs);
}

static void reset_is_power_on(void **state)
{
	struct state_buf a = { 0 }, b = { 0 };

	dev_list_save(&r->devs, &a);
	rig_assign(r);
	out8(r, 0x3f8 + 3, 0x83);
	out8(r, 0x92, 0);
	out32(r, 0xe0, 0x12345678);
	out16(r, 0x510, 3);
	cfg_set(r, 31, 0x60, 0x0b0b0b0b, 4);
	dev_list_reset(&r->devs);
	dev_list_save(&r->devs, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	state_buf_free(&a);
	state_buf_free(&b);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(rows_cover_each_struct_exactly), T(every_register_byte_is_saved_and_loaded), T(save_load_save_is_identical),
		T(rubbish_registers_do_no_harm), T(reset_is_power_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
