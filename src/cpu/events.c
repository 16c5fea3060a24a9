/* Event delivery through the IDT in every mode, and what happens when delivery itself faults (SDM "Interrupt and Exception Handling"; "Interrupt 8,
 * Double Fault Exception"). Not here: which event comes first (service.c). Surprise: an event may end up in a VM exit at three places: before
 * delivery (intercepted), through a nested page fault of the delivery (EVENT_VIRT), and at a task gate. */
#include "cpu/desc.h"
#include "base/log.h"

#include <stdio.h>

enum step cpu_fault(struct cpu *c, unsigned vector)
{
	c->fault = (struct event){ .kind = EVENT_FAULT, .vector = (u8)vector };
	return STEP_FAULT;
}

enum step cpu_fault_err(struct cpu *c, unsigned vector, u32 error)
{
	c->fault = (struct event){ .kind = EVENT_FAULT, .vector = (u8)vector, .has_error = 1, .error = error };
	return STEP_FAULT;
}

/* What an exception changes before its delivery starts: CR2, DR6, DR7.GD, DEBUGCTL. */
static void event_side_effects(struct cpu *c, const struct event *ev)
{
	if (ev->kind != EVENT_FAULT && ev->kind != EVENT_TRAP && ev->kind != EVENT_ICEBP)
		return;
	if (ev->vector == VEC_PF) {
		c->arch.cr2 = ev->payload;
	} else if (ev->vector == VEC_DB) {
		if (ev->kind != EVENT_ICEBP || ev->payload)
			c->arch.dr[6] = (c->arch.dr[6] & ~(u64)0xf) | (ev->payload & (0xf | DR6_BD | DR6_BS | DR6_BT));
		c->arch.dr[7] &= ~(u64)BIT(13);
		c->arch.debugctl &= ~(u64)3; /* LBR, BTF */
	}
}

/* RFLAGS image to push. SDM "Instruction-Breakpoint Exception Condition": faults set RF, except an instruction breakpoint. */
static u64 pushed_flags(const struct cpu *c, const struct event *ev, bool injected)
{
	u64 flags = cpu_rflags(c);
	/* SDM "Details of Vectored-Event Injection": RF is pushed as VM entry loaded it */
	if (injected || ev->kind != EVENT_FAULT)
		return flags;
	if (ev->vector == VEC_DB && !(ev->payload & DR6_BD))
		return flags;
	return flags | FLAG_RF;
}

static u64 pushed_rip(const struct cpu *c, const struct event *ev)
{
	return c->arch.rip + (event_is_soft(ev) || ev->kind == EVENT_ICEBP ? ev->insn_len : 0);
}

static enum step deliver_real(struct cpu *c, const struct event *ev, u64 flags, u64 rip)
{
	struct stack s;
	u64 entry;
	unsigned at = ev->vector * 4u;
	if (at + 3 > c->arch.idtr.limit)
		return cpu_gp(c, ev->vector * 8u + 2);
	if (!mmu_read_sys(c, (u32)(c->arch.idtr.base + at), 4, &entry))
		return STEP_FAULT;
	struct seg cs = seg_real(c, SEG_CS, (u16)(entry >> 16));
	stack_current(c, &s, 0);
	if (!code_target_ok(c, &cs, entry & 0xffff, 0) || !stack_push(c, &s, flags, 2) || !stack_push(c, &s, c->arch.seg[SEG_CS].sel, 2) ||
	    !stack_push(c, &s, rip, 2))
		return STEP_FAULT;
	c->arch.gpr[GPR_RSP] = s.sp;
	code_enter(c, cs, 0, entry & 0xffff);
	cpu_set_rflags(c, cpu_rflags(c) & ~(u64)(FLAG_IF | FLAG_TF | FLAG_RF | FLAG_AC));
	return STEP_END;
}

struct gate {
	u16 sel;
	u64 off;
	unsigned size;    /* bytes per pushed item */
	unsigned ist;
	bool clears_if, task;
};

