/* Hardware task switches (SDM "Task Management", "Task Switching"). Surprise: once the new task's registers are loaded there is no way back: a bad
 * selector in its TSS faults as if by the new task's first instruction. */
#include "cpu/desc.h"

enum task_source { TASK_CALL, TASK_IRET, TASK_JMP, TASK_GATE };

/* Where a TSS keeps things; 16- and 32-bit ones have the same order. */
struct tss_layout {
	u8 size;       /* of a register */
	u8 min_limit;
	u8 ip, flags, gpr, seg, nseg, ldt;
};
static const struct tss_layout tss_layouts[2] = {
	{ 2, 0x2b, 0x0e, 0x10, 0x12, 0x22, 4, 0x2a },
	{ 4, 0x67, 0x20, 0x24, 0x28, 0x48, 6, 0x60 },
};
#define TSS32_CR3 0x1c
#define TSS32_TRAP 0x64

static const u8 tss_seg_order[6] = { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };
/* The TSS has the general registers in encoding order: EAX ECX EDX EBX ESP EBP ESI EDI, as gpr[]. */

struct tss_image {
	u64 ip, flags, cr3, gpr[8];
	u16 seg[6], ldt;
	bool trap;
};

static bool tss_get(struct cpu *c, const struct seg *tss, unsigned off, unsigned size, u64 *v)
{
	return mmu_read_sys(c, (u32)(tss->base + off), size, v);
}
static bool tss_put(struct cpu *c, const struct seg *tss, unsigned off, unsigned size, u64 v)
{
	return mmu_write_sys(c, (u32)(tss->base + off), size, v);
}

static bool tss_wide(u32 attr) { return attr & 8; }

/* Type, presence and limit of the TSS to switch to; SDM "Exception Conditions Checked During a Task Switch". */
static bool new_tss(struct cpu *c, u16 sel, enum task_source source, u32 ext, struct desc *d)
{
	unsigned vector = source == TASK_IRET ? VEC_TS : VEC_GP;
	if (sel & 4)
		return fail(c, vector, sel_error(sel, ext));
	if (!desc_read(c, sel, vector, ext, d))
		return false;
	unsigned type = desc_type(d), want = source == TASK_IRET ? SYS_TSS16_BUSY : SYS_TSS16;
	if (desc_is_segment(d) || (type & 7) != want)
		return fail(c, vector, sel_error(sel, ext));
	if (!desc_present(d))
		return fail(c, VEC_NP, sel_error(sel, ext));
	if (desc_limit(d) < tss_layouts[tss_wide(type)].min_limit)
		return fail(c, VEC_TS, sel_error(sel, ext));
	return true;
}

static bool save_old(struct cpu *c, enum task_source source, unsigned insn_len)
{
	const struct seg *tss = &c->arch.tr;
	const struct tss_layout *l = &tss_layouts[tss_wide(tss->attr)];
	u64 flags = cpu_rflags(c);
	if (source == TASK_IRET)
		flags &= ~(u64)FLAG_NT;
	if (c->delivering.kind == EVENT_FAULT)
		flags |= FLAG_RF;
	if (!tss_put(c, tss, l->ip, l->size, c->arch.rip + insn_len) || !tss_put(c, tss, l->flags, l->size, flags))
		return false;
	for (unsigned i = 0; i < 8; i++)
		if (!tss_put(c, tss, l->gpr + i * l->size, l->size, c->arch.gpr[i]))
			return false;
	for (unsigned i = 0; i < l->nseg; i++)
		if (!tss_put(c, tss, l->seg + i * l->size, 2, c->arch.seg[tss_seg_order[i]].sel))
			return false;
	return true;
}

