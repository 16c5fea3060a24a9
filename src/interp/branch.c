/* Near jumps, calls, returns, and the ends of blocks.
 *
 * In 64-bit mode blocks are chained: a branch enters the next block's first handler directly. Within a linear page the link is a pointer, for the page
 * is known to be executable and where it was; anything else asks the TLB and the jump cache, which costs ten instructions more. */
#include "interp/select.h"

/* The block at rip in 64-bit mode if it is at hand, else leave to block_find(). way: link slot to fill when the target is in the same page; -1: none. */
static must_inline enum step go_lookup(struct cpu *c, struct block *from, int way, u64 rip)
{
	struct interp *e = interp_of(c);
	struct tlb_entry *t = &c->tlb->cur->e[(rip >> 12) & (TLB_ENTRIES - 1)];
	if (likely(!cpu_must_service(c)) && likely(t->tag == (rip & PAGE_MASK)) && likely(t->perm & e->xneed)) {
		u64 key = block_key(t->frame, rip, c->mode);
		struct block *b = block_recent(e, key);
		if (likely(b != NULL)) {
			if (way >= 0 && ((rip ^ c->arch.gpr[GPR_BLOCK_RIP]) & PAGE_MASK) == 0 && from->frame[1] == NO_FRAME && from->key != BLOCK_DEAD_KEY)
				from->link[way] = b;
			return block_enter(c, b, rip);
		}
	}
	c->arch.rip = rip;
	return STEP_END;
}
static noinline enum step go_slow(struct cpu *c, struct block *from, int way, u64 rip) { return go_lookup(c, from, way, rip); }

static must_inline enum step go(struct cpu *c, const struct insn *i, unsigned way, u64 rip)
{
	struct block *from = i->aux, *to = from->link[way];
	if (likely(to && to->key != BLOCK_DEAD_KEY) && likely(!cpu_must_service(c)))
		return block_enter(c, to, rip);
	return go_slow(c, from, way, rip);
}
/* Indirect. */
static must_inline enum step go_far(struct cpu *c, u64 rip) { return go_lookup(c, NULL, -1, rip); }

/* A direct target can only be non-canonical at the very edge; then the branch faults, not the fetch. */
static noinline enum step bad_target(struct cpu *c, const struct insn *i) { return fault_gp(c, i); }

/* ---- ends of blocks that are no branches ---- */
enum step h_sentinel(struct cpu *c, const struct insn *i)
{
	c->arch.rip = insn_rip(c, i);
	return STEP_END;
}
enum step h_sentinel_chain(struct cpu *c, const struct insn *i) { return go(c, i, 0, c->arch.gpr[GPR_BLOCK_RIP] + i->off); }

/* ---- chained forms: i->disp is the offset of the next instruction, i->imm that of the target, both from the block's start ---- */
static must_inline bool target_ok(u64 rip) { return cpu_canonical(rip); }

