#include "test.h"
#include <sched.h>

#define SELF(r, n, v) apic_wr(r, n, LAPIC_ICR, 0x40000 | (v))

static void ipi(struct rig *r, unsigned from, u32 dest, u32 low)
{
	apic_wr(r, from, LAPIC_ICR2, dest << 24);
	apic_wr(r, from, LAPIC_ICR, low);
}

static unsigned who_has(struct rig *r, u8 vector)
{
	unsigned set = 0;
	for (unsigned i = 0; i < RIG_CPUS; i++)
		if (apic_pending(r, i) == vector) {
			set |= 1u << i;
			apic_ack(r, i);
			apic_wr(r, i, LAPIC_EOI, 0);
		}
	return set;
}

static void enable_all(struct rig *r)
{
	for (unsigned i = 0; i < RIG_CPUS; i++)
		apic_enable(r, i);
}

TEST(reset_values)
{
	assert_int_equal(apic_rd(r, 2, LAPIC_ID), 2u << 24);
	assert_int_equal(apic_rd(r, 0, LAPIC_VERSION), 0x50014);
	assert_int_equal(apic_rd(r, 0, LAPIC_SVR), 0xff);
	assert_int_equal(apic_rd(r, 0, LAPIC_DFR), 0xffffffff);
	assert_int_equal(apic_rd(r, 0, LAPIC_LDR), 0);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		assert_int_equal(apic_rd(r, 0, LAPIC_LVT + i), 0x10000);
	assert_int_equal(r->cpu[0]->arch.apic_base, 0xfee00900);
	assert_int_equal(r->cpu[1]->arch.apic_base, 0xfee00800);
}

TEST(the_highest_class_wins_and_nests)
{
	apic_enable(r, 0);
	SELF(r, 0, 0x35);
	SELF(r, 0, 0x41);
	SELF(r, 0, 0x38);
	assert_int_equal(apic_ack(r, 0), 0x41);
	assert_int_equal(apic_rd(r, 0, LAPIC_PPR), 0x40);
	assert_int_equal(apic_pending(r, 0), -1);
	SELF(r, 0, 0x4f);
	assert_int_equal(apic_pending(r, 0), -1); /* same class does not nest */
	SELF(r, 0, 0x50);
	assert_int_equal(apic_ack(r, 0), 0x50);
	apic_wr(r, 0, LAPIC_EOI, 0);
	assert_int_equal(apic_rd(r, 0, LAPIC_ISR + 2), 2); /* the EOI was for 50h, the highest */
	apic_wr(r, 0, LAPIC_EOI, 0);
	assert_int_equal(apic_ack(r, 0), 0x4f);
	apic_wr(r, 0, LAPIC_EOI, 0);
	assert_int_equal(apic_ack(r, 0), 0x38);
	apic_wr(r, 0, LAPIC_EOI, 0);
	assert_int_equal(apic_ack(r, 0), 0x35);
}

TEST(tpr_blocks_its_class_and_below_and_lowering_it_signals)
{
	apic_enable(r, 0);
	apic_wr(r, 0, LAPIC_TPR, 0x4f);
	SELF(r, 0, 0x48);
	assert_int_equal(apic_pending(r, 0), -1);
	assert_int_equal(apic_rd(r, 0, LAPIC_PPR), 0x4f);
	r->cpu[0]->pending = 0;
	r->cpu[0]->intc->set_tpr(r->cpu[0]->intc_state, 0x3f);
	assert_true(r->cpu[0]->pending & PEND_INTR);
	assert_int_equal(r->cpu[0]->intc->tpr(r->cpu[0]->intc_state), 0x3f);
	assert_int_equal(apic_ack(r, 0), 0x48);
}

TEST(an_acknowledge_after_tpr_was_raised_finds_nothing)
{
	apic_enable(r, 0);
	SELF(r, 0, 0x48);
	apic_wr(r, 0, LAPIC_TPR, 0xff);
	assert_int_equal(apic_ack(r, 0), -1);
	assert_int_equal(apic_rd(r, 0, LAPIC_IRR + 2), 0x100);
}

