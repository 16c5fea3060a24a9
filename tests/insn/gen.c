/* Instructions: every opcode that decodes and belongs to a tested class becomes a template; a case is a random template with
 * random registers, addressing, prefixes and immediates. */
#include "oracle.h"

#include <stdio.h>
#include <stdlib.h>

#include "isa/decode.h"

const char *const oclass_names[O_CLASSES] = { "int", "branch", "string", "bmi", "x87", "mmx", "sse", "avx", "avx2", "fma", "crypto", "xsave", "undefined" };

struct template {
	u16 mnemonic;
	u8 cls;
	u8 vex, prefix, map, opcode, w, l;
	u8 modrm;  /* 0 none, 1 memory, 3 register */
	i8 reg, rm; /* fixed fields, -1 free */
};

const struct osegment osegments[O_SEGS] = {
	[O_SEG_CODE] = { O_CODE, 0xffff, 0xfb }, [O_SEG_DATA] = { O_DATA, O_DATA_SIZE - 1, 0xf3 }, [O_SEG_READONLY] = { O_DATA, O_DATA_SIZE - 1, 0xf1 },
	[O_SEG_DOWN] = { O_DATA, 0x5ff, 0xf7 }, [O_SEG_SMALL] = { O_DATA, 0x17fe, 0xf3 },
};

/* All of one mode. */
static struct table {
	struct template *t;
	unsigned n, cap;
	unsigned *group[O_CLASSES]; /* first template of each mnemonic, plus the end */
	unsigned ngroups[O_CLASSES];
	u32 classes;
} tables[O_MODES];
static struct isa_decoder decoder;
static const enum isa_mode isa_modes[O_MODES] = { ISA_64, ISA_32, ISA_16 };
static bool undefined_wanted;
static u32 tables_wanted;

static const struct { u16 set; u8 cls; } set_classes[] = {
	{ ZYDIS_ISA_SET_I86, O_INT }, { ZYDIS_ISA_SET_I186, O_INT }, { ZYDIS_ISA_SET_I386, O_INT }, { ZYDIS_ISA_SET_I486REAL, O_INT },
	{ ZYDIS_ISA_SET_PENTIUMREAL, O_INT }, { ZYDIS_ISA_SET_LONGMODE, O_INT }, { ZYDIS_ISA_SET_CMOV, O_INT },
	{ ZYDIS_ISA_SET_CMPXCHG16B, O_INT }, { ZYDIS_ISA_SET_FAT_NOP, O_INT }, { ZYDIS_ISA_SET_LAHF, O_INT }, { ZYDIS_ISA_SET_PREFETCH_NOP, O_INT },
	{ ZYDIS_ISA_SET_SSE_PREFETCH, O_INT }, { ZYDIS_ISA_SET_PAUSE, O_INT }, { ZYDIS_ISA_SET_POPCNT, O_BMI }, { ZYDIS_ISA_SET_BMI1, O_BMI },
	{ ZYDIS_ISA_SET_BMI2, O_BMI }, { ZYDIS_ISA_SET_LZCNT, O_BMI }, { ZYDIS_ISA_SET_ADOX_ADCX, O_BMI }, { ZYDIS_ISA_SET_MOVBE, O_BMI },
	{ ZYDIS_ISA_SET_X87, O_X87 }, { ZYDIS_ISA_SET_FCMOV, O_X87 }, { ZYDIS_ISA_SET_SSE3X87, O_X87 }, { ZYDIS_ISA_SET_PENTIUMMMX, O_MMX },
	{ ZYDIS_ISA_SET_SSE2MMX, O_MMX }, { ZYDIS_ISA_SET_SSSE3MMX, O_MMX }, { ZYDIS_ISA_SET_SSE, O_SSE }, { ZYDIS_ISA_SET_SSE2, O_SSE },
	{ ZYDIS_ISA_SET_SSE3, O_SSE }, { ZYDIS_ISA_SET_SSSE3, O_SSE }, { ZYDIS_ISA_SET_SSE4, O_SSE }, { ZYDIS_ISA_SET_SSE42, O_SSE },
	{ ZYDIS_ISA_SET_SSEMXCSR, O_SSE }, { ZYDIS_ISA_SET_AVX, O_AVX }, { ZYDIS_ISA_SET_F16C, O_AVX }, { ZYDIS_ISA_SET_AVX2, O_AVX2 },
	{ ZYDIS_ISA_SET_AVX2GATHER, O_AVX2 }, { ZYDIS_ISA_SET_FMA, O_FMA }, { ZYDIS_ISA_SET_AES, O_CRYPTO }, { ZYDIS_ISA_SET_AVXAES, O_CRYPTO },
	{ ZYDIS_ISA_SET_PCLMULQDQ, O_CRYPTO }, { ZYDIS_ISA_SET_SHA, O_CRYPTO }, { ZYDIS_ISA_SET_FXSAVE, O_XSAVE }, { ZYDIS_ISA_SET_FXSAVE64, O_XSAVE },
	{ ZYDIS_ISA_SET_XSAVE, O_XSAVE }, { ZYDIS_ISA_SET_XSAVEC, O_XSAVE }, { ZYDIS_ISA_SET_XSAVEOPT, O_XSAVE }, { ZYDIS_ISA_SET_XSAVES, O_XSAVE },
	{ ZYDIS_ISA_SET_PPRO, O_X87 },
};

