/* LOCK-prefixed instructions, and XCHG CMPXCHG XADD CMPXCHG8B CMPXCHG16B with memory, which use the host's locked instruction whether or not
 * the guest wrote LOCK. When the operand has no single host address the operation runs under the MMU's split lock. */
#include "interp/select.h"

/* What a read-modify-write needs besides the bytes, and what it leaves. The slow path may run it again: inputs are never changed. */
struct rmw {
	u64 b, b_hi;      /* source */
	u64 a, a_hi;      /* accumulator (CMPXCHG) */
	u64 old, old_hi;  /* out: former contents */
	u16 cc_in, cc;    /* out: flags */
};

/* op(bytes, rmw) with a plain host address, locked, and the same on a private copy. */
struct rmw_op {
	void (*locked)(void *p, void *r);
	void (*plain)(void *p, void *r);
};

static bool rmw_at(struct cpu *c, const struct insn *i, u64 ea, unsigned size, const struct rmw_op *op, struct rmw *r)
{
	u64 la;
	bool slow = false;
	set_rip(c, i);
	if (!seg_la(c, i, i->seg, ea, size, true, &la))
		return false;
	void *p = mmu_rmw(c, la, size, &slow);
	if (likely(p)) {
		op->locked(p, r);
		mmu_rmw_done(c, la, size);
		return true;
	}
	if (slow && mmu_rmw_slow(c, la, size, op->plain, r))
		return true;
	interp_fix_fault(c, i->seg, la);
	return false;
}

static bool rmw_run(struct cpu *c, const struct insn *i, unsigned size, const struct rmw_op *op, struct rmw *r)
{
	return rmw_at(c, i, ea_masked(c, i), size, op, r);
}

