/* ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT: done by the host's instruction, flags taken from it by LAHF; SETO. */
#include "interp/select.h"

/* ---- arithmetic ---- */
/* name, mnemonic, carry-in, writes its destination */
#define ALU_ROWS(R) \
	R(add, "add", , 1) R(or, "or", , 1) R(adc, "adc", "btw $8, %w1\n\t", 1) R(sbb, "sbb", "btw $8, %w1\n\t", 1) \
	R(and, "and", , 1) R(sub, "sub", , 1) R(xor, "xor", , 1) R(cmp, "cmp", , 0) R(test, "test", , 0)

#define ALU_FN(name, ins, pre, T, sfx, con) \
static must_inline T alu_##name##_##T(T a, T b, u16 *cc) \
{ \
	u16 f = *cc; \
	asm(pre ins sfx " %2, %0\n\tlahf\n\tseto %%al" : "+" con(a), "+a"(f) : con(b) : "cc"); \
	*cc = f; \
	return a; \
}
#define R(name, ins, pre, wb) ALU_FN(name, ins, pre, u8, "b", "q") ALU_FN(name, ins, pre, u16, "w", "r") ALU_FN(name, ins, pre, u32, "l", "r") \
	ALU_FN(name, ins, pre, u64, "q", "r")
ALU_ROWS(R)
#undef R

/* One operand. INC and DEC leave CF, NOT leaves all flags. */
#define UN_ROWS(R) R(inc, "inc", "btw $8, %w1\n\t") R(dec, "dec", "btw $8, %w1\n\t") R(neg, "neg", )
#define UN_FN(name, ins, pre, T, sfx, con) \
static must_inline T un_##name##_##T(T a, u16 *cc) \
{ \
	u16 f = *cc; \
	asm(pre ins sfx " %0\n\tlahf\n\tseto %%al" : "+" con(a), "+a"(f) : : "cc"); \
	*cc = f; \
	return a; \
}
#define R(name, ins, pre) UN_FN(name, ins, pre, u8, "b", "q") UN_FN(name, ins, pre, u16, "w", "r") UN_FN(name, ins, pre, u32, "l", "r") \
	UN_FN(name, ins, pre, u64, "q", "r")
UN_ROWS(R)
#undef R
#define NOT_FN(T) static must_inline T un_not_##T(T a, u16 *cc) { return ~a; }
NOT_FN(u8) NOT_FN(u16) NOT_FN(u32) NOT_FN(u64)

/* ---- handlers ---- */
#define H_REG(name, wb, T) \
static enum step h_##name##_rr_##T(struct cpu *c, const struct insn *i) \
{ \
	u16 cc = c->arch.cc; \
	T v = alu_##name##_##T(rd_##T(c, i->dst), rd_##T(c, i->src), &cc); \
	if (wb) \
		wr_##T(c, i->dst, v); \
	c->arch.cc = cc; \
	return next(c, i); \
} \
static enum step h_##name##_ri_##T(struct cpu *c, const struct insn *i) \
{ \
	u16 cc = c->arch.cc; \
	T v = alu_##name##_##T(rd_##T(c, i->dst), (T)i->imm, &cc); \
	if (wb) \
		wr_##T(c, i->dst, v); \
	c->arch.cc = cc; \
	return next(c, i); \
}

