/* x87: the guest's registers stay in the host's FPU while the vCPU thread runs; each instruction runs there.
 * Not here: environment images (x87_env.c), FXSAVE and XSAVE (xsave.c).
 *
 * Surprise: FIP, FDP and FOP of the host mean nothing (they point at stubs), so the guest's are kept in arch.x87 bytes
 * 6-23 even while everything else is resident. As on processors with FDP_EXCPTN_ONLY and without FOP compatibility mode,
 * FDP and FOP change only when an instruction raises an unmasked exception; FCS and FDS are always 0. */
#include "interp/x87.h"

#include "base/log.h"

/* Whose registers the host thread's FPU holds. */
static __thread struct cpu *x87_owner;

struct fx_area { u8 b[512]; } __attribute__((aligned(16)));

static void fx_save(struct fx_area *a) { __asm__ volatile("fxsave64 %0" : "=m"(*a)); }

/* Also loads MXCSR and XMM: MXCSR comes from the thread, the XMM registers are free. */
static void fx_restore(struct fx_area *a)
{
	u32 mxcsr;

	__asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
	memcpy(a->b + 24, &mxcsr, 4);
	__asm__ volatile("fxrstor64 %0" : : "m"(*a) : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
	                 "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

void x87_store(struct cpu *c)
{
	struct fx_area a;

	if (!c->x87_resident)
		return;
	fx_save(&a);
	memcpy(c->arch.x87, a.b, X87_FOP);
	memcpy(c->arch.x87 + X87_ST, a.b + X87_ST, 128);
}

void x87_note_fcw(struct cpu *c, u16 fcw) { vec_of(c)->x87_unmasked = (fcw & 0x3f) != 0x3f; }

void x87_load(struct cpu *c)
{
	struct fx_area a = { 0 };

	if (x87_owner && x87_owner != c && x87_owner->x87_resident) {
		x87_store(x87_owner);
		x87_owner->x87_resident = false;
	}
	memcpy(a.b, c->arch.x87, sizeof(c->arch.x87));
	fx_restore(&a);
	x87_owner = c;
	c->x87_resident = true;
	x87_note_fcw(c, (u16)load_le(c->arch.x87, 2));
}

void x87_forget(struct cpu *c)
{
	if (x87_owner != c)
		return;
	__asm__ volatile("fninit");
	x87_owner = NULL;
	c->x87_resident = false;
}

enum step x87_pending(struct cpu *c, const struct insn *i)
{
	set_rip(c, i);
	if (c->arch.cr0 & CR0_NE)
		return cpu_fault(c, VEC_MF);
	/* FERR# would freeze the CPU until IRQ 13, whose handler asserts IGNNE#; go on as if it had. */
	todo("x87: FERR# and IRQ 13 with CR0.NE = 0; the exception is dropped");
	__asm__ volatile("fnclex");
	return STEP_END;
}

enum step x87_nm(struct cpu *c, const struct insn *i)
{
	set_rip(c, i);
	return cpu_fault(c, VEC_NM);
}

/* ---- instructions with a stub ---- */
/* An unmasked exception became pending: it freezes opcode and data pointer. */
static noinline void x87_note(struct cpu *c, const struct insn *i)
{
	if (!(x87_host_fsw() & 0x80))
		return;
	store_le(c->arch.x87 + X87_FOP, i->imm2, 2);
	if (i->flags & INSN_MEM)
		store_le(c->arch.x87 + X87_FDP, ea_masked(c, i), 8);
}

/* Runs a store into the bounce buffer while exceptions are unmasked. An exception that prevents the store leaves the buffer
 * alone, and memory is not touched then, nor can it fault: two runs with different fillings tell. */
static bool stored_unmasked(struct cpu *c, const struct insn *i, struct fx_area *before)
{
	u8 *bounce = vec_of(c)->bounce, filling = 0xa5;

	for (unsigned n = 0; n < 2; n++, filling ^= 0xff) {
		if (n)
			fx_restore(before);
		else
			fx_save(before);
		memset(bounce, filling, i->opsize);
		((vec_stub *)i->aux)(c, bounce);
		for (unsigned k = 0; k < i->opsize; k++)
			if (bounce[k] != filling)
				return true;
	}
	return false;
}

static enum step slow_store(struct cpu *c, const struct insn *i)
{
	struct fx_area before;
	u8 *bounce = vec_of(c)->bounce;

	if (vec_of(c)->x87_unmasked) {
		if (!stored_unmasked(c, i, &before) || vec_write(c, i, 0, bounce, i->opsize))
			return STEP_END;
		fx_restore(&before);
		return STEP_FAULT;
	}
	if (!vec_probe_write(c, i, 0, i->opsize))
		return STEP_FAULT;
	((vec_stub *)i->aux)(c, bounce);
	return vec_write(c, i, 0, bounce, i->opsize) ? STEP_END : STEP_FAULT;
}

static noinline enum step x87_slow(struct cpu *c, const struct insn *i)
{
	u8 *bounce = vec_of(c)->bounce;

	if (i->src2 & VEC_F_STORE) {
		if (slow_store(c, i) != STEP_END)
			return STEP_FAULT;
	} else {
		if (!vec_read(c, i, 0, bounce, i->opsize))
			return STEP_FAULT;
		((vec_stub *)i->aux)(c, bounce);
	}
	store_le(c->arch.x87 + X87_FIP, insn_rip(c, i), 8);
	if (vec_of(c)->x87_unmasked)
		x87_note(c, i);
	return STEP_END;
}

static must_inline enum step x87_exec(struct cpu *c, const struct insn *i, enum vec_mem mem, bool x)
{
	void *p = NULL;

	if (unlikely(c->arch.cr0 & (CR0_EM | CR0_TS)))
		return x87_nm(c, i);
	if (unlikely(x87_ready(c, i) != STEP_END))
		return STEP_FAULT;
	if (mem != VEC_REG) {
		p = vec_direct(c, i, i->opsize, mem == VEC_STORE, x);
		if (unlikely(!p))
			return after(c, i, x87_slow(c, i));
	}
	*(u64 *)(c->arch.x87 + X87_FIP) = insn_rip(c, i);
	((vec_stub *)i->aux)(c, p);
	if (unlikely(vec_of(c)->x87_unmasked))
		x87_note(c, i);
	return next(c, i);
}

static enum step h_x87_r(struct cpu *c, const struct insn *i) { return x87_exec(c, i, VEC_REG, true); }
static enum step h_x87_lx(struct cpu *c, const struct insn *i) { return x87_exec(c, i, VEC_LOAD, true); }
static enum step h_x87_lg(struct cpu *c, const struct insn *i) { return x87_exec(c, i, VEC_LOAD, false); }
static enum step h_x87_sx(struct cpu *c, const struct insn *i) { return x87_exec(c, i, VEC_STORE, true); }
static enum step h_x87_sg(struct cpu *c, const struct insn *i) { return x87_exec(c, i, VEC_STORE, false); }

/* ---- control instructions without an image ---- */
static enum step fwait_body(struct cpu *c, const struct insn *i)
{
	if ((c->arch.cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		return x87_nm(c, i);
	return x87_ready(c, i);
}

static enum step fninit_body(struct cpu *c, const struct insn *i)
{
	x87_touch(c);
	__asm__ volatile("fninit");
	memset(c->arch.x87 + X87_FOP, 0, X87_MXCSR - X87_FOP);
	x87_note_fcw(c, 0x37f);
	return STEP_END;
}

static enum step fnclex_body(struct cpu *c, const struct insn *i)
{
	x87_touch(c);
	__asm__ volatile("fnclex");
	return STEP_END;
}

static enum step fnstsw_ax_body(struct cpu *c, const struct insn *i)
{
	x87_touch(c);
	wr_u16(c, GPR_RAX, x87_host_fsw());
	return STEP_END;
}

static enum step fnstsw_body(struct cpu *c, const struct insn *i)
{
	u16 w;

	x87_touch(c);
	w = x87_host_fsw();
	return vec_write(c, i, 0, &w, 2) ? STEP_END : STEP_FAULT;
}

static enum step fnstcw_body(struct cpu *c, const struct insn *i)
{
	u16 w;

	x87_touch(c);
	__asm__ volatile("fnstcw %0" : "=m"(w));
	return vec_write(c, i, 0, &w, 2) ? STEP_END : STEP_FAULT;
}

static enum step fldcw_body(struct cpu *c, const struct insn *i)
{
	u16 w;

	if (x87_ready(c, i) != STEP_END || !vec_read(c, i, 0, &w, 2))
		return STEP_FAULT;
	__asm__ volatile("fldcw %0" : : "m"(w));
	x87_note_fcw(c, w);
	return STEP_END;
}

static enum step h_fwait(struct cpu *c, const struct insn *i) { return after(c, i, fwait_body(c, i)); }

/* FENI, FDISI and FSETPM do nothing since the 387, and wait for nothing. */
static enum step x87_nop_body(struct cpu *c, const struct insn *i) { return STEP_END; }

#define CONTROL_ROWS(R) \
	R(FNINIT, fninit_body) R(FNCLEX, fnclex_body) R(FNSTCW, fnstcw_body) R(FLDCW, fldcw_body) \
	R(FNSTENV, x87_fnstenv) R(FLDENV, x87_fldenv) R(FNSAVE, x87_fnsave) R(FRSTOR, x87_frstor) \
	R(FENI8087_NOP, x87_nop_body) R(FDISI8087_NOP, x87_nop_body) R(FSETPM287_NOP, x87_nop_body)

#define CONTROL_HANDLER(name, body) \
	static enum step h_##name(struct cpu *c, const struct insn *i) \
	{ \
		if (unlikely(c->arch.cr0 & (CR0_EM | CR0_TS))) \
			return x87_nm(c, i); \
		return after(c, i, body(c, i)); \
	}
CONTROL_ROWS(CONTROL_HANDLER)
CONTROL_HANDLER(fnstsw_mem, fnstsw_body)
CONTROL_HANDLER(fnstsw_ax, fnstsw_ax_body)

static const struct { u16 mnemonic; insn_fn *fn; } controls[] = {
#define R(name, body) { ZYDIS_MNEMONIC_##name, h_##name },
	CONTROL_ROWS(R)
#undef R
	{ ZYDIS_MNEMONIC_FWAIT, h_fwait },
};

insn_fn *x87_decode(struct cpu *c, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, struct insn *out)
{
	bool x = (c->mode & MODE_L) && out->asize == 8, mem = zi->raw.modrm.mod != 3;
	const ZydisDecodedOperand *m = &ops[0];

	if (zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return NULL;
	for (unsigned k = 0; k < array_len(controls); k++)
		if (controls[k].mnemonic == zi->mnemonic) {
			out->opsize = zi->operand_width == 16 ? 2 : 4; /* of an environment image */
			return controls[k].fn;
		}
	if (zi->opcode < 0xd8 || zi->opcode > 0xdf)
		return NULL;
	if (zi->mnemonic == ZYDIS_MNEMONIC_FNSTSW)
		return mem ? h_fnstsw_mem : h_fnstsw_ax;
	out->imm2 = (u32)(zi->opcode & 7) << 8 | (u32)zi->raw.modrm.mod << 6 | (u32)zi->raw.modrm.reg << 3 | zi->raw.modrm.rm;
	out->aux8 = 0;
	out->src2 = 0;
	out->aux = (void *)vec_stub_make(c, zi, ops, false);
	if (!out->aux)
		return NULL;
	if (!zi->cpu_flags || !(zi->cpu_flags->tested & FLAG_ARITH))
		out->imm2 |= X87_PLAIN | (zi->cpu_flags && (zi->cpu_flags->modified & FLAG_ARITH) ? X87_PLAIN_FLAGS : 0);
	if (!mem)
		return h_x87_r;
	while (m < ops + zi->operand_count && m->type != ZYDIS_OPERAND_TYPE_MEMORY)
		m++;
	out->opsize = m->size / 8;
	if (!(m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
		return x ? h_x87_lx : h_x87_lg;
	out->src2 = VEC_F_STORE;
	return x ? h_x87_sx : h_x87_sg;
}
