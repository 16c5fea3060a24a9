/* A block whose groups often go on in the next page (a stack across a page's border) is translated as twins: SLOW, each access with its own probe, and behind
 * it the block as it is entered, with groups. A group that cannot have what it wants goes on at the same instruction in SLOW, to the block's end.
 *
 * Not a region: one block, which ends as blocks do. Surprise: both must agree at each such place where flags and vector registers are, or there are no twins
 * and the block does without groups. */
#include "jit/tr.h"
#include <string.h>

static bool same_place(const struct place *x, const struct place *y)
{
	bool same_rc = x->rc.op == y->rc.op && (!x->rc.op || !memcmp(&x->rc, &y->rc, sizeof x->rc));
	return same_rc && x->mem == y->mem && x->vec_loaded == y->vec_loaded && x->vec_dirty == y->vec_dirty && x->vec_checked == y->vec_checked &&
	       x->vec_wide == y->vec_wide;
}

void twin_stub(struct tr *t, struct stub *st)
{
	struct twin *w = t->twin;
	unsigned n = t->first + t->k;
	st->insn = (u16)n;
	if (w->slow) {
		if (!w->at[n]) {
			w->at[n] = t->start;
			w->place[n] = t->now;
		}
	} else if (st->site->group && (!w->at[n] || !same_place(&w->place[n], &t->now))) {
		w->odd = true;
	}
}

void twin_put(struct tr *t, const struct stub *st)
{
	struct as *a = &t->a;
	u8 *slow = t->twin->at[st->insn];
	if (!slow) /* odd: this translation is thrown away */
		return;
	u8 *asks = NULL;
	if (st->site->guess) {
		as_alu_imm(a, 0, OP_CMP, 8, rm_reg(HOST), (u64)st->site->probe.limit);
		asks = as_jcc_short(a, CC_BE);
	}
	as_alu_imm(a, 0, OP_CMP, 8, rm_reg(HOST), 4095); /* offset in the page if the page was right */
	as_aim(as_jcc(a, CC_BE, a->p), slow);
	if (asks)
		as_here(a, asks);
	as_store(a, 8, rm_abs(&t->hot->keep[0]), HOST);
	st->site->probe.split = jit_off(t->j, slow);
}

bool twin_make(struct cpu *c, struct block *b, struct tr *t, struct plan *plan, struct twin *w)
{
	memset(w, 0, sizeof *w);
	tr_start_joined(c, b, t, plan);
	t->twin = w;
	t->plan = NULL; /* no groups */
	w->slow = true;
	tr_body(t);
	tr_edges(t);
	struct as a = t->a;
	u8 *cold = t->cold;
	unsigned nstubs = t->nstubs;
	u32 own = t->code->own;
	tr_start_joined(c, b, t, plan);
	t->a = a;
	t->cold = cold;
	t->nstubs = nstubs;
	t->code->own = own;
	t->twin = w;
	w->slow = false;
	tr_block(t);
	return !w->odd;
}
