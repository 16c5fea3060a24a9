/* From a decoded instruction to its handler: the table of rows.def, and what its selectors need to know. */
#include "interp/sys.h"
#include "interp/vec.h"

enum { GO, END, JUMP };
#define FEAT_NONE FEAT_COUNT

struct row {
	select_fn *sel;
	sys_fn *body;   /* system instructions */
	u16 arg;
	u8 feature;
	u8 end;
};

static const struct row rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define R(M, s, a, f, e) [ZYDIS_MNEMONIC_##M] = { .sel = sel_##s, .arg = a, .feature = FEAT_##f, .end = e },
#define SYS(M, b, f, e) [ZYDIS_MNEMONIC_##M] = { .sel = sel_sys, .body = sys_##b, .feature = FEAT_##f, .end = e },
#include "interp/rows.def"
#undef R
#undef SYS
};

/* ---- the handler of all system instructions ---- */
static enum step h_sys(struct cpu *c, const struct insn *i)
{
	sys_fn *body = i->aux;
	set_rip(c, i);
	return after(c, i, body(c, i));
}

enum step h_ud(struct cpu *c, const struct insn *i) { return fault_ud(c, i); }
enum step h_too_long(struct cpu *c, const struct insn *i) { return fault_gp(c, i); }
insn_fn *sel_ud(const struct form *f, struct insn *o) { return h_ud; }

static sys_fn *mov_body(const struct form *f)
{
	const ZydisDecodedOperand *op = f->in->op;
	ZydisRegisterClass c0 = ZydisRegisterGetClass(op[0].reg.value);
	if (c0 == ZYDIS_REGCLASS_CONTROL)
		return sys_mov_to_cr;
	if (c0 == ZYDIS_REGCLASS_DEBUG)
		return sys_mov_to_dr;
	return ZydisRegisterGetClass(op[1].reg.value) == ZYDIS_REGCLASS_CONTROL ? sys_mov_from_cr : sys_mov_from_dr;
}

insn_fn *sel_sys(const struct form *f, struct insn *o)
{
	sys_fn *body = rows[o->op].body;
	o->aux = (void *)(body ? body : mov_body(f));
	return h_sys;
}

/* Instructions whose operand size Zydis gives otherwise than the handlers want it. */
static void fix_opsize(const struct isa_insn *in, struct insn *o)
{
	/* VEX instructions have 32- and 64-bit operands in every mode. */
	if (in->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		o->opsize = in->op[0].size / 8;
	if (o->op == ZYDIS_MNEMONIC_RDFSBASE || o->op == ZYDIS_MNEMONIC_RDGSBASE || o->op == ZYDIS_MNEMONIC_WRFSBASE || o->op == ZYDIS_MNEMONIC_WRGSBASE)
		o->opsize = in->op[0].size / 8;
}

static enum ea_kind ea_kind(u32 mode, const struct insn *o)
{
	if (!(mode & MODE_L) || o->asize != 8)
		return EA_G;
	return o->index != GPR_ZERO || o->seg == SEG_FS || o->seg == SEG_GS ? EA_X : EA_BD;
}

/* MOVSD and CMPSD are two instructions each: strings in the one-byte map, SSE2 in map 0F. */
static bool is_sse_namesake(const struct isa_insn *in)
{
	return (in->zi.mnemonic == ZYDIS_MNEMONIC_MOVSD || in->zi.mnemonic == ZYDIS_MNEMONIC_CMPSD) && in->zi.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT;
}

static const struct row *row_of(const struct isa_insn *in)
{
	static const struct row vector = { 0 };
	return is_sse_namesake(in) ? &vector : &rows[in->zi.mnemonic];
}

bool interp_is_row(const struct isa_insn *in) { return row_of(in)->sel; }
bool interp_by_imm(const struct isa_insn *in) { return !interp_is_row(in) || row_of(in)->sel == sel_shift; }

bool interp_select(struct cpu *c, const struct isa_insn *in, u32 mode, struct insn *o, bool *last)
{
	const struct row *r = row_of(in);
	bool vex = in->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY;
	insn_fn *fn = NULL;
	*last = false;
	if (vex && !(mode & MODE_PE)) {
		/* VEX prefixes are not recognised in real and virtual-8086 mode (SDM "VEX Prefix"). */
	} else if (r->sel) {
		struct form f = { .c = c, .in = in, .mode = mode, .arg = r->arg,
			.m0 = in->zi.operand_count_visible > 0 && in->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY,
			.m1 = in->zi.operand_count_visible > 1 && in->op[1].type == ZYDIS_OPERAND_TYPE_MEMORY,
			.i1 = in->zi.operand_count_visible > 1 && in->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE,
			.chain = block_chains(mode) };
		fix_opsize(in, o);
		f.sz = o->opsize ? __builtin_ctz(o->opsize) & 3 : 0;
		f.ea = ea_kind(mode, o);
		if (r->feature == FEAT_NONE || cpu_has(c, r->feature))
			fn = r->sel(&f, o);
	} else {
		fn = vec_decode(c, &in->zi, in->op, o);
	}
	o->fn = fn ? fn : h_ud;
	if (o->fn == h_ud)
		*last = true;
	else if (r->sel)
		*last = r->end == JUMP;
	return *last || (r->sel && r->end == END);
}
