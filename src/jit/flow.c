/* Ends of blocks: jumps, calls, returns.
 *
 * A direct target in the same page is one patchable jump (SITE_LINK): the page is known to be executable and where it was. Everything else looks
 * its linear address up in the bank's jump table. Backward and indirect edges look whether the vCPU is wanted elsewhere; every loop has one. */
#include "jit/tr.h"

#define JUMP_AT(field) ((i32)(offsetof(struct tlb_bank, jump) + offsetof(struct tlb_jump, field)))
_Static_assert(sizeof(struct tlb_jump) == 16, "the jump table's index");

static struct site *link_site(struct tr *t, i64 off)
{
	struct site *s = tr_site(t, SITE_LINK);
	s->link.off = (i32)off;
	return s;
}

static void out_of_time(struct tr *t, struct site *s)
{
	t->host = 0;
	as_alu_load(&t->a, OP_TEST, 8, LEFT, rm_reg(LEFT));
	tr_stub(t, as_jcc(&t->a, CC_LE, t->a.p), s);
}

_Static_assert(PEND_INTR > 65536 * 4, "LEFT is less than whatever pends");

/* Time is over or something pends: LEFT is not above 0, or what is in its place. */
u8 *flow_poll(struct tr *t, unsigned cond)
{
	t->host = 0;
	as_alu_load(&t->a, OP_CMP, 4, LEFT, rm_abs(&t->c->pending));
	return as_jcc(&t->a, cond, t->a.p);
}
static void poll(struct tr *t, struct site *s) { tr_stub(t, flow_poll(t, CC_LE), s); }

/* mmu_jump_slot() times 2. */
u8 *flow_lookup(struct as *a, const struct jit *j)
{
	if (j->bmi2) {
		static const u8 rorx[] = { 0xc4, 0x43, 0xfb, 0xf0, 0xda, TLB_JUMP_BITS }; /* rorx r11, r10, 11 */
		memcpy(a->p, rorx, sizeof rorx);
		a->p += sizeof rorx;
	} else {
		as_mov(a, 8, S1, S0);
		as_ins(a, 0, 8, 0xc1, DIGIT | 5, rm_reg(S1), 1); /* shr */
		as8(a, TLB_JUMP_BITS);
	}
	as_alu_load(a, OP_XOR, 4, S1, rm_reg(S0));
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(S1), 2 * (TLB_JUMPS - 1));
	as_gs(a);
	as_alu_load(a, OP_CMP, 8, S0, rm_index(S1, 3, JUMP_AT(rip)));
	return as_jcc(a, CC_NE, a->p);
}
/* mmu_jump_aside_slot() times 2, the same way. */
static u8 *lookup_aside(struct as *a)
{
	as_mov(a, 8, S1, S0);
	as_ins(a, 0, 8, 0xc1, DIGIT | 5, rm_reg(S1), 1); /* shr */
	as8(a, TLB_JUMPS_ASIDE_BITS);
	as_alu_load(a, OP_XOR, 4, S1, rm_reg(S0));
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(S1), 2 * (TLB_JUMPS_ASIDE - 1));
	as_alu_imm(a, 0, OP_ADD, 4, rm_reg(S1), 2 * TLB_JUMPS);
	as_gs(a);
	as_alu_load(a, OP_CMP, 8, S0, rm_index(S1, 3, JUMP_AT(rip)));
	return as_jcc(a, CC_NE, a->p);
}
u8 *flow_lookup_both(struct as *a, const struct jit *j)
{
	u8 *other = flow_lookup(a, j), *found = as_jmp(a, a->p);
	as_aim(other, a->p);
	u8 *miss = lookup_aside(a);
	as_aim(found, a->p);
	return miss;
}
void flow_jump_found(struct as *a)
{
	as_gs(a);
	as_ins(a, 0, 4, 0xff, DIGIT | 4, rm_index(S1, 3, JUMP_AT(code)), 0);
}
static void lookup(struct tr *t, struct site *s)
{
	tr_stub(t, flow_lookup(&t->a, t->j), s);
	t->host = 0;
}

