/* What happens between two instructions: signals, time, debug traps, interrupts, shadows, halts, single steps (SDM "Priority Among Concurrent Events").
 *
 * Surprise: shadows, TF, RF and breakpoints are all done by running one instruction in MODE_ONE and coming back here. service arms the step
 * (cpu->step), cpu_after_step() concludes it; a fault, an event or a VM exit in between clears cpu->step, so nothing is concluded twice. */
#include "cpu/debugger.h"
#include "cpu/desc.h"
#include "cpu/engine.h"
#include "base/log.h"
#include "bus/clock.h"

/* Instructions between two services when nothing happens: bounds how late another thread's unpended work is seen. */
#define MAX_SLICE 50000

/* ---- time ---- */

static u64 virt_deadline(struct cpu *c)
{
	return c->arch.guest_mode && c->virt->deadline ? c->virt->deadline(c) : CLOCK_NEVER;
}

static void set_budget(struct cpu *c)
{
	u64 now = cpu_now(c);
	u64 next = min_u64(__atomic_load_n(&c->clock->next, __ATOMIC_ACQUIRE), virt_deadline(c));
	u64 left = next > now ? min_u64(next - now, MAX_SLICE * 2 * CLOCK_NS_PER_INSN) : 1;
	c->budget_end = c->icount + min_u64(cpu_insns_of(c, left), MAX_SLICE);
}

/* Tells the machine how far this vCPU has got, adopts a V that is ahead, fires what is due. */
static void sync_time(struct cpu *c)
{
	if (!c->clock)
		return;
	for (unsigned i = 0; i < 4; i++) {
		u64 v = cpu_now(c), now = clock_publish(c->clock, v);
		if (now > v) {
			c->v_base = now;
			c->v_icount = c->icount;
		}
		if (now < __atomic_load_n(&c->clock->next, __ATOMIC_ACQUIRE))
			break;
		clock_run_timers(c->clock);
	}
	pace_vcpu(c);
}

/* ---- single steps ---- */

/* BTF (IA32_DEBUGCTL): only branches trap. Without the instruction's length a step that moved rip by 1 to 15 bytes counts as no branch. */
static bool step_branched(const struct cpu *c)
{
	u64 moved = c->arch.rip - c->step_rip;
	return moved == 0 || moved > 15;
}

void cpu_after_step(struct cpu *c)
{
	u8 s = c->step;
	if (!s)
		return;
	c->step = 0;
	c->alone = false;
	c->arch.shadow &= ~(u32)(s & (SHADOW_STI | SHADOW_MOVSS));
	if ((s & STEP_RF) && c->arch.rip != c->step_rip) /* a REP that goes on keeps RF */
		c->arch.rflags &= ~(u64)FLAG_RF;
	/* The trap of a MOV SS itself is lost, not held back (unlike its data breakpoints). */
	if ((s & STEP_TF) && !(c->arch.shadow & SHADOW_MOVSS) && (!(c->arch.debugctl & BIT(1)) || step_branched(c)))
		c->arch.pending_dbg |= DR6_BS;
	if (c->mtf == MTF_ARMED)
		c->mtf = MTF_DUE;
}

static bool needs_step(const struct cpu *c)
{
	return (c->arch.rflags & (FLAG_TF | FLAG_RF)) || (c->arch.shadow & (SHADOW_STI | SHADOW_MOVSS)) || (c->arch.dr[7] & 0xff) ||
	       c->arch.pending_dbg || c->mtf != MTF_OFF || c->alone || (unlikely(c->dbg) && (c->dbg->step || c->dbg->nwatch));
}

static void arm_step(struct cpu *c)
{
	if (likely(!needs_step(c))) {
		c->mode &= ~MODE_ONE;
		cpu_unpend(c, PEND_STEP);
		return;
	}
	c->step = (u8)(STEP_ARMED | (c->arch.shadow & (SHADOW_STI | SHADOW_MOVSS)) | (c->arch.rflags & FLAG_TF ? STEP_TF : 0) |
		       (c->arch.rflags & FLAG_RF ? STEP_RF : 0));
	c->step_rip = c->arch.rip;
	c->mode |= MODE_ONE;
	cpu_pend(c, PEND_STEP);
}

/* ---- signals ---- */

static void latch_signals(struct cpu *c, u32 p)
{
	if (p & (PEND_NMI | PEND_NMI2)) {
		unsigned n = c->arch.nmi_pending + !!(p & PEND_NMI) + !!(p & PEND_NMI2), most = c->arch.shadow & SHADOW_NMI ? 1 : 2;
		c->arch.nmi_pending = (u8)(n < most ? n : most);
	}
	if (p & PEND_INIT)
		c->arch.init_pending = 1;
	if (p & PEND_SIPI)
		c->arch.sipi_pending = 1;
}

