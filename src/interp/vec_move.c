/* Plain moves without a stub: they are half of all vector instructions. Only the quick case is here; whatever is unusual
 * about a memory operand goes to vec_slow(), which runs the stub that every instruction has. */
#include "interp/vec_priv.h"

/* Bytes [at, at + size) of register r get p's; [at + size, end) become zero. */
static must_inline void set_part(struct cpu *c, unsigned r, const void *p, unsigned at, unsigned size, unsigned end)
{
	u8 *to = vec_reg(c, r);

	memcpy(to + at, p, size);
	if (end > at + size)
		memset(to + at + size, 0, end - at - size);
}

static must_inline enum step load(struct cpu *c, const struct insn *i, enum vec_kind kind, unsigned at, unsigned size, unsigned end, bool x)
{
	const void *p;

	if (unlikely(!vec_enabled(c, kind)))
		return vec_refuse(c, i, kind);
	p = vec_direct(c, i, size, false, x);
	if (unlikely(!p))
		return after(c, i, vec_slow(c, i));
	set_part(c, i->dst, p, at, size, end);
	return next(c, i);
}

static must_inline enum step store(struct cpu *c, const struct insn *i, enum vec_kind kind, unsigned at, unsigned size, bool x)
{
	void *p;

	if (unlikely(!vec_enabled(c, kind)))
		return vec_refuse(c, i, kind);
	p = vec_direct(c, i, size, true, x);
	if (unlikely(!p))
		return after(c, i, vec_slow(c, i));
	memcpy(p, vec_reg(c, i->src) + at, size);
	return next(c, i);
}

static must_inline enum step copy(struct cpu *c, const struct insn *i, enum vec_kind kind, unsigned size, unsigned end)
{
	if (unlikely(!vec_enabled(c, kind)))
		return vec_refuse(c, i, kind);
	set_part(c, i->dst, vec_reg(c, i->src), 0, size, end);
	return next(c, i);
}

static must_inline enum step from_gpr(struct cpu *c, const struct insn *i, enum vec_kind kind, unsigned size, unsigned end)
{
	if (unlikely(!vec_enabled(c, kind)))
		return vec_refuse(c, i, kind);
	set_part(c, i->dst, &c->arch.gpr[i->src], 0, size, end);
	return next(c, i);
}

static must_inline enum step to_gpr(struct cpu *c, const struct insn *i, enum vec_kind kind, unsigned size)
{
	if (unlikely(!vec_enabled(c, kind)))
		return vec_refuse(c, i, kind);
	c->arch.gpr[i->dst] = load_le(vec_reg(c, i->src), size);
	return next(c, i);
}

static must_inline enum step zero(struct cpu *c, const struct insn *i, enum vec_kind kind, unsigned end)
{
	if (unlikely(!vec_enabled(c, kind)))
		return vec_refuse(c, i, kind);
	memset(vec_reg(c, i->dst), 0, end);
	return next(c, i);
}

/* name, kind, offset, size, end */
#define LOAD_ROWS(R) \
	R(16, VEC_SSE, 0, 16, 16) R(v16, VEC_AVX, 0, 16, 32) R(v32, VEC_AVX, 0, 32, 32) R(8, VEC_SSE, 0, 8, 16) R(v8, VEC_AVX, 0, 8, 32) \
	R(4, VEC_SSE, 0, 4, 16) R(v4, VEC_AVX, 0, 4, 32) R(lo, VEC_SSE, 0, 8, 8) R(hi, VEC_SSE, 8, 8, 16)
#define STORE_ROWS(R) \
	R(16, VEC_SSE, 0, 16, 0) R(v16, VEC_AVX, 0, 16, 0) R(v32, VEC_AVX, 0, 32, 0) R(8, VEC_SSE, 0, 8, 0) R(v8, VEC_AVX, 0, 8, 0) \
	R(4, VEC_SSE, 0, 4, 0) R(v4, VEC_AVX, 0, 4, 0) R(hi, VEC_SSE, 8, 8, 0) R(vhi, VEC_AVX, 8, 8, 0)
