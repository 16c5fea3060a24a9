/* DAA DAS AAA AAS AAM AAD (not in 64-bit mode). The host cannot run them in 64-bit mode, so they are computed; undefined flags as Intel's silicon. */
#include "interp/select.h"

enum { BCD_DAA, BCD_DAS, BCD_AAA, BCD_AAS, BCD_AAM, BCD_AAD };

static u16 result_cc(u8 v, bool cf, bool af, bool of)
{
	return 0x200 | (v ? 0 : CC_ZF) | (v & 0x80 ? CC_SF : 0) | (__builtin_parity(v) ? 0 : CC_PF) | (cf ? CC_CF : 0) | (af ? CC_AF : 0) | (of ? CC_OF : 0);
}

static void decimal_adjust(struct cpu *c, bool subtract)
{
	u8 old = rd_u8(c, 0), v = old;
	bool cf = c->arch.cc & CC_CF, af = c->arch.cc & CC_AF, out = false;
	if ((old & 0xf) > 9 || af) {
		out = cf || (subtract ? old < 6 : old > 0xf9);
		v = subtract ? v - 6 : v + 6;
		af = true;
	}
	if (old > 0x99 || cf) {
		v = subtract ? v - 0x60 : v + 0x60;
		out = true;
	}
	wr_u8(c, 0, v);
	c->arch.cc = result_cc(v, out, af, false);
}

static void ascii_adjust(struct cpu *c, bool subtract)
{
	u16 ax = rd_u16(c, 0);
	bool adjust = (ax & 0xf) > 9 || (c->arch.cc & CC_AF);
	if (adjust)
		ax = subtract ? ax - 0x106 : ax + 0x106;
	ax &= 0xff0f;
	wr_u16(c, 0, ax);
	c->arch.cc = result_cc((u8)ax, adjust, adjust, false);
}

static noinline enum step body_bcd(struct cpu *c, const struct insn *i)
{
	u16 cc;
	u8 al = rd_u8(c, 0), ah = rd_u8(c, 1), base = (u8)i->imm;
	switch (i->aux8) {
	case BCD_DAA: decimal_adjust(c, false); break;
	case BCD_DAS: decimal_adjust(c, true); break;
	case BCD_AAA: ascii_adjust(c, false); break;
	case BCD_AAS: ascii_adjust(c, true); break;
	case BCD_AAM:
		if (!base) {
			set_rip(c, i);
			return cpu_fault(c, VEC_DE);
		}
		wr_u16(c, 0, (u16)(al / base) << 8 | al % base);
		c->arch.cc = result_cc(al % base, false, false, false);
		break;
	default:
		/* The undefined flags come out as those of the addition. */
		asm("addb %2, %1\n\tlahf\n\tseto %%al" : "=a"(cc), "+q"(al) : "q"((u8)(ah * base)) : "cc");
		wr_u16(c, 0, al);
		c->arch.cc = cc;
		break;
	}
	return STEP_END;
}
static enum step h_bcd(struct cpu *c, const struct insn *i) { return after(c, i, body_bcd(c, i)); }
insn_fn *sel_bcd(const struct form *f, struct insn *o)
{
	o->aux8 = f->arg;
	return h_bcd;
}
