/* Descriptors and stacks as segment loads, far transfers, task switches and event delivery see them. Private to cpu/.
 * All functions returning bool fill cpu->fault when they return false. `ext` is 1 while an event external to the program is being
 * delivered (the EXT bit of error codes), else 0. */
#ifndef NB_CPU_DESC_H
#define NB_CPU_DESC_H

#include "cpu/core.h"
#include "cpu/mmu.h"

/* Descriptor types of system segments and gates (SDM "System-Segment and Gate-Descriptor Types"). */
enum sys_type {
	SYS_TSS16 = 1, SYS_LDT = 2, SYS_TSS16_BUSY = 3, SYS_CALL16 = 4, SYS_TASK_GATE = 5, SYS_INT16 = 6, SYS_TRAP16 = 7,
	SYS_TSS32 = 9, SYS_TSS32_BUSY = 11, SYS_CALL32 = 12, SYS_INT32 = 14, SYS_TRAP32 = 15, SYS_BUSY = 2 /* the bit that tells them apart */
};

struct desc {
	u32 lo, hi;
	u64 la; /* linear address of the descriptor */
};

static inline u32 desc_attr(const struct desc *d) { return (d->hi >> 8) & 0xf0ff; }
static inline unsigned desc_type(const struct desc *d) { return (d->hi >> 8) & 0xf; }
static inline bool desc_is_segment(const struct desc *d) { return d->hi & BIT(12); }
static inline unsigned desc_dpl(const struct desc *d) { return (d->hi >> 13) & 3; }
static inline bool desc_present(const struct desc *d) { return d->hi & BIT(15); }
static inline bool desc_is_code(const struct desc *d) { return (d->hi & (BIT(12) | BIT(11))) == (BIT(12) | BIT(11)); }
static inline bool desc_is_conforming(const struct desc *d) { return d->hi & BIT(10); }
static inline bool desc_is_writable_data(const struct desc *d) { return (d->hi & (BIT(12) | BIT(11) | BIT(9))) == (BIT(12) | BIT(9)); }
static inline bool desc_is_readable(const struct desc *d) { return desc_is_segment(d) && (d->hi & (BIT(11) | BIT(9))) != BIT(11); }
static inline u64 desc_base(const struct desc *d) { return (d->lo >> 16) | (d->hi & 0xff) << 16 | (d->hi & 0xff000000); }
static inline u32 desc_limit(const struct desc *d)
{
	u32 limit = (d->lo & 0xffff) | (d->hi & 0xf0000);
	return d->hi & BIT(23) ? limit << 12 | 0xfff : limit;
}
static inline struct seg desc_to_seg(const struct desc *d, u16 sel)
{
	return (struct seg){ .base = desc_base(d), .limit = desc_limit(d), .attr = desc_attr(d), .sel = sel };
}

/* Error code that names a selector. */
static inline u32 sel_error(u16 sel, u32 ext) { return (sel & 0xfffcu) | ext; }
static inline bool sel_is_null(u16 sel) { return !(sel & 0xfffcu); }

static inline bool fail(struct cpu *c, unsigned vector, u32 error)
{
	cpu_fault_err(c, vector, error);
	return false;
}

static inline bool cpu_real_mode(const struct cpu *c) { return !(c->arch.cr0 & CR0_PE); }
static inline bool cpu_vm86(const struct cpu *c) { return c->arch.rflags & FLAG_VM; }
static inline bool cpu_protected(const struct cpu *c) { return (c->mode & MODE_PE) != 0; }
static inline bool cpu_long64(const struct cpu *c) { return (c->mode & MODE_L) != 0; }
/* Linear addresses have 32 bits outside IA-32e mode. */
static inline u64 cpu_wrap_la(const struct cpu *c, u64 la) { return c->lma ? la : (u32)la; }

/* Reads the descriptor that `sel` names; beyond its table: `vector`(sel). */
bool desc_read(struct cpu *c, u16 sel, unsigned vector, u32 ext, struct desc *d);
/* As desc_read, but beyond the table is *found = false and no fault. */
bool desc_find(struct cpu *c, u16 sel, struct desc *d, bool *found);
/* Upper half of a 16-byte system descriptor in IA-32e mode; `sel` for the limit check and the error code. Gives base bits 63:32; type field must be 0. */
bool desc_read_upper(struct cpu *c, u16 sel, unsigned vector, u32 ext, const struct desc *d, u32 *upper);
/* Sets bits of the type byte in memory: accessed, busy. */
bool desc_set_type_bits(struct cpu *c, struct desc *d, u8 set, u8 clear);
bool desc_mark_accessed(struct cpu *c, struct desc *d);

