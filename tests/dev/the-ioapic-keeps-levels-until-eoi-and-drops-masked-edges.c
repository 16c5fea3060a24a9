#include "test.h"

#define LEVEL 0x8000u
#define MASKED 0x10000u
#define REMOTE 0x4000u

static struct irq_line line(struct rig *r, unsigned n) { return irq_system_line(r->irq, n); }
static u32 rte(struct rig *r, unsigned pin) { return ioapic_rd(r, 0x10 + 2 * pin); }
static void eoi(struct rig *r, unsigned cpu) { apic_wr(r, cpu, LAPIC_EOI, 0); }

TEST(identity_registers)
{
	assert_int_equal(ioapic_rd(r, 1), 0x170020);
	ioapic_wr(r, 0, 0xffffffff);
	assert_int_equal(ioapic_rd(r, 0), 0x0f000000);
	assert_int_equal(ioapic_rd(r, 2), 0x0f000000);
	assert_int_equal(rte(r, 23), MASKED);
	assert_int_equal(ioapic_rd(r, 0x40), 0);
	ioapic_pin(r, 5, ~(u64)0);
	assert_int_equal(rte(r, 5), 0x1afff);
	assert_int_equal(ioapic_rd(r, 0x1b), 0xff000000);
}

TEST(an_edge_is_delivered_once)
{
	apic_enable(r, 0);
	ioapic_pin(r, 4, 0x41);
	struct irq_line l = line(r, 4);
	irq_line_set(l, 1);
	assert_int_equal(apic_ack(r, 0), 0x41);
	eoi(r, 0);
	assert_int_equal(apic_pending(r, 0), -1);
	irq_line_set(l, 0);
	irq_line_set(l, 1);
	assert_int_equal(apic_ack(r, 0), 0x41);
}

TEST(an_edge_while_masked_is_lost)
{
	apic_enable(r, 0);
	ioapic_pin(r, 4, 0x41 | MASKED);
	struct irq_line l = line(r, 4);
	irq_line_set(l, 1);
	ioapic_pin(r, 4, 0x41);
	assert_int_equal(apic_pending(r, 0), -1);
}

TEST(a_level_while_masked_is_delivered_when_unmasked)
{
	apic_enable(r, 0);
	ioapic_pin(r, 14, 0x41 | MASKED | LEVEL);
	irq_line_set(line(r, 14), 1);
	assert_int_equal(apic_pending(r, 0), -1);
	ioapic_pin(r, 14, 0x41 | LEVEL);
	assert_int_equal(apic_pending(r, 0), 0x41);
}

TEST(remote_irr_holds_a_level_until_the_eoi_and_then_asks_again)
{
	apic_enable(r, 0);
	ioapic_pin(r, 16, 0x55 | LEVEL);
	struct irq_line l = line(r, 16);
	irq_line_set(l, 1);
	assert_int_equal(rte(r, 16), 0x55 | LEVEL | REMOTE);
	assert_int_equal(apic_ack(r, 0), 0x55);
	assert_int_equal(apic_rd(r, 0, LAPIC_TMR + 2), 1u << 21);
	irq_line_set(l, 0);
	irq_line_set(l, 1);
	assert_int_equal(apic_rd(r, 0, LAPIC_IRR + 2), 0);
	eoi(r, 0);
	assert_int_equal(apic_ack(r, 0), 0x55);
	irq_line_set(l, 0);
	eoi(r, 0);
	assert_int_equal(rte(r, 16), 0x55 | LEVEL);
	assert_int_equal(apic_pending(r, 0), -1);
}

TEST(the_eoi_register_clears_remote_irr)
{
	apic_enable(r, 0);
	ioapic_pin(r, 17, 0x56 | LEVEL);
	struct irq_line l = line(r, 17);
	irq_line_set(l, 1);
	irq_line_set(l, 0);
	wr32(r, IRQ_IOAPIC_BASE + 0x40, 0x57);
	assert_true(rte(r, 17) & REMOTE);
	wr32(r, IRQ_IOAPIC_BASE + 0x40, 0x56);
	assert_false(rte(r, 17) & REMOTE);
}

