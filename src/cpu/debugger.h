/* Breakpoints, watchpoints and single steps of a debugger outside the machine. The guest cannot notice them: its own debug registers, TF and memory stay its
 * own. Pages with breakpoints run one instruction at a time, the rest of the machine at full speed; watchpoints make it step, with every access the slow way.
 * Change a vCPU's struct only while its thread is parked, and call cpu_debug_changed() afterwards. */
#ifndef NB_CPU_DEBUGGER_H
#define NB_CPU_DEBUGGER_H

#include "cpu/cpu.h"

#define CPU_DEBUG_POINTS 64

enum cpu_debug_kind { DEBUG_EXECUTE, DEBUG_WRITE, DEBUG_READ, DEBUG_ACCESS };
struct cpu_debug_point {
	u64 la, len;
	enum cpu_debug_kind kind;
	u8 level;            /* 1: outside guest mode; 2: in guest mode */
};

enum cpu_debug_hit { DEBUG_HIT_NONE, DEBUG_HIT_BREAK, DEBUG_HIT_WATCH, DEBUG_HIT_STEP };

struct cpu_debug {
	struct cpu_debug_point point[CPU_DEBUG_POINTS];
	unsigned n, nwatch;  /* nwatch: of them not DEBUG_EXECUTE */
	bool step;           /* stop after one instruction */
	u64 began;           /* icount when it was last let go: the instruction there runs although a breakpoint is on it */
	/* Why it stopped; set by the vCPU, which then asks to be parked (PEND_KICK). */
	enum cpu_debug_hit hit;
	u64 hit_la;          /* DEBUG_HIT_WATCH: of the access */
	enum cpu_debug_kind hit_kind;
};

/* 0, or -ENOSPC, -ENOENT. len: bytes, at least 1; execute: 1. */
int cpu_debug_add(struct cpu_debug *d, struct cpu_debug_point p);
int cpu_debug_remove(struct cpu_debug *d, struct cpu_debug_point p);
/* Own thread, or parked: c->dbg was set, changed or removed. Forget decoded code afterwards (engine_ops.forget_all). */
static inline void cpu_debug_changed(struct cpu *c)
{
	cpu_update_mode(c);
	cpu_pend(c, PEND_STEP);
}

/* ---- for engines and the MMU; only with c->dbg ---- */
/* The linear address la of code lies in a page with a breakpoint. */
bool cpu_debug_page(const struct cpu *c, u64 la);
/* Before the instruction at arch.rip: true when it shall not run now (PEND_KICK is set). */
bool cpu_debug_break(struct cpu *c, u64 la);
/* A step may be complete. */
void cpu_debug_stepped(struct cpu *c);
void cpu_debug_access(struct cpu *c, u64 la, unsigned len, bool write);

#endif
