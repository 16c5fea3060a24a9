/* Emitters of integer instructions. Each writes host code for one decoded guest instruction, or says false before it has changed anything in
 * the translation's state that matters (the caller drops what was written): then the handler does it. rows.def says which instruction has which. */
#include "jit/sys.h"
#include "interp/select.h"

static bool mem0(const struct insn *i) { return i->flags & INSN_M0; }
static bool mem1(const struct insn *i) { return (i->flags & INSN_MEM) && !mem0(i); }
static bool has_imm(const struct insn *i) { return i->flags & INSN_IMM; }
/* A register number that recipes can name: not the second byte of one. */
static bool plain_reg(unsigned n, unsigned size) { return !is_high(n, size); }
static u8 reg_of(unsigned n, unsigned size) { return (u8)(size == 1 ? n >> 3 : n); }
/* High bytes only beside registers and memory that need no REX. */
static bool needs_rex(struct tr *t, unsigned n, unsigned size)
{
	if (!ohomed(t, n, size))
		return false;
	unsigned h = ohome(t, n, size);
	return !(h & HIGH) && h >= RSP;
}
static bool clash(struct tr *t, unsigned x, unsigned y, unsigned size) { return (is_high(x, size) && needs_rex(t, y, size)) || (is_high(y, size) && needs_rex(t, x, size)); }

/* ---- ADD OR ADC SBB AND SUB XOR CMP TEST ---- */
static struct recipe alu_recipe(unsigned op, const struct insn *i, bool src_known)
{
	unsigned n = i->opsize;
	struct recipe r = { .size = (u8)n, .a = reg_of(i->dst, n) };
	if (!plain_reg(i->dst, n))
		return rc_none();
	if (op == OP_AND || op == OP_OR || op == OP_XOR) {
		r.op = RC_LOGIC;
		return r;
	}
	if (op == OP_ADC || op == OP_SBB || !src_known)
		return rc_none();
	if (has_imm(i)) {
		r.imm = true;
		r.v = (i32)i->imm;
	} else {
		r.b = reg_of(i->src, n);
		if (!plain_reg(i->src, n))
			return rc_none();
	}
	if (op == OP_CMP || op == OP_TEST)
		r.op = op == OP_CMP ? RC_CMP : RC_TEST;
	else if (!r.imm && r.a == r.b) /* SUB r, r is 0; ADD r, r has lost its top bit */
		r.op = op == OP_SUB ? RC_LOGIC : RC_NONE;
	else
		r.op = op == OP_ADD ? RC_ADD : RC_SUB;
	return r.op ? r : rc_none();
}

static bool branch_follows(const struct tr *t) { return !t->region && t->k + 2u == t->b->n && jit_rows[t->b->insn[t->k + 1].op].emit == e_jcc; }

/* CMP or TEST with memory whose flags will be asked for: both values are kept before they are compared; behind the branch, if one follows, which may make that
 * needless. */
static bool compare_kept(struct tr *t, const struct insn *i, unsigned op)
{
	struct as *a = &t->a;
	unsigned n = i->opsize, other = mem0(i) ? i->src : i->dst;
	bool imm = has_imm(i), branches = branch_follows(t);
	if (!tr_live(t) || (!imm && (!ohomed(t, other, n) || !plain_reg(other, n))))
		return false;
	as_load(a, n, S1, t->m);
	bool swap = op == OP_CMP && mem1(i); /* never with imm */
	struct kept k = { .op = op == OP_CMP ? RC_CMP : RC_TEST, .size = (u8)n, .imm = imm, .second = swap, .other = imm ? 0 : t->home[reg_of(other, n)], .v = imm ? (i32)i->imm : 0 };
	if (!branches) {
		t->mem = false;
		t->kept = k;
		tr_flags_save(t);
	}
	if (imm)
		as_alu_imm(a, 0, op, n, rm_reg(S1), i->imm);
	else if (swap)
		as_alu_load(a, op, n, ohome(t, other, n), rm_reg(S1));
	else
		as_alu_load(a, op, n, S1, rm_reg(ohome(t, other, n)));
	tr_flags_set(t, rc_none());
	t->mem = !branches;
	if (branches)
		t->kept = k;
	return true;
}

