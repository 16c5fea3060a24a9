/* SSE and AVX: the guest's instruction with another memory operand and, where a general register is not at home, another register. Vector registers
 * have the same numbers on the host; a block loads each before its first use and writes the changed ones back before it ends or calls a handler.
 * Places that may leave in between say which (struct site), and C writes them back.
 *
 * In a block with any VEX instruction registers travel whole (32 bytes), else only their lower halves: then the upper ones stay where they are. */
#include "jit/sys.h"
#include "jit/vec.h"
#include "mem/mem.h"

/* ---- moving registers ---- */
static void move(struct tr *t, unsigned r, bool load)
{
	struct as *a = &t->a;
	struct rm m = rm_abs(t->c->arch.ymm + 32 * r);
	if (t->vec_wide) { /* vmovaps ymm */
		as8(a, 0xc5);
		as8(a, (r < 8 ? 0x80 : 0) | 0x7c);
		as8(a, load ? 0x28 : 0x29);
		as_modrm(a, r, m, 0);
	} else {
		as_ins(a, 0, 4, load ? 0x0f28 : 0x0f29, r, m, 0); /* movaps xmm */
	}
}

static void want(struct tr *t, unsigned r)
{
	if (!(t->vec_loaded >> r & 1))
		move(t, r, true);
	t->vec_loaded |= 1u << r;
}

void tr_vec_flush(struct tr *t)
{
	struct as *a = &t->a;
	for (unsigned r = 0; r < 16; r++)
		if (t->vec_dirty >> r & 1)
			move(t, r, false);
	if (t->vec_wide && t->vec_loaded) {
		as8(a, 0xc5); /* vzeroupper */
		as8(a, 0xf8);
		as8(a, 0x77);
	}
	t->vec_loaded = t->vec_dirty = 0;
}

void jit_vec_write_back(struct cpu *c, const struct site *s)
{
	struct hot *h = jit_of(c)->hot;
	for (unsigned r = 0; r < 16; r++)
		if (s->vec_dirty >> r & 1)
			memcpy(c->arch.ymm + 32 * r, h->vec + 32 * r, s->vec_wide ? 32 : 16);
}

/* ---- what an instruction is ---- */
bool vec_is_vex(const struct block *b)
{
	for (unsigned k = 0; k < b->n; k++)
		if (tr_is_vec(&b->insn[k]) && (b->insn[k].imm2 & VEC_PLAIN_AVX))
			return true;
	return false;
}

static bool decode(struct tr *t, const struct insn *i, struct isa_insn *in)
{
	struct cpu *c = t->c;
	u64 la = (c->arch.gpr[GPR_BLOCK_RIP] & PAGE_MASK) + t->b->off + i->off; /* all of a region is in the page that runs */
	const struct tlb_entry *e = mmu_recall(c, la, t->j->in.xneed);
	if (!e || (e->perm & TLB_IO) || e->frame != t->b->frame[0])
		return false;
	return isa_decode(&t->j->in.dec, jit_isa(t->b), (const u8 *)(la + e->addend), i->len, in) == ISA_OK && in->zi.mnemonic == i->op && in->zi.length == i->len;
}

/* ---- encoding ---- */
struct shape {
	u8 reg, rm, vvvv, is4;
	bool mem, has_is4;
	u8 gpr_in, gpr_out;  /* guest registers to load into S1, or to store from it; NO_HOME: none */
};

static bool place(struct shape *f, const ZydisDecodedOperand *op, u8 id)
{
	switch ((int)op->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG: f->reg = id; return true;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM: f->rm = id; return true;
	case ZYDIS_OPERAND_ENCODING_NDSNDD: f->vvvv = id; return true;
	case ZYDIS_OPERAND_ENCODING_IS4: f->is4 = id; f->has_is4 = true; return true;
	case ZYDIS_OPERAND_ENCODING_NONE: return true; /* implied XMM0 */
	}
	return false;
}