/* Not comparable: they talk to the operating system, or tell machines apart. */
static bool denied(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op)
{
	switch ((int)zi->meta.category) {
	case ZYDIS_CATEGORY_SYSTEM: case ZYDIS_CATEGORY_SYSCALL: case ZYDIS_CATEGORY_SYSRET: case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_IO: case ZYDIS_CATEGORY_IOSTRINGOP: case ZYDIS_CATEGORY_SEGOP: case ZYDIS_CATEGORY_RDWRFSGS: case ZYDIS_CATEGORY_SMAP:
		return true;
	}
	switch ((int)zi->mnemonic) {
	case ZYDIS_MNEMONIC_CPUID: case ZYDIS_MNEMONIC_RDTSC: case ZYDIS_MNEMONIC_RDPMC: case ZYDIS_MNEMONIC_XGETBV: case ZYDIS_MNEMONIC_XSETBV:
	case ZYDIS_MNEMONIC_IRET: case ZYDIS_MNEMONIC_IRETD: case ZYDIS_MNEMONIC_IRETQ: case ZYDIS_MNEMONIC_POPF: case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_POPFD: case ZYDIS_MNEMONIC_PAUSE: case ZYDIS_MNEMONIC_SMSW: case ZYDIS_MNEMONIC_STR: case ZYDIS_MNEMONIC_SLDT:
		return true;
	case ZYDIS_MNEMONIC_VPCLMULQDQ: break;
	}
	if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX))
		return true;
	for (unsigned k = 0; k < zi->operand_count; k++) {
		if (op[k].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch ((int)ZydisRegisterGetClass(op[k].reg.value)) {
		case ZYDIS_REGCLASS_SEGMENT: return true;
		case ZYDIS_REGCLASS_CONTROL: case ZYDIS_REGCLASS_DEBUG: case ZYDIS_REGCLASS_TEST: case ZYDIS_REGCLASS_MASK:
		case ZYDIS_REGCLASS_BOUND: case ZYDIS_REGCLASS_TMM: case ZYDIS_REGCLASS_ZMM:
			/* The XSAVE family's hidden XCR0 is none of these. */
			if (op[k].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
				return true;
		}
	}
	return false;
}

static int class_of(const ZydisDecodedInstruction *zi)
{
	for (unsigned k = 0; k < array_len(set_classes); k++)
		if (set_classes[k].set == zi->meta.isa_set) {
			if (set_classes[k].cls != O_INT)
				return set_classes[k].cls;
			if (zi->meta.category == ZYDIS_CATEGORY_STRINGOP)
				return O_STRING;
			return zi->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ? O_BRANCH : O_INT;
		}
	return -1;
}

bool gen_decode(enum omode mode, const u8 *b, ZydisDecodedInstruction *zi, ZydisDecodedOperand *op)
{
	static struct isa_insn in;

	if (isa_decode(&decoder, isa_modes[mode], b, 15, &in) != ISA_OK)
		return false;
	*zi = in.zi;
	memcpy(op, in.op, sizeof(in.op));
	return true;
}

/* ---- encoding ---- */
struct bits { u8 r, x, b, vvvv; bool c5; };

static unsigned encode_head(u8 *to, const struct template *t, struct bits e, bool force_rex)
{
	u8 *p = to;
	u8 pp = t->prefix == 0x66 ? 1 : t->prefix == 0xf3 ? 2 : t->prefix == 0xf2 ? 3 : 0;

	if (t->vex) {
		if (e.c5 && t->map == 1 && !t->w && !e.x && !e.b) {
			*p++ = 0xc5;
			*p++ = (u8)((e.r ? 0 : 0x80) | (~e.vvvv & 15) << 3 | t->l << 2 | pp);
		} else {
			*p++ = 0xc4;
			*p++ = (u8)((e.r ? 0 : 0x80) | (e.x ? 0 : 0x40) | (e.b ? 0 : 0x20) | t->map);
			*p++ = (u8)(t->w << 7 | (~e.vvvv & 15) << 3 | t->l << 2 | pp);
		}
	} else {
		if (t->prefix)
			*p++ = t->prefix;
		if (t->w || e.r || e.x || e.b || force_rex)
			*p++ = (u8)(0x40 | t->w << 3 | e.r << 2 | e.x << 1 | e.b);
		if (t->map)
			*p++ = 0x0f;
		if (t->map > 1)
			*p++ = t->map == 2 ? 0x38 : 0x3a;
	}
	*p++ = t->opcode;
	return (unsigned)(p - to);
}

/* ---- the table ---- */
static void add(struct table *b, const struct template *t)
{
	if (b->n == b->cap) {
		b->cap = b->cap ? 2 * b->cap : 4096;
		b->t = realloc(b->t, b->cap * sizeof(*b->t));
	}
	b->t[b->n++] = *t;
}

/* Mnemonic if the template with these fields is wanted, else 0. */
static unsigned probe(enum omode mode, struct template *t, const struct filter *f, unsigned reg, unsigned rm)
{
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	u8 b[16] = { 0 };
	int cls;
	/* VSIB needs a SIB byte: rm = 4. vvvv = 3: not equal to any other register. */
	for (unsigned v = 0; v < 3; v++) {
		unsigned n = encode_head(b, t, (struct bits){ .vvvv = v == 1 ? 3 : v == 2 ? 3 : 0 }, false);

		b[n] = (u8)((t->modrm == 3 ? 0xc0 : 0x40) | reg << 3 | (v == 2 && t->modrm == 1 ? 4 : rm));
		b[n + 1] = 0x11;
		if (!gen_decode(mode, b, &zi, op) || denied(&zi, op) || (cls = class_of(&zi)) < 0 || !(f->only & bit(cls)) || !f->shown(zi.meta.isa_set))
			continue;
		if (f->mnemonic && strcasecmp(f->mnemonic, ZydisMnemonicGetString(zi.mnemonic)))
			continue;
		if (mode == O_64 && t->prefix == 0x66 && cls == O_BRANCH)
			continue; /* vendors differ */
		if (!(zi.attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
			if (reg || rm != 1 || t->modrm == 3)
				continue;
			t->modrm = 0;
		}
		t->cls = (u8)cls;
		return zi.mnemonic;
	}
	return 0;
}

static void add_opcode(enum omode mode, struct template t, const struct filter *f)
{
	bool x87 = !t.vex && !t.map && t.opcode >= 0xd8 && t.opcode <= 0xdf && t.modrm == 3;
	unsigned m[8], same = 0;

	for (unsigned reg = 0; reg < 8; reg++) {
		struct template q = t;

		for (unsigned rm = 0; x87 && rm < 8; rm++) {
			q.reg = (i8)reg;
			q.rm = (i8)rm;
			if ((q.mnemonic = (u16)probe(mode, &q, f, reg, rm)))
				add(&tables[mode], &q);
		}
		m[reg] = x87 ? 0 : probe(mode, &q, f, reg, 1);
		if (m[reg] && !q.modrm) {
			q.mnemonic = (u16)m[reg];
			add(&tables[mode], &q);
			return;
		}
		same += m[reg] && m[reg] == m[0];
	}
	for (unsigned reg = 0; reg < 8; reg++) {
		struct template q = t;

		if (!m[reg] || (same == 8 && reg))
			continue;
		q.reg = same == 8 ? -1 : (i8)reg;
		q.mnemonic = (u16)probe(mode, &q, f, reg, 1);
		add(&tables[mode], &q);
	}
}

static int by_class_and_mnemonic(const void *a, const void *b)
{
	const struct template *x = a, *y = b;

	return x->cls != y->cls ? x->cls - y->cls : x->mnemonic - y->mnemonic;
}

static void make_groups(struct table *b)
{
	qsort(b->t, b->n, sizeof(*b->t), by_class_and_mnemonic);
	for (unsigned c = 0; c < O_CLASSES; c++)
		b->group[c] = calloc(b->n + 1, sizeof(unsigned));
	for (unsigned k = 0; k < b->n; k++) {
		struct template *t = &b->t[k];

		if (!k || t[-1].mnemonic != t->mnemonic || t[-1].cls != t->cls)
			b->group[t->cls][b->ngroups[t->cls]++] = k;
		b->group[t->cls][b->ngroups[t->cls]] = k + 1;
	}
	for (unsigned c = 0; c < O_CLASSES; c++)
		b->classes |= b->ngroups[c] ? 1u << c : 0;
}

static bool is_prefix(u8 b)
{
	return (b & 0xe7) == 0x26 || (b >= 0x64 && b <= 0x67) || b == 0xf0 || b == 0xf2 || b == 0xf3 || b == 0xc4 || b == 0xc5 || b == 0x62;
}

static void build(enum omode mode, const struct filter *f)
{
	static const u8 prefixes[4] = { 0, 0x66, 0xf3, 0xf2 };

	for (unsigned n = 0; n < 2 * 4 * 4 * 256 * 2 * 2 * 2; n++) {
		struct template t = { .vex = n & 1, .prefix = prefixes[n >> 1 & 3], .map = n >> 3 & 3, .opcode = (u8)(n >> 5), .w = n >> 13 & 1,
		                      .l = n >> 14 & 1, .modrm = n >> 15 & 1 ? 3 : 1, .reg = -1, .rm = -1 };

		if (t.vex ? !t.map : t.l || (!t.map && is_prefix(t.opcode)))
			continue;
		if (mode == O_64 ? !t.vex && !t.map && (t.opcode & 0xf0) == 0x40 : !t.vex && t.w)
			continue; /* REX is a prefix, or does not exist */
		add_opcode(mode, t, f);
	}
	make_groups(&tables[mode]);
}

void gen_init(const struct filter *f)
{
	isa_decoder_init(&decoder, true, true);
	undefined_wanted = (f->only >> O_UNDEFINED & 1) && !f->mnemonic;
	tables_wanted = f->modes & 7;
	for (unsigned m = 0; m < O_MODES; m++)
		if (f->modes >> m & 1)
			build(m, f);
}

unsigned gen_templates(enum omode mode, enum oclass cls)
{
	unsigned n = 0;

	for (unsigned k = 0; k < tables[mode].n; k++)
		n += tables[mode].t[k].cls == cls;
	return n;
}

/* ---- a case ---- */
static const struct template *pick(enum omode *mode)
{
	const struct table *b;
	unsigned c, g;

	do
		*mode = rnd_chance(70) ? O_64 : rnd_chance(60) ? O_32 : O_16;
	while (!tables[*mode].n);
	b = &tables[*mode];
	do
		c = (unsigned)rnd_below(O_CLASSES);
	while (!(b->classes >> c & 1));
	g = (unsigned)rnd_below(b->ngroups[c]);
	return &b->t[b->group[c][g] + rnd_below(b->group[c][g + 1] - b->group[c][g])];
}

static void encode(struct ocase *k, const struct template *t)
{
	/* FS is the C library's. In compatibility mode FS and GS are null. */
	static const u8 segs[O_MODES][8] = { { 0x65, 0x65, 0x65, 0x2e, 0x36, 0x3e, 0x26, 0x65 }, { 0x2e, 0x36, 0x3e, 0x26, 0x36, 0x3e, 0x26, 0x64 },
	                                     { 0x2e, 0x36, 0x3e, 0x26, 0x36, 0x3e, 0x26, 0x64 } };
	struct bits e = { .r = rnd() & 1, .x = t->modrm == 1 ? rnd() & 1 : 0, .b = rnd() & 1, .vvvv = (u8)(rnd() & 15), .c5 = rnd() & 1 };
	bool wide = k->mode == O_64;
	u8 *p = k->code;
	unsigned mod = t->modrm == 3 ? 3 : (unsigned)rnd_below(3);

	if (t->modrm != 3 && rnd_chance(8))
		*p++ = segs[k->mode][rnd_below(8)];
	if (t->modrm != 3 && rnd_chance(k->mode == O_32 ? 3 : 8))
		*p++ = 0x67;
	if (t->modrm == 1 && t->cls == O_INT && rnd_chance(12))
		*p++ = 0xf0;
	if (!t->vex && t->cls >= O_X87 && rnd_chance(6)) /* one prefix too many */
		*p++ = "\x66\xf2\xf3\x66"[rnd_below(4)];
	if (t->cls == O_X87 || t->cls == O_MMX)
		e.r = e.b = t->modrm == 1 ? e.b : 0;
	if (!wide)
		e.r = e.x = 0, e.b = t->vex ? e.b : 0; /* VEX.B is ignored there, the others would make it LES or LDS */
	if (rnd_chance(30))
		e.vvvv = 0; /* what instructions without that operand want */
	p += encode_head(p, t, e, rnd_chance(15) && wide);
	for (u8 *q = p; q < k->code + sizeof(k->code); q++)
		*q = (u8)rnd();
	if (t->modrm)
		*p = (u8)(mod << 6 | (t->reg >= 0 ? (u64)t->reg : rnd() & 7) << 3 | (t->rm >= 0 ? (u64)t->rm : rnd() & 7));
}

/* Rewrites a field of the instruction in place and decodes it again. */
static void patch(struct ocase *k, unsigned offset, unsigned bits_, u64 v)
{
	memcpy(k->code + offset, &v, bits_ / 8);
	gen_decode(k->mode, k->code, &k->zi, k->op);
}

/* A taken relative branch goes to O_PAD_B. */
static void aim_branch(struct ocase *k)
{
	i64 near = rnd() & 1 ? (i64)(16 + rnd_below(100)) : -(i64)(40 + rnd_below(80));

	if (!k->zi.raw.imm[0].is_relative)
		return;
	if (k->zi.raw.imm[0].size == 8)
		k->at = O_PAD_B - (u64)near - k->len;
	patch(k, k->zi.raw.imm[0].offset, k->zi.raw.imm[0].size, O_PAD_B - k->at - k->len);
}

/* Bytes that are no instruction. */
static void gen_undefined(struct ocase *k)
{
	static struct isa_insn in;
	static const u8 starts[][3] = { { 0 }, { 1, 0x0f }, { 1, 0x0f }, { 2, 0x0f, 0x38 }, { 2, 0x0f, 0x3a }, { 1, 0xc4 }, { 1, 0xc5 }, { 1, 0x62 } };

	k->mode = tables_wanted >> O_64 & 1 ? O_64 : tables_wanted >> O_32 & 1 ? O_32 : O_16;
	if (tables_wanted == 7)
		k->mode = rnd_below(O_MODES);
	do {
		const u8 *s = starts[rnd_below(array_len(starts))];
		unsigned n = 0;

		for (unsigned b = 0; b < 16; b++)
			k->code[b] = (u8)rnd();
		if (rnd_chance(50))
			k->code[n++] = "\x66\xf2\xf3\x2e\xf0\x67\x48\x4f"[rnd_below(8)];
		memcpy(k->code + n, s + 1, s[0]);
	} while (isa_decode(&decoder, isa_modes[k->mode], k->code, 15, &in) != ISA_UD || memmem(k->code, 8, "\x0f\x01", 2) /* VMCALL */);
	memset(&k->zi, 0, sizeof(k->zi));
	k->zi.mnemonic = ZYDIS_MNEMONIC_INVALID;
	k->cls = O_UNDEFINED;
	k->len = 15;
	k->at = O_CODE + rnd_below(0xe00);
	k->ds = k->es = k->ss = O_SEG_DATA;
	gen_state(k);
}

void gen_case(struct ocase *k)
{
	const struct template *t;
	int cls;

	rnd_seed(k->seed);
	if (undefined_wanted && (rnd_chance(2) || !tables[O_64].n + !tables[O_32].n + !tables[O_16].n == 3)) {
		gen_undefined(k);
		return;
	}
	do {
		t = pick(&k->mode);
		encode(k, t);
		cls = -1;
		if (!gen_decode(k->mode, k->code, &k->zi, k->op) || k->zi.mnemonic != t->mnemonic || denied(&k->zi, k->op))
			continue;
		cls = class_of(&k->zi);
	} while (cls != t->cls);
	k->cls = t->cls;
	k->len = k->zi.length;
	k->at = O_CODE + rnd_below(0xe00);
	k->ds = k->mode == O_16 && rnd_chance(20) ? (u8)(O_SEG_DATA + rnd_below(4)) : O_SEG_DATA;
	k->es = k->mode == O_16 && rnd_chance(20) ? (u8)(O_SEG_DATA + rnd_below(4)) : O_SEG_DATA;
	k->ss = rnd_chance(80) ? O_SEG_DATA : rnd_chance(50) ? O_SEG_SMALL : O_SEG_DOWN;
	aim_branch(k);
	gen_state(k);
	memset(k->code + k->len, 0, sizeof(k->code) - k->len);
}
