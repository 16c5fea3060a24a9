/* The vector unit: choosing a handler and a stub for an instruction, and the handlers that run stubs.
 * Not here: making stubs (vec_stub.c), x87 (x87.c), state instructions (xsave.c), masked and gathering accesses
 * (vec_masked.c). */
#include "interp/vec_priv.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"

/* ---- running ---- */
static inline void host_mxcsr_load(struct vec *v, u32 mxcsr)
{
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr) : "memory");
	v->host_mxcsr = mxcsr;
}

hot_path bool vec_fp_open(struct cpu *c)
{
	if (!c->vec || (c->arch.mxcsr & MXCSR_MASKS) != MXCSR_MASKS)
		return false;
	if (c->arch.mxcsr != vec_of(c)->host_mxcsr)
		host_mxcsr_load(vec_of(c), c->arch.mxcsr);
	return true;
}

hot_path bool vec_x87_open(const struct cpu *c) { return c->x87_resident && !vec_of(c)->x87_unmasked; }
void vec_x87_show(struct cpu *c) { x87_store(c); }
void vec_x87_put_back(struct cpu *c)
{
	if (c->x87_resident)
		x87_load(c);
}

void vec_fp_close(struct cpu *c)
{
	__asm__ volatile("stmxcsr %0" : "=m"(c->arch.mxcsr) : : "memory");
	vec_of(c)->host_mxcsr = c->arch.mxcsr;
}

enum step vec_run(struct cpu *c, const struct insn *i, void *p)
{
	struct vec *v = vec_of(c);
	vec_stub *code = (vec_stub *)i->aux;

	if (i->src2 & VEC_F_FP) {
		if ((c->arch.mxcsr & MXCSR_MASKS) != MXCSR_MASKS) {
			if (vec_stub_guarded(c, code, p))
				return STEP_END;
			set_rip(c, i);
			return cpu_fault(c, c->arch.cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
		}
		if (c->arch.mxcsr != v->host_mxcsr)
			host_mxcsr_load(v, c->arch.mxcsr);
		code(c, p);
		v->host_mxcsr = c->arch.mxcsr;
		return STEP_END;
	}
	code(c, p);
	return STEP_END;
}

enum step vec_refuse(struct cpu *c, const struct insn *i, enum vec_kind kind)
{
	bool exists;

