/* Zydis front end. See decode.h. */
#include "isa/decode.h"

void isa_decoder_init(struct isa_decoder *d, bool tzcnt, bool lzcnt)
{
	static const struct { ZydisMachineMode mode; ZydisStackWidth stack; } zm[ISA_MODES] = {
		[ISA_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		[ISA_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		[ISA_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	};
	for (unsigned m = 0; m < ISA_MODES; m++) {
		ZydisDecoder *z = &d->mode[m];
		bug_if(!ZYAN_SUCCESS(ZydisDecoderInit(z, zm[m].mode, zm[m].stack)));
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_MPX, false);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CET, false);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CLDEMOTE, false);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_TZCNT, tzcnt);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_LZCNT, lzcnt);
	}
}

/* Zydis knows F3 as REP only where the manual lists it; the silicon takes F2 as REP on MOVS, STOS, LODS, INS and OUTS too. */
static u8 rep_prefix(const ZydisDecodedInstruction *zi)
{
	u8 last = 0;
	for (unsigned k = 0; k < zi->raw.prefix_count; k++)
		if (zi->raw.prefixes[k].value == 0xf2 || zi->raw.prefixes[k].value == 0xf3)
			last = zi->raw.prefixes[k].value;
	return last;
}

static bool is_string(ZydisInstructionCategory cat)
{
	return cat == ZYDIS_CATEGORY_STRINGOP || cat == ZYDIS_CATEGORY_IOSTRINGOP;
}

/* Zydis 4.0 takes R13D for a base where mod = 0 and SIB.base = 5 mean "disp32 and no base" with REX.B and 32-bit addresses. */
static void fix_sib(struct isa_insn *in)
{
	const ZydisDecodedInstruction *zi = &in->zi;
	if (!(zi->attributes & ZYDIS_ATTRIB_HAS_SIB) || zi->raw.modrm.mod != 0 || (zi->raw.sib.base & 7) != 5)
		return;
	for (unsigned k = 0; k < zi->operand_count; k++) {
		ZydisDecodedOperand *o = &in->op[k];
		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
			continue;
		o->mem.base = ZYDIS_REGISTER_NONE;
		o->mem.disp.has_displacement = ZYAN_TRUE;
		o->mem.disp.value = zi->raw.disp.value;
	}
}

