/* MUL IMUL DIV IDIV MULX. Flags that the manual leaves undefined are the host's. Divisions that would trap are #DE before the host sees them. */
#include "interp/select.h"

#define FLAGS_IN "addb $127, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

/* ---- IMUL r, r/m[, imm] ---- */
#define IMUL_FN(T, sfx) \
static must_inline T imul_##T(T a, T b, u16 *cc) \
{ \
	u16 f = *cc; \
	asm(FLAGS_IN "imul" sfx " %2, %0" FLAGS_OUT : "+r"(a), "+a"(f) : "r"(b) : "cc"); \
	*cc = f; \
	return a; \
} \
static enum step h_imul_rr_##T(struct cpu *c, const struct insn *i) \
{ \
	u16 cc = c->arch.cc; \
	wr_##T(c, i->dst, imul_##T(rd_##T(c, i->dst), rd_##T(c, i->src), &cc)); \
	c->arch.cc = cc; \
	return next(c, i); \
} \
static enum step h_imul_rri_##T(struct cpu *c, const struct insn *i) \
{ \
	u16 cc = c->arch.cc; \
	wr_##T(c, i->dst, imul_##T(rd_##T(c, i->src), (T)i->imm, &cc)); \
	c->arch.cc = cc; \
	return next(c, i); \
} \
static enum step h_imul_rm_##T(struct cpu *c, const struct insn *i) \
{ \
	u64 la, b; \
	u16 cc = c->arch.cc; \
	if (!la_g(c, i, sizeof(T), false, &la) || !ld(c, i, la, sizeof(T), &b)) \
		return STEP_FAULT; \
	wr_##T(c, i->dst, imul_##T(i->aux8 ? (T)i->imm : rd_##T(c, i->dst), (T)b, &cc)); \
	c->arch.cc = cc; \
	return next(c, i); \
}
IMUL_FN(u16, "w") IMUL_FN(u32, "l") IMUL_FN(u64, "q")

/* ---- one-operand forms: value b against AX/DX:AX/EDX:EAX/RDX:RAX ---- */
/* hi:lo = lo * b. AX is needed for both the product and the flags. */
#define MUL_FN(fn, name, T, sfx, reg) \
static void fn##_##T(struct cpu *c, T b) \
{ \
	T lo = rd_##T(c, GPR_RAX), hi = 0; \
	u64 f = c->arch.cc; \
	asm("mov %[f], %%rax\n\t" FLAGS_IN "mov %[lo], " reg "\n\t" #name sfx " %[b]\n\tmov " reg ", %[lo]\n\tlahf\n\tseto %%al\n\tmovzwl %%ax, %k[f]" \
	    : [f] "+&r"(f), [lo] "+&r"(lo), "+&d"(hi) : [b] "r"(b) : "rax", "cc"); \
	c->arch.cc = (u16)f; \
	wr_##T(c, GPR_RAX, lo); \
	wr_##T(c, GPR_RDX, hi); \
}
MUL_FN(mul, mul, u16, "w", "%%ax") MUL_FN(mul, mul, u32, "l", "%%eax") MUL_FN(mul, mul, u64, "q", "%%rax")
MUL_FN(imul1, imul, u16, "w", "%%ax") MUL_FN(imul1, imul, u32, "l", "%%eax") MUL_FN(imul1, imul, u64, "q", "%%rax")

#define MUL8_FN(name) \
static void name##_u8(struct cpu *c, u8 b) \
{ \
	u16 lo = rd_u8(c, 0); \
	u64 f = c->arch.cc; \
	asm("mov %[f], %%rax\n\t" FLAGS_IN "movw %[lo], %%ax\n\t" #name "b %[b]\n\tmovw %%ax, %[lo]\n\tlahf\n\tseto %%al\n\tmovzwl %%ax, %k[f]" \
	    : [f] "+&r"(f), [lo] "+&r"(lo) : [b] "q"(b) : "rax", "cc"); \
	c->arch.cc = (u16)f; \
	wr_u16(c, GPR_RAX, lo); \
}
MUL8_FN(mul) MUL8_FN(imul)