static bool alu_mem(struct tr *t, const struct insn *i, unsigned op)
{
	struct as *a = &t->a;
	unsigned n = i->opsize, lock = i->flags & INSN_LOCK ? 0xf0 : 0;
	bool writes = op < OP_CMP;
	if (!has_imm(i) && is_high(mem0(i) ? i->src : i->dst, n))
		return false;
	if (!tr_operand(t, i, n, mem0(i) && writes))
		return false;
	if (!writes && compare_kept(t, i, op))
		return true;
	if (op == OP_ADC || op == OP_SBB)
		tr_flags_host(t, F_CF);
	if (mem0(i)) {
		if (has_imm(i))
			as_alu_imm(a, lock, op, n, t->m, i->imm);
		else
			as_alu_store(a, lock, op, n, t->m, in_reg(t, i->src, n, S1));
		tr_flags_set(t, rc_none());
		return true;
	}
	unsigned x = in_reg(t, i->dst, n, S1);
	as_alu_load(a, op, n, x, t->m);
	if (writes && x == S1)
		put_reg(t, i->dst, n, S1);
	tr_flags_set(t, alu_recipe(op, i, false));
	return true;
}

static bool alu_reg(struct tr *t, const struct insn *i, unsigned op)
{
	struct as *a = &t->a;
	unsigned n = i->opsize;
	bool writes = op < OP_CMP, via = !ohomed(t, i->dst, n) && n == 4 && writes;
	if (!has_imm(i) && clash(t, i->dst, i->src, n))
		return false;
	if (op == OP_ADC || op == OP_SBB)
		tr_flags_host(t, F_CF);
	if (has_imm(i)) {
		struct rm to = oreg(t, i->dst, n);
		if (via) {
			as_load(a, 4, S1, to);
			to = rm_reg(S1);
		}
		as_alu_imm(a, 0, op, n, to, i->imm);
	} else if (ohomed(t, i->dst, n)) {
		as_alu_load(a, op, n, ohome(t, i->dst, n), oreg(t, i->src, n));
	} else if (via) {
		as_load(a, 4, S1, oreg(t, i->dst, n));
		as_alu_load(a, op, n, S1, oreg(t, i->src, n));
	} else {
		if (is_high(i->src, n) && !ohomed(t, i->src, n))
			return false;
		as_alu_store(a, 0, op, n, oreg(t, i->dst, n), in_reg(t, i->src, n, S1));
	}
	if (via)
		put_reg(t, i->dst, 4, S1);
	tr_flags_set(t, alu_recipe(op, i, true));
	return true;
}

static bool e_alu(struct tr *t, const struct insn *i)
{
	unsigned op = jit_rows[i->op].arg;
	if ((i->flags & INSN_LOCK) && (!mem0(i) || op >= OP_CMP))
		return false;
	return i->flags & INSN_MEM ? alu_mem(t, i, op) : alu_reg(t, i, op);
}

/* ---- INC DEC NEG NOT ---- */
enum { U_INC, U_DEC, U_NOT, U_NEG };
static void unary(struct tr *t, unsigned op, unsigned n, unsigned lock, struct rm m)
{
	as_ins(&t->a, lock, n, (op <= U_DEC ? 0xfe : 0xf6) | (n > 1), op, m, 0);
}

static bool e_unary(struct tr *t, const struct insn *i)
{
	unsigned op = jit_rows[i->op].arg, n = i->opsize;
	if (mem0(i)) {
		if (!tr_operand(t, i, n, true))
			return false;
		if (op <= U_DEC && (tr_live(t) & F_CF))
			tr_flags_host(t, F_CF);
		unary(t, op, n, i->flags & INSN_LOCK ? 0xf0 : 0, t->m);
		if (op != U_NOT)
			tr_flags_set(t, rc_none());
		return true;
	}
	if (i->flags & INSN_LOCK)
		return false;
	bool via = !ohomed(t, i->dst, n) && n == 4;
	struct recipe r = { .op = op == U_INC ? RC_INC : op == U_DEC ? RC_DEC : RC_NEG, .size = (u8)n, .a = reg_of(i->dst, n) };
	bool keep = op <= U_DEC && (tr_live(t) & F_CF);
	if (!plain_reg(i->dst, n)) {
		r = rc_none();
		if (keep)
			tr_flags_host(t, F_ALL);
	} else if (keep) {
		tr_cf_to_cc(t);
	}
	if (via)
		as_load(&t->a, 4, S1, oreg(t, i->dst, 4));
	unary(t, op, n, 0, via ? rm_reg(S1) : oreg(t, i->dst, n));
	if (via)
		put_reg(t, i->dst, 4, S1);
	if (op == U_NOT)
		return true;
	tr_flags_set(t, r);
	if (op <= U_DEC && r.op)
		t->host = F_ALL & ~F_CF;
	return true;
}