#define REG_ROWS(R) \
	R(16, VEC_SSE, 0, 16, 16) R(v16, VEC_AVX, 0, 16, 32) R(v32, VEC_AVX, 0, 32, 32) R(8, VEC_SSE, 0, 8, 16) R(v8, VEC_AVX, 0, 8, 32)
#define GPR_ROWS(R) R(8, VEC_SSE, 0, 8, 16) R(v8, VEC_AVX, 0, 8, 32) R(4, VEC_SSE, 0, 4, 16) R(v4, VEC_AVX, 0, 4, 32)

#define HANDLER(name, expr) static enum step name(struct cpu *c, const struct insn *i) { return expr; }
#define R(n, kind, at, size, end) \
	HANDLER(h_ld##n##_x, load(c, i, kind, at, size, end, true)) HANDLER(h_ld##n##_g, load(c, i, kind, at, size, end, false))
LOAD_ROWS(R)
#undef R
#define R(n, kind, at, size, end) \
	HANDLER(h_st##n##_x, store(c, i, kind, at, size, true)) HANDLER(h_st##n##_g, store(c, i, kind, at, size, false))
STORE_ROWS(R)
#undef R
#define R(n, kind, at, size, end) HANDLER(h_mv##n, copy(c, i, kind, size, end))
REG_ROWS(R)
#undef R
#define R(n, kind, at, size, end) HANDLER(h_fg##n, from_gpr(c, i, kind, size, end)) HANDLER(h_tg##n, to_gpr(c, i, kind, size))
GPR_ROWS(R)
#undef R
HANDLER(h_zero, zero(c, i, VEC_SSE, 16))
HANDLER(h_vzero, zero(c, i, VEC_AVX, 32))

/* ---- choosing ---- */
enum shape { SH_FULL, SH_Q, SH_D, SH_LOW, SH_HIGH, SH_ZERO };

static const struct { u16 mnemonic; u8 shape; } rows[] = {
#define R(name, shape) { ZYDIS_MNEMONIC_##name, SH_##shape },
	R(MOVAPS, FULL) R(MOVAPD, FULL) R(MOVUPS, FULL) R(MOVUPD, FULL) R(MOVDQA, FULL) R(MOVDQU, FULL)
	R(LDDQU, FULL) R(MOVNTDQA, FULL) R(MOVNTDQ, FULL) R(MOVNTPS, FULL) R(MOVNTPD, FULL) R(VMOVAPS, FULL)
	R(VMOVAPD, FULL) R(VMOVUPS, FULL) R(VMOVUPD, FULL) R(VMOVDQA, FULL) R(VMOVDQU, FULL) R(VLDDQU, FULL)
	R(VMOVNTDQA, FULL) R(VMOVNTDQ, FULL) R(VMOVNTPS, FULL) R(VMOVNTPD, FULL) R(MOVQ, Q) R(MOVSD, Q)
	R(VMOVQ, Q) R(VMOVSD, Q) R(MOVD, D) R(MOVSS, D) R(VMOVD, D) R(VMOVSS, D) R(MOVLPS, LOW) R(MOVLPD, LOW)
	R(VMOVLPS, LOW) R(VMOVLPD, LOW) R(MOVHPS, HIGH) R(MOVHPD, HIGH) R(VMOVHPS, HIGH) R(VMOVHPD, HIGH)
	R(PXOR, ZERO) R(XORPS, ZERO) R(XORPD, ZERO) R(VPXOR, ZERO) R(VXORPS, ZERO) R(VXORPD, ZERO)
#undef R
};

enum { WIDTH_16, WIDTH_V16, WIDTH_V32, WIDTHS };
#define PAIR(name) { name##_x, name##_g }
static insn_fn *const loads[SH_ZERO][WIDTHS][2] = {
	[SH_FULL] = { PAIR(h_ld16), PAIR(h_ldv16), PAIR(h_ldv32) }, [SH_Q] = { PAIR(h_ld8), PAIR(h_ldv8) }, [SH_D] = { PAIR(h_ld4), PAIR(h_ldv4) },
	[SH_LOW] = { PAIR(h_ldlo) }, [SH_HIGH] = { PAIR(h_ldhi) },
};
static insn_fn *const stores[SH_ZERO][WIDTHS][2] = {
	[SH_FULL] = { PAIR(h_st16), PAIR(h_stv16), PAIR(h_stv32) }, [SH_Q] = { PAIR(h_st8), PAIR(h_stv8) }, [SH_D] = { PAIR(h_st4), PAIR(h_stv4) },
	[SH_LOW] = { PAIR(h_st8), PAIR(h_stv8) }, [SH_HIGH] = { PAIR(h_sthi), PAIR(h_stvhi) },
};

static bool is_vector(const ZydisDecodedOperand *o)
{
	ZydisRegisterClass c = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(o->reg.value) : ZYDIS_REGCLASS_INVALID;

	return c == ZYDIS_REGCLASS_XMM || c == ZYDIS_REGCLASS_YMM;
}

static bool is_gpr(const ZydisDecodedOperand *o)
{
	ZydisRegisterClass c = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(o->reg.value) : ZYDIS_REGCLASS_INVALID;

	return c == ZYDIS_REGCLASS_GPR32 || c == ZYDIS_REGCLASS_GPR64;
}

static insn_fn *choose_gpr(const ZydisDecodedOperand *ops, bool to, bool vex)
{
	static insn_fn *const fns[2][2][2] = { { { h_fg4, h_fgv4 }, { h_fg8, h_fgv8 } }, { { h_tg4, h_tgv4 }, { h_tg8, h_tgv8 } } };

	return fns[to][ops[to ? 0 : 1].size == 64][vex];
}

static insn_fn *choose_zero(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, bool vex)
{
	unsigned a = vex ? 1 : 0, b = vex ? 2 : 1;

	if (!is_vector(&ops[b]) || ops[a].reg.value != ops[b].reg.value)
		return NULL;
	return vex ? h_vzero : h_zero;
}

insn_fn *vec_decode_move(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, bool x)
{
	static insn_fn *const moves[WIDTHS] = { h_mv16, h_mvv16, h_mvv32 };
	bool vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	unsigned width = !vex ? WIDTH_16 : zi->raw.vex.L ? WIDTH_V32 : WIDTH_V16, k = 0;

	while (k < array_len(rows) && rows[k].mnemonic != zi->mnemonic)
		k++;
	if (k == array_len(rows))
		return NULL;
	if (rows[k].shape == SH_ZERO)
		return is_vector(&ops[0]) ? choose_zero(zi, ops, vex) : NULL;
	if (width == WIDTH_V32 && rows[k].shape != SH_FULL)
		width = WIDTH_V16; /* scalars ignore VEX.L */
	if (zi->operand_count != 2)
		return NULL; /* merging forms: the stub does them */
	if (ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY)
		return is_vector(&ops[0]) ? loads[rows[k].shape][width][x ? 0 : 1] : NULL;
	if (ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
		return is_vector(&ops[1]) ? stores[rows[k].shape][width][x ? 0 : 1] : NULL;
	if (is_vector(&ops[0]) && is_vector(&ops[1])) {
		if (zi->mnemonic == ZYDIS_MNEMONIC_MOVQ || zi->mnemonic == ZYDIS_MNEMONIC_VMOVQ)
			return vex ? h_mvv8 : h_mv8;
		return rows[k].shape == SH_FULL ? moves[width] : NULL; /* MOVSS and MOVSD merge */
	}
	if (is_vector(&ops[0]) && is_gpr(&ops[1]))
		return choose_gpr(ops, false, vex);
	return is_gpr(&ops[0]) && is_vector(&ops[1]) ? choose_gpr(ops, true, vex) : NULL;
}
