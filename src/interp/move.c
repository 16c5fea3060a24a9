/* MOV, MOVZX, MOVSX, LEA, CMOVcc, SETcc, XCHG's relatives, BSWAP, MOVBE, MOVNTI, conversions, flag instructions, NOP, XLAT. */
#include "interp/select.h"

#define SIZES(p) { p##_u8, p##_u16, p##_u32, p##_u64 }
#define SIZES_EA(p, ea) { p##_u8_##ea, p##_u16_##ea, p##_u32_##ea, p##_u64_##ea }
#define KINDS(p) { SIZES_EA(p, bd), SIZES_EA(p, x), SIZES_EA(p, g) }
#define EACH_SIZE(R, ...) R(__VA_ARGS__, u8) R(__VA_ARGS__, u16) R(__VA_ARGS__, u32) R(__VA_ARGS__, u64)

static enum step h_nop(struct cpu *c, const struct insn *i) { return next(c, i); }
insn_fn *sel_nop(const struct form *f, struct insn *o) { return h_nop; }

/* ---- MOV ---- */
#define MOV_REG(x_, T) \
static enum step h_mov_rr_##T(struct cpu *c, const struct insn *i) { wr_##T(c, i->dst, rd_##T(c, i->src)); return next(c, i); } \
static enum step h_mov_ri_##T(struct cpu *c, const struct insn *i) { wr_##T(c, i->dst, (T)i->imm); return next(c, i); }
EACH_SIZE(MOV_REG, )

