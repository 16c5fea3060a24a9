/* One block of decoded instructions -> host code. Hot code grows upwards from the arena's free end; stubs follow it; sites, which hold what C needs
 * to know, come last.
 *
 *   far:  lea S0, [S0 - offset]; mov [page], S0      entered from other pages, S0 = rip
 *   near: lea LEFT, [LEFT - n]                       entered from the same page
 *   ...instructions..., each a stretch that can be tried again from its start until it has changed something
 */
#include "jit/tr.h"
#include "jit/sys.h"
#include "jit/vec.h"
#include "interp/select.h"
#include <stdlib.h>
#include <time.h>

const u8 jit_home[16] = { RAX, RCX, RDX, RBX, R8, RBP, RSI, RDI, NO_HOME, NO_HOME, NO_HOME, NO_HOME, R12, R13, R14, NO_HOME };

#define CODE_ROOM (160 * 1024) /* no block needs more: twice 88 instructions of at most 300 bytes with their stubs, and sites */

/* ---- sites ---- */
struct site *tr_site(struct tr *t, enum site_kind kind)
{
	bool looks = kind == SITE_READ || kind == SITE_WRITE || kind == SITE_JUMP;
	size_t size = kind == SITE_LINK || looks ? sizeof(struct site) : offsetof(struct site, helper) + sizeof(u32);
	t->cold -= align_up(size, 4);
	struct site *s = (struct site *)t->cold;
	memset(s, 0, size);
	s->block = (u32)((u8 *)t->b - t->j->in.arena);
	s->kind = (u8)kind;
	s->slot = (u8)t->k;
	s->retry = jit_off(t->j, t->start);
	s->live = !t->mem && t->rc.op;
	s->recipe = t->rc;
	s->vec = t->vec_loaded;
	s->vec_dirty = t->vec_dirty;
	s->vec_wide = t->vec_wide;
	return s;
}

void tr_stub(struct tr *t, u8 *at, struct site *s)
{
	bug_if(t->nstubs >= MAX_STUBS);
	t->stubs[t->nstubs] = (struct stub){ .at = at, .site = s };
	if (t->region)
		region_stub(t, &t->stubs[t->nstubs]);
	if (t->twin)
		twin_stub(t, &t->stubs[t->nstubs]);
	t->nstubs++;
}

void tr_exit_if(struct tr *t, unsigned cond, enum site_kind kind)
{
	struct site *s = tr_site(t, kind);
	tr_stub(t, as_jcc(&t->a, cond, t->a.p), s);
}

/* call out; distance to the site: the thunk finds it behind its return address. */
static void put_stubs(struct tr *t)
{
	struct as *a = &t->a;
	for (unsigned n = 0; n < t->nstubs; n++) {
		struct stub *st = &t->stubs[n];
		as_aim(st->at, a->p);
		if (st->site->kind == SITE_LINK && st->site->link.at == jit_off(t->j, st->at))
			st->site->link.stub = jit_off(t->j, a->p);
		if (st->site->kind == SITE_READ || st->site->kind == SITE_WRITE)
			memory_stub(t, st->site);
		else if (st->site->kind == SITE_JUMP && !t->j->lockstep)
			flow_stub(t, st->site, st->at);
		if (t->twin && st->site->group)
			twin_put(t, st);
		as_call(a, st->site->vec ? t->j->out_vec : t->j->out);
		as32(a, (u32)((u8 *)st->site - a->p));
	}
}

/* ---- what the block's flags are needed for ---- */
bool tr_emits(const struct insn *i) { return jit_rows[i->op].emit || tr_is_vec(i) || tr_is_x87(i); }
bool tr_is_special_mov(const struct insn *i) { return i->op == ZYDIS_MNEMONIC_MOV && (i->aux || i->src2); }
static bool may_leave(const struct insn *i)
{
	return tr_is_special_mov(i) || !jit_rows[i->op].emit || (i->flags & INSN_MEM) || (jit_rows[i->op].how & (H_STACK | H_ENDS));
}

static unsigned live_before(const struct insn *i, unsigned after)
{
	unsigned reads, kills;
	if (may_leave(i))
		return F_ALL;
	tr_flag_effect(i, &reads, &kills);
	return (after & ~kills) | reads;
}

unsigned tr_find_live(const struct block *b, unsigned after, u8 *live)
{
	for (unsigned k = b->n; k-- > 0;) {
		live[k] = (u8)after;
		after = live_before(&b->insn[k], after);
	}
	return after;
}

