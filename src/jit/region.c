/* Regions: host code for one round of a hot loop, over the borders of its blocks. Inside, flags stay what they are and where they are, vector registers
 * stay loaded, guest registers that live in memory move into host registers whose owners the loop does not use, and groups of accesses span several
 * rounds, because FAST is the round copied a few times:
 *
 *   SLOW   one round, each access with its own probe       -> FAST
 *   far, near: registers change places; ENTRY  one round from what blocks hand over     -> FAST
 *   FAST   some rounds with groups; look whether the vCPU is wanted elsewhere -> FAST
 *   held: probes for groups of FAST that have left their page      -> FAST
 *   stubs: leave the loop for a block; leave host code; a group that goes on in the next page: the same instruction in SLOW
 *
 * Which way through the loop: as the interpreter ran one round (jit_record). Other ways leave it. Not here: loops with calls, returns, handlers, or blocks in
 * several pages. Instructions are counted at the end of each round; what leaves in the middle counts in its stub. */
#include "jit/tr.h"
#include "jit/vec.h"
#include <string.h>

#define REGION_INSNS 64 /* of a round */
#define MAX_COPIES 4
#define FAST_INSNS 40   /* copies while not more */
#define MAX_STEP 4096   /* of a held group */
#define REGION_ROOM (256 * 1024)

/* A group of FAST whose address moves by a constant each time: its register stays from one FAST to the next, and only when it leaves its page is there a probe. */
struct held {
	u8 *leaves, *back;       /* displacement of the jump to the probe; where it comes back */
	const struct access *x;
	const struct group *g;
	struct block *b;
	struct fork f;
	unsigned k, copy, first, counted;
};

enum part { ENTRY, SLOW, FAST };

struct region {
	const struct path *path;
	unsigned insns;          /* of a round */
	enum part part;
	unsigned copy, first;    /* number of the running copy; of its running block's first instruction */
	unsigned counted;        /* instructions of the round up to the end of the running block */
	u8 live[REGION_INSNS];
	u8 *slow[REGION_INSNS];  /* where SLOW begins each */
	struct place slow_place[REGION_INSNS];
	u32 displaced, adopted;  /* guest registers: their homes are lent; they live in such a home */
	bool odd;                /* FAST and SLOW disagree */
	struct held held[MAX_HOSTS];
	unsigned nheld;
	u8 *top;                 /* of FAST */
};

unsigned region_k(const struct tr *t)
{
	const struct region *r = t->region;
	return r ? r->copy * r->insns + r->first + t->k : t->first + t->k;
}

bool region_is_vex(const struct tr *t)
{
	const struct path *p = t->region->path;
	for (unsigned n = 0; n < p->n; n++)
		if (vec_is_vex(p->block[n]))
			return true;
	return false;
}

static bool same_recipe(const struct recipe *x, const struct recipe *y) { return x->op == y->op && (!x->op || !memcmp(x, y, sizeof *x)); }
static bool same_flags(const struct place *x, const struct place *y) { return x->mem == y->mem && same_recipe(&x->rc, &y->rc); }

void region_stub(struct tr *t, struct stub *st)
{
	struct region *r = t->region;
	unsigned n = r->first + t->k;
	st->now = t->now;
	st->counted = (u16)(r->copy * r->insns + r->counted);
	st->insn = (u16)n;
	st->copy = (u8)r->copy;
	st->part = (u8)r->part;
	memcpy(st->in_host, t->in_host, sizeof st->in_host);
	if (r->part == SLOW && !r->slow[n]) {
		r->slow[n] = t->start;
		r->slow_place[n] = t->now;
	}
	if (r->part == FAST && st->site->group && (!r->slow[n] || !same_flags(&r->slow_place[n], &t->now)))
		r->odd = true;
}

