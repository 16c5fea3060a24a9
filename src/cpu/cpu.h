/* One vCPU: all architectural state, and the little derived state that every part needs.
 *
 * Contract between handlers and helpers: before calling anything here that can fault or exit, cpu->rip is the address of the
 * current instruction. A helper that returns false (or STEP_FAULT) has filled cpu->fault and changed nothing else that the guest can see.
 * Surprise: arithmetic flags live in `cc` in the form that LAHF;SETO leave in AX; rflags holds all the other bits. */
#ifndef NB_CPU_H
#define NB_CPU_H

#include "base/base.h"
#include "isa/insn.h"
#include "state/state.h"

struct mem;
struct clock;
struct tlb;
struct virt_ops;
struct intc_ops;
struct cpu_model;

/* ---- segments: attr is the VMCS access-rights format (SDM "Guest Register State") ---- */
#define SEG_TYPE      0xfu
#define SEG_TYPE_ACCESSED 1u
#define SEG_TYPE_RW   2u      /* data: writable, code: readable */
#define SEG_TYPE_EC   4u      /* data: expand-down, code: conforming */
#define SEG_TYPE_CODE 8u
#define SEG_S         BIT(4)  /* code or data (0 = system) */
#define SEG_DPL(attr) (((attr) >> 5) & 3)
#define SEG_DPL_SHIFT 5
#define SEG_P         BIT(7)
#define SEG_AVL       BIT(12)
#define SEG_L         BIT(13)
#define SEG_DB        BIT(14)
#define SEG_G         BIT(15)
#define SEG_UNUSABLE  BIT(16)

struct seg {
	u64 base;
	u32 limit;  /* in bytes, inclusive, already scaled by G */
	u32 attr;
	u16 sel;
	u16 pad_[3];
};
struct dtable { u64 base; u32 limit; u32 pad_; };

/* ---- bits ---- */
#define FLAG_CF BIT(0)
#define FLAG_FIXED1 BIT(1)
#define FLAG_PF BIT(2)
#define FLAG_AF BIT(4)
#define FLAG_ZF BIT(6)
#define FLAG_SF BIT(7)
#define FLAG_TF BIT(8)
#define FLAG_IF BIT(9)
#define FLAG_DF BIT(10)
#define FLAG_OF BIT(11)
#define FLAG_IOPL (BIT(12) | BIT(13))
#define FLAG_NT BIT(14)
#define FLAG_RF BIT(16)
#define FLAG_VM BIT(17)
#define FLAG_AC BIT(18)
#define FLAG_VIF BIT(19)
#define FLAG_VIP BIT(20)
#define FLAG_ID BIT(21)
#define FLAG_ARITH (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_VME BIT(0)
#define CR4_PVI BIT(1)
#define CR4_TSD BIT(2)
#define CR4_DE BIT(3)
#define CR4_PSE BIT(4)
#define CR4_PAE BIT(5)
#define CR4_MCE BIT(6)
#define CR4_PGE BIT(7)
#define CR4_PCE BIT(8)
#define CR4_OSFXSR BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP BIT(11)
#define CR4_LA57 BIT(12)
#define CR4_VMXE BIT(13)
#define CR4_SMXE BIT(14)
#define CR4_FSGSBASE BIT(16)
#define CR4_PCIDE BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define CR4_PKE BIT(22)

#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)
#define EFER_SVME BIT(12)

enum vector { VEC_DE, VEC_DB, VEC_NMI, VEC_BP, VEC_OF, VEC_BR, VEC_UD, VEC_NM, VEC_DF, VEC_TS = 10, VEC_NP, VEC_SS, VEC_GP, VEC_PF,
	      VEC_MF = 16, VEC_AC, VEC_MC, VEC_XM, VEC_VE, VEC_CP };

/* ---- events ---- */
enum event_kind {
	EVENT_NONE,
	EVENT_FAULT,     /* hardware exception raised by the current instruction (rip = that instruction) */
	EVENT_TRAP,      /* #DB after an instruction (rip = the next one) */
	EVENT_SOFT_INT,  /* INT n */
	EVENT_SOFT_EXC,  /* INT3, INTO */
	EVENT_ICEBP,     /* INT1 */
	EVENT_EXT_INT,
	EVENT_NMI,
	EVENT_VIRT,      /* the walk or access needs a VM exit; details are in the virt state, see virt_ops.take_exit */
};

