/* Shifts and rotates by the host's instruction. All guest flags are loaded first, so that flags which the operation leaves alone or leaves
 * undefined come out as on the silicon; a masked count of 0 changes nothing. */
#include "interp/host_flags.h"
#include "interp/select.h"

/* AX (arch.cc) into the host's flags: OF by 127 + 1 overflowing, the rest by SAHF; and back. */
#define FLAGS_IN "addb $127, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

#define SHIFT_ROWS(R) R(rol) R(ror) R(rcl) R(rcr) R(shl) R(shr) R(sar)

#define SHIFT_FN(name, T, sfx, con) \
static must_inline T sh_##name##_##T(T a, u8 n, u16 *cc) \
{ \
	u16 f = *cc; \
	asm(FLAGS_IN #name sfx " %%cl, %0" FLAGS_OUT : "+" con(a), "+a"(f) : "c"(n) : "cc"); \
	*cc = f; \
	return a; \
}
#define R(name) SHIFT_FN(name, u8, "b", "q") SHIFT_FN(name, u16, "w", "r") SHIFT_FN(name, u32, "l", "r") SHIFT_FN(name, u64, "q", "r")
SHIFT_ROWS(R)
#undef R
#define COUNT_MASK(T) (sizeof(T) == 8 ? 63 : 31)

/* ROL and ROR of a register by a constant other than 1 leave OF, undefined by the manual, alone on some hosts; by CL or of memory they do not. */
static must_inline u16 rotated(const struct insn *i, u16 old, u16 cc) { return i->src2 ? (cc & ~CC_OF) | (old & CC_OF) : cc; }

/* ---- register destination: count in CL or immediate (never 0 after masking: those become NOPs when selected) ---- */
#define H_SHIFT_R(name, T) \
static enum step h_##name##_rc_##T(struct cpu *c, const struct insn *i) \
{ \
	u8 n = rd_u8(c, 8 * GPR_RCX) & COUNT_MASK(T); \
	if (n) { \
		u16 cc = c->arch.cc; \
		wr_##T(c, i->dst, sh_##name##_##T(rd_##T(c, i->dst), n, &cc)); \
		c->arch.cc = cc; \
	} else if (sizeof(T) == 4) { \
		wr_##T(c, i->dst, rd_##T(c, i->dst)); \
	} \
	return next(c, i); \
} \
static enum step h_##name##_ri_##T(struct cpu *c, const struct insn *i) \
{ \
	u16 cc = c->arch.cc; \
	wr_##T(c, i->dst, sh_##name##_##T(rd_##T(c, i->dst), (u8)i->imm, &cc)); \
	c->arch.cc = rotated(i, c->arch.cc, cc); \
	return next(c, i); \
} \
static noinline enum step body_##name##_m_##T(struct cpu *c, const struct insn *i) \
{ \
	u8 n = (i->aux8 ? rd_u8(c, 8 * GPR_RCX) : (u8)i->imm) & COUNT_MASK(T); \
	u16 cc = c->arch.cc; \
	u64 la; \
	if (!la_g(c, i, sizeof(T), true, &la)) \
		return STEP_FAULT; \
	void *p = host_w(c, la, sizeof(T)); \
	if (likely(p)) { \
		T old = *(volatile any_##T *)p; \
		*(volatile any_##T *)p = n ? sh_##name##_##T(old, n, &cc) : old; \
	} else { \
		struct val old = interp_load_rmw(c, i, la, sizeof(T) | i->seg << 8); \
		if (!old.ok || !interp_store(c, i, la, sizeof(T) | i->seg << 8, n ? sh_##name##_##T((T)old.v, n, &cc) : (T)old.v)) \
			return STEP_FAULT; \
	} \
	c->arch.cc = cc; \
	return STEP_END; \
} \
static enum step h_##name##_m_##T(struct cpu *c, const struct insn *i) { return after(c, i, body_##name##_m_##T(c, i)); }
#define R(name) H_SHIFT_R(name, u8) H_SHIFT_R(name, u16) H_SHIFT_R(name, u32) H_SHIFT_R(name, u64)
SHIFT_ROWS(R)
#undef R

/* SHL and SHR by a constant set every flag that they leave defined: no need to load flags. AF, undefined, is cleared by them on the silicon. */
#define H_SHIFT_FAST(name, T, sfx) \
static enum step h_##name##_fast_##T(struct cpu *c, const struct insn *i) \
{ \
	T a = rd_##T(c, i->dst); \
	u16 f = 0; \
	asm("testb %%al, %%al\n\t" #name sfx " %%cl, %0" FLAGS_OUT : "+r"(a), "+a"(f) : "c"((u8)i->imm) : "cc"); \
	wr_##T(c, i->dst, a); \
	c->arch.cc = f; \
	return next(c, i); \
}
H_SHIFT_FAST(shl, u32, "l") H_SHIFT_FAST(shl, u64, "q") H_SHIFT_FAST(shr, u32, "l") H_SHIFT_FAST(shr, u64, "q")
H_SHIFT_FAST(sar, u32, "l") H_SHIFT_FAST(sar, u64, "q")

static enum step h_zext32(struct cpu *c, const struct insn *i)
{
	wr_u32(c, i->dst, rd_u32(c, i->dst));
	return next(c, i);
}

/* ---- SHLD SHRD ---- */
#define DSHIFT_FN(name, T, sfx) \
static must_inline T ds_##name##_##T(T a, T b, u8 n, u16 *cc) \
{ \
	u16 f = *cc; \
	asm(FLAGS_IN #name sfx " %%cl, %3, %0" FLAGS_OUT : "+r"(a), "+a"(f) : "c"(n), "r"(b) : "cc"); \
	*cc = f; \
	return a; \
} \
static noinline enum step body_##name##_##T(struct cpu *c, const struct insn *i) \
{ \
	u8 n = (i->aux8 ? rd_u8(c, 8 * GPR_RCX) : (u8)i->imm) & COUNT_MASK(T); \
	T b = rd_##T(c, i->src); \
	u16 cc = c->arch.cc; \
	u64 la; \
	if (!(i->flags & INSN_MEM)) { \
		T a = rd_##T(c, i->dst); \
		wr_##T(c, i->dst, n ? ds_##name##_##T(a, b, n, &cc) : a); \
		c->arch.cc = cc; \
		return STEP_END; \
	} \
	if (!la_g(c, i, sizeof(T), true, &la)) \
		return STEP_FAULT; \
	struct val old = interp_load_rmw(c, i, la, sizeof(T) | i->seg << 8); \
	if (!old.ok || !interp_store(c, i, la, sizeof(T) | i->seg << 8, n ? ds_##name##_##T((T)old.v, b, n, &cc) : (T)old.v)) \
		return STEP_FAULT; \
	c->arch.cc = cc; \
	return STEP_END; \
} \
static enum step h_##name##_##T(struct cpu *c, const struct insn *i) { return after(c, i, body_##name##_##T(c, i)); }
DSHIFT_FN(shld, u16, "w") DSHIFT_FN(shld, u32, "l") DSHIFT_FN(shld, u64, "q")
DSHIFT_FN(shrd, u16, "w") DSHIFT_FN(shrd, u32, "l") DSHIFT_FN(shrd, u64, "q")

/* ---- BMI2: SHLX SHRX SARX RORX change no flags ---- */
static noinline enum step body_shiftx(struct cpu *c, const struct insn *i)
{
	u64 v, n = rd_size(c, i->src2, i->opsize) & (i->opsize == 8 ? 63 : 31);
	if (!(i->flags & INSN_MEM))
		v = rd_size(c, i->src, i->opsize);
	else if (!op_read(c, i, i->opsize, &v))
		return STEP_FAULT;
	switch (i->aux8) {
	case SH_SHL: v <<= n; break;
	case SH_SHR: v >>= n; break;
	case SH_SAR: v = (u64)((i64)sext_size(v, i->opsize) >> n); break;
	default:
		n = i->imm & (i->opsize == 8 ? 63 : 31);
		if (n)
			v = v >> n | v << (8 * i->opsize - n);
		break;
	}
	wr_size(c, i->dst, i->opsize, v);
	return STEP_END;
}
static enum step h_shiftx(struct cpu *c, const struct insn *i) { return after(c, i, body_shiftx(c, i)); }

/* ---- tables ---- */
#define SIZES(p) { p##_u8, p##_u16, p##_u32, p##_u64 }
static const struct { insn_fn *rc[4], *ri[4], *m[4]; } sets[] = {
#define R(name) { SIZES(h_##name##_rc), SIZES(h_##name##_ri), SIZES(h_##name##_m) },
	SHIFT_ROWS(R)
#undef R
};
static insn_fn *const dsets[2][4] = {
	{ NULL, h_shld_u16, h_shld_u32, h_shld_u64 },
	{ NULL, h_shrd_u16, h_shrd_u32, h_shrd_u64 },
};

static insn_fn *fast_shift(unsigned op, unsigned sz)
{
	static insn_fn *const fast[3][2] = { { h_shl_fast_u32, h_shl_fast_u64 }, { h_shr_fast_u32, h_shr_fast_u64 }, { h_sar_fast_u32, h_sar_fast_u64 } };
	return sz < 2 ? NULL : fast[op - SH_SHL][sz - 2];
}

insn_fn *sel_shift(const struct form *f, struct insn *o)
{
	o->aux8 = !f->i1;
	o->src2 = f->i1 && f->arg <= SH_ROR && (o->imm & (f->sz == 3 ? 63 : 31)) != 1 && (host_flags_kept(o) & CC_OF);
	if (f->m0)
		return sets[f->arg].m[f->sz];
	if (!f->i1)
		return sets[f->arg].rc[f->sz];
	o->imm &= f->sz == 3 ? 63 : 31;
	if (o->imm == 0)
		return f->sz == 2 ? h_zext32 : sel_nop(f, o);
	/* OF is undefined for counts above 1 but comes out of the host's instruction all the same. */
	if (f->arg >= SH_SHL && fast_shift(f->arg, f->sz))
		return fast_shift(f->arg, f->sz);
	return sets[f->arg].ri[f->sz];
}

insn_fn *sel_dshift(const struct form *f, struct insn *o)
{
	o->aux8 = f->in->op[2].type != ZYDIS_OPERAND_TYPE_IMMEDIATE;
	return dsets[f->arg][f->sz];
}

insn_fn *sel_shiftx(const struct form *f, struct insn *o)
{
	o->aux8 = f->arg;
	return h_shiftx;
}

insn_fn *sel_rorx(const struct form *f, struct insn *o)
{
	o->aux8 = SH_ROR;
	return h_shiftx;
}