/* S0: the target, always the same as long as the page stays where it is: its place in the table is in the code, as a guess. */
static void far_jump(struct tr *t, struct site *s, i64 off, bool call)
{
	struct as *a = &t->a;
	s->far = true;
	s->call = call; /* what the instruction is does not say it: behind a CALL at its page's end is a jump */
	s->retry = jit_off(t->j, a->p);
	if (t->j->lockstep) {
		lookup(t, s);
		as_gs(a);
		as_ins(a, 0, 4, 0xff, DIGIT | (call ? 2 : 4), rm_index(S1, 3, JUMP_AT(code)), 0);
		return;
	}
	s->guess = true;
	as_gs(a);
	as_alu_load(a, OP_CMP, 8, S0, rm_index(RSP, 0, JUMP_AT(rip))); /* RSP: no index */
	s->probe.at = jit_off(t->j, a->p - 4);
	tr_stub(t, as_jcc(a, CC_NE, a->p), s);
	as_gs(a);
	as_ins(a, 0, 4, 0xff, DIGIT | (call ? 2 : 4), rm_index(RSP, 0, JUMP_AT(code)), 0);
	bug_if(a->p - 4 != jit_host(t->j, s->probe.at + JUMP_NEXT));
	u64 to = (t->c->arch.gpr[GPR_BLOCK_RIP] & PAGE_MASK) + (u64)off; /* of the block's first run, which begins now */
	jit_guess_jump(t->j, s, mmu_jump_slot(t->width == 8 ? to : (u32)to));
	t->host = 0;
}

void jit_guess_jump(struct jit *j, struct site *s, unsigned place)
{
	u32 at = place * sizeof(struct tlb_jump), rip_at = at + JUMP_AT(rip), code_at = at + JUMP_AT(code);
	u16 number = (u16)(place + 1); /* 0: none yet */
	s->probe.asks = (u8)min_u64(s->probe.asks + 1u, JUMP_ASKS);
	s->probe.left = s->probe.asks < JUMP_ASKS ? GUESSES : INT16_MAX;
	if (s->probe.place == number)
		return;
	s->probe.place = number;
	memcpy(jit_host(j, s->probe.at), &rip_at, 4);
	memcpy(jit_host(j, s->probe.at + JUMP_NEXT), &code_at, 4);
}

void flow_stub(struct tr *t, const struct site *s, const u8 *at)
{
	struct as *a = &t->a;
	if (!s->guess) {
		as_call(a, t->j->aside);
		as_jmp(a, at + 4);
		return;
	}
	as_lea(a, 8, S1, rm_abs(s));
	as_call(a, t->j->far[s->call]);
	if (s->call) /* the return address that the target finds: on behind the call */
		as_jmp(a, jit_host(t->j, s->probe.at + JUMP_NEXT + 4));
}

u8 *flow_far_thunk(struct as *a, struct jit *j, bool call)
{
	u8 *thunk = a->p;
	as_alu_imm(a, 0, OP_SUB, 2, rm_mem(S1, offsetof(struct site, probe.left)), 1);
	u8 *ask = as_jcc(a, CC_S, a->p), *miss = flow_lookup_both(a, j);
	if (!call)
		as_lea(a, 8, RSP, rm_mem(RSP, 8));
	flow_jump_found(a);
	as_aim(ask, a->p);
	as_aim(miss, a->p);
	if (call)
		as_alu_imm(a, 0, OP_ADD, 8, rm_mem(RSP, 0), SEARCH_BACK);
	as8(a, 0xc3);
	return thunk;
}

/* Back with S1 as flow_lookup() would have it, or SEARCH_BACK bytes further on. */
u8 *flow_aside_thunk(struct as *a)
{
	u8 *thunk = a->p, *miss = lookup_aside(a);
	as8(a, 0xc3);
	as_aim(miss, a->p);
	as_alu_imm(a, 0, OP_ADD, 8, rm_mem(RSP, 0), SEARCH_BACK);
	as8(a, 0xc3);
	return thunk;
}