/* ---- shifts ---- */
static bool e_shift(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned op = jit_rows[i->op].arg, n = i->opsize, reads, kills;
	bool cl = i->aux8;
	unsigned count = i->imm & (n == 8 ? 63 : 31);
	tr_flag_effect(i, &reads, &kills);
	if (!cl && count == 0 && !mem0(i)) {
		if (n == 4) /* a 32-bit write all the same */
			put_reg(t, i->dst, 4, in_reg(t, i->dst, 4, S1));
		return true;
	}
	if (mem0(i) && !tr_operand(t, i, n, true))
		return false;
	tr_flags_host(t, (tr_live(t) & ~kills) | reads);
	bool via = !mem0(i) && !ohomed(t, i->dst, n) && (n == 4 || op <= 1); /* rotates of memory leave another OF */
	struct rm m = mem0(i) ? t->m : oreg(t, i->dst, n);
	if (via) {
		as_load(a, n, S1, m);
		m = rm_reg(S1);
	}
	if (cl) {
		as_ins(a, 0, n, 0xd2 | (n > 1), DIGIT | op, m, 0);
	} else {
		as_ins(a, 0, n, 0xc0 | (n > 1), DIGIT | op, m, 1);
		as8(a, (u8)i->imm);
	}
	if (via)
		put_reg(t, i->dst, n, S1);
	tr_flags_set(t, rc_none());
	return true;
}

/* SHLD SHRD, register destination. */
static bool e_dshift(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = i->opsize, reads, kills;
	if ((i->flags & INSN_MEM) || !homed(t, i->dst) || !homed(t, i->src) || (!i->aux8 && !(i->imm & (n == 8 ? 63 : 31))))
		return false;
	tr_flag_effect(i, &reads, &kills);
	tr_flags_host(t, tr_live(t) & ~kills);
	as_ins(a, 0, n, (i->op == ZYDIS_MNEMONIC_SHLD ? 0x0fa4 : 0x0fac) | i->aux8, t->home[i->src], rm_reg(t->home[i->dst]), i->aux8 ? 0 : 1);
	if (!i->aux8)
		as8(a, (u8)i->imm);
	tr_flags_set(t, rc_none());
	return true;
}

/* ---- MOV and extensions ---- */
static bool e_mov(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = i->opsize;
	if (tr_is_special_mov(i))
		return tr_mov_special(t, i);
	if (mem0(i)) {
		if (!has_imm(i) && is_high(i->src, n))
			return false;
		if (!tr_operand(t, i, n, true))
			return false;
		if (has_imm(i) && (n < 8 || fits32((i64)i->imm)))
			as_store_imm(a, n, t->m, i->imm);
		else
			as_store(a, n, t->m, in_reg(t, i->src, n, S1));
		tr_stored(t);
		return true;
	}
	if (mem1(i)) {
		if (is_high(i->dst, n) || !tr_operand(t, i, n, false))
			return false;
		unsigned x = ohomed(t, i->dst, n) ? ohome(t, i->dst, n) : S1;
		as_load(a, n, x, t->m);
		if (x == S1)
			put_reg(t, i->dst, n, S1);
		return true;
	}
	if (has_imm(i)) {
		if (n < 4) {
			as_store_imm(a, n, oreg(t, i->dst, n), i->imm);
		} else if (homed(t, i->dst)) {
			as_mov_imm(a, t->home[i->dst], n == 4 ? (u32)i->imm : i->imm);
		} else if (n == 8 && fits32((i64)i->imm)) {
			as_store_imm(a, 8, greg(t, i->dst), i->imm);
		} else {
			as_mov_imm(a, S1, n == 4 ? (u32)i->imm : i->imm);
			put_reg(t, i->dst, 8, S1);
		}
		return true;
	}
	if (clash(t, i->dst, i->src, n) || (n == 1 && (is_high(i->src, 1) || is_high(i->dst, 1)) && !(ohomed(t, i->dst, 1) && ohomed(t, i->src, 1))))
		return false;
	if (ohomed(t, i->dst, n))
		as_load(a, n, ohome(t, i->dst, n), oreg(t, i->src, n));
	else
		put_reg(t, i->dst, n, n == 4 && homed(t, i->src) ? (as_mov(a, 4, S1, t->home[i->src]), S1) : in_reg(t, i->src, n, S1));
	return true;
}

