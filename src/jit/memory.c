/* Guest memory from host code: the effective address, then a probe of the bank (cpu/mmu.h) that does tag, permission and page crossing with one
 * compare:
 *
 *   lea  S0, address        rorx S1, S0, 7        and S1d, (entries - 1) * 32
 *   xor  S0, gs:[S1]        (offset in the page if the tag is right, else something above)
 *   cmp  S0, 4096 - size    ja miss
 *   add  S0, gs:[S1 + host]
 *
 * A site whose address mostly stays in one page (the stack, a structure) needs not look for the page's place: it has the place in its code, as a guess.
 *
 *   lea  S0, address        xor  S0, gs:[guess]
 *   cmp  S0, 4096 - size    ja   thunk             (which looks in the right place, and now and then has C guess again)
 *   add  S0, gs:[guess + host]
 *
 * This is as safe as the other: a place holds its page's tag or one that no guest can name. Where the address wanders, C has the block translated anew without
 * guesses at that instruction (block.scattered).
 *
 * A miss goes to C, which fills the entry if it can and tries the instruction again, or has the interpreter go on with it.
 *
 * Accesses near each other whose addresses differ by constants are a group (group.c): the first one probes for all of them and leaves the host address
 * in HOST. A group whose page lacks a permission that only a later member needs, or that goes on in the next page, is a miss too: the interpreter
 * does the rest of the block, and when that happens often the block gets a twin without groups (twin.c). */
#include "jit/tr.h"

_Static_assert(sizeof(struct tlb_fast) == 32, "the shifts of probe and thunk");

/* Base and index in registers; at most one load each. */
static struct rm plain(struct tr *t, const struct address *at, unsigned to)
{
	struct as *a = &t->a;
	unsigned base = at->base, index = at->index, bh, ih;
	i32 disp = (i32)at->disp;
	if (index == GPR_ZERO && base == GPR_ZERO) {
		as_mov_imm(a, to, (u64)(i64)disp);
		return rm_mem(to, 0);
	}
	if (base == GPR_BLOCK_RIP) {
		as_load(a, 8, to, rm_abs(&t->hot->page));
		return rm_mem(to, disp);
	}
	if (index == GPR_ZERO) {
		if (homed(t, base))
			return rm_mem(t->home[base], disp);
		as_load(a, 8, to, greg(t, base));
		return rm_mem(to, disp);
	}
	ih = homed(t, index) ? t->home[index] : to;
	if (!homed(t, index))
		as_load(a, 8, to, greg(t, index));
	if (base == GPR_ZERO) {
		as_mov_imm(a, S1, (u64)(i64)disp);
		return rm_sib(S1, ih, at->scale, 0);
	}
	bh = homed(t, base) ? t->home[base] : S1;
	if (!homed(t, base))
		as_load(a, 8, S1, greg(t, base));
	return rm_sib(bh, ih, at->scale, disp);
}

static bool has_form(const struct tr *t, const struct insn *i)
{
	return i->asize >= 4 && (i->base != GPR_BLOCK_RIP || (i->index == GPR_ZERO && fits32((i64)i->disp + t->b->off)));
}
static struct address address_of(const struct tr *t, const struct insn *i)
{
	return (struct address){ i->base, i->index, i->index == GPR_ZERO ? 0 : i->scale, i->base == GPR_BLOCK_RIP ? (i64)i->disp + t->b->off : i->disp };
}

static void effective(struct tr *t, const struct address *at, unsigned size, unsigned to)
{
	struct rm m = plain(t, at, to);
	if (m.kind == RM_MEM && m.disp == 0) {
		if (m.reg != to || size == 4)
			as_mov(&t->a, size, to, m.reg);
	} else {
		as_lea(&t->a, size, to, m);
	}
}

