/* Operand values: registers that point memory operands into the data pages, sensible counts, valid images for state loads. */
#include "oracle.h"

static u64 *reg_of(struct ocase *k, ZydisRegister r)
{
	i8 id = ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));

	return r == ZYDIS_REGISTER_NONE || id < 0 ? NULL : &k->in.gpr[id & 15];
}

/* Host address of guest memory in the case's image, NULL outside. */
static u8 *image(struct ocase *k, u64 at, unsigned size)
{
	return at >= O_DATA && at + size <= O_DATA + O_DATA_SIZE ? k->mem + (at - O_DATA) : NULL;
}

/* Where a memory operand shall lie. */
static u64 target(unsigned size, bool aligned)
{
	u64 at = O_DATA + 0x200 + rnd_below(O_DATA_SIZE - 0x800);

	if (aligned && !rnd_chance(8))
		return align_down(at, size > 64 ? 64 : size ? size : 1);
	switch (rnd_below(16)) {
	case 0: return O_DATA + 0x1000 - rnd_below(size ? size : 1);  /* crosses the pages */
	case 1: return O_DATA + O_DATA_SIZE - rnd_below(2 * size + 1); /* reaches the end, or past it */
	case 2: return O_DATA - rnd_below(2 * size + 1);
	case 3: return rnd_chance(50) ? O_RO + 0x100 : at;
	default: return rnd_chance(60) ? align_down(at, size > 32 ? 64 : 32) : at;
	}
}

static u64 seg_base(const struct ocase *k, ZydisRegister s)
{
	if (k->mode == O_16)
		return s == ZYDIS_REGISTER_CS ? O_CODE : O_DATA;
	return k->mode == O_64 && s == ZYDIS_REGISTER_GS ? O_GS_BASE : 0;
}
static u64 code_base(const struct ocase *k) { return k->mode == O_16 ? O_CODE : 0; }
static u64 stack_base(const struct ocase *k) { return k->mode == O_16 ? O_DATA : 0; }

static void aim_vsib(struct ocase *k, const ZydisDecodedOperand *m, u64 to)
{
	u8 *x = NULL;
	unsigned id = (unsigned)ZydisRegisterGetId(m->mem.index) & 15;
	bool q = k->zi.mnemonic == ZYDIS_MNEMONIC_VPGATHERQD || k->zi.mnemonic == ZYDIS_MNEMONIC_VPGATHERQQ || k->zi.mnemonic == ZYDIS_MNEMONIC_VGATHERQPS ||
	         k->zi.mnemonic == ZYDIS_MNEMONIC_VGATHERQPD;
	u64 *base = reg_of(k, m->mem.base);
	i64 bias = base ? 0 : (i64)((to - (u64)m->mem.disp.value - seg_base(k, m->mem.segment)) / m->mem.scale);

	if (base)
		*base = to - (u64)m->mem.disp.value - seg_base(k, m->mem.segment);
	for (unsigned e = 0; e < (q ? 4 : 8); e++) {
		i64 v = bias + (i64)rnd_below(600) - 300 + (rnd_chance(3) ? 5000 : 0);
		unsigned at = e * (q ? 8 : 4);

		x = at < 16 ? k->in.fp.fx + 160 + 16 * id + at : k->in.fp.ymmh + 16 * id + at - 16;
		memcpy(x, &v, q ? 8 : 4);
	}
}

