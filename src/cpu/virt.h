/* What vmx/ and svm/ give to the CPU core and the engines, which include neither. c->virt is NULL when nesting is off. */
#ifndef NB_VIRT_H
#define NB_VIRT_H

#include "cpu/cpu.h"

/* Instructions and accesses that a hypervisor can intercept. `a` and `b` per row. */
enum icept {
	ICEPT_CPUID, ICEPT_GETSEC, ICEPT_HLT, ICEPT_INVD, ICEPT_WBINVD,
	ICEPT_INVLPG,     /* a = linear address */
	ICEPT_INVPCID,    /* a = linear address of the descriptor, i->dst = register of the type */
	ICEPT_RDPMC, ICEPT_RDTSC, ICEPT_RDTSCP, ICEPT_RDPID, ICEPT_RSM,
	ICEPT_CR_READ,    /* a = control register number, b = GPR that receives it */
	ICEPT_CR_WRITE,   /* a = control register number, b = GPR that is the source */
	ICEPT_CLTS, ICEPT_LMSW, /* LMSW: a = source word, b = 1 when from memory, cpu->arch.gpr unaffected; i has the memory operand */
	ICEPT_SMSW,
	ICEPT_DR,         /* a = debug register number, b = GPR | 16 when reading the DR */
	ICEPT_IN, ICEPT_OUT, /* a = port, b = size | 16 if string | 32 if the port is an immediate; INS/OUTS use i for segment, address size and rep */
	ICEPT_RDMSR, ICEPT_WRMSR, /* a = MSR number */
	ICEPT_MWAIT, ICEPT_MONITOR, ICEPT_PAUSE,
	ICEPT_GDTR_IDTR,  /* SGDT SIDT LGDT LIDT: a = 0,1,2,3 in that order */
	ICEPT_LDTR_TR,    /* SLDT STR LLDT LTR: a = 0,1,2,3 in that order */
	ICEPT_RDRAND, ICEPT_RDSEED, ICEPT_XSETBV, ICEPT_XSAVES, ICEPT_XRSTORS,
	ICEPT_TASK_SWITCH, /* a = selector, b = source: 0 CALL 1 IRET 2 JMP 3 gate */
	ICEPT_IRET,       /* SVM; and VMX "NMI unblocking": asked before NMI blocking is removed */
	ICEPT_PUSHF, ICEPT_POPF, ICEPT_SOFT_INT, /* SVM */
	ICEPT_COUNT
};

/* One page of a nested (EPT/NPT) translation. */
struct npt_page {
	u64 gpa;        /* L1-physical address of the byte asked for */
	u64 size;       /* 4 KiB, 2 MiB or 1 GiB: smallest of the levels used */
	bool r, w, x, xu; /* x: execute for supervisor (or all without mode-based execute control), xu: for user pages */
	bool dirty_ok;  /* false: a write must walk again to set the D flag */
	bool accessed_ok; /* false: an access must walk again to set A flags; only after a walk with ACC_PROBE */
};

enum npt_use { NPT_DATA, NPT_GUEST_PT /* access to a guest paging structure */ };

#define VIRT_KEPT_FRAMES 2
struct virt_ops {
	const char *name;

	/* In guest mode only (callers test c->arch.guest_mode): is this instruction intercepted? False: go on. True: the VM exit is done, state is the
	 * hypervisor's, the handler returns STEP_STOP. Called after #UD and CPL checks that the manual puts before the intercept, before any other effect.
	 * cpu->rip is the instruction; i->len its length. */
	bool (*icept)(struct cpu *c, enum icept what, const struct insn *i, u64 a, u64 b);

	/* The vendor's own instructions (VMXON.., VMRUN..) in any mode; i->op tells which. Also answers #UD when they do not exist. */
	enum step (*insn)(struct cpu *c, const struct insn *i);

	/* Guest mode: an exception or software event is about to be delivered. True: it became a VM exit. `during` is the event whose delivery raised it
	 * (never NULL; kind EVENT_NONE: none). Not asked for external interrupts and NMIs (poll decides those) nor for events injected by VM entry. CR2, DR6
	 * and DR7 have not been changed yet: ev->payload has the news. A #DF made of two faults is asked after the second fault was, with `during` NONE. */
	bool (*event)(struct cpu *c, const struct event *ev, const struct event *during);

	/* Guest mode: triple fault, or an exit recorded as EVENT_VIRT in cpu->fault. Performs the exit. `during` as above. */
	void (*triple_fault)(struct cpu *c);
	void (*take_exit)(struct cpu *c, const struct event *during);

	/* Guest mode with nested paging: translate l2gpa. acc: ACC_* of cpu/mmu.h. la_valid/la: the linear address that led here.
	 * True: *out filled. False: cpu->fault.kind = EVENT_VIRT. A/D flags of EPT are updated as the manual says. */
	bool (*npt_walk)(struct cpu *c, l2gpa_t at, u32 acc, enum npt_use use, bool la_valid, gva_t la, struct npt_page *out);
	bool (*npt_enabled)(const struct cpu *c);

