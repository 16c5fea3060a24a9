/* FXSAVE, FXRSTOR and the XSAVE family (SDM "Managing State Using the XSAVE Feature Set"): x87, SSE, AVX, PKRU.
 * Not here: which components CPUID shows and XSETBV (cpu/). Surprise: no component has a hardware in-use bit; XINUSE is
 * found by comparing with the initial state, and everything counts as modified, both of which the manual allows. */
#include "interp/xsave.h"

#define BIT_X87 BIT(0)
#define BIT_SSE BIT(1)
#define BIT_AVX BIT(2)
#define BIT_PKRU BIT(9)
#define COMPACTED BIT(63)
#define LEGACY_END 416
#define HEADER 512
#define EXTENDED 576

/* Extended components, in order of their bits: all that we ever show. */
static const struct component { u8 nr; u16 size, standard; } components[] = {
	{ 2, 256, EXTENDED }, { 9, 8, XSAVE_PKRU_OFFSET },
};

static unsigned component_offset(unsigned nr, u64 map, bool compacted)
{
	unsigned at = EXTENDED;

	for (unsigned k = 0; k < array_len(components); k++) {
		if (components[k].nr == nr)
			return compacted ? at : components[k].standard;
		if (map & bit(components[k].nr))
			at += components[k].size;
	}
	return at;
}

u32 cpu_xsave_size(u64 xcr0, u64 xss, bool compacted)
{
	u64 map = xcr0 | (compacted ? xss : 0);
	u32 size = EXTENDED;

	for (unsigned k = 0; k < array_len(components); k++)
		if (map & bit(components[k].nr))
			size = component_offset(components[k].nr, map, compacted) + components[k].size;
	return size;
}

/* ---- an image in pieces ---- */
/* Only the pieces are read or written; all are checked before the first write. */
struct piece { u16 at, len; const void *from; };
struct pieces { unsigned n; struct piece p[8]; };

static void piece_add(struct pieces *s, unsigned at, unsigned len, const void *from)
{
	bug_if(s->n == array_len(s->p));
	s->p[s->n++] = (struct piece){ (u16)at, (u16)len, from };
}

static enum step pieces_write(struct cpu *c, const struct insn *i, const struct pieces *s)
{
	for (unsigned k = 0; k < s->n; k++)
		if (!vec_probe_write(c, i, s->p[k].at, s->p[k].len))
			return STEP_FAULT;
	for (unsigned k = 0; k < s->n; k++)
		if (!vec_write(c, i, s->p[k].at, s->p[k].from, s->p[k].len))
			return STEP_FAULT;
	return STEP_END;
}

/* ---- registers to images and back ---- */
static unsigned nregs(const struct cpu *c) { return c->mode & MODE_L ? 16 : 8; }

/* Bytes 0-415 of the legacy region. wide: the REX.W form, with 64-bit pointers. */
static void legacy_image(struct cpu *c, u8 *to, bool wide)
{
	u32 mask = MXCSR_VALID;

	x87_store(c);
	memcpy(to, c->arch.x87, 160);
	if (!wide) {
		memset(to + X87_FIP + 4, 0, 4); /* FCS is 0 */
		memset(to + X87_FDP + 4, 0, 4);
	}
	memcpy(to + X87_MXCSR, &c->arch.mxcsr, 4);
	memcpy(to + X87_MXCSR + 4, &mask, 4);
	for (unsigned r = 0; r < 16; r++)
		memcpy(to + 160 + 16 * r, vec_reg(c, r), 16);
}

static void x87_take(struct cpu *c, const u8 *from, bool wide)
{
	u64 fip = load_le(from + X87_FIP, wide ? 8 : 4), fdp = load_le(from + X87_FDP, wide ? 8 : 4);
	u8 *to = c->arch.x87;

	x87_forget(c);
	memcpy(to, from, X87_FOP);
	to[5] = 0;
	store_le(to + X87_FOP, load_le(from + X87_FOP, 2) & 0x7ff, 2);
	store_le(to + X87_FIP, sign_extend(fip, 57), 8); /* as many bits as the widest linear address; FDP keeps all */
	store_le(to + X87_FDP, fdp, 8);
	memcpy(to + X87_ST, from + X87_ST, 128);
	x87_load(c); /* the host's FPU brings FCW, FSW and the registers' reserved bytes into their proper form */
}

static void x87_init(struct cpu *c)
{
	x87_forget(c);
	memset(c->arch.x87, 0, sizeof(c->arch.x87));
	store_le(c->arch.x87, 0x37f, 2);
}

