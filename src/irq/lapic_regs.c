/* Local APIC registers: one table of what exists in which mode, then reads and writes (SDM "Local APIC Register Address Map",
 * "x2APIC Register Address Space"). */
#include "irq/lapic.h"

#define VERSION 0x00050014u /* integrated APIC, highest LVT entry 5, no EOI-broadcast suppression */

#define R_X 1u  /* readable as xAPIC MMIO */
#define W_X 2u
#define R_2 4u  /* readable as x2APIC MSR */
#define W_2 8u
#define RW_X (R_X | W_X)
#define RW_2 (R_2 | W_2)

/* valid: bits that a write may set; others are #GP in x2APIC mode and ignored in xAPIC mode. */
struct reg_rule { u8 access; u64 valid; };

static const struct reg_rule rules[LAPIC_REGS] = {
	[LAPIC_ID]              = { RW_X | R_2, 0xff000000 },
	[LAPIC_VERSION]         = { RW_X | R_2, 0 },
	[LAPIC_TPR]             = { RW_X | RW_2, 0xff },
	[LAPIC_APR]             = { RW_X, 0 },
	[LAPIC_PPR]             = { RW_X | R_2, 0 },
	[LAPIC_EOI]             = { RW_X | W_2, 0 },
	[LAPIC_RRD]             = { RW_X, 0 },
	[LAPIC_LDR]             = { RW_X | R_2, 0xff000000 },
	[LAPIC_DFR]             = { RW_X, 0xf0000000 },
	[LAPIC_SVR]             = { RW_X | RW_2, 0x3ff },
	[LAPIC_ISR ... LAPIC_ISR + 7] = { RW_X | R_2, 0 },
	[LAPIC_TMR ... LAPIC_TMR + 7] = { RW_X | R_2, 0 },
	[LAPIC_IRR ... LAPIC_IRR + 7] = { RW_X | R_2, 0 },
	[LAPIC_ESR]             = { RW_X | RW_2, 0 },
	[LAPIC_ICR]             = { RW_X | RW_2, 0xffffffff000cdfff },
	[LAPIC_ICR2]            = { RW_X, 0xff000000 },
	[LAPIC_LVT + LVT_TIMER]   = { RW_X | RW_2, 0x000710ff },
	[LAPIC_LVT + LVT_THERMAL] = { RW_X | RW_2, 0x000117ff },
	[LAPIC_LVT + LVT_PERF]    = { RW_X | RW_2, 0x000117ff },
	[LAPIC_LVT + LVT_LINT0]   = { RW_X | RW_2, 0x0001f7ff },
	[LAPIC_LVT + LVT_LINT1]   = { RW_X | RW_2, 0x0001f7ff },
	[LAPIC_LVT + LVT_ERROR]   = { RW_X | RW_2, 0x000110ff },
	[LAPIC_TIMER_INIT]      = { RW_X | RW_2, 0xffffffff },
	[LAPIC_TIMER_COUNT]     = { RW_X | R_2, 0 },
	[LAPIC_TIMER_DIV]       = { RW_X | RW_2, 0x0b },
	[LAPIC_SELF_IPI]        = { W_2, 0xff },
};

#define LVT_READ_ONLY 0x5000u /* delivery status, remote IRR */

static u64 icr_read(const struct lapic *l) { return l->regs.icr; }

bool lapic_reg_read(struct lapic *l, unsigned reg, u64 *v)
{
	const struct lapic_regs *r = &l->regs;
	bool x2 = lapic_x2(l);
	*v = 0;
	if (reg >= LAPIC_REGS || !(rules[reg].access & (x2 ? R_2 : R_X)))
		return false;
	if (__atomic_load_n(&l->timer_due, __ATOMIC_SEQ_CST))
		lapic_timer_sync(l);
	switch (reg) {
	case LAPIC_ID: *v = x2 ? l->cpu->index : r->id; break;
	case LAPIC_VERSION: *v = VERSION; break;
	case LAPIC_TPR: *v = r->tpr; break;
	case LAPIC_APR:
	case LAPIC_PPR: *v = r->ppr; break;
	case LAPIC_LDR: *v = r->ldr; break;
	case LAPIC_DFR: *v = r->dfr; break;
	case LAPIC_SVR: *v = r->svr; break;
	case LAPIC_ISR ... LAPIC_ISR + 7: *v = lapic_load(&r->isr[reg - LAPIC_ISR]); break;
	case LAPIC_TMR ... LAPIC_TMR + 7: *v = lapic_load(&r->tmr[reg - LAPIC_TMR]); break;
	case LAPIC_IRR ... LAPIC_IRR + 7: *v = lapic_load(&r->irr[reg - LAPIC_IRR]); break;
	case LAPIC_ESR: *v = r->esr; break;
	case LAPIC_ICR: *v = x2 ? icr_read(l) : (u32)icr_read(l); break;
	case LAPIC_ICR2: *v = icr_read(l) >> 32; break;
	case LAPIC_LVT ... LAPIC_LVT + LVT_COUNT - 1: *v = lapic_load(&r->lvt[reg - LAPIC_LVT]); break;
	case LAPIC_TIMER_INIT: *v = r->timer_init; break;
	case LAPIC_TIMER_COUNT: *v = lapic_timer_count(l); break;
	case LAPIC_TIMER_DIV: *v = r->timer_div; break;
	}
	return true;
}

