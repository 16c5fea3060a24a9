/* Whose return addresses are on the host's stack (flow.c pushes them): a stretch for each address space and privilege, so that a system call, a VM exit or a
 * process switch comes back to those that it left.
 *
 * A CALL does not ask whether there is room: it looks at LEFT, as everything does that a guest can do without end, so no more than one for each instruction of
 * a slice (16 bytes each, 1 MiB) come in between two looks at rsp_limit, here.
 *
 * The same address in 64-bit and in 32-bit mode is not the same code, so modes have stretches of their own.
 *
 *   top | user | kernel | kernel of another process, or the guest's | ... C's frames while it runs
 *
 * The stretch at the end is the one in use. Going to a space that has one ends all behind it; going to another begins one behind. C may not write below
 * h->rsp, for its own frames are there: the thunk that called it has put `ret_empty` there, which is what a new stretch's bottom must hold.
 *
 * Surprise: user code must never find a kernel's addresses here, nor the other way round. That they are compared with the guest's own is not enough: a jump
 * to a kernel's address must fault. */
#include "jit/jit.h"

#define SLACK 16384 /* what a new stretch has at least */

static u64 space_of(const struct cpu *c) { return (u64)(uintptr_t)c->tlb->cur | (c->arch.cpl == 3) | (c->mode & MODE_L ? 0 : 2); }

void jit_returns_begin(struct cpu *c)
{
	struct jit *j = jit_of(c);
	j->jump_gen = c->tlb->jump_gen;
	j->stretches = 1;
	j->stretch[0].space = space_of(c);
}

static void empty(struct cpu *c)
{
	struct hot *h = jit_of(c)->hot;
	jit_returns_begin(c);
	h->rsp = h->rsp_base = h->rsp_top;
}

hot_path void jit_returns_switch(struct cpu *c)
{
	struct jit *j = jit_of(c);
	struct hot *h = j->hot;
	u64 space = space_of(c);
	unsigned last = j->stretches - 1;
	if (j->jump_gen != c->tlb->jump_gen || h->rsp < h->rsp_limit) {
		empty(c);
		return;
	}
	if (likely(j->stretch[last].space == space))
		return;
	for (unsigned n = last; n-- > 0;)
		if (j->stretch[n].space == space) {
			h->rsp = j->stretch[n].rsp;
			h->rsp_base = j->stretch[n].base;
			j->stretches = n + 1;
			return;
		}
	if (j->stretches == RETURNS_DEPTH || h->rsp < h->rsp_limit + SLACK) {
		empty(c);
		return;
	}
	j->stretch[last].rsp = h->rsp;
	j->stretch[last].base = h->rsp_base;
	h->rsp_base = h->rsp -= 8;
	j->stretch[j->stretches++].space = space;
}