static void sse_take(struct cpu *c, const u8 *from)
{
	for (unsigned r = 0; r < nregs(c); r++)
		memcpy(vec_reg(c, r), from + 16 * r, 16);
}

static void avx_take(struct cpu *c, const u8 *from)
{
	for (unsigned r = 0; r < nregs(c); r++)
		memcpy(vec_reg(c, r) + 16, from + 16 * r, 16);
}

/* An area that is not aligned; when its address is not canonical either, that counts. */
static enum step misaligned(struct cpu *c, const struct insn *i, u64 la)
{
	if (i->seg == SEG_SS && !cpu_canonical(la))
		return cpu_fault_err(c, VEC_SS, 0);
	if (!interp_aligned(c, la, 4))
		return STEP_FAULT;
	return cpu_gp(c, 0);
}

/* The silicon looks first whether the last byte is accessible. */
static bool end_ok(struct cpu *c, const struct insn *i, unsigned size, bool write)
{
	u8 byte;

	return write ? vec_probe_write(c, i, size - 1, 1) : vec_read(c, i, size - 1, &byte, 1);
}

/* ---- FXSAVE, FXRSTOR ---- */
static enum step fx_check(struct cpu *c, const struct insn *i, bool write)
{
	u64 la;

	set_rip(c, i);
	if (c->arch.cr0 & (CR0_EM | CR0_TS))
		return cpu_fault(c, VEC_NM);
	if (!vec_la(c, i, 0, 512, write, &la))
		return STEP_FAULT;
	if (la & 15)
		return misaligned(c, i, la);
	return end_ok(c, i, 512, write) ? STEP_END : STEP_FAULT;
}

static noinline enum step fxsave_body(struct cpu *c, const struct insn *i)
{
	struct pieces s = { 0 };
	u8 image[LEGACY_END];

	if (fx_check(c, i, true) != STEP_END)
		return STEP_FAULT;
	legacy_image(c, image, i->opsize == 8);
	piece_add(&s, 0, 160 + 16 * nregs(c), image);
	return pieces_write(c, i, &s);
}

static noinline enum step fxrstor_body(struct cpu *c, const struct insn *i)
{
	u8 image[LEGACY_END];
	u32 mxcsr;

	if (fx_check(c, i, false) != STEP_END || !vec_read(c, i, 0, image, 160 + 16 * nregs(c)))
		return STEP_FAULT;
	mxcsr = (u32)load_le(image + X87_MXCSR, 4);
	if (mxcsr & ~MXCSR_VALID)
		return cpu_gp(c, 0);
	x87_take(c, image, i->opsize == 8);
	c->arch.mxcsr = mxcsr;
	sse_take(c, image + 160);
	return STEP_END;
}

/* ---- XSAVE... ---- */
enum xform { XF_XSAVE, XF_XSAVEOPT, XF_XSAVEC, XF_XSAVES };

static u64 edx_eax(const struct cpu *c) { return c->arch.gpr[GPR_RDX] << 32 | (u32)c->arch.gpr[GPR_RAX]; }

static enum step xs_check(struct cpu *c, const struct insn *i, unsigned size, bool write, bool supervisor, enum icept icept)
{
	u64 la;

	set_rip(c, i);
	if (!(c->arch.cr4 & CR4_OSXSAVE))
		return cpu_ud(c);
	if (c->arch.cr0 & CR0_TS)
		return cpu_fault(c, VEC_NM);
	if (supervisor) {
		if (c->arch.cpl)
			return cpu_gp(c, 0);
		if (cpu_icept(c, icept, i, edx_eax(c), 0))
			return STEP_STOP;
	}
	if (!vec_la(c, i, 0, size, write, &la))
		return STEP_FAULT;
	return la & 63 ? misaligned(c, i, la) : STEP_END;
}

static bool all_zero(const u8 *p, unsigned n)
{
	while (n--)
		if (*p++)
			return false;
	return true;
}

static u64 xinuse(struct cpu *c, const u8 *legacy, const u8 *avx)
{
	u64 in = 0;

	if (load_le(legacy, 8) != 0x37f || !all_zero(legacy + 8, 16) || !all_zero(legacy + X87_ST, 128))
		in |= BIT_X87;
	if (!all_zero(legacy + 160, 256))
		in |= BIT_SSE;
	if (!all_zero(avx, 256))
		in |= BIT_AVX;
	return in | (c->arch.pkru ? BIT_PKRU : 0);
}

