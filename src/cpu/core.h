/* What the CPU core does for engines beyond memory: segments, far transfers, events, control registers, MSRs, CPUID.
 * Each call states the manual's section in its definition. All obey the contract at the top of cpu.h. */
#ifndef NB_CORE_H
#define NB_CORE_H

#include "cpu/cpu.h"
#include "cpu/virt.h"
#include "cpu/intc.h"

/* What the calls that return enum step do with rip: those that transfer control (far_*, iret, syscall.., task_switch, soft_event) set it; all others
 * (load_seg, set_cr*, lldt...) leave it alone, and on STEP_END or STEP_STOP the caller advances it. STEP_STOP then says that the block must be left.
 * A VM exit inside a control transfer is STEP_STOP too, with rip the hypervisor's.
 * Engines: in MODE_ONE a REP string instruction does one iteration and, when more remain, ends with STEP_STOP and rip unchanged. */

/* ---- boundary work (cpu/service.c) ---- */
/* At an instruction boundary, when cpu_must_service(): pending events in the manual's priority order ("Priority Among Concurrent Events"), VMX polls, timers,
 * budget for the next run. Returns true when the engine shall go on, false when run() must return with *what (PEND_KICK stays set: the VM clears it). Sets PEND_STEP and MODE_ONE as needed. */
struct exit_record;
bool cpu_service(struct cpu *c, struct exit_record *what);
/* After STEP_FAULT: deliver cpu->fault (may become #DF, VM exit, shutdown). */
void cpu_take_fault(struct cpu *c);
/* Deliver an event through the IDT (all modes) with nested-exception rules. rip and shadows as the event's kind says. */
void cpu_deliver(struct cpu *c, struct event ev);
/* PAUSE, in a machine with several vCPUs, when c->pauses has become negative. */
void cpu_paused(struct cpu *c);
/* HLT executed or VM entry to an inactive state. */
void cpu_halt(struct cpu *c, enum activity a);

/* Instruction finished that must be followed by debug traps: TF, data breakpoints. The service loop calls it for PEND_STEP. */
void cpu_after_step(struct cpu *c);
/* Data or I/O breakpoint check; engines call it only when DR7 enables one (c->arch.dr[7] & 0xff). Sets pending_dbg bits. */
void cpu_debug_data(struct cpu *c, u64 la, unsigned size, bool write);
void cpu_debug_io(struct cpu *c, u16 port, unsigned size);

/* ---- segments (cpu/seg.c) ---- */
/* Slow half of the limit/type check: true when [ea, ea+size) may be accessed; false: #GP(0) or #SS(0) is in cpu->fault. Also canonical check in 64-bit mode. */
bool cpu_seg_check(struct cpu *c, unsigned seg, u64 ea, unsigned size, bool write);
/* MOV/POP/LxS to a data or stack segment. */
enum step cpu_load_seg(struct cpu *c, unsigned seg, u16 sel);
enum step cpu_far_jmp(struct cpu *c, u16 sel, u64 off, unsigned opsize, unsigned insn_len);
enum step cpu_far_call(struct cpu *c, u16 sel, u64 off, unsigned opsize, unsigned insn_len);
enum step cpu_far_ret(struct cpu *c, unsigned opsize, u16 pop_bytes);
enum step cpu_iret(struct cpu *c, unsigned opsize, const struct insn *i);
enum step cpu_lldt(struct cpu *c, u16 sel);
enum step cpu_ltr(struct cpu *c, u16 sel);
/* LAR LSL VERR VERW: true when the selector is accessible; *out is the result (LAR, LSL). A memory fault: *faulted. */
enum seg_query { SEG_LAR, SEG_LSL, SEG_VERR, SEG_VERW };
bool cpu_seg_query(struct cpu *c, enum seg_query q, u16 sel, u32 *out, bool *faulted);
enum step cpu_syscall(struct cpu *c, unsigned insn_len);
enum step cpu_sysret(struct cpu *c, unsigned opsize);
/* For engines, the usual case between a 64-bit program and its kernel; false: nothing was done, take the whole instruction. No derived state changes but
 * the access class, which is the caller's to set. `flags`: all of RFLAGS. */
bool cpu_syscall_usual(struct cpu *c, u64 next_rip, u64 flags);
bool cpu_sysret_usual(struct cpu *c);
/* The same for IRETQ of a 64-bit kernel to 64-bit code, in two steps: where it leads, if all is as usual and the TLB knows all that it takes; and that. */
struct iret_way { struct seg cs, ss; u64 rip, rsp, flags; u8 rpl; };
bool cpu_iret_find(const struct cpu *c, struct iret_way *w);
void cpu_iret_take(struct cpu *c, const struct iret_way *w);
enum step cpu_sysenter(struct cpu *c);
enum step cpu_sysexit(struct cpu *c, unsigned opsize);
/* Hardware task switch (cpu/task.c). source as ICEPT_TASK_SWITCH. For a gate during event delivery, ev is that event, else NULL. */
enum step cpu_task_switch(struct cpu *c, u16 sel, unsigned source, unsigned insn_len, const struct event *ev);
/* INT n, INT3, INTO, INT1: checks (VM86, IOPL, DPL happen in delivery), then delivers. Returns STEP_STOP. */
enum step cpu_soft_event(struct cpu *c, enum event_kind kind, u8 vector, unsigned insn_len);
/* Push/pop with the stack's own width (mask) and segment; size 2, 4, 8. rsp changes only on success. */
bool cpu_push(struct cpu *c, u64 v, unsigned size);
bool cpu_pop(struct cpu *c, u64 *v, unsigned size);
/* Near branch target check: canonical in 64-bit mode, CS limit otherwise. STEP_FAULT (#GP(0)) or STEP_END. */
enum step cpu_check_target(struct cpu *c, u64 rip);
/* IN/OUT permission (CPL/IOPL/TSS bitmap). False: #GP(0) or a TSS fault is in cpu->fault. */
bool cpu_io_allowed(struct cpu *c, u16 port, unsigned size);