	set_rip(c, i);
	if (kind == VEC_AVX)
		exists = (c->arch.cr4 & CR4_OSXSAVE) && (c->arch.xcr0 & 6) == 6;
	else
		exists = !(c->arch.cr0 & CR0_EM) && (kind == VEC_MMX || (c->arch.cr4 & CR4_OSFXSR));
	return cpu_fault(c, exists ? VEC_NM : VEC_UD);
}

static must_inline enum step vec_exec(struct cpu *c, const struct insn *i, enum vec_kind kind, bool fp, enum vec_mem mem, bool x)
{
	void *p = NULL;

	if (unlikely(!vec_enabled(c, kind)))
		return vec_refuse(c, i, kind);
	if (kind == VEC_MMX || kind == VEC_MMX_SSE) {
		enum step s = x87_ready(c, i);
		if (unlikely(s != STEP_END))
			return s;
	}
	if (mem != VEC_REG) {
		p = vec_direct(c, i, i->opsize, mem == VEC_STORE, x);
		if (unlikely(!p))
			return after(c, i, vec_slow(c, i));
	}
	if (fp) {
		if (unlikely(c->arch.mxcsr != vec_of(c)->host_mxcsr))
			return after(c, i, vec_run(c, i, p));
		((vec_stub *)i->aux)(c, p);
		vec_of(c)->host_mxcsr = c->arch.mxcsr;
	} else {
		((vec_stub *)i->aux)(c, p);
	}
	return next(c, i);
}

/* Handlers by what they need enabled, MXCSR use, and the memory operand with plain (x) or general (g) address. */
#define FORM_ROWS(R, kind, fp) \
	R(kind, fp, r, VEC_REG, true) R(kind, fp, lx, VEC_LOAD, true) R(kind, fp, lg, VEC_LOAD, false) \
	R(kind, fp, sx, VEC_STORE, true) R(kind, fp, sg, VEC_STORE, false)
#define HANDLER_ROWS(R) \
	FORM_ROWS(R, VEC_SSE, 0) FORM_ROWS(R, VEC_SSE, 1) FORM_ROWS(R, VEC_AVX, 0) FORM_ROWS(R, VEC_AVX, 1) \
	FORM_ROWS(R, VEC_MMX, 0) FORM_ROWS(R, VEC_MMX, 1) FORM_ROWS(R, VEC_MMX_SSE, 0) FORM_ROWS(R, VEC_MMX_SSE, 1)

#define R(kind, fp, form, mem, x) \
	static enum step h_##kind##_##fp##_##form(struct cpu *c, const struct insn *i) { return vec_exec(c, i, kind, fp, mem, x); }
HANDLER_ROWS(R)
#undef R

enum { FORM_r, FORM_lx, FORM_lg, FORM_sx, FORM_sg, FORMS };
static insn_fn *const handlers[4][2][FORMS] = {
#define R(kind, fp, form, mem, x) [kind][fp][FORM_##form] = h_##kind##_##fp##_##form,
	HANDLER_ROWS(R)
#undef R
};

/* ---- what the model must show ---- */
static const struct { u16 set; u16 feature; } set_features[] = {
	{ ZYDIS_ISA_SET_PENTIUMMMX, FEAT_MMX }, { ZYDIS_ISA_SET_SSE, FEAT_SSE }, { ZYDIS_ISA_SET_SSEMXCSR, FEAT_SSE },
	{ ZYDIS_ISA_SET_SSE2, FEAT_SSE2 }, { ZYDIS_ISA_SET_SSE2MMX, FEAT_SSE2 }, { ZYDIS_ISA_SET_SSE3, FEAT_SSE3 },
	{ ZYDIS_ISA_SET_SSE3X87, FEAT_SSE3 }, { ZYDIS_ISA_SET_SSSE3, FEAT_SSSE3 }, { ZYDIS_ISA_SET_SSSE3MMX, FEAT_SSSE3 },
	{ ZYDIS_ISA_SET_SSE4, FEAT_SSE41 }, { ZYDIS_ISA_SET_SSE42, FEAT_SSE42 }, { ZYDIS_ISA_SET_AES, FEAT_AES },
	{ ZYDIS_ISA_SET_PCLMULQDQ, FEAT_PCLMUL }, { ZYDIS_ISA_SET_SHA, FEAT_SHA }, { ZYDIS_ISA_SET_AVX, FEAT_AVX },
	{ ZYDIS_ISA_SET_AVXAES, FEAT_AES }, { ZYDIS_ISA_SET_AVX2, FEAT_AVX2 }, { ZYDIS_ISA_SET_AVX2GATHER, FEAT_AVX2 },
	{ ZYDIS_ISA_SET_FMA, FEAT_FMA }, { ZYDIS_ISA_SET_F16C, FEAT_F16C }, { ZYDIS_ISA_SET_X87, FEAT_FPU },
	{ ZYDIS_ISA_SET_FCMOV, FEAT_FPU }, { ZYDIS_ISA_SET_PPRO, FEAT_FPU }, { ZYDIS_ISA_SET_FXSAVE, FEAT_SSE },
	{ ZYDIS_ISA_SET_FXSAVE64, FEAT_SSE }, { ZYDIS_ISA_SET_XSAVE, FEAT_XSAVE }, { ZYDIS_ISA_SET_XSAVEC, FEAT_XSAVEC },
	{ ZYDIS_ISA_SET_XSAVEOPT, FEAT_XSAVEOPT }, { ZYDIS_ISA_SET_XSAVES, FEAT_XSAVES },
};

static bool shown(const struct cpu *c, const ZydisDecodedInstruction *zi)
{
	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && !cpu_has(c, FEAT_AVX))
		return false;
	if (zi->mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ && !cpu_has(c, FEAT_PCLMUL))
		return false;
	for (unsigned k = 0; k < array_len(set_features); k++)
		if (set_features[k].set == zi->meta.isa_set)
			return cpu_has(c, set_features[k].feature);
	return false;
}

/* ---- decoding ---- */
/* Does it read MXCSR or raise SIMD exceptions? When in doubt yes: it only costs time. */
static bool is_fp(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE3:
	case ZYDIS_EXCEPTION_CLASS_AVX2:
	case ZYDIS_EXCEPTION_CLASS_AVX3:
	case ZYDIS_EXCEPTION_CLASS_AVX11: return true;
	default: break;
	}
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_RCPPS:
	case ZYDIS_MNEMONIC_RCPSS:
	case ZYDIS_MNEMONIC_RSQRTPS:
	case ZYDIS_MNEMONIC_RSQRTSS:
	case ZYDIS_MNEMONIC_VRCPPS:
	case ZYDIS_MNEMONIC_VRCPSS:
	case ZYDIS_MNEMONIC_VRSQRTPS:
	case ZYDIS_MNEMONIC_VRSQRTSS: return true;
	default: return zi->meta.category == ZYDIS_CATEGORY_CONVERT;
	}
}

/* Operands that need no alignment among the legacy 16-byte ones, and those of VEX that do. */
static u8 align_mask(const ZydisDecodedInstruction *zi, unsigned size)
{
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return zi->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1 || zi->mnemonic == ZYDIS_MNEMONIC_VMOVNTDQ ||
		       zi->mnemonic == ZYDIS_MNEMONIC_VMOVNTPS || zi->mnemonic == ZYDIS_MNEMONIC_VMOVNTPD ||
		       zi->mnemonic == ZYDIS_MNEMONIC_VMOVNTDQA ? size - 1 : 0;
	if (size != 16)
		return 0;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM: return 0;
	default: return 15;
	}
}

struct use { bool vec, mmx; const ZydisDecodedOperand *mem; };