/* SDM "DIV", "IDIV": #DE when the divisor is 0 or the quotient does not fit. The magnitude test works for every size. */
static bool quotient_fits(u64 hi, u64 lo, u64 b, unsigned size, bool is_signed)
{
	u64 mask = size_mask(size), top = mask ^ mask >> 1;
	bool neg_a = is_signed && (hi & top), neg_b = is_signed && (b & top);
	if (neg_a) {
		lo = -lo & mask;
		hi = (~hi + (lo == 0)) & mask;
	}
	if (neg_b)
		b = -b & mask;
	if (b == 0 || hi >= b)
		return false;
	if (!is_signed)
		return true;
	/* |quotient| must be at most 2^(n-1), or 2^(n-1) - 1 when positive. */
	u64 q;
	if (size == 8) {
		u64 rem;
		asm("divq %4" : "=a"(q), "=d"(rem) : "0"(lo), "1"(hi), "r"(b) : "cc");
	} else {
		q = (hi << (8 * size) | lo) / b;
	}
	return neg_a == neg_b ? q < top : q <= top;
}

#define DIV_FN(name, T, sfx, reg, is_signed) \
static bool name##_##T(struct cpu *c, T b) \
{ \
	T lo = rd_##T(c, GPR_RAX), hi = rd_##T(c, GPR_RDX); \
	u64 f = c->arch.cc; \
	if (!quotient_fits(hi, lo, b, sizeof(T), is_signed)) \
		return false; \
	asm("mov %[f], %%rax\n\t" FLAGS_IN "mov %[lo], " reg "\n\t" #name sfx " %[b]\n\tmov " reg ", %[lo]\n\tlahf\n\tseto %%al\n\tmovzwl %%ax, %k[f]" \
	    : [f] "+&r"(f), [lo] "+&r"(lo), "+&d"(hi) : [b] "r"(b) : "rax", "cc"); \
	c->arch.cc = (u16)f; \
	wr_##T(c, GPR_RAX, lo); \
	wr_##T(c, GPR_RDX, hi); \
	return true; \
}
DIV_FN(div, u16, "w", "%%ax", false) DIV_FN(div, u32, "l", "%%eax", false) DIV_FN(div, u64, "q", "%%rax", false)
DIV_FN(idiv, u16, "w", "%%ax", true) DIV_FN(idiv, u32, "l", "%%eax", true) DIV_FN(idiv, u64, "q", "%%rax", true)

#define DIV8_FN(name, is_signed) \
static bool name##_u8(struct cpu *c, u8 b) \
{ \
	u16 a = rd_u16(c, GPR_RAX); \
	u64 f = c->arch.cc; \
	if (!quotient_fits(a >> 8, a & 0xff, b, 1, is_signed)) \
		return false; \
	asm("mov %[f], %%rax\n\t" FLAGS_IN "movw %[a], %%ax\n\t" #name "b %[b]\n\tmovw %%ax, %[a]\n\tlahf\n\tseto %%al\n\tmovzwl %%ax, %k[f]" \
	    : [f] "+&r"(f), [a] "+&r"(a) : [b] "q"(b) : "rax", "cc"); \
	c->arch.cc = (u16)f; \
	wr_u16(c, GPR_RAX, a); \
	return true; \
}
DIV8_FN(div, false) DIV8_FN(idiv, true)

