/* Local APIC timer (SDM "APIC Timer"). It counts a 1 GHz crystal on V, so one undivided tick is 1 ns; CPUID leaf 15h says the same.
 * Surprise: one-shot and periodic mode share the running count, as on hardware: switching between them neither stops nor restarts it. */
#include "irq/lapic.h"
#include "base/log.h"

u64 lapic_now(struct lapic *l) { return clock_publish(l->cpu->clock, cpu_now(l->cpu)); }

static enum lapic_timer_mode mode(const struct lapic *l) { return LVT_TIMER_MODE(l->regs.lvt[LVT_TIMER]); }
static bool counts(enum lapic_timer_mode m) { return m == TIMER_ONE_SHOT || m == TIMER_PERIODIC; }

/* ns per tick: the divide value, 1 to 128. */
static u64 tick_ns(const struct lapic *l)
{
	u32 d = l->regs.timer_div;
	return bit((((d >> 1 & 4) | (d & 3)) + 1) & 7);
}

static u64 period_ns(const struct lapic *l) { return l->regs.timer_init * tick_ns(l); }

static u64 tsc_at(const struct lapic *l, u64 v)
{
	return clock_mul_div(v, l->cpu->tsc_khz, 1000000) + l->cpu->arch.tsc_offset;
}

/* V at which this CPU's TSC reaches the deadline. */
static u64 deadline_v(const struct lapic *l, u64 now)
{
	u64 tsc = tsc_at(l, now), want = l->regs.tsc_deadline;
	if (tsc >= want || !l->cpu->tsc_khz)
		return now;
	u128 ahead = ((u128)(want - tsc) * 1000000 + l->cpu->tsc_khz - 1) / l->cpu->tsc_khz;
	return ahead >= CLOCK_NEVER - now ? CLOCK_NEVER : now + (u64)ahead;
}

void lapic_timer_rearm(struct lapic *l)
{
	u64 at = CLOCK_NEVER;
	if (mode(l) == TIMER_TSC_DEADLINE)
		at = l->regs.tsc_deadline ? deadline_v(l, clock_now(l->cpu->clock)) : CLOCK_NEVER;
	else if (l->regs.timer_end)
		at = l->regs.timer_end;
	if (mode(l) == TIMER_PERIODIC && at != CLOCK_NEVER && period_ns(l) < CLOCK_MIN_PERIOD_NS)
		at = max_u64(at, clock_now(l->cpu->clock) + CLOCK_MIN_PERIOD_NS);
	clock_arm(l->cpu->clock, &l->timer, at);
}

/* V passed the end of one or more periods: one interrupt, the count goes on in phase. */
static bool count_expired(struct lapic *l, u64 now)
{
	struct lapic_regs *r = &l->regs;
	if (!r->timer_end || now < r->timer_end)
		return false;
	u64 period = period_ns(l);
	if (mode(l) == TIMER_PERIODIC && period)
		r->timer_end += ((now - r->timer_end) / period + 1) * period;
	else
		r->timer_end = 0;
	return true;
}

static bool deadline_expired(struct lapic *l, u64 now)
{
	if (!l->regs.tsc_deadline || tsc_at(l, now) < l->regs.tsc_deadline)
		return false;
	l->regs.tsc_deadline = 0;
	return true;
}

void lapic_timer_sync(struct lapic *l)
{
	bool fired = __atomic_exchange_n(&l->timer_due, 0, __ATOMIC_SEQ_CST);
	u64 now = lapic_now(l);
	bool expired = mode(l) == TIMER_TSC_DEADLINE ? deadline_expired(l, now) : count_expired(l, now);
	if (expired)
		lapic_local(l, LVT_TIMER);
	if (expired || fired)
		lapic_timer_rearm(l);
}

/* On whichever thread noticed that the deadline passed. */
static void fire(void *opaque)
{
	struct lapic *l = opaque;
	__atomic_store_n(&l->timer_due, 1, __ATOMIC_SEQ_CST);
	cpu_pend(l->cpu, PEND_INTR);
	if (l->sys->kick)
		l->sys->kick(l->sys->vm, l->cpu->index);
}

void lapic_timer_setup(struct lapic *l)
{
	l->timer = (struct clock_timer){ .deadline = CLOCK_NEVER, .fire = fire, .opaque = l, .name = l->name, .locked = false };
	clock_add_timer(l->cpu->clock, &l->timer);
}

void lapic_timer_stop(struct lapic *l)
{
	l->regs.timer_end = 0;
	l->regs.tsc_deadline = 0;
	__atomic_store_n(&l->timer_due, 0, __ATOMIC_SEQ_CST);
	clock_arm(l->cpu->clock, &l->timer, CLOCK_NEVER);
}

u32 lapic_timer_count(struct lapic *l)
{
	lapic_timer_sync(l);
	u64 end = l->regs.timer_end, now = lapic_now(l);
	if (!counts(mode(l)) || end <= now)
		return 0;
	u64 t = tick_ns(l);
	return (u32)((end - now + t - 1) / t);
}

void lapic_timer_set_init(struct lapic *l, u32 v)
{
	lapic_timer_sync(l);
	if (mode(l) == TIMER_TSC_DEADLINE) /* SDM "TSC-Deadline Mode": writes to the initial-count register are ignored */
		return;
	l->regs.timer_init = v;
	l->regs.timer_end = v && counts(mode(l)) ? lapic_now(l) + period_ns(l) : 0;
	lapic_timer_rearm(l);
}

void lapic_timer_set_div(struct lapic *l, u32 v)
{
	u32 left = lapic_timer_count(l); /* the count itself does not change, only its pace */
	l->regs.timer_div = v;
	if (l->regs.timer_end)
		l->regs.timer_end = lapic_now(l) + left * tick_ns(l);
	lapic_timer_rearm(l);
}

/* SDM "TSC-Deadline Mode": changing between it and the counting modes disarms the timer. */
void lapic_timer_set_lvt(struct lapic *l, u32 v)
{
	lapic_timer_sync(l);
	enum lapic_timer_mode old = mode(l), new = LVT_TIMER_MODE(v);
	lapic_store(&l->regs.lvt[LVT_TIMER], v);
	if (counts(old) != counts(new)) {
		l->regs.timer_end = 0;
		l->regs.tsc_deadline = 0;
		if (new == TIMER_TSC_DEADLINE)
			l->regs.timer_init = 0;
	}
	lapic_timer_rearm(l);
}

void lapic_timer_set_deadline(struct lapic *l, u64 tsc)
{
	if (mode(l) != TIMER_TSC_DEADLINE)
		return;
	lapic_now(l); /* V as of now, so that a deadline that has just passed fires at the next boundary */
	l->regs.tsc_deadline = tsc;
	__atomic_store_n(&l->timer_due, 0, __ATOMIC_SEQ_CST);
	lapic_timer_rearm(l);
	lapic_timer_sync(l);
}
