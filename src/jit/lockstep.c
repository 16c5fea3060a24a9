/* --engine lockstep: every stretch of host code runs first, is undone, and is run again by the handlers; the first difference ends the process with both
 * states printed. Blocks are not linked, so a stretch is at most one block. Host code reports each store before it happens (SITE_LOG), which is what
 * can be undone. For one vCPU: others that write the same memory look like differences. */
#include "jit/jit.h"
#include <stdio.h>
#include <stdlib.h>

#define MAX_STORES 128

struct store { u8 *at; unsigned size; u8 before[32], after[32]; };
static _Thread_local struct { struct store s[MAX_STORES]; unsigned n; } stores;

void lockstep_log(struct cpu *c, const struct site *s)
{
	bug_if(stores.n == MAX_STORES || s->size > 32);
	struct store *w = &stores.s[stores.n++];
	w->at = (u8 *)(uintptr_t)jit_of(c)->hot->s0;
	w->size = s->size;
	memcpy(w->before, w->at, w->size);
}

static void undo(void)
{
	for (unsigned n = 0; n < stores.n; n++)
		memcpy(stores.s[n].after, stores.s[n].at, stores.s[n].size);
	for (unsigned n = stores.n; n-- > 0;)
		memcpy(stores.s[n].at, stores.s[n].before, stores.s[n].size);
}

/* ---- the handlers' turn ---- */
/* Instructions [0, n) of the block; false: one of them did not simply complete. */
static bool replay(struct cpu *c, const struct block *b, unsigned n)
{
	for (unsigned k = 0; k < n; k++) {
		struct insn two[2] = { b->insn[k], { .fn = jit_h_return, .base = GPR_ZERO, .index = GPR_ZERO } };
		two[0].fn = k == 0 ? b->first : two[0].fn;
		enum step s = two[0].fn(c, &two[0]);
		if (s == STEP_GO)
			c->arch.rip = insn_next_rip(c, &two[0]);
		else if (s != STEP_END || k + 1u != b->n)
			return false;
	}
	return true;
}

/* ---- differences ---- */
static bool same_state(const struct cpu_arch *x, const struct cpu_arch *y)
{
	return !memcmp(x->gpr, y->gpr, 16 * sizeof x->gpr[0]) && x->rip == y->rip && x->cc == y->cc && x->rflags == y->rflags && x->mxcsr == y->mxcsr &&
	       !memcmp(x->ymm, y->ymm, sizeof x->ymm);
}

static bool same_memory(void)
{
	for (unsigned n = 0; n < stores.n; n++)
		if (memcmp(stores.s[n].at, stores.s[n].after, stores.s[n].size))
			return false;
	return true;
}

static void print_pair(const char *name, u64 before, u64 jit, u64 interp)
{
	fprintf(stderr, "  %-6s %016llx -> jit %016llx interp %016llx%s\n", name, (unsigned long long)before, (unsigned long long)jit, (unsigned long long)interp,
		jit == interp ? "" : " <--");
}

static void print_code(struct cpu *c, const struct block *b, u64 rip, unsigned n)
{
	for (unsigned k = 0; k < b->n; k++) {
		struct isa_insn in;
		u8 bytes[ISA_MAX_LEN];
		u64 at = rip + b->insn[k].off, bad;
		char text[128] = "?";
		unsigned len = mmu_fetch_bytes(c, at, bytes, ISA_MAX_LEN, &bad);
		if (isa_decode(&jit_of(c)->in.dec, ISA_64, bytes, len, &in) == ISA_OK)
			isa_format(&in, at, text, sizeof text);
		fprintf(stderr, "  %016llx %s%s\n", (unsigned long long)at, text, k == n ? "   <- host code stopped before this one" : "");
	}
}

static void report(struct cpu *c, const struct block *b, unsigned n, const struct cpu_arch *before, const struct cpu_arch *jit, bool completed)
{
	static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
	const struct cpu_arch *interp = &c->arch;
	fprintf(stderr, "lockstep: cpu%u instruction %llu: the engines differ%s\n", c->index, (unsigned long long)c->icount,
		completed ? "" : " (a handler stopped early)");
	for (unsigned r = 0; r < 16; r++)
		print_pair(names[r], before->gpr[r], jit->gpr[r], interp->gpr[r]);
	print_pair("rip", before->rip, jit->rip, interp->rip);
	print_pair("flags", cpu_cc_to_flags(before->cc), cpu_cc_to_flags(jit->cc), cpu_cc_to_flags(interp->cc));
	print_pair("rflags", before->rflags, jit->rflags, interp->rflags);
	print_pair("mxcsr", before->mxcsr, jit->mxcsr, interp->mxcsr);
	for (unsigned r = 0; r < 16; r++)
		if (memcmp(jit->ymm + 32 * r, interp->ymm + 32 * r, 32))
			for (unsigned k = 0; k < 32; k += 8)
				print_pair("ymm", load_le(before->ymm + 32 * r + k, 8), load_le(jit->ymm + 32 * r + k, 8), load_le(interp->ymm + 32 * r + k, 8));
	for (unsigned k = 0; k < stores.n; k++)
		if (memcmp(stores.s[k].at, stores.s[k].after, stores.s[k].size))
			print_pair("memory", load_le(stores.s[k].before, 8), load_le(stores.s[k].after, 8), load_le(stores.s[k].at, 8));
	print_code(c, b, before->gpr[GPR_BLOCK_RIP], n);
	abort();
}

/* ---- one stretch; as jit_h_enter ---- */
enum step lockstep_enter(struct cpu *c, const struct insn *i)
{
	struct jit *j = jit_of(c);
	struct block *b = j->in.cur;
	struct cpu_arch before = c->arch, after;
	u64 icount = c->icount, budget = c->budget_end;
	stores.n = 0;
	jit_run_code(c, b, c->arch.gpr[GPR_BLOCK_RIP]);
	unsigned n = j->resume ? (unsigned)(j->resume - b->insn) : b->n;
	after = c->arch;
	if (j->resume)
		after.rip = before.gpr[GPR_BLOCK_RIP] + b->insn[n].off;
	undo();
	c->arch = before;
	c->icount = icount;
	c->arch.rip = before.gpr[GPR_BLOCK_RIP];
	j->in.cur = b;
	c->budget_end = 0; /* branches end the block instead of entering the next */
	bool completed = replay(c, b, n);
	c->budget_end = budget;
	if (!completed || !same_state(&after, &c->arch) || !same_memory())
		report(c, b, n, &before, &after, completed);
	if (!j->resume)
		return STEP_END;
	return (n == 0 ? b->first : b->insn[n].fn)(c, &b->insn[n]);
}
