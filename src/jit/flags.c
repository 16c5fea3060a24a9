/* Where the guest's arithmetic flags are while host code runs. Three places, any of which may hold them at once:
 *  - the host's own flags, until something else changes them;
 *  - a recipe: the instruction that set them and operands that still exist, so that they can be computed again, by host code or, at a place that
 *    leaves host code, by C;
 *  - memory: arch.cc, or "lazily" as operation and operands in struct hot, from which C makes arch.cc when somebody asks. */
#include "interp/host_flags.h"
#include "jit/tr.h"
#include "jit/vec.h"

/* ---- computing ---- */
#define BIN(T, sfx, con, ins) do { T x_ = (T)a; asm(ins sfx " %2, %0\n\tlahf\n\tseto %%al" : "+" con(x_), "=&a"(f) : con((T)b) : "cc"); } while (0)
#define UN(T, sfx, con, ins) do { T x_ = (T)a; asm(ins sfx " %0\n\tlahf\n\tseto %%al" : "+" con(x_), "=&a"(f) : : "cc"); } while (0)
#define SIZED(M, ins) switch (size) { \
	case 1: M(u8, "b", "q", ins); break; \
	case 2: M(u16, "w", "r", ins); break; \
	case 4: M(u32, "l", "r", ins); break; \
	default: M(u64, "q", "r", ins); }

hot_path u16 jit_flags(unsigned op, unsigned size, u64 a, u64 b, u16 old)
{
	u16 f = 0;
	switch (op) {
	case RC_ADD: a -= b; SIZED(BIN, "add") break;
	case RC_SUB: a += b; SIZED(BIN, "sub") break;
	case RC_CMP: SIZED(BIN, "cmp") break;
	case RC_TEST: SIZED(BIN, "test") break;
	case RC_LOGIC: b = a; SIZED(BIN, "test") break;
	case RC_NEG: a = -a; SIZED(UN, "neg") break;
	case RC_INC: a -= 1; SIZED(UN, "inc") f = (f & ~CC_CF) | (old & CC_CF); break;
	case RC_DEC: a += 1; SIZED(UN, "dec") f = (f & ~CC_CF) | (old & CC_CF); break;
	case RC_CLEAR: f = 0x0200; break; /* LAHF of a flag that is always 1 */
	case RC_ZERO: f = 0x4600; break;
	case RC_RESULT: a = b; SIZED(BIN, "test") break;
	}
	return f;
}

/* ---- state ---- */
unsigned tr_live(const struct tr *t) { return t->live[t->k]; }

void tr_flags_set(struct tr *t, struct recipe rc)
{
	t->host = F_ALL;
	t->mem = false;
	t->rc = rc;
	t->kept.op = RC_NONE;
	t->fresh = true;
}

static void store_value(struct tr *t, const void *to, unsigned g)
{
	if (homed(t, g)) {
		as_store(&t->a, 8, rm_abs(to), t->home[g]);
		return;
	}
	as_load(&t->a, 8, S1, greg(t, g));
	as_store(&t->a, 8, rm_abs(to), S1);
}

/* The second operand is v: with the form if it fits there, which is what has to be stored as lazy_op. */
u32 tr_lazy_imm(struct tr *t, u32 form, i32 v)
{
	if (v == (i16)v)
		return form | LAZY_IMM | (u32)v << 16;
	as_store_imm(&t->a, 8, rm_abs(&t->hot->lazy_b), (u64)(i64)v);
	return form;
}

void tr_lazy_op(struct tr *t, u32 form) { as_store_imm(&t->a, form & LAZY_IMM ? 4 : 1, rm_abs(&t->hot->lazy_op), form); }

static void save_kept(struct tr *t)
{
	const struct kept *k = &t->kept;
	u32 form = lazy_form(k->op, k->size);
	as_store(&t->a, 8, rm_abs(k->second ? &t->hot->lazy_b : &t->hot->lazy_a), S1);
	if (k->imm)
		form = tr_lazy_imm(t, form, k->v);
	else
		as_store(&t->a, 8, rm_abs(k->second ? &t->hot->lazy_a : &t->hot->lazy_b), k->other);
	tr_lazy_op(t, form);
	t->mem = true;
	t->kept.op = RC_NONE;
}

