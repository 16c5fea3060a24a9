/* Registers, FIFO and interrupt rules of the serial port. */
#include "dev_rig.h"
#include "dev/uart16550.h"

enum { COM1 = 0x3f8, DATA = COM1, IER = COM1 + 1, IIR = COM1 + 2, LCR = COM1 + 3,
	MCR = COM1 + 4, LSR = COM1 + 5, MSR = COM1 + 6, SCR = COM1 + 7, IRQ = 4 };

static struct rig *r;
static struct uart16550 *u;
static char out[256];
static unsigned nout, spaces;

static void output(void *opaque, u8 byte) { out[nout++ % sizeof(out)] = (char)byte; }
static void space(void *opaque) { spaces++; }

static int setup(void **state)
{
	r = rig_create();
	u = uart16550_create(&r->bus, &r->devs, &(struct uart16550_config){ "com1", COM1, rig_line(r, IRQ), output, space, NULL });
	nout = spaces = 0;
	out8(r, MCR, 8);
	return 0;
}

static int teardown(void **state)
{
	rig_check_save_load(r);
	rig_free(r);
	return 0;
}

static void after_reset_the_transmitter_is_empty(void **state)
{
	assert_int_equal(in8(r, LSR), 0x60);
	assert_int_equal(in8(r, IIR), 0x01);
	assert_int_equal(in8(r, MSR), 0xb0);
}

static void bytes_leave_at_once_and_the_line_stays_ready(void **state)
{
	for (const char *p = "nestbox"; *p; p++) {
		assert_int_equal(in8(r, LSR) & 0x20, 0x20);
		out8(r, DATA, (u8)*p);
	}
	assert_memory_equal(out, "nestbox", 7);
	assert_int_equal(nout, 7);
}

static void the_divisor_latch_hides_data_and_ier(void **state)
{
	out8(r, IER, 0x05);
	out8(r, LCR, 0x83);
	out8(r, DATA, 0x0c);
	out8(r, IER, 0x34);
	assert_int_equal(in8(r, DATA), 0x0c);
	assert_int_equal(in8(r, IER), 0x34);
	out8(r, LCR, 0x03);
	assert_int_equal(in8(r, IER), 0x05);
	assert_int_equal(nout, 0);
}

static void enabling_thre_while_empty_interrupts_until_iir_is_read(void **state)
{
	out8(r, IER, 2);
	assert_int_equal(r->level[IRQ], 1);
	assert_int_equal(in8(r, IIR), 0x02);
	assert_int_equal(r->level[IRQ], 0);
	assert_int_equal(in8(r, IIR), 0x01);
	out8(r, DATA, 'x');
	assert_int_equal(r->level[IRQ], 1);
	assert_int_equal(in8(r, IIR), 0x02);
	out8(r, IER, 0);
	out8(r, IER, 2);
	assert_int_equal(r->level[IRQ], 1);
}

static void out2_gates_the_interrupt(void **state)
{
	out8(r, MCR, 0);
	out8(r, IER, 2);
	assert_int_equal(r->level[IRQ], 0);
	out8(r, MCR, 8);
	assert_int_equal(r->level[IRQ], 1);
}

static void the_fifo_reports_trigger_level_and_timeout(void **state)
{
	out8(r, IIR, 0x41); /* FIFO on, trigger at 4 */
	out8(r, IER, 1);
	assert_int_equal(in8(r, IIR), 0xc1);
	assert_int_equal(uart16550_receive(u, (const u8 *)"abc", 3), 3);
	assert_int_equal(r->level[IRQ], 1);
	assert_int_equal(in8(r, IIR), 0xcc);
	uart16550_receive(u, (const u8 *)"d", 1);
	assert_int_equal(in8(r, IIR), 0xc4);
	for (const char *p = "abcd"; *p; p++) {
		assert_int_equal(in8(r, LSR) & 1, 1);
		assert_int_equal(in8(r, DATA), *p);
	}
	assert_int_equal(in8(r, LSR) & 1, 0);
	assert_int_equal(r->level[IRQ], 0);
}

static void input_waits_on_the_wire_and_nothing_is_lost(void **state)
{
	u8 text[5000];
	size_t taken;

	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = (u8)(i * 7);
	out8(r, IIR, 1);
	taken = uart16550_receive(u, text, sizeof(text));
	assert_true(taken < sizeof(text) && taken >= 4096);
	for (size_t i = 0; i < taken; i++)
		assert_int_equal(in8(r, DATA), text[i]);
	assert_true(spaces > 0);
	assert_int_equal(in8(r, LSR), 0x60);
}

static void without_fifo_one_byte_is_held(void **state)
{
	uart16550_receive(u, (const u8 *)"xy", 2);
	assert_int_equal(u->regs.rx_count, 1);
	assert_int_equal(in8(r, DATA), 'x');
	assert_int_equal(in8(r, DATA), 'y');
}

static void loopback_returns_data_and_modem_lines(void **state)
{
	out8(r, MCR, 0x1a); /* loop, OUT2, RTS */
	in8(r, MSR);
	assert_int_equal(in8(r, MSR), 0x90);
	out8(r, DATA, 0x55);
	assert_int_equal(nout, 0);
	assert_int_equal(in8(r, DATA), 0x55);
	out8(r, DATA, 1);
	out8(r, DATA, 2); /* no FIFO: overrun */
	assert_int_equal(in8(r, LSR) & 2, 2);
	assert_int_equal(in8(r, LSR) & 2, 0);
}

static void modem_deltas_interrupt_and_clear_on_read(void **state)
{
	out8(r, IER, 8);
	out8(r, MCR, 0x18);
	assert_int_equal(r->level[IRQ], 1);
	assert_int_equal(in8(r, IIR), 0x00);
	assert_int_equal(in8(r, MSR) & 0x0f, 0x03);
	assert_int_equal(r->level[IRQ], 0);
}

static void clearing_the_fifo_drops_input(void **state)
{
	out8(r, IIR, 1);
	uart16550_receive(u, (const u8 *)"abc", 3);
	out8(r, IIR, 3);
	assert_int_equal(in8(r, LSR) & 1, 0);
}

static void scratch_register_keeps_its_value(void **state)
{
	out8(r, SCR, 0xa5);
	assert_int_equal(in8(r, SCR), 0xa5);
	assert_int_equal(in16(r, SCR) & 0xff, 0xa5);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(after_reset_the_transmitter_is_empty), T(bytes_leave_at_once_and_the_line_stays_ready),
		T(the_divisor_latch_hides_data_and_ier), T(enabling_thre_while_empty_interrupts_until_iir_is_read),
		T(out2_gates_the_interrupt), T(the_fifo_reports_trigger_level_and_timeout),
		T(input_waits_on_the_wire_and_nothing_is_lost), T(without_fifo_one_byte_is_held),
		T(loopback_returns_data_and_modem_lines), T(modem_deltas_interrupt_and_clear_on_read),
		T(clearing_the_fifo_drops_input), T(scratch_register_keeps_its_value),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