static bool take_init(struct cpu *c)
{
	if (!c->arch.init_pending)
		return false;
	if (c->virt && !c->arch.guest_mode && c->virt->init_blocked(c)) {
		c->deferred |= PEND_INIT;
		return false;
	}
	c->arch.init_pending = 0;
	if (trace_on(TRACE_SMP))
		trace_line(TRACE_SMP, "cpu%u INIT", c->index);
	if (c->arch.guest_mode && c->virt->init_signal(c))
		return true;
	cpu_init_signal(c);
	return true;
}

static bool take_sipi(struct cpu *c)
{
	if (!c->arch.sipi_pending)
		return false;
	c->arch.sipi_pending = 0;
	if (c->arch.activity != ACT_WAIT_SIPI)
		return false;
	unsigned vector = c->arch.sipi_vector & 0xff;
	if (trace_on(TRACE_SMP))
		trace_line(TRACE_SMP, "cpu%u SIPI %02x", c->index, vector);
	if (c->arch.guest_mode)
		return c->virt->sipi(c, vector);
	c->arch.seg[SEG_CS].sel = (u16)(vector << 8);
	c->arch.seg[SEG_CS].base = (u64)vector << 12;
	c->arch.rip = 0;
	c->arch.activity = ACT_ACTIVE;
	c->arch.nmi_pending = 0; /* one that came while waiting is lost, not delivered to a vector table that is not there yet */
	cpu_update_mode(c);
	return true;
}

/* ---- events ---- */

static bool take_injected(struct cpu *c)
{
	struct event ev = c->arch.inject;
	if (ev.kind == EVENT_NONE)
		return false;
	c->arch.inject.kind = EVENT_NONE;
	cpu_unpend(c, PEND_INJECT);
	event_deliver_injected(c, ev);
	return true;
}

static bool take_trap(struct cpu *c)
{
	u64 dbg = c->arch.pending_dbg;
	if (c->arch.activity > ACT_HLT || (c->arch.shadow & SHADOW_MOVSS))
		return false;
	if (!cpu_trap_due(c)) {
		c->arch.pending_dbg = 0; /* breakpoints matched, but none that is enabled */
		return false;
	}
	c->arch.pending_dbg = 0;
	c->arch.activity = ACT_ACTIVE;
	cpu_deliver(c, (struct event){ .kind = EVENT_TRAP, .vector = VEC_DB, .payload = dbg & (0xf | DR6_BS | DR6_BT) });
	return true;
}

static bool take_nmi(struct cpu *c)
{
	if (!c->arch.nmi_pending || c->arch.activity > ACT_HLT)
		return false;
	if (c->arch.shadow & (SHADOW_NMI | SHADOW_MOVSS | SHADOW_STI)) /* IRET looks again; the others are single steps */
		return false;
	c->arch.nmi_pending--;
	cpu_deliver(c, (struct event){ .kind = EVENT_NMI, .vector = VEC_NMI });
	return true;
}

static bool take_interrupt(struct cpu *c, bool waiting)
{
	if (!waiting || c->arch.activity > ACT_HLT)
		return false;
	if (!(c->arch.rflags & FLAG_IF) || (c->arch.shadow & (SHADOW_STI | SHADOW_MOVSS))) {
		c->deferred |= PEND_INTR;
		return false;
	}
	int vector = c->intc->acknowledge(c->intc_state);
	if (vector < 0)
		return false;
	cpu_pend(c, PEND_INTR); /* more may wait behind it */
	cpu_deliver(c, (struct event){ .kind = EVENT_EXT_INT, .vector = (u8)vector });
	return true;
}

static bool take_code_breakpoint(struct cpu *c)
{
	if (likely(!(c->arch.dr[7] & 0xff)) || (c->arch.rflags & FLAG_RF) || (c->arch.shadow & SHADOW_MOVSS))
		return false;
	u64 hit = debug_code_match(c);
	if (!hit)
		return false;
	cpu_deliver(c, (struct event){ .kind = EVENT_FAULT, .vector = VEC_DB, .payload = hit });
	return true;
}

static bool take_poll(struct cpu *c)
{
	if (!c->arch.guest_mode)
		return false;
	if (c->virt->poll(c))
		return true;
	if (!c->virt->poll_waits || c->virt->poll_waits(c))
		c->deferred |= PEND_VIRT; /* a window may open when IF or a shadow changes */
	return false;
}