TEST(soft_disable_masks_the_lvt_and_refuses_vectors)
{
	apic_enable(r, 0);
	apic_wr(r, 0, LAPIC_LVT + LVT_TIMER, 0x31);
	SELF(r, 0, 0x40);
	apic_wr(r, 0, LAPIC_SVR, 0xff);
	assert_int_equal(apic_rd(r, 0, LAPIC_LVT + LVT_TIMER), 0x10031);
	apic_wr(r, 0, LAPIC_LVT + LVT_TIMER, 0x31);
	assert_int_equal(apic_rd(r, 0, LAPIC_LVT + LVT_TIMER), 0x10031);
	SELF(r, 0, 0x50);
	assert_int_equal(apic_rd(r, 0, LAPIC_IRR + 2), 1); /* held, nothing new */
	ipi(r, 1, 0, 0x400); /* NMI still works */
	assert_true(r->cpu[0]->pending & PEND_NMI);
}

TEST(shorthands_and_physical_destinations)
{
	enable_all(r);
	ipi(r, 1, 3, 0x51);
	assert_int_equal(who_has(r, 0x51), 8);
	SELF(r, 1, 0x52);
	assert_int_equal(who_has(r, 0x52), 2);
	ipi(r, 1, 0, 0x80053);
	assert_int_equal(who_has(r, 0x53), 15);
	ipi(r, 1, 0, 0xc0054);
	assert_int_equal(who_has(r, 0x54), 13);
	ipi(r, 1, 0xff, 0x55);
	assert_int_equal(who_has(r, 0x55), 15);
	ipi(r, 1, 9, 0x56);
	assert_int_equal(who_has(r, 0x56), 0);
}

TEST(an_xapic_answers_to_the_id_that_software_gave_it)
{
	enable_all(r);
	apic_wr(r, 1, LAPIC_ID, 0x77000000);
	apic_wr(r, 2, LAPIC_ID, 0x77ffffff);
	assert_int_equal(apic_rd(r, 2, LAPIC_ID), 0x77000000);
	ipi(r, 0, 0x77, 0x51);
	assert_int_equal(who_has(r, 0x51), 6);
	ipi(r, 0, 1, 0x52);
	assert_int_equal(who_has(r, 0x52), 0);
	lapic_intc_ops.init(r->cpu[1]->intc_state, false); /* INIT keeps it */
	assert_int_equal(apic_rd(r, 1, LAPIC_ID), 0x77000000);
	assert_true(apic_base(r, 1, 0xfee00000)); /* switching the APIC off does not */
	assert_true(apic_base(r, 1, 0xfee00800));
	assert_int_equal(apic_rd(r, 1, LAPIC_ID), 0x01000000);
	apic_x2(r, 2);
	u64 id;
	assert_true(apic_msr_rd(r, 2, LAPIC_ID, &id));
	assert_int_equal(id, 2);
	assert_false(apic_msr_wr(r, 2, LAPIC_ID, 5));
}

TEST(logical_flat_and_cluster)
{
	enable_all(r);
	for (unsigned i = 0; i < RIG_CPUS; i++)
		apic_wr(r, i, LAPIC_LDR, 1u << (24 + i));
	ipi(r, 0, 0x0a, 0x851);
	assert_int_equal(who_has(r, 0x51), 10);
	ipi(r, 0, 0xff, 0x852);
	assert_int_equal(who_has(r, 0x52), 15);
	for (unsigned i = 0; i < RIG_CPUS; i++) {
		apic_wr(r, i, LAPIC_DFR, 0x0fffffff);
		apic_wr(r, i, LAPIC_LDR, (u32)(i / 2 << 4 | 1u << i % 2) << 24); /* two clusters of two */
	}
	ipi(r, 0, 0x13, 0x853);
	assert_int_equal(who_has(r, 0x53), 12);
	ipi(r, 0, 0xf2, 0x854);
	assert_int_equal(who_has(r, 0x54), 10);
	ipi(r, 0, 0x00, 0x855);
	assert_int_equal(who_has(r, 0x55), 0);
}

TEST(init_sipi_and_nmi_reach_the_core)
{
	ipi(r, 0, 1, 0xc500);
	assert_int_equal(r->cpu[1]->arch.init_pending, 1);
	assert_true(r->cpu[1]->pending & PEND_INIT);
	assert_int_equal(r->kicks[1], 1);
	ipi(r, 0, 2, 0x8500); /* level de-assert: ignored */
	assert_int_equal(r->cpu[2]->pending, 0);
	ipi(r, 0, 1, 0x69a);
	assert_int_equal(r->cpu[1]->arch.sipi_vector, 0x9a);
	assert_int_equal(r->cpu[1]->arch.sipi_pending, 1);
	assert_true(r->cpu[1]->pending & PEND_SIPI);
	ipi(r, 0, 3, 0x4400);
	assert_int_equal(r->cpu[3]->pending, PEND_NMI);
	ipi(r, 0, 0, 0xc4500); /* INIT to all but self, edge */
	assert_int_equal(r->cpu[0]->arch.init_pending, 0);
	assert_int_equal(r->cpu[3]->arch.init_pending, 1);
}