static enum step h_jmp_c(struct cpu *c, const struct insn *i)
{
	u64 rip = c->arch.gpr[GPR_BLOCK_RIP] + i->imm;
	return likely(target_ok(rip)) ? go(c, i, 1, rip) : bad_target(c, i);
}
#define JCC(name, M, expr) \
static enum step h_j##name##_c(struct cpu *c, const struct insn *i) \
{ \
	u64 rip = c->arch.gpr[GPR_BLOCK_RIP]; \
	if (!cond_##name(c->arch.cc)) \
		return go(c, i, 0, rip + (u64)i->disp); \
	rip += i->imm; \
	return likely(target_ok(rip)) ? go(c, i, 1, rip) : bad_target(c, i); \
}
COND_ROWS(JCC)

/* The return address is written before a non-canonical target faults, as on the silicon; RSP moves only afterwards. */
static must_inline bool push_return(struct cpu *c, const struct insn *i, u64 target)
{
	u64 la = c->arch.gpr[GPR_RSP] - 8;
	if (!st_seg(c, i, la, 8, SEG_SS, c->arch.gpr[GPR_BLOCK_RIP] + i->off + i->len))
		return false;
	if (unlikely(!target_ok(target))) {
		bad_target(c, i);
		return false;
	}
	c->arch.gpr[GPR_RSP] = la;
	return true;
}
static enum step h_call_c(struct cpu *c, const struct insn *i)
{
	u64 rip = c->arch.gpr[GPR_BLOCK_RIP] + i->imm;
	return push_return(c, i, rip) ? go(c, i, 1, rip) : STEP_FAULT;
}
static enum step h_jmp_r_c(struct cpu *c, const struct insn *i)
{
	u64 rip = c->arch.gpr[i->dst];
	return likely(target_ok(rip)) ? go_far(c, rip) : bad_target(c, i);
}
static enum step h_call_r_c(struct cpu *c, const struct insn *i)
{
	u64 rip = c->arch.gpr[i->dst];
	return push_return(c, i, rip) ? go_far(c, rip) : STEP_FAULT;
}
/* 64-bit addresses only (EA_BD, EA_X). */
static enum step h_jmp_m_c(struct cpu *c, const struct insn *i)
{
	u64 la, rip;
	if (!la_x(c, i, 8, false, &la) || !ld(c, i, la, 8, &rip))
		return STEP_FAULT;
	return likely(target_ok(rip)) ? go_far(c, rip) : bad_target(c, i);
}
static enum step h_call_m_c(struct cpu *c, const struct insn *i)
{
	u64 la, rip;
	if (!la_x(c, i, 8, false, &la) || !ld(c, i, la, 8, &rip) || !push_return(c, i, rip))
		return STEP_FAULT;
	return go_far(c, rip);
}
static enum step h_ret_c(struct cpu *c, const struct insn *i)
{
	u64 rip, la = c->arch.gpr[GPR_RSP];
	if (!ld_seg(c, i, la, 8, SEG_SS, &rip))
		return STEP_FAULT;
	if (unlikely(!target_ok(rip)))
		return bad_target(c, i);
	c->arch.gpr[GPR_RSP] = la + 8 + (u16)i->imm;
	return go_far(c, rip);
}

/* ---- any mode, not chained ---- */
/* Target of a relative branch: truncated to the operand size (SDM "Jcc"). */
static u64 rel_target(const struct cpu *c, const struct insn *i) { return (insn_next_rip(c, i) + i->imm) & size_mask(i->opsize); }

static enum step branch_to(struct cpu *c, const struct insn *i, u64 rip)
{
	set_rip(c, i);
	if (cpu_check_target(c, rip) == STEP_FAULT)
		return STEP_FAULT;
	c->arch.rip = rip;
	return STEP_END;
}
static enum step fall_through(struct cpu *c, const struct insn *i)
{
	c->arch.rip = insn_next_rip(c, i);
	return STEP_END;
}

static enum step h_jmp_rel(struct cpu *c, const struct insn *i) { return branch_to(c, i, rel_target(c, i)); }

static bool cond_by_number(u16 cc, unsigned n)
{
	switch (n) {
#define R(name, M, expr) case COND_##M: return cond_##name(cc);
	COND_ROWS(R)
#undef R
	}
	return false;
}
static enum step h_jcc(struct cpu *c, const struct insn *i)
{
	return cond_by_number(c->arch.cc, i->aux8) ? branch_to(c, i, rel_target(c, i)) : fall_through(c, i);
}

/* JCXZ, LOOP, LOOPE, LOOPNE: the counter has the address size. */
static enum step h_jcxz(struct cpu *c, const struct insn *i)
{
	return rd_size(c, GPR_RCX, i->asize) == 0 ? branch_to(c, i, rel_target(c, i)) : fall_through(c, i);
}
static enum step h_loop(struct cpu *c, const struct insn *i)
{
	u64 n = (rd_size(c, GPR_RCX, i->asize) - 1) & size_mask(i->asize);
	bool z = c->arch.cc & CC_ZF, taken = n && (i->aux8 == 0 || (i->aux8 == 1) == z);
	enum step s = taken ? branch_to(c, i, rel_target(c, i)) : fall_through(c, i);
	if (s != STEP_FAULT)
		wr_size(c, GPR_RCX, i->asize, n);
	return s;
}

enum { TO_REL, TO_REG, TO_MEM, FAR_JMP, FAR_CALL, FAR_RET };
static bool read_target(struct cpu *c, const struct insn *i, u64 *rip)
{
	switch (i->aux8) {
	case TO_REL: *rip = rel_target(c, i); return true;
	case TO_REG: *rip = rd_size(c, i->dst, i->opsize); return true;
	default: return op_read(c, i, i->opsize, rip);
	}
}
static enum step h_jmp_ind(struct cpu *c, const struct insn *i)
{
	u64 rip;
	return read_target(c, i, &rip) ? branch_to(c, i, rip) : STEP_FAULT;
}
static enum step h_call(struct cpu *c, const struct insn *i)
{
	u64 rip, ret = insn_next_rip(c, i) & size_mask(i->opsize);
	if (!read_target(c, i, &rip))
		return STEP_FAULT;
	u64 rsp = rd_u64(c, GPR_RSP);
	bool l = c->mode & MODE_L; /* see push_return() */
	set_rip(c, i);
	if ((!l && cpu_check_target(c, rip) == STEP_FAULT) || !cpu_push(c, ret, i->opsize))
		return STEP_FAULT;
	if (l && cpu_check_target(c, rip) == STEP_FAULT) {
		wr_u64(c, GPR_RSP, rsp);
		return STEP_FAULT;
	}
	c->arch.rip = rip;
	return STEP_END;
}
static enum step h_ret(struct cpu *c, const struct insn *i)
{
	u64 rip, rsp = rd_u64(c, GPR_RSP);
	set_rip(c, i);
	if (!cpu_pop(c, &rip, i->opsize))
		return STEP_FAULT;
	if (cpu_check_target(c, rip) == STEP_FAULT) {
		wr_u64(c, GPR_RSP, rsp);
		return STEP_FAULT;
	}
	u64 sp = rd_u64(c, GPR_RSP);
	wr_u64(c, GPR_RSP, (sp & ~c->stack_mask) | ((sp + (u16)i->imm) & c->stack_mask));
	c->arch.rip = rip;
	return STEP_END;
}

/* ---- far: the core does the work and sets rip ---- */
static enum step h_far_ptr(struct cpu *c, const struct insn *i)
{
	set_rip(c, i);
	return i->aux8 == FAR_CALL ? cpu_far_call(c, (u16)i->imm2, i->imm, i->opsize, i->len) : cpu_far_jmp(c, (u16)i->imm2, i->imm, i->opsize, i->len);
}
static enum step h_far_mem(struct cpu *c, const struct insn *i)
{
	u64 la, off, sel;
	set_rip(c, i);
	if (!mem_la(c, i, 0, i->opsize + 2, false, &la) || !ld(c, i, la, i->opsize, &off) || !ld(c, i, la + i->opsize, 2, &sel))
		return STEP_FAULT;
	return i->aux8 == FAR_CALL ? cpu_far_call(c, (u16)sel, off, i->opsize, i->len) : cpu_far_jmp(c, (u16)sel, off, i->opsize, i->len);
}
static enum step h_far_ret(struct cpu *c, const struct insn *i)
{
	set_rip(c, i);
	return cpu_far_ret(c, i->opsize, (u16)i->imm);
}
static enum step h_iret(struct cpu *c, const struct insn *i)
{
	set_rip(c, i);
	return cpu_iret(c, i->opsize, i);
}

/* ---- selectors ---- */
/* Chained direct branches: both offsets from the block's start. */
static void fix_direct(struct insn *o)
{
	o->disp = o->off + o->len;
	o->imm += (u64)o->disp;
}

static insn_fn *sel_near(const struct form *f, struct insn *o, insn_fn *rel_c, insn_fn *reg_c, insn_fn *mem_c, insn_fn *any)
{
	ZydisOperandType t = f->in->op[0].type;
	o->aux8 = t == ZYDIS_OPERAND_TYPE_IMMEDIATE ? TO_REL : t == ZYDIS_OPERAND_TYPE_REGISTER ? TO_REG : TO_MEM;
	if (!f->chain || o->opsize != 8 || (f->m0 && f->ea == EA_G))
		return any;
	if (o->aux8 == TO_REL) {
		fix_direct(o);
		return rel_c;
	}
	return o->aux8 == TO_REG ? reg_c : mem_c;
}

static bool is_far(const struct form *f) { return f->in->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR; }

insn_fn *sel_jmp(const struct form *f, struct insn *o)
{
	if (is_far(f)) {
		o->aux8 = FAR_JMP;
		return f->m0 ? h_far_mem : h_far_ptr;
	}
	return sel_near(f, o, h_jmp_c, h_jmp_r_c, h_jmp_m_c, f->in->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? h_jmp_rel : h_jmp_ind);
}
insn_fn *sel_call(const struct form *f, struct insn *o)
{
	if (is_far(f)) {
		o->aux8 = FAR_CALL;
		return f->m0 ? h_far_mem : h_far_ptr;
	}
	return sel_near(f, o, h_call_c, h_call_r_c, h_call_m_c, h_call);
}
insn_fn *sel_jcc(const struct form *f, struct insn *o)
{
	static insn_fn *const chained[16] = {
#define R(name, M, expr) h_j##name##_c,
		COND_ROWS(R)
#undef R
	};
	o->aux8 = f->arg;
	if (!f->chain || o->opsize != 8)
		return h_jcc;
	fix_direct(o);
	return chained[f->arg];
}
insn_fn *sel_jcxz(const struct form *f, struct insn *o) { return h_jcxz; }
insn_fn *sel_loop(const struct form *f, struct insn *o)
{
	o->aux8 = f->arg;
	return h_loop;
}
insn_fn *sel_ret(const struct form *f, struct insn *o)
{
	if (is_far(f)) {
		o->aux8 = FAR_RET;
		return h_far_ret;
	}
	return f->chain && o->opsize == 8 ? h_ret_c : h_ret;
}
insn_fn *sel_iret(const struct form *f, struct insn *o) { return h_iret; }
