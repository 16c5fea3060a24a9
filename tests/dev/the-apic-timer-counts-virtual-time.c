#include "test.h"

#define ONE_SHOT 0x31u
#define PERIODIC 0x20031u
#define DEADLINE 0x40031u
#define DIV1 0xbu

static void lvt(struct rig *r, u32 v) { apic_wr(r, 0, LAPIC_LVT + LVT_TIMER, v); }
static u32 count(struct rig *r) { return apic_rd(r, 0, LAPIC_TIMER_COUNT); }
static u64 tsc(struct rig *r) { return clock_now(&r->clock) * 2 + r->cpu[0]->arch.tsc_offset; }
static void deadline(struct rig *r, u64 v) { r->cpu[0]->intc->set_deadline(r->cpu[0]->intc_state, v); }
static u64 get_deadline(struct rig *r) { return r->cpu[0]->intc->deadline(r->cpu[0]->intc_state); }

static bool took(struct rig *r)
{
	if (apic_ack(r, 0) != 0x31)
		return false;
	apic_wr(r, 0, LAPIC_EOI, 0);
	return true;
}

static void start(struct rig *r, u32 mode, u32 div, u32 init)
{
	apic_enable(r, 0);
	lvt(r, mode);
	apic_wr(r, 0, LAPIC_TIMER_DIV, div);
	apic_wr(r, 0, LAPIC_TIMER_INIT, init);
}

TEST(one_shot_fires_once_after_the_divided_count)
{
	start(r, ONE_SHOT, 3, 1000); /* divide by 16 */
	assert_int_equal(count(r), 1000);
	rig_run(r, 8000);
	assert_int_equal(count(r), 500);
	rig_run(r, 7999);
	assert_int_equal(count(r), 1);
	assert_false(took(r));
	rig_run(r, 1);
	assert_true(r->cpu[0]->pending & PEND_INTR);
	assert_true(r->kicks[0] > 0);
	assert_true(took(r));
	assert_int_equal(count(r), 0);
	rig_run(r, 100000);
	assert_false(took(r));
}

TEST(every_divide_value)
{
	static const struct { u32 div, ns; } rows[] = { { 0, 2 }, { 1, 4 }, { 2, 8 }, { 3, 16 }, { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 } };
	for (unsigned i = 0; i < array_len(rows); i++) {
		start(r, ONE_SHOT, rows[i].div, 100);
		rig_run(r, 50 * rows[i].ns);
		assert_int_equal(count(r), 50);
	}
}

TEST(periodic_keeps_its_phase_and_drops_missed_ticks)
{
	start(r, PERIODIC, DIV1, MS);
	for (unsigned i = 0; i < 3; i++) {
		rig_run(r, MS);
		assert_true(took(r));
		assert_false(took(r));
	}
	clock_publish(&r->clock, clock_now(&r->clock) + 5 * MS + MS / 2); /* nobody looked for 5.5 ms */
	clock_run_timers(&r->clock);
	assert_true(took(r));
	assert_false(took(r));
	assert_int_equal(count(r), MS / 2);
}

TEST(a_tiny_period_cannot_flood)
{
	start(r, PERIODIC, DIV1, 1);
	unsigned n = 0;
	for (unsigned i = 0; i < 1000; i++) {
		rig_run(r, 1000);
		n += took(r);
	}
	assert_true(n > 0 && n <= MS / CLOCK_MIN_PERIOD_NS + 1);
}

TEST(changing_between_one_shot_and_periodic_keeps_counting)
{
	start(r, ONE_SHOT, DIV1, MS);
	rig_run(r, MS / 4);
	lvt(r, PERIODIC);
	assert_int_equal(count(r), MS - MS / 4);
	rig_run(r, MS);
	assert_true(took(r));
	assert_int_equal(count(r), MS - MS / 4);
	lvt(r, ONE_SHOT);
	assert_int_equal(count(r), MS - MS / 4);
	rig_run(r, MS);
	assert_int_equal(count(r), 0);
	lvt(r, PERIODIC);
	assert_int_equal(count(r), 0);
	assert_int_equal(apic_rd(r, 0, LAPIC_TIMER_INIT), MS);
}

