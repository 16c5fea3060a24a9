/* Far RET and IRET (SDM RET, IRET; "Returning from a Called Procedure"; "IRET in IA-32e Mode"). */
#include "cpu/desc.h"

static u64 offset_mask(unsigned opsize) { return low_mask(opsize * 8); }

/* The base stays, unlike with a MOV of a null selector: in 64-bit mode FS and GS keep working with what WRMSR put there. */
void null_inner_segments(struct cpu *c)
{
	static const u8 which[] = { SEG_ES, SEG_FS, SEG_GS, SEG_DS };
	for (unsigned i = 0; i < array_len(which); i++) {
		struct seg *s = &c->arch.seg[which[i]];
		bool conforming = (s->attr & (SEG_TYPE_CODE | SEG_TYPE_EC)) == (SEG_TYPE_CODE | SEG_TYPE_EC);
		if (!(s->attr & SEG_UNUSABLE) && !conforming && SEG_DPL(s->attr) < c->arch.cpl) {
			s->sel = 0;
			s->attr = SEG_UNUSABLE;
		}
	}
}

/* Code segment that a far return names: RPL must not be more privileged than CPL. */
static bool return_code(struct cpu *c, u16 sel, struct seg *cs)
{
	struct desc d;
	unsigned rpl = sel & 3;
	if (sel_is_null(sel))
		return fail(c, VEC_GP, 0);
	if (!desc_read(c, sel, VEC_GP, 0, &d))
		return false;
	if (!desc_is_code(&d) || rpl < c->arch.cpl || (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl) || desc_bad_ld(c, &d))
		return fail(c, VEC_GP, sel_error(sel, 0));
	if (!desc_present(&d))
		return fail(c, VEC_NP, sel_error(sel, 0));
	if (!desc_mark_accessed(c, &d))
		return false;
	*cs = desc_to_seg(&d, sel);
	return true;
}

/* Stack segment of a return to level `rpl`. Null is allowed when returning to 64-bit code below CPL 3. */
static bool return_stack(struct cpu *c, u16 sel, const struct seg *cs, unsigned rpl, struct seg *ss)
{
	if (sel_is_null(sel) && c->lma && (cs->attr & SEG_L) && rpl != 3 && (sel & 3) == rpl) {
		*ss = seg_null(sel);
		ss->attr |= rpl << SEG_DPL_SHIFT;
		return true;
	}
	return seg_check_ss(c, sel, rpl, VEC_GP, 0, ss);
}

/* Everything is checked: switch to the outer (or in 64-bit mode equal) stack and code. `extra` more bytes are released on the new stack. */
static void return_switch(struct cpu *c, struct seg cs, struct seg ss, unsigned rpl, u64 rip, u64 rsp, u64 extra)
{
	u64 mask = c->lma && (cs.attr & SEG_L) ? ~(u64)0 : stack_seg_mask(&ss);
	bool outer = rpl > c->arch.cpl;
	c->arch.seg[SEG_SS] = ss;
	c->arch.gpr[GPR_RSP] = stack_merge_rsp(c, rsp + extra, mask);
	c->arch.cpl = (u8)rpl;
	if (outer)
		null_inner_segments(c);
	code_enter(c, cs, rpl, rip);
}

static enum step far_ret_real(struct cpu *c, struct stack *s, u64 ip, u16 sel, u16 pop_bytes)
{
	struct seg cs = seg_real(c, SEG_CS, sel);
	if (!code_target_ok(c, &cs, ip, 0))
		return STEP_FAULT;
	stack_move(s, s->sp + pop_bytes);
	c->arch.gpr[GPR_RSP] = s->sp;
	code_enter(c, cs, c->arch.cpl, ip);
	return STEP_STOP;
}

enum step cpu_far_ret(struct cpu *c, unsigned opsize, u16 pop_bytes)
{
	struct stack s;
	struct seg cs, ss;
	u64 ip, sel, sp, ss_sel;
	stack_current(c, &s, 0);
	if (!stack_pop(c, &s, &ip, opsize) || !stack_pop(c, &s, &sel, opsize))
		return STEP_FAULT;
	if (!cpu_protected(c))
		return far_ret_real(c, &s, ip, (u16)sel, pop_bytes);
	if (!return_code(c, (u16)sel, &cs))
		return STEP_FAULT;
	unsigned rpl = sel & 3;
	stack_move(&s, s.sp + pop_bytes);
	if (rpl == c->arch.cpl) {
		if (!code_target_ok(c, &cs, ip, 0))
			return STEP_FAULT;
		c->arch.gpr[GPR_RSP] = s.sp;
		code_enter(c, cs, rpl, ip);
		return STEP_STOP;
	}
	if (!stack_pop(c, &s, &sp, opsize) || !stack_pop(c, &s, &ss_sel, opsize) || !return_stack(c, (u16)ss_sel, &cs, rpl, &ss) ||
	    !code_target_ok(c, &cs, ip, 0))
		return STEP_FAULT;
	return_switch(c, cs, ss, rpl, ip, sp, pop_bytes);
	return STEP_STOP;
}