/* What the address is in the block's first run, which begins now, if the registers still are what they were at its start, but for constants; else 0. The first guess. */
static u64 register_now(const struct tr *t, unsigned g)
{
	const u64 *gpr = t->c->arch.gpr;
	return g == GPR_ZERO ? 0 : g == GPR_BLOCK_RIP ? gpr[g] & PAGE_MASK : gpr[g] + (u64)t->moved[g];
}

static void expect(struct tr *t, const struct address *at)
{
	bool known = !t->version[at->base] && !t->version[at->index];
	u64 la = register_now(t, at->base) + (register_now(t, at->index) << at->scale) + (u64)at->disp;
	t->expected = !known ? 0 : t->width == 8 ? la : (u32)la;
}

/* No flags change. */
bool tr_effective(struct tr *t, const struct insn *i, unsigned to)
{
	if (!has_form(t, i))
		return false;
	struct address at = address_of(t, i);
	effective(t, &at, i->asize == 4 ? 4 : 8, to);
	return true;
}

/* ---- probes ---- */
static i32 tag_at(bool write) { return write ? offsetof(struct tlb_fast, w) : offsetof(struct tlb_fast, r); }

/* to = offset of reg's place in the bank. */
static void memory_place(struct as *a, const struct jit *j, unsigned to, unsigned reg)
{
	if (j->bmi2) {
		const u8 rorx[] = { 0xc4, 0x43 | (to & 8 ? 0 : 0x80) | (reg & 8 ? 0 : 0x20), 0xfb, 0xf0, 0xc0 | (to & 7) << 3 | (reg & 7), 7 }; /* rorx to, reg, 7 */
		memcpy(a->p, rorx, sizeof rorx);
		a->p += sizeof rorx;
	} else {
		as_mov(a, 8, to, reg);
		as_ins(a, 0, 8, 0xc1, DIGIT | 5, rm_reg(to), 1); /* shr */
		as8(a, 7);
	}
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(to), (TLB_ENTRIES - 1) * sizeof(struct tlb_fast));
}

static bool may_guess(const struct tr *t) { return !t->region && !t->j->lockstep && !(t->b->scattered >> t->k & 1); }

static struct rm bank_at(u32 place, i32 field) { return rm_index(RSP, 0, (i32)place + field); } /* RSP: no index */

/* Where the first of the two displacements is, and how far the second is from it: jit_guess() writes both. */
static void guess(struct tr *t, unsigned reg, unsigned size, struct site *s)
{
	struct as *a = &t->a;
	s->guess = true;
	s->probe.place = 0;
	s->probe.limit = 4096 - size;
	as_gs(a);
	as_alu_load(a, OP_XOR, 8, reg, bank_at(0, tag_at(s->kind == SITE_WRITE)));
	s->probe.at = jit_off(t->j, a->p - 4);
	as_alu_imm(a, 0, OP_CMP, 8, rm_reg(reg), 4096 - size);
	tr_stub(t, as_jcc(a, CC_A, a->p), s);
	as_gs(a);
	as_alu_load(a, OP_ADD, 8, reg, bank_at(0, offsetof(struct tlb_fast, host)));
	bug_if(a->p - 4 != jit_host(t->j, s->probe.at + GUESS_NEXT));
	jit_guess(t->j, s, ((t->expected >> 12) & (TLB_ENTRIES - 1)) * sizeof(struct tlb_fast));
	s->probe.left = 0; /* when it is wrong C is asked at once */
	t->host = 0;
}

void jit_guess(struct jit *j, struct site *s, u32 place)
{
	u16 number = (u16)(place / sizeof(struct tlb_fast));
	u32 at[2] = { place + (u32)tag_at(s->kind == SITE_WRITE), place + offsetof(struct tlb_fast, host) };
	s->probe.left = GUESSES;
	if (s->probe.place == number)
		return;
	s->probe.place = number;
	memcpy(jit_host(j, s->probe.at), &at[0], 4);
	memcpy(jit_host(j, s->probe.at + GUESS_NEXT), &at[1], 4);
}

u8 *jit_behind_probe(const struct jit *j, const struct site *s) { return jit_host(j, s->guess ? s->probe.at + GUESS_NEXT + 4 : s->probe.at); }

