/* Masked moves and gathers of AVX and AVX2: element by element, because elements that are masked off do not fault and a
 * gather that faults keeps what it has done. */
#include "interp/vec_priv.h"

/* Register roles: dst, src = mask, src2 = data of a masked store or index of a gather. aux8: log2 of the element size,
 * bit 2 = 256 bits, bit 3 = 64-bit indices. */
#define M_QWORD 1u
#define M_WIDE 4u
#define M_QINDEX 8u

static unsigned esize(const struct insn *i) { return i->aux8 & M_QWORD ? 8 : 4; }
static unsigned vsize(const struct insn *i) { return i->aux8 & M_WIDE ? 32 : 16; }
static bool selected(const u8 *mask, unsigned k, unsigned size) { return mask[k * size + size - 1] & 0x80; }

/* Elements are not checked for alignment: where that is on, they go the way of long operands. */
static bool element_read(struct cpu *c, const struct insn *i, u64 ea, unsigned size, u64 *v)
{
	u64 la;

	if (!seg_la(c, i, i->seg, ea, size, false, &la))
		return false;
	if (likely(!mmu_alignment_on(c)) ? mmu_read(c, la, size, v) : (*v = 0, mmu_read_bytes(c, la, v, size)))
		return true;
	interp_fix_fault(c, i->seg, la);
	return false;
}

static noinline enum step maskload_body(struct cpu *c, const struct insn *i)
{
	unsigned size = esize(i), n = vsize(i) / size;
	const u8 *mask = vec_reg(c, i->src);
	u8 out[32] = { 0 };
	u64 v;

	if (!vec_enabled(c, VEC_AVX))
		return vec_refuse(c, i, VEC_AVX);
	set_rip(c, i);
	for (unsigned k = 0; k < n; k++) {
		if (!selected(mask, k, size))
			continue;
		if (!element_read(c, i, vec_piece(c, ea_masked(c, i) + k * size), size, &v))
			return STEP_FAULT;
		store_le(out + k * size, v, size);
	}
	memcpy(vec_reg(c, i->dst), out, 32);
	return STEP_END;
}

static noinline enum step maskstore_body(struct cpu *c, const struct insn *i)
{
	unsigned size = esize(i), n = vsize(i) / size;
	const u8 *mask = vec_reg(c, i->src), *data = vec_reg(c, i->src2);
	u64 la;

	if (!vec_enabled(c, VEC_AVX))
		return vec_refuse(c, i, VEC_AVX);
	set_rip(c, i);
	for (unsigned pass = 0; pass < 2; pass++) /* all or nothing */
		for (unsigned k = 0; k < n; k++) {
			if (!selected(mask, k, size))
				continue;
			if (!seg_la(c, i, i->seg, vec_piece(c, ea_masked(c, i) + k * size), size, true, &la))
				return STEP_FAULT;
			if (pass ? !mmu_write_bytes(c, la, data + k * size, size) : !mmu_probe_write(c, la, size)) {
				interp_fix_fault(c, i->seg, la);
				return STEP_FAULT;
			}
		}
	return STEP_END;
}

/* SDM "VGATHER...": elements are gathered from the lowest; each one done clears its mask element. */
static noinline enum step gather_body(struct cpu *c, const struct insn *i)
{
	unsigned size = esize(i), isize = i->aux8 & M_QINDEX ? 8 : 4, n = vsize(i) / (size > isize ? size : isize);
	u8 *dst = vec_reg(c, i->dst), *mask = vec_reg(c, i->src);
	const u8 *index = vec_reg(c, i->src2);
	u64 v;

	if (!vec_enabled(c, VEC_AVX))
		return vec_refuse(c, i, VEC_AVX);
	set_rip(c, i);
	for (unsigned k = 0; k < n; k++) /* the mask becomes all ones or zeros before anything can fault */
		memset(mask + k * size, selected(mask, k, size) ? 0xff : 0, size);
	for (unsigned k = 0; k < n; k++) {
		u64 at = sign_extend(load_le(index + k * isize, isize), 8 * isize);
		u64 ea = (c->arch.gpr[i->base] + (at << i->scale) + (u64)(i64)i->disp) & size_mask(i->asize);

		if (selected(mask, k, size)) {
			if (!element_read(c, i, ea, size, &v))
				return STEP_FAULT;
			store_le(dst + k * size, v, size);
		}
		store_le(mask + k * size, 0, size);
	}
	memset(mask, 0, 32);
	if (n * size < 32)
		memset(dst + n * size, 0, 32 - n * size);
	return STEP_END;
}

static enum step h_maskload(struct cpu *c, const struct insn *i) { return after(c, i, maskload_body(c, i)); }
static enum step h_maskstore(struct cpu *c, const struct insn *i) { return after(c, i, maskstore_body(c, i)); }
static enum step h_gather(struct cpu *c, const struct insn *i) { return after(c, i, gather_body(c, i)); }

static const struct { u16 mnemonic; u8 aux8; } gathers[] = {
	{ ZYDIS_MNEMONIC_VPGATHERDD, 0 }, { ZYDIS_MNEMONIC_VPGATHERDQ, M_QWORD },
	{ ZYDIS_MNEMONIC_VPGATHERQD, M_QINDEX }, { ZYDIS_MNEMONIC_VPGATHERQQ, M_QWORD | M_QINDEX },
	{ ZYDIS_MNEMONIC_VGATHERDPS, 0 }, { ZYDIS_MNEMONIC_VGATHERDPD, M_QWORD },
	{ ZYDIS_MNEMONIC_VGATHERQPS, M_QINDEX }, { ZYDIS_MNEMONIC_VGATHERQPD, M_QWORD | M_QINDEX },
}, moves[] = {
	{ ZYDIS_MNEMONIC_VMASKMOVPS, 0 }, { ZYDIS_MNEMONIC_VMASKMOVPD, M_QWORD },
	{ ZYDIS_MNEMONIC_VPMASKMOVD, 0 }, { ZYDIS_MNEMONIC_VPMASKMOVQ, M_QWORD },
};

static u8 number(ZydisRegister r) { return (u8)ZydisRegisterGetId(r) & 15; }

/* Operands: dst, memory with a vector index, mask. */
static insn_fn *decode_gather(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, struct insn *out)
{
	out->dst = number(ops[0].reg.value);
	out->src = number(ops[2].reg.value);
	out->src2 = number(ops[1].mem.index);
	out->scale = zi->raw.sib.scale;
	/* SDM: #UD when two of destination, index and mask are the same register. */
	if (out->dst == out->src || out->dst == out->src2 || out->src == out->src2)
		return NULL;
	return h_gather;
}

insn_fn *vec_decode_masked(struct cpu *c, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, struct insn *out)
{
	u8 wide = zi->raw.vex.L ? M_WIDE : 0;

	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return NULL;
	for (unsigned k = 0; k < array_len(gathers); k++)
		if (gathers[k].mnemonic == zi->mnemonic) {
			out->aux8 = gathers[k].aux8 | wide;
			return decode_gather(zi, ops, out);
		}
	for (unsigned k = 0; k < array_len(moves); k++) {
		if (moves[k].mnemonic != zi->mnemonic)
			continue;
		out->aux8 = moves[k].aux8 | wide;
		if (ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY) { /* memory, mask, data */
			out->src = number(ops[1].reg.value);
			out->src2 = number(ops[2].reg.value);
			return h_maskstore;
		}
		out->dst = number(ops[0].reg.value);
		out->src = number(ops[1].reg.value);
		return h_maskload;
	}
	return NULL;
}
