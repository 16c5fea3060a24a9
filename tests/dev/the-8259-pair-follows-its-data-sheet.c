#include "test.h"

static void line(struct rig *r, unsigned n, int level) { bus_lock(&r->bus); i8259_set(r->irq->pic, n, level); bus_unlock(&r->bus); }
static void pulse(struct rig *r, unsigned n) { line(r, n, 1); line(r, n, 0); }

TEST(an_edge_reaches_the_cpu_once)
{
	rig_virtual_wire(r);
	assert_int_equal(apic_pending(r, 0), -1);
	line(r, 4, 1);
	assert_int_equal(apic_pending(r, 0), 0x24);
	assert_true(r->cpu[0]->pending & PEND_INTR);
	assert_int_equal(r->kicks[0] > 0, 1);
	assert_int_equal(apic_ack(r, 0), 0x24);
	assert_int_equal(apic_pending(r, 0), -1);
	out8(r, 0x20, 0x20);
	assert_int_equal(apic_pending(r, 0), -1); /* still high, but no new edge */
	line(r, 4, 0);
	line(r, 4, 1);
	assert_int_equal(apic_ack(r, 0), 0x24);
}

TEST(a_level_input_asks_again_after_eoi)
{
	rig_virtual_wire(r);
	out8(r, 0x4d1, 0x0c);
	assert_int_equal(in8(r, 0x4d1), 0x0c);
	line(r, 11, 1);
	assert_int_equal(apic_ack(r, 0), 0x2b);
	assert_int_equal(apic_pending(r, 0), -1);
	out8(r, 0xa0, 0x20);
	out8(r, 0x20, 0x20);
	assert_int_equal(apic_ack(r, 0), 0x2b);
	line(r, 11, 0);
	out8(r, 0xa0, 0x20);
	out8(r, 0x20, 0x20);
	assert_int_equal(apic_pending(r, 0), -1);
}

TEST(elcr_keeps_the_fixed_edge_inputs_edge)
{
	out8(r, 0x4d0, 0xff);
	out8(r, 0x4d1, 0xff);
	assert_int_equal(in8(r, 0x4d0), 0xf8);
	assert_int_equal(in8(r, 0x4d1), 0xde);
}

TEST(lower_priorities_wait_for_eoi_and_slave_lines_rank_as_input_2)
{
	rig_virtual_wire(r);
	pulse(r, 3);
	assert_int_equal(apic_ack(r, 0), 0x23);
	pulse(r, 5);
	assert_int_equal(apic_pending(r, 0), -1);
	pulse(r, 8);
	assert_int_equal(apic_ack(r, 0), 0x28);
	pulse(r, 12);
	assert_int_equal(apic_pending(r, 0), -1);
	out8(r, 0xa0, 0x20);
	assert_int_equal(apic_pending(r, 0), -1); /* the master still serves input 2 */
	out8(r, 0x20, 0x20);
	assert_int_equal(apic_ack(r, 0), 0x2c);
	out8(r, 0xa0, 0x20);
	out8(r, 0x20, 0x20);
	assert_int_equal(apic_pending(r, 0), -1); /* 3 is in service and outranks 5 */
	out8(r, 0x20, 0x20);
	assert_int_equal(apic_ack(r, 0), 0x25);
}

TEST(reads_give_irr_isr_and_mask)
{
	rig_virtual_wire(r);
	out8(r, 0x21, 0x80);
	pulse(r, 7);
	pulse(r, 1);
	assert_int_equal(in8(r, 0x20), 0x82);
	assert_int_equal(in8(r, 0x21), 0x80);
	assert_int_equal(apic_ack(r, 0), 0x21);
	out8(r, 0x20, 0x0b);
	assert_int_equal(in8(r, 0x20), 0x02);
	out8(r, 0x20, 0x0a);
	assert_int_equal(in8(r, 0x20), 0x80);
}

TEST(an_acknowledge_without_request_is_spurious_7)
{
	rig_virtual_wire(r);
	bus_lock(&r->bus);
	assert_int_equal(i8259_inta(r->irq->pic), 0x27);
	bus_unlock(&r->bus);
	out8(r, 0x20, 0x0b);
	assert_int_equal(in8(r, 0x20), 0);
}

TEST(auto_eoi_leaves_nothing_in_service)
{
	rig_virtual_wire(r);
	out8(r, 0x20, 0x11);
	out8(r, 0x21, 0x20);
	out8(r, 0x21, 0x04);
	out8(r, 0x21, 0x03);
	out8(r, 0x21, 0);
	pulse(r, 1);
	assert_int_equal(apic_ack(r, 0), 0x21);
	pulse(r, 1);
	assert_int_equal(apic_ack(r, 0), 0x21);
}