struct event {
	u8 kind;      /* enum event_kind */
	u8 vector;
	u8 has_error;
	u8 insn_len;  /* software events */
	u32 error;
	u64 payload;  /* #PF: CR2; #DB: DR6 bits to set (active high: bit 14 BS, 0-3 B0-B3, 13 BD) */
};

/* Why a halted or stopped vCPU does not run; VMCS "activity state" numbering for 0-3. */
enum activity { ACT_ACTIVE, ACT_HLT, ACT_SHUTDOWN, ACT_WAIT_SIPI };

/* Bits of cpu->shadow: VMCS "interruptibility state" numbering. */
#define SHADOW_STI BIT(0)
#define SHADOW_MOVSS BIT(1)
#define SHADOW_SMI BIT(2)
#define SHADOW_NMI BIT(3) /* NMIs are blocked until IRET */

/* All architectural state. F(type, name) A(type, name, count). Alignment: ymm first. */
#define CPU_ARCH(F, A) \
	A(u8, ymm, 16 * 32)      /* register r at 32*r: low half XMM, high half YMM_Hi128 */ \
	A(u8, x87, 160)          /* FXSAVE64 image bytes 0-159: FCW FSW FTW FOP FIP FDP MXCSR(unused here) ST0-7; valid when !x87_resident */ \
	A(u64, gpr, 18)          /* [16] is always 0, [17] is the current block's rip: not guest-visible */ \
	F(u64, rip) \
	F(u64, rflags)           /* all but the six arithmetic flags, which are 0 here; bit 1 set */ \
	F(u64, cr0) F(u64, cr2) F(u64, cr3) F(u64, cr4) F(u64, xcr0) \
	A(u64, dr, 8)            /* dr[4], dr[5] unused */ \
	A(struct seg, seg, 6) \
	F(struct seg, ldtr) F(struct seg, tr) \
	F(struct dtable, gdtr) F(struct dtable, idtr) \
	A(u64, pdpte, 4)         /* PAE paging only */ \
	F(u64, efer) F(u64, star) F(u64, lstar) F(u64, cstar) F(u64, fmask) F(u64, kernel_gs_base) F(u64, tsc_aux) \
	F(u64, sysenter_cs) F(u64, sysenter_esp) F(u64, sysenter_eip) \
	F(u64, pat) F(u64, apic_base) F(u64, tsc_offset) /* guest TSC = V-derived TSC + tsc_offset */ F(u64, tsc_adjust) \
	F(u64, misc_enable) F(u64, feat_ctl) F(u64, debugctl) F(u64, xss) F(u64, bios_sign_id) F(u64, spec_ctrl) \
	F(u64, mtrr_def_type) A(u64, mtrr_fixed, 11) A(u64, mtrr_var, 16) \
	F(u64, mcg_status) A(u64, mc_bank, 40) F(u64, mcg_ctl) \
	F(u64, pending_dbg)      /* VMCS "pending debug exceptions" format */ \
	F(u64, smi_count) A(u64, msr_plain, 32) /* MSRs that only remember their value; see cpu/msr.def */ \
	F(struct event, inject)  /* event to deliver before the next instruction (set by VM entry), kind EVENT_NONE when none */ \
	F(u32, mxcsr) F(u32, pkru) \
	F(u32, activity)         /* enum activity */ \
	F(u32, shadow)           /* SHADOW_* */ \
	F(u32, sipi_vector)      /* valid with PEND_SIPI */ \
	F(u16, cc)               /* AX after LAHF;SETO AL: ah = SF ZF - AF - PF 1 CF, al = OF */ \
	F(u8, nmi_pending) /* 0-2 */ F(u8, init_pending) \
	F(u8, sipi_pending) F(u8, cpl) F(u8, guest_mode) /* in VMX non-root or SVM guest */ A(u8, pad_, 13)

STATE_STRUCT(cpu_arch, CPU_ARCH) __attribute__((aligned(32)));
extern const struct state_desc cpu_arch_state;

