/* Local APIC: acceptance, priorities, end of interrupt, ICR, and the calls of cpu/intc.h. Registers as such are in lapic_regs.c. */
#include "irq/lapic.h"
#include "base/log.h"
#include "cpu/core.h"
#include "irq/i8259.h"

STATE_DESC(lapic_regs, LAPIC_STATE);

/* ---- 256-bit vector sets ---- */

static int highest(const u32 *set)
{
	for (int i = 7; i >= 0; i--) {
		u32 w = lapic_load(&set[i]);
		if (w)
			return i * 32 + 31 - __builtin_clz(w);
	}
	return -1;
}

static void set_bit(u32 *set, u8 v) { __atomic_fetch_or(&set[v / 32], 1u << (v % 32), __ATOMIC_SEQ_CST); }
static void clear_bit(u32 *set, u8 v) { __atomic_fetch_and(&set[v / 32], ~(1u << (v % 32)), __ATOMIC_SEQ_CST); }
static bool test_bit(const u32 *set, u8 v) { return lapic_load(&set[v / 32]) & (1u << (v % 32)); }

/* ---- priorities (SDM "Interrupt, Task, and Processor Priority") ---- */

static void update_ppr(struct lapic *l)
{
	int isrv = highest(l->regs.isr);
	u32 tpr = l->regs.tpr, service = isrv < 0 ? 0 : isrv & 0xf0;
	lapic_store(&l->regs.ppr, (tpr & 0xf0) >= service ? tpr : service);
}

/* Highest request above the processor priority, or -1. */
static int deliverable(const struct lapic *l)
{
	int v = highest(l->regs.irr);
	return v >= 0 && (u32)(v & 0xf0) > (l->regs.ppr & 0xf0) ? v : -1;
}

/* The 8259 asks for an INTA of this CPU: through LINT0 or an ExtINT message, or, with the APIC switched off, straight to the INTR pin. */
static bool extint(const struct lapic *l)
{
	if (!__atomic_load_n(&l->regs.lint0, __ATOMIC_SEQ_CST))
		return false;
	if (!lapic_enabled(l))
		return l->cpu->index == 0;
	u32 lvt = l->regs.lvt[LVT_LINT0];
	return (!(lvt & LVT_MASKED) && LVT_MODE(lvt) == IRQ_EXTINT) || __atomic_load_n(&l->regs.extint, __ATOMIC_SEQ_CST);
}

void lapic_recheck(struct lapic *l)
{
	update_ppr(l);
	if (deliverable(l) >= 0 || extint(l))
		cpu_pend(l->cpu, PEND_INTR);
}

/* ---- acceptance ---- */

static void wake(struct lapic *l, u32 what)
{
	cpu_pend(l->cpu, what);
	if (l->sys->kick)
		l->sys->kick(l->sys->vm, l->cpu->index);
}

void lapic_error(struct lapic *l, u32 what)
{
	__atomic_fetch_or(&l->regs.esr_new, what, __ATOMIC_SEQ_CST);
	u32 lvt = lapic_load(&l->regs.lvt[LVT_ERROR]);
	if (!(lvt & LVT_MASKED) && (lvt & 0xff) >= 16)
		lapic_accept(l, IRQ_FIXED, (u8)lvt, false);
}

static bool accept_vector(struct lapic *l, u8 vector, bool level)
{
	if (!lapic_soft_enabled(l))
		return false;
	if (vector < 16) {
		lapic_error(l, ESR_RECEIVE_ILLEGAL);
		return true;
	}
	if (level)
		set_bit(l->regs.tmr, vector);
	else
		clear_bit(l->regs.tmr, vector);
	set_bit(l->regs.irr, vector);
	wake(l, PEND_INTR);
	return true;
}

/* Only the pending bit: the core latches it into arch.nmi_pending. Were both set here, an NMI taken between the two would come twice. */
static void accept_nmi(struct lapic *l)
{
	cpu_pend_nmi(l->cpu);
	wake(l, 0);
}

