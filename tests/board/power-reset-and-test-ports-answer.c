/* PM block, CF9h, 92h, keyboard controller, debug exit and the ISA and PCI test devices. */
#include "dev_rig.h"
#include "dev/debug_exit.h"
#include "dev/i8042.h"
#include "dev/pc_ports.h"
#include "dev/pc_testdev.h"
#include "dev/pci_testdev.h"

static struct rig *r;
static char debug[16];
static unsigned ndebug;

static void debug_output(void *opaque, u8 byte) { debug[ndebug++ % sizeof(debug)] = (char)byte; }

static int setup(void **state)
{
	struct irq_line line[PC_TESTDEV_IRQS];

	r = rig_create();
	ndebug = 0;
	for (unsigned i = 0; i < PC_TESTDEV_IRQS; i++)
		line[i] = rig_line(r, i);
	pc_ports_create(&r->bus, &r->devs, debug_output, NULL);
	i8042_create(&r->bus, &r->devs, rig_line(r, 1), rig_line(r, 12));
	debug_exit_create(&r->bus, 0xf4);
	pc_testdev_create(&r->bus, &r->devs, line);
	pci_testdev_create(r->pci, 4);
	return 0;
}

static int teardown(void **state)
{
	rig_check_save_load(r);
	rig_free(r);
	return 0;
}

static void assert_power(enum bus_power what, u32 value)
{
	assert_int_equal(r->powers, 1);
	assert_int_equal(r->power, what);
	assert_int_equal(r->power_value, value);
	r->powers = 0;
}

static void the_pm_timer_counts_3_579545_mhz_in_24_bits(void **state)
{
	assert_int_equal(in32(r, 0x608), 0);
	rig_advance(r, NSEC_PER_SEC);
	assert_int_equal(in32(r, 0x608), 3579545);
	assert_int_equal(in16(r, 0x608), 3579545 & 0xffff);
	rig_advance(r, 9 * NSEC_PER_SEC);
	assert_int_equal(in32(r, 0x608), 35795450 & 0xffffff);
}

static void the_timer_carry_raises_the_sci_when_enabled(void **state)
{
	out16(r, 0x602, 1);
	assert_int_equal(r->level[9], 0);
	rig_advance(r, 2 * NSEC_PER_SEC);
	assert_int_equal(r->level[9], 0);
	rig_advance(r, NSEC_PER_SEC / 2);
	assert_int_equal(r->level[9], 1);
	assert_int_equal(in16(r, 0x600) & 1, 1);
	out16(r, 0x600, 1);
	assert_int_equal(r->level[9], 0);
	assert_int_equal(in16(r, 0x600) & 1, 0);
	rig_advance(r, 5 * NSEC_PER_SEC / 2);
	assert_int_equal(r->level[9], 1);
}

static void the_power_button_raises_the_sci(void **state)
{
	out16(r, 0x602, 0x100);
	ich9_pm_power_button(r->pm);
	assert_int_equal(r->level[9], 1);
	assert_int_equal(in16(r, 0x600), 0x100);
	out16(r, 0x600, 0x100);
	assert_int_equal(r->level[9], 0);
	assert_int_equal(in8(r, 0x603), 1);
}

static void acpi_mode_is_on_and_smm_looks_installed(void **state)
{
	assert_int_equal(in16(r, 0x604) & 1, 1);
	out16(r, 0x604, 0);
	assert_int_equal(in16(r, 0x604) & 1, 1);
	assert_int_equal(in32(r, 0x630) & 0x20, 0x20);
	out32(r, 0x628, 0x12345678);
	assert_int_equal(in32(r, 0x628), 0x12345678);
	assert_int_equal(in32(r, 0x660), 0);
}

static void s5_with_slp_en_powers_off(void **state)
{
	out16(r, 0x604, 0x0001);
	assert_int_equal(r->powers, 0);
	out16(r, 0x604, 0x2001);
	assert_power(BUS_POWER_OFF, 0);
	assert_int_equal(in16(r, 0x604) & 0x2000, 0);
	out16(r, 0x604, 0x2401); /* another sleep type */
	assert_int_equal(r->powers, 0);
	out8(r, 0x605, 0x20);
	assert_power(BUS_POWER_OFF, 0);
}

static void pmbase_moves_the_block(void **state)
{
	cfg_set(r, 31, 0x40, 0xb001, 4);
	assert_int_equal(in32(r, 0x608), 0xffffffff);
	assert_int_equal(in16(r, 0xb004) & 1, 1);
	cfg_set(r, 31, 0x44, 0, 1);
	assert_int_equal(in16(r, 0xb004), 0xffff);
}

static void every_reset_path_resets(void **state)
{
	out8(r, 0xcf9, 2);
	assert_int_equal(in8(r, 0xcf9), 2);
	assert_int_equal(r->powers, 0);
	out8(r, 0xcf9, 6);
	assert_power(BUS_RESET, 0);
	out8(r, 0xcf9, 0x0f);
	assert_power(BUS_RESET, 0);
	out8(r, 0x64, 0xfe);
	assert_power(BUS_RESET, 0);
	out8(r, 0x92, 3);
	assert_power(BUS_RESET, 0);
}

