/* Control registers, EFER, XCR0, INVPCID, and what their changes do to the TLB (SDM "Control Registers"; "Operations that Invalidate TLBs and
 * Paging-Structure Caches"). Changes of bits that decide permissions need no flush, only mmu_switch: contexts are keyed by them. */
#include "cpu/desc.h"
#include "cpu/model.h"

#define CR0_DEFINED (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)

struct cr4_row { u64 bits; int feature; };
/* Bits of CR4 and the feature that makes them settable; -1: always there. VME and PVI are not offered (CPUID.1:EDX.VME = 0). */
static const struct cr4_row cr4_rows[] = {
	{ CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT, -1 },
	{ CR4_UMIP, FEAT_UMIP }, { CR4_VMXE, FEAT_VMX }, { CR4_FSGSBASE, FEAT_FSGSBASE }, { CR4_PCIDE, FEAT_PCID },
	{ CR4_OSXSAVE, FEAT_XSAVE }, { CR4_SMEP, FEAT_SMEP }, { CR4_SMAP, FEAT_SMAP }, { CR4_PKE, FEAT_PKU },
};

u64 cpu_cr4_supported(const struct cpu *c)
{
	u64 v = 0;
	for (unsigned i = 0; i < array_len(cr4_rows); i++)
		if (cr4_rows[i].feature < 0 || cpu_has(c, (enum cpu_feature)cr4_rows[i].feature))
			v |= cr4_rows[i].bits;
	return v;
}

static bool allowed(const struct cpu *c, unsigned cr, u64 value)
{
	return !c->virt || !c->virt->cr_allowed || c->virt->cr_allowed(c, cr, value);
}

/* PAE paging after the change? Then the PDPTEs are loaded now. */
static bool pae_paging(u64 cr0, u64 cr4, u64 efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LME);
}

static enum step load_pdptes(struct cpu *c, u64 cr3)
{
	bool virt = false;
	if (mmu_load_pdptes(c, cr3, &virt))
		return STEP_END;
	return virt ? STEP_FAULT : cpu_gp(c, 0);
}

/* SDM "Initializing IA-32e Mode"; MOV to CR0. */
static bool long_mode_ok(const struct cpu *c, u64 cr0, bool pg_on, bool pg_off)
{
	if (pg_on && (c->arch.efer & EFER_LME))
		return (c->arch.cr4 & CR4_PAE) && !(c->arch.seg[SEG_CS].attr & SEG_L) && (c->arch.tr.attr & 8);
	return !pg_off || (!cpu_long64(c) && !(c->arch.cr4 & CR4_PCIDE));
}

enum step cpu_set_cr0(struct cpu *c, u64 value)
{
	u64 old = c->arch.cr0;
	if (value >> 32)
		return cpu_gp(c, 0);
	value = (value & CR0_DEFINED) | CR0_ET;
	u64 changed = old ^ value;
	if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
		return cpu_gp(c, 0);
	if (!long_mode_ok(c, value, changed & value & CR0_PG, changed & old & CR0_PG) || !allowed(c, 0, value))
		return cpu_gp(c, 0);
	if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && pae_paging(value, c->arch.cr4, c->arch.efer) && load_pdptes(c, c->arch.cr3) == STEP_FAULT)
		return STEP_FAULT;
	c->arch.cr0 = value;
	if ((value & CR0_PG) && (c->arch.efer & EFER_LME))
		c->arch.efer |= EFER_LMA;
	else
		c->arch.efer &= ~(u64)EFER_LMA;
	cpu_update_mode(c);
	if (changed & (CR0_PG | CR0_WP))
		mmu_switch(c);
	if (changed & CR0_PG)
		mmu_flush_vpid(c, cpu_vpid(c), true);
	return STEP_STOP;
}

enum step cpu_set_cr3(struct cpu *c, u64 value)
{
	bool keep = false;
	if (c->arch.cr4 & CR4_PCIDE) {
		keep = value >> 63;
		value &= ~BIT(63);
	}
	if (c->lma && value >> cpu_maxphyaddr(c))
		return cpu_gp(c, 0);
	if (pae_paging(c->arch.cr0, c->arch.cr4, c->arch.efer) && load_pdptes(c, value) == STEP_FAULT)
		return STEP_FAULT;
	c->arch.cr3 = value;
	mmu_switch(c);
	if (!keep)
		mmu_flush_current(c, false);
	return STEP_STOP; /* the next instruction may lie elsewhere */
}

#define CR4_PDPTE_BITS (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)
#define CR4_PERMISSION_BITS (CR4_PSE | CR4_PAE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PCIDE | CR4_LA57)

/* Bits that cannot change this way in IA-32e mode, and PCIDE's rules. */
static bool cr4_ok(const struct cpu *c, u64 value)
{
	u64 on = value & ~c->arch.cr4;
	if (value & ~cpu_cr4_supported(c))
		return false;
	if (c->lma && !(value & CR4_PAE))
		return false;
	if ((on & CR4_PCIDE) && (!c->lma || (c->arch.cr3 & 0xfff)))
		return false;
	return allowed(c, 4, value);
}