/* ---- recording ---- */
static bool follows(const struct block *b, const struct block *next)
{
	const struct insn *last = &b->insn[b->slots - 1];
	if (b->slots != b->n || !jit_rows[last->op].emit)
		return next->off == b->off + b->bytes;
	if (!(jit_rows[last->op].how & H_ENDS))
		return next->off == b->off + b->bytes;
	if (last->op == ZYDIS_MNEMONIC_CALL || last->op == ZYDIS_MNEMONIC_RET || last->opsize != tr_width(b) || (last->op == ZYDIS_MNEMONIC_JMP && last->aux8))
		return false;
	return next->off == tr_target(b, last) || (last->op != ZYDIS_MNEMONIC_JMP && next->off == tr_after(b, last));
}

void jit_record(struct cpu *c, struct block *b, u64 rip)
{
	struct jit *j = jit_of(c);
	struct path *p = &j->path;
	if (b->frame[1] != NO_FRAME) {
		p->on = false;
		return;
	}
	if (p->n && (rip & PAGE_MASK) == p->page && b->frame[0] == p->block[0]->frame[0] && follows(p->block[p->n - 1], b)) {
		if (b == p->block[0]) {
			p->on = false;
			jit_translate_region(c);
			return;
		}
	} else if (p->n || b != p->head) {
		p->on = false;
		return;
	}
	if (p->n == REGION_BLOCKS) {
		p->on = false;
		return;
	}
	p->page = rip & PAGE_MASK;
	p->block[p->n++] = b;
}

/* ---- one round ---- */
static bool suits_region(const struct insn *i)
{
	switch (i->op) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV: return true;
	case ZYDIS_MNEMONIC_CMPXCHG16B: return false; /* uses RBX and RCX unseen */
	default: return tr_emits(i) && !(jit_rows[i->op].how & H_STACK);
	}
}

static void leave_loop(struct tr *t, unsigned cond, i64 off)
{
	struct site *s = tr_site(t, SITE_LINK);
	s->link.off = (i32)off;
	s->link.at = off >= 0 && off < 4096; /* put_exit() knows better; 0: another page, never linked */
	tr_stub(t, as_jcc(&t->a, cond, t->a.p), s);
}

static void end_of_block(struct tr *t, const struct insn *i, const struct block *next)
{
	tr_settle_rsp(t, NULL);
	if (i->op == ZYDIS_MNEMONIC_JMP)
		return;
	unsigned cond = jit_rows[i->op].arg;
	i64 to = tr_target(t->b, i), over = tr_after(t->b, i);
	if (to == over)
		return;
	tr_flags_host(t, tr_cond_reads(cond));
	leave_loop(t, next->off == to ? cond ^ 1 : cond, next->off == to ? over : to);
}

static bool round_of(struct tr *t)
{
	struct region *r = t->region;
	const struct path *p = r->path;
	r->first = r->counted = 0;
	for (unsigned m = 0; m < p->n; m++) {
		struct block *b = p->block[m];
		t->b = b;
		r->counted += b->n;
		t->live = r->live + r->first;
		for (t->k = 0; t->k < b->n; t->k++) {
			const struct insn *i = &b->insn[t->k];
			if (t->k + 1u == b->n && jit_rows[i->op].emit && (jit_rows[i->op].how & H_ENDS)) {
				end_of_block(t, i, p->block[(m + 1) % p->n]);
				continue;
			}
			if (!suits_region(i))
				return false;
			tr_one(t, i, false);
			if (t->handlers || t->nstubs + 8 > MAX_STUBS)
				return false;
		}
		r->first += b->n;
	}
	t->k = 0;
	r->first = 0;
	t->b = p->block[0];
	t->live = r->live;
	return true;
}

/* Rounds end with flags that survive what counts them. */
static void settle_round(struct tr *t)
{
	tr_settle_rsp(t, NULL);
	if (!t->mem && !t->rc.op)
		tr_flags_save(t);
	t->host = 0;
}

/* ---- groups that are held ---- */
/* Its address in a limit that no address passes. */
static void forget_held(struct tr *t)
{
	for (unsigned n = 0; t->plan && n < t->plan->groups; n++)
		if (t->plan->group[n].held)
			as_store_imm(&t->a, 8, rm_abs(&t->hot->limit[t->plan->group[n].host]), t->plan->group[n].step < 0 ? ~0ull : 0);
}

static bool alone(const struct plan *p, const struct group *g, unsigned host)
{
	for (unsigned n = 0; n < p->groups; n++)
		if (&p->group[n] != g && p->group[n].host == host)
			return false;
	return true;
}