/* MOVZX MOVSX MOVSXD. */
static bool e_extend(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = i->opsize, from = i->aux8, x = homed(t, i->dst) ? t->home[i->dst] : S1;
	u32 opcode = i->op == ZYDIS_MNEMONIC_MOVSXD ? 0x63 : (i->op == ZYDIS_MNEMONIC_MOVZX ? 0x0fb6 : 0x0fbe) | (from == 2);
	if (i->op == ZYDIS_MNEMONIC_MOVSXD && n != 8)
		return false;
	if (i->op == ZYDIS_MNEMONIC_MOVZX && n == 8)
		n = 4; /* the same, one prefix less */
	if (!(i->flags & INSN_MEM) && is_high(i->src, from) && (n == 8 || x >= R8 || !homed(t, i->src >> 3)))
		return false;
	if ((i->flags & INSN_MEM) && !tr_operand(t, i, from, false))
		return false;
	struct rm m = i->flags & INSN_MEM ? t->m : from == 1 ? breg(t, i->src) : greg(t, i->src);
	if (from == 1 && m.kind == RM_REG && !(m.reg & HIGH) && m.reg >= RSP && m.reg <= RDI && !(n == 8 || x >= R8)) {
		/* sil and its like need a REX prefix that nothing else asks for */
		if (n == 2)
			as8(a, 0x66);
		as8(a, 0x40);
		as8(a, opcode >> 8);
		as8(a, opcode);
		as_modrm(a, x, m, 0);
	} else {
		as_ins(a, 0, n, opcode, x, m, 0);
	}
	if (x == S1)
		put_reg(t, i->dst, n == 2 ? 2 : 8, S1);
	return true;
}

static bool e_lea(struct tr *t, const struct insn *i)
{
	unsigned n = i->opsize;
	bool simple = (i->base >= GPR_ZERO || homed(t, i->base)) && (i->index >= GPR_ZERO || homed(t, i->index)); /* one LEA reads both, then writes */
	if (n == t->width && homed(t, i->dst) && simple)
		return tr_effective(t, i, t->home[i->dst]);
	if (!tr_effective(t, i, S0))
		return false;
	if (homed(t, i->dst)) {
		as_mov(&t->a, n, t->home[i->dst], S0);
		return true;
	}
	if (n == 4)
		as_mov(&t->a, 4, S0, S0);
	put_reg(t, i->dst, n, S0);
	return true;
}

/* ---- conditions ---- */
static bool e_cmov(struct tr *t, const struct insn *i)
{
	unsigned cond = jit_rows[i->op].arg, n = i->opsize;
	if (mem1(i) && !tr_operand(t, i, n, false))
		return false;
	tr_flags_host(t, tr_cond_reads(cond));
	struct rm m = mem1(i) ? t->m : greg(t, i->src);
	unsigned x = in_reg(t, i->dst, n, S1);
	as_ins(&t->a, 0, n, 0x0f40 | cond, x, m, 0);
	if (x == S1)
		put_reg(t, i->dst, n, S1);
	return true;
}

static bool e_setcc(struct tr *t, const struct insn *i)
{
	unsigned cond = jit_rows[i->op].arg;
	if (mem0(i) && !tr_operand(t, i, 1, true))
		return false;
	tr_flags_host(t, tr_cond_reads(cond));
	as_ins(&t->a, 0, 1, 0x0f90 | cond, 0, mem0(i) ? t->m : breg(t, i->dst), 0);
	return true;
}

/* ---- stack ---- */
static void push_probe(struct tr *t) { tr_access(t, &(struct address){ .base = GPR_RSP, .index = GPR_ZERO, .disp = -(i32)t->width }, t->width, true); }
static void move_rsp(struct tr *t, i32 by)
{
	if (t->may_be_late)
		t->rsp_late += by;
	else
		as_lea(&t->a, t->width, t->home[GPR_RSP], rm_mem(t->home[GPR_RSP], by));
}

