/* Memory operands of vector instructions, the slow way: faults, device memory, operands that cross a page. */
#include "interp/vec_priv.h"

bool vec_read(struct cpu *c, const struct insn *i, u64 plus, void *to, unsigned size)
{
	u64 la;

	set_rip(c, i);
	if (!mem_la(c, i, plus, size, false, &la))
		return false;
	if (likely(mmu_read_bytes(c, la, to, size)))
		return true;
	interp_fix_fault(c, i->seg, la);
	return false;
}

bool vec_write(struct cpu *c, const struct insn *i, u64 plus, const void *from, unsigned size)
{
	u64 la;

	set_rip(c, i);
	if (!mem_la(c, i, plus, size, true, &la))
		return false;
	if (likely(mmu_write_bytes(c, la, from, size)))
		return true;
	interp_fix_fault(c, i->seg, la);
	return false;
}

bool vec_probe_write(struct cpu *c, const struct insn *i, u64 plus, unsigned size)
{
	u64 la;

	set_rip(c, i);
	if (!mem_la(c, i, plus, size, true, &la))
		return false;
	if (likely(mmu_probe_write(c, la, size)))
		return true;
	interp_fix_fault(c, i->seg, la);
	return false;
}

/* The checks come first, so that nothing can fail after the stub has changed the guest's state. */
enum step vec_slow(struct cpu *c, const struct insn *i)
{
	u8 *bounce = vec_of(c)->bounce;
	bool store = i->src2 & VEC_F_STORE;
	enum step s;
	u64 la;

	set_rip(c, i);
	if (!mem_la(c, i, 0, i->opsize, store, &la))
		return STEP_FAULT;
	if (la & i->aux8)
		return cpu_gp(c, 0);
	if (store ? !vec_probe_write(c, i, 0, i->opsize) : !vec_read(c, i, 0, bounce, i->opsize))
		return STEP_FAULT;
	s = vec_run(c, i, bounce);
	if (s == STEP_END && store && !vec_write(c, i, 0, bounce, i->opsize))
		return STEP_FAULT;
	return s;
}