u32 tr_writes(const struct insn *i)
{
	const struct row *r = &jit_rows[i->op];
	u32 m = 0;
	if (!r->emit)
		return tr_is_vec(i) && (i->imm2 & VEC_PLAIN_GPR) ? 1u << (i->dst & 15) : 0;
	if ((r->writes & W_DST) && !(i->flags & INSN_M0))
		m |= 1u << (i->opsize == 1 ? i->dst >> 3 : i->dst & 15);
	if (r->writes & W_SRC)
		m |= 1u << (i->opsize == 1 ? i->src >> 3 : i->src & 15);
	m |= r->writes & W_RAX ? 1u << GPR_RAX : 0;
	m |= r->writes & W_RCX ? 1u << GPR_RCX : 0;
	m |= r->writes & W_RDX ? 1u << GPR_RDX : 0;
	m |= r->writes & W_RSP ? 1u << GPR_RSP : 0;
	m |= r->writes & W_RBP ? 1u << GPR_RBP : 0;
	return m;
}

static u32 recipe_regs(const struct recipe *r)
{
	u32 m = r->op >= RC_CLEAR ? 0 : 1u << r->a;
	return r->imm || r->op < RC_ADD || r->op > RC_TEST ? m : m | 1u << r->b;
}

/* ---- instructions ---- */
/* The handler runs a copy of the instruction, with something behind it that comes back. */
struct site *tr_handler_site(struct tr *t, const struct insn *i)
{
	struct site *s = tr_site(t, SITE_HELPER);
	t->cold = (u8 *)align_down((uintptr_t)t->cold - 2 * sizeof *i, 8);
	struct insn *copy = (struct insn *)t->cold;
	s->helper = jit_off(t->j, copy);
	copy[0] = *i;
	if (t->k == 0)
		copy[0].fn = t->b->first;
	copy[1] = (struct insn){ .fn = jit_h_return, .base = GPR_ZERO, .index = GPR_ZERO, .off = (u16)(i->off + i->len) };
	return s;
}

void tr_call_handler(struct tr *t, struct site *s, u8 *over)
{
	as_call(&t->a, t->j->out);
	as32(&t->a, (u32)((u8 *)s - t->a.p));
	s->retry = jit_off(t->j, t->a.p);
	if (over)
		as_aim(over, t->a.p);
	t->mem = true;
	t->host = 0;
	t->rc = rc_none();
	t->vec_checked = 0;
	t->sys_checked = 0;
	plan_forget(t);
	t->handlers++;
}

static void hand_over(struct tr *t)
{
	struct site *s = tr_site(t, SITE_RESUME);
	as_call(&t->a, t->j->out);
	as32(&t->a, (u32)((u8 *)s - t->a.p));
	t->ended = true;
}

/* What can be put back. The size is hidden from the compiler, whose own copy (REP MOVS) takes as long as all else for most instructions. */
static void copy(struct tr *to, const struct tr *from)
{
	size_t size = offsetof(struct tr, stubs);
	asm("" : "+r"(size));
	memcpy(to, from, size);
}

static bool try_emit(struct tr *t, const struct insn *i)
{
	struct tr before;
	emit_fn *fn = jit_rows[i->op].emit;
	copy(&before, t);
	if (fn ? fn(t, i) : (tr_is_vec(i) && tr_vec(t, i)) || (tr_is_x87(i) && tr_x87(t, i)))
		return true;
	copy(t, &before);
	return false;
}

static void prepare_flags(struct tr *t, const struct insn *i, bool *lost)
{
	unsigned reads, kills, survive;
	bool emit = tr_emits(i), keeps = emit && (jit_rows[i->op].how & H_KEEPS) && !(i->flags & INSN_MEM);
	tr_flag_effect(i, &reads, &kills);
	survive = emit ? t->live[t->k] & ~kills : 0;
	if (t->kept.op && jit_rows[i->op].emit != e_jcc) { /* S1 is this one's */
		if (live_before(i, t->live[t->k]))
			tr_flags_save(t);
		t->kept.op = RC_NONE;
	}
	*lost = t->rc.op && (tr_writes(i) & recipe_regs(&t->rc));
	if (*lost && survive)
		tr_flags_save(t);
	if (!t->mem && !t->rc.op && !t->kept.op && t->host && !keeps && live_before(i, t->live[t->k]))
		tr_flags_save(t);
}

/* PUSH, POP and RET that their emitters take, with one access and no other use of RSP. */
static bool plain_stack(const struct tr *t, const struct insn *i)
{
	if (i->opsize != t->width || (i->flags & (INSN_MEM | INSN_LOCK)) || (!(i->flags & INSN_IMM) && i->dst == GPR_RSP))
		return false;
	if (i->op == ZYDIS_MNEMONIC_RET)
		return !i->aux8; /* near: e_ret() moves RSP for all */
	return i->op == ZYDIS_MNEMONIC_PUSH ? i->aux8 <= 2 : i->op == ZYDIS_MNEMONIC_POP && !i->aux8 && i->src2 != SEL_MOV_SPECIAL;
}