static noinline enum step xsave_body(struct cpu *c, const struct insn *i, enum xform form)
{
	bool compacted = form == XF_XSAVEC || form == XF_XSAVES;
	u8 legacy[LEGACY_END], avx[256];
	struct pieces s = { 0 };
	u64 rfbm, save, in, header[2];
	unsigned size;
	enum step st;

	rfbm = edx_eax(c) & (c->arch.xcr0 | (form == XF_XSAVES ? c->arch.xss : 0));
	size = cpu_xsave_size(rfbm, 0, compacted);
	st = xs_check(c, i, size, true, form == XF_XSAVES, ICEPT_XSAVES);
	if (st != STEP_END)
		return st;
	if (!end_ok(c, i, size, true))
		return STEP_FAULT;
	legacy_image(c, legacy, i->opsize == 8);
	for (unsigned r = 0; r < 16; r++)
		memcpy(avx + 16 * r, vec_reg(c, r) + 16, 16);
	in = xinuse(c, legacy, avx);
	if (compacted && c->arch.mxcsr != MXCSR_INIT)
		in |= BIT_SSE;
	save = form == XF_XSAVE ? rfbm : rfbm & in;

	if (save & BIT_X87) {
		piece_add(&s, 0, 24, legacy);
		piece_add(&s, X87_ST, 128, legacy + X87_ST);
	}
	if (compacted ? save & BIT_SSE : rfbm & (BIT_SSE | BIT_AVX))
		piece_add(&s, X87_MXCSR, 8, legacy + X87_MXCSR);
	if (save & BIT_SSE)
		piece_add(&s, 160, 16 * nregs(c), legacy + 160);
	if (save & BIT_AVX)
		piece_add(&s, component_offset(2, rfbm, compacted), 16 * nregs(c), avx);
	u64 pkru = c->arch.pkru;
	if (save & BIT_PKRU)
		piece_add(&s, component_offset(9, rfbm, compacted), 8, &pkru);
	if (compacted) {
		header[0] = save;
		header[1] = rfbm | COMPACTED;
	} else {
		if (!vec_probe_write(c, i, HEADER, 8) || !vec_read(c, i, HEADER, header, 8))
			return STEP_FAULT;
		header[0] = (header[0] & ~rfbm) | (in & rfbm);
	}
	piece_add(&s, HEADER, compacted ? 16 : 8, header);
	return pieces_write(c, i, &s);
}

/* ---- XRSTOR, XRSTORS ---- */
/* SDM "Operation of XRSTOR": what makes the header bad. */
static bool header_ok(const struct cpu *c, const u64 h[8], bool supervisor)
{
	u64 allowed = c->arch.xcr0 | (supervisor ? c->arch.xss : 0);
	u64 rest = 0;

	for (unsigned k = 2; k < 8; k++)
		rest |= h[k];
	if (!(h[1] & COMPACTED))
		return !supervisor && !h[1] && !h[2] && !(h[0] & ~allowed);
	return cpu_has(c, FEAT_XSAVEC) && !((h[1] & ~COMPACTED) & ~allowed) && !(h[0] & ~(h[1] & ~COMPACTED)) && !rest;
}

