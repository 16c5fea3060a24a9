/* Far JMP and CALL: direct, through call gates, task gates and TSS (SDM JMP, CALL; "Privilege Checking When Transferring Program Control").
 * Not here: far RET and IRET (ret.c), SYSCALL and SYSENTER (fastcall.c). */
#include "cpu/desc.h"

static u64 offset_mask(unsigned opsize) { return low_mask(opsize * 8); }

bool code_target_ok(struct cpu *c, const struct seg *cs, u64 off, u32 ext)
{
	bool ok = c->lma && (cs->attr & SEG_L) ? cpu_canonical(off) : off <= cs->limit;
	return ok || fail(c, VEC_GP, ext);
}

void code_enter(struct cpu *c, struct seg cs, unsigned cpl, u64 rip)
{
	if (!cpu_real_mode(c) && !cpu_vm86(c))
		cs.sel = (u16)((cs.sel & ~3u) | cpl);
	c->arch.seg[SEG_CS] = cs;
	c->arch.cpl = (u8)cpl;
	c->arch.rip = rip;
	cpu_update_mode(c);
}

enum step cpu_check_target(struct cpu *c, u64 rip)
{
	bool ok = cpu_long64(c) ? cpu_canonical(rip) : rip <= c->arch.seg[SEG_CS].limit;
	return ok ? STEP_END : cpu_gp(c, 0);
}

static enum step far_jmp_real(struct cpu *c, u16 sel, u64 off)
{
	struct seg cs = seg_real(c, SEG_CS, sel);
	if (!code_target_ok(c, &cs, off, 0))
		return STEP_FAULT;
	code_enter(c, cs, c->arch.cpl, off);
	return STEP_STOP;
}

/* Code descriptor of a direct far transfer or of a JMP through a gate; `rpl` 0 for gates (the gate's selector RPL is not checked). */
static bool code_same_level(struct cpu *c, u16 sel, const struct desc *d, unsigned rpl)
{
	unsigned cpl = c->arch.cpl, dpl = desc_dpl(d);
	if (desc_is_conforming(d) ? dpl > cpl : rpl > cpl || dpl != cpl)
		return fail(c, VEC_GP, sel_error(sel, 0));
	if (!desc_present(d))
		return fail(c, VEC_NP, sel_error(sel, 0));
	return !desc_bad_ld(c, d) || fail(c, VEC_GP, sel_error(sel, 0));
}

struct call_gate {
	u16 sel;
	u64 off;
	unsigned size;   /* bytes per pushed item */
	unsigned params;
	struct desc code;
};

/* Checks the gate itself and reads the code descriptor that it names. */
static bool gate_open(struct cpu *c, u16 gate_sel, const struct desc *gate, struct call_gate *g)
{
	unsigned dpl = desc_dpl(gate);
	u32 upper = 0;
	if (dpl < c->arch.cpl || dpl < (gate_sel & 3u))
		return fail(c, VEC_GP, sel_error(gate_sel, 0));
	if (c->lma && !desc_read_upper(c, gate_sel, VEC_GP, 0, gate, &upper))
		return false;
	if (!desc_present(gate))
		return fail(c, VEC_NP, sel_error(gate_sel, 0));
	g->sel = (u16)(gate->lo >> 16);
	g->off = gate->lo & 0xffff;
	g->size = c->lma ? 8 : desc_type(gate) == SYS_CALL32 ? 4 : 2;
	g->params = c->lma ? 0 : gate->hi & 0x1f;
	if (g->size > 2)
		g->off |= (gate->hi & 0xffff0000u) | (u64)upper << 32;
	if (sel_is_null(g->sel))
		return fail(c, VEC_GP, 0);
	if (!desc_read(c, g->sel, VEC_GP, 0, &g->code))
		return false;
	if (!desc_is_code(&g->code) || desc_dpl(&g->code) > c->arch.cpl)
		return fail(c, VEC_GP, sel_error(g->sel, 0));
	/* SDM "IA-32e Mode Call Gates": the target must be 64-bit code */
	if (c->lma && (g->code.hi & (BIT(21) | BIT(22))) != BIT(21))
		return fail(c, VEC_GP, sel_error(g->sel, 0));
	return desc_present(&g->code) || fail(c, VEC_NP, sel_error(g->sel, 0));
}