static bool load_image(struct cpu *c, const struct seg *tss, struct tss_image *t)
{
	bool wide = tss_wide(tss->attr);
	const struct tss_layout *l = &tss_layouts[wide];
	u64 v;
	*t = (struct tss_image){ 0 };
	if (!tss_get(c, tss, l->ip, l->size, &t->ip) || !tss_get(c, tss, l->flags, l->size, &t->flags))
		return false;
	for (unsigned i = 0; i < 8; i++)
		if (!tss_get(c, tss, l->gpr + i * l->size, l->size, &t->gpr[i]))
			return false;
	for (unsigned i = 0; i < l->nseg; i++) {
		if (!tss_get(c, tss, l->seg + i * l->size, 2, &v))
			return false;
		t->seg[i] = (u16)v;
	}
	if (!tss_get(c, tss, l->ldt, 2, &v))
		return false;
	t->ldt = (u16)v;
	if (!wide)
		return true;
	if (!tss_get(c, tss, TSS32_CR3, 4, &t->cr3) || !tss_get(c, tss, TSS32_TRAP, 2, &v))
		return false;
	t->trap = v & 1;
	return true;
}

static bool mark_old_available(struct cpu *c)
{
	struct desc d;
	return desc_read(c, c->arch.tr.sel, VEC_TS, 0, &d) && desc_set_type_bits(c, &d, 0, SYS_BUSY);
}

/* The registers that cannot fail; selectors are in place but their segments still unusable. */
static void commit_registers(struct cpu *c, const struct seg *tss, const struct tss_image *t, bool nested)
{
	bool wide = tss_wide(tss->attr);
	c->arch.tr = *tss;
	c->arch.cr0 |= CR0_TS;
	c->arch.dr[7] &= ~(u64)0x155; /* the local breakpoint enables */
	for (unsigned i = 0; i < 8; i++)
		c->arch.gpr[i] = wide ? t->gpr[i] : (c->arch.gpr[i] & 0xffff0000) | t->gpr[i];
	for (unsigned i = 0; i < 6; i++)
		c->arch.seg[tss_seg_order[i]] = seg_null(t->seg[i]);
	c->arch.ldtr = seg_null(t->ldt);
	c->arch.rip = t->ip;
	c->arch.cpl = t->flags & FLAG_VM ? 3 : t->seg[1] & 3;
	c->step = 0;
	cpu_set_rflags(c, t->flags | (nested ? FLAG_NT : 0));
}

/* A task switch loads CR3 without the checks of MOV to CR3 other than the PDPTEs'. */
static bool commit_cr3(struct cpu *c, u64 cr3)
{
	bool virt = false;
	if (!c->paging)
		return true;
	if ((c->arch.cr4 & CR4_PAE) && !mmu_load_pdptes(c, cr3, &virt))
		return virt ? false : fail(c, VEC_GP, 0);
	c->arch.cr3 = cr3;
	mmu_switch(c);
	mmu_flush_current(c, false);
	return true;
}

static bool load_ldt(struct cpu *c, u16 sel)
{
	struct desc d;
	if (sel_is_null(sel))
		return true;
	if (sel & 4)
		return fail(c, VEC_TS, sel_error(sel, 0));
	if (!desc_read(c, sel, VEC_TS, 0, &d))
		return false;
	if (desc_is_segment(&d) || desc_type(&d) != SYS_LDT || !desc_present(&d))
		return fail(c, VEC_TS, sel_error(sel, 0));
	c->arch.ldtr = desc_to_seg(&d, sel);
	return true;
}