/* Reads and checks the IDT entry. `c->lma` gates are 16 bytes. */
static bool gate_read(struct cpu *c, const struct event *ev, u32 ext, struct gate *g)
{
	unsigned len = c->lma ? 16 : 8, at = ev->vector * len;
	u32 error = ev->vector * 8u + 2 + ext;
	u64 raw, upper = 0;
	if (at + len - 1 > c->arch.idtr.limit)
		return fail(c, VEC_GP, error);
	u64 la = cpu_wrap_la(c, c->arch.idtr.base + at);
	if (!mmu_read_sys(c, la, 8, &raw) || (c->lma && !mmu_read_sys(c, la + 8, 8, &upper)))
		return false;
	struct desc d = { .lo = (u32)raw, .hi = (u32)(raw >> 32) };
	unsigned type = desc_type(&d);
	bool wide = type == SYS_INT32 || type == SYS_TRAP32, narrow = type == SYS_INT16 || type == SYS_TRAP16;
	g->task = type == SYS_TASK_GATE;
	if (desc_is_segment(&d) || !(wide || (!c->lma && (narrow || g->task))))
		return fail(c, VEC_GP, error);
	if (event_is_soft(ev) && desc_dpl(&d) < c->arch.cpl)
		return fail(c, VEC_GP, error);
	if (!desc_present(&d))
		return fail(c, VEC_NP, error);
	g->sel = (u16)(d.lo >> 16);
	g->size = c->lma ? 8 : wide ? 4 : 2;
	g->off = (d.lo & 0xffff) | (wide ? d.hi & 0xffff0000u : 0) | (upper & 0xffffffff) << 32;
	g->ist = c->lma ? d.hi & 7 : 0;
	g->clears_if = type == SYS_INT16 || type == SYS_INT32;
	return true;
}

/* The handler's code segment and its privilege level. */
static bool gate_code(struct cpu *c, const struct gate *g, u32 ext, struct seg *cs, unsigned *cpl)
{
	struct desc d;
	if (sel_is_null(g->sel))
		return fail(c, VEC_GP, ext);
	if (!desc_read(c, g->sel, VEC_GP, ext, &d))
		return false;
	if (!desc_is_code(&d) || desc_dpl(&d) > c->arch.cpl || (c->lma && (d.hi & (BIT(21) | BIT(22))) != BIT(21)))
		return fail(c, VEC_GP, sel_error(g->sel, ext));
	if (!desc_present(&d))
		return fail(c, VEC_NP, sel_error(g->sel, ext));
	*cpl = desc_is_conforming(&d) ? c->arch.cpl : desc_dpl(&d);
	/* SDM "Class 1—Hardware Interrupt and Exception Handling in Virtual-8086 Mode": the handler must run at CPL 0 */
	if (cpu_vm86(c) && *cpl != 0)
		return fail(c, VEC_GP, sel_error(g->sel, ext));
	if (!desc_mark_accessed(c, &d))
		return false;
	*cs = desc_to_seg(&d, g->sel);
	return true;
}

static bool push_frame(struct cpu *c, struct stack *s, const struct event *ev, const struct gate *g, bool with_stack, u64 flags, u64 rip)
{
	static const u8 vm86_order[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };
	unsigned n = g->size;
	if (cpu_vm86(c))
		for (unsigned i = 0; i < array_len(vm86_order); i++)
			if (!stack_push(c, s, c->arch.seg[vm86_order[i]].sel, n))
				return false;
	if (with_stack && (!stack_push(c, s, c->arch.seg[SEG_SS].sel, n) || !stack_push(c, s, c->arch.gpr[GPR_RSP], n)))
		return false;
	return stack_push(c, s, flags, n) && stack_push(c, s, c->arch.seg[SEG_CS].sel, n) && stack_push(c, s, rip, n) &&
	       (!ev->has_error || stack_push(c, s, ev->error, n));
}

/* The stack that the frame goes to; *with_stack: SS:RSP is part of the frame. */
static bool frame_stack(struct cpu *c, const struct gate *g, unsigned cpl, u32 ext, struct stack *s, bool *with_stack)
{
	bool inner = cpl < c->arch.cpl;
	*with_stack = inner || c->lma;
	if (inner || g->ist) {
		if (!tss_stack(c, cpl, g->ist, ext, s))
			return false;
		if (!inner) /* an IST without a change of privilege keeps SS */
			s->ss = c->arch.seg[SEG_SS];
	} else {
		stack_current(c, s, ext);
		if (c->lma)
			s->flat = true, s->mask = ~(u64)0;
	}
	if (c->lma)
		s->sp &= ~(u64)15;
	return true;
}