/* cpu->pending: why the block loop must call cpu_service(). Atomic; any thread may set. */
/* Each is more than a run has instructions left, and none is the sign: host code asks for both with one compare (jit/flow.c). */
#define PEND_INTR   (1u << 20)  /* the interrupt controller may have something */
#define PEND_NMI    (1u << 21)
#define PEND_INIT   (1u << 22)
#define PEND_SIPI   (1u << 23)
#define PEND_KICK   (1u << 24)  /* leave engine run: pause, stop, reset */
#define PEND_CODE   (1u << 25)  /* other vCPUs ask: drop decoded code or write permissions, see vm/code.c */
#define PEND_TIMER  (1u << 26)  /* clock.next moved: recompute the budget */
#define PEND_VIRT   (1u << 27)  /* vmx/svm wants virt_ops.poll at the next boundary (windows, MTF, preemption timer, posted interrupt) */
#define PEND_STEP   (1u << 28)  /* shadow, TF, MTF or debug traps: run one instruction, then service again. Only the own thread sets it */
#define PEND_NMI2   (1u << 30) /* a second NMI came before the first was noticed */
#define PEND_INJECT (1u << 29)  /* arch.inject holds an event */

/* Mode bits: key of decoded blocks. */
#define MODE_L      1u  /* 64-bit code */
#define MODE_D      2u  /* 32-bit default operand size */
#define MODE_SSB    4u  /* 32-bit stack */
#define MODE_PE     8u  /* protected mode and not VM86 */
#define MODE_ONE    16u /* blocks of a single instruction */
#define MODE_VM86   32u
#define MODE_FLAT   64u /* 32-bit code and stack, protected mode; CS, SS, DS, ES span 4 GiB from 0, of types that permit all */

/* What the engine asks of the VM around it; filled in by vm/. Every vCPU thread calls these for itself. */
struct cpu_io {
	u64 (*port_read)(void *vm, u16 port, unsigned size);
	void (*port_write)(void *vm, u16 port, u64 value, unsigned size);
	u64 (*mmio_read)(void *vm, u64 addr, unsigned size);
	void (*mmio_write)(void *vm, u64 addr, u64 value, unsigned size);
	/* Frame `frame` is about to get its first decoded instruction: take write permission from every vCPU's TLB and wait until they have. */
	void (*claim_code)(void *vm, struct cpu *c, u64 frame);
	/* PEND_CODE: answer what other vCPUs asked about code; clears the bit. */
	void (*service_code)(void *vm, struct cpu *c);
	/* The guest waits in a loop of PAUSEs, maybe for a vCPU whose thread is not running: let others have this CPU of the host. */
	void (*spinning)(void *vm, struct cpu *c);
	void *vm;
};

struct cpu_stats {
	u64 insns, blocks, block_lookups, decodes, code_invalidations, tlb_misses, walks, exceptions[32], interrupts, halts, ports, mmios, spins, ipis;
	u64 vmexits[128];        /* by basic exit reason */
	u64 vmentries, vmentry_failures;
	u64 depth_exits[8];      /* not known to the CPU; reserved for estimates */
};

/* Parts of a VMCS: fields that VM entry reads each time, or never; controls and the host's state; the guest's state. */
enum vm_part { VM_PART_OTHER, VM_PART_ROOT, VM_PART_GUEST, VM_PARTS };

struct cpu {
	struct cpu_arch arch;

	/* ---- derived from arch; rebuilt by cpu_update_mode() ---- */
	u32 mode;                /* MODE_* */
	u32 pending;             /* PEND_*; atomic */
	u8 acc_class;            /* TLB access class: 0 supervisor, 1 supervisor with AC (or no SMAP), 2 user */
	bool x87_resident;       /* the guest's x87/MMX state is in the host's registers; see interp/vec */
	bool lma;                /* EFER.LMA */
	bool paging;             /* CR0.PG */
	/* Fast segment checks: an access [ea, ea+size) through segment s needs ea + size - 1 < bound_r[s] (reads) or bound_w[s]; 64-bit mode and flat
	 * segments: ~0; anything unusual: 0 = ask cpu_seg_check(). base[] is 0 for CS/DS/ES/SS in 64-bit mode. */
	u64 seg_base[SEG_COUNT + 2], bound_r[SEG_COUNT + 2], bound_w[SEG_COUNT + 2];
	u64 stack_mask;          /* 0xffff, 0xffffffff or ~0 by SS.B and mode */