enum isa_result isa_decode(const struct isa_decoder *d, enum isa_mode mode, const u8 *bytes, unsigned len, struct isa_insn *out)
{
	ZydisDecoderContext ctx;
	if (len > ISA_MAX_LEN)
		len = ISA_MAX_LEN;
	ZyanStatus s = ZydisDecoderDecodeInstruction(&d->mode[mode], &ctx, bytes, len, &out->zi);
	if (s == ZYDIS_STATUS_NO_MORE_DATA)
		return len >= ISA_MAX_LEN ? ISA_LONG : ISA_MORE;
	if (s == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
		return ISA_LONG;
	if (!ZYAN_SUCCESS(s))
		return ISA_UD;
	s = ZydisDecoderDecodeOperands(&d->mode[mode], &ctx, &out->zi, out->op, out->zi.operand_count);
	if (!ZYAN_SUCCESS(s))
		return ISA_UD;
	fix_sib(out);
	return ISA_OK;
}

u8 isa_reg(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
		return (r - ZYDIS_REGISTER_AL) * 8;
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return (r - ZYDIS_REGISTER_AH) * 8 + 1;
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
		return (r - ZYDIS_REGISTER_SPL + 4) * 8;
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
		return r - ZYDIS_REGISTER_AX;
	if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
		return r - ZYDIS_REGISTER_EAX;
	if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
		return r - ZYDIS_REGISTER_RAX;
	if (r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS)
		return r - ZYDIS_REGISTER_ES;
	ZyanI8 id = ZydisRegisterGetId(r);
	return id < 0 ? 0 : id;
}

static void fill_mem(const ZydisDecodedOperand *o, struct insn *out)
{
	out->base = o->mem.base == ZYDIS_REGISTER_NONE ? GPR_ZERO :
		o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP ? GPR_BLOCK_RIP : isa_reg(o->mem.base);
	out->index = GPR_ZERO;
	if (o->mem.index != ZYDIS_REGISTER_NONE && o->mem.type != ZYDIS_MEMOP_TYPE_VSIB) {
		out->index = isa_reg(o->mem.index);
		out->scale = o->mem.scale ? __builtin_ctz(o->mem.scale) : 0;
	}
	out->seg = isa_reg(o->mem.segment);
	out->disp = (i32)o->mem.disp.value;
}

/* Strings, XLAT, MASKMOVQ...: only the segment of the operand that an override applies to matters. */
static void fill_hidden_seg(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *o, struct insn *out)
{
	u8 base = isa_reg(o->mem.base);
	if (base == GPR_RSP || (base == GPR_RDI && is_string(zi->meta.category)) || (out->flags & INSN_MEM) ||
	    o->mem.segment == ZYDIS_REGISTER_NONE)
		return;
	out->seg = isa_reg(o->mem.segment);
}

static void fill_imm(const ZydisDecodedOperand *o, bool first, struct insn *out)
{
	if (o->type == ZYDIS_OPERAND_TYPE_POINTER) {
		out->imm = o->ptr.offset;
		out->imm2 = o->ptr.segment;
	} else if (first) {
		out->imm = o->imm.value.u;
	} else {
		out->imm2 = (u32)o->imm.value.u;
	}
}

static void fill_flags(const struct isa_insn *in, struct insn *out)
{
	const ZydisDecodedInstruction *zi = &in->zi;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		out->flags |= INSN_LOCK;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT)
		out->flags |= INSN_SEGOVR;
	if (is_string(zi->meta.category)) {
		u8 rep = rep_prefix(zi);
		if (rep)
			out->flags |= rep == 0xf3 ? INSN_REP : INSN_REPNE;
	}
}

bool isa_fill(const struct isa_insn *in, unsigned off, struct insn *out)
{
	const ZydisDecodedInstruction *zi = &in->zi;
	u8 *regs[3] = { &out->dst, &out->src, &out->src2 };
	bool imm_seen = false, ok = true;

	memset(out, 0, sizeof *out);
	out->base = out->index = GPR_ZERO;
	out->seg = SEG_DS;
	out->opsize = zi->operand_width / 8;
	out->asize = zi->address_width / 8;
	out->len = zi->length;
	out->op = zi->mnemonic;
	out->off = off;
	fill_flags(in, out);
	for (unsigned k = 0; k < zi->operand_count; k++) {
		const ZydisDecodedOperand *o = &in->op[k];
		bool hidden = o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (hidden) {
				fill_hidden_seg(zi, o, out);
				continue;
			}
			fill_mem(o, out);
			out->flags |= INSN_MEM | (k == 0 ? INSN_M0 : 0);
			if (out->base == GPR_BLOCK_RIP) {
				i64 d = o->mem.disp.value + off + zi->length;
				out->disp = (i32)d;
				out->flags |= INSN_RIPREL;
				ok = out->disp == d || out->asize == 4;
			} else if (o->mem.disp.value != out->disp) {
				out->imm = (u64)o->mem.disp.value; /* MOV moffs64 */
			}
		} else if (hidden) {
			continue;
		} else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			if (k < 3)
				*regs[k] = isa_reg(o->reg.value);
		} else {
			fill_imm(o, !imm_seen, out);
			out->flags |= o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? INSN_IMM : 0;
			imm_seen = true;
		}
	}
	return ok;
}

void isa_format(const struct isa_insn *in, u64 rip, char *text, size_t size)
{
	ZydisFormatter f;
	if (!ZYAN_SUCCESS(ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL)) ||
	    !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&f, &in->zi, in->op, in->zi.operand_count_visible, text, size, rip, NULL)))
		text[0] = 0;
}