void tr_flags_save(struct tr *t)
{
	struct as *a = &t->a;
	if (t->mem)
		return;
	if (t->kept.op) {
		save_kept(t);
	} else if (t->rc.op) {
		u32 form = lazy_form(t->rc.op, t->rc.size);
		if (t->rc.op < RC_CLEAR)
			store_value(t, &t->hot->lazy_a, t->rc.a);
		if (t->rc.imm)
			form = tr_lazy_imm(t, form, t->rc.v);
		else if (t->rc.op >= RC_ADD && t->rc.op <= RC_TEST && t->rc.b == t->rc.a)
			form |= LAZY_SAME;
		else if (t->rc.op >= RC_ADD && t->rc.op <= RC_TEST)
			store_value(t, &t->hot->lazy_b, t->rc.b);
		tr_lazy_op(t, form);
		t->mem = true;
	} else if (t->host == F_ALL) {
		as_mov(a, 8, S1, RAX);
		as8(a, 0x9f); /* lahf */
		as_ins(a, 0, 1, 0x0f90, 0, rm_reg(RAX), 0); /* seto al */
		as_store(a, 2, rm_abs(&t->c->arch.cc), RAX);
		as_mov(a, 8, RAX, S1);
		tr_lazy_op(t, 0);
		t->mem = true;
	}
}

/* ---- into the host's flags ---- */
static void all_clear(struct as *a)
{
	as_mov_imm(a, S1, 1);
	as_alu_imm(a, 0, OP_ADD, 4, rm_reg(S1), 0);
}

static void redo(struct tr *t)
{
	struct as *a = &t->a;
	const struct recipe *r = &t->rc;
	unsigned n = r->size;
	switch (r->op) {
	case RC_CLEAR: all_clear(a); return;
	case RC_ZERO: as_alu_load(a, OP_XOR, 4, S1, rm_reg(S1)); return;
	case RC_RESULT:
		as_mov_imm(a, S1, (u64)(i64)r->v);
		as_alu_load(a, OP_TEST, n, S1, rm_reg(S1));
		return;
	}
	struct rm ra = greg(t, r->a), rb = r->imm ? ra : greg(t, r->b);
	bool cmp = r->op == RC_CMP || r->op == RC_TEST;
	unsigned op = r->op == RC_CMP ? OP_CMP : OP_TEST;
	if (cmp && r->imm) {
		as_alu_imm(a, 0, op, n, ra, (u64)(i64)r->v);
		return;
	}
	unsigned x = S1;
	if (homed(t, r->a) && (cmp || r->op == RC_LOGIC))
		x = t->home[r->a];
	else
		as_load(a, 8, S1, ra);
	switch (r->op) {
	case RC_CMP:
	case RC_TEST: as_alu_load(a, op, n, x, rb); break;
	case RC_LOGIC: as_alu_load(a, OP_TEST, n, x, rm_reg(x)); break;
	case RC_ADD:
	case RC_SUB: {
		unsigned back = r->op == RC_ADD ? OP_SUB : OP_ADD, forth = r->op == RC_ADD ? OP_ADD : OP_SUB;
		if (r->imm) {
			as_alu_imm(a, 0, back, n, rm_reg(S1), (u64)(i64)r->v);
			as_alu_imm(a, 0, forth, n, rm_reg(S1), (u64)(i64)r->v);
		} else {
			as_alu_load(a, back, n, S1, rb);
			as_alu_load(a, forth, n, S1, rb);
		}
		break;
	}
	case RC_NEG:
		as_ins(a, 0, n, 0xf6 | (n > 1), 3, rm_reg(S1), 0);
		as_ins(a, 0, n, 0xf6 | (n > 1), 3, rm_reg(S1), 0);
		break;
	case RC_INC:
	case RC_DEC:
		as_ins(a, 0, n, 0xfe | (n > 1), r->op == RC_INC ? 1 : 0, rm_reg(S1), 0);
		as_ins(a, 0, 2, 0x0fba, 4, rm_abs(&t->c->arch.cc), 1); /* bt cc, 8 */
		as8(a, 8);
		as_ins(a, 0, n, 0xfe | (n > 1), r->op == RC_INC ? 0 : 1, rm_reg(S1), 0);
		break;
	}
}

#define PIECE 32 /* bytes */