static noinline enum step xrstor_body(struct cpu *c, const struct insn *i, bool supervisor)
{
	u8 legacy[LEGACY_END], avx[256] = { 0 };
	u64 h[8], rfbm, take, pkru = 0;
	bool compacted, mxcsr_too;
	u32 mxcsr = MXCSR_INIT;
	enum step st = xs_check(c, i, EXTENDED, false, supervisor, ICEPT_XRSTORS);
	u64 la;

	if (st != STEP_END)
		return st;
	if (!end_ok(c, i, EXTENDED, false) || !vec_read(c, i, HEADER, h, sizeof(h)))
		return STEP_FAULT;
	if (!header_ok(c, h, supervisor))
		return cpu_gp(c, 0);
	compacted = h[1] & COMPACTED;
	rfbm = edx_eax(c) & (c->arch.xcr0 | (supervisor ? c->arch.xss : 0));
	take = rfbm & h[0];
	if (!vec_la(c, i, 0, cpu_xsave_size(rfbm & (compacted ? h[1] : rfbm), 0, compacted), false, &la))
		return STEP_FAULT;
	mxcsr_too = compacted ? rfbm & BIT_SSE : rfbm & (BIT_SSE | BIT_AVX);
	if ((take & BIT_X87) && (!vec_read(c, i, 0, legacy, 24) || !vec_read(c, i, X87_ST, legacy + X87_ST, 128)))
		return STEP_FAULT;
	if ((compacted ? take & BIT_SSE : mxcsr_too) && !vec_read(c, i, X87_MXCSR, &mxcsr, 4))
		return STEP_FAULT;
	if (mxcsr & ~MXCSR_VALID)
		return cpu_gp(c, 0);
	if ((take & BIT_SSE) && !vec_read(c, i, 160, legacy + 160, 16 * nregs(c)))
		return STEP_FAULT;
	if ((take & BIT_AVX) && !vec_read(c, i, component_offset(2, h[1], compacted), avx, 16 * nregs(c)))
		return STEP_FAULT;
	if ((take & BIT_PKRU) && !vec_read(c, i, component_offset(9, h[1], compacted), &pkru, 4))
		return STEP_FAULT;

	if (take & BIT_X87)
		x87_take(c, legacy, i->opsize == 8);
	else if (rfbm & BIT_X87)
		x87_init(c);
	if (mxcsr_too)
		c->arch.mxcsr = mxcsr;
	if (rfbm & BIT_SSE) {
		if (!(take & BIT_SSE))
			memset(legacy + 160, 0, 256);
		sse_take(c, legacy + 160);
	}
	if (rfbm & BIT_AVX)
		avx_take(c, avx);
	if ((rfbm & BIT_PKRU) && c->arch.pkru != (u32)pkru) {
		c->arch.pkru = (u32)pkru;
		mmu_flush_pkeys(c);
	}
	return STEP_END;
}

/* ---- handlers ---- */
static enum step h_fxsave(struct cpu *c, const struct insn *i) { return after(c, i, fxsave_body(c, i)); }
static enum step h_fxrstor(struct cpu *c, const struct insn *i) { return after(c, i, fxrstor_body(c, i)); }
static enum step h_xsave(struct cpu *c, const struct insn *i) { return after(c, i, xsave_body(c, i, XF_XSAVE)); }
static enum step h_xsaveopt(struct cpu *c, const struct insn *i) { return after(c, i, xsave_body(c, i, XF_XSAVEOPT)); }
static enum step h_xsavec(struct cpu *c, const struct insn *i) { return after(c, i, xsave_body(c, i, XF_XSAVEC)); }
static enum step h_xsaves(struct cpu *c, const struct insn *i) { return after(c, i, xsave_body(c, i, XF_XSAVES)); }
static enum step h_xrstor(struct cpu *c, const struct insn *i) { return after(c, i, xrstor_body(c, i, false)); }
static enum step h_xrstors(struct cpu *c, const struct insn *i) { return after(c, i, xrstor_body(c, i, true)); }

static const struct { u16 mnemonic; u8 size; insn_fn *fn; } rows[] = {
	{ ZYDIS_MNEMONIC_FXSAVE, 4, h_fxsave }, { ZYDIS_MNEMONIC_FXSAVE64, 8, h_fxsave },
	{ ZYDIS_MNEMONIC_FXRSTOR, 4, h_fxrstor }, { ZYDIS_MNEMONIC_FXRSTOR64, 8, h_fxrstor },
	{ ZYDIS_MNEMONIC_XSAVE, 4, h_xsave }, { ZYDIS_MNEMONIC_XSAVE64, 8, h_xsave },
	{ ZYDIS_MNEMONIC_XSAVEOPT, 4, h_xsaveopt }, { ZYDIS_MNEMONIC_XSAVEOPT64, 8, h_xsaveopt },
	{ ZYDIS_MNEMONIC_XSAVEC, 4, h_xsavec }, { ZYDIS_MNEMONIC_XSAVEC64, 8, h_xsavec },
	{ ZYDIS_MNEMONIC_XSAVES, 4, h_xsaves }, { ZYDIS_MNEMONIC_XSAVES64, 8, h_xsaves },
	{ ZYDIS_MNEMONIC_XRSTOR, 4, h_xrstor }, { ZYDIS_MNEMONIC_XRSTOR64, 8, h_xrstor },
	{ ZYDIS_MNEMONIC_XRSTORS, 4, h_xrstors }, { ZYDIS_MNEMONIC_XRSTORS64, 8, h_xrstors },
};

insn_fn *xsave_decode(struct cpu *c, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, struct insn *out)
{
	for (unsigned k = 0; k < array_len(rows); k++)
		if (rows[k].mnemonic == zi->mnemonic) {
			out->opsize = rows[k].size;
			return rows[k].fn;
		}
	return NULL;
}