static bool shape_of(struct tr *t, const struct isa_insn *in, struct shape *f)
{
	const ZydisDecodedInstruction *zi = &in->zi;
	*f = (struct shape){ .reg = zi->raw.modrm.reg, .rm = zi->raw.modrm.rm, .gpr_in = NO_HOME, .gpr_out = NO_HOME };
	for (unsigned k = 0; k < zi->operand_count; k++) {
		const ZydisDecodedOperand *op = &in->op[k];
		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			f->mem = true;
			continue;
		}
		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		ZydisRegisterClass cls = ZydisRegisterGetClass(op->reg.value);
		u8 id = (u8)ZydisRegisterGetId(op->reg.value) & 15;
		if (t->width == 4 && cls == ZYDIS_REGCLASS_GPR32 && zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && zi->raw.vex.W)
			return false; /* 32-bit code ignores it */
		if (cls == ZYDIS_REGCLASS_GPR32 || cls == ZYDIS_REGCLASS_GPR64) {
			u8 home = homed(t, id) ? t->home[id] : S1;
			if (home == S1 && (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ))
				f->gpr_in = id;
			if (home == S1 && (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
				f->gpr_out = id;
			id = home;
		} else if (cls != ZYDIS_REGCLASS_XMM && cls != ZYDIS_REGCLASS_YMM) {
			continue;
		}
		if (!place(f, op, id))
			return false;
	}
	return true;
}

static void put_modrm(struct tr *t, const struct shape *f, unsigned imm)
{
	if (f->mem)
		as_modrm(&t->a, f->reg, t->m, imm);
	else
		as8(&t->a, 0xc0 | (f->reg & 7) << 3 | (f->rm & 7));
}

static unsigned imm_bytes(const ZydisDecodedInstruction *zi, const struct shape *f) { return f->has_is4 ? 1 : zi->raw.imm[0].size / 8; }
static void put_imm(struct as *a, const ZydisDecodedInstruction *zi, const struct shape *f)
{
	if (f->has_is4)
		as8(a, f->is4 << 4 | (zi->raw.imm[0].value.u & 15));
	else if (zi->raw.imm[0].size)
		as_imm(a, zi->raw.imm[0].size / 8, zi->raw.imm[0].value.u);
}

/* Non-temporal moves become ordinary ones. */
static u8 opcode_of(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD: return 0x29;
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQ: return 0x7f;
	default: return zi->opcode;
	}
}

static void put_legacy(struct tr *t, const ZydisDecodedInstruction *zi, const struct shape *f)
{
	struct as *a = &t->a;
	u8 repeat = 0, rex = 0;
	bool size = false;
	for (unsigned k = 0; k < zi->raw.prefix_count; k++) {
		u8 b = zi->raw.prefixes[k].value;
		if (b == 0xf2 || b == 0xf3)
			repeat = b;
		size |= b == 0x66;
	}
	if (size)
		as8(a, 0x66);
	if (repeat)
		as8(a, repeat);
	if ((zi->attributes & ZYDIS_ATTRIB_HAS_REX) && zi->raw.rex.W)
		rex = 8;
	rex |= (f->reg & 8 ? 4 : 0) | (f->rm & 8 ? 1 : 0);
	if (rex)
		as8(a, 0x40 | rex);
	as8(a, 0x0f);
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		as8(a, 0x38);
	else if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		as8(a, 0x3a);
	as8(a, opcode_of(zi));
	put_modrm(t, f, imm_bytes(zi, f));
	put_imm(a, zi, f);
}

static void put_vex(struct tr *t, const ZydisDecodedInstruction *zi, const struct shape *f)
{
	struct as *a = &t->a;
	unsigned map = zi->opcode_map == ZYDIS_OPCODE_MAP_0F38 ? 2 : zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A ? 3 : 1;
	as8(a, 0xc4);
	as8(a, (f->reg & 8 ? 0 : 0x80) | 0x40 | (f->rm & 8 ? 0 : 0x20) | map);
	as8(a, (vec_vex_w(zi, map) ? 0x80 : 0) | (~f->vvvv & 15) << 3 | (zi->raw.vex.L ? 4 : 0) | zi->raw.vex.pp);
	as8(a, opcode_of(zi));
	put_modrm(t, f, imm_bytes(zi, f));
	put_imm(a, zi, f);
}

/* ---- the emitter ---- */
/* Legacy instructions that replace all 16 bytes of their destination. */
static bool replaces(const struct isa_insn *in)
{
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PSHUFD: return true;
	default: return false;
	}
}

static void load_registers(struct tr *t, const struct isa_insn *in, u16 *written)
{
	bool vex = in->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	*written = 0;
	for (unsigned k = 0; k < in->zi.operand_count; k++) {
		const ZydisDecodedOperand *op = &in->op[k];
		ZydisRegisterClass cls = op->type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(op->reg.value) : ZYDIS_REGCLASS_INVALID;
		if (cls != ZYDIS_REGCLASS_XMM && cls != ZYDIS_REGCLASS_YMM)
			continue;
		unsigned r = (unsigned)ZydisRegisterGetId(op->reg.value) & 15;
		bool reads = op->actions & ZYDIS_OPERAND_ACTION_MASK_READ, writes = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
		if (reads || (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) || (!vex && (t->vec_wide || !replaces(in))))
			want(t, r);
		if (writes)
			*written |= 1u << r;
	}
}