bool lapic_accept(struct lapic *l, unsigned mode, u8 vector, bool level)
{
	if (!lapic_enabled(l))
		return false;
	if (trace_on(TRACE_IRQ))
		trace_line(TRACE_IRQ, "LAPIC %u: mode %u vector %02x%s", l->cpu->index, mode, vector, level ? " level" : "");
	switch ((enum irq_mode)mode) {
	case IRQ_FIXED:
	case IRQ_LOWEST:
		return accept_vector(l, vector, level);
	case IRQ_NMI:
		accept_nmi(l);
		return true;
	case IRQ_INIT:
		__atomic_store_n(&l->cpu->arch.init_pending, 1, __ATOMIC_SEQ_CST);
		wake(l, PEND_INIT);
		return true;
	case IRQ_SIPI:
		__atomic_store_n(&l->cpu->arch.sipi_vector, vector, __ATOMIC_SEQ_CST);
		__atomic_store_n(&l->cpu->arch.sipi_pending, 1, __ATOMIC_SEQ_CST);
		wake(l, PEND_SIPI);
		return true;
	case IRQ_EXTINT:
		__atomic_store_n(&l->regs.extint, 1, __ATOMIC_SEQ_CST);
		wake(l, PEND_INTR);
		return true;
	case IRQ_SMI:
		todo("SMI: there is no system-management mode, the message is dropped");
		return true;
	case IRQ_REMOTE_READ:
		return false;
	}
	return false;
}

/* SDM "Determining IPI Destination". An xAPIC sees 8-bit destinations, an x2APIC 32-bit ones; messages of devices are always 8 bits. */
bool lapic_matches(const struct lapic *l, const struct irq_msg *m)
{
	if (!lapic_enabled(l))
		return false;
	if (m->dest == (m->wide ? ~0u : 0xffu))
		return true;
	if (!m->logical)
		return m->dest == (lapic_x2(l) ? l->cpu->index : lapic_load(&l->regs.id) >> 24);
	u32 ldr = lapic_load(&l->regs.ldr);
	if (lapic_x2(l))
		return m->dest >> 16 == ldr >> 16 && (m->dest & ldr & 0xffff);
	u32 mine = ldr >> 24;
	if (m->dest > 0xff)
		return false;
	switch (lapic_load(&l->regs.dfr) >> 28) {
	case 0xf: return m->dest & mine;                                                                        /* flat */
	case 0x0: return (m->dest >> 4 == mine >> 4 || m->dest >> 4 == 0xf) && (m->dest & mine & 0xf);          /* cluster */
	default: return false;
	}
}

/* ---- local sources ---- */

void lapic_local(struct lapic *l, enum lapic_lvt which)
{
	u32 lvt = lapic_load(&l->regs.lvt[which]);
	if (lvt & LVT_MASKED)
		return;
	unsigned mode = which == LVT_TIMER || which == LVT_ERROR ? IRQ_FIXED : LVT_MODE(lvt);
	if (mode == IRQ_EXTINT)
		wake(l, PEND_INTR); /* the pin itself is what pending() looks at */
	else if (mode != IRQ_LOWEST)
		lapic_accept(l, mode, (u8)lvt, which == LVT_LINT0 && (lvt & LVT_LEVEL));
}

/* Both pins act on their rising edge; a level-triggered fixed LINT0 asks again at EOI while it is high. */
void lapic_lint(struct lapic *l, unsigned pin, int level)
{
	u8 *state = pin ? &l->regs.lint1 : &l->regs.lint0;
	u8 was = __atomic_exchange_n(state, !!level, __ATOMIC_SEQ_CST);
	if (!level || was)
		return;
	if (lapic_enabled(l))
		lapic_local(l, pin ? LVT_LINT1 : LVT_LINT0);
	else if (l->cpu->index == 0 && pin)
		accept_nmi(l);
	else if (l->cpu->index == 0)
		wake(l, PEND_INTR);
}