#define H_RM(ea, name, wb, T) \
static enum step h_##name##_rm_##T##_##ea(struct cpu *c, const struct insn *i) \
{ \
	u64 la, b; \
	if (!la_##ea(c, i, sizeof(T), false, &la) || !ld(c, i, la, sizeof(T), &b)) \
		return STEP_FAULT; \
	u16 cc = c->arch.cc; \
	T v = alu_##name##_##T(rd_##T(c, i->dst), (T)b, &cc); \
	if (wb) \
		wr_##T(c, i->dst, v); \
	c->arch.cc = cc; \
	return next(c, i); \
}

/* form: mr (register source) or mi. CMP and TEST only read. */
#define H_MX(ea, name, wb, T, form, operand) \
static enum step h_##name##_##form##_##T##_##ea(struct cpu *c, const struct insn *i) \
{ \
	u64 la, a; \
	u16 cc = c->arch.cc; \
	if (!la_##ea(c, i, sizeof(T), wb, &la)) \
		return STEP_FAULT; \
	if (!wb) { \
		if (!ld(c, i, la, sizeof(T), &a)) \
			return STEP_FAULT; \
		alu_##name##_##T((T)a, operand, &cc); \
		c->arch.cc = cc; \
		return next(c, i); \
	} \
	void *p = host_w(c, la, sizeof(T)); \
	if (likely(p)) { \
		*(volatile any_##T *)p = alu_##name##_##T(*(volatile any_##T *)p, operand, &cc); \
	} else { \
		struct val old = interp_load_rmw(c, i, la, sizeof(T) | i->seg << 8); \
		if (!old.ok || !interp_store(c, i, la, sizeof(T) | i->seg << 8, alu_##name##_##T((T)old.v, operand, &cc))) \
			return STEP_FAULT; \
	} \
	c->arch.cc = cc; \
	return next(c, i); \
}

#define H_MEM(ea, name, wb, T) \
	H_RM(ea, name, wb, T) \
	H_MX(ea, name, wb, T, mr, rd_##T(c, i->src)) \
	H_MX(ea, name, wb, T, mi, (T)i->imm)
#define H_ALL(name, wb, T) H_REG(name, wb, T) H_MEM(bd, name, wb, T) H_MEM(x, name, wb, T) H_MEM(g, name, wb, T)
#define R(name, ins, pre, wb) H_ALL(name, wb, u8) H_ALL(name, wb, u16) H_ALL(name, wb, u32) H_ALL(name, wb, u64)
ALU_ROWS(R)
#undef R

#define H_UN_REG(name, T) \
static enum step h_##name##_r_##T(struct cpu *c, const struct insn *i) \
{ \
	u16 cc = c->arch.cc; \
	wr_##T(c, i->dst, un_##name##_##T(rd_##T(c, i->dst), &cc)); \
	c->arch.cc = cc; \
	return next(c, i); \
}
#define H_UN_MEM(ea, name, T) \
static enum step h_##name##_m_##T##_##ea(struct cpu *c, const struct insn *i) \
{ \
	u64 la; \
	u16 cc = c->arch.cc; \
	if (!la_##ea(c, i, sizeof(T), true, &la)) \
		return STEP_FAULT; \
	void *p = host_w(c, la, sizeof(T)); \
	if (likely(p)) { \
		*(volatile any_##T *)p = un_##name##_##T(*(volatile any_##T *)p, &cc); \
	} else { \
		struct val old = interp_load_rmw(c, i, la, sizeof(T) | i->seg << 8); \
		if (!old.ok || !interp_store(c, i, la, sizeof(T) | i->seg << 8, un_##name##_##T((T)old.v, &cc))) \
			return STEP_FAULT; \
	} \
	c->arch.cc = cc; \
	return next(c, i); \
}
#define H_UN(name, T) H_UN_REG(name, T) H_UN_MEM(bd, name, T) H_UN_MEM(x, name, T) H_UN_MEM(g, name, T)
#define R(name, ...) H_UN(name, u8) H_UN(name, u16) H_UN(name, u32) H_UN(name, u64)
UN_ROWS(R) R(not)
#undef R

/* Shorter still: XOR r,r and SUB r,r of a register with itself give constants. AF is undefined for XOR; the silicon clears it. */
#define H_ZERO(T) \
static enum step h_zero_##T(struct cpu *c, const struct insn *i) \
{ \
	wr_##T(c, i->dst, 0); \
	c->arch.cc = CC_ZF | CC_PF | 0x200; \
	return next(c, i); \
}
H_ZERO(u8) H_ZERO(u16) H_ZERO(u32) H_ZERO(u64)

/* ---- tables: [operation][form or kind][size] ---- */
#define SIZES(p) { p##_u8, p##_u16, p##_u32, p##_u64 }
#define SIZES_EA(p, ea) { p##_u8_##ea, p##_u16_##ea, p##_u32_##ea, p##_u64_##ea }
#define KINDS(p) { SIZES_EA(p, bd), SIZES_EA(p, x), SIZES_EA(p, g) }
struct alu_set {
	insn_fn *rr[4], *ri[4], *rm[3][4], *mr[3][4], *mi[3][4];
};
static const struct alu_set alu_sets[] = {
#define R(name, ins, pre, wb) { SIZES(h_##name##_rr), SIZES(h_##name##_ri), KINDS(h_##name##_rm), KINDS(h_##name##_mr), KINDS(h_##name##_mi) },
	ALU_ROWS(R)
#undef R
};
static const struct { insn_fn *r[4], *m[3][4]; } un_sets[] = {
#define R(name, ...) { SIZES(h_##name##_r), KINDS(h_##name##_m) },
	UN_ROWS(R) R(not)
#undef R
};
static insn_fn *const zero_fns[] = SIZES(h_zero);

insn_fn *sel_alu(const struct form *f, struct insn *o)
{
	const struct alu_set *s = &alu_sets[f->arg];
	bool same = !f->m0 && !f->m1 && !f->i1 && o->dst == o->src;
	if (o->flags & INSN_LOCK)
		return sel_lock_alu(f, o);
	if (same && (f->arg == ALU_XOR || f->arg == ALU_SUB))
		return zero_fns[f->sz];
	if (f->m0)
		return f->i1 ? s->mi[f->ea][f->sz] : s->mr[f->ea][f->sz];
	if (f->m1)
		return s->rm[f->ea][f->sz];
	return f->i1 ? s->ri[f->sz] : s->rr[f->sz];
}

insn_fn *sel_unary(const struct form *f, struct insn *o)
{
	if (o->flags & INSN_LOCK)
		return sel_lock_unary(f, o);
	return f->m0 ? un_sets[f->arg].m[f->ea][f->sz] : un_sets[f->arg].r[f->sz];
}