/* Makes base + index * scale + disp + segment base equal `to` if the form allows. */
static void aim(struct ocase *k, const ZydisDecodedOperand *m, u64 to)
{
	u64 *base = reg_of(k, m->mem.base), *index = reg_of(k, m->mem.index);
	u64 want = to - seg_base(k, m->mem.segment), disp = (u64)m->mem.disp.value;

	if (m->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
		aim_vsib(k, m, to);
		return;
	}
	if (m->mem.base == ZYDIS_REGISTER_RIP || m->mem.base == ZYDIS_REGISTER_EIP || (!base && !index)) {
		u64 d = want - (base || m->mem.base != ZYDIS_REGISTER_NONE ? k->at + k->len : 0);

		if (k->zi.raw.disp.size >= 16)
			memcpy(k->code + k->zi.raw.disp.offset, &d, k->zi.raw.disp.size / 8);
		return;
	}
	if (base && base == index) {
		*base = (want - disp) / (m->mem.scale + 1u);
		return;
	}
	if (index && !base) {
		*index = (want - disp) / m->mem.scale;
		return;
	}
	if (index && m->mem.index != ZYDIS_REGISTER_NONE)
		*index = rnd_chance(60) ? rnd_below(64) : rnd_edge();
	*base = want - disp - (index ? *index * m->mem.scale : 0);
	if (k->mode == O_64 && k->zi.address_width == 32 && rnd_chance(50))
		*base |= rnd() << 32;
}

static void fill_x87(struct ocase *k)
{
	u8 *x = k->in.fp.fx;
	u16 fcw = 0x37f, fsw = (u16)(rnd() & 0x7f00);

	if (rnd_chance(60))
		fcw = (u16)((fcw & ~0xf00) | (rnd() & 0x1f00));
	if (rnd_chance(10))
		fcw = (u16)((fcw & ~0x3f) | (rnd() & 0x3f));
	if (rnd_chance(50))
		fsw |= (u16)(rnd() & 0x7f & ((fcw & 0x3f) != 0x3f && !rnd_chance(20) ? fcw | 0x40 : 0x7f));
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	store_le(x, fcw, 2);
	store_le(x + 2, fsw, 2);
	x[4] = rnd_chance(50) ? 0xff : rnd_chance(20) ? 0 : (u8)rnd();
	store_le(x + 6, rnd() & 0x7ff, 2);
	store_le(x + 8, rnd() & low_mask(47), 8);
	store_le(x + 16, rnd() & low_mask(47), 8);
	for (unsigned r = 0; r < 8; r++)
		rnd_f80(x + 32 + 16 * r);
}

static void fill_vectors(struct ocase *k)
{
	u32 mxcsr = 0x1f80;

	for (unsigned n = 0; n < 256; n += 8) {
		store_le(k->in.fp.fx + 160 + n, rnd(), 8);
		store_le(k->in.fp.ymmh + n, rnd(), 8);
	}
	for (unsigned n = 0; n < k->zi.operand_count; n++) {
		ZydisRegisterClass c = k->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(k->op[n].reg.value) : ZYDIS_REGCLASS_INVALID;
		unsigned id;

		if (c == ZYDIS_REGCLASS_MMX)
			rnd_vector(k->in.fp.fx + 32 + 16 * (ZydisRegisterGetId(k->op[n].reg.value) & 7), 8);
		if (c != ZYDIS_REGCLASS_XMM && c != ZYDIS_REGCLASS_YMM)
			continue;
		id = (unsigned)ZydisRegisterGetId(k->op[n].reg.value) & 15;
		rnd_vector(k->in.fp.fx + 160 + 16 * id, 16);
		rnd_vector(k->in.fp.ymmh + 16 * id, 16);
	}
	mxcsr |= (u32)(rnd() & 0x6000) | (rnd_chance(30) ? (u32)(rnd() & 0x8040) : 0) | (u32)(rnd() & 0x3f);
	if (rnd_chance(10))
		mxcsr = (mxcsr & ~0x1f80u) | ((u32)rnd() & 0x1f80);
	store_le(k->in.fp.fx + 24, mxcsr, 4);
	store_le(k->in.fp.fx + 28, 0xffff, 4);
	store_le(k->in.fp.header, 7, 8);
}

