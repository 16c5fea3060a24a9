/* Who runs inside whom, and what their VM exits cost: counters that VM entry and exit keep for every guest of a vCPU. For people (nestbox tree, exits,
 * explain), not for the guest: nothing of it is saved.
 *
 * The silicon sees one level of guests only: a hypervisor in a guest has its VMRESUME handled by the level above, which enters another VMCS for it. Surprise:
 * that is how the levels are told apart. A guest that is first entered in answer to another guest's VMLAUNCH or VMRESUME is that one's guest. */
#ifndef NB_VMX_NEST_H
#define NB_VMX_NEST_H

#include "cpu/virt.h"

#define NEST_GUESTS 32  /* per vCPU; later ones are counted with the least used */
#define NEST_REASONS 72

struct nest_count {
	u64 exits;
	u64 insns; /* executed from the exit to the next VM entry */
	u64 ticks; /* the host's TSC over the same time, sleep included; where exits are many and short, by samples */
};

/* One guest as one vCPU runs it: a VMCS region with an EPT root. Written by that vCPU's thread alone; other threads read values that may be a moment old. */
struct nest_guest {
	u64 vmcs, eptp;     /* guest-physical; eptp 0: no EPT */
	u16 vpid;
	u8 level;           /* 2: the vCPU's own guest, 3: that one's guest, ... */
	i8 parent;          /* index of the guest that runs it; -1: the machine itself */
	bool running;
	u64 entries;
	u64 last_entry;     /* the host's TSC, or that of a recent exit */
	struct nest_count reason[NEST_REASONS];
};

/* Entries and exits as they happen, while somebody records (nestbox trace). */
struct nest_event {
	u64 ticks;      /* the host's TSC */
	u8 guest;       /* index */
	bool entry;
	u16 reason;     /* of an exit */
};
struct nest_recording {
	unsigned n, room;
	u64 lost;       /* events after it was full */
	struct nest_event event[];
};

struct nest {
	unsigned n;         /* guests */
	/* The vCPU's own: */
	unsigned cur;       /* guest of the latest entry */
	int wants;          /* a guest whose VMRESUME its hypervisor has been told of, -1 */
	bool out;           /* between an exit and the next entry */
	u8 weight;          /* how many exits this one stands for in `ticks`, 0: its time is not taken */
	u32 out_reason;
	u64 out_icount, out_ticks;
	struct nest_recording *recording; /* set and taken away while the vCPU is parked; NULL: nobody records */
	struct nest_guest guest[NEST_GUESTS];
};

/* Counters of c, NULL without VMX. */
const struct nest *vmx_nest(const struct cpu *c);
/* Starts recording (r) or stops it (NULL); the machine must be paused. Returns what was recorded before. */
struct nest_recording *vmx_nest_record(struct cpu *c, struct nest_recording *r);
/* What the guest was doing when it last left, or does if it runs right now; and where its hypervisor goes on. From another thread than the vCPU's it
 * may mix two moments, unless the machine is paused. False: its VMCS is no memory any more. */
struct nest_state {
	u64 rip, rsp, cr0, cr3, cr4, efer, rflags, idtr_base, eptp;
	u64 host_rip, host_rsp, host_cr3, host_cr4;
	u32 cs_attr, activity;
	bool host64; /* the hypervisor runs in 64-bit mode */
};
bool vmx_nest_state(const struct cpu *c, const struct nest_guest *g, struct nest_state *s);
/* Hooks of entry.c and exit.c. */
void nest_entered(struct cpu *c);
void nest_exited(struct cpu *c, u32 reason);

#endif