/* RFLAGS bits that IRET at the current privilege level loads from its image. */
static u64 iret_mask(const struct cpu *c, unsigned opsize)
{
	u64 mask = FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;
	if (opsize > 2)
		mask |= FLAG_RF | FLAG_AC | FLAG_ID;
	if (c->arch.cpl <= bits(c->arch.rflags, 13, 12))
		mask |= FLAG_IF;
	if (c->arch.cpl == 0)
		mask |= FLAG_IOPL | (opsize > 2 ? FLAG_VIF | FLAG_VIP : 0);
	return mask;
}

/* RF in the image is for the next instruction. Without breakpoints nobody can tell, and every return from a page fault would cost a single
 * step: then it is not loaded. */
static void iret_flags(struct cpu *c, u64 image, u64 mask)
{
	c->step &= (u8)~STEP_RF;
	if (!(c->arch.dr[7] & 0xff))
		image &= ~(u64)FLAG_RF;
	cpu_set_rflags(c, (cpu_rflags(c) & ~mask) | (image & mask));
}

static enum step iret_real(struct cpu *c, unsigned opsize)
{
	struct stack s;
	u64 ip, sel, flags, mask = iret_mask(c, opsize);
	stack_current(c, &s, 0);
	if (!stack_pop(c, &s, &ip, opsize) || !stack_pop(c, &s, &sel, opsize) || !stack_pop(c, &s, &flags, opsize))
		return STEP_FAULT;
	struct seg cs = seg_real(c, SEG_CS, (u16)sel);
	if (!code_target_ok(c, &cs, ip, 0))
		return STEP_FAULT;
	if (cpu_vm86(c)) /* IOPL is 3 here: IF may change, IOPL, VIF and VIP not */
		mask &= ~(FLAG_IOPL | FLAG_VIF | FLAG_VIP);
	else
		mask &= ~(FLAG_VIF | FLAG_VIP);
	c->arch.gpr[GPR_RSP] = s.sp;
	code_enter(c, cs, c->arch.cpl, ip);
	iret_flags(c, flags, mask);
	return STEP_STOP;
}