TEST(lvt_nmi_on_lint1)
{
	apic_enable(r, 1);
	apic_wr(r, 1, LAPIC_LVT + LVT_LINT1, 0x400);
	irq_system_nmi(r->irq);
	assert_int_equal(r->cpu[1]->pending, PEND_NMI);
	assert_int_equal(r->cpu[0]->pending & PEND_NMI, 0);
}

TEST(illegal_vectors_and_registers_show_in_esr_after_a_write)
{
	apic_enable(r, 0);
	apic_wr(r, 0, LAPIC_LVT + LVT_ERROR, 0x33);
	SELF(r, 0, 0x0f);
	assert_int_equal(apic_rd(r, 0, LAPIC_ESR), 0);
	apic_wr(r, 0, LAPIC_ESR, 0);
	assert_int_equal(apic_rd(r, 0, LAPIC_ESR), 0x20);
	assert_int_equal(apic_ack(r, 0), 0x33);
	apic_rd(r, 0, 0x2f);
	irq_system_msi(r->irq, 0xfee00000, 0x05);
	apic_wr(r, 0, LAPIC_ESR, 0);
	assert_int_equal(apic_rd(r, 0, LAPIC_ESR), 0xc0);
	apic_wr(r, 0, LAPIC_ESR, 0);
	assert_int_equal(apic_rd(r, 0, LAPIC_ESR), 0);
}

TEST(msi_destinations)
{
	enable_all(r);
	irq_system_msi(r->irq, 0xfee02000, 0x61);
	assert_int_equal(who_has(r, 0x61), 4);
	irq_system_msi(r->irq, 0xfeeff000, 0x62);
	assert_int_equal(who_has(r, 0x62), 15);
	for (unsigned i = 0; i < RIG_CPUS; i++)
		apic_wr(r, i, LAPIC_LDR, 1u << (24 + i));
	irq_system_msi(r->irq, 0xfee06004, 0x63);
	assert_int_equal(who_has(r, 0x63), 6);
	irq_system_msi(r->irq, 0xfee0600c, 0x64);
	unsigned one = who_has(r, 0x64);
	assert_true(one == 2 || one == 4);
	irq_system_msi(r->irq, 0xfee0600c, 0x64);
	assert_int_equal(who_has(r, 0x64), 6 - one); /* equals take turns */
	irq_system_msi(r->irq, 0xfee03000, 0x165);
	assert_int_equal(who_has(r, 0x65), 8);
	irq_system_msi(r->irq, 0xfee00000, 0x8066); /* level, not asserted */
	assert_int_equal(who_has(r, 0x66), 0);
	irq_system_msi(r->irq, 0xfed00000, 0x67);
	assert_int_equal(who_has(r, 0x67), 0);
}

TEST(base_transitions)
{
	u64 on = APIC_BASE_RESET | APIC_BASE_BSP | APIC_BASE_EN, off = APIC_BASE_RESET | APIC_BASE_BSP, x2 = on | APIC_BASE_X2;
	assert_false(apic_base(r, 0, off | APIC_BASE_X2));
	assert_false(apic_base(r, 0, on | 0x200));
	assert_false(apic_base(r, 0, on | (u64)1 << 40));
	assert_true(apic_base(r, 0, on | (u64)1 << 39));
	assert_true(apic_base(r, 0, x2));
	assert_int_equal(apic_rd(r, 0, LAPIC_ID), 0xffffffff); /* no MMIO in x2APIC mode */
	assert_false(apic_base(r, 0, on));
	assert_true(apic_base(r, 0, off));
	assert_int_equal(apic_rd(r, 0, LAPIC_SVR), 0xffffffff);
	assert_false(apic_base(r, 0, x2));
	assert_true(apic_base(r, 0, on));
	assert_int_equal(apic_rd(r, 0, LAPIC_SVR), 0xff);
	assert_int_equal(apic_rd(r, 0, LAPIC_ID), 0);
}