static noinline enum step body_mul(struct cpu *c, const struct insn *i)
{
	u64 b;
	if (!(i->flags & INSN_MEM))
		b = rd_size(c, i->dst, i->opsize);
	else if (!op_read(c, i, i->opsize, &b))
		return STEP_FAULT;
	switch (i->aux8 << 4 | i->opsize) {
	case MUL_MUL << 4 | 1: mul_u8(c, b); break;
	case MUL_MUL << 4 | 2: mul_u16(c, b); break;
	case MUL_MUL << 4 | 4: mul_u32(c, b); break;
	case MUL_MUL << 4 | 8: mul_u64(c, b); break;
	case MUL_IMUL << 4 | 1: imul_u8(c, b); break;
	case MUL_IMUL << 4 | 2: imul1_u16(c, b); break;
	case MUL_IMUL << 4 | 4: imul1_u32(c, b); break;
	case MUL_IMUL << 4 | 8: imul1_u64(c, b); break;
	}
	return STEP_END;
}
static enum step h_mul(struct cpu *c, const struct insn *i) { return after(c, i, body_mul(c, i)); }

static noinline enum step body_div(struct cpu *c, const struct insn *i)
{
	u64 b;
	bool ok = false;
	if (!(i->flags & INSN_MEM))
		b = rd_size(c, i->dst, i->opsize);
	else if (!op_read(c, i, i->opsize, &b))
		return STEP_FAULT;
	switch (i->aux8 << 4 | i->opsize) {
	case MUL_DIV << 4 | 1: ok = div_u8(c, b); break;
	case MUL_DIV << 4 | 2: ok = div_u16(c, b); break;
	case MUL_DIV << 4 | 4: ok = div_u32(c, b); break;
	case MUL_DIV << 4 | 8: ok = div_u64(c, b); break;
	case MUL_IDIV << 4 | 1: ok = idiv_u8(c, b); break;
	case MUL_IDIV << 4 | 2: ok = idiv_u16(c, b); break;
	case MUL_IDIV << 4 | 4: ok = idiv_u32(c, b); break;
	case MUL_IDIV << 4 | 8: ok = idiv_u64(c, b); break;
	}
	if (ok)
		return STEP_END;
	set_rip(c, i);
	return cpu_fault(c, VEC_DE);
}
static enum step h_div(struct cpu *c, const struct insn *i) { return after(c, i, body_div(c, i)); }

/* MULX hi, lo, r/m: RDX times the operand, no flags. When both destinations are the same register it holds the high half. */
static noinline enum step body_mulx(struct cpu *c, const struct insn *i)
{
	u64 b, a = rd_size(c, GPR_RDX, i->opsize);
	if (!(i->flags & INSN_MEM))
		b = rd_size(c, i->src2, i->opsize);
	else if (!op_read(c, i, i->opsize, &b))
		return STEP_FAULT;
	u128 p = (u128)a * b;
	wr_size(c, i->src, i->opsize, (u64)p);
	wr_size(c, i->dst, i->opsize, (u64)(p >> (8 * i->opsize)));
	return STEP_END;
}
static enum step h_mulx(struct cpu *c, const struct insn *i) { return after(c, i, body_mulx(c, i)); }

insn_fn *sel_mul(const struct form *f, struct insn *o)
{
	o->aux8 = f->arg;
	return f->arg >= MUL_DIV ? h_div : h_mul;
}

insn_fn *sel_imul(const struct form *f, struct insn *o)
{
	static insn_fn *const rr[4] = { NULL, h_imul_rr_u16, h_imul_rr_u32, h_imul_rr_u64 };
	static insn_fn *const rri[4] = { NULL, h_imul_rri_u16, h_imul_rri_u32, h_imul_rri_u64 };
	static insn_fn *const rm[4] = { NULL, h_imul_rm_u16, h_imul_rm_u32, h_imul_rm_u64 };
	unsigned explicit_ops = 0;
	for (unsigned k = 0; k < f->in->zi.operand_count; k++)
		explicit_ops += f->in->op[k].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT;
	o->src2 = explicit_ops;
	if (explicit_ops == 1) {
		o->aux8 = MUL_IMUL;
		return h_mul;
	}
	o->aux8 = explicit_ops == 3;
	if (f->m1)
		return rm[f->sz];
	return explicit_ops == 3 ? rri[f->sz] : rr[f->sz];
}

insn_fn *sel_mulx(const struct form *f, struct insn *o) { return h_mulx; }