static bool e_push(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = t->width;
	if (i->opsize != n || i->aux8 > 2 || (i->flags & INSN_LOCK))
		return false;
	if (mem0(i)) {
		if (!tr_operand(t, i, n, false))
			return false;
		as_load(a, n, S1, t->m);
		as_store(a, 8, rm_abs(&t->hot->tmp), S1);
		push_probe(t);
		as_load(a, 8, S1, rm_abs(&t->hot->tmp));
		as_store(a, n, t->m, S1);
	} else {
		push_probe(t);
		if (has_imm(i))
			as_store_imm(a, n, t->m, i->imm);
		else
			as_store(a, n, t->m, in_reg(t, i->dst, n, S1));
	}
	move_rsp(t, -(i32)n);
	return true;
}

/* RSP moves when all is done; an address with RSP in it would have the new one. */
static bool pop_mem(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = t->width;
	if (t->region || i->base == GPR_RSP)
		return false;
	tr_access(t, &(struct address){ .base = GPR_RSP, .index = GPR_ZERO }, n, false);
	as_load(a, n, S1, t->m);
	as_store(a, n, rm_abs(&t->hot->tmp), S1);
	if (!tr_operand(t, i, n, true))
		return false;
	as_load(a, n, S1, rm_abs(&t->hot->tmp));
	as_store(a, n, t->m, S1);
	move_rsp(t, (i32)n);
	return true;
}

static bool e_pop(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = t->width;
	if (i->opsize != n || i->src2 == SEL_MOV_SPECIAL)
		return false;
	if (i->flags & INSN_MEM)
		return pop_mem(t, i);
	tr_access(t, &(struct address){ .base = GPR_RSP, .index = GPR_ZERO }, n, false);
	unsigned x = homed(t, i->dst) ? t->home[i->dst] : S1;
	as_load(a, n, x, t->m);
	if (i->dst != GPR_RSP)
		move_rsp(t, (i32)n);
	if (x == S1)
		put_reg(t, i->dst, n, S1);
	return true;
}

static bool e_leave(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = t->width;
	if (i->opsize != n)
		return false;
	tr_access(t, &(struct address){ .base = GPR_RBP, .index = GPR_ZERO }, n, false);
	as_lea(a, n, t->home[GPR_RSP], rm_mem(t->home[GPR_RBP], (i32)n));
	as_load(a, n, t->home[GPR_RBP], t->m);
	return true;
}

/* ---- multiply, divide ---- */
/* Flags that the manual leaves undefined: hand in what the host does not compute. Uses S1. */
static void want_kept(struct tr *t, const struct insn *i) { tr_flags_host(t, tr_live(t) & tr_host_keeps(i)); }

static bool e_imul(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = i->opsize;
	if (i->src2 == 1)
		return false;
	if (mem1(i) && !tr_operand(t, i, n, false))
		return false;
	struct rm m = mem1(i) ? t->m : greg(t, i->src);
	unsigned x;
	want_kept(t, i);
	if (i->src2 == 3) {
		x = homed(t, i->dst) ? t->home[i->dst] : S1;
		bool small = fits8((i64)i->imm);
		as_ins(a, 0, n, small ? 0x6b : 0x69, x, m, small ? 1 : imm_len(n));
		as_imm(a, small ? 1 : n, i->imm);
	} else {
		x = in_reg(t, i->dst, n, S1);
		as_ins(a, 0, n, 0x0faf, x, m, 0);
	}
	if (x == S1)
		put_reg(t, i->dst, n, S1);
	tr_flags_set(t, rc_none());
	return true;
}

/* MUL, and IMUL with one operand. */
static bool e_mul(struct tr *t, const struct insn *i)
{
	unsigned n = i->opsize;
	if (i->op == ZYDIS_MNEMONIC_IMUL && i->src2 != 1)
		return e_imul(t, i);
	if (mem0(i) && !tr_operand(t, i, n, false))
		return false;
	want_kept(t, i);
	as_ins(&t->a, 0, n, 0xf6 | (n > 1), DIGIT | (i->op == ZYDIS_MNEMONIC_MUL ? 4 : 5), mem0(i) ? t->m : oreg(t, i->dst, n), 0);
	tr_flags_set(t, rc_none());
	return true;
}

