/* Memory operands of vector instructions, the slow way: faults, device memory, operands that cross a page. */
#include "interp/vec_priv.h"

/* Limits are checked at both ends of long operands: the general check is for short ones. */
bool vec_la(struct cpu *c, const struct insn *i, u64 plus, unsigned size, bool write, u64 *la)
{
	u64 ea = ea_masked(c, i) + plus;

	set_rip(c, i);
	if (size > 32 && !seg_la(c, i, i->seg, vec_piece(c, ea + size - 1), 1, write, la))
		return false;
	return seg_la(c, i, i->seg, vec_piece(c, ea), size > 32 ? 1 : size, write, la);
}

/* #AC: scalars by their size, an 80-bit one by 8; vectors are not checked, nor are half-precision conversions. */
static bool aligned(struct cpu *c, const struct insn *i, u64 la, unsigned size)
{
	return size > 10 || (i->src2 & VEC_F_ANY) || interp_aligned(c, la, size > 8 ? 8 : size);
}

bool vec_read(struct cpu *c, const struct insn *i, u64 plus, void *to, unsigned size)
{
	u64 la;

	if (!vec_la(c, i, plus, size, false, &la) || !aligned(c, i, la, size))
		return false;
	if (likely(mmu_read_bytes(c, la, to, size)))
		return true;
	interp_fix_fault(c, i->seg, la);
	return false;
}

bool vec_write(struct cpu *c, const struct insn *i, u64 plus, const void *from, unsigned size)
{
	u64 la;

	if (!vec_la(c, i, plus, size, true, &la) || !aligned(c, i, la, size))
		return false;
	if (likely(mmu_write_bytes(c, la, from, size)))
		return true;
	interp_fix_fault(c, i->seg, la);
	return false;
}

bool vec_probe_write(struct cpu *c, const struct insn *i, u64 plus, unsigned size)
{
	u64 la;

	if (!vec_la(c, i, plus, size, true, &la) || !aligned(c, i, la, size))
		return false;
	if (likely(mmu_probe_write(c, la, size)))
		return true;
	interp_fix_fault(c, i->seg, la);
	return false;
}

/* Noticed before anything else about the address, its segment's limit included. */
static bool misaligned(const struct cpu *c, const struct insn *i)
{
	return (c->seg_base[i->seg] + ea_masked(c, i)) & i->aux8;
}

/* As on the silicon, a conversion computes first: its SIMD exception beats a fault of the store, and the flags in MXCSR
 * stay. Everything else must not change anything before the store is known to succeed. */
static enum step slow_store(struct cpu *c, const struct insn *i)
{
	u8 *bounce = vec_of(c)->bounce;

	set_rip(c, i);
	if (i->src2 & VEC_F_FP) {
		if (vec_run(c, i, bounce) != STEP_END)
			return STEP_FAULT;
	} else {
		if (misaligned(c, i))
			return cpu_gp(c, 0);
		if (!vec_probe_write(c, i, 0, i->opsize))
			return STEP_FAULT;
		vec_run(c, i, bounce);
	}
	return vec_write(c, i, 0, bounce, i->opsize) ? STEP_END : STEP_FAULT;
}

enum step vec_slow(struct cpu *c, const struct insn *i)
{
	u8 *bounce = vec_of(c)->bounce;

	if (i->src2 & VEC_F_STORE)
		return slow_store(c, i);
	set_rip(c, i);
	if (misaligned(c, i))
		return cpu_gp(c, 0);
	return vec_read(c, i, 0, bounce, i->opsize) ? vec_run(c, i, bounce) : STEP_FAULT;
}
