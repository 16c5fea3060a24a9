/* PUSH POP PUSHA POPA PUSHF POPF ENTER LEAVE. 64-bit mode has short handlers; everything else goes through cpu_push and cpu_pop. */
#include "interp/select.h"
#include "base/log.h"

/* ---- 64-bit mode, 8 bytes, flat stack ---- */
static must_inline bool push64(struct cpu *c, const struct insn *i, u64 v)
{
	u64 la = c->arch.gpr[GPR_RSP] - 8;
	if (!st_seg(c, i, la, 8, SEG_SS, v))
		return false;
	c->arch.gpr[GPR_RSP] = la;
	return true;
}
static enum step h_push64_r(struct cpu *c, const struct insn *i) { return push64(c, i, c->arch.gpr[i->dst]) ? next(c, i) : STEP_FAULT; }
static enum step h_push64_i(struct cpu *c, const struct insn *i) { return push64(c, i, i->imm) ? next(c, i) : STEP_FAULT; }
static enum step h_push64_m(struct cpu *c, const struct insn *i)
{
	u64 la, v;
	if (!la_x(c, i, 8, false, &la) || !ld(c, i, la, 8, &v) || !push64(c, i, v))
		return STEP_FAULT;
	return next(c, i);
}
static enum step h_pop64_r(struct cpu *c, const struct insn *i)
{
	u64 v, la = c->arch.gpr[GPR_RSP];
	if (!ld_seg(c, i, la, 8, SEG_SS, &v))
		return STEP_FAULT;
	c->arch.gpr[GPR_RSP] = la + 8;
	c->arch.gpr[i->dst] = v;
	return next(c, i);
}
static enum step h_leave64(struct cpu *c, const struct insn *i)
{
	u64 v, la = c->arch.gpr[GPR_RBP];
	if (!ld_seg(c, i, la, 8, SEG_SS, &v))
		return STEP_FAULT;
	c->arch.gpr[GPR_RSP] = la + 8;
	c->arch.gpr[GPR_RBP] = v;
	return next(c, i);
}

/* ---- any mode ---- */
/* A selector pushed with a 32-bit operand writes only 16 bits (SDM "PUSH"); the rest of the slot keeps its contents. */
static enum step push_seg(struct cpu *c, const struct insn *i)
{
	u16 sel = c->arch.seg[i->dst].sel;
	u64 rsp = rd_u64(c, GPR_RSP), sp = (rsp - i->opsize) & c->stack_mask;
	if (i->opsize != 4)
		return cpu_push(c, sel, i->opsize) ? STEP_END : STEP_FAULT;
	if (!seg_write(c, i, SEG_SS, sp, 2, sel))
		return STEP_FAULT;
	wr_u64(c, GPR_RSP, (rsp & ~c->stack_mask) | sp);
	return STEP_END;
}

enum { PUSH_REG, PUSH_IMM, PUSH_MEM, PUSH_SEG };

static noinline enum step body_push(struct cpu *c, const struct insn *i)
{
	u64 v;
	set_rip(c, i);
	switch (i->aux8) {
	case PUSH_REG: v = rd_size(c, i->dst, i->opsize); break;
	case PUSH_IMM: v = i->imm & size_mask(i->opsize); break;
	case PUSH_MEM:
		if (!op_read(c, i, i->opsize, &v))
			return STEP_FAULT;
		break;
	default: return push_seg(c, i);
	}
	return cpu_push(c, v, i->opsize) ? STEP_END : STEP_FAULT;
}
static enum step h_push(struct cpu *c, const struct insn *i) { return after(c, i, body_push(c, i)); }

/* POP m: the address is computed after RSP has moved (SDM "POP"). */
static noinline enum step body_pop(struct cpu *c, const struct insn *i)
{
	u64 v, rsp = rd_u64(c, GPR_RSP);
	set_rip(c, i);
	if (!cpu_pop(c, &v, i->opsize))
		return STEP_FAULT;
	if (!i->aux8) {
		wr_size(c, i->dst, i->opsize, v);
		return STEP_END;
	}
	if (op_write(c, i, i->opsize, v))
		return STEP_END;
	wr_u64(c, GPR_RSP, rsp);
	return STEP_FAULT;
}
static enum step h_pop(struct cpu *c, const struct insn *i) { return after(c, i, body_pop(c, i)); }

