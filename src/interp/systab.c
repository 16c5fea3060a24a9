/* Descriptor tables and selectors (SGDT.. LTR, LAR LSL VERR VERW ARPL, LDS..LSS), software interrupts, BOUND. */
#include "interp/sys.h"

/* ---- GDTR IDTR ---- */
/* A 16-bit operand size stores and loads 24 bits of base (SDM "SGDT", "LGDT"). */
static unsigned base_bytes(const struct cpu *c) { return c->mode & MODE_L ? 8 : 4; }

enum step sys_sgdt(struct cpu *c, const struct insn *i)
{
	bool idt = i->op == ZYDIS_MNEMONIC_SIDT;
	const struct dtable *t = idt ? &c->arch.idtr : &c->arch.gdtr;
	unsigned n = base_bytes(c);
	u8 bytes[10];
	u64 la;
	if (umip_denied(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_GDTR_IDTR, i, idt, 0))
		return STEP_STOP;
	store_le(bytes, t->limit, 2);
	store_le(bytes + 2, n == 4 && i->opsize == 2 ? t->base & 0xffffff : t->base, n);
	if (!mem_la(c, i, 0, 2 + n, true, &la))
		return STEP_FAULT;
	if (mmu_write_bytes(c, la, bytes, 2 + n))
		return STEP_END;
	interp_fix_fault(c, i->seg, la);
	return STEP_FAULT;
}

enum step sys_lgdt(struct cpu *c, const struct insn *i)
{
	bool idt = i->op == ZYDIS_MNEMONIC_LIDT;
	struct dtable *t = idt ? &c->arch.idtr : &c->arch.gdtr;
	unsigned n = base_bytes(c);
	u8 bytes[10];
	u64 la;
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_GDTR_IDTR, i, 2 + idt, 0))
		return STEP_STOP;
	if (!mem_la(c, i, 0, 2 + n, false, &la))
		return STEP_FAULT;
	if (!mmu_read_bytes(c, la, bytes, 2 + n)) {
		interp_fix_fault(c, i->seg, la);
		return STEP_FAULT;
	}
	u64 base = load_le(bytes + 2, n);
	if (n == 4 && i->opsize == 2)
		base &= 0xffffff;
	if (!cpu_canonical(base))
		return cpu_gp(c, 0);
	t->limit = (u32)load_le(bytes, 2);
	t->base = base;
	return STEP_END;
}

/* ---- LDTR TR ---- */
static bool read_sel(struct cpu *c, const struct insn *i, unsigned reg, u64 *sel)
{
	if (i->flags & INSN_MEM)
		return op_read(c, i, 2, sel);
	*sel = rd_u16(c, reg);
	return true;
}

enum step sys_sldt(struct cpu *c, const struct insn *i)
{
	bool tr = i->op == ZYDIS_MNEMONIC_STR;
	u16 sel = tr ? c->arch.tr.sel : c->arch.ldtr.sel;
	if (!(c->mode & MODE_PE))
		return cpu_ud(c);
	if (umip_denied(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_LDTR_TR, i, tr, 0))
		return STEP_STOP;
	if (i->flags & INSN_MEM)
		return op_write(c, i, 2, sel) ? STEP_END : STEP_FAULT;
	wr_size(c, i->dst, i->opsize, sel);
	return STEP_END;
}

static enum step load_system_seg(struct cpu *c, const struct insn *i, bool tr)
{
	u64 sel;
	if (!(c->mode & MODE_PE))
		return cpu_ud(c);
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_LDTR_TR, i, 2 + tr, 0))
		return STEP_STOP;
	if (!read_sel(c, i, i->dst, &sel))
		return STEP_FAULT;
	enum step s = tr ? cpu_ltr(c, (u16)sel) : cpu_lldt(c, (u16)sel);
	return finish(c, i, s);
}
enum step sys_lldt(struct cpu *c, const struct insn *i) { return load_system_seg(c, i, false); }
enum step sys_ltr(struct cpu *c, const struct insn *i) { return load_system_seg(c, i, true); }

/* ---- selector queries: only ZF changes ---- */
static void set_zf(struct cpu *c, bool z) { c->arch.cc = (c->arch.cc & ~CC_ZF) | (z ? CC_ZF : 0); }

