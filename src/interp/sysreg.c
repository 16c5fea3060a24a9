/* MOV to and from control and debug registers, CLTS, LMSW, SMSW. */
#include "interp/sys.h"

static u64 cr_view(const struct cpu *c, unsigned cr, u64 real)
{
	return c->arch.guest_mode ? c->virt->cr_view(c, cr, real) : real;
}
static u64 cr_merge(const struct cpu *c, unsigned cr, u64 wanted)
{
	return c->arch.guest_mode ? c->virt->cr_merge(c, cr, wanted) : wanted;
}

static void set_gpr(struct cpu *c, unsigned n, u64 v)
{
	if (c->mode & MODE_L)
		wr_u64(c, n, v);
	else
		wr_u32(c, n, (u32)v);
}

/* CR8 is TPR[7:4]; a guest may have a virtual one. */
static u64 read_cr8(struct cpu *c)
{
	u64 v = 0;
	if (c->arch.guest_mode && c->virt->cr8(c, false, &v))
		return v;
	return c->intc ? c->intc->tpr(c->intc_state) >> 4 : 0;
}

static enum step write_cr8(struct cpu *c, u64 v)
{
	if (v >> 4)
		return cpu_gp(c, 0);
	if (c->arch.guest_mode && c->virt->cr8(c, true, &v))
		return c->fault.kind == EVENT_VIRT ? STEP_FAULT : STEP_STOP;
	if (c->intc)
		c->intc->set_tpr(c->intc_state, (u8)(v << 4));
	return STEP_STOP;
}

enum step sys_mov_from_cr(struct cpu *c, const struct insn *i)
{
	u64 v;
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if ((i->src == 3 || i->src == 8) && cpu_icept(c, ICEPT_CR_READ, i, i->src, i->dst))
		return STEP_STOP;
	switch (i->src) {
	case 0: v = cr_view(c, 0, c->arch.cr0); break;
	case 2: v = c->arch.cr2; break;
	case 3: v = c->arch.cr3; break;
	case 4: v = cr_view(c, 4, c->arch.cr4); break;
	case 8: v = read_cr8(c); break;
	default: return cpu_ud(c);
	}
	set_gpr(c, i->dst, v);
	return STEP_END;
}

enum step sys_mov_to_cr(struct cpu *c, const struct insn *i)
{
	u64 v = c->mode & MODE_L ? rd_u64(c, i->src) : rd_u32(c, i->src);
	enum step s;
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if (i->dst != 2 && cpu_icept(c, ICEPT_CR_WRITE, i, i->dst, i->src))
		return STEP_STOP;
	c->fault.kind = EVENT_NONE;
	switch (i->dst) {
	case 0: s = cpu_set_cr0(c, cr_merge(c, 0, v)); break;
	case 2:
		c->arch.cr2 = v;
		return STEP_END;
	case 3: s = cpu_set_cr3(c, v); break;
	case 4: s = cpu_set_cr4(c, cr_merge(c, 4, v)); break;
	case 8: s = write_cr8(c, v); break;
	default: return cpu_ud(c);
	}
	return s == STEP_FAULT ? s : stop_next(c, i);
}

/* SDM "MOV - Move to/from Debug Registers": DR4 and DR5 are DR6 and DR7 without CR4.DE and undefined with it; that #UD comes before a VM exit. */
enum step sys_mov_from_dr(struct cpu *c, const struct insn *i)
{
	u64 v;
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if ((i->src & ~1) == 4 && (c->arch.cr4 & CR4_DE))
		return cpu_ud(c);
	if (cpu_icept(c, ICEPT_DR, i, i->src, i->dst | 16))
		return STEP_STOP;
	if (cpu_mov_from_dr(c, i->src, &v) == STEP_FAULT)
		return STEP_FAULT;
	set_gpr(c, i->dst, v);
	return STEP_END;
}

enum step sys_mov_to_dr(struct cpu *c, const struct insn *i)
{
	u64 v = c->mode & MODE_L ? rd_u64(c, i->src) : rd_u32(c, i->src);
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if ((i->dst & ~1) == 4 && (c->arch.cr4 & CR4_DE))
		return cpu_ud(c);
	if (cpu_icept(c, ICEPT_DR, i, i->dst, i->src))
		return STEP_STOP;
	return cpu_mov_to_dr(c, i->dst, v) == STEP_FAULT ? STEP_FAULT : stop_next(c, i);
}

enum step sys_clts(struct cpu *c, const struct insn *i)
{
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_CLTS, i, 0, 0))
		return STEP_STOP;
	u64 v = cr_merge(c, 0, cr_view(c, 0, c->arch.cr0) & ~CR0_TS);
	return cpu_set_cr0(c, v) == STEP_FAULT ? STEP_FAULT : stop_next(c, i);
}

/* Loads PE MP EM TS; cannot clear PE. */
enum step sys_lmsw(struct cpu *c, const struct insn *i)
{
	u64 v;
	bool mem = i->flags & INSN_MEM;
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if (!mem)
		v = rd_u16(c, i->dst);
	else if (!op_read(c, i, 2, &v))
		return STEP_FAULT;
	if (cpu_icept(c, ICEPT_LMSW, i, v, mem))
		return STEP_STOP;
	u64 cr0 = cr_view(c, 0, c->arch.cr0);
	v = (cr0 & ~(CR0_MP | CR0_EM | CR0_TS)) | (v & 0xf);
	return cpu_set_cr0(c, cr_merge(c, 0, v)) == STEP_FAULT ? STEP_FAULT : stop_next(c, i);
}

enum step sys_smsw(struct cpu *c, const struct insn *i)
{
	if (umip_denied(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_SMSW, i, 0, 0))
		return STEP_STOP;
	u64 v = cr_view(c, 0, c->arch.cr0);
	if (i->flags & INSN_MEM)
		return op_write(c, i, 2, v) ? STEP_END : STEP_FAULT;
	wr_size(c, i->dst, i->opsize, v);
	return STEP_END;
}