/* A run of PUSH and POP within a group moves RSP once, behind the last. */
void tr_settle_rsp(struct tr *t, const struct insn *i)
{
	t->may_be_late = i && plain_stack(t, i) && tr_access_is_free(t);
	if (t->may_be_late || !t->rsp_late)
		return;
	as_lea(&t->a, t->width, t->home[GPR_RSP], rm_mem(t->home[GPR_RSP], t->rsp_late));
	t->rsp_late = 0;
}

void tr_one(struct tr *t, const struct insn *i, bool last)
{
	bool lost;
	tr_settle_rsp(t, i);
	t->begin[t->first + t->k] = t->a.p;
	prepare_flags(t, i, &lost);
	if (jit_rows[i->op].how & (H_ENDS | H_LEAVES))
		tr_vec_flush(t);
	t->start = t->a.p;
	t->fresh = false;
	if (try_emit(t, i)) {
		t->emitted++;
		plan_follow(t, i, tr_writes(i));
		if (lost && !t->fresh)
			t->rc = rc_none();
		return;
	}
	if (!t->mem && !t->rc.op)
		tr_flags_save(t);
	tr_vec_flush(t);
	t->start = t->a.p;
	if (last) {
		hand_over(t);
		return;
	}
	u8 *over = tr_rdtsc_shared(t, i);
	tr_call_handler(t, tr_handler_site(t, i), over);
}

void tr_entries(struct tr *t)
{
	struct as *a = &t->a;
	t->code->far = a->p;
	as8(a, 0x4d); /* lea S0, [S0 - offset], always 7 bytes: room for the jump that death puts here */
	as8(a, 0x8d);
	as8(a, 0x92);
	as32(a, (u32)-t->b->off);
	as_store(a, 8, rm_abs(&t->hot->page), S0);
	t->code->near = a->p;
}

static bool ends_by_itself(const struct block *b) { return b->slots == b->n; }

void tr_insns(struct tr *t)
{
	struct block *b = t->b;
	tr_find_live(b, F_ALL, t->live_ + t->first);
	for (t->k = 0; t->k < b->n && !t->ended; t->k++) {
		const struct insn *i = &b->insn[t->k];
		tr_one(t, i, t->k + 1u == b->n && ends_by_itself(b));
	}
	if (!t->ended) {
		t->k = b->n - 1;
		tr_settle_rsp(t, NULL);
		tr_vec_flush(t);
		t->start = t->a.p;
		tr_goto(t, (i64)b->off + b->bytes);
	}
}

void tr_body(struct tr *t)
{
	t->mem = true;
	tr_insns(t);
}

void tr_block(struct tr *t)
{
	tr_entries(t);
	as_lea(&t->a, 8, LEFT, rm_mem(LEFT, -(i32)t->b->n));
	tr_body(t);
	t->hot_end = t->a.p;
	tr_edges(t);
	put_stubs(t);
}

/* ---- an instruction that goes on in the next page ---- */
bool tr_suits_crossing(const struct cpu *c, const struct block *b)
{
	return !jit_of(c)->lockstep && (b->key & MODE_L) && !tr_is_vec(&b->insn[1]) && !tr_is_x87(&b->insn[1]);
}

/* Leaves unless the TLB has the next page at hand, executable, and it is the one that was decoded: h_cross(), which does the same, is in slot 0. */
static void check_next_page(struct tr *t)
{
	struct as *a = &t->a;
	_Static_assert(sizeof(struct tlb_entry) == 32 && offsetof(struct tlb_ctx, e) == 0, "the index");
	as_load(a, 8, S0, rm_abs(&t->hot->page));
	as_lea(a, 8, S0, rm_mem(S0, PAGE_SIZE));
	as_mov(a, 8, S1, S0);
	as_ins(a, 0, 8, 0xc1, DIGIT | 5, rm_reg(S1), 1); /* shr */
	as8(a, 12 - 5);
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(S1), (TLB_ENTRIES - 1) << 5);
	as_mov_imm(a, HOST, (u64)(uintptr_t)&t->c->tlb->cur);
	as_alu_load(a, OP_ADD, 8, S1, rm_mem(HOST, 0));
	as_alu_load(a, OP_CMP, 8, S0, rm_mem(S1, offsetof(struct tlb_entry, tag)));
	tr_exit_if(t, CC_NE, SITE_RESUME);
	as_alu_imm(a, 0, OP_CMP, 4, rm_mem(S1, offsetof(struct tlb_entry, frame)), (u64)(i64)(i32)t->b->frame[1]);
	tr_exit_if(t, CC_NE, SITE_RESUME);
	as_mov_imm(a, HOST, (u64)(uintptr_t)&t->j->in.xneed);
	as_load(a, 4, HOST, rm_mem(HOST, 0));
	as_alu_load(a, OP_TEST, 4, HOST, rm_mem(S1, offsetof(struct tlb_entry, perm)));
	tr_exit_if(t, CC_E, SITE_RESUME);
}