static enum step jmp_gate(struct cpu *c, u16 gate_sel, const struct desc *gate)
{
	struct call_gate g;
	if (!gate_open(c, gate_sel, gate, &g))
		return STEP_FAULT;
	struct seg cs = desc_to_seg(&g.code, g.sel);
	if (!code_same_level(c, g.sel, &g.code, 0) || !code_target_ok(c, &cs, g.off, 0) || !desc_mark_accessed(c, &g.code))
		return STEP_FAULT;
	cs.attr |= SEG_TYPE_ACCESSED;
	code_enter(c, cs, c->arch.cpl, g.off);
	return STEP_STOP;
}

/* What a far JMP or CALL finds when its selector is no code segment. */
enum far_system { FAR_CALL_GATE, FAR_TASK_GATE, FAR_TSS, FAR_BAD };
static enum far_system far_system_type(const struct cpu *c, const struct desc *d)
{
	unsigned t = desc_type(d);
	if (desc_is_segment(d))
		return FAR_BAD;
	if (t == SYS_CALL32 || (t == SYS_CALL16 && !c->lma))
		return FAR_CALL_GATE;
	if (c->lma)
		return FAR_BAD;
	if (t == SYS_TASK_GATE)
		return FAR_TASK_GATE;
	return t == SYS_TSS16 || t == SYS_TSS32 || t == SYS_TSS16_BUSY || t == SYS_TSS32_BUSY ? FAR_TSS : FAR_BAD;
}

static enum step far_tss(struct cpu *c, u16 sel, const struct desc *d, unsigned source, unsigned insn_len)
{
	if (desc_dpl(d) < c->arch.cpl || desc_dpl(d) < (sel & 3u))
		return cpu_gp(c, sel_error(sel, 0));
	return cpu_task_switch(c, sel, source, insn_len, NULL);
}

enum step cpu_far_jmp(struct cpu *c, u16 sel, u64 off, unsigned opsize, unsigned insn_len)
{
	struct desc d;
	off &= offset_mask(opsize);
	if (!cpu_protected(c))
		return far_jmp_real(c, sel, off);
	if (sel_is_null(sel))
		return cpu_gp(c, 0);
	if (!desc_read(c, sel, VEC_GP, 0, &d))
		return STEP_FAULT;
	if (desc_is_code(&d)) {
		struct seg cs = desc_to_seg(&d, sel);
		if (!code_same_level(c, sel, &d, sel & 3) || !code_target_ok(c, &cs, off, 0) || !desc_mark_accessed(c, &d))
			return STEP_FAULT;
		cs.attr |= SEG_TYPE_ACCESSED;
		code_enter(c, cs, c->arch.cpl, off);
		return STEP_STOP;
	}
	switch (far_system_type(c, &d)) {
	case FAR_CALL_GATE: return jmp_gate(c, sel, &d);
	case FAR_TASK_GATE: return task_gate(c, &d, sel, 2, insn_len);
	case FAR_TSS: return far_tss(c, sel, &d, 2, insn_len);
	case FAR_BAD: break;
	}
	return cpu_gp(c, sel_error(sel, 0));
}

/* Pushes CS and the return address, checks the target, and goes. */
static enum step call_push_and_enter(struct cpu *c, struct stack *s, struct seg cs, unsigned cpl, u64 off, unsigned size, u64 ret)
{
	if (!stack_room(c, s, 2 * size) || !code_target_ok(c, &cs, off, 0) ||
	    !stack_push(c, s, c->arch.seg[SEG_CS].sel, size) || !stack_push(c, s, ret, size))
		return STEP_FAULT;
	c->arch.gpr[GPR_RSP] = s->sp;
	code_enter(c, cs, cpl, off);
	return STEP_STOP;
}

/* A word, doubleword or quadword per parameter, from the caller's stack to the new one. */
static bool copy_params(struct cpu *c, struct stack *to, unsigned n, unsigned size)
{
	struct stack from;
	u64 v[31];
	stack_current(c, &from, 0);
	for (unsigned i = 0; i < n; i++)
		if (!stack_pop(c, &from, &v[i], size))
			return false;
	while (n--)
		if (!stack_push(c, to, v[n], size))
			return false;
	return true;
}

static enum step call_gate_inner(struct cpu *c, const struct call_gate *g, struct seg cs, u64 ret)
{
	struct stack s;
	unsigned cpl = desc_dpl(&g->code);
	if (!tss_stack(c, cpl, 0, 0, &s))
		return STEP_FAULT;
	if (!stack_room(c, &s, (4 + g->params) * g->size) || !code_target_ok(c, &cs, g->off, 0))
		return STEP_FAULT;
	if (!stack_push(c, &s, c->arch.seg[SEG_SS].sel, g->size) || !stack_push(c, &s, c->arch.gpr[GPR_RSP], g->size) ||
	    !copy_params(c, &s, g->params, g->size) || !stack_push(c, &s, c->arch.seg[SEG_CS].sel, g->size) ||
	    !stack_push(c, &s, ret, g->size))
		return STEP_FAULT;
	c->arch.seg[SEG_SS] = s.ss;
	c->arch.gpr[GPR_RSP] = s.sp;
	code_enter(c, cs, cpl, g->off);
	return STEP_STOP;
}

