#include "test.h"

#define T(n) (HPET_BASE + 0x100 + 0x20 * (n))
#define ENABLE 4u
#define PERIODIC 8u
#define SETVAL 0x40u
#define ONLY32 0x100u
#define LEVEL 2u
#define ROUTE(n) ((u32)(n) << 9)

static u32 now32(struct rig *r) { return rd32(r, HPET_BASE + 0xf0); }
static void run(struct rig *r, u32 config) { wr32(r, HPET_BASE + 0x10, config); }

static void wire(struct rig *r)
{
	apic_enable(r, 0);
	ioapic_pin(r, 2, 0x32);
	ioapic_pin(r, 8, 0x38);
	ioapic_pin(r, 20, 0x40);
	ioapic_pin(r, 21, 0x8041);
}

static int take(struct rig *r)
{
	int v = apic_ack(r, 0);
	apic_wr(r, 0, LAPIC_EOI, 0);
	return v;
}

TEST(capabilities)
{
	assert_int_equal(rd32(r, HPET_BASE), 0x8086a201);
	assert_int_equal(rd32(r, HPET_BASE + 4), 10000000);
	assert_int_equal(bus_mmio_read(&r->bus, HPET_BASE, 8), 0x009896808086a201);
	assert_int_equal(rd32(r, T(0)) & 0x8030, 0x8030);
	assert_int_equal(rd32(r, T(0) + 4), 0x00f00000);
	assert_int_equal(rd32(r, T(3)), 0);
}

TEST(the_counter_runs_only_when_enabled)
{
	rig_run(r, 1000);
	assert_int_equal(now32(r), 0);
	run(r, 1);
	rig_run(r, 1000);
	assert_int_equal(now32(r), 100);
	run(r, 0);
	rig_run(r, 1000);
	assert_int_equal(now32(r), 100);
	bus_mmio_write(&r->bus, HPET_BASE + 0xf0, 0xfffffff0, 8);
	run(r, 1);
	rig_run(r, 1000);
	assert_int_equal(now32(r), 0x54);
	assert_int_equal(rd32(r, HPET_BASE + 0xf4), 1);
	assert_int_equal(bus_mmio_read(&r->bus, HPET_BASE + 0xf0, 8), 0x100000054);
	run(r, 3); /* the legacy switch leaves it alone */
	rig_run(r, 1000);
	assert_int_equal(now32(r), 0xb8);
}

TEST(one_shot_on_a_free_route)
{
	wire(r);
	run(r, 1);
	wr32(r, T(0), ENABLE | ONLY32 | ROUTE(20));
	wr32(r, T(0) + 8, now32(r) + 500);
	rig_run(r, 4999);
	assert_int_equal(take(r), -1);
	rig_run(r, 1);
	assert_int_equal(take(r), 0x40);
	rig_run(r, 100 * MS);
	assert_int_equal(take(r), -1);
}

TEST(a_comparator_in_the_past_waits_for_the_wrap)
{
	wire(r);
	run(r, 1);
	rig_run(r, 10000);
	wr32(r, T(0), ENABLE | ONLY32 | ROUTE(20));
	wr32(r, T(0) + 8, 999);
	assert_true((i32)(999 - now32(r)) < 0); /* what a guest checks */
	rig_run(r, 42000 * MS);
	assert_int_equal(take(r), -1);
	rig_run(r, 1000 * MS);
	assert_int_equal(take(r), 0x40);
}

TEST(periodic_with_the_accumulator_rule)
{
	wire(r);
	run(r, 3);
	rig_run(r, 1000);
	wr32(r, T(0), ENABLE | PERIODIC | SETVAL | ONLY32);
	wr32(r, T(0) + 8, 300);  /* the first match */
	assert_int_equal(rd32(r, T(0)) & SETVAL, 0);
	wr32(r, T(0) + 8, 10000); /* then every 10000 */
	rig_run(r, 1999);
	assert_int_equal(take(r), -1);
	rig_run(r, 1);
	assert_int_equal(take(r), 0x32);
	assert_int_equal(rd32(r, T(0) + 8), 10300);
	rig_run(r, 100000);
	assert_int_equal(take(r), 0x32);
	clock_publish(&r->clock, clock_now(&r->clock) + 550000);
	clock_run_timers(&r->clock);
	assert_int_equal(take(r), 0x32);
	assert_int_equal(take(r), -1);
	assert_int_equal(rd32(r, T(0) + 8), 70300);
}

