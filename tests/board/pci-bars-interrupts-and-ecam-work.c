/* Configuration space by ports and by ECAM, BAR sizing and moving, INTx routing, MSI-X. */
#include "dev_rig.h"
#include "dev/pci_testdev.h"
#include <stdlib.h>

enum { SLOT = 3, MEM_BAR = 0x10, IO_BAR = 0x14 };

static struct rig *r;
static struct pci_testdev *t;

/* A function with every kind of BAR, MSI-X and an interrupt pin. */
static struct pci_function *fn;
static u64 reg_read(void *dev, u64 off, unsigned size) { return 0x1122334455667788ull >> (8 * (off & 7)); }
static void reg_write(void *dev, u64 off, u64 value, unsigned size) { }
static const struct bus_ops reg_ops = { reg_read, reg_write };

static int setup(void **state)
{
	const struct pci_ident id = { .vendor = 0x1234, .device = 0x5678, .class_code = 0xff0000, .int_pin = 2 };

	r = rig_create();
	t = pci_testdev_create(r->pci, SLOT);
	fn = calloc(1, sizeof(*fn));
	pci_function_init(fn, r->pci, "fake", 5, 0, &id, NULL);
	pci_add_bar(fn, 0, PCI_BAR_MEM64, 0x10000, &reg_ops, NULL);
	pci_add_msix(fn, 2, 3);
	return 0;
}

static int teardown(void **state)
{
	rig_check_save_load(r);
	rig_free(r);
	free(fn);
	return 0;
}

static void the_board_has_host_bridge_and_lpc(void **state)
{
	assert_int_equal(cfg_get(r, 0, 0, 4), 0x29c08086);
	assert_int_equal(cfg_get(r, 31, 0, 4), 0x29188086);
	assert_int_equal(cfg_get(r, 31, 8, 4) >> 8, 0x060100);
	assert_int_equal(cfg_get(r, 30, 0, 4), 0xffffffff);
	assert_int_equal(cfg_get(r, 0, 0x60, 4), RIG_ECAM | 1);
	assert_int_equal(cfg_get(r, 31, 0x40, 4), 0x601);
}

static void bytes_and_words_reach_their_offset(void **state)
{
	assert_int_equal(cfg_get(r, 0, 0, 2), 0x8086);
	assert_int_equal(cfg_get(r, 0, 2, 2), 0x29c0);
	assert_int_equal(cfg_get(r, 0, 3, 1), 0x29);
	cfg_set(r, SLOT, PCI_INT_LINE, 0x0b, 1);
	assert_int_equal(cfg_get(r, SLOT, PCI_INT_LINE, 4), 0x0b);
	assert_int_equal(in32(r, 0xcf8), 0x80000000u | SLOT << 11 | 0x3c);
	out8(r, 0xcf8, 0); /* only dwords reach the address register */
	assert_int_equal(in32(r, 0xcf8), 0x80000000u | SLOT << 11 | 0x3c);
}

static void nothing_answers_without_the_enable_bit_or_on_other_buses(void **state)
{
	out32(r, 0xcf8, 0);
	assert_int_equal(in32(r, 0xcfc), 0xffffffff);
	out32(r, 0xcf8, 0x80010000);
	assert_int_equal(in32(r, 0xcfc), 0xffffffff);
}

static void ecam_shows_the_same_registers(void **state)
{
	assert_int_equal(bus_mmio_read(&r->bus, RIG_ECAM, 4), 0x29c08086);
	assert_int_equal(bus_mmio_read(&r->bus, RIG_ECAM + (31 << 15) + 2, 2), 0x2918);
	assert_int_equal(bus_mmio_read(&r->bus, RIG_ECAM + (30 << 15), 4), 0xffffffff);
	assert_int_equal(bus_mmio_read(&r->bus, RIG_ECAM + 0x100, 4), 0); /* no extended capabilities */
	assert_int_equal(bus_mmio_read(&r->bus, RIG_ECAM + (1 << 20), 4), 0xffffffff);
	bus_mmio_write(&r->bus, RIG_ECAM + (SLOT << 15) + PCI_INT_LINE, 7, 1);
	assert_int_equal(cfg_get(r, SLOT, PCI_INT_LINE, 1), 7);
	bus_mmio_write(&r->bus, RIG_ECAM + (SLOT << 15) + 0x800, 7, 4);
	bus_mmio_write(&r->bus, RIG_ECAM + (SLOT << 15) + 0xfc, ~(u64)0, 8);
}

static void pciexbar_moves_ecam(void **state)
{
	cfg_set(r, 0, 0x60, 0xe0000001, 4);
	assert_int_equal(bus_mmio_read(&r->bus, RIG_ECAM, 4), 0xffffffff);
	assert_int_equal(bus_mmio_read(&r->bus, 0xe0000000, 4), 0x29c08086);
	cfg_set(r, 0, 0x60, 0xe0000000, 4);
	assert_int_equal(bus_mmio_read(&r->bus, 0xe0000000, 4), 0xffffffff);
}