enum step cpu_set_cr4(struct cpu *c, u64 value)
{
	u64 changed = c->arch.cr4 ^ value;
	if (!cr4_ok(c, value))
		return cpu_gp(c, 0);
	if ((changed & CR4_PDPTE_BITS) && pae_paging(c->arch.cr0, value, c->arch.efer)) {
		u64 old = c->arch.cr4;
		c->arch.cr4 = value;
		if (load_pdptes(c, c->arch.cr3) == STEP_FAULT) {
			c->arch.cr4 = old;
			return STEP_FAULT;
		}
	}
	c->arch.cr4 = value;
	cpu_update_mode(c);
	if (changed & CR4_PERMISSION_BITS)
		mmu_switch(c);
	/* PGE either way; PAE and PSE; SMEP on; PCIDE off: everything goes, global translations too */
	if ((changed & (CR4_PGE | CR4_PAE | CR4_PSE)) || (changed & value & CR4_SMEP) || (changed & ~value & CR4_PCIDE))
		mmu_flush_vpid(c, cpu_vpid(c), true);
	return STEP_STOP;
}

enum step cpu_set_efer(struct cpu *c, u64 value)
{
	u64 supported = EFER_LMA, old = c->arch.efer;
	if (cpu_has(c, FEAT_SYSCALL))
		supported |= EFER_SCE;
	if (cpu_has(c, FEAT_LM))
		supported |= EFER_LME;
	if (cpu_has(c, FEAT_NX))
		supported |= EFER_NXE;
	if (cpu_has(c, FEAT_SVM))
		supported |= EFER_SVME;
	if (value & ~supported)
		return cpu_gp(c, 0);
	if (((value ^ old) & EFER_LME) && (c->arch.cr0 & CR0_PG))
		return cpu_gp(c, 0);
	c->arch.efer = (value & ~(u64)EFER_LMA) | (old & EFER_LMA); /* LMA follows CR0.PG */
	cpu_update_mode(c);
	if ((value ^ old) & EFER_NXE)
		mmu_switch(c);
	return STEP_STOP;
}

enum step cpu_set_xcr0(struct cpu *c, u64 value)
{
	if ((value & ~model_xcr0(c->model)) || !(value & 1) || (value & 6) == 4)
		return cpu_gp(c, 0);
	c->arch.xcr0 = value;
	return STEP_STOP;
}

hot_path void cpu_load_control(struct cpu *c, u64 cr0, u64 cr3, u64 cr4, u64 efer)
{
	c->arch.cr0 = cr0;
	c->arch.cr3 = cr3;
	c->arch.cr4 = cr4;
	c->arch.efer = efer;
	c->step = 0; /* the step under way belonged to the other side */
	cpu_update_mode(c);
	mmu_switch(c);
}

/* SDM "INVPCID" */
enum step cpu_invpcid(struct cpu *c, u64 type, u64 desc_lo, u64 desc_hi)
{
	u16 vpid = cpu_vpid(c), pcid = desc_lo & 0xfff;
	if (type > 3 || (type < 2 && desc_lo >> 12))
		return cpu_gp(c, 0);
	if (type < 2 && pcid && !(c->arch.cr4 & CR4_PCIDE))
		return cpu_gp(c, 0);
	switch (type) {
	case 0:
		if (!cpu_canonical(desc_hi))
			return cpu_gp(c, 0);
		if (pcid == (c->arch.cr4 & CR4_PCIDE ? c->arch.cr3 & 0xfff : 0))
			mmu_invlpg(c, gva(desc_hi));
		else
			mmu_flush_pcid(c, vpid, pcid); /* more than asked for, which is allowed */
		break;
	case 1: mmu_flush_pcid(c, vpid, pcid); break;
	case 2: mmu_flush_vpid(c, vpid, true); break;
	case 3: mmu_flush_vpid(c, vpid, false); break;
	}
	return STEP_END;
}

/* ---- I/O permission (SDM "I/O Permission Bit Map") ---- */

bool cpu_io_allowed(struct cpu *c, u16 port, unsigned size)
{
	const struct seg *tr = &c->arch.tr;
	u64 map, perm;
	if (cpu_real_mode(c) || (!cpu_vm86(c) && c->arch.cpl <= bits(c->arch.rflags, 13, 12)))
		return true;
	if ((tr->attr & SEG_UNUSABLE) || !(tr->attr & 8) || tr->limit < 103)
		return fail(c, VEC_GP, 0);
	if (!mmu_read_sys(c, cpu_wrap_la(c, tr->base + 102), 2, &map))
		return false;
	u64 at = map + port / 8;
	if (at + 1 > tr->limit) /* two bytes are always read */
		return fail(c, VEC_GP, 0);
	if (!mmu_read_sys(c, cpu_wrap_la(c, tr->base + at), 2, &perm))
		return false;
	return !(perm >> (port & 7) & low_mask(size)) || fail(c, VEC_GP, 0);
}
