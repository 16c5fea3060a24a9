/* Bit instructions: BT BTS BTR BTC, scans and counts, BMI1/2, ADX, CRC32. */
#include "interp/select.h"

#define FLAGS_IN "addb $127, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

/* ---- BT and friends; the bit number is already below the operand size ---- */
#define BT_FN(name, T, sfx) \
static must_inline T name##_##T(T a, T n, u16 *cc) \
{ \
	u16 f = *cc; \
	asm(FLAGS_IN #name sfx " %2, %0" FLAGS_OUT : "+r"(a), "+a"(f) : "r"(n) : "cc"); \
	*cc = f; \
	return a; \
} \
static enum step h_##name##_r_##T(struct cpu *c, const struct insn *i) \
{ \
	u16 cc = c->arch.cc; \
	T n = (i->aux8 ? (T)i->imm : rd_##T(c, i->src)) & (sizeof(T) * 8 - 1); \
	T v = name##_##T(rd_##T(c, i->dst), n, &cc); \
	if (BT_WRITES_##name) \
		wr_##T(c, i->dst, v); \
	c->arch.cc = cc; \
	return next(c, i); \
} \
static noinline enum step body_##name##_m_##T(struct cpu *c, const struct insn *i) \
{ \
	u16 cc = c->arch.cc; \
	u64 la, v, ea = ea_plain(c, i); \
	T n = (T)i->imm; \
	if (!i->aux8) { /* SDM "BT": a register bit offset reaches beyond the operand */ \
		n = rd_##T(c, i->src); \
		ea += (u64)((i64)sext_size(n, sizeof(T)) >> __builtin_ctz(sizeof(T) * 8)) * sizeof(T); \
	} \
	n &= sizeof(T) * 8 - 1; \
	if (!la_seg(c, i, i->seg, ea & size_mask(i->asize), sizeof(T), BT_WRITES_##name, &la)) \
		return STEP_FAULT; \
	if (!BT_WRITES_##name) { \
		if (!ld(c, i, la, sizeof(T), &v)) \
			return STEP_FAULT; \
		name##_##T((T)v, n, &cc); \
	} else { \
		void *p = host_w(c, la, sizeof(T)); \
		struct val old = { 0 }; \
		if (p) { \
			*(volatile any_##T *)p = name##_##T(*(volatile any_##T *)p, n, &cc); \
		} else { \
			old = interp_load_rmw(c, i, la, sizeof(T) | i->seg << 8); \
			if (!old.ok || !interp_store(c, i, la, sizeof(T) | i->seg << 8, name##_##T((T)old.v, n, &cc))) \
				return STEP_FAULT; \
		} \
	} \
	c->arch.cc = cc; \
	return STEP_END; \
} \
static enum step h_##name##_m_##T(struct cpu *c, const struct insn *i) { return after(c, i, body_##name##_m_##T(c, i)); }
#define BT_WRITES_bt 0
#define BT_WRITES_bts 1
#define BT_WRITES_btr 1
#define BT_WRITES_btc 1
#define BT_ALL(name) BT_FN(name, u16, "w") BT_FN(name, u32, "l") BT_FN(name, u64, "q")
BT_ALL(bt) BT_ALL(bts) BT_ALL(btr) BT_ALL(btc)

insn_fn *sel_bt(const struct form *f, struct insn *o)
{
#define SET(n) { { NULL, h_##n##_r_u16, h_##n##_r_u32, h_##n##_r_u64 }, { NULL, h_##n##_m_u16, h_##n##_m_u32, h_##n##_m_u64 } }
	static insn_fn *const fns[4][2][4] = { SET(bt), SET(bts), SET(btr), SET(btc) };
#undef SET
	if (o->flags & INSN_LOCK)
		return sel_lock_bt(f, o);
	o->aux8 = f->i1;
	return fns[f->arg][f->m0][f->sz];
}

/* ---- BSF BSR TZCNT LZCNT POPCNT. BSF and BSR of 0 leave the destination alone, in 32 bits its upper half too. The flags are the host's
 * for TZCNT, LZCNT and POPCNT, whose manual entries define them fully on the silicon that we may run on. ---- */
#define SCAN_FN(name, T, sfx) \
static must_inline T name##_##T(T a, T b, u16 *cc) \
{ \
	u16 f = *cc; \
	asm(FLAGS_IN #name sfx " %2, %0" FLAGS_OUT : "+r"(a), "+a"(f) : "r"(b) : "cc"); \
	*cc = f; \
	return a; \
}
#define SCAN_ALL(name) SCAN_FN(name, u16, "w") SCAN_FN(name, u32, "l") SCAN_FN(name, u64, "q")
SCAN_ALL(bsf) SCAN_ALL(bsr) SCAN_ALL(tzcnt) SCAN_ALL(lzcnt) SCAN_ALL(popcnt)
#define SCAN_CASES(name, E) \
	case E << 4 | 2: v = name##_u16((u16)rd_u16(c, i->dst), (u16)b, &cc); break; \
	case E << 4 | 4: v = name##_u32((u32)rd_u32(c, i->dst), (u32)b, &cc); break; \
	case E << 4 | 8: v = name##_u64(rd_u64(c, i->dst), b, &cc); break;

static noinline enum step body_scan(struct cpu *c, const struct insn *i)
{
	u64 b, v = 0;
	u16 cc = c->arch.cc;
	if (!(i->flags & INSN_MEM))
		b = rd_size(c, i->src, i->opsize);
	else if (!op_read(c, i, i->opsize, &b))
		return STEP_FAULT;
	switch (i->aux8 << 4 | i->opsize) {
	SCAN_CASES(bsf, SCAN_BSF)
	SCAN_CASES(bsr, SCAN_BSR)
	SCAN_CASES(tzcnt, SCAN_TZCNT)
	SCAN_CASES(lzcnt, SCAN_LZCNT)
	SCAN_CASES(popcnt, SCAN_POPCNT)
	}
	c->arch.cc = cc;
	if (b != 0 || i->aux8 >= SCAN_TZCNT)
		wr_size(c, i->dst, i->opsize, v);
	return STEP_END;
}
static enum step h_scan(struct cpu *c, const struct insn *i) { return after(c, i, body_scan(c, i)); }
insn_fn *sel_scan(const struct form *f, struct insn *o)
{
	o->aux8 = f->arg;
	return h_scan;
}

/* ---- BMI: flags as computed by the host's ALU for the equivalent expression are not the instruction's, so the instruction itself runs ---- */
enum { BMI_ANDN, BMI_BEXTR, BMI_BLSI, BMI_BLSMSK, BMI_BLSR, BMI_BZHI, BMI_PDEP, BMI_PEXT };

/* Flags from a result: SF, ZF, and CF as given; OF = 0, AF and PF are undefined and come out 0 here as on the silicon. */
static u16 logic_cc(u64 v, unsigned size, bool cf)
{
	return 0x200 | (v ? 0 : CC_ZF) | (v >> (8 * size - 1) & 1 ? CC_SF : 0) | (cf ? CC_CF : 0);
}

static u64 bextr(u64 v, u64 control)
{
	unsigned start = control & 0xff, len = control >> 8 & 0xff;
	return start >= 64 ? 0 : v >> start & low_mask(len > 64 ? 64 : len);
}

static u64 pdep(u64 v, u64 mask)
{
	u64 out = 0;
	for (; mask; mask &= mask - 1, v >>= 1)
		if (v & 1)
			out |= mask & -mask;
	return out;
}

static u64 pext(u64 v, u64 mask)
{
	u64 out = 0, to = 1;
	for (; mask; mask &= mask - 1, to <<= 1)
		if (v & mask & -mask)
			out |= to;
	return out;
}

/* Operand shapes: ANDN, PDEP, PEXT: dst, src (vvvv), r/m. BEXTR, BZHI: dst, r/m, src2 (vvvv). BLS*: dst (vvvv), r/m. */
static noinline enum step body_bmi(struct cpu *c, const struct insn *i)
{
	unsigned op = i->aux8, size = i->opsize;
	bool third = op == BMI_ANDN || op == BMI_PDEP || op == BMI_PEXT;
	u64 m, v, mask = size_mask(size);
	if (!(i->flags & INSN_MEM))
		m = rd_size(c, third ? i->src2 : i->src, size);
	else if (!op_read(c, i, size, &m))
		return STEP_FAULT;
	u64 other = rd_size(c, third ? i->src : i->src2, size);
	u16 cc = c->arch.cc;
	switch (op) {
	case BMI_ANDN: v = ~other & m & mask; cc = logic_cc(v, size, false); break;
	case BMI_BEXTR: v = bextr(m, other) & mask; cc = 0x200 | (v ? 0 : CC_ZF); break;
	case BMI_BLSI: v = m & -m & mask; cc = logic_cc(v, size, m != 0); break;
	case BMI_BLSMSK: v = (m ^ (m - 1)) & mask; cc = logic_cc(v, size, m == 0) & ~CC_ZF; break;
	case BMI_BLSR: v = m & (m - 1) & mask; cc = logic_cc(v, size, m == 0); break;
	case BMI_BZHI:
		v = (other & 0xff) >= 8 * size ? m : m & low_mask(other & 0xff);
		cc = logic_cc(v, size, (other & 0xff) >= 8 * size);
		break;
	case BMI_PDEP: v = pdep(m == 0 ? 0 : other, m); break;
	default: v = pext(other, m); break;
	}
	c->arch.cc = cc;
	wr_size(c, i->dst, size, v);
	return STEP_END;
}
static enum step h_bmi(struct cpu *c, const struct insn *i) { return after(c, i, body_bmi(c, i)); }
insn_fn *sel_bmi(const struct form *f, struct insn *o)
{
	o->aux8 = f->arg;
	return h_bmi;
}

/* ---- ADCX ADOX: add with CF or OF alone ---- */
static noinline enum step body_adx(struct cpu *c, const struct insn *i)
{
	u64 b, a = rd_size(c, i->dst, i->opsize), mask = size_mask(i->opsize);
	unsigned flag = i->aux8 ? CC_OF : CC_CF;
	if (!(i->flags & INSN_MEM))
		b = rd_size(c, i->src, i->opsize);
	else if (!op_read(c, i, i->opsize, &b))
		return STEP_FAULT;
	u128 sum = (u128)a + b + !!(c->arch.cc & flag);
	c->arch.cc = (c->arch.cc & ~flag) | (sum > mask ? flag : 0);
	wr_size(c, i->dst, i->opsize, (u64)sum & mask);
	return STEP_END;
}
static enum step h_adx(struct cpu *c, const struct insn *i) { return after(c, i, body_adx(c, i)); }
insn_fn *sel_adx(const struct form *f, struct insn *o)
{
	o->aux8 = f->arg;
	o->opsize = f->in->op[0].size / 8;
	return h_adx;
}

/* ---- CRC32 (polynomial 11EDC6F41h, reflected) ---- */
static u32 crc32c(u32 crc, u64 v, unsigned size)
{
	for (unsigned k = 0; k < size; k++) {
		crc ^= (u8)(v >> (8 * k));
		for (unsigned n = 0; n < 8; n++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return crc;
}

__attribute__((target("sse4.2"))) static u32 crc32c_host(u32 crc, u64 v, unsigned size)
{
	switch (size) {
	case 1: return __builtin_ia32_crc32qi(crc, (u8)v);
	case 2: return __builtin_ia32_crc32hi(crc, (u16)v);
	case 4: return __builtin_ia32_crc32si(crc, (u32)v);
	default: return (u32)__builtin_ia32_crc32di(crc, v);
	}
}

static noinline enum step body_crc32(struct cpu *c, const struct insn *i)
{
	u64 v;
	unsigned size = i->aux8;
	if (!(i->flags & INSN_MEM))
		v = rd_size(c, i->src, size);
	else if (!op_read(c, i, size, &v))
		return STEP_FAULT;
	u32 crc = rd_u32(c, i->dst);
	wr_u64(c, i->dst, i->aux ? crc32c_host(crc, v, size) : crc32c(crc, v, size));
	return STEP_END;
}
static enum step h_crc32(struct cpu *c, const struct insn *i) { return after(c, i, body_crc32(c, i)); }
insn_fn *sel_crc32(const struct form *f, struct insn *o)
{
	o->aux8 = f->in->op[1].size / 8;
	o->aux = __builtin_cpu_supports("sse4.2") ? (void *)&h_crc32 : NULL;
	return h_crc32;
}