/* ---- control and debug registers (cpu/ctrl.c) ---- */
/* The manual's checks, then the change with all TLB consequences. Values are real ones (masks and shadows already merged by the caller through virt->cr_merge). */
enum step cpu_set_cr0(struct cpu *c, u64 value);
enum step cpu_set_cr3(struct cpu *c, u64 value); /* bit 63 = no flush when PCIDE */
enum step cpu_set_cr4(struct cpu *c, u64 value);
enum step cpu_set_efer(struct cpu *c, u64 value);
enum step cpu_set_xcr0(struct cpu *c, u64 value);
/* VM entry and exit: load without the MOV-CR checks (vmx did its own), derive everything, switch TLB context, no flush. */
void cpu_load_control(struct cpu *c, u64 cr0, u64 cr3, u64 cr4, u64 efer);
enum step cpu_mov_from_dr(struct cpu *c, unsigned dr, u64 *value);
enum step cpu_mov_to_dr(struct cpu *c, unsigned dr, u64 value);
u64 cpu_cr4_supported(const struct cpu *c); /* bits that may be set, from CPUID */
enum step cpu_invpcid(struct cpu *c, u64 type, u64 desc_lo, u64 desc_hi);

/* ---- MSRs and CPUID (cpu/msr.c, cpu/cpuid.c) ---- */
bool cpu_rdmsr(struct cpu *c, u32 msr, u64 *value); /* false: #GP(0) for the caller to raise, or EVENT_VIRT already in cpu->fault */
bool cpu_wrmsr(struct cpu *c, u32 msr, u64 value);
/* As the CPUID instruction: dynamic bits (OSXSAVE, APIC, OSPKE), topology. r[0..3] = EAX EBX ECX EDX. */
void cpu_cpuid(struct cpu *c, u32 leaf, u32 subleaf, u32 r[4]);

/* Features that instructions depend on; one bit each, set from the model at creation. */
#define CPU_FEATURE_ROWS(R) \
	R(FPU) R(MMX) R(SSE) R(SSE2) R(SSE3) R(SSSE3) R(SSE41) R(SSE42) R(AVX) R(AVX2) R(FMA) R(F16C) R(BMI1) R(BMI2) R(ADX) R(MOVBE) R(POPCNT) R(LZCNT) \
	R(AES) R(PCLMUL) R(SHA) R(RDRAND) R(RDSEED) R(CX16) R(CLFLUSH) R(CLFLUSHOPT) R(CLWB) R(INVPCID) R(PCID) R(FSGSBASE) R(XSAVE) R(XSAVEOPT) R(XSAVEC) R(XGETBV1) R(XSAVES) \
	R(RDTSCP) R(RDPID) R(SMEP) R(SMAP) R(UMIP) R(PKU) R(MONITOR) R(X2APIC) R(TSC_DEADLINE) R(TSC_ADJUST) R(NX) R(PAGE1G) R(LM) R(VMX) R(SVM) R(SYSCALL) \
	R(ERMS) R(FSRM) R(ARCH_CAP) R(SPEC_CTRL) R(SERIALIZE) R(HYPERVISOR) R(MOVDIRI) R(PREFETCHW) R(LAHF64)
enum cpu_feature {
#define R(n) FEAT_##n,
	CPU_FEATURE_ROWS(R)
#undef R
	FEAT_COUNT
};
bool cpu_has(const struct cpu *c, enum cpu_feature f); /* shown in CPUID of this vCPU's model */

struct cpu_model;
/* text: "MODEL[,+feature][,-feature][,phys-bits=N]"; MODEL "fast" = default, "compat", ... nested: expose VMX (or, with an AMD model, SVM). Features that run
 * natively and that the host CPU lacks are dropped, unless asked for by name. NULL: the log says in one line what is wrong. The caller owns the result (cpu_model_free). */
struct cpu_model *cpu_model_make(const char *text, bool nested, unsigned ncpus, u64 tsc_khz);
void cpu_model_free(struct cpu_model *m);
void cpu_model_print_names(void *file);
unsigned cpu_maxphyaddr(const struct cpu *c);

/* x87/SSE/AVX state of XSAVE: implemented beside the vector unit (interp/xsave.c) but needed by XCR0 logic: sizes. */
u32 cpu_xsave_size(u64 xcr0, u64 xss, bool compacted);

#endif