	/* Guest mode: L1-physical page holding the APIC-access page (VMX), or ~0. The MMU makes its entries slow and asks virtual_apic. */
	u64 (*apic_access_page)(const struct cpu *c);
	/* Access to it. True: done (value read or written), false: cpu->fault.kind = EVENT_VIRT. */
	bool (*virtual_apic)(struct cpu *c, u32 off, unsigned size, bool write, bool fetch, u64 *value, gva_t la);

	/* Guest mode, at an instruction boundary with PEND_VIRT, PEND_INTR or PEND_NMI: windows, MTF, preemption timer, TPR threshold, virtual and
	 * posted interrupts, external-interrupt and NMI exits. True: a VM exit happened. Called in guest mode at every service, after an event injected by VM entry was delivered
	 * and before pending debug traps are: while cpu_trap_due() only what outranks them (MTF: cpu->mtf == MTF_DUE, TPR below threshold) may exit; the rest gets
	 * its turn after the #DB. NMIs: arch.nmi_pending (a count: poll takes one off when it exits for it). Interrupts: intc->pending. What poll leaves alone is then
	 * delivered to the guest by the core as without nesting. Windows: poll is called again when IF, a shadow or NMI blocking changes. */
	bool (*poll)(struct cpu *c);
	/* After a poll that left the guest running: does something wait for IF, a shadow or NMI blocking? False: nobody needs to hear of their changes, which
	 * makes each STI of the guest cheaper. NULL: always. */
	bool (*poll_waits)(const struct cpu *c);
	/* Guest mode: INIT or SIPI arrived. True: handled (exit). In VMX root operation INIT is blocked: see init_blocked. */
	bool (*init_signal)(struct cpu *c);
	bool (*sipi)(struct cpu *c, unsigned vector);
	bool (*init_blocked)(const struct cpu *c);

	/* icount-independent deadline: V in ns at which poll must run (preemption timer), CLOCK_NEVER if none. */
	u64 (*deadline)(const struct cpu *c);

	/* MSRs of the vendor (480h-493h, 3Ah is the core's; C0010114h..). True: known, value or #GP handled through *ok. */
	bool (*rdmsr)(struct cpu *c, u32 msr, u64 *value, bool *ok);
	bool (*wrmsr)(struct cpu *c, u32 msr, u64 value, bool *ok);
	/* x2APIC MSRs 800h-8FFh and TPR (CR8) in guest mode with virtualisation. True: handled; *ok false: #GP; if an exit is due it is left in cpu->fault
	 * (EVENT_VIRT) with *ok false. */
	bool (*x2apic)(struct cpu *c, u32 msr, bool write, u64 *value, bool *ok);
	bool (*cr8)(struct cpu *c, bool write, u64 *value); /* true: handled (TPR shadow) */

	/* RDTSC/RDTSCP/RDMSR(10h) value in guest mode after offsetting and scaling. */
	u64 (*tsc)(const struct cpu *c, u64 tsc);

	/* CR0/CR4 guest views: value that MOV from CR, SMSW see; and merge of a MOV to CR under mask/shadow. */
	u64 (*cr_view)(const struct cpu *c, unsigned cr, u64 real);
	u64 (*cr_merge)(const struct cpu *c, unsigned cr, u64 wanted);
	/* CR0 and CR4 bits that VMX operation or the guest's controls fix: false = #GP. Asked by cpu_set_cr0/4 in root VMX operation and guest mode. */
	bool (*cr_allowed)(const struct cpu *c, unsigned cr, u64 value);

	/* IRET executed: NMI blocking ends (virtual NMIs included). */
	void (*nmi_unblock)(struct cpu *c);
	/* TLB tag of the current address space: VPID/ASID and nested root; 0,0 outside guest mode. */
	void (*tlb_tag)(const struct cpu *c, u16 *vpid, u64 *npt_root);

	void (*reset)(struct cpu *c);
	void (*loaded)(struct cpu *c); /* virt_state was loaded from outside: rebuild what is derived; may be NULL */
	/* Frames of guest memory that are written through addresses kept from one instruction to the next, -1 for none; may be NULL. */
	void (*kept_frames)(const struct cpu *c, i64 frames[VIRT_KEPT_FRAMES]);
	const struct state_desc *state; /* describes virt_state's saved part, which is its first member */
};

/* A #DB trap would be delivered now (SDM "Priority Among Concurrent Events"). */
static inline bool cpu_trap_due(const struct cpu *c)
{
	return (c->arch.pending_dbg & (BIT(12) | BIT(14) | BIT(15))) && !(c->arch.shadow & SHADOW_MOVSS);
}

static inline bool cpu_icept(struct cpu *c, enum icept what, const struct insn *i, u64 a, u64 b)
{
	return unlikely(c->arch.guest_mode) && c->virt->icept(c, what, i, a, b);
}

#endif
