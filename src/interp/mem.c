/* Slow halves of memory accesses, and the out-of-line ones for instruction bodies. */
#include "interp/interp.h"

void interp_fix_fault(struct cpu *c, unsigned seg, u64 la)
{
	if (seg == SEG_SS && c->fault.kind == EVENT_FAULT && c->fault.vector == VEC_GP && (c->mode & MODE_L) && !cpu_canonical(la))
		cpu_fault_err(c, VEC_SS, 0);
}

/* An access that starts canonical and ends beyond is non-canonical too. */
static void fix(struct cpu *c, u64 la, unsigned size_seg)
{
	unsigned size = size_seg & 0xff;
	interp_fix_fault(c, size_seg >> 8, cpu_canonical(la) ? la + size - 1 : la);
}

noinline struct val interp_load(struct cpu *c, const struct insn *i, u64 la, unsigned size_seg)
{
	u64 v = 0;
	set_rip(c, i);
	bool ok = mmu_read(c, la, size_seg & 0xff, &v);
	if (!ok)
		fix(c, la, size_seg);
	return (struct val){ v, ok };
}

noinline bool interp_store(struct cpu *c, const struct insn *i, u64 la, unsigned size_seg, u64 v)
{
	set_rip(c, i);
	if (mmu_write(c, la, size_seg & 0xff, v))
		return true;
	fix(c, la, size_seg);
	return false;
}

/* The manual's read-modify-write faults as a write. */
bool interp_aligned(struct cpu *c, u64 la, unsigned size)
{
	if (likely(!mmu_alignment_on(c)) || !(la & (size - 1)) || !cpu_canonical(la))
		return true;
	cpu_fault_err(c, VEC_AC, 0);
	return false;
}

noinline struct val interp_load_rmw(struct cpu *c, const struct insn *i, u64 la, unsigned size_seg)
{
	u64 v = 0;
	set_rip(c, i);
	bool ok = interp_aligned(c, la, size_seg & 0xff) && mmu_probe_write(c, la, size_seg & 0xff) && mmu_read(c, la, size_seg & 0xff, &v);
	if (!ok)
		fix(c, la, size_seg);
	return (struct val){ v, ok };
}

noinline bool interp_seg_check(struct cpu *c, const struct insn *i, unsigned seg, u64 ea, unsigned size_write)
{
	set_rip(c, i);
	return cpu_seg_check(c, seg, ea, size_write & 0xff, size_write >> 8);
}

bool seg_la(struct cpu *c, const struct insn *i, unsigned seg, u64 ea, unsigned size, bool write, u64 *la)
{
	return la_seg(c, i, seg, ea, size, write, la);
}

bool mem_la(struct cpu *c, const struct insn *i, unsigned plus, unsigned size, bool write, u64 *la)
{
	return la_seg(c, i, i->seg, (ea_plain(c, i) + plus) & size_mask(i->asize), size, write, la);
}

bool seg_read(struct cpu *c, const struct insn *i, unsigned seg, u64 ea, unsigned size, u64 *v)
{
	u64 la;
	return la_seg(c, i, seg, ea, size, false, &la) && ld_seg(c, i, la, size, seg, v);
}

bool seg_write(struct cpu *c, const struct insn *i, unsigned seg, u64 ea, unsigned size, u64 v)
{
	u64 la;
	return la_seg(c, i, seg, ea, size, true, &la) && st_seg(c, i, la, size, seg, v);
}

bool op_read(struct cpu *c, const struct insn *i, unsigned size, u64 *v) { return seg_read(c, i, i->seg, ea_masked(c, i), size, v); }
bool op_write(struct cpu *c, const struct insn *i, unsigned size, u64 v) { return seg_write(c, i, i->seg, ea_masked(c, i), size, v); }