/* ---- LOCK add, or, ... not ---- */
#define OP2(name, ins, pre, T, sfx, con) \
static void name##_##T(void *p, void *arg) \
{ \
	struct rmw *r = arg; \
	u16 f = r->cc_in; \
	asm volatile(pre "lock " ins sfx " %2, %0\n\tlahf\n\tseto %%al" : "+m"(*(any_##T *)p), "+a"(f) : con((T)r->b) : "cc", "memory"); \
	r->cc = f; \
}
#define OP1(name, ins, pre, T, sfx) \
static void name##_##T(void *p, void *arg) \
{ \
	struct rmw *r = arg; \
	u16 f = r->cc_in; \
	asm volatile(pre "lock " ins sfx " %0\n\tlahf\n\tseto %%al" : "+m"(*(any_##T *)p), "+a"(f) : : "cc", "memory"); \
	r->cc = f; \
}
#define OP2_ALL(name, ins, pre) \
	OP2(name, ins, pre, u8, "b", "q") OP2(name, ins, pre, u16, "w", "r") OP2(name, ins, pre, u32, "l", "r") OP2(name, ins, pre, u64, "q", "r")
#define OP1_ALL(name, ins, pre) OP1(name, ins, pre, u8, "b") OP1(name, ins, pre, u16, "w") OP1(name, ins, pre, u32, "l") OP1(name, ins, pre, u64, "q")
#define CARRY "btw $8, %w1\n\t"
OP2_ALL(add, "add", ) OP2_ALL(or, "or", ) OP2_ALL(adc, "adc", CARRY) OP2_ALL(sbb, "sbb", CARRY)
OP2_ALL(and, "and", ) OP2_ALL(sub, "sub", ) OP2_ALL(xor, "xor", )
OP1_ALL(inc, "inc", CARRY) OP1_ALL(dec, "dec", CARRY) OP1_ALL(neg, "neg", )
/* NOT changes no flags: put back what came in. */
#define OP_NOT(T, sfx) static void not_##T(void *p, void *arg) \
{ \
	struct rmw *r = arg; \
	asm volatile("lock not" sfx " %0" : "+m"(*(any_##T *)p) : : "memory"); \
	r->cc = r->cc_in; \
}
OP_NOT(u8, "b") OP_NOT(u16, "w") OP_NOT(u32, "l") OP_NOT(u64, "q")

/* The bit number in r->b is below the operand size. */
#define OP_BT(name, T, sfx) static void name##_##T(void *p, void *arg) \
{ \
	struct rmw *r = arg; \
	u16 f = r->cc_in; \
	asm volatile("addb $127, %%al\n\tsahf\n\tlock " #name sfx " %2, %0\n\tlahf\n\tseto %%al" : "+m"(*(any_##T *)p), "+a"(f) : "r"((T)r->b) : "cc", "memory"); \
	r->cc = f; \
}
#define OP_BT_ALL(name) OP_BT(name, u16, "w") OP_BT(name, u32, "l") OP_BT(name, u64, "q")
OP_BT_ALL(bts) OP_BT_ALL(btr) OP_BT_ALL(btc)

#define OP_XCHG(T) static void xchg_##T(void *p, void *arg) \
{ \
	struct rmw *r = arg; \
	r->old = __atomic_exchange_n((any_##T *)p, (T)r->b, __ATOMIC_SEQ_CST); \
}
OP_XCHG(u8) OP_XCHG(u16) OP_XCHG(u32) OP_XCHG(u64)

#define OP_XADD(T, sfx, con) static void xadd_##T(void *p, void *arg) \
{ \
	struct rmw *r = arg; \
	T b = (T)r->b; \
	u16 f; \
	asm volatile("lock xadd" sfx " %2, %0\n\tlahf\n\tseto %%al" : "+m"(*(any_##T *)p), "=&a"(f), "+" con(b) : : "cc", "memory"); \
	r->cc = f; \
	r->old = b; \
}
OP_XADD(u8, "b", "q") OP_XADD(u16, "w", "r") OP_XADD(u32, "l", "r") OP_XADD(u64, "q", "r")

#define OP_CMPXCHG(T, sfx, con) static void cmpxchg_##T(void *p, void *arg) \
{ \
	struct rmw *r = arg; \
	u64 rax = r->a, f; \
	asm volatile("lock cmpxchg" sfx " %3, %0\n\tmov %%rax, %1\n\tlahf\n\tseto %%al" : "+m"(*(any_##T *)p), "=&r"(f), "+a"(rax) : con((T)r->b) : "cc", "memory"); \
	r->old = f; \
	r->cc = (u16)rax; \
}
OP_CMPXCHG(u8, "b", "q") OP_CMPXCHG(u16, "w", "r") OP_CMPXCHG(u32, "l", "r") OP_CMPXCHG(u64, "q", "r")

/* Only ZF changes. */
static void cmpxchg8b(void *p, void *arg)
{
	struct rmw *r = arg;
	u32 lo = r->a, hi = r->a_hi;
	bool z;
	asm volatile("lock cmpxchg8b %0\n\tsetz %1" : "+m"(*(any_u64 *)p), "=q"(z), "+a"(lo), "+d"(hi) : "b"((u32)r->b), "c"((u32)r->b_hi) : "cc", "memory");
	r->old = lo;
	r->old_hi = hi;
	r->cc = (r->cc_in & ~CC_ZF) | (z ? CC_ZF : 0);
}
static void cmpxchg16b(void *p, void *arg)
{
	struct rmw *r = arg;
	u64 lo = r->a, hi = r->a_hi;
	bool z;
	asm volatile("lock cmpxchg16b %0\n\tsetz %1" : "+m"(*(u128 *)p), "=q"(z), "+a"(lo), "+d"(hi) : "b"(r->b), "c"(r->b_hi) : "cc", "memory");
	r->old = lo;
	r->old_hi = hi;
	r->cc = (r->cc_in & ~CC_ZF) | (z ? CC_ZF : 0);
}
/* The copy under the split lock may be unaligned on the host. */
static void cmpxchg16b_plain(void *p, void *arg)
{
	u128 copy __attribute__((aligned(16)));
	memcpy(&copy, p, 16);
	cmpxchg16b(&copy, arg);
	memcpy(p, &copy, 16);
}

#define SIZES(n) { { n##_u8, n##_u8 }, { n##_u16, n##_u16 }, { n##_u32, n##_u32 }, { n##_u64, n##_u64 } }
#define SIZES_W(n) { { NULL, NULL }, { n##_u16, n##_u16 }, { n##_u32, n##_u32 }, { n##_u64, n##_u64 } }
static const struct rmw_op alu_ops[][4] = { SIZES(add), SIZES(or), SIZES(adc), SIZES(sbb), SIZES(and), SIZES(sub), SIZES(xor) };
static const struct rmw_op un_ops[][4] = { SIZES(inc), SIZES(dec), SIZES(neg), SIZES(not) };
static const struct rmw_op bt_ops[][4] = { { { NULL } }, SIZES_W(bts), SIZES_W(btr), SIZES_W(btc) };
static const struct rmw_op xchg_ops[4] = SIZES(xchg);
static const struct rmw_op xadd_ops[4] = SIZES(xadd);
static const struct rmw_op cmpxchg_ops[4] = SIZES(cmpxchg);
static const struct rmw_op cmpxchg8b_op = { cmpxchg8b, cmpxchg8b }, cmpxchg16b_op = { cmpxchg16b, cmpxchg16b_plain };

/* ---- handlers: i->aux is the rmw_op; aux8 = 1: the source is i->imm ---- */
static noinline enum step body_rmw(struct cpu *c, const struct insn *i)
{
	struct rmw r = { .b = i->aux8 ? i->imm : rd_size(c, i->src, i->opsize), .cc_in = c->arch.cc };
	if (!rmw_run(c, i, i->opsize, i->aux, &r))
		return STEP_FAULT;
	c->arch.cc = r.cc;
	return STEP_END;
}
static enum step h_rmw(struct cpu *c, const struct insn *i) { return after(c, i, body_rmw(c, i)); }

static noinline enum step body_lock_bt(struct cpu *c, const struct insn *i)
{
	unsigned nbits = i->opsize * 8;
	struct rmw r = { .b = i->imm & (nbits - 1), .cc_in = c->arch.cc };
	u64 ea = ea_plain(c, i);
	if (!i->aux8) { /* SDM "BTS": a register bit offset reaches beyond the operand */
		i64 n = (i64)sext_size(rd_size(c, i->src, i->opsize), i->opsize);
		r.b = n & (nbits - 1);
		ea += (u64)(n >> __builtin_ctz(nbits)) * i->opsize;
	}
	if (!rmw_at(c, i, ea & size_mask(i->asize), i->opsize, i->aux, &r))
		return STEP_FAULT;
	c->arch.cc = r.cc;
	return STEP_END;
}
static enum step h_lock_bt(struct cpu *c, const struct insn *i) { return after(c, i, body_lock_bt(c, i)); }

static noinline enum step body_xchg(struct cpu *c, const struct insn *i)
{
	struct rmw r = { .b = rd_size(c, i->src, i->opsize) };
	if (!rmw_run(c, i, i->opsize, i->aux, &r))
		return STEP_FAULT;
	wr_size(c, i->src, i->opsize, r.old);
	return STEP_END;
}
static enum step h_xchg_m(struct cpu *c, const struct insn *i) { return after(c, i, body_xchg(c, i)); }

#define H_XCHG_R(T) static enum step h_xchg_r_##T(struct cpu *c, const struct insn *i) \
{ \
	T a = rd_##T(c, i->dst), b = rd_##T(c, i->src); \
	wr_##T(c, i->dst, b); \
	wr_##T(c, i->src, a); \
	return next(c, i); \
}
H_XCHG_R(u8) H_XCHG_R(u16) H_XCHG_R(u32) H_XCHG_R(u64)

static noinline enum step body_xadd(struct cpu *c, const struct insn *i)
{
	struct rmw r = { .b = rd_size(c, i->src, i->opsize), .cc_in = c->arch.cc };
	u64 sum;
	if (i->flags & INSN_MEM) {
		if (!rmw_run(c, i, i->opsize, i->aux, &r))
			return STEP_FAULT;
		wr_size(c, i->src, i->opsize, r.old);
	} else {
		const struct rmw_op *op = i->aux;
		sum = rd_size(c, i->dst, i->opsize);
		op->plain(&sum, &r);
		wr_size(c, i->src, i->opsize, r.old);
		wr_size(c, i->dst, i->opsize, sum);
	}
	c->arch.cc = r.cc;
	return STEP_END;
}
static enum step h_xadd(struct cpu *c, const struct insn *i) { return after(c, i, body_xadd(c, i)); }

/* Only one of accumulator and register destination is written; a 32-bit one that is not keeps its upper half. */
static noinline enum step body_cmpxchg(struct cpu *c, const struct insn *i)
{
	struct rmw r = { .a = rd_u64(c, GPR_RAX), .b = rd_size(c, i->src, i->opsize), .cc_in = c->arch.cc };
	if (i->flags & INSN_MEM) {
		if (!rmw_run(c, i, i->opsize, i->aux, &r))
			return STEP_FAULT;
	} else {
		const struct rmw_op *op = i->aux;
		u64 v = rd_size(c, i->dst, i->opsize);
		op->plain(&v, &r);
		if (r.cc & CC_ZF)
			wr_size(c, i->dst, i->opsize, v);
	}
	if (!(r.cc & CC_ZF))
		wr_size(c, i->opsize == 1 ? 0 : GPR_RAX, i->opsize, r.old);
	c->arch.cc = r.cc;
	return STEP_END;
}
static enum step h_cmpxchg(struct cpu *c, const struct insn *i) { return after(c, i, body_cmpxchg(c, i)); }

static noinline enum step body_cmpxchg8b(struct cpu *c, const struct insn *i)
{
	unsigned half = i->opsize == 8 ? 8 : 4;
	struct rmw r = { .a = rd_size(c, GPR_RAX, half), .a_hi = rd_size(c, GPR_RDX, half), .b = rd_size(c, GPR_RBX, half), .b_hi = rd_size(c, GPR_RCX, half),
		.cc_in = c->arch.cc };
	u64 la;
	if (half == 8) {
		if (!mem_la(c, i, 0, 16, true, &la))
			return STEP_FAULT;
		if (la & 15)
			return fault_gp(c, i);
	}
	if (!rmw_run(c, i, 2 * half, half == 8 ? &cmpxchg16b_op : &cmpxchg8b_op, &r))
		return STEP_FAULT;
	if (!(r.cc & CC_ZF)) {
		wr_size(c, GPR_RAX, half, r.old);
		wr_size(c, GPR_RDX, half, r.old_hi);
	}
	c->arch.cc = r.cc;
	return STEP_END;
}
static enum step h_cmpxchg8b(struct cpu *c, const struct insn *i) { return after(c, i, body_cmpxchg8b(c, i)); }

/* ---- selectors ---- */
insn_fn *sel_lock_alu(const struct form *f, struct insn *o)
{
	if (!f->m0 || f->arg >= ALU_CMP)
		return h_ud;
	o->aux = (void *)&alu_ops[f->arg][f->sz];
	o->aux8 = f->i1;
	return h_rmw;
}

insn_fn *sel_lock_unary(const struct form *f, struct insn *o)
{
	if (!f->m0)
		return h_ud;
	o->aux = (void *)&un_ops[f->arg][f->sz];
	return h_rmw;
}

insn_fn *sel_lock_bt(const struct form *f, struct insn *o)
{
	if (!f->m0 || f->arg == BT_BT)
		return h_ud;
	o->aux = (void *)&bt_ops[f->arg][f->sz];
	o->aux8 = f->i1;
	return h_lock_bt;
}

insn_fn *sel_xchg(const struct form *f, struct insn *o)
{
	static insn_fn *const rr[4] = { h_xchg_r_u8, h_xchg_r_u16, h_xchg_r_u32, h_xchg_r_u64 };
	if (!f->m0 && !f->m1)
		return rr[f->sz];
	if (f->m1)
		o->src = o->dst;
	o->aux = (void *)&xchg_ops[f->sz];
	return h_xchg_m;
}

insn_fn *sel_xadd(const struct form *f, struct insn *o) { o->aux = (void *)&xadd_ops[f->sz]; return h_xadd; }
insn_fn *sel_cmpxchg(const struct form *f, struct insn *o) { o->aux = (void *)&cmpxchg_ops[f->sz]; return h_cmpxchg; }
insn_fn *sel_cmpxchg8b(const struct form *f, struct insn *o)
{
	o->opsize = f->in->zi.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B ? 8 : 4;
	return h_cmpxchg8b;
}