/* To virtual-8086 mode: nine doublewords. */
static enum step iret_to_vm86(struct cpu *c, struct stack *s, u64 ip, u16 cs_sel, u64 flags)
{
	static const u8 order[] = { SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	u64 sp, sel[5];
	if (!stack_pop(c, s, &sp, 4))
		return STEP_FAULT;
	for (unsigned i = 0; i < array_len(order); i++)
		if (!stack_pop(c, s, &sel[i], 4))
			return STEP_FAULT;
	if (ip > 0xffff)
		return cpu_gp(c, 0);
	c->step &= (u8)~STEP_RF;
	c->arch.cpl = 3;
	c->arch.rflags |= FLAG_VM;
	for (unsigned i = 0; i < array_len(order); i++)
		c->arch.seg[order[i]] = seg_real(c, order[i], (u16)sel[i]);
	c->arch.seg[SEG_CS] = seg_real(c, SEG_CS, cs_sel);
	c->arch.gpr[GPR_RSP] = (u32)sp;
	c->arch.rip = ip;
	cpu_set_rflags(c, flags);
	cpu_update_mode(c);
	return STEP_STOP;
}

static enum step iret_protected(struct cpu *c, unsigned opsize)
{
	struct stack s;
	struct seg cs, ss;
	u64 ip, sel, flags, sp, ss_sel, mask = iret_mask(c, opsize);
	stack_current(c, &s, 0);
	if (!stack_pop(c, &s, &ip, opsize) || !stack_pop(c, &s, &sel, opsize) || !stack_pop(c, &s, &flags, opsize))
		return STEP_FAULT;
	if (!c->lma && opsize == 4 && (flags & FLAG_VM) && c->arch.cpl == 0)
		return iret_to_vm86(c, &s, ip, (u16)sel, flags);
	if (!return_code(c, (u16)sel, &cs))
		return STEP_FAULT;
	unsigned rpl = sel & 3;
	bool with_stack = rpl > c->arch.cpl || cpu_long64(c);
	if (with_stack && (!stack_pop(c, &s, &sp, opsize) || !stack_pop(c, &s, &ss_sel, opsize) || !return_stack(c, (u16)ss_sel, &cs, rpl, &ss)))
		return STEP_FAULT;
	if (!code_target_ok(c, &cs, ip & offset_mask(opsize), 0))
		return STEP_FAULT;
	if (with_stack) {
		return_switch(c, cs, ss, rpl, ip, sp, 0);
	} else {
		c->arch.gpr[GPR_RSP] = s.sp;
		code_enter(c, cs, rpl, ip);
	}
	iret_flags(c, flags, mask);
	return STEP_STOP;
}

/* SDM "IRET": NMIs are unblocked even if the instruction then faults. */
static void iret_unblocks_nmi(struct cpu *c)
{
	if (c->arch.guest_mode)
		c->virt->nmi_unblock(c);
	else
		c->arch.shadow &= ~(u32)SHADOW_NMI;
	if (c->arch.nmi_pending)
		cpu_pend(c, PEND_TIMER); /* look again */
	cpu_unblocked(c);
}

enum step cpu_iret(struct cpu *c, unsigned opsize, const struct insn *i)
{
	if (cpu_icept(c, ICEPT_IRET, i, 0, 0))
		return STEP_STOP;
	iret_unblocks_nmi(c);
	if (cpu_real_mode(c))
		return iret_real(c, opsize);
	if (cpu_vm86(c))
		return bits(c->arch.rflags, 13, 12) == 3 ? iret_real(c, opsize) : cpu_gp(c, 0);
	if (c->arch.rflags & FLAG_NT) {
		u64 link;
		if (c->lma)
			return cpu_gp(c, 0);
		if (!mmu_read_sys(c, (u32)c->arch.tr.base, 2, &link))
			return STEP_FAULT;
		return cpu_task_switch(c, (u16)link, 1, i ? i->len : 1, NULL);
	}
	return iret_protected(c, opsize);
}

/* ---- for engines: the usual case ---- */

/* A descriptor of the GDT with these attributes; what the TLB has to be filled for, is not usual. */
static bool find_desc(const struct cpu *c, u16 sel, u32 mask, u32 attr, struct seg *s)
{
	u64 la = c->arch.gdtr.base + (sel & 0xfff8u);
	if ((sel & 4) || (sel | 7u) > c->arch.gdtr.limit || (la & 7))
		return false;
	const struct tlb_entry *e = mmu_hit(c, la, TLB_R(c->arch.cr4 & CR4_SMAP ? 0 : 1));
	if (unlikely(!e))
		return false;
	u64 raw = host_load((const void *)(la + e->addend), 8);
	struct desc d = { .lo = (u32)raw, .hi = (u32)(raw >> 32) };
	*s = desc_to_seg(&d, sel);
	return (s->attr & mask) == attr;
}

#define ATTR_ALWAYS (SEG_S | SEG_P | SEG_TYPE_CODE | SEG_TYPE_ACCESSED | 3u << SEG_DPL_SHIFT)
static bool find_segments(const struct cpu *c, u16 cs, u16 ss, unsigned rpl, struct iret_way *w)
{
	u32 attr = SEG_S | SEG_P | SEG_TYPE_ACCESSED | rpl << SEG_DPL_SHIFT;
	return find_desc(c, cs, ATTR_ALWAYS | SEG_TYPE_EC | SEG_L | SEG_DB, attr | SEG_TYPE_CODE | SEG_L, &w->cs) && (ss & 3) == rpl && !sel_is_null(ss) &&
	       find_desc(c, ss, ATTR_ALWAYS | SEG_TYPE_RW, attr | SEG_TYPE_RW, &w->ss);
}

/* Nothing that IRET would have to tell anybody. */
static bool iret_is_quiet(const struct cpu *c)
{
	return cpu_long64(c) && !c->arch.cpl && !c->arch.guest_mode && !(c->arch.rflags & FLAG_NT) && !c->arch.nmi_pending && !c->deferred && !c->step &&
	       !(c->arch.dr[7] & 0xff) && c->acc_class < 2;
}

bool cpu_iret_find(const struct cpu *c, struct iret_way *w)
{
	u64 at = c->arch.gpr[GPR_RSP], f[5];
	const struct tlb_entry *e = mmu_hit(c, at, TLB_R(c->acc_class));
	if (unlikely(!iret_is_quiet(c) || !e || (at & 0xfff) > PAGE_SIZE - sizeof f))
		return false;
	for (unsigned n = 0; n < array_len(f); n++)
		f[n] = host_load((const void *)(at + e->addend + 8 * n), 8);
	w->rip = f[0];
	w->flags = f[2];
	w->rsp = f[3];
	w->rpl = f[1] & 3;
	if (unlikely((w->rpl && w->rpl != 3) || (w->flags & (FLAG_TF | FLAG_VM)) || (w->rpl && (w->flags & FLAG_AC)) || !cpu_canonical(w->rip)))
		return false;
	return find_segments(c, (u16)f[1], (u16)f[4], w->rpl, w);
}

void cpu_iret_take(struct cpu *c, const struct iret_way *w)
{
	u64 flags = w->flags & iret_mask(c, 8) & ~(u64)FLAG_RF; /* see iret_flags() */
	c->arch.shadow &= ~(u32)SHADOW_NMI;
	c->arch.seg[SEG_SS] = w->ss;
	c->arch.seg[SEG_CS] = w->cs;
	c->arch.gpr[GPR_RSP] = w->rsp;
	c->arch.rip = w->rip;
	c->arch.cpl = w->rpl;
	if (w->rpl)
		null_inner_segments(c);
	c->arch.cc = cpu_flags_to_cc(flags);
	c->arch.rflags = (flags & ~(u64)FLAG_ARITH) | FLAG_FIXED1;
}