static noinline enum step body_pop_seg(struct cpu *c, const struct insn *i)
{
	u64 v, rsp = rd_u64(c, GPR_RSP);
	set_rip(c, i);
	if (!cpu_pop(c, &v, i->opsize))
		return STEP_FAULT;
	/* The width that moved SP is the old SS's, also when SS itself is loaded. */
	enum step s = cpu_load_seg(c, i->dst, (u16)v);
	if (s == STEP_FAULT) {
		wr_u64(c, GPR_RSP, rsp);
		return s;
	}
	if (i->dst == SEG_SS)
		cpu_set_shadow(c, SHADOW_MOVSS);
	return stop_next(c, i);
}
static enum step h_pop_seg(struct cpu *c, const struct insn *i) { return after(c, i, body_pop_seg(c, i)); }

static noinline enum step body_pusha(struct cpu *c, const struct insn *i)
{
	u64 rsp = rd_u64(c, GPR_RSP);
	set_rip(c, i);
	for (unsigned r = GPR_RAX; r <= GPR_RDI; r++) {
		u64 v = r == GPR_RSP ? rsp : rd_u64(c, r);
		if (!cpu_push(c, v & size_mask(i->opsize), i->opsize)) {
			wr_u64(c, GPR_RSP, rsp);
			return STEP_FAULT;
		}
	}
	return STEP_END;
}
static enum step h_pusha(struct cpu *c, const struct insn *i) { return after(c, i, body_pusha(c, i)); }

static noinline enum step body_popa(struct cpu *c, const struct insn *i)
{
	u64 v[8], rsp = rd_u64(c, GPR_RSP);
	set_rip(c, i);
	for (int r = GPR_RDI; r >= GPR_RAX; r--)
		if (!cpu_pop(c, &v[r], i->opsize)) {
			wr_u64(c, GPR_RSP, rsp);
			return STEP_FAULT;
		}
	for (unsigned r = GPR_RAX; r <= GPR_RDI; r++)
		if (r != GPR_RSP)
			wr_size(c, r, i->opsize, v[r]);
	return STEP_END;
}
static enum step h_popa(struct cpu *c, const struct insn *i) { return after(c, i, body_popa(c, i)); }

/* ---- flags ---- */
/* Virtual-8086 mode below IOPL 3 (SDM "PUSHF", "POPF"). */
static bool vm86_denied(const struct cpu *c)
{
	return (c->arch.rflags & FLAG_VM) && (c->arch.rflags & FLAG_IOPL) != FLAG_IOPL;
}

static noinline enum step body_pushf(struct cpu *c, const struct insn *i)
{
	set_rip(c, i);
	if (cpu_icept(c, ICEPT_PUSHF, i, 0, 0))
		return STEP_STOP;
	if (vm86_denied(c)) {
		if (c->arch.cr4 & CR4_VME)
			todo("PUSHF with CR4.VME in virtual-8086 mode: answered with #GP");
		return cpu_gp(c, 0);
	}
	return cpu_push(c, cpu_rflags(c) & ~(FLAG_VM | FLAG_RF) & size_mask(i->opsize), i->opsize) ? STEP_END : STEP_FAULT;
}
static enum step h_pushf(struct cpu *c, const struct insn *i) { return after(c, i, body_pushf(c, i)); }

static noinline enum step body_popf(struct cpu *c, const struct insn *i)
{
	u64 v, old = c->arch.rflags;
	u64 may = FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID;
	set_rip(c, i);
	if (cpu_icept(c, ICEPT_POPF, i, 0, 0))
		return STEP_STOP;
	if (vm86_denied(c)) {
		if (c->arch.cr4 & CR4_VME)
			todo("POPF with CR4.VME in virtual-8086 mode: answered with #GP");
		return cpu_gp(c, 0);
	}
	if (c->arch.cpl == 0)
		may |= FLAG_IOPL;
	if (c->arch.cpl <= (old & FLAG_IOPL) >> 12)
		may |= FLAG_IF;
	if (i->opsize == 2)
		may &= 0xffff;
	if (!cpu_pop(c, &v, i->opsize))
		return STEP_FAULT;
	u64 changed = ((old ^ v) & may & ~FLAG_ARITH) | (old & FLAG_RF);
	c->arch.cc = cpu_flags_to_cc(v);
	if (!(changed & ~(FLAG_IF | FLAG_DF | FLAG_ID)) && !(old & FLAG_TF)) {
		c->arch.rflags = old ^ changed;
		if (!(changed & FLAG_IF & v))
			return STEP_END;
		cpu_unblocked(c);
		return stop_next(c, i);
	}
	cpu_set_rflags(c, (cpu_rflags(c) & ~(may | FLAG_RF)) | (v & may));
	return stop_next(c, i);
}
static enum step h_popf(struct cpu *c, const struct insn *i) { return after(c, i, body_popf(c, i)); }