TEST(zero_stops_it)
{
	start(r, PERIODIC, DIV1, MS);
	apic_wr(r, 0, LAPIC_TIMER_INIT, 0);
	rig_run(r, 5 * MS);
	assert_false(took(r));
	assert_int_equal(r->clock.next, CLOCK_NEVER);
}

TEST(masked_it_runs_silently)
{
	start(r, PERIODIC | 0x10000, DIV1, MS);
	rig_run(r, MS + MS / 2);
	assert_false(took(r));
	assert_int_equal(count(r), MS / 2);
}

TEST(tsc_deadline_fires_at_or_after_the_tsc_value_and_disarms)
{
	r->cpu[0]->arch.tsc_offset = (u64)-12345;
	apic_enable(r, 0);
	lvt(r, DEADLINE);
	rig_run(r, MS);
	u64 at = tsc(r) + 2001;
	deadline(r, at);
	assert_int_equal(get_deadline(r), at);
	rig_run(r, 1000);
	assert_false(took(r));
	rig_run(r, 1);
	assert_true(took(r));
	assert_int_equal(get_deadline(r), 0);
	rig_run(r, MS);
	assert_false(took(r));
}

TEST(a_past_deadline_fires_at_once_and_zero_disarms)
{
	apic_enable(r, 0);
	lvt(r, DEADLINE);
	rig_run(r, MS);
	deadline(r, 1);
	assert_true(took(r));
	deadline(r, tsc(r) + 5000);
	deadline(r, 0);
	rig_run(r, MS);
	assert_false(took(r));
	deadline(r, ~(u64)0);
	rig_run(r, MS);
	assert_false(took(r));
}

TEST(deadline_mode_ignores_the_count_and_the_others_ignore_the_deadline)
{
	start(r, ONE_SHOT, DIV1, MS);
	deadline(r, 5);
	assert_int_equal(get_deadline(r), 0);
	lvt(r, DEADLINE);
	assert_int_equal(count(r), 0);
	apic_wr(r, 0, LAPIC_TIMER_INIT, 1000);
	rig_run(r, 5 * MS);
	assert_false(took(r));
	deadline(r, tsc(r) + 1000);
	lvt(r, ONE_SHOT);
	rig_run(r, MS);
	assert_false(took(r));
	assert_int_equal(get_deadline(r), 0);
}

TEST(changing_the_divider_changes_the_pace_not_the_count)
{
	start(r, ONE_SHOT, DIV1, 10000);
	rig_run(r, 4000);
	apic_wr(r, 0, LAPIC_TIMER_DIV, 0);
	assert_int_equal(count(r), 6000);
	rig_run(r, 6000);
	assert_int_equal(count(r), 3000);
}

TEST(reset_stops_it)
{
	start(r, PERIODIC, DIV1, MS);
	r->cpu[0]->intc->init(r->cpu[0]->intc_state, false);
	assert_int_equal(r->clock.next, CLOCK_NEVER);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		ROW(one_shot_fires_once_after_the_divided_count), ROW(every_divide_value), ROW(periodic_keeps_its_phase_and_drops_missed_ticks),
		ROW(a_tiny_period_cannot_flood), ROW(changing_between_one_shot_and_periodic_keeps_counting), ROW(zero_stops_it), ROW(masked_it_runs_silently),
		ROW(tsc_deadline_fires_at_or_after_the_tsc_value_and_disarms), ROW(a_past_deadline_fires_at_once_and_zero_disarms),
		ROW(deadline_mode_ignores_the_count_and_the_others_ignore_the_deadline), ROW(changing_the_divider_changes_the_pace_not_the_count),
		ROW(reset_stops_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
