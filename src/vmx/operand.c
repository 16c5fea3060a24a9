/* Memory operands of VMX instructions. */
#include "vmx/priv.h"

u64 vmx_ea(const struct cpu *c, const struct insn *i)
{
	u64 ea = c->arch.gpr[i->base] + (c->arch.gpr[i->index] << i->scale) + (u64)(i64)i->disp;
	return ea & low_mask(i->asize * 8);
}

u64 vmx_linear(const struct cpu *c, const struct insn *i)
{
	u64 la = vmx_ea(c, i) + c->seg_base[i->seg];
	return c->mode & MODE_L ? la : la & 0xffffffff;
}

static bool seg_ok(struct cpu *c, const struct insn *i, unsigned size, bool write)
{
	return cpu_seg_check(c, i->seg, vmx_ea(c, i), size, write);
}

bool vmx_read_mem(struct cpu *c, const struct insn *i, void *to, unsigned size)
{
	return seg_ok(c, i, size, false) && mmu_read_bytes(c, vmx_linear(c, i), to, size);
}

bool vmx_write_mem(struct cpu *c, const struct insn *i, const void *from, unsigned size)
{
	return seg_ok(c, i, size, true) && mmu_write_bytes(c, vmx_linear(c, i), from, size);
}