void memory_stub(struct tr *t, const struct site *s)
{
	struct as *a = &t->a;
	if (!s->guess)
		as_store(a, 8, rm_abs(&t->hot->place), S1);
	as_lea(a, 8, S1, rm_abs(s));
	as_call(a, t->j->search[s->guess][s->kind == SITE_WRITE][s->group]);
	as_jmp(a, jit_behind_probe(t->j, s));
}

/* reg = linear -> host, if the page is at place RAX. */
static void look_at(struct as *a, bool write, unsigned reg)
{
	as_gs(a);
	as_alu_load(a, OP_XOR, 8, reg, rm_mem(RAX, tag_at(write)));
	as_alu_load(a, OP_CMP, 8, reg, rm_mem(S1, offsetof(struct site, probe.limit)));
}

/* RAX = offset of reg's place among those aside: mmu_aside_slot(). */
static void aside_place(struct as *a, unsigned reg)
{
	as_mov(a, 8, RAX, reg);
	as_ins(a, 0, 8, 0xc1, DIGIT | 5, rm_reg(RAX), 1); /* shr */
	as8(a, 11);
	as_alu_load(a, OP_XOR, 8, RAX, rm_reg(reg));
	as_ins(a, 0, 8, 0xc1, DIGIT | 5, rm_reg(RAX), 1);
	as8(a, 7);
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(RAX), (TLB_ASIDE - 1) * sizeof(struct tlb_fast));
	as_alu_imm(a, 0, OP_ADD, 4, rm_reg(RAX), offsetof(struct tlb_bank, aside));
}

/* RAX = offset of the window that reg may lie in: mmu_window_slot(). */
static void window_place(struct as *a, unsigned reg)
{
	as_mov(a, 8, RAX, reg);
	as_ins(a, 0, 8, 0xc1, DIGIT | 5, rm_reg(RAX), 1); /* shr */
	as8(a, TLB_RUN_SHIFT - 5);
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(RAX), (TLB_WINDOWS - 1) * sizeof(struct tlb_fast));
	as_alu_imm(a, 0, OP_ADD, 4, rm_reg(RAX), offsetof(struct tlb_bank, window));
}

/* reg: offset in the window at RAX. Where this page was also the last that was found, or every TLB_WINDOW_ASKS times: jumps to be aimed at what asks C for a place for
 * the page. */
static void page_again(struct as *a, unsigned reg, u8 *again[2])
{
	as_push(a, RCX);
	as_mov(a, 4, RCX, reg);
	as_ins(a, 0, 4, 0xc1, DIGIT | 5, rm_reg(RCX), 1); /* shr */
	as8(a, 12);
	as_gs(a);
	as_alu_load(a, OP_CMP, 4, RCX, rm_mem(RAX, offsetof(struct tlb_fast, last)));
	as_gs(a);
	as_store(a, 4, rm_mem(RAX, offsetof(struct tlb_fast, last)), RCX);
	as_pop(a, RCX);
	again[0] = as_jcc(a, CC_E, a->p);
	as_gs(a);
	as_alu_imm(a, 0, OP_SUB, 4, rm_mem(RAX, offsetof(struct tlb_fast, left)), 1);
	again[1] = as_jcc(a, CC_S, a->p);
}

/* reg: linear address. Returns with the host's, if it is in a window; that an access goes on in the next page does not matter there. Else RAX and reg as if its place had
 * been looked at last. pages: not if the page should have a place of its own. */
