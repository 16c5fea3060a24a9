/* For tests of what must not go on for ever: a machine that is stopped from outside when V has moved on. */
#ifndef REGRESS_H
#define REGRESS_H

#include "interp_rig.h"

#include <signal.h>
#include <unistd.h>

static void regress_kick(void *cpu) { cpu_pend(cpu, PEND_KICK); }

/* Runs from linear address `at` until the vCPU leaves by itself or V has moved by `ns`. A test that hangs dies by SIGALRM. */
static inline enum exit_kind regress_run(struct core *r, u64 at, u64 ns)
{
	static struct clock_timer timer;
	struct exit_record out = { 0 };
	timer = (struct clock_timer){ .deadline = CLOCK_NEVER, .fire = regress_kick, .opaque = r->cpu, .name = "kick" };
	clock_add_timer(&r->clock, &timer);
	clock_arm(&r->clock, &timer, clock_now(&r->clock) + ns);
	r->cpu->arch.rip = at - r->cpu->arch.seg[SEG_CS].base;
	alarm(20);
	interp_engine.run(r->cpu, &out);
	alarm(0);
	interp_engine.sync(r->cpu);
	cpu_unpend(r->cpu, PEND_KICK);
	clock_del_timer(&r->clock, &timer);
	return out.kind;
}

#endif