static bool load_cs(struct cpu *c, u16 sel)
{
	struct desc d;
	if (sel_is_null(sel))
		return fail(c, VEC_TS, 0);
	if (!desc_read(c, sel, VEC_TS, 0, &d))
		return false;
	unsigned rpl = sel & 3;
	if (!desc_is_code(&d) || (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
		return fail(c, VEC_TS, sel_error(sel, 0));
	if (!desc_present(&d))
		return fail(c, VEC_NP, sel_error(sel, 0));
	if (!desc_mark_accessed(c, &d))
		return false;
	c->arch.seg[SEG_CS] = desc_to_seg(&d, sel);
	return true;
}

static bool load_segments(struct cpu *c, const struct tss_image *t)
{
	static const u8 data[] = { SEG_DS, SEG_ES, SEG_FS, SEG_GS };
	if (!load_ldt(c, t->ldt))
		return false;
	if (cpu_vm86(c)) {
		for (unsigned i = 0; i < 6; i++)
			c->arch.seg[tss_seg_order[i]] = seg_real(c, tss_seg_order[i], t->seg[i]);
		return true;
	}
	if (!load_cs(c, t->seg[1]) || !seg_check_ss(c, t->seg[2], c->arch.cpl, VEC_TS, 0, &c->arch.seg[SEG_SS]))
		return false;
	for (unsigned i = 0; i < array_len(data); i++) {
		struct seg s;
		if (!seg_check_data(c, data[i], c->arch.seg[data[i]].sel, VEC_TS, &s))
			return false;
		c->arch.seg[data[i]] = s;
	}
	return true;
}

static bool push_error(struct cpu *c, const struct event *ev, bool wide)
{
	struct stack s;
	if (!ev || !ev->has_error)
		return true;
	stack_current(c, &s, 0);
	if (!stack_push(c, &s, ev->error, wide ? 4 : 2))
		return false;
	c->arch.gpr[GPR_RSP] = s.sp;
	return true;
}

/* Old TSS, busy bits and link: memory only. */
static bool switch_memory(struct cpu *c, enum task_source source, unsigned insn_len, struct desc *d, const struct seg *tss)
{
	if (!save_old(c, source, insn_len))
		return false;
	if ((source == TASK_JMP || source == TASK_IRET) && !mark_old_available(c))
		return false;
	if (source != TASK_IRET && !desc_set_type_bits(c, d, SYS_BUSY, 0))
		return false;
	if ((source == TASK_CALL || source == TASK_GATE) && !tss_put(c, tss, 0, 2, c->arch.tr.sel))
		return false;
	return true;
}

static enum step with_ext(struct cpu *c, u32 ext)
{
	if (c->fault.kind == EVENT_FAULT && c->fault.has_error && c->fault.vector != VEC_PF)
		c->fault.error |= ext;
	return STEP_FAULT;
}

/* In VMX non-root operation every task switch exits, after the checks of the TSS descriptor (SDM "Treatment of Task Switches"). */
static bool task_exit(struct cpu *c, u16 sel, unsigned source, unsigned insn_len)
{
	struct insn i = { .len = (u8)insn_len };
	if (!cpu_icept(c, ICEPT_TASK_SWITCH, &i, sel, source))
		return false;
	c->delivering.kind = EVENT_NONE;
	return true;
}

enum step cpu_task_switch(struct cpu *c, u16 sel, unsigned source, unsigned insn_len, const struct event *ev)
{
	u32 ext = ev && !event_is_soft(ev) ? 1 : 0;
	bool nested = source == TASK_CALL || source == TASK_GATE;
	struct tss_image t;
	struct desc d;
	if (!new_tss(c, sel, source, ext, &d))
		return STEP_FAULT;
	if (task_exit(c, sel, source, insn_len))
		return STEP_STOP;
	struct seg tss = desc_to_seg(&d, sel);
	tss.attr |= SYS_BUSY;
	if (!load_image(c, &tss, &t) || !switch_memory(c, source, insn_len, &d, &tss))
		return STEP_FAULT;
	commit_registers(c, &tss, &t, nested);
	bool ok = (!tss_wide(tss.attr) || commit_cr3(c, t.cr3)) && load_segments(c, &t);
	cpu_update_mode(c);
	if (!ok || !push_error(c, ev, tss_wide(tss.attr)) || !code_target_ok(c, &c->arch.seg[SEG_CS], t.ip, 0))
		return with_ext(c, ext);
	if (t.trap) {
		c->arch.pending_dbg |= DR6_BT;
		cpu_pend(c, PEND_STEP);
	}
	return STEP_STOP;
}

enum step task_gate(struct cpu *c, const struct desc *gate, u16 gate_sel, unsigned source, unsigned insn_len)
{
	if (desc_dpl(gate) < c->arch.cpl || desc_dpl(gate) < (gate_sel & 3u))
		return cpu_gp(c, sel_error(gate_sel, 0));
	if (!desc_present(gate))
		return cpu_fault_err(c, VEC_NP, sel_error(gate_sel, 0));
	return cpu_task_switch(c, (u16)(gate->lo >> 16), source, insn_len, NULL);
}
