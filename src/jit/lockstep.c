/* --engine lockstep: every stretch of host code runs first, is undone, and is run again by the handlers; the first difference ends the process with both
 * states printed. Blocks are not linked, so a stretch is at most one block. Host code reports each store before it happens (SITE_LOG), which is what
 * can be undone; registers are all of struct cpu_arch, what struct cpu derives from those that host code changes, the x87 registers that live in
 * the host, and the count of instructions, by which virtual time goes. For one vCPU: others that write the same memory look like differences.
 *
 * Surprise: the handlers' turn follows host code's rule about service points. There is none within a block, so the shadow of an STI in the middle of
 * one does not end it; see goes_on. */
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

/* ---- what host code changes besides memory ---- */
struct snapshot {
	struct cpu_arch arch;
	u64 seg_base[SEG_COUNT + 2];
	u8 acc_class;
	u64 icount;
};

static void take(struct cpu *c, struct snapshot *s)
{
	vec_x87_show(c);
	s->arch = c->arch;
	memcpy(s->seg_base, c->seg_base, sizeof s->seg_base);
	s->acc_class = c->acc_class;
	s->icount = c->icount;
}

static void put_back(struct cpu *c, const struct snapshot *s)
{
	c->arch = s->arch;
	memcpy(c->seg_base, s->seg_base, sizeof s->seg_base);
	c->acc_class = s->acc_class;
	c->icount = s->icount;
	vec_x87_put_back(c);
}

/* ---- the handlers' turn ---- */
/* STI's handler has the block left after it, because of the shadow. Host code goes on, for nobody looks for events between two instructions of a block
 * (sys.c); and what comes after the block, or after the place where host code leaves, knows nothing of a shadow. Nothing was pending: e_sti has asked. The
 * same for SERIALIZE. */
static bool goes_on(struct cpu *c, const struct insn *i, enum step s, u32 shadow)
{
	if (s != STEP_STOP || (i->op != ZYDIS_MNEMONIC_STI && i->op != ZYDIS_MNEMONIC_SERIALIZE) || c->arch.rip != insn_next_rip(c, i))
		return false;
	c->arch.shadow = shadow;
	cpu_unpend(c, PEND_STEP);
	return true;
}

/* Instructions [0, n) of the block; false: one of them did not simply complete. */
static bool replay(struct cpu *c, const struct block *b, unsigned n)
{
	u64 icount = c->icount;
	for (unsigned k = 0; k < n; k++) {
		struct insn two[2] = { b->insn[k], { .fn = jit_h_return, .base = GPR_ZERO, .index = GPR_ZERO } };
		two[0].fn = k == 0 ? b->first : two[0].fn;
		u32 shadow = c->arch.shadow;
		enum step s = two[0].fn(c, &two[0]);
		if (s == STEP_GO)
			c->arch.rip = insn_next_rip(c, &two[0]);
		else if (goes_on(c, &two[0], s, shadow))
			c->icount = icount; /* the handler took back what comes after it */
		else if (s != STEP_END || k + 1u != b->n)
			return false;
	}
	return true;
}

/* ---- differences ---- */
static bool same_state(const struct snapshot *x, const struct snapshot *y)
{
	return !memcmp(&x->arch, &y->arch, sizeof x->arch) && !memcmp(x->seg_base, y->seg_base, sizeof x->seg_base) && x->acc_class == y->acc_class &&
	       x->icount == y->icount;
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
		if (isa_decode(&jit_of(c)->in.dec, jit_isa(b), bytes, len, &in) == ISA_OK)
			isa_format(&in, at, text, sizeof text);
		fprintf(stderr, "  %016llx %s%s\n", (unsigned long long)at, text, k == n ? "   <- host code stopped before this one" : "");
	}
}

static void print_registers(const struct cpu_arch *before, const struct cpu_arch *jit, const struct cpu_arch *interp)
{
	static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
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
	fprintf(stderr, "  rows that differ (jit -> interp):\n");
	state_dump(stderr, &cpu_arch_state, "  cpu", interp, jit);
}

static void report(struct cpu *c, const struct block *b, unsigned n, const struct snapshot *before, const struct snapshot *jit, const struct snapshot *interp,
		   bool completed)
{
	fprintf(stderr, "lockstep: cpu%u instruction %llu: the engines differ%s\n", c->index, (unsigned long long)c->icount,
		completed ? "" : " (a handler stopped early)");
	print_registers(&before->arch, &jit->arch, &interp->arch);
	for (unsigned k = 0; k < array_len(jit->seg_base); k++)
		if (jit->seg_base[k] != interp->seg_base[k])
			print_pair("base", before->seg_base[k], jit->seg_base[k], interp->seg_base[k]);
	print_pair("class", before->acc_class, jit->acc_class, interp->acc_class);
	print_pair("count", before->icount, jit->icount, interp->icount); /* each with the whole block, wherever host code stopped in it */
	for (unsigned k = 0; k < stores.n; k++)
		if (memcmp(stores.s[k].at, stores.s[k].after, stores.s[k].size))
			print_pair("memory", load_le(stores.s[k].before, 8), load_le(stores.s[k].after, 8), load_le(stores.s[k].at, 8));
	print_code(c, b, before->arch.gpr[GPR_BLOCK_RIP], n);
	abort();
}

/* ---- one stretch; as jit_h_enter ---- */
/* Both turns, compared. Where the interpreter goes on, or NULL: the block is done. */
static noinline const struct insn *both(struct cpu *c, struct block *b)
{
	struct jit *j = jit_of(c);
	struct snapshot before, jit, interp;
	u64 budget = c->budget_end;
	stores.n = 0;
	take(c, &before);
	jit_run_code(c, b, c->arch.gpr[GPR_BLOCK_RIP]);
	unsigned n = j->resume ? (unsigned)(j->resume - b->insn) : b->n;
	take(c, &jit);
	if (j->resume)
		jit.arch.rip = before.arch.gpr[GPR_BLOCK_RIP] + b->insn[n].off;
	undo();
	put_back(c, &before);
	c->arch.rip = before.arch.gpr[GPR_BLOCK_RIP];
	j->in.cur = b;
	c->budget_end = 0; /* branches end the block instead of entering the next */
	bool completed = replay(c, b, n);
	c->budget_end = budget;
	take(c, &interp);
	if (!completed || !same_state(&jit, &interp) || !same_memory())
		report(c, b, n, &before, &jit, &interp, completed);
	return j->resume;
}

enum step lockstep_enter(struct cpu *c, const struct insn *i)
{
	struct block *b = jit_of(c)->in.cur;
	const struct insn *resume = both(c, b);
	if (!resume)
		return STEP_END;
	return (resume == b->insn ? b->first : resume->fn)(c, resume);
}
