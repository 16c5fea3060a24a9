#include "test.h"

#define S 1000000000ull

static u8 get(struct rig *r, u8 i) { out8(r, 0x70, i); return in8(r, 0x71); }
static void set(struct rig *r, u8 i, u8 v) { out8(r, 0x70, i); out8(r, 0x71, v); }
static bool irq8(struct rig *r) { return r->hpet->regs.rtc_level; }

static void set_time(struct rig *r, u8 h, u8 m, u8 s)
{
	set(r, 0x0b, get(r, 0x0b) | 0x80);
	set(r, 4, h);
	set(r, 2, m);
	set(r, 0, s);
	set(r, 0x0b, get(r, 0x0b) & 0x7f);
}

static void expect(struct rig *r, const u8 t[6])
{
	static const u8 index[6] = { 0x32, 9, 8, 7, 4, 2 };
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(get(r, index[i]), t[i]);
}

TEST(it_starts_with_the_wall_clock_in_bcd)
{
	expect(r, (u8[]){ 0x20, 0x23, 0x11, 0x14, 0x22, 0x13 });
	assert_int_equal(get(r, 0), 0x20);
	assert_int_equal(get(r, 6), 3); /* Tuesday */
	assert_int_equal(get(r, 0x0d), 0x80);
	assert_int_equal(get(r, 0x0b), 0x02);
	assert_int_equal(in8(r, 0x70), 0xff);
}

TEST(seconds_follow_v_across_midnight_and_leap_years)
{
	set(r, 0x32, 0x20);
	set(r, 9, 0x24);
	set(r, 8, 0x02);
	set(r, 7, 0x28);
	set_time(r, 0x23, 0x59, 0x58);
	rig_run(r, 3 * S);
	expect(r, (u8[]){ 0x20, 0x24, 0x02, 0x29, 0x00, 0x00 });
	assert_int_equal(get(r, 0), 0x01);
	rig_run(r, 86400 * S);
	expect(r, (u8[]){ 0x20, 0x24, 0x03, 0x01, 0x00, 0x00 });
	set(r, 9, 0x99);
	set(r, 0x32, 0x19);
	rig_run(r, 366 * 86400 * S);
	assert_int_equal(get(r, 0x32), 0x20);
	assert_int_equal(get(r, 9), 0x00);
}

TEST(binary_and_12_hour_formats)
{
	set(r, 0x0b, 0x86);
	set(r, 4, 22);
	set(r, 2, 59);
	set(r, 0, 59);
	set(r, 0x0b, 0x06);
	rig_run(r, S);
	assert_int_equal(get(r, 4), 23);
	assert_int_equal(get(r, 2), 0);
	set(r, 0x0b, 0x80);
	set(r, 4, 0x91); /* 11 pm */
	set(r, 2, 0x59);
	set(r, 0, 0x59);
	set(r, 0x0b, 0x00);
	rig_run(r, S);
	assert_int_equal(get(r, 4), 0x12); /* 12 am */
	rig_run(r, 3600 * S);
	assert_int_equal(get(r, 4), 0x01);
}

TEST(the_set_bit_freezes_time_and_the_second_phase_goes_on)
{
	set_time(r, 0x10, 0x00, 0x00);
	set(r, 0x0b, 0x82);
	rig_run(r, 10 * S + S / 2);
	assert_int_equal(get(r, 0), 0x00);
	assert_int_equal(get(r, 0x0a) & 0x80, 0);
	set(r, 0x0b, 0x02);
	rig_run(r, S / 2);
	assert_int_equal(get(r, 0), 0x01);
}

TEST(uip_warns_before_each_update)
{
	assert_int_equal(get(r, 0x0a), 0x26);
	rig_run(r, S - 244001);
	assert_int_equal(get(r, 0x0a), 0x26);
	rig_run(r, 1);
	assert_int_equal(get(r, 0x0a), 0xa6);
	u8 before = get(r, 0);
	rig_run(r, 243999);
	assert_int_equal(get(r, 0x0a), 0xa6);
	assert_int_equal(get(r, 0), before);
	rig_run(r, 1);
	assert_int_equal(get(r, 0x0a), 0x26);
	assert_int_equal(get(r, 0), before + 1);
}