/* Does what redo() does, with operands from struct hot. */
static void load_lazy(struct as *a, struct cpu *c, struct hot *h, unsigned op, unsigned n)
{
	struct rm b = rm_abs(&h->lazy_b);
	as_load(a, 8, S1, rm_abs(&h->lazy_a));
	switch (op) {
	case RC_CLEAR: all_clear(a); break;
	case RC_ZERO: as_alu_load(a, OP_XOR, 4, S1, rm_reg(S1)); break;
	case RC_RESULT:
		as_load(a, 8, S1, b);
		as_alu_load(a, OP_TEST, n, S1, rm_reg(S1));
		break;
	case RC_CMP: as_alu_load(a, OP_CMP, n, S1, b); break;
	case RC_TEST: as_alu_load(a, OP_TEST, n, S1, b); break;
	case RC_LOGIC: as_alu_load(a, OP_TEST, n, S1, rm_reg(S1)); break;
	case RC_ADD:
	case RC_SUB:
		as_alu_load(a, op == RC_ADD ? OP_SUB : OP_ADD, n, S1, b);
		as_alu_load(a, op == RC_ADD ? OP_ADD : OP_SUB, n, S1, b);
		break;
	case RC_NEG:
		as_ins(a, 0, n, 0xf6 | (n > 1), 3, rm_reg(S1), 0);
		as_ins(a, 0, n, 0xf6 | (n > 1), 3, rm_reg(S1), 0);
		break;
	default:
		as_ins(a, 0, n, 0xfe | (n > 1), op == RC_INC ? 1 : 0, rm_reg(S1), 0);
		as_ins(a, 0, 2, 0x0fba, 4, rm_abs(&c->arch.cc), 1); /* bt cc, 8 */
		as8(a, 8);
		as_ins(a, 0, n, 0xfe | (n > 1), op == RC_INC ? 0 : 1, rm_reg(S1), 0);
	}
}

static void load_cc(struct as *a, struct cpu *c)
{
	as_mov(a, 8, S1, RAX);
	as_ins(a, 0, 4, 0x0fb7, RAX, rm_abs(&c->arch.cc), 0);
	as8(a, 0x04); /* add al, 127: OF */
	as8(a, 127);
	as8(a, 0x9e); /* sahf */
	as_mov(a, 8, RAX, S1);
}

/* One piece of PIECE bytes for each value of hot->lazy_op, and a jump to the right one. */
void flags_make_thunk(struct as *a, struct jit *j, struct cpu *c)
{
	u8 *piece = a->p = (u8 *)align_up((uintptr_t)a->p, 64);
	for (unsigned lazy = 0; lazy < (RC_LAST + 1) << 4; lazy++) {
		a->p = piece + lazy * PIECE;
		if (!lazy)
			load_cc(a, c);
		else if (lazy >> 4 && (lazy & 15) < 4)
			load_lazy(a, c, j->hot, lazy >> 4, 1u << lazy % 16);
		as8(a, 0xc3);
		bug_if(a->p > piece + (lazy + 1) * PIECE);
	}
	a->p = j->load_flags = (u8 *)align_up((uintptr_t)a->p, 64);
	as_ins(a, 0, 4, 0x0fb6, S1, rm_abs(&j->hot->lazy_op), 0); /* movzx */
	u8 *plain[2];
	for (unsigned imm = 0; imm < 2; imm++) { /* the second operand to where the pieces want it */
		as_alu_imm(a, 0, OP_TEST, 4, rm_reg(S1), imm ? LAZY_IMM : LAZY_SAME);
		plain[imm] = as_jcc_short(a, CC_E);
		if (imm)
			as_ins(a, 0, 8, 0x0fbf, S1, rm_abs((const u8 *)&j->hot->lazy_op + 2), 0); /* movsx */
		else
			as_load(a, 8, S1, rm_abs(&j->hot->lazy_a));
		as_store(a, 8, rm_abs(&j->hot->lazy_b), S1);
		as_alu_imm(a, 0, OP_AND, 1, rm_abs(&j->hot->lazy_op), (u8) ~(LAZY_SAME | LAZY_IMM));
		as_ins(a, 0, 4, 0x0fb6, S1, rm_abs(&j->hot->lazy_op), 0);
		as_here(a, plain[imm]);
	}
	as_push(a, S0);
	as_ins(a, 0, 4, 0xc1, DIGIT | 4, rm_reg(S1), 1); /* shl */
	as8(a, 5);
	as_lea(a, 8, S0, rm_abs(piece));
	as_lea(a, 8, S1, rm_sib(S0, S1, 0, 0));
	as_pop(a, S0);
	as_ins(a, 0, 4, 0xff, DIGIT | 4, rm_reg(S1), 0);
}
_Static_assert(PIECE == 1 << 5, "the shift above");