/* Since `from` register g changed by *by and nothing else, if by anything. */
static bool steps(const struct tr *t, const struct tr *from, unsigned g, unsigned version, i64 *by)
{
	*by = g == GPR_ZERO ? 0 : (i64)((u64)t->moved[g] - (u64)from->moved[g]);
	return t->version[g] == from->version[g] && version == t->version[g] && *by >= -MAX_STEP && *by <= MAX_STEP;
}

/* t: at the end of all copies, which began at `from`. */
static void hold_groups(const struct tr *t, const struct tr *from, struct plan *p)
{
	for (unsigned n = 0; n < p->groups; n++) {
		struct group *g = &p->group[n];
		const struct access *x = p->access;
		i64 base, index;
		while (x->group != n)
			x++;
		for (unsigned h = 0; h < p->hosts && !alone(p, g, g->host); h++)
			if (alone(p, g, h))
				g->host = (u8)h;
		if (t->width != 8 || !alone(p, g, g->host) || !steps(t, from, x->at.base, x->base_version, &base) || !steps(t, from, x->at.index, x->index_version, &index))
			continue;
		base += index * (1 << x->at.scale);
		g->held = base >= -MAX_STEP && base <= MAX_STEP;
		g->step = (i32)base;
	}
}

void region_step(struct tr *t, const struct access *x, const struct group *g)
{
	struct region *r = t->region;
	struct as *a = &t->a;
	unsigned reg = t->plan->host[g->host];
	struct held *h = &r->held[r->nheld++];
	bug_if(r->nheld > MAX_HOSTS);
	if (g->step)
		as_lea(a, 8, reg, rm_mem(reg, g->step));
	as_alu_load(a, OP_CMP, 8, reg, rm_abs(&t->hot->limit[g->host]));
	*h = (struct held){ .leaves = as_jcc(a, g->step < 0 ? CC_BE : CC_AE, a->p), .x = x, .g = g, .b = t->b, .k = t->k, .copy = r->copy, .first = r->first,
		.counted = r->counted };
	h->back = a->p;
	t->host = 0;
	fork_keep(t, &h->f);
	t->in_host[g->host] = x->group;
}

/* The register passes its limit when the next access would not lie in the page. */
static void put_held(struct tr *t)
{
	struct region *r = t->region;
	struct as *a = &t->a;
	r->part = FAST;
	for (unsigned n = 0; n < r->nheld; n++) {
		struct held *h = &r->held[n];
		unsigned reg = t->plan->host[h->g->host];
		fork_back(t, &h->f);
		t->b = h->b;
		t->k = h->k;
		r->copy = h->copy;
		r->first = h->first;
		r->counted = h->counted;
		t->start = a->p; /* a miss probes again */
		as_aim(h->leaves, a->p);
		tr_establish(t, h->x, h->g);
		as_mov(a, 8, S0, reg);
		as_alu_imm(a, 0, h->g->step < 0 ? OP_AND : OP_OR, 8, rm_reg(S0), h->g->step < 0 ? ~0xfffull : 0xfff);
		as_lea(a, 8, S0, rm_mem(S0, h->g->step < 0 ? -1 : 2 - (i32)h->g->span));
		as_store(a, 8, rm_abs(&t->hot->limit[h->g->host]), S0);
		as_jmp(a, h->back);
	}
}

/* rounds are over; to the site's block when the vCPU is wanted elsewhere. Returns the displacement of a jump to where it is not. */
static u8 *count_and_poll(struct tr *t, unsigned rounds)
{
	struct region *r = t->region;
	as_lea(&t->a, 8, LEFT, rm_mem(LEFT, -(i32)(rounds * r->insns)));
	r->copy = r->counted = 0;
	struct site *s = tr_site(t, SITE_LINK);
	s->link.off = r->path->block[0]->off;
	s->link.at = 0;
	u8 *on = flow_poll(t, CC_G);
	tr_stub(t, as_jmp(&t->a, t->a.p), s);
	return on;
}

