/* Native stubs: for one guest instruction, host code that loads its registers from the guest's state, executes it on
 * the silicon and stores the results. Not here: where the code is kept (vec_arena.c), SIMD exceptions (vec_guard.c).
 *
 * The instruction is rebuilt rather than copied: the memory operand becomes [rsi], a general register becomes rax,
 * vector registers keep their numbers. Prefixes that select the operation are kept as the guest wrote them. */
#include "interp/vec_priv.h"

#define STUB_MAX 256

/* ---- emitting ---- */
struct out { u8 *p; };

static void put(struct out *o, unsigned n, const u8 *b) { memcpy(o->p, b, n); o->p += n; }
#define PUT(o, ...) put(o, sizeof((u8[]){ __VA_ARGS__ }), (u8[]){ __VA_ARGS__ })
static void put32(struct out *o, u32 v) { memcpy(o->p, &v, 4); o->p += 4; }

/* modrm of [rdi + disp32] */
static void put_rdi(struct out *o, unsigned reg, size_t off) { PUT(o, (u8)(0x87 | (reg & 7) << 3)); put32(o, (u32)off); }

/* movaps xmm, [state] and back */
static void put_sse_move(struct out *o, unsigned r, bool store)
{
	if (r >= 8)
		PUT(o, 0x44);
	PUT(o, 0x0f, store ? 0x29 : 0x28);
	put_rdi(o, r, offsetof(struct cpu, arch.ymm) + 32 * r);
}

/* vmovaps xmm or ymm, [state] and back */
static void put_avx_move(struct out *o, unsigned r, bool store, bool wide)
{
	PUT(o, 0xc5, (u8)((r < 8 ? 0x80 : 0) | 0x78 | (wide ? 4 : 0)), store ? 0x29 : 0x28);
	put_rdi(o, r, offsetof(struct cpu, arch.ymm) + 32 * r);
}

static void put_gpr_move(struct out *o, unsigned host, unsigned guest, bool store)
{
	PUT(o, 0x48, store ? 0x89 : 0x8b);
	put_rdi(o, host, offsetof(struct cpu, arch.gpr) + 8 * guest);
}

/* ---- operands ---- */
enum regfile { FILE_NONE, FILE_GPR, FILE_XMM, FILE_YMM, FILE_OTHER };

static enum regfile regfile(const ZydisDecodedOperand *op)
{
	if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return FILE_NONE;
	switch (ZydisRegisterGetClass(op->reg.value)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64: return FILE_GPR;
	case ZYDIS_REGCLASS_XMM: return FILE_XMM;
	case ZYDIS_REGCLASS_YMM: return FILE_YMM;
	default: return FILE_OTHER;
	}
}

static unsigned regid(const ZydisDecodedOperand *op)
{
	i8 id = ZydisRegisterGetId(op->reg.value);

	return id < 0 ? 0 : id & 15;
}

/* What the ModRM byte and its prefixes will hold. */
struct fields {
	u8 reg, rm, vvvv, is4;
	bool mem, has_is4;
};

static struct fields fields_of(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	struct fields f = { .reg = zi->raw.modrm.reg, .rm = zi->raw.modrm.rm };

	for (unsigned k = 0; k < zi->operand_count; k++) {
		const ZydisDecodedOperand *op = &ops[k];
		enum regfile file = regfile(op);
		/* An explicit general register is rax = 0; hidden ones (string compares) keep their numbers. */
		u8 id = file == FILE_NONE ? 0 : file == FILE_GPR ? 0 : regid(op);

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
			f.mem = true;
			f.rm = 6; /* rsi */
		}
		if (file == FILE_NONE)
			continue;
		switch ((int)op->encoding) {
		case ZYDIS_OPERAND_ENCODING_MODRM_REG: f.reg = id; break;
		case ZYDIS_OPERAND_ENCODING_MODRM_RM: f.rm = id; break;
		case ZYDIS_OPERAND_ENCODING_NDSNDD: f.vvvv = id; break;
		case ZYDIS_OPERAND_ENCODING_IS4: f.is4 = id; f.has_is4 = true; break;
		}
	}
	return f;
}