/* Is [ea, ea+size) within the segment's limit? Honours expand-down; not type or presence. */
bool seg_limit_ok(const struct seg *s, u64 ea, unsigned size);

/* Stack segment load checks of MOV SS and friends: privilege `cpl`; `vector` and its error for a bad descriptor (#GP or #TS), #SS when not present.
 * Null is refused. On success *out is the segment (accessed bit written). */
bool seg_check_ss(struct cpu *c, u16 sel, unsigned cpl, unsigned vector, u32 ext, struct seg *out);
/* Data segment checks; null gives an unusable segment. */
bool seg_check_data(struct cpu *c, unsigned which, u16 sel, unsigned vector, struct seg *out);
struct seg seg_null(u16 sel);
/* Real mode and VM86: base = sel * 16. */
struct seg seg_real(const struct cpu *c, unsigned which, u16 sel);

/* A stack being pushed to or popped from; nothing of the CPU changes until its owner stores ss and sp. */
struct stack {
	struct seg ss;
	u64 sp;
	u64 mask;
	bool flat;    /* 64-bit: no base, no limit, canonical check */
	bool sys;     /* pushes are implicit supervisor accesses: a stack switch to a lower CPL */
	u32 error;    /* of #SS */
};
void stack_current(const struct cpu *c, struct stack *s, u32 ext);
bool stack_push(struct cpu *c, struct stack *s, u64 v, unsigned size);
bool stack_pop(struct cpu *c, struct stack *s, u64 *v, unsigned size);
/* Is there room for n bytes? (SDM: far CALL and event delivery check this before the branch target.) */
bool stack_room(struct cpu *c, const struct stack *s, unsigned n);
/* Sets sp under the stack's width. */
void stack_move(struct stack *s, u64 sp);
/* RSP of the CPU after using stack s whose SS is (or will be) current: only SP changes when the stack is 16 bits wide. */
u64 stack_merge_rsp(const struct cpu *c, u64 sp, u64 mask);
static inline u64 stack_seg_mask(const struct seg *ss) { return ss->attr & SEG_DB ? 0xffffffff : 0xffff; }

/* Code segment descriptor checks shared by far transfers: L and D both set in IA-32e mode. */
static inline bool desc_bad_ld(const struct cpu *c, const struct desc *d) { return c->lma && (d->hi & (BIT(21) | BIT(22))) == (BIT(21) | BIT(22)); }
/* Offset against a code segment about to be loaded. */
bool code_target_ok(struct cpu *c, const struct seg *cs, u64 off, u32 ext);
/* Loads CS:RIP, CPL. */
void code_enter(struct cpu *c, struct seg cs, unsigned cpl, u64 rip);
/* Inner stack pointer from the TSS for privilege level `cpl`: in IA-32e mode RSPn (or ISTn when ist != 0) and a null SS; else SSn:ESPn, checked. */
bool tss_stack(struct cpu *c, unsigned cpl, unsigned ist, u32 ext, struct stack *s);
/* Segments that a return to an outer level may not keep (SDM RET, IRET): made null. */
void null_inner_segments(struct cpu *c);

/* Task gate by selector, from CALL or JMP. */
enum step task_gate(struct cpu *c, const struct desc *gate, u16 gate_sel, unsigned source, unsigned insn_len);

/* After V and icount are in step: keeps V from running ahead of the host's clock (pace.c). */
void pace_vcpu(struct cpu *c);

/* Address-space tag of the running context: 0 outside guest mode. */
u16 cpu_vpid(const struct cpu *c);

/* Delivers one event without the nested-exception rules. STEP_END: done; STEP_FAULT: cpu->fault; STEP_STOP: it became a VM exit (task gate). */
enum step event_deliver_once(struct cpu *c, const struct event *ev, bool injected);
/* VM entry's arch.inject: no interception, DR6 and CR2 stay as they are. */
void event_deliver_injected(struct cpu *c, struct event ev);
static inline bool event_is_soft(const struct event *ev) { return ev->kind == EVENT_SOFT_INT || ev->kind == EVENT_SOFT_EXC; }

/* #DB with its DR6 bits (TRAP or FAULT). */
#define DBG_ENABLED BIT(12) /* in pending_dbg: one of B0-B3 is enabled in DR7 */
#define DR6_BD BIT(13)
#define DR6_BS BIT(14)
#define DR6_BT BIT(15)
/* Is an enabled instruction breakpoint at the next instruction? Gives its DR6 bits. */
u64 debug_code_match(const struct cpu *c);

#endif