/* ---- stubs ---- */
static unsigned lowest(u32 m) { return (unsigned)__builtin_ctz(m); }

/* The guest's registers to where blocks and C expect them, or back. */
static void canonical(struct tr *t)
{
	for (u32 m = t->region->adopted; m; m &= m - 1)
		as_store(&t->a, 8, rm_abs(&t->c->arch.gpr[lowest(m)]), t->home[lowest(m)]);
	for (u32 m = t->region->displaced; m; m &= m - 1)
		as_load(&t->a, 8, jit_home[lowest(m)], rm_abs(&t->c->arch.gpr[lowest(m)]));
}
static void own_places(struct tr *t)
{
	for (u32 m = t->region->adopted; m; m &= m - 1)
		as_load(&t->a, 8, t->home[lowest(m)], rm_abs(&t->c->arch.gpr[lowest(m)]));
}

static void move_hosts(struct tr *t, const struct stub *st, bool keep)
{
	for (unsigned h = 0; h < t->plan->hosts; h++) {
		unsigned reg = t->plan->host[h];
		bool asks = st->site->group && st->site->host == h;
		if (st->in_host[h] == NO_GROUP && !asks)
			continue;
		if (keep)
			as_store(&t->a, 8, rm_abs(&t->hot->keep[h]), reg);
		else
			as_load(&t->a, 8, reg, rm_abs(&t->hot->keep[h]));
	}
}

static void count(struct tr *t, i64 by)
{
	if (by)
		as_lea(&t->a, 8, LEFT, rm_mem(LEFT, (i32)by));
}

static void call_out(struct tr *t, const struct site *s)
{
	as_call(&t->a, s->vec ? t->j->out_vec : t->j->out);
	as32(&t->a, (u32)((const u8 *)s - t->a.p));
}

static void put_exit(struct tr *t, const struct stub *st)
{
	struct as *a = &t->a;
	struct site *s = st->site;
	t->now = st->now;
	t->region->odd |= !t->mem && !t->rc.op && t->host != F_ALL;
	tr_flags_save(t);
	tr_vec_flush(t);
	canonical(t);
	count(t, -(i64)st->counted);
	s->live = s->vec = false;
	s->vec_dirty = 0;
	if (s->link.at) {
		u8 *at = as_jmp(a, a->p + 5);
		s->link.at = jit_off(t->j, at);
		s->link.stub = jit_off(t->j, a->p);
		s->link.own = t->code->own;
		t->code->own = jit_off(t->j, s);
	}
	call_out(t, s);
}

static bool comes_back(const struct site *s) { return s->kind == SITE_READ || s->kind == SITE_WRITE || s->kind == SITE_FLAGS; }

/* Where C goes on behind a probe, or behind a store that it has done. */
static void put_behind(struct tr *t, const struct stub *st)
{
	struct site *s = st->site;
	const u8 *to = jit_behind_probe(t->j, s) + s->probe.store;
	if (s->kind == SITE_WRITE && !s->probe.store)
		return;
	s->probe.split = jit_off(t->j, t->a.p);
	own_places(t);
	count(t, st->counted);
	if (st->part == FAST) {
		move_hosts(t, st, false);
		forget_held(t);
	}
	as_jmp(&t->a, to);
}

static void put_site(struct tr *t, const struct stub *st)
{
	struct as *a = &t->a;
	struct site *s = st->site;
	struct region *r = t->region;
	u8 *straddles = NULL;
	if ((s->kind == SITE_READ || s->kind == SITE_WRITE) && (!s->group || t->plan->host[s->host] == HOST))
		memory_stub(t, s);
	if (s->group) { /* offset in the page if the page was right */
		as_alu_imm(a, 0, OP_CMP, 8, rm_reg(t->plan->host[s->host]), 4095);
		straddles = as_jcc(a, CC_BE, a->p);
	}
	if (st->part == FAST)
		move_hosts(t, st, true);
	canonical(t);
	count(t, -(i64)st->counted);
	call_out(t, s);
	if (!comes_back(s))
		return;
	u8 *retry = jit_host(t->j, s->retry);
	s->retry = jit_off(t->j, a->p);
	own_places(t);
	count(t, st->counted);
	if (st->part == FAST) {
		move_hosts(t, st, false);
		forget_held(t);
	}
	as_jmp(a, retry);
	if (!s->group) {
		if (s->kind != SITE_FLAGS)
			put_behind(t, st);
		return;
	}
	s->probe.split = jit_off(t->j, a->p);
	own_places(t);
	count(t, st->counted);
	as_aim(straddles, a->p);
	count(t, -(i64)(st->copy * r->insns));
	as_jmp(a, r->slow[st->insn]);
}