static void crossing_block(struct tr *t)
{
	struct block *b = t->b;
	tr_entries(t);
	as_lea(&t->a, 8, LEFT, rm_mem(LEFT, -1));
	t->mem = true;
	t->start = t->a.p;
	check_next_page(t);
	t->k = 1;
	t->live_[1] = F_ALL;
	tr_one(t, &b->insn[1], b->slots == 2);
	if (!t->ended) {
		tr_settle_rsp(t, NULL);
		tr_vec_flush(t);
		t->start = t->a.p;
		tr_goto(t, (i64)b->off + b->bytes);
	}
	t->hot_end = t->a.p;
	put_stubs(t);
}

/* ---- */
u8 tr_width(const struct block *b) { return b->key & MODE_L ? 8 : 4; }

static bool suits(const struct block *b)
{
	u32 mode = b->key & 0xff;
	return jit_mode(mode) && !trace_on(TRACE_BLOCK) && b->key != BLOCK_DEAD_KEY && b->n;
}

static u64 now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* A handler called from host code costs as much as ten that run one after the other. */
static bool pays(const struct tr *t) { return (t->emitted || (t->b->n == 1 && t->ended)) && (t->handlers <= 1 || t->handlers * 4 <= t->emitted || !jit_hot); }

void tr_start(struct cpu *c, struct block *b, struct tr *t, struct plan *plan)
{
	struct jit *j = jit_of(c);
	memset(t, 0, offsetof(struct tr, stubs));
	if (trace_on(TRACE_JIT))
		memset(t->begin, 0, sizeof t->begin);
	t->c = c;
	t->j = j;
	t->hot = j->hot;
	t->b = b;
	t->width = tr_width(b);
	t->plan = plan;
	t->live = t->live_;
	memset(t->in_host, NO_GROUP, sizeof t->in_host);
	memcpy(t->home, jit_home, sizeof t->home);
	t->code = (struct code *)align_down((uintptr_t)(j->sites - sizeof *t->code), 8);
	*t->code = (struct code){ .block = b };
	t->cold = (u8 *)t->code;
	t->a = (struct as){ (u8 *)align_up((uintptr_t)j->next, 16), t->cold };
}

void tr_commit(struct tr *t)
{
	struct jit *j = t->j;
	t->code->next = j->all;
	j->all = t->code;
	j->stats.bytes += (u64)(t->a.p - t->code->far);
	j->next = t->a.p;
	j->sites = t->cold;
}

void tr_start_joined(struct cpu *c, struct block *b, struct tr *t, struct plan *plan)
{
	tr_start(c, b, t, plan);
	t->join.on = !t->j->lockstep; /* which wants stretches of one block */
	t->join.path[0] = b;
	t->join.insns = (u8)b->n;
}

/* Without groups, then with them if there are any, then with a twin if they have often split. */
static void translate_block(struct cpu *c, struct block *b, struct tr *t, struct plan *plan)
{
	bool lockstep = jit_of(c)->lockstep, splits = b->plain || (!jit_splits && !lockstep);
	struct twin w;
	if (b->frame[1] != NO_FRAME) {
		tr_start(c, b, t, NULL);
		crossing_block(t);
		return;
	}
	tr_start_joined(c, b, t, plan);
	tr_block(t);
	plan->n = t->naccess;
	if (!pays(t) || plan->n < 2 || (splits && lockstep))
		return;
	plan_make(plan);
	if (!plan->groups)
		return;
	if (!splits) {
		tr_start_joined(c, b, t, plan);
		tr_block(t);
	} else if (!twin_make(c, b, t, plan, &w)) {
		tr_start_joined(c, b, t, NULL);
		tr_block(t);
		return;
	}
	bug_if(plan->n != t->naccess);
}

bool jit_translate(struct cpu *c, struct block *b)
{
	struct jit *j = jit_of(c);
	if (!suits(b))
		return false;
	if (j->next + CODE_ROOM > j->sites)
		jit_cache_flush(c);
	u64 begin = now_ns();
	static _Thread_local struct tr t;
	struct plan plan = { .host = { HOST }, .hosts = 1 };
	translate_block(c, b, &t, &plan);
	if (t.join.n)
		join_note(&t);
	bug_if(t.a.p > t.cold);
	if (!pays(&t))
		return false;
	j->stats.helpers_built += t.handlers;
	if (trace_on(TRACE_JIT))
		tr_trace(&t);
	tr_commit(&t);
	b->code = t.code;
	jit_know_blocks(j, t.code);
	j->stats.joined += t.join.n;
	j->stats.blocks++;
	j->stats.insns += b->n;
	j->stats.ns += now_ns() - begin;
	return true;
}
