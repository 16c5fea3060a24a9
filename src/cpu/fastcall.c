/* SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM, each instruction's page): segments come from MSRs with fixed attributes, no descriptor is read. */
#include "cpu/desc.h"

#define ATTR_CODE64 0xa09bu /* G L P S, type 11, DPL 0 */
#define ATTR_CODE32 0xc09bu /* G D P S */
#define ATTR_DATA   0xc093u /* G B P S, type 3 */
#define SYSRET_FLAGS 0x3c7fd7u /* that it loads: not RF, VM, nor what is reserved */

static void set_flat(struct seg *s, unsigned sel, unsigned cpl, u32 attr)
{
	*s = (struct seg){ .limit = 0xffffffff, .attr = attr | cpl << SEG_DPL_SHIFT, .sel = (u16)((sel & ~3u) | cpl) };
}

static void set_place(struct cpu *c, unsigned cs, u32 cs_attr, unsigned ss, unsigned cpl, u64 rip)
{
	set_flat(&c->arch.seg[SEG_SS], ss, cpl, ATTR_DATA);
	set_flat(&c->arch.seg[SEG_CS], cs, cpl, cs_attr);
	c->arch.cpl = (u8)cpl;
	c->arch.rip = rip;
}

static void enter_flat(struct cpu *c, unsigned cs, u32 cs_attr, unsigned ss, unsigned cpl, u64 rip)
{
	set_place(c, cs, cs_attr, ss, cpl, rip);
	cpu_update_mode(c);
}

enum step cpu_syscall(struct cpu *c, unsigned insn_len)
{
	if (!cpu_long64(c) || !(c->arch.efer & EFER_SCE)) /* Intel: not in compatibility mode */
		return cpu_ud(c);
	u64 flags = cpu_rflags(c);
	unsigned sel = (unsigned)bits(c->arch.star, 47, 32);
	c->arch.gpr[GPR_RCX] = c->arch.rip + insn_len;
	c->arch.gpr[GPR_R11] = flags;
	enter_flat(c, sel, ATTR_CODE64, sel + 8, 0, c->arch.lstar);
	cpu_set_rflags(c, flags & ~c->arch.fmask & ~(u64)FLAG_RF);
	if (!(c->arch.rflags & FLAG_TF)) /* a masked TF gives no trap after SYSCALL itself */
		c->step &= (u8)~STEP_TF;
	return STEP_STOP;
}

/* What an AC, a trap or something that waits for IF would make unusual. */
#define FLAG_UNUSUAL (FLAG_TF | FLAG_RF | FLAG_VM | FLAG_AC)

bool cpu_syscall_usual(struct cpu *c, u64 next_rip, u64 flags)
{
	unsigned sel = (unsigned)bits(c->arch.star, 47, 32);
	if (unlikely(!cpu_long64(c) || !(c->arch.efer & EFER_SCE) || c->arch.cpl != 3 || (flags & FLAG_UNUSUAL)))
		return false;
	c->arch.gpr[GPR_RCX] = next_rip;
	c->arch.gpr[GPR_R11] = flags;
	set_place(c, sel, ATTR_CODE64, sel + 8, 0, c->arch.lstar);
	flags &= ~c->arch.fmask;
	c->arch.cc = cpu_flags_to_cc(flags);
	c->arch.rflags = (flags & ~(u64)FLAG_ARITH) | FLAG_FIXED1;
	return true;
}

enum step cpu_sysret(struct cpu *c, unsigned opsize)
{
	if (!cpu_long64(c) || !(c->arch.efer & EFER_SCE))
		return cpu_ud(c);
	if (c->arch.cpl != 0)
		return cpu_gp(c, 0);
	u64 rip = c->arch.gpr[GPR_RCX];
	unsigned sel = (unsigned)bits(c->arch.star, 63, 48);
	if (opsize == 8 && !cpu_canonical(rip))
		return cpu_gp(c, 0);
	u64 flags = c->arch.gpr[GPR_R11] & SYSRET_FLAGS;
	if (opsize == 8)
		enter_flat(c, sel + 16, ATTR_CODE64, sel + 8, 3, rip);
	else
		enter_flat(c, sel, ATTR_CODE32, sel + 8, 3, (u32)rip);
	cpu_set_rflags(c, flags);
	return STEP_STOP;
}

bool cpu_sysret_usual(struct cpu *c)
{
	u64 rip = c->arch.gpr[GPR_RCX], flags = c->arch.gpr[GPR_R11] & SYSRET_FLAGS;
	unsigned sel = (unsigned)bits(c->arch.star, 63, 48);
	if (unlikely(!cpu_long64(c) || !(c->arch.efer & EFER_SCE) || c->arch.cpl != 0 || !cpu_canonical(rip) || ((flags | c->arch.rflags) & FLAG_UNUSUAL) || c->deferred))
		return false;
	set_place(c, sel + 16, ATTR_CODE64, sel + 8, 3, rip);
	c->arch.cc = cpu_flags_to_cc(flags);
	c->arch.rflags = (flags & ~(u64)FLAG_ARITH) | FLAG_FIXED1;
	return true;
}

enum step cpu_sysenter(struct cpu *c)
{
	unsigned sel = (unsigned)(c->arch.sysenter_cs & 0xfffc);
	if (cpu_real_mode(c) || !sel)
		return cpu_gp(c, 0);
	bool lma = c->lma;
	c->arch.rflags &= ~(u64)(FLAG_VM | FLAG_IF);
	c->arch.gpr[GPR_RSP] = lma ? c->arch.sysenter_esp : (u32)c->arch.sysenter_esp;
	enter_flat(c, sel, lma ? ATTR_CODE64 : ATTR_CODE32, sel + 8, 0, lma ? c->arch.sysenter_eip : (u32)c->arch.sysenter_eip);
	return STEP_STOP;
}

enum step cpu_sysexit(struct cpu *c, unsigned opsize)
{
	unsigned sel = (unsigned)(c->arch.sysenter_cs & 0xfffc);
	u64 rip = c->arch.gpr[GPR_RDX], rsp = c->arch.gpr[GPR_RCX];
	if (cpu_real_mode(c) || !sel || c->arch.cpl != 0)
		return cpu_gp(c, 0);
	if (opsize == 8) {
		if (!cpu_canonical(rip) || !cpu_canonical(rsp))
			return cpu_gp(c, 0);
		c->arch.gpr[GPR_RSP] = rsp;
		enter_flat(c, sel + 32, ATTR_CODE64, sel + 40, 3, rip);
	} else {
		c->arch.gpr[GPR_RSP] = (u32)rsp;
		enter_flat(c, sel + 16, ATTR_CODE32, sel + 24, 3, (u32)rip);
	}
	return STEP_STOP;
}