TEST(levels_wait_for_the_status_bit)
{
	wire(r);
	run(r, 1);
	wr32(r, T(1), ENABLE | LEVEL | ONLY32 | ROUTE(21));
	wr32(r, T(1) + 8, 100);
	rig_run(r, 1000);
	assert_int_equal(rd32(r, HPET_BASE + 0x20), 2);
	assert_int_equal(take(r), 0x41);
	assert_int_equal(take(r), 0x41);
	wr32(r, HPET_BASE + 0x20, 2);
	assert_int_equal(rd32(r, HPET_BASE + 0x20), 0);
	assert_int_equal(take(r), 0x41); /* sent at the last EOI */
	assert_int_equal(take(r), -1);
}

TEST(legacy_replacement_cuts_off_pit_and_rtc)
{
	wire(r);
	struct irq_line pit = hpet_pit_line(r->hpet), rtc = hpet_rtc_line(r->hpet);
	irq_line_set(pit, 0);
	irq_line_set(pit, 1);
	assert_int_equal(take(r), 0x32);
	run(r, 3);
	irq_line_set(pit, 0);
	irq_line_set(pit, 1);
	irq_line_set(rtc, 1);
	assert_int_equal(take(r), -1);
	wr32(r, T(1), ENABLE | ONLY32);
	wr32(r, T(1) + 8, now32(r) + 10);
	rig_run(r, 100);
	assert_int_equal(take(r), 0x38);
	run(r, 1); /* back: both lines are high now */
	assert_int_equal(take(r), 0x38);
	assert_int_equal(take(r), 0x32);
}

TEST(msi_delivery)
{
	apic_enable(r, 1);
	run(r, 1);
	bus_mmio_write(&r->bus, T(2) + 0x10, 0xfee0100000000077, 8);
	wr32(r, T(2), ENABLE | ONLY32 | 0x4000);
	wr32(r, T(2) + 8, 10);
	rig_run(r, 100);
	assert_int_equal(apic_ack(r, 1), 0x77);
}

TEST(an_impossible_route_is_refused)
{
	wr32(r, T(0), ROUTE(21));
	wr32(r, T(0), ENABLE | ROUTE(5));
	assert_int_equal(rd32(r, T(0)) & 0x3e00, ROUTE(21));
}

TEST(a_tiny_period_cannot_flood)
{
	wire(r);
	run(r, 1);
	wr32(r, T(0), ENABLE | PERIODIC | SETVAL | ONLY32 | ROUTE(20));
	wr32(r, T(0) + 8, 1);
	unsigned n = 0;
	for (unsigned i = 0; i < 1000; i++) {
		rig_run(r, 1000);
		n += take(r) == 0x40;
	}
	assert_true(n > 10 && n <= MS / CLOCK_MIN_PERIOD_NS + 1);
}

TEST(sixty_four_bit_comparators)
{
	wire(r);
	bus_mmio_write(&r->bus, HPET_BASE + 0xf0, 0xffffffff, 8);
	run(r, 1);
	wr32(r, T(0), ENABLE | ROUTE(20));
	bus_mmio_write(&r->bus, T(0) + 8, 0x100000010, 8);
	rig_run(r, 169);
	assert_int_equal(take(r), -1);
	rig_run(r, 1);
	assert_int_equal(take(r), 0x40);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		ROW(capabilities), ROW(the_counter_runs_only_when_enabled), ROW(one_shot_on_a_free_route), ROW(a_comparator_in_the_past_waits_for_the_wrap),
		ROW(periodic_with_the_accumulator_rule), ROW(levels_wait_for_the_status_bit), ROW(legacy_replacement_cuts_off_pit_and_rtc), ROW(msi_delivery),
		ROW(an_impossible_route_is_refused), ROW(a_tiny_period_cannot_flood), ROW(sixty_four_bit_comparators),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
