/* Which instructions exit, and with what qualification (SDM "Instructions That Cause VM Exits", "Exit Qualification").
 */
#include "vmx/priv.h"

static bool leave(struct cpu *c, u32 reason, u64 qualification, const struct insn *i, u32 info)
{
	vmx_exit_insn(c, reason, qualification, i, info);
	return true;
}

/* An instruction that the controls take away: #UD through the guest's IDT (or its exit), after which the handler just
 * leaves the block. */
static bool undefined(struct cpu *c)
{
	cpu_ud(c);
	cpu_take_fault(c);
	return true;
}

/* ---- control registers ---- */

enum cr_type { CR_TO, CR_FROM, CR_CLTS, CR_LMSW };

static u64 cr_qualification(unsigned cr, enum cr_type type, unsigned gpr) { return cr | type << 4 | gpr << 8; }

static bool cr3_is_target(const struct vmx *v, u64 value)
{
	for (unsigned n = 0; n < v->f[VF_CR3_TARGET_COUNT] && n < VMX_CR3_TARGETS; n++)
		if (v->f[VF_CR3_TARGET0 + n] == value)
			return true;
	return false;
}

static bool cr_write_exits(const struct cpu *c, unsigned cr, u64 value)
{
	const struct vmx *v = vmx_of(c);

	switch (cr) {
	case 0: return (value ^ v->f[VF_CR0_SHADOW]) & v->f[VF_CR0_MASK];
	case 4: return (value ^ v->f[VF_CR4_SHADOW]) & v->f[VF_CR4_MASK];
	case 3: return has(v, CTL_PROC_CR3_LOAD) && !cr3_is_target(v, value);
	case 8: return has(v, CTL_PROC_CR8_LOAD);
	}
	return false;
}

static bool cr_write(struct cpu *c, const struct insn *i, u64 cr, u64 gpr)
{
	u64 value = c->arch.gpr[gpr & 15] & (c->mode & MODE_L ? ~(u64)0 : 0xffffffff);
	return cr_write_exits(c, cr, value) && leave(c, EXIT_CR_ACCESS, cr_qualification(cr, CR_TO, gpr & 15), i, 0);
}

static bool cr_read(struct cpu *c, const struct insn *i, u64 cr, u64 gpr)
{
	const struct vmx *v = vmx_of(c);
	bool exits = (cr == 3 && has(v, CTL_PROC_CR3_STORE)) || (cr == 8 && has(v, CTL_PROC_CR8_STORE));
	return exits && leave(c, EXIT_CR_ACCESS, cr_qualification(cr, CR_FROM, gpr & 15), i, 0);
}

/* CLTS exits if both mask and shadow have TS; with only the mask's bit it changes nothing, see vmx_cr_merge. */
static bool clts(struct cpu *c, const struct insn *i)
{
	const struct vmx *v = vmx_of(c);
	return (v->f[VF_CR0_MASK] & v->f[VF_CR0_SHADOW] & CR0_TS) &&
	       leave(c, EXIT_CR_ACCESS, cr_qualification(0, CR_CLTS, 0), i, 0);
}

static bool lmsw(struct cpu *c, const struct insn *i, u64 source, u64 from_memory)
{
	struct vmx *v = vmx_of(c);
	u64 mask = v->f[VF_CR0_MASK], differ = (source ^ v->f[VF_CR0_SHADOW]) & mask;

	/* PE can only be set by LMSW. */
	if (!(differ & 0xe) && !(differ & source & CR0_PE))
		return false;
	if (from_memory) {
		v->x.linear = vmx_linear(c, i);
		v->x.has_linear = true;
	}
	return leave(c, EXIT_CR_ACCESS,
		     cr_qualification(0, CR_LMSW, 0) | (from_memory ? BIT(6) : 0) | (source & 0xffff) << 16, i, 0);
}

/* ---- ports ---- */

static bool io_exits(const struct vmx *v, u64 port, unsigned size)
{
	if (!has(v, CTL_PROC_IO_BITMAPS))
		return has(v, CTL_PROC_IO);
	if (port + size > 0x10000) /* wraps around */
		return true;
	for (u64 p = port; p < port + size; p++)
		if ((p < 0x8000 ? v->io_bitmap_a : v->io_bitmap_b)[(p & 0x7fff) >> 3] >> (p & 7) & 1)
			return true;
	return false;
}

static u64 string_linear(const struct cpu *c, const struct insn *i, bool in)
{
	unsigned seg = in ? SEG_ES : i->seg;
	u64 la = (c->arch.gpr[in ? GPR_RDI : GPR_RSI] & low_mask(i->asize * 8)) + c->seg_base[seg];
	return c->mode & MODE_L ? la : la & 0xffffffff;
}

static bool io(struct cpu *c, const struct insn *i, bool in, u64 port, u64 how)
{
	struct vmx *v = vmx_of(c);
	unsigned size = how & 15;
	u32 info = 0;

	port &= 0xffff;
	if (!io_exits(v, port, size))
		return false;
	u64 q = (size - 1) | (in ? BIT(3) : 0) | (how & 32 ? BIT(6) : 0) | port << 16;
	if (how & 16) {
		q |= BIT(4) | (i->flags & (INSN_REP | INSN_REPNE) ? BIT(5) : 0);
		v->x.linear = string_linear(c, i, in);
		v->x.has_linear = true;
		info = vmx_info_string_io(i);
	}
	return leave(c, EXIT_IO, q, i, info);
}

/* ---- MSRs ---- */

