#include "test.h"

#define TICKS(n) (((u64)(n) * NSEC_PER_SEC + I8254_HZ - 1) / I8254_HZ)
#define OUT2(r) (in8(r, 0x61) >> 5 & 1)

static void at_tick(struct rig *r, u64 t)
{
	u64 v = TICKS(t);
	if (v > clock_now(&r->clock))
		rig_run(r, v - clock_now(&r->clock));
}

static void program(struct rig *r, unsigned ch, u8 mode, u16 n)
{
	out8(r, 0x43, (u8)(ch << 6 | 0x30 | mode << 1));
	out8(r, 0x40 + ch, (u8)n);
	out8(r, 0x40 + ch, n >> 8);
}

static u16 count(struct rig *r, unsigned ch)
{
	out8(r, 0x43, (u8)(ch << 6));
	u8 low = in8(r, 0x40 + ch);
	return (u16)(low | in8(r, 0x40 + ch) << 8);
}

static u16 in16(struct rig *r, u16 port)
{
	u8 low = in8(r, port);
	return (u16)(low | in8(r, port) << 8);
}

static u8 status(struct rig *r, unsigned ch)
{
	out8(r, 0x43, (u8)(0xe0 | 2u << ch));
	return in8(r, 0x40 + ch);
}

static unsigned irqs(struct rig *r)
{
	unsigned n = 0;
	while (apic_ack(r, 0) == 0x20) {
		n++;
		out8(r, 0x20, 0x20);
	}
	return n;
}

TEST(mode_0_rises_once_at_terminal_count)
{
	rig_virtual_wire(r);
	irqs(r);
	program(r, 0, 0, 100);
	assert_int_equal(irqs(r), 0);
	at_tick(r, 99);
	assert_int_equal(irqs(r), 0);
	assert_int_equal(status(r, 0) & 0x80, 0);
	assert_int_equal(count(r, 0), 1);
	at_tick(r, 100);
	assert_int_equal(irqs(r), 1);
	assert_int_equal(status(r, 0) & 0x80, 0x80);
	at_tick(r, 101);
	assert_int_equal(count(r, 0), 0xffff);
	at_tick(r, 200000);
	assert_int_equal(irqs(r), 0);
}

TEST(mode_2_interrupts_every_period)
{
	rig_virtual_wire(r);
	program(r, 0, 2, 1000);
	irqs(r);
	for (unsigned i = 1; i <= 5; i++) {
		at_tick(r, i * 1000 - 1);
		assert_int_equal(irqs(r), 0);
		assert_int_equal(count(r, 0), 1);
		at_tick(r, i * 1000);
		assert_int_equal(irqs(r), 1);
		assert_int_equal(count(r, 0), 1000);
	}
}

TEST(mode_3_is_a_square_wave_that_counts_by_twos)
{
	rig_virtual_wire(r);
	program(r, 0, 3, 1000);
	irqs(r);
	at_tick(r, 100);
	assert_int_equal(count(r, 0), 800);
	assert_int_equal(status(r, 0), 0xb6);
	at_tick(r, 600);
	assert_int_equal(status(r, 0), 0x36);
	assert_int_equal(count(r, 0), 800);
	at_tick(r, 1000);
	assert_int_equal(irqs(r), 1);
	at_tick(r, 2000);
	assert_int_equal(irqs(r), 1);
}

TEST(missed_periods_give_one_interrupt)
{
	rig_virtual_wire(r);
	program(r, 0, 2, 1000);
	irqs(r);
	clock_publish(&r->clock, TICKS(5500));
	clock_run_timers(&r->clock);
	assert_int_equal(irqs(r), 1);
	assert_int_equal(count(r, 0), 500);
	at_tick(r, 6000);
	assert_int_equal(irqs(r), 1);
}

TEST(count_0_is_65536)
{
	rig_virtual_wire(r);
	program(r, 0, 2, 0);
	irqs(r);
	assert_int_equal(count(r, 0), 0);
	at_tick(r, 1);
	assert_int_equal(count(r, 0), 0xffff);
	at_tick(r, 65535);
	assert_int_equal(irqs(r), 0);
	at_tick(r, 65536);
	assert_int_equal(irqs(r), 1);
}

TEST(a_new_count_in_mode_2_waits_for_the_period)
{
	rig_virtual_wire(r);
	program(r, 0, 2, 1000);
	irqs(r);
	at_tick(r, 500);
	out8(r, 0x40, 200);
	out8(r, 0x40, 0);
	assert_int_equal(status(r, 0) & 0x40, 0x40); /* null count: not in the counter yet */
	assert_int_equal(count(r, 0), 500);
	at_tick(r, 1000);
	assert_int_equal(irqs(r), 1);
	assert_int_equal(count(r, 0), 200);
	assert_int_equal(status(r, 0) & 0x40, 0);
	at_tick(r, 1200);
	assert_int_equal(irqs(r), 1);
}

TEST(a_mode_write_stops_it)
{
	rig_virtual_wire(r);
	program(r, 0, 2, 1000);
	out8(r, 0x43, 0x30);
	irqs(r);
	at_tick(r, 10000);
	assert_int_equal(irqs(r), 0);
	assert_int_equal(r->clock.next, CLOCK_NEVER);
}