TEST(update_interrupt_is_cleared_by_reading_c)
{
	set(r, 0x0a, 0x20);
	set(r, 0x0b, 0x12);
	get(r, 0x0c);
	rig_run(r, S - 1);
	assert_false(irq8(r));
	rig_run(r, 1);
	assert_true(irq8(r));
	assert_int_equal(get(r, 0x0c), 0x90);
	assert_false(irq8(r));
	assert_int_equal(get(r, 0x0c), 0x00);
	rig_run(r, 5 * S);
	assert_int_equal(get(r, 0x0c), 0x90);
}

TEST(alarm_at_a_time_and_with_dont_care)
{
	set_time(r, 0x10, 0x00, 0x00);
	set(r, 5, 0x10);
	set(r, 3, 0x01);
	set(r, 1, 0x05);
	set(r, 0x0a, 0x20);
	set(r, 0x0b, 0x22);
	get(r, 0x0c);
	rig_run(r, 64 * S);
	assert_false(irq8(r));
	rig_run(r, S);
	assert_true(irq8(r));
	assert_int_equal(get(r, 0x0c), 0xb0);
	set(r, 5, 0xff);
	set(r, 3, 0xc0);
	rig_run(r, 60 * S);
	assert_int_equal(get(r, 0x0c), 0xb0);
	set(r, 0x0b, 0x02);
	rig_run(r, 60 * S);
	assert_false(irq8(r));
	assert_int_equal(get(r, 0x0c), 0x30); /* the flag is set without its enable, too */
}

TEST(periodic_interrupt_at_1024_hz)
{
	set(r, 0x0a, 0x26);
	get(r, 0x0c);
	set(r, 0x0b, 0x42);
	unsigned n = 0;
	for (unsigned i = 0; i < 10000; i++) {
		rig_run(r, 100000);
		if (irq8(r)) {
			assert_true(get(r, 0x0c) & 0xc0);
			n++;
		}
	}
	assert_int_equal(n, 1024);
	set(r, 0x0a, 0x20);
	rig_run(r, S);
	assert_false(irq8(r));
}

TEST(the_divider_reset_delays_the_next_update_by_half_a_second)
{
	rig_run(r, 10 * S + 300 * MS);
	set(r, 0x0a, 0x76);
	u8 s = get(r, 0);
	rig_run(r, 5 * S);
	assert_int_equal(get(r, 0), s);
	set(r, 0x0a, 0x26);
	rig_run(r, 499 * MS);
	assert_int_equal(get(r, 0), s);
	rig_run(r, MS);
	assert_int_not_equal(get(r, 0), s);
}

TEST(cmos_holds_bytes_and_d_is_read_only)
{
	set(r, 0x0f, 0x0a);
	set(r, 0x7f, 0x55);
	set(r, 0x0d, 0);
	assert_int_equal(get(r, 0x8f), 0x0a); /* bit 7 is the NMI switch */
	assert_int_equal(get(r, 0x7f), 0x55);
	assert_int_equal(get(r, 0x0d), 0x80);
	cmos_set_memory(r->rtc, 0xb0000000, 0x100000000, 2);
	assert_int_equal(get(r, 0x34) | get(r, 0x35) << 8, 0xaf00);
	assert_int_equal(get(r, 0x5b) | get(r, 0x5c) << 8 | get(r, 0x5d) << 16, 0x10000);
	assert_int_equal(get(r, 0x30) | get(r, 0x31) << 8, 0xffff);
	assert_int_equal(get(r, 0x5f), 1);
}

TEST(rubbish_in_the_time_bytes_is_harmless)
{
	for (unsigned v = 0; v < 256; v++) {
		for (u8 i = 0; i < 10; i++)
			set(r, i, (u8)(v * 7 + i));
		set(r, 0x32, (u8)v);
		set(r, 0x0b, (u8)(v & 0x76));
		rig_run(r, S);
		get(r, 0x0c);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		ROW(it_starts_with_the_wall_clock_in_bcd), ROW(seconds_follow_v_across_midnight_and_leap_years), ROW(binary_and_12_hour_formats),
		ROW(the_set_bit_freezes_time_and_the_second_phase_goes_on), ROW(uip_warns_before_each_update), ROW(update_interrupt_is_cleared_by_reading_c),
		ROW(alarm_at_a_time_and_with_dont_care), ROW(periodic_interrupt_at_1024_hz), ROW(the_divider_reset_delays_the_next_update_by_half_a_second),
		ROW(cmos_holds_bytes_and_d_is_read_only), ROW(rubbish_in_the_time_bytes_is_harmless),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