/* The host must not raise #DE: what could goes to the handler, in IDIV's case together with what is merely unusual. */
static bool e_div(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = i->opsize;
	bool is_signed = i->op == ZYDIS_MNEMONIC_IDIV;
	if (n < 4 || (mem0(i) && !tr_operand(t, i, n, false)))
		return false;
	struct rm m = mem0(i) ? t->m : greg(t, i->dst);
	if (is_signed) {
		as_mov(a, n, S1, RAX);
		as_ins(a, 0, n, 0xc1, 7, rm_reg(S1), 1);
		as8(a, 8 * n - 1);
		as_alu_load(a, OP_CMP, n, S1, rm_reg(RDX));
		tr_exit_if(t, CC_NE, SITE_RESUME);
		as_load(a, n, S1, m);
		as_alu_imm(a, 0, OP_ADD, n, rm_reg(S1), 1); /* -1: overflow is possible; 0 */
		as_alu_imm(a, 0, OP_CMP, n, rm_reg(S1), 1);
		tr_exit_if(t, CC_BE, SITE_RESUME);
	} else {
		as_alu_load(a, OP_CMP, n, RDX, m);
		tr_exit_if(t, CC_AE, SITE_RESUME);
	}
	t->host = 0;
	tr_flags_host(t, tr_live(t)); /* undefined by the manual; the silicon keeps some */
	as_ins(a, 0, n, 0xf7, is_signed ? 7 : 6, m, 0);
	tr_flags_set(t, rc_none());
	return true;
}

/* CBW CWDE CDQE: 98; CWD CDQ CQO: 99. */
static bool e_convert(struct tr *t, const struct insn *i)
{
	static const u8 size[] = { 2, 4, 8, 2, 4, 8 };
	unsigned arg = jit_rows[i->op].arg;
	if (size[arg] != 4)
		as8(&t->a, size[arg] == 2 ? 0x66 : 0x48);
	as8(&t->a, arg < 3 ? 0x98 : 0x99);
	return true;
}

/* ---- bits ---- */
static bool e_bt(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned op = jit_rows[i->op].arg, n = i->opsize, lock = i->flags & INSN_LOCK ? 0xf0 : 0;
	bool writes = op != BT_BT;
	if (mem0(i) && !has_imm(i))
		return tr_bit_string(t, i, op);
	if (mem0(i) ? !has_imm(i) || (lock && !writes) : lock != 0)
		return false;
	if (mem0(i) && !tr_operand(t, i, n, writes))
		return false;
	tr_flags_host(t, tr_live(t) & ~F_CF);
	unsigned imm = (unsigned)i->imm & (8 * n - 1), x = S1;
	struct rm m = mem0(i) ? t->m : rm_reg(homed(t, i->dst) ? t->home[i->dst] : S0);
	if (!mem0(i) && !homed(t, i->dst))
		as_load(a, n, S0, greg(t, i->dst));
	if (has_imm(i)) {
		as_ins(a, lock, n, 0x0fba, 4 + op, m, 1);
		as8(a, (u8)imm);
	} else {
		x = in_reg(t, i->src, n, S1);
		as_ins(a, 0, n, 0x0fa3 | op << 3, x, m, 0);
	}
	if (!mem0(i) && !homed(t, i->dst) && writes)
		put_reg(t, i->dst, n, S0);
	tr_flags_set(t, rc_none());
	return true;
}

static bool e_scan(struct tr *t, const struct insn *i)
{
	static const struct { u8 prefix; u16 opcode; } ops[] = { { 0, 0x0fbc }, { 0, 0x0fbd }, { 0xf3, 0x0fbc }, { 0xf3, 0x0fbd }, { 0xf3, 0x0fb8 } };
	unsigned op = jit_rows[i->op].arg, n = i->opsize;
	if (mem1(i) && !tr_operand(t, i, n, false))
		return false;
	want_kept(t, i);
	unsigned x = in_reg(t, i->dst, 8, S1); /* a source of 0 may leave all of it */
	as_ins(&t->a, ops[op].prefix, n, ops[op].opcode, x, mem1(i) ? t->m : greg(t, i->src), 0);
	if (x == S1)
		put_reg(t, i->dst, 8, S1);
	tr_flags_set(t, rc_none());
	return true;
}