/* ---- ICR (SDM "Interrupt Command Register (ICR)") ---- */

void lapic_send(struct lapic *l, u32 low, u32 dest, bool wide)
{
	unsigned mode = (low >> 8) & 7, shorthand = (low >> 18) & 3;
	bool assert = low & 0x4000, level = low & 0x8000;
	u8 vector = (u8)low;
	if (mode == IRQ_INIT && level && !assert) /* INIT level de-assert: only for chips with an APIC bus */
		return;
	if (mode == IRQ_REMOTE_READ || mode == IRQ_EXTINT)
		return;
	if ((mode == IRQ_FIXED || mode == IRQ_LOWEST) && vector < 16) {
		lapic_error(l, ESR_SEND_ILLEGAL);
		return;
	}
	if (shorthand == 1) {
		lapic_accept(l, mode, vector, false);
		return;
	}
	l->cpu->stats.ipis++;
	struct irq_msg m = { .dest = dest, .vector = vector, .mode = (u8)mode, .logical = low & 0x800, .wide = wide };
	if (shorthand)
		m.dest = ~0u, m.wide = true, m.logical = false;
	irq_system_deliver(l->sys, &m, shorthand == 3 ? l : NULL);
}

/* ---- intc_ops ---- */

static int op_pending(void *intc)
{
	struct lapic *l = intc;
	if (__atomic_load_n(&l->timer_due, __ATOMIC_SEQ_CST))
		lapic_timer_sync(l);
	if (extint(l)) {
		bus_lock(l->sys->bus);
		int v = i8259_intr(l->sys->pic) ? i8259_peek(l->sys->pic) : -1;
		bus_unlock(l->sys->bus);
		if (v >= 0)
			return v;
	}
	return lapic_enabled(l) ? deliverable(l) : -1;
}

static int op_acknowledge(void *intc)
{
	struct lapic *l = intc;
	if (__atomic_load_n(&l->timer_due, __ATOMIC_SEQ_CST))
		lapic_timer_sync(l);
	int v = -1;
	if (extint(l)) {
		bus_lock(l->sys->bus);
		__atomic_store_n(&l->regs.extint, 0, __ATOMIC_SEQ_CST);
		if (i8259_intr(l->sys->pic)) /* another CPU may have taken it */
			v = i8259_inta(l->sys->pic);
		bus_unlock(l->sys->bus);
	}
	if (v < 0 && lapic_enabled(l) && (v = deliverable(l)) >= 0) {
		clear_bit(l->regs.irr, (u8)v);
		set_bit(l->regs.isr, (u8)v);
	}
	lapic_recheck(l);
	return v;
}

static void op_eoi(void *intc)
{
	struct lapic *l = intc;
	int v = highest(l->regs.isr);
	if (v < 0)
		return;
	clear_bit(l->regs.isr, (u8)v);
	if (test_bit(l->regs.tmr, (u8)v)) {
		irq_system_eoi(l->sys, (u8)v);
		u32 lvt = l->regs.lvt[LVT_LINT0];
		if (l->regs.lint0 && (u8)lvt == v && (lvt & LVT_LEVEL) && LVT_MODE(lvt) == IRQ_FIXED)
			lapic_local(l, LVT_LINT0);
	}
	lapic_recheck(l);
}

static u8 op_tpr(void *intc) { return (u8)((struct lapic *)intc)->regs.tpr; }

static void op_set_tpr(void *intc, u8 tpr)
{
	struct lapic *l = intc;
	l->regs.tpr = tpr;
	lapic_recheck(l);
}

/* SDM "x2APIC State Transitions". EN and EXTD as a number: 0 off, 2 xAPIC, 3 x2APIC. */
static bool transition_allowed(unsigned from, unsigned to)
{
	static const bool allowed[4][4] = {
		[0] = { [0] = true, [2] = true },
		[2] = { [0] = true, [2] = true, [3] = true },
		[3] = { [0] = true, [3] = true },
	};
	return allowed[from][to];
}

