/* How much virtual time an instruction takes. CLOCK_NS_PER_INSN, as long as that does not make V run ahead of the host's clock; an engine that does more
 * than 500 million instructions a second gets less per instruction, so that five seconds of the guest beside a busy loop are five seconds of the host
 * (GUESTS.md "Time on a slow or preempted software CPU"). A starved vCPU always gets the full amount: its V falls behind and is slow, never hectic.
 *
 * Surprise: time that V fell behind is mostly forgotten. Only MAX_CREDIT of it may be caught up with, at full speed. */
#include "bus/clock.h"
#include "cpu/desc.h"

#define MAX_CREDIT 20000000 /* ns */
#define STRIDE 20000        /* instructions between two looks at the host's clock */
#define FULL (256 * CLOCK_NS_PER_INSN)
#define LEAST 32            /* 1/8 ns: 8,000 million instructions a second */

/* 1/256 ns per instruction. Nine tenths of what the host needed brings V back gently. */
static u32 wanted(i64 credit, u64 host_ns, u64 insns)
{
	if (credit >= 0)
		return FULL;
	u64 rate = host_ns * 230 / insns;
	return (u32)(rate < LEAST ? LEAST : min_u64(rate, FULL));
}

static void look(struct cpu *c, u64 host, u64 v)
{
	c->pace.host = host;
	c->pace.v = v;
	c->pace.icount = c->icount;
}

void pace_vcpu(struct cpu *c)
{
	u64 insns = c->icount - c->pace.icount;
	if (insns < STRIDE)
		return;
	u64 host = c->clock->host_ns(), v = cpu_now(c);
	if (!c->pace.host) {
		c->pace.credit = MAX_CREDIT;
		look(c, host, v);
		return;
	}
	u64 host_ns = host - c->pace.host;
	i64 credit = c->pace.credit + (i64)host_ns - (i64)(v - c->pace.v);
	c->pace.credit = credit > MAX_CREDIT ? MAX_CREDIT : credit < -MAX_CREDIT ? -MAX_CREDIT : credit;
	u32 slow = FULL - wanted(credit, host_ns, insns);
	if (slow != c->v_slow) {
		c->v_base = v;
		c->v_icount = c->icount;
		c->v_slow = slow;
	}
	look(c, host, v);
}