TEST(switched_off_it_loses_its_state_and_takes_nothing)
{
	apic_enable(r, 1);
	SELF(r, 1, 0x40);
	assert_true(apic_base(r, 1, APIC_BASE_RESET));
	assert_int_equal(apic_pending(r, 1), -1);
	ipi(r, 0, 1, 0x4500);
	assert_int_equal(r->cpu[1]->arch.init_pending, 0);
	assert_true(apic_base(r, 1, APIC_BASE_RESET | APIC_BASE_EN));
	assert_int_equal(apic_pending(r, 1), -1);
}

TEST(x2apic_registers_and_faults)
{
	static const struct { u8 reg; bool rd, wr; u64 good, bad; } rows[] = {
		{ LAPIC_ID, true, false }, { LAPIC_VERSION, true, false }, { LAPIC_TPR, true, true, 0xff, 0x100 }, { LAPIC_APR, false, false },
		{ LAPIC_PPR, true, false }, { LAPIC_EOI, false, true, 0, 1 }, { LAPIC_RRD, false, false }, { LAPIC_LDR, true, false },
		{ LAPIC_DFR, false, false }, { LAPIC_SVR, true, true, 0x1ff, 0x1000 }, { LAPIC_ISR, true, false }, { LAPIC_TMR + 7, true, false },
		{ LAPIC_IRR + 3, true, false }, { LAPIC_ESR, true, true, 0, 1 }, { 0x2f, false, false }, { LAPIC_ICR, true, true, 0xc4030, 0x2000 },
		{ LAPIC_ICR2, false, false }, { LAPIC_LVT, true, true, 0x10020, 0x80000 }, { LAPIC_LVT + LVT_LINT0, true, true, 0x1a700, 0x20000 },
		{ LAPIC_TIMER_INIT, true, true, 0xffffffff, (u64)1 << 32 }, { LAPIC_TIMER_COUNT, true, false }, { LAPIC_TIMER_DIV, true, true, 0xb, 4 },
		{ LAPIC_SELF_IPI, false, true, 0x30, 0x100 }, { 0x00, false, false }, { 0x29, false, false }, { 0x3a, false, false },
	};
	u64 v;
	assert_false(apic_msr_rd(r, 1, LAPIC_ID, &v));
	assert_false(apic_msr_wr(r, 1, LAPIC_TPR, 0));
	apic_x2(r, 1);
	for (unsigned i = 0; i < array_len(rows); i++) {
		assert_int_equal(apic_msr_rd(r, 1, rows[i].reg, &v), rows[i].rd);
		assert_int_equal(apic_msr_wr(r, 1, rows[i].reg, rows[i].good), rows[i].wr);
		if (rows[i].wr)
			assert_false(apic_msr_wr(r, 1, rows[i].reg, rows[i].bad));
	}
	for (unsigned reg = 0x40; reg < 0x100; reg++)
		assert_false(apic_msr_rd(r, 1, reg, &v));
}

TEST(x2apic_ids_and_ipis)
{
	u64 v;
	enable_all(r);
	for (unsigned i = 0; i < 3; i++)
		apic_x2(r, i);
	assert_true(apic_msr_rd(r, 2, LAPIC_ID, &v));
	assert_int_equal(v, 2);
	assert_true(apic_msr_rd(r, 2, LAPIC_LDR, &v));
	assert_int_equal(v, 4);
	assert_true(apic_msr_wr(r, 0, LAPIC_ICR, (u64)2 << 32 | 0x51));
	assert_int_equal(apic_ack(r, 2), 0x51);
	assert_true(apic_msr_rd(r, 0, LAPIC_ICR, &v));
	assert_int_equal(v, (u64)2 << 32 | 0x51);
	assert_true(apic_msr_wr(r, 0, LAPIC_ICR, (u64)6 << 32 | 0x800 | 0x61));
	assert_int_equal(apic_ack(r, 1), 0x61);
	assert_int_equal(apic_ack(r, 2), 0x61);
	assert_true(apic_msr_wr(r, 0, LAPIC_ICR, (u64)0x10006 << 32 | 0x800 | 0x71)); /* another cluster */
	assert_int_equal(apic_pending(r, 1), -1);
	assert_true(apic_msr_wr(r, 0, LAPIC_ICR, (u64)0xffffffff << 32 | 0x81));
	for (unsigned i = 0; i < RIG_CPUS; i++)
		assert_int_equal(apic_ack(r, i), 0x81);
	assert_true(apic_msr_wr(r, 0, LAPIC_ICR, (u64)0xff << 32 | 0x91)); /* just number 255 */
	assert_int_equal(apic_pending(r, 1), -1);
	assert_true(apic_msr_wr(r, 0, LAPIC_SELF_IPI, 0x92));
	assert_int_equal(apic_ack(r, 0), 0x92);
	assert_true(apic_msr_wr(r, 0, LAPIC_EOI, 0));
}