/* Once per block, and after each handler: may such instructions run at all, and does the host's MXCSR hold the guest's? */
static void check_enabled(struct tr *t, unsigned need)
{
	struct as *a = &t->a;
	if (!(need & ~t->vec_checked))
		return;
	for (unsigned bit = 1; bit <= VEC_OK_X87; bit <<= 1) {
		if (!(need & ~t->vec_checked & bit))
			continue;
		as_alu_imm(a, 0, OP_TEST, 1, rm_abs(&t->hot->vec_ok), bit);
		tr_exit_if(t, CC_E, SITE_RESUME);
	}
	t->host = 0;
	if (need & ~t->vec_checked & VEC_OK_FP)
		as_store_imm(a, 4, rm_abs(&t->hot->mxcsr_used), 1);
	t->vec_checked |= (u8)need;
}

bool tr_is_vec(const struct insn *i) { return (i->imm2 & VEC_PLAIN_MASK) == VEC_PLAIN && i->fn != h_ud && i->aux && !jit_rows[i->op].emit; }

bool tr_vec(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	struct isa_insn in;
	struct shape f;
	u16 written;
	if (!decode(t, i, &in) || !shape_of(t, &in, &f) || (i->flags & INSN_LOCK))
		return false;
	if (!t->vec_loaded)
		t->vec_wide = t->region ? region_is_vex(t) : vec_is_vex(t->b);
	if (t->vec_wide && !t->j->avx)
		return false;
	check_enabled(t, (i->imm2 & VEC_PLAIN_AVX ? VEC_OK_AVX : VEC_OK_SSE) | (i->src2 & VEC_F_FP ? VEC_OK_FP : 0));
	if (f.mem) {
		if (!tr_operand(t, i, i->opsize, i->src2 & VEC_F_STORE))
			return false;
		if (i->aux8) {
			tr_aligned(t, i->aux8);
		}
	}
	load_registers(t, &in, &written);
	if (f.mem)
		f.rm = t->m.reg;
	if (f.gpr_in != NO_HOME)
		as_load(a, 8, S1, greg(t, f.gpr_in));
	if (in.zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		put_vex(t, &in.zi, &f);
	else
		put_legacy(t, &in.zi, &f);
	t->vec_loaded |= written;
	t->vec_dirty |= written;
	if (f.gpr_out != NO_HOME)
		put_reg(t, f.gpr_out, 8, S1);
	if (i->imm2 & VEC_PLAIN_FLAGS)
		tr_flags_set(t, rc_none());
	return true;
}

/* What follows loads its registers anew: mostly it is RET. */
bool e_vzeroupper(struct tr *t, const struct insn *i)
{
	if (!t->j->avx || t->width != 8)
		return false;
	check_enabled(t, VEC_OK_AVX);
	tr_vec_flush(t);
	as_call(&t->a, t->j->zero_uppers);
	return true;
}

/* ---- x87: in the host's registers already ---- */
bool tr_is_x87(const struct insn *i) { return (i->imm2 & VEC_PLAIN_MASK) == X87_PLAIN && i->fn != h_ud && i->aux && !jit_rows[i->op].emit; }

/* FIP; the next instruction overwrites it before anything can look, if it is one of registers. */
static void note_rip(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	if (t->k + 1u < t->b->n && tr_is_x87(&i[1]) && !(i[1].flags & INSN_MEM))
		return;
	as_load(a, 8, S1, rm_abs(&t->hot->page));
	as_lea(a, 8, S1, rm_mem(S1, t->b->off + i->off));
	as_store(a, 8, rm_abs(t->c->arch.x87 + X87_FIP_AT), S1);
}

bool tr_x87(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	bool mem = i->flags & INSN_MEM;
	check_enabled(t, VEC_OK_X87);
	if (mem && !tr_operand(t, i, i->opsize, i->src2 & VEC_F_STORE))
		return false;
	note_rip(t, i);
	if (mem && rm_rex(t->m))
		as8(a, 0x40 | rm_rex(t->m));
	as8(a, 0xd8 | (i->imm2 >> 8 & 7));
	if (mem)
		as_modrm(a, i->imm2 >> 3 & 7, t->m, 0);
	else
		as8(a, i->imm2 & 0xff);
	if (i->imm2 & X87_PLAIN_FLAGS)
		tr_flags_set(t, rc_none());
	return true;
}