static void writing_ones_tells_the_size(void **state)
{
	cfg_set(r, SLOT, MEM_BAR, 0xffffffff, 4);
	assert_int_equal(cfg_get(r, SLOT, MEM_BAR, 4), 0xfffff000);
	cfg_set(r, SLOT, IO_BAR, 0xffffffff, 4);
	assert_int_equal(cfg_get(r, SLOT, IO_BAR, 4), 0xffffff01); /* all 32 bits: SeaBIOS takes 16-bit BARs for 4 GiB of ports */
	cfg_set(r, 5, 0x10, 0xffffffff, 4);
	cfg_set(r, 5, 0x14, 0xffffffff, 4);
	assert_int_equal(cfg_get(r, 5, 0x10, 4), 0xffff0004);
	assert_int_equal(cfg_get(r, 5, 0x14, 4), 0xffffffff);
	cfg_set(r, SLOT, 0x20, 0xffffffff, 4);
	assert_int_equal(cfg_get(r, SLOT, 0x20, 4), 0);
}

static void a_bar_decodes_where_it_points_and_only_while_enabled(void **state)
{
	cfg_set(r, SLOT, MEM_BAR, 0xd0000000, 4);
	cfg_set(r, SLOT, IO_BAR, 0xc000, 4);
	assert_int_equal(bus_mmio_read(&r->bus, 0xd0000001, 1), 0xff);
	cfg_set(r, SLOT, PCI_CMD, PCI_CMD_MEM | PCI_CMD_IO, 2);
	assert_int_equal(bus_mmio_read(&r->bus, 0xd0000001, 1), 1);
	assert_int_equal(in8(r, 0xc001), 1);
	cfg_set(r, SLOT, MEM_BAR, 0xd8000000, 4);
	assert_int_equal(bus_mmio_read(&r->bus, 0xd0000001, 1), 0xff);
	assert_int_equal(bus_mmio_read(&r->bus, 0xd8000001, 1), 1);
	cfg_set(r, SLOT, MEM_BAR, 0xffffffff, 4); /* sizing with decoding on decodes nothing */
	assert_int_equal(bus_mmio_read(&r->bus, 0xfffff001, 1), 0xff);
	cfg_set(r, SLOT, PCI_CMD, 0, 2);
	assert_int_equal(in8(r, 0xc001), 0xff);
}

static void a_64_bit_bar_goes_above_4_gib(void **state)
{
	cfg_set(r, 5, 0x14, 0x8, 4);
	cfg_set(r, 5, 0x10, 0, 4);
	cfg_set(r, 5, PCI_CMD, PCI_CMD_MEM, 2);
	assert_true(bus_mmio_read(&r->bus, 0x800000008ull, 8) == 0x1122334455667788ull);
}

static void boot_assignment_is_in_the_windows_and_disjoint(void **state)
{
	u64 lo[3], size[3] = { 0x10000, 0x1000, 0x1000 };

	rig_assign(r);
	lo[0] = cfg_get(r, 5, 0x10, 4) & ~15u;
	lo[1] = cfg_get(r, 5, 0x18, 4) & ~15u;
	lo[2] = cfg_get(r, SLOT, MEM_BAR, 4) & ~15u;
	for (unsigned i = 0; i < 3; i++) {
		assert_true(lo[i] >= 0xc0000000 && lo[i] + size[i] <= 0xfec00000 && lo[i] % size[i] == 0);
		for (unsigned k = 0; k < i; k++)
			assert_true(lo[i] + size[i] <= lo[k] || lo[k] + size[k] <= lo[i]);
	}
	assert_true((cfg_get(r, SLOT, IO_BAR, 4) & ~3u) >= 0xc000);
	assert_int_equal(bus_mmio_read(&r->bus, lo[2] + 1, 1), 1);
}

static void too_small_a_window_is_an_error(void **state)
{
	const struct pci_windows w = { 0xc0000000, 0xc0010000, 0xc000, 0x10000 };

	assert_true(pci_assign_bars(r->pci, &w) < 0);
}

static void intx_reaches_its_gsi_unless_disabled(void **state)
{
	unsigned gsi = 16 + ((5 + 1) & 7);

	pci_intx_set(fn, true);
	assert_int_equal(r->level[gsi], 1);
	assert_int_equal(cfg_get(r, 5, PCI_STS, 2) & PCI_STS_INTX, PCI_STS_INTX);
	cfg_set(r, 5, PCI_CMD, PCI_CMD_NO_INTX, 2);
	assert_int_equal(r->level[gsi], 0);
	cfg_set(r, 5, PCI_CMD, 0, 2);
	assert_int_equal(r->level[gsi], 1);
	pci_intx_set(fn, false);
	assert_int_equal(r->level[gsi], 0);
}