TEST(switching_to_edge_and_back_clears_remote_irr)
{
	apic_enable(r, 0);
	ioapic_pin(r, 17, 0x56 | LEVEL);
	struct irq_line l = line(r, 17);
	irq_line_set(l, 1);
	irq_line_set(l, 0);
	ioapic_wr(r, 0x10 + 34, 0x56 | MASKED);
	ioapic_wr(r, 0x10 + 34, 0x56 | MASKED | LEVEL);
	assert_int_equal(rte(r, 17), 0x56 | MASKED | LEVEL);
}

TEST(an_edge_vector_needs_no_broadcast)
{
	apic_enable(r, 0);
	ioapic_pin(r, 17, 0x56 | LEVEL);
	ioapic_pin(r, 4, 0x57);
	irq_line_set(line(r, 17), 1);
	assert_int_equal(apic_ack(r, 0), 0x56);
	irq_line_set(line(r, 4), 1);
	apic_wr(r, 0, LAPIC_EOI, 0);
	assert_int_equal(apic_ack(r, 0), 0x57);
	assert_int_equal(apic_rd(r, 0, LAPIC_TMR + 2), 1u << 22);
}

TEST(a_disabled_target_leaves_the_level_waiting)
{
	ioapic_pin(r, 17, 0x56 | LEVEL);
	irq_line_set(line(r, 17), 1);
	assert_false(rte(r, 17) & REMOTE);
	apic_enable(r, 0);
	ioapic_pin(r, 17, 0x56 | LEVEL);
	assert_int_equal(apic_pending(r, 0), 0x56);
}

TEST(devices_share_a_line)
{
	apic_enable(r, 0);
	ioapic_pin(r, 18, 0x60 | LEVEL);
	struct irq_line a = line(r, 18), b = line(r, 18);
	irq_line_set(a, 1);
	irq_line_set(b, 1);
	assert_int_equal(apic_ack(r, 0), 0x60);
	irq_line_set(a, 0);
	eoi(r, 0);
	assert_int_equal(apic_ack(r, 0), 0x60);
	irq_line_set(b, 0);
	eoi(r, 0);
	assert_int_equal(apic_pending(r, 0), -1);
}

TEST(isa_irq_0_is_pin_2)
{
	apic_enable(r, 0);
	ioapic_pin(r, 2, 0x30);
	out8(r, 0x43, 0x30); /* the 8254's output was high */
	irq_line_set(line(r, 0), 1);
	assert_int_equal(apic_pending(r, 0), 0x30);
}

TEST(logical_lowest_priority_goes_to_the_idlest_match)
{
	for (unsigned i = 0; i < RIG_CPUS; i++) {
		apic_enable(r, i);
		apic_wr(r, i, LAPIC_LDR, 1u << (24 + i));
		apic_wr(r, i, LAPIC_TPR, i == 2 ? 0x10 : 0x40);
	}
	ioapic_pin(r, 4, (u64)0x0f << 56 | 0x800 | 0x100 | 0x71);
	struct irq_line l = line(r, 4);
	irq_line_pulse(l);
	assert_int_equal(apic_pending(r, 2), 0x71);
	for (unsigned i = 0; i < RIG_CPUS; i++)
		if (i != 2)
			assert_int_equal(apic_pending(r, i), -1);
}

TEST(narrow_accesses_do_what_they_can)
{
	bus_mmio_write(&r->bus, IRQ_IOAPIC_BASE, 1, 1);
	assert_int_equal(bus_mmio_read(&r->bus, IRQ_IOAPIC_BASE + 0x10, 1), 0x20);
	assert_int_equal(bus_mmio_read(&r->bus, IRQ_IOAPIC_BASE + 0x12, 1), 0x17);
	assert_int_equal(bus_mmio_read(&r->bus, IRQ_IOAPIC_BASE + 0x20, 4), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		ROW(identity_registers), ROW(an_edge_is_delivered_once), ROW(an_edge_while_masked_is_lost),
		ROW(a_level_while_masked_is_delivered_when_unmasked), ROW(remote_irr_holds_a_level_until_the_eoi_and_then_asks_again),
		ROW(the_eoi_register_clears_remote_irr), ROW(switching_to_edge_and_back_clears_remote_irr), ROW(an_edge_vector_needs_no_broadcast),
		ROW(a_disabled_target_leaves_the_level_waiting), ROW(devices_share_a_line), ROW(isa_irq_0_is_pin_2),
		ROW(logical_lowest_priority_goes_to_the_idlest_match), ROW(narrow_accesses_do_what_they_can),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