static void enter_handler(struct cpu *c, const struct gate *g, struct seg cs, unsigned cpl, const struct stack *s)
{
	bool vm86 = cpu_vm86(c);
	u64 flags = cpu_rflags(c) & ~(u64)(FLAG_TF | FLAG_VM | FLAG_RF | FLAG_NT);
	if (g->clears_if)
		flags &= ~(u64)FLAG_IF;
	if (vm86)
		for (unsigned i = 0; i < SEG_COUNT; i++)
			if (i != SEG_CS && i != SEG_SS)
				c->arch.seg[i] = seg_null(0);
	c->arch.rflags &= ~(u64)FLAG_VM;
	c->arch.seg[SEG_SS] = s->ss;
	c->arch.gpr[GPR_RSP] = s->sp;
	cs.sel = (u16)((cs.sel & ~3u) | cpl);
	code_enter(c, cs, cpl, g->off);
	cpu_set_rflags(c, flags);
}

static enum step deliver_protected(struct cpu *c, const struct event *ev, u64 flags, u64 rip)
{
	u32 ext = event_is_soft(ev) ? 0 : 1;
	struct gate g;
	struct seg cs;
	struct stack s;
	unsigned cpl;
	bool with_stack;
	if (!gate_read(c, ev, ext, &g))
		return STEP_FAULT;
	if (g.task) {
		enum step r = cpu_task_switch(c, g.sel, 3, event_is_soft(ev) || ev->kind == EVENT_ICEBP ? ev->insn_len : 0, ev);
		/* STEP_STOP is success, unless the switch was a VM exit: cpu_task_switch says so by taking `delivering` away */
		return r == STEP_FAULT ? r : c->delivering.kind == EVENT_NONE ? STEP_STOP : STEP_END;
	}
	if (!gate_code(c, &g, ext, &cs, &cpl) || !frame_stack(c, &g, cpl, ext, &s, &with_stack))
		return STEP_FAULT;
	unsigned items = 3u + (with_stack ? 2 : 0) + (cpu_vm86(c) ? 4 : 0) + ev->has_error;
	if (!stack_room(c, &s, items * g.size) || !code_target_ok(c, &cs, g.off, ext) || !push_frame(c, &s, ev, &g, with_stack, flags, rip))
		return STEP_FAULT;
	enter_handler(c, &g, cs, cpl, &s);
	return STEP_END;
}

enum step event_deliver_once(struct cpu *c, const struct event *ev, bool injected)
{
	u64 flags = pushed_flags(c, ev, injected), rip = pushed_rip(c, ev);
	return cpu_real_mode(c) ? deliver_real(c, ev, flags, rip) : deliver_protected(c, ev, flags, rip);
}

/* ---- nested exceptions ---- */

enum event_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE };

static enum event_class classify(const struct event *ev)
{
	if (ev->kind != EVENT_FAULT)
		return CLASS_BENIGN;
	switch (ev->vector) {
	case VEC_DE: case VEC_TS: case VEC_NP: case VEC_SS: case VEC_GP: case VEC_CP: return CLASS_CONTRIBUTORY;
	case VEC_PF: case VEC_VE: return CLASS_PAGE_FAULT;
	case VEC_DF: return CLASS_DOUBLE;
	default: return CLASS_BENIGN;
	}
}

enum nested { NESTED_SERIAL, NESTED_DOUBLE, NESTED_TRIPLE };

/* SDM "Conditions for Generating a Double Fault" */
static enum nested combine(const struct event *first, const struct event *second)
{
	static const u8 table[4][4] = {
		/*                      benign         contributory   page fault     double */
		[CLASS_BENIGN]       = { NESTED_SERIAL, NESTED_SERIAL, NESTED_SERIAL, NESTED_SERIAL },
		[CLASS_CONTRIBUTORY] = { NESTED_SERIAL, NESTED_DOUBLE, NESTED_SERIAL, NESTED_SERIAL },
		[CLASS_PAGE_FAULT]   = { NESTED_SERIAL, NESTED_DOUBLE, NESTED_DOUBLE, NESTED_SERIAL },
		[CLASS_DOUBLE]       = { NESTED_SERIAL, NESTED_TRIPLE, NESTED_TRIPLE, NESTED_TRIPLE },
	};
	return table[classify(first)][classify(second)];
}