static bool take_any(struct cpu *c, u32 p)
{
	if (take_init(c) || take_sipi(c))
		return true;
	if (c->arch.activity == ACT_WAIT_SIPI && !c->arch.guest_mode)
		return false;
	if (take_injected(c))
		return true;
	/* Asked before poll: when poll leaves an interrupt alone, that was a decision about this one, not about one that came later. */
	bool waiting = (p & PEND_INTR) && c->intc && c->intc->pending(c->intc_state) >= 0;
	if (take_poll(c) || (c->arch.pending_dbg && take_trap(c)) || take_nmi(c) || take_interrupt(c, waiting))
		return true;
	return c->arch.activity == ACT_ACTIVE && take_code_breakpoint(c);
}

/* One round: true when something happened and the state must be looked at afresh. */
static bool one_event(struct cpu *c)
{
	u32 p = __atomic_fetch_and(&c->pending, ~(u32)(PEND_INTR | PEND_NMI | PEND_NMI2 | PEND_INIT | PEND_SIPI | PEND_VIRT | PEND_TIMER | PEND_CODE),
				   __ATOMIC_SEQ_CST) | c->deferred;
	c->deferred = 0;
	if (p & PEND_CODE)
		c->io->service_code(c->io->vm, c);
	latch_signals(c, p);
	if (!take_any(c, p))
		return false;
	cpu_pend(c, p & PEND_INTR); /* an interrupt that something else came before still waits */
	return true;
}

/* A kernel waits for another CPU (a lock, an answer to an interrupt) with PAUSE in a loop of a few instructions. Its locks are handed on in order, so where two vCPUs
 * share one CPU of the host each hand-over would take a slice of the host's scheduler: milliseconds. */
#define PAUSES_LOOP 128
#define LOOP_INSNS 24 /* at most, per PAUSE */

void cpu_paused(struct cpu *c)
{
	if (c->pauses_since && c->icount - c->pauses_since < PAUSES_LOOP * LOOP_INSNS) {
		c->stats.spins++;
		if (c->io && c->io->spinning)
			c->io->spinning(c->io->vm, c);
	}
	c->pauses = PAUSES_LOOP;
	c->pauses_since = c->icount;
}

void cpu_halt(struct cpu *c, enum activity a)
{
	c->arch.activity = a;
	c->budget_end = 0; /* come to cpu_service */
}

static bool leave(struct cpu *c, struct exit_record *what, enum exit_kind kind, u64 wake_v)
{
	what->kind = kind;
	what->wake_v = wake_v;
	c->budget_end = 0; /* the next run starts here */
	return false;
}

/* STI, MOV SS or a step with nothing else waiting: no clock, no interrupt controller. A guest's windows and the like wait in `deferred`, see take_poll(). */
static bool quick_step(struct cpu *c)
{
	return __atomic_load_n(&c->pending, __ATOMIC_RELAXED) == PEND_STEP && c->icount < c->budget_end && !c->deferred && c->mtf == MTF_OFF &&
	       !c->arch.nmi_pending && !c->arch.pending_dbg && !(c->arch.dr[7] & 0xff) && c->arch.activity == ACT_ACTIVE;
}

/* Asked between events too, which can follow each other without end; but an MTF exit that is due is in no state row, so it comes first. */
static bool kicked(const struct cpu *c)
{
	return (__atomic_load_n(&c->pending, __ATOMIC_RELAXED) & PEND_KICK) && c->mtf != MTF_DUE;
}

bool cpu_service(struct cpu *c, struct exit_record *what)
{
	cpu_after_step(c);
	if (unlikely(c->dbg))
		cpu_debug_stepped(c);
	if (quick_step(c)) {
		arm_step(c);
		return true;
	}
	do
		sync_time(c);
	while (one_event(c) && !kicked(c));
	if (kicked(c)) { /* the VM clears it */
		sync_time(c);
		return leave(c, what, EXIT_KICK, CLOCK_NEVER);
	}
	if (c->arch.activity == ACT_SHUTDOWN && !c->arch.guest_mode)
		return leave(c, what, EXIT_SHUTDOWN, CLOCK_NEVER);
	if (c->arch.activity != ACT_ACTIVE) {
		cpu_unpend(c, PEND_STEP);
		return leave(c, what, EXIT_HALT, virt_deadline(c));
	}
	arm_step(c);
	if (c->clock)
		set_budget(c);
	else
		c->budget_end = c->icount + MAX_SLICE;
	return true;
}