TEST(init_keeps_base_and_id_and_resets_the_rest)
{
	apic_enable(r, 1);
	apic_x2(r, 1);
	apic_msr_wr(r, 1, LAPIC_TPR, 0x20);
	r->cpu[1]->intc->init(r->cpu[1]->intc_state, false);
	u64 v;
	assert_true(apic_msr_rd(r, 1, LAPIC_TPR, &v));
	assert_int_equal(v, 0);
	assert_true(apic_msr_rd(r, 1, LAPIC_SVR, &v));
	assert_int_equal(v, 0xff);
	assert_true(apic_msr_rd(r, 1, LAPIC_LDR, &v));
	assert_int_equal(v, 2);
}

TEST(mmio_of_odd_size_or_place)
{
	const struct intc_ops *o = r->cpu[2]->intc;
	void *s = r->cpu[2]->intc_state;
	assert_int_equal(o->mmio_read(s, 0x23, 1), 2);
	assert_int_equal(o->mmio_read(s, 0x24, 4), 0);
	assert_int_equal(o->mmio_read(s, 0x30, 8), 0x50014);
	o->mmio_write(s, 0x80, 0x33, 1);
	assert_int_equal(o->mmio_read(s, 0x80, 4), 0);
	o->mmio_write(s, 0x84, 0x33, 4);
	assert_int_equal(o->mmio_read(s, 0x80, 4), 0);
	for (unsigned off = 0; off < 0x1000; off++)
		o->mmio_read(s, off, 1u << (off & 3));
}

/* ---- senders and owner on threads of their own ---- */

#define ROUNDS 3000
static u32 served[RIG_CPUS];

static void *sender(void *opaque)
{
	struct lapic *l = opaque;
	unsigned me = l->cpu->index;
	for (u32 i = 0; i < ROUNDS; i++) {
		lapic_intc_ops.mmio_write(l, LAPIC_ICR << 4, 0x40 + me * 0x10 + i % 16, 4); /* to APIC ID 0 */
		while (__atomic_load_n(&served[me], __ATOMIC_SEQ_CST) == i)
			sched_yield();
	}
	return NULL;
}

/* The owner looks only when told, as cpu_service does: a lost PEND_INTR would hang here. */
TEST(no_ipi_between_threads_is_lost)
{
	pthread_t t[RIG_CPUS];
	enable_all(r);
	memset(served, 0, sizeof served);
	r->irq->kick = NULL;
	r->cpu[0]->pending = 0;
	for (unsigned i = 1; i < RIG_CPUS; i++)
		pthread_create(&t[i], NULL, sender, r->irq->lapic[i]);
	for (unsigned left = (RIG_CPUS - 1) * ROUNDS; left;) {
		if (!(__atomic_fetch_and(&r->cpu[0]->pending, ~PEND_INTR, __ATOMIC_SEQ_CST) & PEND_INTR)) {
			sched_yield();
			continue;
		}
		int v = apic_ack(r, 0);
		if (v < 0)
			continue;
		apic_wr(r, 0, LAPIC_EOI, 0);
		__atomic_fetch_add(&served[(v - 0x40) / 16], 1, __ATOMIC_SEQ_CST);
		left--;
	}
	for (unsigned i = 1; i < RIG_CPUS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(apic_pending(r, 0), -1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		ROW(reset_values), ROW(the_highest_class_wins_and_nests), ROW(tpr_blocks_its_class_and_below_and_lowering_it_signals),
		ROW(an_acknowledge_after_tpr_was_raised_finds_nothing), ROW(soft_disable_masks_the_lvt_and_refuses_vectors),
		ROW(shorthands_and_physical_destinations), ROW(an_xapic_answers_to_the_id_that_software_gave_it), ROW(logical_flat_and_cluster), ROW(init_sipi_and_nmi_reach_the_core), ROW(lvt_nmi_on_lint1),
		ROW(illegal_vectors_and_registers_show_in_esr_after_a_write), ROW(msi_destinations), ROW(base_transitions),
		ROW(switched_off_it_loses_its_state_and_takes_nothing), ROW(x2apic_registers_and_faults), ROW(x2apic_ids_and_ipis),
		ROW(init_keeps_base_and_id_and_resets_the_rest), ROW(mmio_of_odd_size_or_place), ROW(no_ipi_between_threads_is_lost),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