static void put_stubs(struct tr *t)
{
	t->hot_end = t->a.p;
	for (unsigned n = 0; n < t->nstubs; n++) {
		const struct stub *st = &t->stubs[n];
		as_aim(st->at, t->a.p);
		if (st->site->kind == SITE_LINK)
			put_exit(t, st);
		else
			put_site(t, st);
	}
}

/* ---- homes ---- */
/* Never rax, rcx, rdx: instructions use them unnamed. */
static const u8 lent[] = { GPR_RBX, GPR_R12, GPR_R13, GPR_R14, GPR_RBP, GPR_RDI, GPR_RSI, GPR_RSP };

static void choose_homes(struct tr *t, const u16 *uses, u32 touched, struct plan *plan)
{
	struct region *r = t->region;
	unsigned n = 0;
	plan->hosts = 0;
	plan->host[plan->hosts++] = HOST;
	r->adopted = r->displaced = 0;
	for (;; n++) {
		while (n < array_len(lent) && (uses[lent[n]] || (touched >> lent[n] & 1)))
			n++;
		if (n == array_len(lent))
			return;
		unsigned best = 16;
		for (unsigned g = 8; g < 16; g++)
			if (jit_home[g] == NO_HOME && !(r->adopted >> g & 1) && uses[g] && (best == 16 || uses[g] > uses[best]))
				best = g;
		if (best < 16) {
			t->home[best] = jit_home[lent[n]];
			r->adopted |= 1u << best;
		} else if (plan->hosts < MAX_HOSTS) {
			plan->host[plan->hosts++] = jit_home[lent[n]];
		} else {
			return;
		}
		r->displaced |= 1u << lent[n];
	}
}

/* ---- all of it ---- */
static bool find_live(struct region *r)
{
	const struct path *p = r->path;
	unsigned after = F_ALL;
	r->insns = 0;
	for (unsigned m = 0; m < p->n; m++)
		r->insns += p->block[m]->n;
	if (r->insns > REGION_INSNS)
		return false;
	for (unsigned again = 0; again < 2; again++) {
		unsigned first = r->insns;
		for (unsigned m = p->n; m-- > 0;) {
			first -= p->block[m]->n;
			after = tr_find_live(p->block[m], after, r->live + first);
		}
	}
	return true;
}

static void begin(struct cpu *c, struct tr *t, struct region *r, struct plan *plan)
{
	u8 home[16];
	memcpy(home, t->home, sizeof home);
	tr_start(c, r->path->block[0], t, plan);
	memcpy(t->home, home, sizeof home);
	t->region = r;
	t->plan = NULL; /* no groups */
	t->mem = true;
	r->copy = 0;
}

/* What a round hands to the next one. */
static bool dry_entry(struct cpu *c, struct tr *t, struct region *r, struct plan *plan, struct place *after)
{
	begin(c, t, r, plan);
	r->part = ENTRY;
	if (!round_of(t))
		return false;
	settle_round(t);
	*after = t->now;
	return true;
}

static bool same_place(const struct place *x, const struct place *y)
{
	return same_flags(x, y) && x->vec_loaded == y->vec_loaded && x->vec_dirty == y->vec_dirty && x->vec_wide == y->vec_wide;
}

/* Rounds with groups; leaves t at the end of the last. */
static bool fast(struct tr *t, unsigned copies, const struct place *between)
{
	struct region *r = t->region;
	r->part = FAST;
	for (r->copy = 0; r->copy < copies; r->copy++) {
		t->host = r->copy ? t->host : 0;
		if (!round_of(t))
			return false;
	}
	r->copy = copies - 1;
	settle_round(t);
	return same_place(&t->now, between);
}

