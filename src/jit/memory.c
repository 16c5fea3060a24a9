/* Guest memory from host code: the effective address, then a probe of the bank (cpu/mmu.h) that does tag, permission and page crossing with one
 * compare:
 *
 *   lea  S0, address        rorx S1, S0, 7        and S1d, (entries - 1) * 32
 *   xor  S0, gs:[S1]        (offset in the page if the tag is right, else something above)
 *   cmp  S0, 4096 - size    ja miss
 *   add  S0, gs:[S1 + host]
 *
 * A miss goes to C, which fills the entry if it can and tries the instruction again, or has the interpreter go on with it.
 *
 * Accesses near each other whose addresses differ by constants are a group (group.c): the first one probes for all of them and leaves the host address
 * in HOST. A group whose page lacks a permission that only a later member needs, or that goes on in the next page, is a miss too: the interpreter
 * does the rest of the block, and when that happens often the block gets a twin without groups (twin.c). */
#include "jit/tr.h"

_Static_assert(sizeof(struct tlb_fast) == 32, "the probe's shift");

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
/* reg: linear -> host address of `size` bytes, or to the site. Changes S1 and the host's flags. */
static void probe(struct tr *t, unsigned reg, unsigned size, struct site *s)
{
	struct as *a = &t->a;
	if (t->j->bmi2) {
		const u8 rorx[] = { 0xc4, reg & 8 ? 0x43 : 0x63, 0xfb, 0xf0, 0xc0 | (S1 & 7) << 3 | (reg & 7), 7 }; /* rorx S1, reg, 7 */
		memcpy(a->p, rorx, sizeof rorx);
		a->p += sizeof rorx;
	} else {
		as_mov(a, 8, S1, reg);
		as_ins(a, 0, 8, 0xc1, DIGIT | 5, rm_reg(S1), 1); /* shr */
		as8(a, 7);
	}
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(S1), (TLB_ENTRIES - 1) * sizeof(struct tlb_fast));
	as_gs(a);
	as_alu_load(a, OP_XOR, 8, reg, rm_mem(S1, s->kind == SITE_WRITE ? offsetof(struct tlb_fast, w) : offsetof(struct tlb_fast, r)));
	as_alu_imm(a, 0, OP_CMP, 8, rm_reg(reg), 4096 - size);
	tr_stub(t, as_jcc(a, CC_A, a->p), s);
	as_gs(a);
	as_alu_load(a, OP_ADD, 8, reg, rm_mem(S1, offsetof(struct tlb_fast, host)));
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
static void single(struct tr *t, unsigned size, bool write)
{
	const struct insn *i = &t->b->insn[t->k];
	struct site *s = tr_site(t, write ? SITE_WRITE : SITE_READ);
	s->size = (u16)size;
	s->twice = (i->op == ZYDIS_MNEMONIC_PUSH || i->op == ZYDIS_MNEMONIC_POP || i->op == ZYDIS_MNEMONIC_CALL) && (i->flags & INSN_MEM);
	probe(t, S0, size, s);
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
static void establish(struct tr *t, const struct access *x, const struct group *g)
{
	unsigned reg = t->plan->host[g->host];
	struct address from = x->at;
	from.disp = wrapped(t, g->lo - moved(t, &x->at));
	effective(t, &from, t->width, reg);
	struct site *s = tr_site(t, g->write ? SITE_WRITE : SITE_READ);
	s->size = g->span;
	s->group = true;
	s->host = g->host;
	s->writes = x->write;
	probe(t, reg, g->span, s);
	t->in_host[g->host] = x->group;
	t->aligned[g->host] = 0;
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
		single(t, size, write);
	} else {
		const struct group *g = &t->plan->group[x->group];
		if (t->in_host[g->host] != x->group)
			establish(t, x, g);
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
	if (!is_flat(t, i))
		need_wide(t, i->seg);
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