static const char *const exception_names[32] = { "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "vector 9", "#TS", "#NP", "#SS",
	"#GP", "#PF", "vector 15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP", [29] = "#VC", [30] = "#SX" };

static int event_text(char *to, size_t size, const struct event *ev)
{
	const char *name = ev->vector < 32 ? exception_names[ev->vector] : NULL;
	if (ev->kind == EVENT_EXT_INT || ev->kind == EVENT_SOFT_INT || !name)
		return snprintf(to, size, "%s %02Xh", ev->kind == EVENT_EXT_INT ? "interrupt" : "INT", ev->vector);
	if (ev->vector == VEC_PF && ev->kind == EVENT_FAULT)
		return snprintf(to, size, "#PF(%x) at %llx", ev->error, (unsigned long long)ev->payload);
	return ev->has_error ? snprintf(to, size, "%s(%x)", name, ev->error) : snprintf(to, size, "%s", name);
}

static const char *mode_name(const struct cpu *c)
{
	if (cpu_real_mode(c))
		return "real mode";
	if (cpu_vm86(c))
		return "virtual-8086 mode";
	if (cpu_long64(c))
		return "64-bit mode";
	return c->lma ? "compatibility mode" : c->mode & MODE_D ? "32-bit protected mode" : "16-bit protected mode";
}

/* `first` could not be delivered because of `second`; appended to the sentence that a triple fault leaves behind. */
static void note_nested(char *chain, size_t size, const struct event *first, const struct event *second)
{
	size_t n = strlen(chain);
	if (n + 1 >= size)
		return;
	n += (size_t)snprintf(chain + n, size - n, "%s", n ? ", then " : "");
	if (n < size)
		n += (size_t)event_text(chain + n, size - n, first);
	if (n < size)
		n += (size_t)snprintf(chain + n, size - n, " whose delivery raised ");
	if (n < size)
		event_text(chain + n, size - n, second);
}

static void triple_fault(struct cpu *c, const char *chain)
{
	if (c->arch.guest_mode) {
		c->virt->triple_fault(c);
		return;
	}
	snprintf(c->death, sizeof c->death, "triple fault on vCPU %u at %04x:%llx (%s, CPL %u): %s", c->index, c->arch.seg[SEG_CS].sel,
		 (unsigned long long)c->arch.rip, mode_name(c), c->arch.cpl, chain);
	if (trace_on(TRACE_EVENT))
		trace_line(TRACE_EVENT, "%s", c->death);
	cpu_halt(c, ACT_SHUTDOWN);
}

/* Guest mode: does the hypervisor want it instead? */
static bool intercepted(struct cpu *c, const struct event *ev, const struct event *during)
{
	if (!c->arch.guest_mode || ev->kind == EVENT_EXT_INT || ev->kind == EVENT_NMI)
		return false;
	return c->virt->event(c, ev, during);
}

static void take_virt_exit(struct cpu *c, const struct event *during)
{
	c->virt->take_exit(c, during);
	c->fault.kind = EVENT_NONE;
}

static void delivered(struct cpu *c, const struct event *ev)
{
	c->delivering.kind = EVENT_NONE;
	c->arch.shadow &= ~(u32)(SHADOW_STI | SHADOW_MOVSS);
	c->arch.activity = ACT_ACTIVE;
	c->icount++; /* takes time: a loop of handlers that fault at their first instruction must not stop the clock */
	if (c->mtf == MTF_ARMED && c->arch.guest_mode) {
		c->mtf = MTF_DUE;
		cpu_pend(c, PEND_VIRT);
	}
	if (ev->kind == EVENT_EXT_INT)
		c->stats.interrupts++;
	else if (ev->kind == EVENT_FAULT || ev->kind == EVENT_TRAP)
		c->stats.exceptions[ev->vector & 31]++;
}

static void trace_event(struct cpu *c, const struct event *ev)
{
	char text[64];
	event_text(text, sizeof text, ev);
	trace_line(TRACE_EVENT, "cpu%u%s %s at %04x:%llx cpl %u rsp %llx insn %llu", c->index, c->arch.guest_mode ? " guest" : "", text,
		   c->arch.seg[SEG_CS].sel, (unsigned long long)c->arch.rip, c->arch.cpl, (unsigned long long)c->arch.gpr[GPR_RSP],
		   (unsigned long long)c->icount);
}