/* ---- ENTER LEAVE ---- */
static noinline enum step body_enter(struct cpu *c, const struct insn *i)
{
	u64 rsp = rd_u64(c, GPR_RSP), rbp = rd_u64(c, GPR_RBP), mask = c->stack_mask, v, la;
	unsigned level = i->imm2 & 31, size = i->opsize;
	set_rip(c, i);
	if (!cpu_push(c, rbp & size_mask(size), size))
		return STEP_FAULT;
	u64 frame = rd_u64(c, GPR_RSP), from = rbp;
	for (unsigned k = 1; k < level; k++) {
		from = (from & ~mask) | ((from - size) & mask);
		if (!seg_read(c, i, SEG_SS, from & mask, size, &v) || !cpu_push(c, v, size))
			goto fault;
	}
	if (level && !cpu_push(c, frame & size_mask(size), size))
		goto fault;
	/* The manual probes the final stack pointer for a write. */
	u64 sp = rd_u64(c, GPR_RSP);
	sp = (sp & ~mask) | ((sp - (u16)i->imm) & mask);
	if (!seg_la(c, i, SEG_SS, sp & mask, size, true, &la) || !interp_aligned(c, la, size) || !mmu_probe_write(c, la, size))
		goto fault;
	wr_u64(c, GPR_RSP, sp);
	wr_size(c, GPR_RBP, size, frame); /* all of ESP with 32-bit operands, even on a 16-bit stack */
	return STEP_END;
fault:
	wr_u64(c, GPR_RSP, rsp);
	return STEP_FAULT;
}
static enum step h_enter(struct cpu *c, const struct insn *i) { return after(c, i, body_enter(c, i)); }

static noinline enum step body_leave(struct cpu *c, const struct insn *i)
{
	u64 v, rsp = rd_u64(c, GPR_RSP), rbp = rd_u64(c, GPR_RBP);
	set_rip(c, i);
	wr_u64(c, GPR_RSP, (rsp & ~c->stack_mask) | (rbp & c->stack_mask));
	if (!cpu_pop(c, &v, i->opsize)) {
		wr_u64(c, GPR_RSP, rsp);
		return STEP_FAULT;
	}
	wr_size(c, GPR_RBP, i->opsize, v);
	return STEP_END;
}
static enum step h_leave(struct cpu *c, const struct insn *i) { return after(c, i, body_leave(c, i)); }

/* ---- selectors ---- */
static bool is_seg(const struct form *f)
{
	return f->in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(f->in->op[0].reg.value) == ZYDIS_REGCLASS_SEGMENT;
}

insn_fn *sel_push(const struct form *f, struct insn *o)
{
	bool fast = (f->mode & MODE_L) && o->opsize == 8;
	if (is_seg(f))
		o->aux8 = PUSH_SEG;
	else if (f->m0)
		o->aux8 = PUSH_MEM;
	else
		o->aux8 = f->in->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? PUSH_IMM : PUSH_REG;
	if (!fast || o->aux8 == PUSH_SEG || (f->m0 && f->ea == EA_G))
		return h_push;
	return o->aux8 == PUSH_REG ? h_push64_r : o->aux8 == PUSH_IMM ? h_push64_i : h_push64_m;
}

insn_fn *sel_pop(const struct form *f, struct insn *o)
{
	if (is_seg(f)) {
		o->src2 = SEL_MOV_SPECIAL;
		return h_pop_seg;
	}
	o->aux8 = f->m0;
	return !f->m0 && (f->mode & MODE_L) && o->opsize == 8 ? h_pop64_r : h_pop;
}

insn_fn *sel_pusha(const struct form *f, struct insn *o) { return h_pusha; }
insn_fn *sel_popa(const struct form *f, struct insn *o) { return h_popa; }
insn_fn *sel_pushf(const struct form *f, struct insn *o) { return h_pushf; }
insn_fn *sel_popf(const struct form *f, struct insn *o) { return h_popf; }
insn_fn *sel_enter(const struct form *f, struct insn *o) { return h_enter; }
insn_fn *sel_leave(const struct form *f, struct insn *o) { return (f->mode & MODE_L) && o->opsize == 8 ? h_leave64 : h_leave; }
