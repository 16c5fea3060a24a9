/* What can stop a nested guest at an instruction boundary: MTF, windows, the preemption timer, interrupts and NMIs,
 * virtual interrupts (SDM "Other Causes of VM Exits", "Priority Among Concurrent Events"). */
#include "vmx/priv.h"

static u64 timer_deadline(const struct cpu *c)
{
	const struct vmx *v = vmx_of(c);
	u64 tsc = v->s.timer_end << VMX_TIMER_SHIFT;
	/* Rounded up, so that the timer has expired when the clock gets there. */
	return (u64)(((u128)tsc * 1000000 + c->tsc_khz - 1) / c->tsc_khz);
}

u64 vmx_deadline(const struct cpu *c)
{
	const struct vmx *v = vmx_of(c);

	if (!c->arch.guest_mode || !has(v, CTL_PIN_PREEMPTION_TIMER) || c->arch.activity == ACT_WAIT_SIPI)
		return CLOCK_NEVER;
	return timer_deadline(c);
}

/* Trap-like exits of the last instruction, then MTF: they outrank pending debug traps. */
static bool poll_first(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	if (v->s.apic_write)
		vmx_apic_emulate_write(c);
	if (v->s.apic_exit)
		vmx_exit(c, EXIT_APIC_WRITE, v->s.apic_off);
	else if (v->s.eoi_exit)
		vmx_exit(c, EXIT_VIRTUALIZED_EOI, v->s.eoi_vector);
	else if (v->s.tpr_below)
		vmx_exit(c, EXIT_TPR_BELOW_THRESHOLD, 0);
	else if (c->mtf == MTF_DUE)
		vmx_exit(c, EXIT_MONITOR_TRAP_FLAG, 0);
	return !c->arch.guest_mode;
}

static bool poll_timer(struct cpu *c)
{
	const struct vmx *v = vmx_of(c);

	if (!has(v, CTL_PIN_PREEMPTION_TIMER) || c->arch.activity == ACT_WAIT_SIPI || vmx_timer_now(c) < v->s.timer_end)
		return false;
	vmx_exit(c, EXIT_PREEMPTION_TIMER, 0);
	return true;
}

static bool poll_nmi(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	u32 shadow = c->arch.shadow;

	if (c->arch.activity == ACT_WAIT_SIPI || (shadow & SHADOW_MOVSS))
		return false;
	if (has(v, CTL_PROC_NMI_WINDOW) && !(shadow & (SHADOW_NMI | SHADOW_STI))) {
		vmx_exit(c, EXIT_NMI_WINDOW, 0);
		return true;
	}
	if (!c->arch.nmi_pending || !has(v, CTL_PIN_NMI) || (!has(v, CTL_PIN_VIRTUAL_NMI) && (shadow & SHADOW_NMI)))
		return false;
	c->arch.nmi_pending--;
	v->x.intr = BIT(31) | 2 << 8 | VEC_NMI;
	vmx_exit(c, EXIT_EXCEPTION_NMI, 0);
	return true;
}

static bool intr_window_open(const struct cpu *c)
{
	return (c->arch.rflags & FLAG_IF) && !(c->arch.shadow & (SHADOW_STI | SHADOW_MOVSS)) &&
	       c->arch.activity <= ACT_HLT;
}

/* External interrupts with exiting are not masked by IF. Posted-interrupt notifications do not exit (SDM
 * "Posted-Interrupt Processing"). */
static bool poll_interrupt(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	if (!has(v, CTL_PIN_EXT_INTR) || c->arch.activity > ACT_HLT || (c->arch.shadow & (SHADOW_STI | SHADOW_MOVSS)) ||
	    !c->intc)
		return false;
	while (c->intc->pending(c->intc_state) >= 0) {
		int vector = -1;
		if (has(v, CTL_EXIT_ACK_INTR)) {
			vector = c->intc->acknowledge(c->intc_state);
			if (vector < 0)
				return false;
		}
		if (has(v, CTL_PIN_POSTED_INTR) && vector == (int)(v->f[VF_POSTED_INTR_VECTOR] & 0xff)) {
			c->intc->eoi(c->intc_state);
			vmx_posted_intr(c);
			continue;
		}
		v->x.intr = vector < 0 ? 0 : BIT(31) | (u32)vector;
		cpu_pend(c, PEND_INTR); /* this one, or more behind it */
		vmx_exit(c, EXIT_EXTERNAL_INTERRUPT, 0);
		return true;
	}
	return false;
}

/* What poll_first() looks at comes from instructions, which pend for themselves, and so does a virtual interrupt when it is recognised (s.virt_intr stays
 * set until it is delivered); the timer has its deadline; a real interrupt that IF, not we, keeps back is the core's to remember. */
hot_path bool vmx_poll_waits(const struct cpu *c)
{
	const struct vmx *v = vmx_of(c);

	return has(v, CTL_PROC_INTR_WINDOW) || has(v, CTL_PROC_NMI_WINDOW) || v->s.virt_intr || c->arch.nmi_pending ||
	       c->arch.shadow || c->mtf != MTF_OFF || c->arch.activity != ACT_ACTIVE || c->arch.pending_dbg;
}

bool vmx_poll(struct cpu *c)
{
	struct vmx *v = vmx_fresh(c);

	if (poll_first(c))
		return true;
	if (cpu_trap_due(c))
		return false;
	if (poll_timer(c) || poll_nmi(c))
		return true;
	if (has(v, CTL_PROC_INTR_WINDOW) && intr_window_open(c)) {
		vmx_exit(c, EXIT_INTERRUPT_WINDOW, 0);
		return true;
	}
	if (poll_interrupt(c))
		return true;
	if (v->s.virt_intr && intr_window_open(c))
		vmx_virt_intr_deliver(c);
	return !c->arch.guest_mode; /* the delivery may have met a fault that exits */
}