static enum step call_gate(struct cpu *c, u16 gate_sel, const struct desc *gate, u64 ret)
{
	struct call_gate g;
	struct stack s;
	if (!gate_open(c, gate_sel, gate, &g) || !desc_mark_accessed(c, &g.code))
		return STEP_FAULT;
	struct seg cs = desc_to_seg(&g.code, g.sel);
	if (!desc_is_conforming(&g.code) && desc_dpl(&g.code) < c->arch.cpl)
		return call_gate_inner(c, &g, cs, ret);
	stack_current(c, &s, 0);
	if (g.size == 8) /* from compatibility mode the return frame is 64-bit as well */
		s.flat = true, s.mask = ~(u64)0;
	return call_push_and_enter(c, &s, cs, c->arch.cpl, g.off, g.size, ret);
}

enum step cpu_far_call(struct cpu *c, u16 sel, u64 off, unsigned opsize, unsigned insn_len)
{
	struct desc d;
	struct stack s;
	u64 ret = c->arch.rip + insn_len;
	off &= offset_mask(opsize);
	stack_current(c, &s, 0);
	if (!cpu_protected(c))
		return call_push_and_enter(c, &s, seg_real(c, SEG_CS, sel), c->arch.cpl, off, opsize, ret);
	if (sel_is_null(sel))
		return cpu_gp(c, 0);
	if (!desc_read(c, sel, VEC_GP, 0, &d))
		return STEP_FAULT;
	if (desc_is_code(&d)) {
		if (!code_same_level(c, sel, &d, sel & 3) || !desc_mark_accessed(c, &d))
			return STEP_FAULT;
		return call_push_and_enter(c, &s, desc_to_seg(&d, sel), c->arch.cpl, off, opsize, ret);
	}
	switch (far_system_type(c, &d)) {
	case FAR_CALL_GATE: return call_gate(c, sel, &d, ret);
	case FAR_TASK_GATE: return task_gate(c, &d, sel, 0, insn_len);
	case FAR_TSS: return far_tss(c, sel, &d, 0, insn_len);
	case FAR_BAD: break;
	}
	return cpu_gp(c, sel_error(sel, 0));
}

/* SDM "Stack Switching", "Stack Switching in IA-32e Mode". */
static bool tss_stack64(struct cpu *c, unsigned cpl, unsigned ist, u32 ext, struct stack *s)
{
	u32 off = ist ? 0x24 + (ist - 1) * 8 : 4 + cpl * 8;
	u64 rsp;
	if (off + 7 > c->arch.tr.limit)
		return fail(c, VEC_TS, sel_error(c->arch.tr.sel, ext));
	if (!mmu_read_sys(c, c->arch.tr.base + off, 8, &rsp))
		return false;
	*s = (struct stack){ .ss = seg_null((u16)cpl), .sp = rsp, .mask = ~(u64)0, .flat = true, .error = ext };
	s->ss.attr |= cpl << SEG_DPL_SHIFT;
	s->sys = cpl < c->arch.cpl;
	return cpu_canonical(rsp) || fail(c, VEC_SS, ext);
}

bool tss_stack(struct cpu *c, unsigned cpl, unsigned ist, u32 ext, struct stack *s)
{
	const struct seg *tr = &c->arch.tr;
	bool wide = tr->attr & 8; /* 32-bit TSS */
	unsigned size = wide ? 4 : 2, off = wide ? 4 + cpl * 8 : 2 + cpl * 4;
	u64 sp, sel;
	if (c->lma)
		return tss_stack64(c, cpl, ist, ext, s);
	if (off + 2 * size - 1 - (wide ? 2 : 0) > tr->limit)
		return fail(c, VEC_TS, sel_error(tr->sel, ext));
	if (!mmu_read_sys(c, (u32)(tr->base + off), size, &sp) || !mmu_read_sys(c, (u32)(tr->base + off + size), 2, &sel))
		return false;
	*s = (struct stack){ .sp = sp, .sys = cpl < c->arch.cpl, .error = sel_error((u16)sel, ext) };
	if (!seg_check_ss(c, (u16)sel, cpl, VEC_TS, ext, &s->ss))
		return false;
	s->mask = stack_seg_mask(&s->ss);
	return true;
}