/* A #DB (INT1 too, but not INT 1) takes along what a MOV SS has held back: one delivery, not two. */
static void merge_pending_dbg(struct cpu *c, struct event *ev)
{
	if (ev->vector != VEC_DB || event_is_soft(ev) || ev->kind == EVENT_EXT_INT)
		return;
	if (c->arch.pending_dbg & DBG_ENABLED)
		ev->payload |= c->arch.pending_dbg & 0xf;
	c->arch.pending_dbg = 0;
}

/* `second` came up while *ev was delivered: true when that was the end of it, else *ev is what to deliver next. */
static bool nested_fault(struct cpu *c, struct event *ev, const struct event *second, char *chain, size_t size)
{
	static const struct event none;
	if (trace_on(TRACE_EVENT))
		trace_event(c, second);
	if (intercepted(c, second, ev))
		return true;
	note_nested(chain, size, ev, second);
	switch (combine(ev, second)) {
	case NESTED_SERIAL:
		*ev = *second;
		return false;
	case NESTED_DOUBLE:
		event_side_effects(c, second); /* CR2 is that of the second fault */
		*ev = (struct event){ .kind = EVENT_FAULT, .vector = VEC_DF, .has_error = 1 };
		return intercepted(c, ev, &none);
	case NESTED_TRIPLE:
		triple_fault(c, chain);
		break;
	}
	return true;
}

/* Benign exceptions never make a double fault, so an #AC on the handler's stack can repeat for ever: silicon hangs then, deaf to everything. More
 * serial deliveries than any that end are taken for that. */
#define MAX_NESTED 32

static void deliver(struct cpu *c, struct event ev, bool injected)
{
	static const struct event none;
	char chain[160] = "";
	if (trace_on(TRACE_EVENT))
		trace_event(c, &ev);
	c->step = 0;
	if (!injected)
		merge_pending_dbg(c, &ev);
	if (!injected && intercepted(c, &ev, &none))
		return;
	for (unsigned round = 0; round < MAX_NESTED; round++, injected = false) {
		if (!injected)
			event_side_effects(c, &ev);
		if (ev.kind == EVENT_NMI)
			c->arch.shadow |= SHADOW_NMI;
		c->delivering = ev;
		enum step r = event_deliver_once(c, &ev, injected);
		if (r == STEP_END)
			return delivered(c, &ev);
		c->delivering.kind = EVENT_NONE;
		if (r == STEP_STOP)
			return;
		struct event second = c->fault;
		if (second.kind == EVENT_VIRT)
			return take_virt_exit(c, &ev);
		c->fault.kind = EVENT_NONE;
		if (nested_fault(c, &ev, &second, chain, sizeof chain))
			return;
	}
	triple_fault(c, "deliveries that raise benign exceptions without end");
}

void cpu_deliver(struct cpu *c, struct event ev)
{
	deliver(c, ev, false);
}

void event_deliver_injected(struct cpu *c, struct event ev)
{
	deliver(c, ev, true);
}

void cpu_take_fault(struct cpu *c)
{
	static const struct event none;
	struct event ev = c->fault;
	if (!(c->arch.shadow & SHADOW_MOVSS)) /* data breakpoints of the instruction that did not complete; those of a MOV SS stay pending */
		c->arch.pending_dbg = 0;
	c->step = 0;
	if (ev.kind == EVENT_VIRT)
		return take_virt_exit(c, &none);
	c->fault.kind = EVENT_NONE;
	deliver(c, ev, false);
}

enum step cpu_soft_event(struct cpu *c, enum event_kind kind, u8 vector, unsigned insn_len)
{
	/* SDM INT n: VM86 below IOPL 3 */
	if (kind == EVENT_SOFT_INT && cpu_vm86(c) && bits(c->arch.rflags, 13, 12) != 3)
		return cpu_gp(c, 0);
	deliver(c, (struct event){ .kind = (u8)kind, .vector = vector, .insn_len = (u8)insn_len }, false);
	return STEP_STOP;
}