static bool msr_exits(const struct vmx *v, u64 msr, bool write)
{
	unsigned area;

	if (!has(v, CTL_PROC_MSR_BITMAPS))
		return true;
	if (msr <= 0x1fff)
		area = 0;
	else if (msr >= 0xc0000000 && msr <= 0xc0001fff)
		area = 0x400;
	else
		return true;
	return v->msr_bitmap[area + (write ? 0x800 : 0) + ((msr & 0x1fff) >> 3)] >> (msr & 7) & 1;
}

/* ---- the rest ---- */

/* SDM "PAUSE": loops of PAUSE at CPL 0, told by the time between them. */
static bool pause_insn(struct cpu *c, const struct insn *i)
{
	struct vmx *v = vmx_of(c);

	if (has(v, CTL_PROC_PAUSE))
		return leave(c, EXIT_PAUSE, 0, i, 0);
	if (!has(v, CTL_PROC2_PLE) || c->arch.cpl)
		return false;
	u64 now = cpu_tsc(c), last = v->s.ple_last;
	v->s.ple_last = now;
	if (!v->s.ple_first || now - last > v->f[VF_PLE_GAP])
		v->s.ple_first = now;
	else if (now - v->s.ple_first > v->f[VF_PLE_WINDOW])
		return leave(c, EXIT_PAUSE, 0, i, 0);
	return false;
}

static bool rdtscp(struct cpu *c, const struct insn *i)
{
	const struct vmx *v = vmx_of(c);

	if (!has(v, CTL_PROC2_RDTSCP))
		return undefined(c);
	return has(v, CTL_PROC_RDTSC) && leave(c, EXIT_RDTSCP, 0, i, 0);
}

static bool invpcid(struct cpu *c, const struct insn *i)
{
	const struct vmx *v = vmx_of(c);

	if (!has(v, CTL_PROC2_INVPCID))
		return undefined(c);
	return has(v, CTL_PROC_INVLPG) && leave(c, EXIT_INVPCID, vmx_info_disp(c, i), i, vmx_info_mem(i, i->dst, true));
}

static bool xsaves(struct cpu *c, const struct insn *i, u32 reason)
{
	const struct vmx *v = vmx_of(c);
	u64 wanted = (u32)c->arch.gpr[GPR_RAX] | c->arch.gpr[GPR_RDX] << 32;

	if (!has(v, CTL_PROC2_XSAVES))
		return undefined(c);
	return (v->f[VF_XSS_EXIT_BITMAP] & c->arch.xss & wanted) &&
	       leave(c, reason, vmx_info_disp(c, i), i, vmx_info_mem(i, 0, false));
}

/* Through a gate, the switch happens while an event is delivered (SDM "Exit Qualification for Task Switches"). */
static bool task_switch(struct cpu *c, const struct insn *i, u64 selector, u64 source)
{
	struct vmx *v = vmx_of(c);

	v->x.len = i ? i->len : 0;
	if (source == 3)
		vmx_set_vectoring(c, &c->delivering);
	vmx_exit(c, EXIT_TASK_SWITCH, (selector & 0xffff) | source << 30);
	return true;
}

/* Asked before IRET ends NMI blocking: a fault of this IRET must tell that it did (SDM "Information for VM Exits Due to
 * Vectored Events", bit 12). */
static bool iret(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	bool ends_it = !has(v, CTL_PIN_NMI) || has(v, CTL_PIN_VIRTUAL_NMI);

	v->iret_unblocked = ends_it && (c->arch.shadow & SHADOW_NMI);
	v->iret_rip = c->arch.rip;
	v->iret_icount = c->icount;
	return false;
}

hot_path bool vmx_icept(struct cpu *c, enum icept what, const struct insn *i, u64 a, u64 b)
{
	struct vmx *v = vmx_fresh(c);

	switch (what) {
#define ICEPT(id, ctl, reason, q, info) \
	case ICEPT_##id: \
		return (CTL_##ctl == CTL_ALWAYS || has(v, CTL_##ctl & 0xff)) && leave(c, EXIT_##reason, q, i, info);
#include "vmx/icepts.def"
#undef ICEPT
	case ICEPT_RDTSCP: return rdtscp(c, i);
	case ICEPT_RDPID: return !has(v, CTL_PROC2_RDTSCP) && undefined(c);
	case ICEPT_INVPCID: return invpcid(c, i);
	case ICEPT_CR_READ: return cr_read(c, i, a, b);
	case ICEPT_CR_WRITE: return cr_write(c, i, a, b);
	case ICEPT_CLTS: return clts(c, i);
	case ICEPT_LMSW: return lmsw(c, i, a, b);
	case ICEPT_IN: return io(c, i, true, a, b);
	case ICEPT_OUT: return io(c, i, false, a, b);
	case ICEPT_RDMSR: return msr_exits(v, a, false) && leave(c, EXIT_RDMSR, 0, i, 0);
	case ICEPT_WRMSR: return msr_exits(v, a, true) && leave(c, EXIT_WRMSR, 0, i, 0);
	case ICEPT_PAUSE: return pause_insn(c, i);
	case ICEPT_XSAVES: return xsaves(c, i, EXIT_XSAVES);
	case ICEPT_XRSTORS: return xsaves(c, i, EXIT_XRSTORS);
	case ICEPT_TASK_SWITCH: return task_switch(c, i, a, b);
	case ICEPT_IRET: return iret(c);
	case ICEPT_SMSW:
	case ICEPT_PUSHF:
	case ICEPT_POPF:
	case ICEPT_SOFT_INT:
	case ICEPT_COUNT: break; /* not in VMX */
	}
	return false;
}