/* An area that the XSAVE family can mostly use. */
static void fill_area(struct ocase *k, u64 at)
{
	u8 *p = image(k, at, 832);

	k->in.gpr[2] = 0;
	k->in.gpr[0] = rnd_below(8);
	if (!p)
		return;
	for (unsigned n = 0; n < 832; n += 8)
		store_le(p + n, n >= 32 && n < 160 && n & 8 ? rnd() & 0xffff : rnd(), 8);
	p[5] = 0;
	store_le(p + 24, rnd_chance(95) ? rnd() & 0xffff : rnd(), 4);
	memset(p + 512, 0, 64);
	if (rnd_chance(50)) {
		u64 comp = rnd_below(8);

		store_le(p + 520, comp | BIT(63), 8);
		store_le(p + 512, rnd_chance(95) ? rnd() & comp : rnd_below(8), 8);
	} else {
		store_le(p + 512, rnd_below(8), 8);
	}
	if (rnd_chance(4)) {
		unsigned at_ = 512 + (unsigned)rnd_below(64);

		/* Not the bits of components that the host has and the vCPU does not show. */
		if (at_ % 8 > 2 || at_ >= 528)
			p[at_] |= (u8)(1u << rnd_below(8));
	}
}

static void fill_memory(struct ocase *k, u64 at, unsigned size)
{
	static u8 pattern[O_DATA_SIZE];
	u64 from = at < O_DATA + 32 ? O_DATA : align_down(at - 32, 8), to;

	if (!pattern[0])
		for (unsigned n = 0; n < sizeof(pattern); n++)
			pattern[n] = (u8)(n * 151 + (n >> 8) * 13 + 1);
	memcpy(k->mem, pattern, sizeof(pattern));
	to = align_up(at + size + 32, 8);
	if (to > O_DATA + O_DATA_SIZE)
		to = O_DATA + O_DATA_SIZE;
	if (from < to && from < O_DATA + O_DATA_SIZE)
		rnd_vector(k->mem + (from - O_DATA), (unsigned)(to - from));
	if (k->cls == O_X87 && image(k, at, 10))
		if (size == 10 && rnd_chance(70))
			rnd_f80(image(k, at, 10));
}

/* ---- values that make an instruction do something ---- */
static void tame(struct ocase *k, u64 at, unsigned size)
{
	u64 *g = k->in.gpr, pad = O_PAD_B - code_base(k);
	u8 *p = image(k, at, size ? size : 1), *sp = image(k, (k->mode == O_16 ? g[4] & 0xffff : g[4]) + stack_base(k), 8);
	u64 *r1 = k->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER ? reg_of(k, k->op[1].reg.value) : NULL;

	switch ((int)k->zi.mnemonic) {
	case ZYDIS_MNEMONIC_BT: case ZYDIS_MNEMONIC_BTS: case ZYDIS_MNEMONIC_BTR: case ZYDIS_MNEMONIC_BTC:
		if (size && r1 && r1 != reg_of(k, k->op[0].mem.base) && r1 != reg_of(k, k->op[0].mem.index))
			*r1 = (u64)((i64)rnd_below(2000) - 1000);
		break;
	case ZYDIS_MNEMONIC_DIV:
		if (rnd_chance(80) && reg_of(k, k->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER ? k->op[0].reg.value : ZYDIS_REGISTER_NONE) != &g[2] && !size)
			g[2] = 0;
		break;
	case ZYDIS_MNEMONIC_IDIV:
		if (rnd_chance(80) && !size)
			g[2] = (u64)((i64)g[0] >> 63);
		break;
	case ZYDIS_MNEMONIC_CMPXCHG:
		if (p && rnd_chance(50) && reg_of(k, k->op[0].mem.base) != &g[0] && reg_of(k, k->op[0].mem.index) != &g[0])
			memcpy(&g[0], p, size);
		break;
	case ZYDIS_MNEMONIC_LDMXCSR: case ZYDIS_MNEMONIC_VLDMXCSR:
		if (p && rnd_chance(90))
			store_le(p, load_le(p, 4) & 0xffff, 4);
		break;
	case ZYDIS_MNEMONIC_FXRSTOR: case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XSAVE: case ZYDIS_MNEMONIC_XSAVE64: case ZYDIS_MNEMONIC_XSAVEC: case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT: case ZYDIS_MNEMONIC_XSAVEOPT64: case ZYDIS_MNEMONIC_XRSTOR: case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_XSAVES: case ZYDIS_MNEMONIC_XSAVES64: case ZYDIS_MNEMONIC_XRSTORS: case ZYDIS_MNEMONIC_XRSTORS64:
		fill_area(k, at);
		if (image(k, at, 832) && reg_of(k, k->op[0].mem.base) != &g[0] && reg_of(k, k->op[0].mem.base) != &g[2] &&
		    reg_of(k, k->op[0].mem.index) != &g[0] && reg_of(k, k->op[0].mem.index) != &g[2])
			break;
		aim(k, &k->op[0], at); /* fill_area took a register of the address */
		g[2] &= ~(u64)0xffffffff;
		g[0] &= ~(u64)0xfffffff8;
		break;
	case ZYDIS_MNEMONIC_JMP: case ZYDIS_MNEMONIC_CALL:
		if (p && size >= 2)
			memcpy(p, &pad, size);
		else if (k->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && reg_of(k, k->op[0].reg.value) != &g[4])
			*reg_of(k, k->op[0].reg.value) = pad;
		break;
	case ZYDIS_MNEMONIC_RET:
		if (sp)
			memcpy(sp, &pad, 8);
		break;
	case ZYDIS_MNEMONIC_LOOP: case ZYDIS_MNEMONIC_LOOPE: case ZYDIS_MNEMONIC_LOOPNE: case ZYDIS_MNEMONIC_JRCXZ: case ZYDIS_MNEMONIC_JECXZ:
		if (rnd_chance(50))
			g[1] = rnd_below(3);
		break;
	}
}

