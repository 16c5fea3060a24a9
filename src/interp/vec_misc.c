/* Vector instructions that need no silicon: MXCSR loads and stores, zeroing, and masked byte stores through rDI. */
#include "interp/vec_priv.h"

/* ---- MXCSR ---- */
static noinline enum step mxcsr_body(struct cpu *c, const struct insn *i, enum vec_kind kind, bool load)
{
	u32 v = c->arch.mxcsr;

	if (!vec_enabled(c, kind))
		return vec_refuse(c, i, kind);
	if (!load)
		return vec_write(c, i, 0, &v, 4) ? STEP_END : STEP_FAULT;
	if (!vec_read(c, i, 0, &v, 4))
		return STEP_FAULT;
	if (v & ~MXCSR_VALID)
		return cpu_gp(c, 0);
	c->arch.mxcsr = v;
	return STEP_END;
}

static enum step h_ldmxcsr(struct cpu *c, const struct insn *i) { return after(c, i, mxcsr_body(c, i, VEC_SSE, true)); }
static enum step h_stmxcsr(struct cpu *c, const struct insn *i) { return after(c, i, mxcsr_body(c, i, VEC_SSE, false)); }
static enum step h_vldmxcsr(struct cpu *c, const struct insn *i) { return after(c, i, mxcsr_body(c, i, VEC_AVX, true)); }
static enum step h_vstmxcsr(struct cpu *c, const struct insn *i) { return after(c, i, mxcsr_body(c, i, VEC_AVX, false)); }

/* ---- VZEROUPPER, VZEROALL: the registers that the mode has ---- */
static enum step h_vzeroupper(struct cpu *c, const struct insn *i)
{
	if (unlikely(!vec_enabled(c, VEC_AVX)))
		return vec_refuse(c, i, VEC_AVX);
	for (unsigned r = 0; r < (c->mode & MODE_L ? 16 : 8); r++)
		memset(vec_reg(c, r) + 16, 0, 16);
	return next(c, i);
}

static enum step h_vzeroall(struct cpu *c, const struct insn *i)
{
	if (unlikely(!vec_enabled(c, VEC_AVX)))
		return vec_refuse(c, i, VEC_AVX);
	memset(c->arch.ymm, 0, c->mode & MODE_L ? 16 * 32 : 8 * 32);
	return next(c, i);
}

/* ---- MASKMOVQ, (V)MASKMOVDQU: bytes of dst where src's have bit 7 set, to seg:rDI ---- */
/* The silicon checks each half of the operand, the upper first, whatever the mask says. */
static bool check_target(struct cpu *c, const struct insn *i, unsigned n)
{
	u64 ea = c->arch.gpr[GPR_RDI] & size_mask(i->asize), la;

	set_rip(c, i);
	for (unsigned k = n; k; k -= 8) {
		if (!seg_la(c, i, i->seg, vec_piece(c, ea + k - 8), 8, true, &la) || !interp_aligned(c, la, 8))
			return false;
		if (!mmu_probe_write(c, la, 8)) {
			interp_fix_fault(c, i->seg, la);
			return false;
		}
	}
	return true;
}

static enum step store_selected(struct cpu *c, const struct insn *i, const u8 *data, const u8 *mask, unsigned n)
{
	u64 ea = c->arch.gpr[GPR_RDI] & size_mask(i->asize), la;

	for (unsigned k = 0; k < n; k++) {
		if (!(mask[k] & 0x80))
			continue;
		if (!seg_la(c, i, i->seg, vec_piece(c, ea + k), 1, true, &la) || !mmu_write(c, la, 1, data[k]))
			return STEP_FAULT;
	}
	return STEP_END;
}

static noinline enum step maskmovdqu_body(struct cpu *c, const struct insn *i, enum vec_kind kind)
{
	if (!vec_enabled(c, kind))
		return vec_refuse(c, i, kind);
	if (!check_target(c, i, 16))
		return STEP_FAULT;
	return store_selected(c, i, vec_reg(c, i->dst), vec_reg(c, i->src), 16);
}

static noinline enum step maskmovq_body(struct cpu *c, const struct insn *i)
{
	u64 v[2];

	if (!vec_enabled(c, VEC_MMX))
		return vec_refuse(c, i, VEC_MMX);
	if (x87_ready(c, i) != STEP_END || !check_target(c, i, 8))
		return STEP_FAULT;
	((vec_stub *)i->aux)(c, v);
	return store_selected(c, i, (u8 *)&v[0], (u8 *)&v[1], 8);
}

static enum step h_maskmovdqu(struct cpu *c, const struct insn *i) { return after(c, i, maskmovdqu_body(c, i, VEC_SSE)); }
static enum step h_vmaskmovdqu(struct cpu *c, const struct insn *i) { return after(c, i, maskmovdqu_body(c, i, VEC_AVX)); }
static enum step h_maskmovq(struct cpu *c, const struct insn *i) { return after(c, i, maskmovq_body(c, i)); }

static const struct { u16 mnemonic; insn_fn *fn; } rows[] = {
	{ ZYDIS_MNEMONIC_LDMXCSR, h_ldmxcsr }, { ZYDIS_MNEMONIC_STMXCSR, h_stmxcsr },
	{ ZYDIS_MNEMONIC_VLDMXCSR, h_vldmxcsr }, { ZYDIS_MNEMONIC_VSTMXCSR, h_vstmxcsr },
	{ ZYDIS_MNEMONIC_VZEROUPPER, h_vzeroupper }, { ZYDIS_MNEMONIC_VZEROALL, h_vzeroall },
	{ ZYDIS_MNEMONIC_MASKMOVDQU, h_maskmovdqu }, { ZYDIS_MNEMONIC_VMASKMOVDQU, h_vmaskmovdqu },
	{ ZYDIS_MNEMONIC_MASKMOVQ, h_maskmovq },
};

insn_fn *vec_decode_misc(struct cpu *c, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, struct insn *out)
{
	for (unsigned k = 0; k < array_len(rows); k++) {
		if (rows[k].mnemonic != zi->mnemonic)
			continue;
		if (rows[k].fn == h_maskmovdqu || rows[k].fn == h_vmaskmovdqu || rows[k].fn == h_maskmovq) {
			out->dst = (u8)ZydisRegisterGetId(ops[0].reg.value) & 15;
			out->src = (u8)ZydisRegisterGetId(ops[1].reg.value) & 15;
			out->seg = SEG_DS;
			for (unsigned n = 2; n < zi->operand_count; n++)
				if (ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
					out->seg = isa_reg(ops[n].mem.segment);
		}
		if (rows[k].fn == h_maskmovq && !(out->aux = (void *)vec_stub_two_mmx(c, out->dst, out->src)))
			return NULL;
		return rows[k].fn;
	}
	return NULL;
}