void tr_flags_host(struct tr *t, unsigned need)
{
	if (!(need & ~t->host))
		return;
	if (t->rc.op)
		redo(t);
	else if (t->mem)
		as_call(&t->a, t->j->load_flags);
	t->host = F_ALL;
}

void tr_cf_to_cc(struct tr *t)
{
	if (t->rc.op && t->rc.op <= RC_KEEPS_CF)
		return;
	tr_flags_host(t, F_ALL);
	t->rc = rc_none();
	t->mem = false;
	tr_flags_save(t);
}

/* ---- what a branch says of them ---- */
/* The result of a TEST with one bit that was not 0. */
static struct recipe of_bit(unsigned size, i32 v)
{
	u64 bits = (u64)(i64)v & low_mask(size * 8);
	if (!bits || (bits & (bits - 1)) || v != (i16)v)
		return rc_none();
	bool clear = bits < 0x100 && bits >> (size * 8 - 1) == 0; /* parity is of the low byte */
	return (struct recipe){ .op = clear ? RC_CLEAR : RC_RESULT, .size = (u8)size, .a = GPR_ZERO, .imm = !clear, .v = clear ? 0 : v };
}

void tr_flags_side(struct tr *t, unsigned cond)
{
	unsigned op = t->kept.op ? t->kept.op : t->rc.op;
	struct recipe r = rc_none();
	if (cond >> 1 != CC_E >> 1)
		return;
	if (cond == CC_E && (op == RC_CMP || op == RC_TEST || op == RC_SUB || op == RC_LOGIC || op == RC_NEG))
		r = (struct recipe){ .op = RC_ZERO, .size = 8, .a = GPR_ZERO };
	else if (cond == CC_NE && op == RC_TEST && (t->kept.op ? t->kept.imm : t->rc.imm))
		r = t->kept.op ? of_bit(t->kept.size, t->kept.v) : of_bit(t->rc.size, t->rc.v);
	if (!r.op)
		return;
	t->rc = r;
	t->kept.op = RC_NONE;
}

int tr_flags_know(const struct tr *t, unsigned cond)
{
	const struct recipe *r = &t->rc;
	u16 cc = jit_flags(r->op, r->size, 0, (u64)(i64)r->v, 0);
	bool cf = cc & CC_CF, zf = cc & CC_ZF, sf = cc & CC_SF, of = cc & CC_OF;
	const bool is[8] = { of, cf, zf, cf || zf, sf, cc & CC_PF, sf != of, zf || sf != of };
	return r->op < RC_CLEAR ? -1 : is[cond >> 1] ^ (cond & 1);
}

/* ---- what instructions do ---- */
unsigned tr_cond_reads(unsigned cond)
{
	static const u8 reads[8] = { F_OF, F_CF, F_ZF, F_CF | F_ZF, F_SF, F_PF, F_SF | F_OF, F_SF | F_OF | F_ZF };
	return reads[cond >> 1];
}

unsigned tr_host_keeps(const struct insn *i)
{
	u16 cc = host_flags_kept(i);
	unsigned m = (cc & CC_OF ? F_OF : 0) | (cc & CC_CF ? F_CF : 0) | (cc & CC_PF ? F_PF : 0);
	return m | (cc & CC_AF ? F_AF : 0) | (cc & CC_ZF ? F_ZF : 0) | (cc & CC_SF ? F_SF : 0);
}

static bool by_cl(const struct insn *i) { return i->aux8; }

void tr_flag_effect(const struct insn *i, unsigned *reads, unsigned *kills)
{
	const struct row *r = &jit_rows[i->op];
	*reads = r->reads;
	*kills = (tr_is_vec(i) && (i->imm2 & VEC_PLAIN_FLAGS)) || (tr_is_x87(i) && (i->imm2 & X87_PLAIN_FLAGS)) ? F_ALL : r->kills;
	switch (i->op) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		if (by_cl(i) || !(i->imm & (i->opsize == 8 ? 63 : 31)))
			*kills = 0; /* a count of 0 changes nothing */
		else if (!(i->flags & INSN_MEM) && (i->imm & (i->opsize == 8 ? 63 : 31)) != 1)
			*kills &= ~tr_host_keeps(i);
		break;
	default: *kills &= ~tr_host_keeps(i);
	}
}