	struct event fault;      /* see enum step */
	struct event delivering; /* event whose delivery is under way (kind EVENT_NONE: none); for VM exits raised in the middle of it */
	u64 step_rip;            /* rip at which the current single step began */
	u32 deferred;            /* PEND_* that wait for RFLAGS.IF, a shadow or NMI blocking to go away; own thread, see cpu_unblocked() */
	u8 step;                 /* STEP_*: what the single step under way must do when it completes; 0 = none, or the instruction did not complete */
	u8 mtf;                  /* enum mtf */
	bool alone;              /* vmx: run the next instruction as a block of its own; cleared when it has completed */
	struct tlb *tlb;         /* cpu/mmu.h */
	void *engine;            /* the engine's per-vCPU state */
	void *vec;               /* the vector unit's native stubs: interp/vec.h */

	u64 icount;              /* instructions executed since power-on, at the last block boundary */
	u64 budget_end;          /* icount at which the block loop must call cpu_service() */
	u64 v_base, v_icount;    /* V = v_base + (icount - v_icount) * ns per instruction, see cpu_now() */
	i32 pauses;              /* of machines with several vCPUs: PAUSEs until somebody asks whether it is a loop, see cpu_paused() */
	u64 pauses_since;        /* icount when they were last counted from the start */
	u32 v_slow;              /* by how many 1/256 ns an instruction takes less than CLOCK_NS_PER_INSN: pace.c */
	struct { u64 host, v, icount; i64 credit; } pace;

	struct cpu_debug *dbg;   /* cpu/debugger.h; NULL unless a debugger is there */
	const struct virt_ops *virt; /* NULL without nesting */
	void *virt_state;
	u64 *vm_fields;          /* what VMREAD and VMWRITE access in root operation, by slot; NULL: there is no current VMCS, or somebody traces */
	const u16 *vm_field_row; /* by even field encodings: slot << 2 | width (1: 16, 2: 32, 3: 64 bits); 0: not such a field. VM_FIELD_ROWS of them */
	const u64 *vm_code;      /* lines with decoded code of the page that vm_fields is in; NULL as vm_fields, and when the page is not RAM: ask the handler */
	struct vm_written *vm_written; /* by slot: VMWRITE notes itself here */
	u64 vm_ptr;              /* guest-physical address of that VMCS */
	const u8 *vm_field_part; /* by slot: what a VMWRITE sets in vm_written_part */
	u8 vm_written_part[VM_PARTS]; /* 1: a field of that part of the VMCS may have changed since VM entry last read them all */
	const struct intc_ops *intc;
	void *intc_state;
	struct mem *mem;
	struct clock *clock;
	const struct cpu_io *io;
	const struct cpu_model *model;
	u64 tsc_khz;
	unsigned index;          /* vCPU number */
	unsigned ncpus;
	struct cpu_stats stats;
	char death[256];         /* after a triple fault: where and why, one sentence */
};

/* The last VMWRITE of a field: to which VMCS, by the instruction at which address. For explanations. */
struct vm_written { u64 vmcs, rip; };

/* Field encodings have bits 1 to 6 (index), 10, 11 (type), 13, 14 (width); bit 0 is for the upper half (SDM "VMCS Encoding"). */
#define VM_FIELD_BITS 0x6c7eu
#define VM_FIELD_ROWS (VM_FIELD_BITS / 2 + 1)

/* cpu->step; the low two bits are the SHADOW_* bits that end with the instruction. */
#define STEP_ARMED 0x80u
#define STEP_TF    0x10u /* TF was set when it began */
#define STEP_RF    0x20u /* RF was set when it began */

/* cpu->mtf, VMX "Monitor Trap Flag": vmx sets ARMED at VM entry (or DUE for an injected pending MTF) and OFF at exit; the core makes ARMED DUE after
 * one instruction, one iteration of a REP, or the delivery of an event. vmx's poll exits when DUE. */
enum mtf { MTF_OFF, MTF_ARMED, MTF_DUE };