static bool with_groups(struct tr *t, unsigned copies, struct plan *plan, const struct place *between)
{
	struct tr before;
	memcpy(&before, t, offsetof(struct tr, stubs));
	t->plan = plan;
	plan->n = plan->groups = 0;
	plan->made = false;
	if (!fast(t, copies, between))
		return false;
	plan->n = t->naccess;
	if (!t->code->block->plain)
		plan_make(plan);
	hold_groups(t, &before, plan);
	plan->made = true;
	memcpy(t, &before, offsetof(struct tr, stubs));
	t->plan = plan;
	t->region->odd = false;
	t->region->nheld = 0;
	forget_held(t);
	t->region->top = t->a.p;
	return fast(t, copies, between) && !t->region->odd;
}

static bool translate(struct cpu *c, struct tr *t, struct region *r, struct plan *plan)
{
	struct as *a = &t->a;
	struct place between;
	u32 touched = 0;
	for (unsigned m = 0; m < r->path->n; m++)
		for (unsigned k = 0; k < r->path->block[m]->n; k++)
			touched |= tr_writes(&r->path->block[m]->insn[k]);
	memcpy(t->home, jit_home, sizeof t->home);
	if (!dry_entry(c, t, r, plan, &between))
		return false;
	u16 uses[16];
	memcpy(uses, t->uses, sizeof uses);
	choose_homes(t, uses, touched, plan);
	if (!dry_entry(c, t, r, plan, &between))
		return false;
	begin(c, t, r, plan);
	t->now = between;
	r->part = SLOW;
	if (!round_of(t))
		return false;
	settle_round(t);
	if (!same_place(&t->now, &between))
		return false;
	u8 *to_fast = count_and_poll(t, 1);
	memset(&t->now, 0, sizeof t->now);
	t->mem = true;
	t->b = r->path->block[0];
	tr_entries(t);
	for (u32 m = r->displaced; m; m &= m - 1)
		as_store(a, 8, rm_abs(&c->arch.gpr[lowest(m)]), jit_home[lowest(m)]);
	own_places(t);
	r->part = ENTRY;
	if (!round_of(t))
		return false;
	settle_round(t);
	if (!same_place(&t->now, &between))
		return false;
	count(t, -(i64)r->insns);
	as_aim(to_fast, a->p);
	unsigned copies = 1;
	while (copies < MAX_COPIES && (copies + 1) * r->insns <= FAST_INSNS)
		copies++;
	if (!with_groups(t, copies, plan, &between))
		return false;
	as_aim(count_and_poll(t, copies), r->top);
	t->plan = plan;
	put_held(t);
	put_stubs(t);
	return !r->odd;
}

static void keep_path(struct tr *t, const struct path *p)
{
	t->cold = (u8 *)align_down((uintptr_t)t->cold - p->n * sizeof(struct block *), 8);
	t->code->blocks = (struct block **)t->cold;
	t->code->nblocks = p->n;
	for (unsigned n = 0; n < p->n; n++) {
		t->code->blocks[n] = p->block[n];
		p->block[n]->in_region = true;
	}
}

bool jit_translate_region(struct cpu *c)
{
	static _Thread_local struct { struct tr t; struct region r; struct plan plan; } w;
	struct jit *j = jit_of(c);
	struct block *head = j->path.block[0];
	if (j->next + REGION_ROOM > j->sites || head->key == BLOCK_DEAD_KEY)
		return false;
	memset(&w.r, 0, sizeof w.r);
	w.r.path = &j->path;
	if (!find_live(&w.r) || !translate(c, &w.t, &w.r, &w.plan))
		return false;
	bug_if(w.t.a.p > w.t.cold);
	if (trace_on(TRACE_JIT))
		tr_trace_region(&w.t, (u8 *)align_up((uintptr_t)j->next, 16));
	keep_path(&w.t, &j->path);
	tr_commit(&w.t);
	jit_replace(c, head, w.t.code);
	w.t.code->loop = true;
	jit_know_blocks(j, w.t.code);
	j->stats.regions++;
	j->stats.region_insns += w.r.insns;
	return true;
}
