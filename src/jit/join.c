/* Blocks that follow each other within a page are translated together: at a jump or a call forward, and on both sides of a branch, the next block's host code
 * is put right here instead of a jump to it. So flags stay a recipe, and a group of accesses goes on over the border.
 *
 * Not a loop (region.c): each block begins by counting its instructions, and leaves as it would alone. A block can be in the code of several others, and in the
 * one of its own; when it dies they all go. Surprise: a block is joined by what ran so far. What never ran, runs backwards, or is on the way here already is
 * a jump. */
#include "jit/tr.h"
#include "jit/vec.h"

struct block *join_at(struct tr *t, i64 off, bool call)
{
	struct joins *w = &t->join;
	u64 page = t->c->arch.gpr[GPR_BLOCK_RIP] & PAGE_MASK;
	if (!w->on || off < 0 || off >= 4096 || (!call && off <= t->b->off) || w->n == JOIN_BLOCKS || w->depth == JOIN_DEPTH)
		return NULL;
	struct block *b = block_peek(t->c, page + (u64)off), *head = w->path[0];
	if (!b || b->frame[0] != head->frame[0] || b->frame[1] != NO_FRAME || (b->key & 0xff) != (head->key & 0xff) || b->off != off || !b->n || (b->plain && !head->plain) ||
	    w->insns + b->n > JOIN_INSNS || (!b->code && (b->heat * 4u < jit_hot || b->heat >= jit_hot))) /* cold, or better left to the interpreter */
		return NULL;
	for (unsigned n = 0; n <= w->depth; n++)
		if (w->path[n] == b)
			return NULL;
	return b;
}

void join_block(struct tr *t, struct block *b)
{
	struct joins *w = &t->join;
	struct block *from = t->b;
	const u8 *live = t->live;
	u8 *start = t->start;
	unsigned k = t->k, first = t->first;
	w->block[w->n] = b;
	w->first[w->n++] = w->insns;
	w->path[++w->depth] = b;
	t->first = w->insns;
	w->insns = (u8)(w->insns + b->n);
	t->b = b;
	t->live = t->live_ + t->first;
	as_lea(&t->a, 8, LEFT, rm_mem(LEFT, -(i32)b->n));
	t->ended = false;
	tr_insns(t);
	t->ended = false;
	t->b = from;
	t->k = k;
	t->first = first;
	t->live = live;
	t->start = start;
	w->depth--;
}

void fork_keep(const struct tr *t, struct fork *f)
{
	f->now = t->now;
	f->epoch = t->epoch;
	memcpy(f->version, t->version, sizeof f->version);
	memcpy(f->moved, t->moved, sizeof f->moved);
	memcpy(f->in_host, t->in_host, sizeof f->in_host);
	memcpy(f->aligned, t->aligned, sizeof f->aligned);
	memcpy(f->aligned_at, t->aligned_at, sizeof f->aligned_at);
}

void fork_back(struct tr *t, const struct fork *f)
{
	t->now = f->now;
	t->epoch = f->epoch;
	memcpy(t->version, f->version, sizeof f->version);
	memcpy(t->moved, f->moved, sizeof f->moved);
	memcpy(t->in_host, f->in_host, sizeof f->in_host);
	memcpy(t->aligned, f->aligned, sizeof f->aligned);
	memcpy(t->aligned_at, f->aligned_at, sizeof f->aligned_at);
}

void join_note(struct tr *t)
{
	const struct joins *w = &t->join;
	t->cold = (u8 *)align_down((uintptr_t)t->cold - w->n * sizeof(struct block *), 8);
	t->code->blocks = (struct block **)t->cold;
	t->code->nblocks = w->n;
	for (unsigned n = 0; n < w->n; n++) {
		t->code->blocks[n] = w->block[n];
		w->block[n]->in_region = true;
	}
}
