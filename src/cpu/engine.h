/* An engine runs one vCPU until something needs the VM around it. interp, jit and kvm implement it. */
#ifndef NB_ENGINE_H
#define NB_ENGINE_H

#include "cpu/cpu.h"

enum exit_kind {
	EXIT_KICK,       /* PEND_KICK was set */
	EXIT_HALT,       /* activity is HLT or WAIT_SIPI: sleep until something is pending or the clock reaches `wake_v` */
	EXIT_SHUTDOWN,   /* triple fault outside guest mode; cpu->death says where and why */
};

struct exit_record {
	enum exit_kind kind;
	u64 wake_v;      /* EXIT_HALT: V in ns of the vCPU's own next deadline (VMX preemption timer), or CLOCK_NEVER */
};

struct engine_ops {
	const char *name;
	int (*create)(struct cpu *c);    /* fills c->engine; 0 or -errno */
	void (*destroy)(struct cpu *c);
	void (*run)(struct cpu *c, struct exit_record *out);
	/* Own thread: forget decoded code of frame (page) `frame`, lines first..last. */
	void (*forget)(struct cpu *c, u64 frame, unsigned first_line, unsigned last_line);
	void (*forget_all)(struct cpu *c);
	/* Own thread: arch state is about to be read or has been written from outside (snapshot, gdb): sync host-resident x87. */
	void (*sync)(struct cpu *c);
	/* The engine's own --stats lines to a FILE, or NULL. */
	void (*print_stats)(const struct cpu *c, void *file);
};

extern const struct engine_ops interp_engine, jit_engine, lockstep_engine;
/* Entries into a block before it is translated; tests set 0. */
extern unsigned jit_hot;
extern unsigned jit_wary; /* how much more of what is often made anew, as a power of two */
extern unsigned jit_splits; /* how soon a block is translated twice, see jit/engine.c */
extern unsigned jit_slice, jit_samples; /* how soon a loop is watched, see jit/engine.c */

#endif