static struct use operands_of(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	struct use u = { .mmx = zi->mnemonic == ZYDIS_MNEMONIC_EMMS };

	for (unsigned k = 0; k < zi->operand_count; k++) {
		ZydisRegisterClass cls = ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(ops[k].reg.value) : 0;

		u.vec |= cls == ZYDIS_REGCLASS_XMM || cls == ZYDIS_REGCLASS_YMM;
		u.mmx |= cls == ZYDIS_REGCLASS_MMX;
		if (ops[k].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[k].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			u.mem = &ops[k];
	}
	return u;
}

/* insn.imm2 for engines that can do without the stub: only explicit registers of the XMM and YMM kind and general ones, no side effects. */
static u32 vec_plain(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, enum vec_kind kind)
{
	u32 mark = VEC_PLAIN | (kind == VEC_AVX ? VEC_PLAIN_AVX : 0);

	if (kind != VEC_SSE && kind != VEC_AVX)
		return 0;
	if (zi->cpu_flags && ((zi->cpu_flags->modified | zi->cpu_flags->set_0 | zi->cpu_flags->set_1 | zi->cpu_flags->undefined) & FLAG_ARITH))
		mark |= VEC_PLAIN_FLAGS;
	for (unsigned k = 0; k < zi->operand_count; k++) {
		const ZydisDecodedOperand *op = &ops[k];
		ZydisRegisterClass cls = op->type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(op->reg.value) : ZYDIS_REGCLASS_INVALID;
		bool gpr = cls == ZYDIS_REGCLASS_GPR32 || cls == ZYDIS_REGCLASS_GPR64;

		if (cls == ZYDIS_REGCLASS_FLAGS || cls == ZYDIS_REGCLASS_INVALID)
			continue;
		if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN || (!gpr && cls != ZYDIS_REGCLASS_XMM && cls != ZYDIS_REGCLASS_YMM))
			return 0;
		if (gpr && (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			mark |= VEC_PLAIN_GPR;
	}
	return mark;
}

insn_fn *vec_decode(struct cpu *c, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, struct insn *out)
{
	static vec_decoder *const parts[] = { x87_decode, xsave_decode, vec_decode_misc, vec_decode_masked };
	bool x = (c->mode & MODE_L) && out->asize == 8, vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX, fp;
	unsigned form = FORM_r;
	enum vec_kind kind;
	insn_fn *fast;
	struct use u;

	if (!shown(c, zi) || (!c->vec && vec_create(c) < 0))
		return NULL;
	/* SDM "VEX prefix": not in real or virtual-8086 mode. */
	if (vex && (!(c->mode & MODE_PE) || (c->mode & MODE_VM86)))
		return NULL;
	for (unsigned k = 0; k < array_len(parts); k++) {
		insn_fn *fn = parts[k](c, zi, ops, out);
		if (fn)
			return fn;
	}
	u = operands_of(zi, ops);
	/* Conversions between memory and a general register show no vector operand. */
	if (!u.vec && !u.mmx && zi->meta.category != ZYDIS_CATEGORY_CONVERT)
		return NULL;
	kind = vex ? VEC_AVX : !u.mmx ? VEC_SSE : u.vec ? VEC_MMX_SSE : VEC_MMX;
	fp = is_fp(zi);
	out->src2 = fp ? VEC_F_FP : 0;
	if (zi->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX11)
		out->src2 |= VEC_F_ANY;
	out->aux8 = 0;
	if (u.mem) {
		bool store = u.mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

		out->opsize = u.mem->size / 8;
		out->aux8 = align_mask(zi, out->opsize);
		out->src2 |= store ? VEC_F_STORE : 0;
		form = store ? (x ? FORM_sx : FORM_sg) : (x ? FORM_lx : FORM_lg);
	}
	out->aux = (void *)vec_stub_make(c, zi, ops, fp);
	if (!out->aux)
		return NULL;
	out->imm2 = vec_plain(zi, ops, kind);
	fast = kind == VEC_SSE || kind == VEC_AVX ? vec_decode_move(zi, ops, x) : NULL;
	return fast ? fast : handlers[kind][fp][form];
}

/* ---- lifetime ---- */
int vec_create(struct cpu *c)
{
	int err = vec_guard_init();

	if (err < 0) {
		log_error("no handler for SIMD exceptions: %s", strerror(-err));
		return err;
	}
	if (posix_memalign(&c->vec, 64, sizeof(struct vec)))
		return -ENOMEM;
	memset(c->vec, 0, sizeof(struct vec));
	vec_of(c)->host_mxcsr = VEC_NO_MXCSR;
	return 0;
}

void vec_destroy(struct cpu *c)
{
	if (!c->vec)
		return;
	x87_forget(c);
	vec_stub_free(c->vec, true);
	free(c->vec);
	c->vec = NULL;
}

void vec_reset(struct cpu *c)
{
	if (c->vec)
		vec_stub_free(c->vec, false);
}

void vec_sync(struct cpu *c)
{
	if (!c->vec)
		return;
	x87_store(c);
	x87_forget(c);
	host_mxcsr_load(c->vec, MXCSR_INIT);
	vec_of(c)->host_mxcsr = VEC_NO_MXCSR;
}