static bool e_bswap(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = i->opsize;
	if (n < 4)
		return false;
	unsigned x = in_reg(t, i->dst, n, S1);
	if (n == 8 || x >= R8)
		as8(a, 0x40 | (n == 8 ? 8 : 0) | (x >= R8 ? 1 : 0));
	as8(a, 0x0f);
	as8(a, 0xc8 | (x & 7));
	if (x == S1)
		put_reg(t, i->dst, n, S1);
	return true;
}

/* ---- VEX-coded: operands in registers, r/m anything ---- */
static void vex(struct tr *t, unsigned map, unsigned pp, unsigned w, unsigned opcode, unsigned reg, unsigned v, struct rm m, unsigned imm)
{
	struct as *a = &t->a;
	unsigned rex = rm_rex(m);
	as8(a, 0xc4);
	as8(a, (reg & 8 ? 0 : 0x80) | (rex & 2 ? 0 : 0x40) | (rex & 1 ? 0 : 0x20) | map);
	as8(a, w << 7 | (~v & 15) << 3 | pp);
	as8(a, opcode);
	as_modrm(a, reg, m, imm);
}

/* SHLX SHRX SARX RORX. */
static bool e_shiftx(struct tr *t, const struct insn *i)
{
	unsigned op = jit_rows[i->op].arg, n = i->opsize;
	static const u8 pps[] = { 1, 3, 2, 3 };
	if (!t->j->bmi2 || ((i->flags & INSN_MEM) && !tr_operand(t, i, n, false)))
		return false;
	struct rm m = i->flags & INSN_MEM ? t->m : greg(t, i->src);
	unsigned x = homed(t, i->dst) ? t->home[i->dst] : S1;
	if (op == 3) {
		vex(t, 3, 3, n == 8, 0xf0, x, 0, m, 1);
		as8(&t->a, (u8)i->imm);
	} else {
		vex(t, 2, pps[op], n == 8, 0xf7, x, in_reg(t, i->src2, n, S1), m, 0);
	}
	if (x == S1)
		put_reg(t, i->dst, n, S1);
	return true;
}

/* ---- exchanges ---- */
static bool e_xchg(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = i->opsize;
	if (i->flags & INSN_MEM) {
		if (is_high(i->src, n) || !tr_operand(t, i, n, true))
			return false;
		unsigned x = in_reg(t, i->src, n, S1);
		as_ins(a, 0, n, 0x86 | (n > 1), x, t->m, 0);
		if (x == S1)
			put_reg(t, i->src, n, S1);
		return true;
	}
	if (!ohomed(t, i->dst, n) || !ohomed(t, i->src, n) || clash(t, i->dst, i->src, n))
		return false;
	as_ins(a, 0, n, 0x86 | (n > 1), ohome(t, i->src, n), rm_reg(ohome(t, i->dst, n)), 0);
	return true;
}

static bool e_xadd(struct tr *t, const struct insn *i)
{
	unsigned n = i->opsize;
	if (!mem0(i) || is_high(i->src, n) || !tr_operand(t, i, n, true))
		return false;
	unsigned x = in_reg(t, i->src, n, S1);
	as_ins(&t->a, 0xf0, n, 0x0fc0 | (n > 1), x, t->m, 0);
	if (x == S1)
		put_reg(t, i->src, n, S1);
	tr_flags_set(t, rc_none());
	return true;
}

static bool e_cmpxchg(struct tr *t, const struct insn *i)
{
	unsigned n = i->opsize;
	if (!mem0(i) || is_high(i->src, n) || !tr_operand(t, i, n, true))
		return false;
	as_ins(&t->a, 0xf0, n, 0x0fb0 | (n > 1), in_reg(t, i->src, n, S1), t->m, 0);
	tr_flags_set(t, rc_none());
	return true;
}

static bool e_nop(struct tr *t, const struct insn *i) { return true; }

const struct row jit_rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define R(M, e, a, r, k, w, h) [ZYDIS_MNEMONIC_##M] = { e_##e, a, r, k, w, h },
#include "jit/rows.def"
#undef R
};