/* ---- the instruction itself ---- */
static void put_imm(struct out *o, const ZydisDecodedInstruction *zi, const struct fields *f)
{
	for (unsigned k = 0; k < 2; k++) {
		u64 v = zi->raw.imm[k].value.u;

		if (!zi->raw.imm[k].size)
			continue;
		if (f->has_is4) {
			PUT(o, (u8)(f->is4 << 4 | (v & 15)));
			return;
		}
		put(o, zi->raw.imm[k].size / 8, (const u8 *)&v);
	}
}

/* Non-temporal stores become ordinary ones: stronger ordering, and no write-combining stall at each. */
static u8 temporal_opcode(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD: return 0x29;
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTQ: return 0x7f;
	default: return zi->opcode;
	}
}

static void put_modrm(struct out *o, const ZydisDecodedInstruction *zi, const struct fields *f)
{
	if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM)
		PUT(o, (u8)((f->mem ? 0 : 0xc0) | (f->reg & 7) << 3 | (f->rm & 7)));
}

static void put_legacy(struct out *o, const ZydisDecodedInstruction *zi, const struct fields *f)
{
	u8 repeat = 0, rex = 0;
	bool size = false;

	for (unsigned k = 0; k < zi->raw.prefix_count; k++) {
		u8 b = zi->raw.prefixes[k].value;

		if (b == 0xf2 || b == 0xf3)
			repeat = b; /* the last one decides */
		size |= b == 0x66;
	}
	if (size)
		PUT(o, 0x66);
	if (repeat)
		PUT(o, repeat);
	if (zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 && (zi->attributes & ZYDIS_ATTRIB_HAS_REX) && zi->raw.rex.W)
		rex |= 0x48;
	if (f->reg & 8)
		rex |= 0x44;
	if (f->rm & 8)
		rex |= 0x41;
	if (rex)
		PUT(o, rex);
	if (zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		PUT(o, 0x0f);
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		PUT(o, 0x38);
	else if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		PUT(o, 0x3a);
	PUT(o, temporal_opcode(zi));
	put_modrm(o, zi, f);
	put_imm(o, zi, f);
}

/* VEX.W is the size of a general register or of what would be one: conversions, VMOVD, VPEXTRD, VPINSRD, VPCMPESTRx. */
static bool w_is_size(unsigned map, u8 opcode)
{
	static const u8 map1[] = { 0x2a, 0x2c, 0x2d, 0x6e, 0x7e }, map3[] = { 0x16, 0x22, 0x60, 0x61 };

	return (map == 1 && memchr(map1, opcode, sizeof(map1))) || (map == 3 && memchr(map3, opcode, sizeof(map3)));
}

bool vec_vex_w(const ZydisDecodedInstruction *zi, unsigned map)
{
	return zi->raw.vex.W && (zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 || !w_is_size(map, zi->opcode));
}

static void put_vex(struct out *o, const ZydisDecodedInstruction *zi, const struct fields *f)
{
	unsigned map = zi->opcode_map == ZYDIS_OPCODE_MAP_0F38 ? 2 : zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A ? 3 : 1;

	PUT(o, 0xc4, (u8)((f->reg & 8 ? 0 : 0x80) | 0x40 | (f->rm & 8 ? 0 : 0x20) | map),
	    (u8)((vec_vex_w(zi, map) ? 0x80 : 0) | (~f->vvvv & 15) << 3 | (zi->raw.vex.L ? 4 : 0) | zi->raw.vex.pp), temporal_opcode(zi));
	put_modrm(o, zi, f);
	put_imm(o, zi, f);
}

/* ---- the stub ---- */
#define READS (ZYDIS_OPERAND_ACTION_READ | ZYDIS_OPERAND_ACTION_CONDREAD | ZYDIS_OPERAND_ACTION_CONDWRITE)
#define WRITES (ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE)

/* Registers that the instruction reads; for legacy SSE also those it writes, which may be partial. A register may be named
 * twice, as XMM and as YMM: the wider use counts. */
static void put_loads(struct out *o, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	bool vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	u32 narrow = 0, wide = 0;

	for (unsigned k = 0; k < zi->operand_count; k++) {
		const ZydisDecodedOperand *op = &ops[k];
		enum regfile file = regfile(op);
		bool hidden = op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT;

		if (file == FILE_GPR && (op->actions & READS))
			put_gpr_move(o, hidden ? regid(op) : 0, regid(op), false);
		if (vex && !(op->actions & READS))
			continue;
		narrow |= file == FILE_XMM ? 1u << regid(op) : 0;
		wide |= file == FILE_YMM ? 1u << regid(op) : 0;
	}
	for (unsigned r = 0; r < 16; r++) {
		if (!((narrow | wide) >> r & 1))
			continue;
		if (vex)
			put_avx_move(o, r, false, wide >> r & 1);
		else
			put_sse_move(o, r, false);
	}
}

static bool put_stores(struct out *o, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	bool vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX, wide = vex && zi->raw.vex.L;

	for (unsigned k = 0; k < zi->operand_count; k++) {
		const ZydisDecodedOperand *op = &ops[k];
		enum regfile file = regfile(op);
		bool hidden = op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT;

		wide |= file == FILE_YMM;
		if (!(op->actions & WRITES))
			continue;
		if (file == FILE_XMM || file == FILE_YMM) {
			if (vex)
				put_avx_move(o, regid(op), true, true); /* VEX.128 has zeroed the upper half */
			else
				put_sse_move(o, regid(op), true);
		}
		if (file == FILE_GPR)
			put_gpr_move(o, hidden ? regid(op) : 0, regid(op), true);
	}
	return wide;
}

static unsigned stub_emit(u8 *to, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, bool fp)
{
	struct out o = { to };
	struct fields f = fields_of(zi, ops);
	bool wide;

	put_loads(&o, zi, ops);
	if (zi->cpu_flags && (zi->cpu_flags->tested & (FLAG_CF | FLAG_ZF | FLAG_PF))) {
		PUT(&o, 0x66, 0x8b); /* mov ax, cc; sahf: FCMOVcc */
		put_rdi(&o, 0, offsetof(struct cpu, arch.cc));
		PUT(&o, 0x9e);
	}
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		put_vex(&o, zi, &f);
	else
		put_legacy(&o, zi, &f);
	/* Flags first: lahf; seto al; mov cc, ax. PCMPxSTRI's ecx is not in the way. */
	if (zi->cpu_flags && ((zi->cpu_flags->modified | zi->cpu_flags->set_0) & FLAG_ARITH)) {
		PUT(&o, 0x9f, 0x0f, 0x90, 0xc0, 0x66, 0x89);
		put_rdi(&o, 0, offsetof(struct cpu, arch.cc));
	}
	if (fp) {
		PUT(&o, 0x0f, 0xae); /* stmxcsr */
		put_rdi(&o, 3, offsetof(struct cpu, arch.mxcsr));
	}
	wide = put_stores(&o, zi, ops);
	if (wide)
		PUT(&o, 0xc5, 0xf8, 0x77); /* vzeroupper */
	PUT(&o, 0xc3);
	return (unsigned)(o.p - to);
}

vec_stub *vec_stub_make(struct cpu *c, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, bool fp)
{
	u8 bytes[STUB_MAX];
	unsigned len = stub_emit(bytes, zi, ops, fp);

	bug_if(len > sizeof(bytes));
	return vec_code_share(c, bytes, len);
}

vec_stub *vec_stub_two_mmx(struct cpu *c, unsigned a, unsigned b)
{
	/* movq [rsi], mmA; movq [rsi + 8], mmB; ret */
	u8 bytes[] = { 0x0f, 0x7f, (u8)(0x06 | (a & 7) << 3), 0x0f, 0x7f, (u8)(0x46 | (b & 7) << 3), 8, 0xc3 };

	return vec_code_share(c, bytes, sizeof(bytes));
}