enum step sys_lar(struct cpu *c, const struct insn *i)
{
	u64 sel;
	u32 out = 0;
	bool faulted = false;
	if (!(c->mode & MODE_PE))
		return cpu_ud(c);
	if (!read_sel(c, i, i->src, &sel))
		return STEP_FAULT;
	bool ok = cpu_seg_query(c, i->op == ZYDIS_MNEMONIC_LAR ? SEG_LAR : SEG_LSL, (u16)sel, &out, &faulted);
	if (faulted)
		return STEP_FAULT;
	if (ok)
		wr_size(c, i->dst, i->opsize, out);
	set_zf(c, ok);
	return STEP_END;
}

enum step sys_verr(struct cpu *c, const struct insn *i)
{
	u64 sel;
	u32 out = 0;
	bool faulted = false;
	if (!(c->mode & MODE_PE))
		return cpu_ud(c);
	if (!read_sel(c, i, i->dst, &sel))
		return STEP_FAULT;
	bool ok = cpu_seg_query(c, i->op == ZYDIS_MNEMONIC_VERR ? SEG_VERR : SEG_VERW, (u16)sel, &out, &faulted);
	if (faulted)
		return STEP_FAULT;
	set_zf(c, ok);
	return STEP_END;
}

enum step sys_arpl(struct cpu *c, const struct insn *i)
{
	u64 sel, rpl = rd_u16(c, i->src) & 3;
	if (!(c->mode & MODE_PE))
		return cpu_ud(c);
	if (!read_sel(c, i, i->dst, &sel))
		return STEP_FAULT;
	bool raise = (sel & 3) < rpl;
	if (raise) {
		sel = (sel & ~(u64)3) | rpl;
		if (!(i->flags & INSN_MEM))
			wr_u16(c, i->dst, (u16)sel);
		else if (!op_write(c, i, 2, sel))
			return STEP_FAULT;
	}
	set_zf(c, raise);
	return STEP_END;
}

/* ---- LDS LES LFS LGS LSS ---- */
enum step sys_lseg(struct cpu *c, const struct insn *i)
{
	unsigned seg = i->op == ZYDIS_MNEMONIC_LDS ? SEG_DS : i->op == ZYDIS_MNEMONIC_LES ? SEG_ES : i->op == ZYDIS_MNEMONIC_LFS ? SEG_FS :
		i->op == ZYDIS_MNEMONIC_LGS ? SEG_GS : SEG_SS;
	u64 la, off, sel;
	if (!mem_la(c, i, 0, i->opsize + 2, false, &la) || !ld(c, i, la, i->opsize, &off) || !ld(c, i, la + i->opsize, 2, &sel))
		return STEP_FAULT;
	if (cpu_load_seg(c, seg, (u16)sel) == STEP_FAULT)
		return STEP_FAULT;
	wr_size(c, i->dst, i->opsize, off);
	return stop_next(c, i);
}

/* ---- software interrupts, BOUND ---- */
enum step sys_int(struct cpu *c, const struct insn *i)
{
	if (cpu_icept(c, ICEPT_SOFT_INT, i, (u8)i->imm, 0))
		return STEP_STOP;
	return cpu_soft_event(c, EVENT_SOFT_INT, (u8)i->imm, i->len);
}
enum step sys_int3(struct cpu *c, const struct insn *i) { return cpu_soft_event(c, EVENT_SOFT_EXC, VEC_BP, i->len); }
enum step sys_int1(struct cpu *c, const struct insn *i) { return cpu_soft_event(c, EVENT_ICEBP, VEC_DB, i->len); }
enum step sys_into(struct cpu *c, const struct insn *i)
{
	return c->arch.cc & CC_OF ? cpu_soft_event(c, EVENT_SOFT_EXC, VEC_OF, i->len) : STEP_END;
}

enum step sys_bound(struct cpu *c, const struct insn *i)
{
	unsigned n = i->opsize;
	u64 la, low, high;
	if (!mem_la(c, i, 0, 2 * n, false, &la) || !ld(c, i, la, n, &low) || !ld(c, i, la + n, n, &high))
		return STEP_FAULT;
	i64 v = (i64)sext_size(rd_size(c, i->dst, n), n);
	return v < (i64)sext_size(low, n) || v > (i64)sext_size(high, n) ? cpu_fault(c, VEC_BR) : STEP_END;
}