static bool same_page(i64 off) { return off >= 0 && off < 4096; }
static bool backward(struct tr *t, i64 off) { return off <= t->b->off; }

static void link_jump(struct tr *t, u8 *at, struct site *s)
{
	s->link.at = jit_off(t->j, at);
	s->link.own = t->code->own;
	t->code->own = jit_off(t->j, s);
	tr_stub(t, at, s);
}

/* The flags are wherever they are. */
void tr_goto(struct tr *t, i64 off)
{
	struct as *a = &t->a;
	struct block *next = join_at(t, off, false);
	if (next) {
		join_block(t, next);
		return;
	}
	tr_flags_save(t);
	struct site *s = same_page(off) || backward(t, off) ? link_site(t, off) : NULL;
	if (backward(t, off))
		poll(t, s);
	if (same_page(off)) {
		link_jump(t, as_jmp(a, a->p), s);
		return;
	}
	s = tr_site(t, SITE_JUMP);
	as_load(a, 8, S0, rm_abs(&t->hot->page));
	as_lea(a, t->width, S0, rm_mem(S0, (i32)off));
	far_jump(t, s, off, false);
}

/* The chained handlers of 64-bit mode want offsets from the block's start, the others what the instruction says. */
static bool is_chained(const struct block *b) { return tr_width(b) == 8 && b->frame[1] == NO_FRAME; }
i64 tr_target(const struct block *b, const struct insn *i) { return is_chained(b) ? (i64)b->off + (i64)i->imm : tr_after(b, i) + (i32)i->imm; }
i64 tr_after(const struct block *b, const struct insn *i) { return (i64)b->off + i->off + i->len; }
static bool reaches(i64 off) { return fits32(off); }

/* The other side of a branch whose one side is joined: behind the block's hot code. */
static void put_aside(struct tr *t, u8 *at, i64 off, unsigned cond)
{
	bug_if(t->nedges == MAX_EDGES);
	struct edge *e = &t->edge[t->nedges++];
	e->at = at;
	e->off = off;
	e->cond = (u8)cond;
	e->b = t->b;
	e->k = t->k;
	e->first = t->first;
	e->start = t->start;
	fork_keep(t, &e->f);
}

void tr_edges(struct tr *t)
{
	t->join.on = false;
	for (unsigned n = 0; n < t->nedges; n++) {
		const struct edge *e = &t->edge[n];
		as_aim(e->at, t->a.p);
		fork_back(t, &e->f);
		t->b = e->b;
		t->k = e->k;
		t->first = e->first;
		t->live = t->live_ + e->first;
		t->start = e->start;
		tr_flags_side(t, e->cond);
		tr_goto(t, e->off);
	}
	t->b = t->code->block;
	t->first = 0;
}

bool e_jcc(struct tr *t, const struct insn *i)
{
	unsigned cond = jit_rows[i->op].arg;
	i64 to = tr_target(t->b, i), next = tr_after(t->b, i);
	if (i->opsize != t->width || !reaches(to))
		return false;
	int known = tr_flags_know(t, cond);
	if (known >= 0) {
		tr_goto(t, known ? to : next);
		t->ended = true;
		return true;
	}
	bool joined_to = join_at(t, to, false), joined = join_at(t, next, false) || joined_to;
	if (!joined)
		tr_flags_save(t);
	tr_flags_host(t, tr_cond_reads(cond));
	if (same_page(to) && !backward(t, to) && !joined) {
		link_jump(t, as_jcc(&t->a, cond, t->a.p), link_site(t, to));
		tr_goto(t, next);
	} else if (joined && !(joined_to && join_at(t, next, false))) {
		i64 aside = joined_to ? next : to;
		u8 *at = as_jcc(&t->a, joined_to ? cond ^ 1 : cond, t->a.p);
		if (t->mem && same_page(aside) && !backward(t, aside)) /* no more than a jump */
			link_jump(t, at, link_site(t, aside));
		else
			put_aside(t, at, aside, joined_to ? cond ^ 1 : cond);
		tr_flags_side(t, joined_to ? cond : cond ^ 1);
		tr_goto(t, joined_to ? to : next);
	} else {
		struct fork f;
		fork_keep(t, &f);
		unsigned later = joined_to ? cond : cond ^ 1;
		u8 *over = as_jcc(&t->a, later, t->a.p);
		tr_flags_side(t, later ^ 1);
		tr_goto(t, joined_to ? next : to);
		as_aim(over, t->a.p);
		fork_back(t, &f);
		tr_flags_side(t, later);
		tr_goto(t, joined_to ? to : next);
	}
	t->ended = true;
	return true;
}

