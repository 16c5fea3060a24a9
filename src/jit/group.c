/* Which memory accesses of a block share one probe: those whose addresses differ by constants, while nothing can change translations in between.
 * Registers are followed by version: a write of anything but "plus a constant" makes a new one. A block is translated twice, once to see
 * its accesses, and again when groups were found. */
#include "jit/tr.h"

#define MAX_SPAN 512

/* ---- following registers ---- */
static void changed(struct tr *t, unsigned g)
{
	t->version[g] = ++t->versions;
	t->moved[g] = 0;
}

/* The constant that i adds to its destination, if that is all that it does. */
static bool adds_constant(const struct tr *t, const struct insn *i, i64 *by)
{
	if (i->opsize != t->width || (i->flags & INSN_MEM && i->op != ZYDIS_MNEMONIC_LEA))
		return false;
	switch (i->op) {
	case ZYDIS_MNEMONIC_ADD: *by = (i64)i->imm; return i->flags & INSN_IMM;
	case ZYDIS_MNEMONIC_SUB: *by = -(i64)i->imm; return i->flags & INSN_IMM;
	case ZYDIS_MNEMONIC_INC: *by = 1; return true;
	case ZYDIS_MNEMONIC_DEC: *by = -1; return true;
	case ZYDIS_MNEMONIC_LEA: *by = i->disp; return i->asize == t->width && i->base == i->dst && i->index == GPR_ZERO;
	}
	return false;
}

void plan_follow(struct tr *t, const struct insn *i, u32 writes)
{
	i64 by;
	if (i->op == ZYDIS_MNEMONIC_PUSH || (i->op == ZYDIS_MNEMONIC_POP && i->dst != GPR_RSP)) {
		t->moved[GPR_RSP] += i->op == ZYDIS_MNEMONIC_PUSH ? -(i64)t->width : t->width;
		writes &= ~(1u << GPR_RSP);
	} else if (adds_constant(t, i, &by)) {
		t->moved[i->dst] = (i64)((u64)t->moved[i->dst] + (u64)by);
		writes = 0;
	}
	for (; writes; writes &= writes - 1)
		changed(t, (unsigned)__builtin_ctz(writes));
}

void plan_forget(struct tr *t)
{
	t->epoch = ++t->epochs;
	memset(t->in_host, NO_GROUP, sizeof t->in_host);
}

/* ---- choosing ---- */
static bool same_base(const struct access *x, const struct access *y)
{
	return x->at.base == y->at.base && x->at.index == y->at.index && x->at.scale == y->at.scale && x->base_version == y->base_version &&
	       x->index_version == y->index_version && x->epoch == y->epoch;
}

/* A register belongs to one group at a time, from its first to its last instruction. */
static bool taken(const struct plan *p, unsigned host, unsigned k)
{
	for (unsigned n = 0; n < p->groups; n++)
		if (p->group[n].host == host && k >= p->group[n].first_k && k <= p->group[n].last_k)
			return true;
	return false;
}

/* Visits the members of the group that begins with access n and has this register; returns how many. mark: they become members. */
static unsigned members(struct plan *p, unsigned n, unsigned host, struct group *g, bool mark)
{
	const struct access *x = &p->access[n];
	unsigned count = 0;
	i64 hi = x->at.disp + x->size;
	*g = (struct group){ .lo = x->at.disp, .first_k = x->k, .host = (u8)host };
	for (unsigned m = n; m < p->n && !taken(p, host, p->access[m].k); m++) {
		struct access *y = &p->access[m];
		i64 from = y->at.disp, to = y->at.disp + y->size;
		if (y->group != NO_GROUP || !same_base(x, y) || from < g->lo - MAX_SPAN || to > hi + MAX_SPAN)
			continue;
		from = from < g->lo ? from : g->lo;
		to = to > hi ? to : hi;
		if (to - from > MAX_SPAN)
			continue;
		g->lo = from;
		hi = to;
		g->write |= y->write;
		g->last_k = y->k;
		count++;
		if (mark)
			y->group = (u8)p->groups;
	}
	g->span = (u16)(hi - g->lo);
	return count;
}

void plan_make(struct plan *p)
{
	for (;;) {
		unsigned best = 1, at = 0, host = 0;
		struct group g;
		for (unsigned n = 0; n < p->n; n++)
			for (unsigned h = 0; h < p->hosts && p->access[n].group == NO_GROUP; h++) {
				unsigned count = members(p, n, h, &g, false);
				if (count > best) {
					best = count;
					at = n;
					host = h;
				}
			}
		if (best == 1)
			break;
		members(p, at, host, &g, true);
		p->group[p->groups++] = g;
	}
	p->made = true;
}