static void search_windows(struct as *a, struct jit *j, bool write, bool pages, unsigned reg)
{
	const i32 size = 1 << TLB_RUN_SHIFT;
	u8 *again[2];
	window_place(a, reg);
	as_gs(a);
	as_alu_load(a, OP_XOR, 8, reg, rm_mem(RAX, tag_at(write)));
	as_alu_imm(a, 0, OP_CMP, 8, rm_reg(reg), (u64)size - 1);
	u8 *other = as_jcc(a, CC_A, a->p);
	as_alu_imm(a, 0, OP_SUB, 8, rm_reg(reg), (u64)size - PAGE_SIZE);
	as_alu_load(a, OP_CMP, 8, reg, rm_mem(S1, offsetof(struct site, probe.limit)));
	u8 *beyond = as_jcc(a, CC_G, a->p);
	as_alu_imm(a, 0, OP_ADD, 8, rm_reg(reg), (u64)size - PAGE_SIZE);
	if (pages)
		page_again(a, reg, again);
	as_gs(a);
	as_alu_load(a, OP_ADD, 8, reg, rm_mem(RAX, offsetof(struct tlb_fast, host)));
	as_load(a, 8, RAX, rm_abs(&j->hot->search_rax));
	as8(a, 0xc3);
	as_aim(beyond, a->p);
	as_alu_imm(a, 0, OP_ADD, 8, rm_reg(reg), (u64)size - PAGE_SIZE);
	as_aim(other, a->p);
	for (unsigned n = 0; pages && n < 2; n++)
		as_aim(again[n], a->p);
	as_gs(a);
	as_alu_load(a, OP_XOR, 8, reg, rm_mem(RAX, tag_at(write)));
	memory_place(a, j, RAX, reg);
	as_gs(a);
	as_alu_load(a, OP_XOR, 8, reg, rm_mem(RAX, tag_at(write)));
}

/* S1: the site of a read, reg: its offset in the page whose place is RAX, in which it does not end. Returns with an address in hot->both if it has up to BORDER bytes and the
 * next page is in its place: the last bytes of one page and the first of the other lie there, where the host's address has the alignment of the guest's. */
#define BORDER 32
static void search_border(struct as *a, struct jit *j, unsigned reg)
{
	_Static_assert(sizeof j->hot->both >= 2 * BORDER, "both");
	as_alu_imm(a, 0, OP_CMP, 8, rm_mem(S1, offsetof(struct site, probe.limit)), PAGE_SIZE - BORDER);
	u8 *long_one = as_jcc(a, CC_B, a->p);
	as_push(a, RCX);
	as_push(a, RDX);
	as_lea(a, 8, RCX, rm_mem(RAX, sizeof(struct tlb_fast)));
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(RCX), (TLB_ENTRIES - 1) * sizeof(struct tlb_fast));
	as_gs(a);
	as_load(a, 8, RDX, rm_mem(RAX, tag_at(false)));
	as_alu_imm(a, 0, OP_ADD, 8, rm_reg(RDX), PAGE_SIZE);
	as_gs(a);
	as_alu_load(a, OP_CMP, 8, RDX, rm_mem(RCX, tag_at(false)));
	u8 *other = as_jcc(a, CC_NE, a->p);
	as_gs(a);
	as_load(a, 8, RDX, rm_mem(RAX, offsetof(struct tlb_fast, host)));
	as_gs(a);
	as_load(a, 8, RCX, rm_mem(RCX, offsetof(struct tlb_fast, host)));
	for (unsigned at = 0; at < 2 * BORDER; at += 8) {
		as_load(a, 8, RAX, at < BORDER ? rm_mem(RDX, (i32)(PAGE_SIZE - BORDER + at)) : rm_mem(RCX, (i32)(at - BORDER)));
		as_store(a, 8, rm_abs(j->hot->both + at), RAX);
	}
	as_lea(a, 8, RAX, rm_abs(j->hot->both));
	as_lea(a, 8, reg, rm_sib(RAX, reg, 0, -(i32)(PAGE_SIZE - BORDER)));
	as_alu_imm(a, 0, OP_ADD, 8, rm_abs(&j->hot->borders), 1);
	as_pop(a, RDX);
	as_pop(a, RCX);
	as_load(a, 8, RAX, rm_abs(&j->hot->search_rax));
	as8(a, 0xc3);
	as_aim(other, a->p);
	as_pop(a, RDX);
	as_pop(a, RCX);
	as_aim(long_one, a->p);
}