static void a_routed_pirq_also_reaches_the_8259s(void **state)
{
	pci_intx_set(fn, true); /* slot 5, INTB: PIRQG */
	assert_int_equal(r->level[32 + 11], 0);
	cfg_set(r, 31, 0x6a, 0x0b, 1);
	assert_int_equal(r->level[32 + 11], 1);
	cfg_set(r, 31, 0x6a, 0x80, 1);
	assert_int_equal(r->level[32 + 11], 0);
}

static u64 msix_table(void)
{
	rig_assign(r);
	return cfg_get(r, 5, 0x18, 4) & ~15u;
}

static void msix_sends_what_the_table_says(void **state)
{
	u64 table = msix_table();
	unsigned cap = cfg_find_cap(r, 5, PCI_CAP_MSIX, 0);

	assert_true(cap >= 0x40);
	assert_int_equal(cfg_get(r, 5, cap + 2, 2), 2); /* three vectors, off */
	assert_int_equal(cfg_get(r, 5, cap + 4, 4), 2);
	assert_int_equal(cfg_get(r, 5, cap + 8, 4), 0x802);
	bus_mmio_write(&r->bus, table + 16, 0x00000000fee01000, 8);
	bus_mmio_write(&r->bus, table + 24, 0x4041, 4);
	bus_mmio_write(&r->bus, table + 28, 0, 4);
	pci_msix_notify(fn, 1); /* off: nothing, not even pending */
	cfg_set(r, 5, cap + 2, 0x8000, 2);
	assert_int_equal(r->msis, 0);
	pci_msix_notify(fn, 1);
	assert_int_equal(r->msis, 1);
	assert_int_equal(r->msi_addr[1], 0xfee01000);
	assert_int_equal(r->msi_data[1], 0x4041);
	pci_msix_notify(fn, 3);
	pci_msix_notify(fn, 99);
	assert_int_equal(r->msis, 1);
}

static void a_masked_vector_is_pending_until_unmasked(void **state)
{
	u64 table = msix_table();
	unsigned cap = cfg_find_cap(r, 5, PCI_CAP_MSIX, 0);

	cfg_set(r, 5, cap + 2, 0xc000, 2);
	bus_mmio_write(&r->bus, table + 12, 0, 4);
	pci_msix_notify(fn, 0);
	pci_msix_notify(fn, 2);
	assert_int_equal(r->msis, 0);
	assert_int_equal(bus_mmio_read(&r->bus, table + 0x800, 4), 5);
	cfg_set(r, 5, cap + 2, 0x8000, 2); /* unmasks the function: vector 0 goes, vector 2's own mask stays */
	assert_int_equal(r->msis, 1);
	assert_int_equal(bus_mmio_read(&r->bus, table + 0x800, 8), 4);
	bus_mmio_write(&r->bus, table + 2 * 16 + 12, 0, 4);
	assert_int_equal(r->msis, 2);
	assert_int_equal(bus_mmio_read(&r->bus, table + 0x800, 4), 0);
}

static void reset_puts_configuration_space_back(void **state)
{
	rig_assign(r);
	pci_intx_set(fn, true);
	dev_list_reset(&r->devs);
	assert_int_equal(cfg_get(r, SLOT, MEM_BAR, 4), 0);
	assert_int_equal(cfg_get(r, 5, PCI_CMD, 2), 0);
	assert_int_equal(r->level[22], 0);
	assert_int_equal(bus_mmio_read(&r->bus, RIG_ECAM, 4), 0x29c08086);
}

static void a_second_function_marks_the_slot(void **state)
{
	const struct pci_ident id = { .vendor = 1, .device = 2 };
	struct pci_function *f1 = calloc(1, sizeof(*f1));

	assert_int_equal(cfg_get(r, SLOT, PCI_HEADER, 1), 0);
	pci_function_init(f1, r->pci, "second", SLOT, 1, &id, NULL);
	assert_int_equal(cfg_get(r, SLOT, PCI_HEADER, 1), 0x80);
	assert_int_equal(pci_free_slot(r->pci, 3), 4);
	rig_check_save_load(r);
	r->devs.count--;
	free(f1);
	r->pci->function[SLOT * 8 + 1] = NULL;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_board_has_host_bridge_and_lpc), T(bytes_and_words_reach_their_offset),
		T(nothing_answers_without_the_enable_bit_or_on_other_buses), T(ecam_shows_the_same_registers), T(pciexbar_moves_ecam),
		T(writing_ones_tells_the_size), T(a_bar_decodes_where_it_points_and_only_while_enabled), T(a_64_bit_bar_goes_above_4_gib),
		T(boot_assignment_is_in_the_windows_and_disjoint), T(too_small_a_window_is_an_error), T(intx_reaches_its_gsi_unless_disabled),
		T(a_routed_pirq_also_reaches_the_8259s), T(msix_sends_what_the_table_says), T(a_masked_vector_is_pending_until_unmasked),
		T(reset_puts_configuration_space_back), T(a_second_function_marks_the_slot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