static void write_svr(struct lapic *l, u32 v)
{
	lapic_store(&l->regs.svr, v);
	if (!(v & SVR_ENABLED)) /* SDM "Local APIC State After It Has Been Software Disabled" */
		for (unsigned i = 0; i < LVT_COUNT; i++)
			lapic_store(&l->regs.lvt[i], l->regs.lvt[i] | LVT_MASKED);
	lapic_recheck(l);
}

static void write_lvt(struct lapic *l, unsigned which, u32 v)
{
	v = (v & ~LVT_READ_ONLY) | (l->regs.lvt[which] & LVT_READ_ONLY);
	if (!lapic_soft_enabled(l))
		v |= LVT_MASKED;
	if (which == LVT_TIMER)
		lapic_timer_set_lvt(l, v);
	else
		lapic_store(&l->regs.lvt[which], v);
	lapic_recheck(l); /* an unmasked ExtINT LINT0 may be high */
}

static void write_icr(struct lapic *l, u64 v, bool x2)
{
	v &= ~BIT(12); /* delivery status: always idle */
	if (x2)
		l->regs.icr = v;
	else
		l->regs.icr = (l->regs.icr & ~(u64)0xffffffff) | (u32)v;
	u32 high = (u32)(l->regs.icr >> 32);
	lapic_send(l, (u32)v, x2 ? high : high >> 24, x2);
}

/* SDM "Error Handling": a write latches what was detected since the last one. */
static void write_esr(struct lapic *l) { l->regs.esr = __atomic_exchange_n(&l->regs.esr_new, 0, __ATOMIC_SEQ_CST); }

bool lapic_reg_write(struct lapic *l, unsigned reg, u64 v)
{
	bool x2 = lapic_x2(l);
	if (reg >= LAPIC_REGS || !(rules[reg].access & (x2 ? W_2 : W_X)))
		return false;
	if (x2 && (v & ~rules[reg].valid))
		return false;
	v &= rules[reg].valid;
	switch (reg) {
	case LAPIC_ID: lapic_store(&l->regs.id, (u32)v); break;
	case LAPIC_TPR: lapic_intc_ops.set_tpr(l, (u8)v); break;
	case LAPIC_EOI: lapic_intc_ops.eoi(l); break;
	case LAPIC_LDR: lapic_store(&l->regs.ldr, (u32)v); break;
	case LAPIC_DFR: lapic_store(&l->regs.dfr, (u32)v | 0x0fffffff); break;
	case LAPIC_SVR: write_svr(l, (u32)v); break;
	case LAPIC_ESR: write_esr(l); break;
	case LAPIC_ICR: write_icr(l, v, x2); break;
	case LAPIC_ICR2: l->regs.icr = (u32)l->regs.icr | v << 32; break;
	case LAPIC_LVT ... LAPIC_LVT + LVT_COUNT - 1: write_lvt(l, reg - LAPIC_LVT, (u32)v); break;
	case LAPIC_TIMER_INIT: lapic_timer_set_init(l, (u32)v); break;
	case LAPIC_TIMER_DIV: lapic_timer_set_div(l, (u32)v); break;
	case LAPIC_SELF_IPI: lapic_send(l, 0x40000 | (u32)v, 0, true); break;
	}
	return true;
}

void lapic_reset(struct lapic *l, bool power_on)
{
	struct lapic_regs *r = &l->regs;
	u8 lint0 = r->lint0, lint1 = r->lint1; /* pins, driven from outside */
	u32 id = power_on ? l->cpu->index << 24 : r->id;
	lapic_timer_stop(l);
	memset(r, 0, sizeof *r);
	r->lint0 = lint0;
	r->lint1 = lint1;
	if (power_on)
		l->cpu->arch.apic_base = APIC_BASE_RESET | APIC_BASE_EN | (l->cpu->index == 0 ? APIC_BASE_BSP : 0);
	lapic_store(&r->id, id);
	if (lapic_x2(l))
		r->ldr = (l->cpu->index >> 4) << 16 | 1u << (l->cpu->index & 15);
	r->dfr = 0xffffffff;
	r->svr = 0xff;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		r->lvt[i] = LVT_MASKED;
}