/* S1: the site of a probe that failed; reg: address xor the tag that was there. Back behind the probe with the host address; or, when the page is not aside either, or
 * too many guesses were wrong, or the access goes on in the next page: SEARCH_BACK bytes further on, as a probe that fails. Windows come last. */
u8 *memory_search_thunk(struct as *a, struct jit *j, bool guess, bool write, unsigned reg)
{
	u8 *thunk = a->p, *found = NULL, *ask = NULL;
	struct hot *h = j->hot;
	as_store(a, 8, rm_abs(&h->search_rax), RAX);
	if (guess) {
		as_ins(a, 0, 4, 0x0fb7, RAX, rm_mem(S1, offsetof(struct site, probe.place)), 0); /* movzx */
		as_ins(a, 0, 4, 0xc1, DIGIT | 4, rm_reg(RAX), 1); /* shl */
		as8(a, 5);
		as_gs(a);
		as_alu_load(a, OP_XOR, 8, reg, rm_mem(RAX, tag_at(write)));
		memory_place(a, j, RAX, reg);
		look_at(a, write, reg);
		found = as_jcc(a, CC_BE, a->p);
	} else {
		as_load(a, 8, RAX, rm_abs(&h->place));
	}
	as_alu_imm(a, 0, OP_CMP, 8, rm_reg(reg), 4095);
	u8 *straddles = as_jcc(a, CC_BE, a->p);
	as_gs(a);
	as_alu_load(a, OP_XOR, 8, reg, rm_mem(RAX, tag_at(write)));
	aside_place(a, reg);
	look_at(a, write, reg);
	u8 *miss = as_jcc(a, CC_A, a->p);
	if (guess) {
		as_aim(found, a->p);
		as_alu_imm(a, 0, OP_SUB, 2, rm_mem(S1, offsetof(struct site, probe.left)), 1);
		ask = as_jcc(a, CC_S, a->p);
	}
	as_gs(a);
	as_alu_load(a, OP_ADD, 8, reg, rm_mem(RAX, offsetof(struct tlb_fast, host)));
	as_load(a, 8, RAX, rm_abs(&h->search_rax));
	as8(a, 0xc3);
	as_aim(miss, a->p);
	as_gs(a);
	as_alu_load(a, OP_XOR, 8, reg, rm_mem(RAX, tag_at(write)));
	search_windows(a, j, write, true, reg);
	u8 *not_in_one = as_jmp(a, a->p);
	as_aim(straddles, a->p);
	if (!write && reg == S0 && !j->lockstep)
		search_border(a, j, reg);
	as_gs(a);
	as_alu_load(a, OP_XOR, 8, reg, rm_mem(RAX, tag_at(write)));
	search_windows(a, j, write, false, reg);
	as_aim(not_in_one, a->p);
	if (guess)
		as_aim(ask, a->p);
	as_mov(a, 8, S1, RAX);
	as_load(a, 8, RAX, rm_abs(&h->search_rax));
	as_alu_imm(a, 0, OP_ADD, 8, rm_mem(RSP, 0), SEARCH_BACK);
	as8(a, 0xc3);
	return thunk;
}

/* reg: linear -> host address of `size` bytes, or to the site. Changes S1 and the host's flags. */
static void probe(struct tr *t, unsigned reg, unsigned size, struct site *s)
{
	struct as *a = &t->a;
	if (may_guess(t)) {
		guess(t, reg, size, s);
		t->expected = 0;
		return;
	}
	memory_place(a, t->j, S1, reg);
	as_gs(a);
	as_alu_load(a, OP_XOR, 8, reg, rm_mem(S1, tag_at(s->kind == SITE_WRITE)));
	as_alu_imm(a, 0, OP_CMP, 8, rm_reg(reg), 4096 - size);
	tr_stub(t, as_jcc(a, CC_A, a->p), s);
	as_gs(a);
	as_alu_load(a, OP_ADD, 8, reg, rm_mem(S1, offsetof(struct tlb_fast, host)));
	s->probe.at = jit_off(t->j, a->p);
	s->probe.limit = 4096 - size;
	t->host = 0;
}