TEST(latches_hold_until_read_and_status_comes_first)
{
	program(r, 2, 2, 1000);
	out8(r, 0x61, 1); /* the gate's rising edge starts it anew */
	at_tick(r, 100);
	out8(r, 0x43, 0x80);
	at_tick(r, 200);
	out8(r, 0x43, 0x80); /* ignored: still latched */
	out8(r, 0x43, 0xe8); /* status */
	assert_int_equal(in8(r, 0x42), 0xb4);
	assert_int_equal(in8(r, 0x42), 900 & 0xff);
	assert_int_equal(in8(r, 0x42), 900 >> 8);
	assert_int_equal(in8(r, 0x42), 800 & 0xff); /* live again */
	assert_int_equal(in8(r, 0x42), 800 >> 8);
}

TEST(read_back_latches_count_and_status_of_several_channels)
{
	program(r, 0, 2, 1000);
	program(r, 1, 3, 500);
	at_tick(r, 10);
	out8(r, 0x43, 0xc6);
	assert_int_equal(in8(r, 0x40), 0xb4);
	assert_int_equal(in8(r, 0x41), 0xb6);
	at_tick(r, 100);
	assert_int_equal(in16(r, 0x40), 990);
	assert_int_equal(in16(r, 0x41), 480);
}

TEST(byte_access_modes)
{
	out8(r, 0x43, 0x54); /* channel 1, LSB only, mode 2 */
	out8(r, 0x41, 18);
	at_tick(r, 4);
	assert_int_equal(in8(r, 0x41), 14);
	assert_int_equal(in8(r, 0x41), 14);
	out8(r, 0x43, 0x64); /* MSB only */
	out8(r, 0x41, 2);
	assert_int_equal(in8(r, 0x41), 2);
}

TEST(bcd_counts_in_decimal)
{
	out8(r, 0x43, 0x71); /* channel 1, both, mode 0, BCD */
	out8(r, 0x41, 0x50);
	out8(r, 0x41, 0x12);
	at_tick(r, 51);
	assert_int_equal(count(r, 1), 0x1199);
	at_tick(r, 1251);
	assert_int_equal(count(r, 1), 0x9999);
}

TEST(port_61_gates_channel_2_and_shows_its_output)
{
	out8(r, 0x61, 0);
	program(r, 2, 0, 1000);
	at_tick(r, 2000);
	assert_int_equal(OUT2(r), 0);
	assert_int_equal(count(r, 2), 1000);
	out8(r, 0x61, 1);
	at_tick(r, 2999);
	assert_int_equal(OUT2(r), 0);
	at_tick(r, 3000);
	assert_int_equal(OUT2(r), 1);
	out8(r, 0x61, 0xff);
	assert_int_equal(in8(r, 0x61) & 0xcf, 0x0f);
}

TEST(a_low_gate_pauses_mode_0)
{
	out8(r, 0x61, 1);
	program(r, 2, 0, 1000);
	at_tick(r, 400);
	out8(r, 0x61, 0);
	at_tick(r, 5000);
	assert_int_equal(count(r, 2), 600);
	out8(r, 0x61, 1);
	at_tick(r, 5100);
	assert_int_equal(count(r, 2), 500);
}

TEST(the_refresh_bit_toggles)
{
	unsigned toggles = 0;
	u8 last = in8(r, 0x61) & 0x10;
	for (unsigned i = 0; i < 1000; i++) {
		rig_run(r, 1000);
		u8 now = in8(r, 0x61) & 0x10;
		toggles += now != last;
		last = now;
	}
	assert_int_equal(toggles, MS / 15085);
}

TEST(mode_1_starts_at_the_gate)
{
	program(r, 2, 1, 50);
	at_tick(r, 1000);
	assert_int_equal(OUT2(r), 1);
	out8(r, 0x61, 1);
	assert_int_equal(OUT2(r), 0);
	at_tick(r, 1049);
	assert_int_equal(OUT2(r), 0);
	at_tick(r, 1050);
	assert_int_equal(OUT2(r), 1);
}

TEST(mode_4_strobes_for_one_tick)
{
	out8(r, 0x61, 1);
	program(r, 2, 4, 50);
	at_tick(r, 49);
	assert_int_equal(OUT2(r), 1);
	at_tick(r, 50);
	assert_int_equal(OUT2(r), 0);
	at_tick(r, 51);
	assert_int_equal(OUT2(r), 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		ROW(mode_0_rises_once_at_terminal_count), ROW(mode_2_interrupts_every_period), ROW(mode_3_is_a_square_wave_that_counts_by_twos),
		ROW(missed_periods_give_one_interrupt), ROW(count_0_is_65536), ROW(a_new_count_in_mode_2_waits_for_the_period), ROW(a_mode_write_stops_it),
		ROW(latches_hold_until_read_and_status_comes_first), ROW(read_back_latches_count_and_status_of_several_channels), ROW(byte_access_modes),
		ROW(bcd_counts_in_decimal), ROW(port_61_gates_channel_2_and_shows_its_output), ROW(a_low_gate_pauses_mode_0), ROW(the_refresh_bit_toggles),
		ROW(mode_1_starts_at_the_gate), ROW(mode_4_strobes_for_one_tick),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