static bool op_set_base(void *intc, u64 value)
{
	struct lapic *l = intc;
	u64 old = lapic_base(l);
	u64 valid = (low_mask(cpu_maxphyaddr(l->cpu)) & PAGE_MASK) | APIC_BASE_EN | APIC_BASE_BSP;
	if (cpu_has(l->cpu, FEAT_X2APIC))
		valid |= APIC_BASE_X2;
	unsigned from = (unsigned)bits(old, 11, 10), to = (unsigned)bits(value, 11, 10);
	if ((value & ~valid) || !transition_allowed(from, to))
		return false;
	__atomic_store_n(&l->cpu->arch.apic_base, value, __ATOMIC_SEQ_CST);
	if (to == 0 && from != 0) { /* SDM "Local APIC Status and Location": as after a reset, so the ID that software wrote goes too */
		lapic_reset(l, false);
		lapic_store(&l->regs.id, l->cpu->index << 24);
	}
	if (to == 3 && from != 3) /* SDM "Deriving Logical x2APIC ID from the Local x2APIC ID" */
		lapic_store(&l->regs.ldr, (l->cpu->index >> 4) << 16 | 1u << (l->cpu->index & 15));
	lapic_recheck(l);
	return true;
}

static bool op_msr_read(void *intc, u32 msr, u64 *value)
{
	struct lapic *l = intc;
	return lapic_x2(l) && msr - 0x800 < LAPIC_REGS && lapic_reg_read(l, msr - 0x800, value);
}

static bool op_msr_write(void *intc, u32 msr, u64 value)
{
	struct lapic *l = intc;
	return lapic_x2(l) && msr - 0x800 < LAPIC_REGS && lapic_reg_write(l, msr - 0x800, value);
}

/* Registers are the low 4 bytes of 16; what lies between them is undefined on hardware and 0 here. */
static u64 op_mmio_read(void *intc, u32 off, unsigned size)
{
	struct lapic *l = intc;
	u64 v = 0;
	if (!lapic_enabled(l) || lapic_x2(l))
		return low_mask(8 * size);
	if ((off & 15) < 4 && !lapic_reg_read(l, (off >> 4) & 0xff, &v))
		lapic_error(l, ESR_BAD_REGISTER);
	return (v & 0xffffffff) >> (8 * (off & 3)) & low_mask(8 * size);
}

static void op_mmio_write(void *intc, u32 off, u64 value, unsigned size)
{
	struct lapic *l = intc;
	if (!lapic_enabled(l) || lapic_x2(l) || (off & 15) || size < 4)
		return;
	if (!lapic_reg_write(l, (off >> 4) & 0xff, (u32)value))
		lapic_error(l, ESR_BAD_REGISTER);
}

static u64 op_deadline(void *intc)
{
	lapic_timer_sync(intc);
	return ((struct lapic *)intc)->regs.tsc_deadline;
}

static void op_set_deadline(void *intc, u64 tsc) { lapic_timer_set_deadline(intc, tsc); }
static void op_init(void *intc, bool power_on) { lapic_reset(intc, power_on); }
static u32 op_apic_id(void *intc) { return ((struct lapic *)intc)->cpu->index; }

const struct intc_ops lapic_intc_ops = {
	.pending = op_pending, .acknowledge = op_acknowledge, .tpr = op_tpr, .set_tpr = op_set_tpr, .set_base = op_set_base,
	.msr_read = op_msr_read, .msr_write = op_msr_write, .mmio_read = op_mmio_read, .mmio_write = op_mmio_write,
	.deadline = op_deadline, .set_deadline = op_set_deadline, .init = op_init, .eoi = op_eoi, .apic_id = op_apic_id,
};
