/* dev/i8042 and ps2 with devices plugged in. */
#include "dev_rig.h"
#include "dev/i8042.h"

static struct rig *r;
static struct i8042 *k;

static int setup(void **state)
{
	r = rig_create();
	k = i8042_create(&r->bus, &r->devs, rig_line(r, 1), rig_line(r, 12));
	i8042_plug(k);
	out8(r, 0x64, 0x60);
	out8(r, 0x60, 0x47); /* both interrupts, system flag, translation */
	out8(r, 0x64, 0xae);
	out8(r, 0x64, 0xa8);
	return 0;
}
static int teardown(void **state) { rig_free(r); return 0; }

static u8 next(void)
{
	assert_int_equal(in8(r, 0x64) & 1, 1);
	return in8(r, 0x60);
}
static void nothing(void) { assert_int_equal(in8(r, 0x64) & 1, 0); }

static void reset_answers_and_identifies(void **state)
{
	out8(r, 0x60, 0xff);
	assert_int_equal(next(), 0xfa);
	assert_int_equal(next(), 0xaa);
	out8(r, 0x60, 0xf2);
	assert_int_equal(next(), 0xfa);
	assert_int_equal(next(), 0xab);
	assert_int_equal(next(), 0x41); /* translated */
	nothing();
}

static void keys_arrive_as_set_1_with_one_interrupt_a_byte(void **state)
{
	unsigned before = r->raises[1];
	i8042_key(k, 0x1e, true);
	i8042_key(k, 0x1e, false);
	i8042_key(k, 0xe050, true);
	assert_int_equal(next(), 0x1e);
	assert_int_equal(next(), 0x9e);
	assert_int_equal(next(), 0xe0);
	assert_int_equal(next(), 0x50);
	nothing();
	assert_int_equal(r->raises[1] - before, 4);
}

static void every_key_of_set_1_survives_the_way_through_set_2(void **state)
{
	for (u8 code = 1; code < 0x59; code++) {
		if (code == 0x54) /* SysRq */
			continue;
		i8042_key(k, code, true);
		assert_int_equal(next(), code);
	}
}

static void a_full_queue_loses_keys_and_nothing_else(void **state)
{
	for (unsigned i = 0; i < 1000; i++)
		i8042_key(k, 0x1e, i % 2 == 0);
	for (unsigned i = 0; i < 80 && in8(r, 0x64) & 1; i++)
		in8(r, 0x60);
	nothing();
	i8042_key(k, 0x10, true);
	assert_int_equal(next(), 0x10);
}

static void mouse(u8 v)
{
	out8(r, 0x64, 0xd4);
	out8(r, 0x60, v);
	assert_int_equal(in8(r, 0x64) & 0x21, 0x21);
	assert_int_equal(in8(r, 0x60), 0xfa);
}

static void the_mouse_reports_movements_when_asked_to(void **state)
{
	i8042_mouse(k, 5, -3, 0, 1);
	nothing();
	mouse(0xf4);
	i8042_mouse(k, 5, -3, 0, 1);
	assert_int_equal(next(), 0x29);
	assert_int_equal(next(), 5);
	assert_int_equal(next(), 0xfd);
	nothing();
	assert_true(r->raises[12] >= 3);
}

static void the_knock_turns_the_wheel_on(void **state)
{
	static const u8 rates[] = { 200, 100, 80 };
	for (unsigned i = 0; i < 3; i++) {
		mouse(0xf3);
		mouse(rates[i]);
	}
	mouse(0xf2);
	assert_int_equal(next(), 3);
	mouse(0xf4);
	i8042_mouse(k, 0, 0, 1, 0);
	assert_int_equal(next(), 8);
	assert_int_equal(next(), 0);
	assert_int_equal(next(), 0);
	assert_int_equal(next(), 0xff);
	rig_check_save_load(r);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(reset_answers_and_identifies), T(keys_arrive_as_set_1_with_one_interrupt_a_byte), T(every_key_of_set_1_survives_the_way_through_set_2),
		T(a_full_queue_loses_keys_and_nothing_else), T(the_mouse_reports_movements_when_asked_to), T(the_knock_turns_the_wheel_on),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