static bool wants_alignment(const ZydisDecodedInstruction *zi, unsigned size)
{
	return (size == 16 && zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) || size >= 512 || zi->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1;
}

void gen_state(struct ocase *k)
{
	u64 at = O_DATA + 0x800;
	unsigned size = 0;

	memset(&k->in, 0, sizeof(k->in));
	for (unsigned r = 0; r < 16; r++)
		k->in.gpr[r] = rnd_edge();
	k->in.gpr[4] = O_DATA - stack_base(k) + 0x1000 + 8 * rnd_below(64) - (rnd_chance(10) ? rnd_below(8) : 0);
	k->in.gpr[5] = rnd_chance(80) ? O_DATA - stack_base(k) + 0x1200 + 8 * rnd_below(64) : k->in.gpr[5];
	k->in.rflags = 0x202 | (rnd() & 0x8d5) | (rnd_chance(30) ? BIT(10) : 0) | (rnd_chance(4) ? BIT(18) : 0);
	fill_x87(k);
	fill_vectors(k);
	for (unsigned n = 0; n < k->zi.operand_count; n++) {
		const ZydisDecodedOperand *m = &k->op[n];

		if (m->type != ZYDIS_OPERAND_TYPE_MEMORY || (m->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT && reg_of(k, m->mem.base) == &k->in.gpr[4]))
			continue;
		if (m->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
			size = m->size / 8;
			at = target(size, wants_alignment(&k->zi, size));
			if (!rnd_chance(1))
				aim(k, m, at);
		} else if (reg_of(k, m->mem.base)) {
			u64 to = k->cls == O_STRING ? O_DATA + 0x400 + rnd_below(0x1800) : target(m->size / 8, false);

			*reg_of(k, m->mem.base) = to - seg_base(k, m->mem.segment);
		}
	}
	if (k->cls == O_STRING)
		k->in.gpr[1] = rnd_chance(90) ? rnd_below(50) : rnd_below(3000);
	fill_memory(k, at, size);
	if (k->cls == O_STRING && rnd_chance(60)) /* something for CMPS and SCAS to agree on */
		memset(k->mem + 0x400, (int)(k->in.gpr[0] = rnd_below(3)), 0x1a00);
	tame(k, at, size);
	if (k->mode == O_16 && rnd_chance(40))
		k->in.gpr[4] |= rnd() << 16; /* only SP counts */
	if (k->mode != O_64)
		for (unsigned r = 0; r < 8; r++)
			k->in.gpr[r] = (u32)k->in.gpr[r];
	if (k->cls != O_UNDEFINED)
		gen_decode(k->mode, k->code, &k->zi, k->op); /* a displacement may have changed */
}