#define MOV_MEM(ea, T) \
static enum step h_mov_rm_##T##_##ea(struct cpu *c, const struct insn *i) \
{ \
	u64 la, v; \
	if (!la_##ea(c, i, sizeof(T), false, &la) || !ld(c, i, la, sizeof(T), &v)) \
		return STEP_FAULT; \
	wr_##T(c, i->dst, (T)v); \
	return next(c, i); \
} \
static enum step h_mov_mr_##T##_##ea(struct cpu *c, const struct insn *i) \
{ \
	u64 la; \
	if (!la_##ea(c, i, sizeof(T), true, &la) || !st(c, i, la, sizeof(T), rd_##T(c, i->src))) \
		return STEP_FAULT; \
	return next(c, i); \
} \
static enum step h_mov_mi_##T##_##ea(struct cpu *c, const struct insn *i) \
{ \
	u64 la; \
	if (!la_##ea(c, i, sizeof(T), true, &la) || !st(c, i, la, sizeof(T), (T)i->imm)) \
		return STEP_FAULT; \
	return next(c, i); \
}
EACH_SIZE(MOV_MEM, bd) EACH_SIZE(MOV_MEM, x) EACH_SIZE(MOV_MEM, g)

/* MOV AL..RAX, moffs64 and back: the address does not fit disp. */
static noinline enum step body_moffs(struct cpu *c, const struct insn *i)
{
	u64 v;
	if (i->aux8)
		return seg_write(c, i, i->seg, i->imm, i->opsize, rd_size(c, GPR_RAX, i->opsize)) ? STEP_END : STEP_FAULT;
	if (!seg_read(c, i, i->seg, i->imm, i->opsize, &v))
		return STEP_FAULT;
	wr_size(c, GPR_RAX, i->opsize, v);
	return STEP_END;
}
static enum step h_moffs(struct cpu *c, const struct insn *i) { return after(c, i, body_moffs(c, i)); }

/* ---- MOV with segment registers ---- */
static noinline enum step body_mov_from_seg(struct cpu *c, const struct insn *i)
{
	u16 sel = c->arch.seg[i->src].sel;
	if (i->flags & INSN_MEM)
		return op_write(c, i, 2, sel) ? STEP_END : STEP_FAULT;
	wr_size(c, i->dst, i->opsize, sel);
	return STEP_END;
}
static enum step h_mov_from_seg(struct cpu *c, const struct insn *i) { return after(c, i, body_mov_from_seg(c, i)); }

static noinline enum step body_mov_to_seg(struct cpu *c, const struct insn *i)
{
	u64 sel;
	if (!(i->flags & INSN_MEM))
		sel = rd_u16(c, i->src);
	else if (!op_read(c, i, 2, &sel))
		return STEP_FAULT;
	set_rip(c, i);
	enum step s = cpu_load_seg(c, i->dst, (u16)sel);
	if (s == STEP_FAULT)
		return s;
	if (i->dst == SEG_SS)
		cpu_set_shadow(c, SHADOW_MOVSS);
	return stop_next(c, i);
}
static enum step h_mov_to_seg(struct cpu *c, const struct insn *i) { return after(c, i, body_mov_to_seg(c, i)); }

insn_fn *sel_mov(const struct form *f, struct insn *o)
{
	static insn_fn *const rr[4] = SIZES(h_mov_rr), *const ri[4] = SIZES(h_mov_ri);
	static insn_fn *const rm[3][4] = KINDS(h_mov_rm), *const mr[3][4] = KINDS(h_mov_mr), *const mi[3][4] = KINDS(h_mov_mi);
	const ZydisDecodedOperand *op = f->in->op;
	ZydisRegisterClass c0 = op[0].type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(op[0].reg.value) : ZYDIS_REGCLASS_INVALID;
	ZydisRegisterClass c1 = op[1].type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(op[1].reg.value) : ZYDIS_REGCLASS_INVALID;

	if (c0 == ZYDIS_REGCLASS_CONTROL || c1 == ZYDIS_REGCLASS_CONTROL || c0 == ZYDIS_REGCLASS_DEBUG || c1 == ZYDIS_REGCLASS_DEBUG)
		return sel_sys(f, o);
	o->src2 = SEL_MOV_SPECIAL;
	if (c0 == ZYDIS_REGCLASS_SEGMENT)
		return o->dst == SEG_CS ? h_ud : h_mov_to_seg;
	if (c1 == ZYDIS_REGCLASS_SEGMENT) {
		o->src2 = SEL_MOV_FROM_SEG;
		return h_mov_from_seg;
	}
	if ((f->m0 || f->m1) && o->asize == 8 && op[f->m0 ? 0 : 1].mem.disp.value != o->disp && !(o->flags & INSN_RIPREL)) {
		o->aux8 = f->m0;
		return h_moffs;
	}
	o->src2 = 0;
	if (f->m0)
		return f->i1 ? mi[f->ea][f->sz] : mr[f->ea][f->sz];
	if (f->m1)
		return rm[f->ea][f->sz];
	return f->i1 ? ri[f->sz] : rr[f->sz];
}

/* ---- MOVZX MOVSX MOVSXD ---- */
#define EXT(name, S, ST, D, DT) \
static enum step h_##name##_rr_##S##_##D(struct cpu *c, const struct insn *i) { wr_##D(c, i->dst, (D)(DT)(ST)rd_##S(c, i->src)); return next(c, i); } \
EXT_MEM(bd, name, S, ST, D, DT) EXT_MEM(x, name, S, ST, D, DT) EXT_MEM(g, name, S, ST, D, DT)
#define EXT_MEM(ea, name, S, ST, D, DT) \
static enum step h_##name##_rm_##S##_##D##_##ea(struct cpu *c, const struct insn *i) \
{ \
	u64 la, v; \
	if (!la_##ea(c, i, sizeof(S), false, &la) || !ld(c, i, la, sizeof(S), &v)) \
		return STEP_FAULT; \
	wr_##D(c, i->dst, (D)(DT)(ST)(S)v); \
	return next(c, i); \
}
EXT(movzx, u8, u8, u16, u16) EXT(movzx, u8, u8, u32, u32) EXT(movzx, u8, u8, u64, u64)
EXT(movzx, u16, u16, u32, u32) EXT(movzx, u16, u16, u64, u64)
EXT(movsx, u8, i8, u16, i16) EXT(movsx, u8, i8, u32, i32) EXT(movsx, u8, i8, u64, i64)
EXT(movsx, u16, i16, u32, i32) EXT(movsx, u16, i16, u64, i64) EXT(movsx, u32, i32, u64, i64)
#define EXT_SET(name, S, D) { h_##name##_rr_##S##_##D, { h_##name##_rm_##S##_##D##_bd, h_##name##_rm_##S##_##D##_x, h_##name##_rm_##S##_##D##_g } }
struct ext_set { insn_fn *rr, *rm[3]; };

/* aux8: bytes of the source. */
static insn_fn *pick_ext(const struct form *f, struct insn *o, const struct ext_set *s)
{
	o->aux8 = f->in->op[1].size / 8;
	return f->m1 ? s->rm[f->ea] : s->rr;
}

/* [source 8 or 16 bits][destination size]; 16 to 16 is a plain 16-bit move. */
insn_fn *sel_movzx(const struct form *f, struct insn *o)
{
	static const struct ext_set z[2][4] = {
		{ { NULL }, EXT_SET(movzx, u8, u16), EXT_SET(movzx, u8, u32), EXT_SET(movzx, u8, u64) },
		{ { NULL }, { h_mov_rr_u16, { h_mov_rm_u16_bd, h_mov_rm_u16_x, h_mov_rm_u16_g } }, EXT_SET(movzx, u16, u32), EXT_SET(movzx, u16, u64) },
	};
	return pick_ext(f, o, &z[f->in->op[1].size == 16][f->sz]);
}

insn_fn *sel_movsx(const struct form *f, struct insn *o)
{
	static const struct ext_set z[2][4] = {
		{ { NULL }, EXT_SET(movsx, u8, u16), EXT_SET(movsx, u8, u32), EXT_SET(movsx, u8, u64) },
		{ { NULL }, { h_mov_rr_u16, { h_mov_rm_u16_bd, h_mov_rm_u16_x, h_mov_rm_u16_g } }, EXT_SET(movsx, u16, u32), EXT_SET(movsx, u16, u64) },
	};
	return pick_ext(f, o, &z[f->in->op[1].size == 16][f->sz]);
}

/* Without REX.W it is a plain move of the operand size. */
insn_fn *sel_movsxd(const struct form *f, struct insn *o)
{
	static const struct ext_set z[4] = {
		{ NULL },
		{ h_mov_rr_u16, { h_mov_rm_u16_bd, h_mov_rm_u16_x, h_mov_rm_u16_g } },
		{ h_mov_rr_u32, { h_mov_rm_u32_bd, h_mov_rm_u32_x, h_mov_rm_u32_g } },
		EXT_SET(movsx, u32, u64),
	};
	return pick_ext(f, o, &z[f->sz]);
}

/* ---- LEA ---- */
static enum step h_lea_bd(struct cpu *c, const struct insn *i)
{
	wr_u64(c, i->dst, c->arch.gpr[i->base] + (u64)(i64)i->disp);
	return next(c, i);
}
static enum step h_lea_x(struct cpu *c, const struct insn *i)
{
	wr_u64(c, i->dst, ea_plain(c, i));
	return next(c, i);
}
#define LEA_G(x_, T) static enum step h_lea_g_##T(struct cpu *c, const struct insn *i) { wr_##T(c, i->dst, (T)ea_masked(c, i)); return next(c, i); }
EACH_SIZE(LEA_G, )
insn_fn *sel_lea(const struct form *f, struct insn *o)
{
	static insn_fn *const g[4] = { NULL, h_lea_g_u16, h_lea_g_u32, h_lea_g_u64 };
	(void)h_lea_g_u8;
	if (f->sz == 3 && o->asize == 8)
		return o->index == GPR_ZERO ? h_lea_bd : h_lea_x;
	return g[f->sz];
}

/* ---- CMOVcc, SETcc ---- */
#define CMOV(name, M, expr) CMOV_T(name, u16) CMOV_T(name, u32) CMOV_T(name, u64)
#define CMOV_T(name, T) \
static enum step h_cmov##name##_rr_##T(struct cpu *c, const struct insn *i) \
{ \
	T a = rd_##T(c, i->dst), b = rd_##T(c, i->src); \
	wr_##T(c, i->dst, cond_##name(c->arch.cc) ? b : a); \
	return next(c, i); \
} \
static enum step h_cmov##name##_rm_##T(struct cpu *c, const struct insn *i) \
{ \
	u64 la, b; \
	if (!la_g(c, i, sizeof(T), false, &la) || !ld(c, i, la, sizeof(T), &b)) \
		return STEP_FAULT; \
	T a = rd_##T(c, i->dst); \
	wr_##T(c, i->dst, cond_##name(c->arch.cc) ? (T)b : a); \
	return next(c, i); \
}
COND_ROWS(CMOV)
static const struct { insn_fn *rr[4], *rm[4]; } cmovs[16] = {
#define R(name, M, expr) { { NULL, h_cmov##name##_rr_u16, h_cmov##name##_rr_u32, h_cmov##name##_rr_u64 }, \
	{ NULL, h_cmov##name##_rm_u16, h_cmov##name##_rm_u32, h_cmov##name##_rm_u64 } },
	COND_ROWS(R)
#undef R
};
insn_fn *sel_cmov(const struct form *f, struct insn *o) { return f->m1 ? cmovs[f->arg].rm[f->sz] : cmovs[f->arg].rr[f->sz]; }

#define SETCC(name, M, expr) \
static enum step h_set##name##_r(struct cpu *c, const struct insn *i) { wr_u8(c, i->dst, !!cond_##name(c->arch.cc)); return next(c, i); } \
static enum step h_set##name##_m(struct cpu *c, const struct insn *i) \
{ \
	u64 la; \
	if (!la_g(c, i, 1, true, &la) || !st(c, i, la, 1, !!cond_##name(c->arch.cc))) \
		return STEP_FAULT; \
	return next(c, i); \
}
COND_ROWS(SETCC)
static insn_fn *const setccs[16][2] = {
#define R(name, M, expr) { h_set##name##_r, h_set##name##_m },
	COND_ROWS(R)
#undef R
};
insn_fn *sel_setcc(const struct form *f, struct insn *o) { return setccs[f->arg][f->m0]; }

/* ---- BSWAP, MOVBE, MOVNTI ---- */
static enum step h_bswap32(struct cpu *c, const struct insn *i) { wr_u32(c, i->dst, bswap32(rd_u32(c, i->dst))); return next(c, i); }
static enum step h_bswap64(struct cpu *c, const struct insn *i) { wr_u64(c, i->dst, bswap64(rd_u64(c, i->dst))); return next(c, i); }
/* Undefined in the manual; the silicon stores 0. */
static enum step h_bswap16(struct cpu *c, const struct insn *i) { wr_u16(c, i->dst, 0); return next(c, i); }
insn_fn *sel_bswap(const struct form *f, struct insn *o) { return f->sz == 3 ? h_bswap64 : f->sz == 2 ? h_bswap32 : h_bswap16; }

static u64 swap_size(u64 v, unsigned size) { return size == 8 ? bswap64(v) : size == 4 ? bswap32((u32)v) : bswap16((u16)v); }
static noinline enum step body_movbe(struct cpu *c, const struct insn *i)
{
	u64 v;
	if (i->aux8)
		return op_write(c, i, i->opsize, swap_size(rd_size(c, i->src, i->opsize), i->opsize)) ? STEP_END : STEP_FAULT;
	if (!op_read(c, i, i->opsize, &v))
		return STEP_FAULT;
	wr_size(c, i->dst, i->opsize, swap_size(v, i->opsize));
	return STEP_END;
}
static enum step h_movbe(struct cpu *c, const struct insn *i) { return after(c, i, body_movbe(c, i)); }
insn_fn *sel_movbe(const struct form *f, struct insn *o)
{
	o->aux8 = f->m0;
	return h_movbe;
}
insn_fn *sel_movnti(const struct form *f, struct insn *o) { return f->sz == 3 ? h_mov_mr_u64_g : h_mov_mr_u32_g; }

/* ---- CBW CWDE CDQE CWD CDQ CQO, by the row's argument ---- */
static enum step h_cbw(struct cpu *c, const struct insn *i) { wr_u16(c, 0, (u16)(i8)rd_u8(c, 0)); return next(c, i); }
static enum step h_cwde(struct cpu *c, const struct insn *i) { wr_u32(c, 0, (u32)(i16)rd_u16(c, 0)); return next(c, i); }
static enum step h_cdqe(struct cpu *c, const struct insn *i) { wr_u64(c, 0, (u64)(i32)rd_u32(c, 0)); return next(c, i); }
static enum step h_cwd(struct cpu *c, const struct insn *i) { wr_u16(c, GPR_RDX, (u16)((i16)rd_u16(c, 0) >> 15)); return next(c, i); }
static enum step h_cdq(struct cpu *c, const struct insn *i) { wr_u32(c, GPR_RDX, (u32)((i32)rd_u32(c, 0) >> 31)); return next(c, i); }
static enum step h_cqo(struct cpu *c, const struct insn *i) { wr_u64(c, GPR_RDX, (u64)((i64)rd_u64(c, 0) >> 63)); return next(c, i); }
insn_fn *sel_convert(const struct form *f, struct insn *o)
{
	static insn_fn *const fns[] = { h_cbw, h_cwde, h_cdqe, h_cwd, h_cdq, h_cqo };
	return fns[f->arg];
}

/* ---- flags ---- */
static enum step h_clc(struct cpu *c, const struct insn *i) { c->arch.cc &= ~CC_CF; return next(c, i); }
static enum step h_stc(struct cpu *c, const struct insn *i) { c->arch.cc |= CC_CF; return next(c, i); }
static enum step h_cmc(struct cpu *c, const struct insn *i) { c->arch.cc ^= CC_CF; return next(c, i); }
static enum step h_cld(struct cpu *c, const struct insn *i) { c->arch.rflags &= ~FLAG_DF; return next(c, i); }
static enum step h_std(struct cpu *c, const struct insn *i) { c->arch.rflags |= FLAG_DF; return next(c, i); }
static enum step h_lahf(struct cpu *c, const struct insn *i) { wr_u8(c, 1, c->arch.cc >> 8); return next(c, i); }
static enum step h_sahf(struct cpu *c, const struct insn *i)
{
	c->arch.cc = (c->arch.cc & 0xff) | ((rd_u8(c, 1) & 0xd5) | 2) << 8;
	return next(c, i);
}
static enum step h_salc(struct cpu *c, const struct insn *i) { wr_u8(c, 0, c->arch.cc & CC_CF ? 0xff : 0); return next(c, i); }
insn_fn *sel_flag(const struct form *f, struct insn *o)
{
	static insn_fn *const fns[] = { h_clc, h_stc, h_cmc, h_cld, h_std, h_salc };
	return fns[f->arg];
}
insn_fn *sel_lahf(const struct form *f, struct insn *o) { return (f->mode & MODE_L) && !cpu_has(f->c, FEAT_LAHF64) ? h_ud : h_lahf; }
insn_fn *sel_sahf(const struct form *f, struct insn *o) { return (f->mode & MODE_L) && !cpu_has(f->c, FEAT_LAHF64) ? h_ud : h_sahf; }

static noinline enum step body_xlat(struct cpu *c, const struct insn *i)
{
	u64 v;
	if (!seg_read(c, i, i->seg, (rd_u64(c, GPR_RBX) + rd_u8(c, 0)) & size_mask(i->asize), 1, &v))
		return STEP_FAULT;
	wr_u8(c, 0, (u8)v);
	return STEP_END;
}
static enum step h_xlat(struct cpu *c, const struct insn *i) { return after(c, i, body_xlat(c, i)); }
insn_fn *sel_xlat(const struct form *f, struct insn *o) { return h_xlat; }