static void a20_bits_read_back(void **state)
{
	assert_int_equal(in8(r, 0x92), 2);
	out8(r, 0x92, 0);
	assert_int_equal(in8(r, 0x92), 0);
	out8(r, 0x64, 0xd1);
	out8(r, 0x60, 0x01);
	out8(r, 0x64, 0xd0);
	assert_int_equal(in8(r, 0x60) & 3, 1);
	out8(r, 0x64, 0xdf);
	out8(r, 0x64, 0xd0);
	assert_int_equal(in8(r, 0x60) & 3, 3);
}

static void the_keyboard_controller_passes_its_self_test(void **state)
{
	assert_int_equal(in8(r, 0x64) & 1, 0);
	out8(r, 0x64, 0xaa);
	assert_int_equal(in8(r, 0x64) & 5, 5);
	assert_int_equal(in8(r, 0x60), 0x55);
	assert_int_equal(in8(r, 0x64) & 1, 0);
	out8(r, 0x64, 0xab);
	assert_int_equal(in8(r, 0x60), 0);
	out8(r, 0x64, 0x60);
	out8(r, 0x60, 0x65);
	out8(r, 0x64, 0x20);
	assert_int_equal(r->level[1], 1);
	assert_int_equal(in8(r, 0x60), 0x65);
	assert_int_equal(r->level[1], 0);
}

static void absent_keyboard_and_mouse_time_out(void **state)
{
	out8(r, 0x60, 0xff);
	assert_int_equal(in8(r, 0x64) & 0x41, 0x41);
	assert_int_equal(in8(r, 0x60), 0xfe);
	out8(r, 0x64, 0xd4);
	out8(r, 0x60, 0xf2);
	assert_int_equal(in8(r, 0x64) & 0x61, 0x61);
	assert_int_equal(in8(r, 0x60), 0xfe);
	out8(r, 0x64, 0xd3);
	out8(r, 0x60, 0x5a);
	assert_int_equal(in8(r, 0x64) & 0x21, 0x21);
	assert_int_equal(in8(r, 0x60), 0x5a);
}

static void small_ports_answer(void **state)
{
	out8(r, 0x80, 0x7e);
	assert_int_equal(in8(r, 0x80), 0x7e);
	assert_int_equal(in8(r, 0x402), 0xe9);
	out8(r, 0x402, 'd');
	assert_int_equal(debug[0], 'd');
	out16(r, 0xb2, 0x0102);
	assert_int_equal(in8(r, 0xb3), 1);
}

static void debug_exit_carries_its_value(void **state)
{
	out32(r, 0xf4, 0x26);
	assert_power(BUS_DEBUG_EXIT, 0x26);
	out8(r, 0xf4, 0);
	assert_power(BUS_DEBUG_EXIT, 0);
}

static void the_lanes_register_takes_bytes_words_and_dwords(void **state)
{
	out32(r, 0xe0, 0x11223344);
	assert_int_equal(in8(r, 0xe1), 0x33);
	out16(r, 0xe2, 0xaabb);
	out8(r, 0xe9, 0xcc);
	assert_int_equal(in32(r, 0xe0), 0xaabbcc44);
	assert_int_equal(in32(r, 0xe8), 0xaabbcc44);
	out32(r, 0xe4, 0x1000);
}

static void the_isa_test_device_drives_lines_and_memory(void **state)
{
	out8(r, 0x2000 + 14, 1);
	assert_int_equal(r->level[14], 1);
	out8(r, 0x2000 + 14, 0);
	assert_int_equal(r->level[14], 0);
	bus_mmio_write(&r->bus, 0xff00fff8, 0x0123456789abcdef, 8);
	assert_int_equal(bus_mmio_read(&r->bus, 0xff00fffc, 2), 0x4567);
}

static void the_pci_test_device_counts_matching_writes(void **state)
{
	rig_assign(r);
	u64 bar = cfg_get(r, 4, 0x10, 4) & ~15u;

	bus_mmio_write(&r->bus, bar, 2, 1);
	u32 off = (u32)bus_mmio_read(&r->bus, bar + 4, 4), data = (u32)bus_mmio_read(&r->bus, bar + 8, 4);

	assert_int_equal(bus_mmio_read(&r->bus, bar + 1, 1), 1);
	bus_mmio_write(&r->bus, bar + off, data, 1);
	bus_mmio_write(&r->bus, bar + off, data ^ 1, 1);
	assert_int_equal(bus_mmio_read(&r->bus, bar + 12, 4), 1);
	bus_mmio_write(&r->bus, bar, 200, 1);
	assert_int_equal(bus_mmio_read(&r->bus, bar + 1, 1), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_pm_timer_counts_3_579545_mhz_in_24_bits), T(the_timer_carry_raises_the_sci_when_enabled),
		T(the_power_button_raises_the_sci), T(acpi_mode_is_on_and_smm_looks_installed), T(s5_with_slp_en_powers_off),
		T(pmbase_moves_the_block), T(every_reset_path_resets), T(a20_bits_read_back),
		T(the_keyboard_controller_passes_its_self_test), T(absent_keyboard_and_mouse_time_out), T(small_ports_answer),
		T(debug_exit_carries_its_value), T(the_lanes_register_takes_bytes_words_and_dwords),
		T(the_isa_test_device_drives_lines_and_memory), T(the_pci_test_device_counts_matching_writes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