enum { TO_REL, TO_REG, TO_MEM, FAR_JMP, FAR_CALL, FAR_RET }; /* aux8 of JMP, CALL, RET, see interp/branch.c */

/* S0 = the target of an indirect branch. */
static bool read_target(struct tr *t, const struct insn *i)
{
	if (i->aux8 == TO_REG) {
		as_load(&t->a, t->width, S0, greg(t, i->dst));
		return true;
	}
	if (!tr_operand(t, i, t->width, false))
		return false;
	as_load(&t->a, t->width, S0, t->m);
	return true;
}

/* Leaves with nothing done; the interpreter does the instruction when C does not find the target either. */
static void lookup_or_resume(struct tr *t)
{
	struct site *s = tr_site(t, SITE_JUMP);
	s->retry = jit_off(t->j, t->start);
	lookup(t, s);
	out_of_time(t, tr_site(t, SITE_RESUME));
}

/* S0: the target. If it is where the jump has led before, that block follows here; else what comes behind. */
static void jump_to_guess(struct tr *t, struct block *next)
{
	struct as *a = &t->a;
	struct fork f;
	as_load(a, 8, S1, rm_abs(&t->hot->page));
	as_lea(a, 8, S1, rm_mem(S1, next->off));
	as_alu_load(a, OP_CMP, 8, S0, rm_reg(S1));
	t->host = 0;
	fork_keep(t, &f);
	u8 *other = as_jcc(a, CC_NE, a->p);
	out_of_time(t, tr_site(t, SITE_RESUME));
	join_block(t, next);
	as_aim(other, a->p);
	fork_back(t, &f);
}

bool jit_is_relative(const struct insn *i) { return i->aux8 == TO_REL; }
bool jit_sti_shadow(const struct insn *i) { return i->op == ZYDIS_MNEMONIC_RET && i->aux8 != FAR_RET; }

bool e_jmp(struct tr *t, const struct insn *i)
{
	if (i->opsize != t->width || i->aux8 > TO_MEM)
		return false;
	if (i->aux8 == TO_REL && !reaches(tr_target(t->b, i)))
		return false;
	t->ended = true;
	if (i->aux8 == TO_REL) {
		tr_goto(t, tr_target(t->b, i));
		t->ended = true;
		return true;
	}
	struct block *next = t->b->next_off == NO_NEXT ? NULL : join_at(t, t->b->next_off, true);
	if (!next)
		tr_flags_save(t);
	if (!read_target(t, i))
		return false;
	if (next)
		jump_to_guess(t, next);
	tr_flags_save(t);
	lookup_or_resume(t);
	flow_jump_found(&t->a);
	t->ended = true;
	return true;
}

/* The guest's stack gets the return address; S1 holds it. */
static void push_return(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = t->width;
	tr_access(t, &(struct address){ .base = GPR_RSP, .index = GPR_ZERO, .disp = -(i32)n }, n, true);
	as_load(a, 8, S1, rm_abs(&t->hot->page));
	as_lea(a, n, S1, rm_mem(S1, (i32)tr_after(t->b, i)));
	as_store(a, n, t->m, S1);
	as_lea(a, n, t->home[GPR_RSP], rm_mem(t->home[GPR_RSP], -(i32)n));
}

/* Behind the host's CALL: S0 is where a RET wants to go, the host's stack holds where this CALL said that it would. Whatever happened since, equal
 * addresses mean the same place: when a translation goes, so does all that is on the host's stack. near: what was called is in this page. */