/* ---- lifetime ---- */
/* Power-on or RESET state (SDM "Processor State After Reset"). INIT keeps what the manual says. */
void cpu_reset(struct cpu *c);
void cpu_init_signal(struct cpu *c);
/* Recompute everything derived after any change of segments, CR0/CR4, EFER, RFLAGS.AC/VM or CPL. Cheap; does not touch the TLB. */
void cpu_update_mode(struct cpu *c);

/* ---- flags ---- */
static inline u64 cpu_cc_to_flags(u16 cc) { return (u64)((cc >> 8) & 0xd5) | ((u64)(cc & 1) << 11); }
static inline u16 cpu_flags_to_cc(u64 f) { return (u16)(((f & 0xd5) | 2) << 8 | ((f >> 11) & 1)); }
static inline u64 cpu_rflags(const struct cpu *c) { return c->arch.rflags | cpu_cc_to_flags(c->arch.cc); }
/* Sets all of RFLAGS as given (no privilege rules), bit 1 forced, reserved bits cleared; updates derived mode. */
void cpu_set_rflags(struct cpu *c, u64 value);

/* ---- pending work ---- */
static inline void cpu_pend(struct cpu *c, u32 what) { __atomic_fetch_or(&c->pending, what, __ATOMIC_SEQ_CST); }
/* One NMI more: of two in quick succession one is taken and one is held pending, as on silicon. */
static inline void cpu_pend_nmi(struct cpu *c)
{
	if (__atomic_fetch_or(&c->pending, PEND_NMI, __ATOMIC_SEQ_CST) & PEND_NMI)
		__atomic_fetch_or(&c->pending, PEND_NMI2, __ATOMIC_SEQ_CST);
}
static inline void cpu_unpend(struct cpu *c, u32 what)
{
	if (__atomic_load_n(&c->pending, __ATOMIC_SEQ_CST) & what)
		__atomic_fetch_and(&c->pending, ~what, __ATOMIC_SEQ_CST);
}
/* RFLAGS.IF became 1, or another block on events went away: look again at what had to wait. Handlers that set IF without cpu_set_rflags call it. */
static inline void cpu_unblocked(struct cpu *c)
{
	if (unlikely(c->deferred)) {
		cpu_pend(c, c->deferred);
		c->deferred = 0;
	}
}
/* STI that turned IF on, MOV SS, POP SS: events wait for one more instruction. The handler then returns STEP_STOP. */
static inline void cpu_set_shadow(struct cpu *c, u32 shadow)
{
	c->arch.shadow |= shadow;
	cpu_pend(c, PEND_STEP);
}
static inline bool cpu_must_service(const struct cpu *c)
{
	return __atomic_load_n(&c->pending, __ATOMIC_RELAXED) | (c->icount >= c->budget_end);
}

/* ---- faults: fill cpu->fault ---- */
enum step cpu_fault(struct cpu *c, unsigned vector);             /* without error code; returns STEP_FAULT */
enum step cpu_fault_err(struct cpu *c, unsigned vector, u32 error);
static inline enum step cpu_ud(struct cpu *c) { return cpu_fault(c, VEC_UD); }
static inline enum step cpu_gp(struct cpu *c, u32 error) { return cpu_fault_err(c, VEC_GP, error); }

/* ---- time ---- */
/* V in ns as this vCPU knows it now, to the last block boundary; never behind another vCPU's published V once serviced. */
/* Signed: blocks are counted when they begin, so icount may go back a little behind v_icount when one that read the time does not get to its end. */
static inline u64 cpu_now(const struct cpu *c) { return c->v_base + (u64)((i64)(c->icount - c->v_icount) * (i64)(512 - c->v_slow) >> 8); }
/* Instructions, rounded up, in which this vCPU's V advances by ns. */
static inline u64 cpu_insns_of(const struct cpu *c, u64 ns) { return ((ns << 8) + 511 - c->v_slow) / (512 - c->v_slow); }
/* TSC value that RDTSC gives at this privilege level before VMX/SVM offsetting (TSC = V scaled + tsc_offset); monotonic over vCPUs. */
u64 cpu_tsc(struct cpu *c);

/* ---- canonical addresses (48 bits) ---- */
static inline bool cpu_canonical(u64 la) { return (u64)((i64)(la << 16) >> 16) == la; }

#endif