/* Lockstep wants to know what is at S0 before it is overwritten. */
void tr_log_store(struct tr *t, unsigned size)
{
	struct as *a = &t->a;
	if (t->m.reg != S0)
		as_lea(a, 8, S0, t->m);
	struct site *s = tr_site(t, SITE_LOG);
	s->size = (u16)size;
	as_call(a, s->vec ? t->j->out_vec : t->j->out);
	as32(a, (u32)((u8 *)s - a->p));
	s->retry = jit_off(t->j, a->p);
	t->host = 0;
}

/* S0 has the linear address. */
static bool probes_twice(const struct insn *i)
{
	return (i->op == ZYDIS_MNEMONIC_PUSH || i->op == ZYDIS_MNEMONIC_POP || i->op == ZYDIS_MNEMONIC_CALL) && (i->flags & INSN_MEM);
}

static void single(struct tr *t, unsigned size, bool write)
{
	struct site *s = tr_site(t, write ? SITE_WRITE : SITE_READ);
	s->size = (u16)size;
	s->twice = probes_twice(&t->b->insn[t->k]);
	probe(t, S0, size, s);
	t->probed = s;
	t->m = rm_mem(S0, 0);
}

/* ---- groups ---- */
static i64 moved(const struct tr *t, const struct address *at)
{
	u64 base = at->base == GPR_ZERO ? 0 : (u64)t->moved[at->base];
	return (i64)(base + (at->index == GPR_ZERO ? 0 : (u64)t->moved[at->index] << at->scale));
}

/* In 32-bit code addresses wrap at 4 GiB: constants are what they are modulo that, and a group's members lie in one page. */
static i64 wrapped(const struct tr *t, i64 disp) { return t->width == 8 ? disp : (i32)disp; }

static struct access *note_access(struct tr *t, const struct address *at, unsigned size, bool write)
{
	struct plan *p = t->plan;
	if (!p || t->naccess == MAX_ACCESSES)
		return NULL;
	struct access *x = &p->access[t->naccess++];
	if (!p->made) {
		*x = (struct access){ *at, t->version[at->base], t->version[at->index], t->epoch, (u16)region_k(t), (u16)size, write, NO_GROUP };
		x->at.disp = wrapped(t, x->at.disp + moved(t, at));
	}
	return x;
}

/* The group's host address; the group's first access pays for all. */
void tr_establish(struct tr *t, const struct access *x, const struct group *g)
{
	unsigned reg = t->plan->host[g->host];
	struct address from = x->at;
	from.disp = wrapped(t, g->lo - moved(t, &x->at));
	effective(t, &from, t->width, reg);
	expect(t, &from);
	struct site *s = tr_site(t, g->write ? SITE_WRITE : SITE_READ);
	s->size = g->span;
	s->group = true;
	s->host = g->host;
	s->writes = x->write;
	s->first = (u16)(x->at.disp - g->lo);
	s->twice = probes_twice(&t->b->insn[t->k]);
	probe(t, reg, g->span, s);
	t->in_host[g->host] = x->group;
}

bool tr_access_is_free(const struct tr *t)
{
	const struct plan *p = t->plan;
	if (!p || !p->made || t->naccess == MAX_ACCESSES || t->j->lockstep)
		return false;
	unsigned group = p->access[t->naccess].group;
	return group != NO_GROUP && t->in_host[p->group[group].host] == group;
}

