/* VM-exit instruction information and displacement qualifications (SDM "VM-Exit Instruction-Information Field"). */
#include "vmx/priv.h"

static u32 asize_code(const struct insn *i) { return (i->asize == 2 ? 0 : i->asize == 4 ? 1 : 2) << 7; }

/* Scaling, address size, segment, index and base, each in its common place. */
static u32 mem_fields(const struct insn *i)
{
	u32 info = asize_code(i) | (u32)i->seg << 15;

	if (i->index < GPR_ZERO)
		info |= i->scale | (u32)i->index << 18;
	else
		info |= BIT(22);
	if (i->base < GPR_ZERO)
		info |= (u32)i->base << 23;
	else
		info |= BIT(27);
	return info;
}

u32 vmx_info_mem(const struct insn *i, u32 reg2, bool has_reg2) { return mem_fields(i) | (has_reg2 ? reg2 << 28 : 0); }

u32 vmx_info_table(const struct cpu *c, const struct insn *i, unsigned which)
{
	bool wide = c->mode & MODE_L || i->opsize > 2;
	return mem_fields(i) | (wide ? BIT(11) : 0) | which << 28;
}

u32 vmx_info_ldtr(const struct insn *i, unsigned which)
{
	if (i->flags & INSN_MEM)
		return mem_fields(i) | which << 28;
	return BIT(10) | (u32)i->dst << 3 | which << 28;
}

u32 vmx_info_vmaccess(const struct insn *i, u32 reg1, u32 reg2)
{
	return (i->flags & INSN_MEM ? mem_fields(i) : BIT(10) | reg1 << 3) | reg2 << 28;
}

u32 vmx_info_rdrand(const struct insn *i)
{
	return (u32)i->dst << 3 | (i->opsize == 2 ? 0 : i->opsize == 4 ? 1 : 2) << 11;
}

u32 vmx_info_string_io(const struct insn *i) { return asize_code(i) | (u32)i->seg << 15; }

/* The displacement, sign-extended; with RIP-relative addressing the address itself. 0 for a register operand. */
u64 vmx_info_disp(const struct cpu *c, const struct insn *i)
{
	if (!(i->flags & INSN_MEM))
		return 0;
	u64 disp = (u64)(i64)i->disp;
	return i->base == GPR_BLOCK_RIP ? c->arch.gpr[GPR_BLOCK_RIP] + disp : disp;
}
