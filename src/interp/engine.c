/* The interpreter engine: runs blocks until the VM is needed. */
#include "interp/host_flags.h"
#include "interp/interp.h"
#include "interp/vec.h"
#include "base/log.h"
#include <errno.h>
#include <stdlib.h>

int interp_init(struct cpu *c, struct interp *e)
{
	c->engine = e;
	host_flags_probe();
	return block_cache_create(c);
}

void interp_fini(struct cpu *c)
{
	block_cache_destroy(c);
	vec_destroy(c);
}

static int interp_create(struct cpu *c)
{
	struct interp *e = calloc(1, sizeof *e);
	return e ? interp_init(c, e) : -ENOMEM;
}

static void interp_destroy(struct cpu *c)
{
	if (!c->engine)
		return;
	interp_fini(c);
	free(c->engine);
	c->engine = NULL;
}

/* The instruction at cpu->rip faulted: it and those after it in the block did not run. */
void interp_uncount_fault(struct cpu *c)
{
	const struct block *b = interp_of(c)->cur;
	u64 off = c->arch.rip - c->arch.gpr[GPR_BLOCK_RIP];
	if (!(c->mode & MODE_L))
		off = (u32)off;
	for (unsigned k = 0; k < b->slots; k++)
		if (b->insn[k].off == off && b->insn[k].fn != h_cross) {
			interp_uncount(c, &b->insn[k], false);
			return;
		}
}

void interp_run(struct cpu *c, struct exit_record *out)
{
	struct interp *e = interp_of(c);
	for (;;) {
		if (cpu_must_service(c) && !cpu_service(c, out)) {
			c->stats.insns = c->icount;
			return;
		}
		e->xneed = c->arch.cpl == 3 ? TLB_XU : TLB_XS;
		if (unlikely(c->dbg) && cpu_debug_break(c, c->seg_base[SEG_CS] + c->arch.rip))
			continue;
		struct block *b = block_find(c);
		if (unlikely(!b)) {
			cpu_take_fault(c);
			continue;
		}
		bool trace = unlikely(trace_mask & (BIT(TRACE_INSN) | BIT(TRACE_BLOCK)));
		if (trace)
			interp_trace_before(c, b);
		enum step s = block_enter(c, b, c->arch.rip);
		if (trace)
			interp_trace_after(c);
		if (unlikely(s == STEP_FAULT)) {
			interp_uncount_fault(c);
			cpu_take_fault(c);
		}
	}
}

const struct engine_ops interp_engine = {
	.name = "interp",
	.create = interp_create,
	.destroy = interp_destroy,
	.run = interp_run,
	.forget = block_forget,
	.forget_all = block_forget_all,
	.sync = vec_sync,
};