TEST(poll_mode_acknowledges)
{
	rig_virtual_wire(r);
	out8(r, 0x20, 0x0c);
	assert_int_equal(in8(r, 0x20) & 0x80, 0);
	pulse(r, 6);
	out8(r, 0x20, 0x0c);
	assert_int_equal(in8(r, 0x20), 0x86);
	out8(r, 0x20, 0x0b);
	assert_int_equal(in8(r, 0x20), 0x40);
	assert_int_equal(apic_pending(r, 0), -1);
}

TEST(special_mask_mode_lets_lower_priorities_through)
{
	rig_virtual_wire(r);
	pulse(r, 1);
	assert_int_equal(apic_ack(r, 0), 0x21);
	pulse(r, 6);
	assert_int_equal(apic_pending(r, 0), -1);
	out8(r, 0x21, 0x02);
	out8(r, 0x20, 0x68);
	assert_int_equal(apic_ack(r, 0), 0x26);
}

TEST(rotation_moves_the_lowest_priority)
{
	rig_virtual_wire(r);
	out8(r, 0x20, 0xc3); /* 3 is lowest, so 4 is highest */
	pulse(r, 1);
	pulse(r, 4);
	assert_int_equal(apic_ack(r, 0), 0x24);
	out8(r, 0x20, 0xa0); /* rotate on non-specific EOI */
	pulse(r, 4);
	assert_int_equal(apic_ack(r, 0), 0x21);
	out8(r, 0x20, 0x61); /* specific EOI */
	assert_int_equal(apic_ack(r, 0), 0x24);
}

TEST(icw1_forgets_latched_edges)
{
	rig_virtual_wire(r);
	out8(r, 0x21, 0xff);
	pulse(r, 3);
	pic_init(r);
	assert_int_equal(apic_pending(r, 0), -1);
}

TEST(a_masked_edge_is_kept)
{
	rig_virtual_wire(r);
	out8(r, 0x21, 0xff);
	pulse(r, 3);
	assert_int_equal(apic_pending(r, 0), -1);
	out8(r, 0x21, 0xf7);
	assert_int_equal(apic_ack(r, 0), 0x23);
}

TEST(a_masked_lint0_or_another_cpu_does_not_see_it)
{
	rig_virtual_wire(r);
	pulse(r, 3);
	assert_int_equal(apic_pending(r, 1), -1);
	apic_wr(r, 0, LAPIC_LVT + LVT_LINT0, 0x10700);
	assert_int_equal(apic_pending(r, 0), -1);
	r->cpu[0]->pending = 0;
	apic_wr(r, 0, LAPIC_LVT + LVT_LINT0, 0x700);
	assert_true(r->cpu[0]->pending & PEND_INTR);
	assert_int_equal(apic_ack(r, 0), 0x23);
}

TEST(without_an_apic_intr_goes_to_the_first_cpu)
{
	pic_init(r);
	assert_true(apic_base(r, 0, APIC_BASE_RESET | APIC_BASE_BSP));
	pulse(r, 3);
	assert_int_equal(apic_ack(r, 0), 0x23);
}

TEST(lint0_in_fixed_mode_sends_its_own_vector)
{
	rig_virtual_wire(r);
	apic_wr(r, 0, LAPIC_LVT + LVT_LINT0, 0x61);
	pulse(r, 3);
	assert_int_equal(apic_ack(r, 0), 0x61);
}

TEST(ioapic_pin_0_carries_extint)
{
	rig_virtual_wire(r);
	apic_wr(r, 0, LAPIC_LVT + LVT_LINT0, 0x10700);
	apic_enable(r, 1);
	ioapic_pin(r, 0, (u64)1 << 56 | 0x700);
	pulse(r, 3);
	assert_int_equal(apic_pending(r, 0), -1);
	assert_int_equal(apic_pending(r, 1), 0x23);
	assert_int_equal(apic_ack(r, 1), 0x23);
	assert_int_equal(apic_pending(r, 1), -1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		ROW(an_edge_reaches_the_cpu_once), ROW(a_level_input_asks_again_after_eoi), ROW(elcr_keeps_the_fixed_edge_inputs_edge),
		ROW(lower_priorities_wait_for_eoi_and_slave_lines_rank_as_input_2), ROW(reads_give_irr_isr_and_mask),
		ROW(an_acknowledge_without_request_is_spurious_7), ROW(auto_eoi_leaves_nothing_in_service), ROW(poll_mode_acknowledges),
		ROW(special_mask_mode_lets_lower_priorities_through), ROW(rotation_moves_the_lowest_priority), ROW(icw1_forgets_latched_edges),
		ROW(a_masked_edge_is_kept), ROW(a_masked_lint0_or_another_cpu_does_not_see_it), ROW(without_an_apic_intr_goes_to_the_first_cpu),
		ROW(lint0_in_fixed_mode_sends_its_own_vector), ROW(ioapic_pin_0_carries_extint),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