static void landing(struct tr *t, const struct insn *i, bool near)
{
	struct as *a = &t->a;
	i64 off = tr_after(t->b, i);
	as_alu_load(a, OP_CMP, 8, S0, rm_mem(RSP, 0));
	as_jcc(a, CC_NE, t->j->ret_miss);
	as_pop(a, S0);
	as_lea(a, t->width, S0, rm_mem(S0, (i32)-off));
	t->host = 0;
	if (near && same_page(off)) { /* mostly the same page still: without the store the next CALL need not wait for this one's stack */
		u8 *again = a->p;
		as_alu_load(a, OP_CMP, 8, S0, rm_abs(&t->hot->page));
		link_jump(t, as_jcc(a, CC_E, a->p), link_site(t, off));
		as_store(a, 8, rm_abs(&t->hot->page), S0);
		as_jmp(a, again);
		return;
	}
	as_store(a, 8, rm_abs(&t->hot->page), S0);
	if (same_page(off)) /* not joined: that makes more code in use, not less */
		link_jump(t, as_jmp(a, a->p), link_site(t, off));
	else
		tr_goto(t, off);
}

static void call_direct(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	i64 to = tr_target(t->b, i);
	if (!backward(t, to))
		out_of_time(t, tr_site(t, SITE_RESUME));
	push_return(t, i);
	struct block *callee = join_at(t, to, true);
	struct site *s = same_page(to) || backward(t, to) ? link_site(t, to) : NULL;
	if (backward(t, to))
		poll(t, s);
	as_push(a, S1); /* for landing() to compare with */
	if (callee) {
		struct fork f;
		u8 *at = a->p + 1;
		fork_keep(t, &f);
		as_call(a, a->p);
		landing(t, i, same_page(to));
		as_aim(at, a->p);
		fork_back(t, &f);
		t->moved[GPR_RSP] -= t->width;
		t->rc = rc_none(); /* it may name RSP; memory has the flags */
		join_block(t, callee);
		return;
	}
	if (same_page(to)) {
		as_call(a, a->p);
		link_jump(t, a->p - 4, s);
	} else {
		s = tr_site(t, SITE_JUMP);
		as_lea(a, t->width, S0, rm_mem(S1, (i32)(to - tr_after(t->b, i))));
		far_jump(t, s, to, true);
	}
	landing(t, i, same_page(to));
}

bool e_call(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	if (i->opsize != t->width || i->aux8 > TO_MEM)
		return false;
	if (i->aux8 == TO_REL && (!reaches(tr_target(t->b, i)) || !reaches(tr_target(t->b, i) - tr_after(t->b, i))))
		return false;
	tr_flags_save(t);
	t->ended = true;
	if (i->aux8 == TO_REL) {
		call_direct(t, i);
		t->ended = true;
		return true;
	}
	if (!read_target(t, i))
		return false;
	lookup_or_resume(t);
	as_store(a, 8, rm_abs(&t->hot->tmp), S0);
	as_gs(a);
	as_load(a, 8, S1, rm_index(S1, 3, JUMP_AT(code)));
	as_store(a, 8, rm_abs(&t->hot->tmp2), S1);
	push_return(t, i);
	as_push(a, S1); /* for landing() to compare with */
	as_load(a, 8, S0, rm_abs(&t->hot->tmp));
	as_ins(a, 0, 4, 0xff, DIGIT | 2, rm_abs(&t->hot->tmp2), 0);
	landing(t, i, false);
	return true;
}

bool e_ret(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned n = t->width;
	if (i->opsize != n || i->aux8 == FAR_RET)
		return false;
	tr_flags_save(t);
	t->ended = true;
	tr_access(t, &(struct address){ .base = GPR_RSP, .index = GPR_ZERO }, n, false);
	as_load(a, n, S0, t->m);
	as_lea(a, n, t->home[GPR_RSP], rm_mem(t->home[GPR_RSP], t->rsp_late + (i32)n + (u16)i->imm)); /* and what POPs in front of it have not */
	t->rsp_late = 0;
	as_lea(a, 8, S1, rm_abs(tr_site(t, SITE_RET)));
	as8(a, 0xc3);
	return true;
}