void tr_access(struct tr *t, const struct address *at, unsigned size, bool write)
{
	const struct access *x = note_access(t, at, size, write);
	if (!x || x->group == NO_GROUP) {
		effective(t, at, t->width, S0);
		expect(t, at);
		single(t, size, write);
	} else {
		const struct group *g = &t->plan->group[x->group];
		if (t->in_host[g->host] != x->group) {
			t->aligned[g->host] = 0;
			if (g->held)
				region_step(t, x, g);
			else
				tr_establish(t, x, g);
		}
		t->probed = NULL;
		t->m = rm_mem(t->plan->host[g->host], (i32)(x->at.disp - g->lo));
	}
	if (t->j->lockstep && write)
		tr_log_store(t, size);
}

/* Neither base nor limit. */
static bool is_flat(const struct tr *t, const struct insn *i) { return i->seg != SEG_FS && i->seg != SEG_GS && (t->width == 8 || i->seg != SEG_CS); }

/* FS and GS of 32-bit code have a limit and a type: leaves unless they span all. */
static void need_wide(struct tr *t, unsigned seg)
{
	if (t->width == 8)
		return;
	as_alu_imm(&t->a, 0, OP_CMP, 4, rm_abs((const u8 *)&t->c->bound_w[seg] + 4), 0);
	tr_exit_if(t, CC_E, SITE_RESUME);
}

bool tr_address(struct tr *t, const struct insn *i)
{
	if (!has_form(t, i) || (t->width == 4 && i->seg == SEG_CS))
		return false;
	struct address at = address_of(t, i);
	expect(t, &at);
	if (!is_flat(t, i)) {
		need_wide(t, i->seg);
		t->expected += t->c->seg_base[i->seg];
	}
	if (!is_flat(t, i) && t->width == 8 && i->asize == 8 && at.base == GPR_ZERO && at.index == GPR_ZERO) { /* one instruction less */
		as_load(&t->a, 8, S0, rm_abs(&t->c->seg_base[i->seg]));
		as_lea(&t->a, 8, S0, rm_mem(S0, (i32)at.disp));
		return true;
	}
	effective(t, &at, i->asize == 4 ? 4 : 8, S0);
	if (!is_flat(t, i) && t->width == 4) { /* what goes on beyond the segment's end is #GP, wherever the segment begins */
		as_alu_imm(&t->a, 0, OP_CMP, 4, rm_reg(S0), (u32)-64);
		tr_exit_if(t, CC_AE, SITE_RESUME);
	}
	if (!is_flat(t, i)) {
		as_alu_load(&t->a, OP_ADD, t->width, S0, rm_abs(&t->c->seg_base[i->seg]));
		t->host = 0;
	}
	return true;
}

void tr_probe(struct tr *t, unsigned size, bool write)
{
	single(t, size, write);
	if (t->j->lockstep && write)
		tr_log_store(t, size);
}

void tr_stored(struct tr *t)
{
	if (t->probed && !t->j->lockstep)
		t->probed->probe.store = (u8)(t->a.p - jit_behind_probe(t->j, t->probed));
}

bool tr_operand(struct tr *t, const struct insn *i, unsigned size, bool write)
{
	struct address at = address_of(t, i);
	if (has_form(t, i) && i->asize == t->width && is_flat(t, i)) {
		tr_access(t, &at, size, write);
		return true;
	}
	if (!tr_address(t, i))
		return false;
	tr_probe(t, size, write);
	return true;
}

void tr_aligned(struct tr *t, unsigned mask)
{
	struct as *a = &t->a;
	unsigned reg = t->m.reg;
	for (unsigned h = 0; reg != S0 && h < t->plan->hosts; h++)
		if (t->plan->host[h] == reg) {
			if (t->aligned[h] >= mask && !((t->m.disp - t->aligned_at[h]) & (i32)mask))
				return;
			t->aligned[h] = (u8)mask;
			t->aligned_at[h] = t->m.disp;
		}
	if (t->m.disp) {
		as_lea(a, 8, S0, t->m);
		reg = S0;
	}
	as_alu_imm(a, 0, OP_TEST, 1, rm_reg(reg), mask);
	t->host = 0;
	tr_exit_if(t, CC_NE, SITE_RESUME);
}
