/* Segment registers: access checks, loads, LDTR and TR, and the LAR/LSL/VERR/VERW queries (SDM "Protection", and the instructions' own pages). */
#include "cpu/desc.h"

bool cpu_seg_check(struct cpu *c, unsigned seg, u64 ea, unsigned size, bool write)
{
	const struct seg *s = &c->arch.seg[seg];
	unsigned vector = seg == SEG_SS ? VEC_SS : VEC_GP;
	if (cpu_long64(c)) {
		u64 la = c->seg_base[seg] + ea;
		return (cpu_canonical(la) && cpu_canonical(la + size - 1)) || fail(c, vector, 0);
	}
	if (s->attr & SEG_UNUSABLE)
		return fail(c, vector, 0);
	if (cpu_protected(c)) {
		bool code = s->attr & SEG_TYPE_CODE, rw = s->attr & SEG_TYPE_RW;
		if (write ? code || !rw : code && !rw)
			return fail(c, VEC_GP, 0);
	}
	return seg_limit_ok(s, ea, size) || fail(c, vector, 0);
}

struct seg seg_null(u16 sel)
{
	return (struct seg){ .attr = SEG_UNUSABLE, .sel = sel };
}

/* SDM "Real-Address Mode Operation": loading changes selector and base only, so limits that protected mode left behind persist ("unreal mode"). */
struct seg seg_real(const struct cpu *c, unsigned which, u16 sel)
{
	struct seg s = c->arch.seg[which];
	s.sel = sel;
	s.base = (u64)sel << 4;
	if (cpu_vm86(c)) {
		s.limit = 0xffff;
		s.attr = 0xf3;
	} else if (s.attr & SEG_UNUSABLE) { /* was null in protected mode */
		s.limit = 0xffff;
		s.attr = 0x93;
	}
	return s;
}

bool seg_check_ss(struct cpu *c, u16 sel, unsigned cpl, unsigned vector, u32 ext, struct seg *out)
{
	struct desc d;
	if (sel_is_null(sel))
		return fail(c, vector, ext);
	if (!desc_read(c, sel, vector, ext, &d))
		return false;
	if ((sel & 3) != cpl || !desc_is_writable_data(&d) || desc_dpl(&d) != cpl)
		return fail(c, vector, sel_error(sel, ext));
	if (!desc_present(&d))
		return fail(c, VEC_SS, sel_error(sel, ext));
	if (!desc_mark_accessed(c, &d))
		return false;
	*out = desc_to_seg(&d, sel);
	return true;
}

bool seg_check_data(struct cpu *c, unsigned which, u16 sel, unsigned vector, struct seg *out)
{
	struct desc d;
	if (sel_is_null(sel)) {
		*out = seg_null(sel);
		return true;
	}
	if (!desc_read(c, sel, vector, 0, &d))
		return false;
	if (!desc_is_readable(&d))
		return fail(c, vector, sel_error(sel, 0));
	if (!desc_is_code(&d) || !desc_is_conforming(&d)) {
		unsigned dpl = desc_dpl(&d);
		if ((sel & 3u) > dpl || c->arch.cpl > dpl)
			return fail(c, vector, sel_error(sel, 0));
	}
	if (!desc_present(&d))
		return fail(c, VEC_NP, sel_error(sel, 0));
	if (!desc_mark_accessed(c, &d))
		return false;
	*out = desc_to_seg(&d, sel);
	return true;
}

static enum step seg_set(struct cpu *c, unsigned which, struct seg s)
{
	u32 mode = c->mode;
	c->arch.seg[which] = s;
	cpu_update_mode(c);
	return c->mode == mode ? STEP_END : STEP_STOP;
}

enum step cpu_load_seg(struct cpu *c, unsigned seg, u16 sel)
{
	struct seg s;
	if (!cpu_protected(c))
		return seg_set(c, seg, seg_real(c, seg, sel));
	if (seg != SEG_SS)
		return seg_check_data(c, seg, sel, VEC_GP, &s) ? seg_set(c, seg, s) : STEP_FAULT;
	/* SDM "Segment Loading Instructions in IA-32e Mode": 64-bit code at CPL < 3 may have a null SS */
	if (sel_is_null(sel) && cpu_long64(c) && c->arch.cpl != 3 && (sel & 3) == c->arch.cpl) {
		s = seg_null(sel);
		s.attr |= (u32)c->arch.cpl << SEG_DPL_SHIFT;
		return seg_set(c, SEG_SS, s);
	}
	return seg_check_ss(c, sel, c->arch.cpl, VEC_GP, 0, &s) ? seg_set(c, SEG_SS, s) : STEP_FAULT;
}

/* Base of a system descriptor; 16 bytes long in IA-32e mode. */
static bool sys_base(struct cpu *c, u16 sel, const struct desc *d, u64 *base)
{
	u32 upper = 0;
	*base = desc_base(d);
	if (!c->lma)
		return true;
	if (!desc_read_upper(c, sel, VEC_GP, 0, d, &upper))
		return false;
	*base |= (u64)upper << 32;
	return cpu_canonical(*base) || fail(c, VEC_GP, sel_error(sel, 0));
}

enum step cpu_lldt(struct cpu *c, u16 sel)
{
	struct desc d;
	u64 base;
	if (sel_is_null(sel)) {
		c->arch.ldtr = seg_null(sel);
		return STEP_END;
	}
	if (sel & 4)
		return cpu_gp(c, sel_error(sel, 0));
	if (!desc_read(c, sel, VEC_GP, 0, &d))
		return STEP_FAULT;
	if (desc_is_segment(&d) || desc_type(&d) != SYS_LDT)
		return cpu_gp(c, sel_error(sel, 0));
	if (!desc_present(&d))
		return cpu_fault_err(c, VEC_NP, sel_error(sel, 0));
	if (!sys_base(c, sel, &d, &base))
		return STEP_FAULT;
	c->arch.ldtr = desc_to_seg(&d, sel);
	c->arch.ldtr.base = base;
	return STEP_END;
}

enum step cpu_ltr(struct cpu *c, u16 sel)
{
	struct desc d;
	u64 base;
	if (sel_is_null(sel))
		return cpu_gp(c, 0);
	if (sel & 4)
		return cpu_gp(c, sel_error(sel, 0));
	if (!desc_read(c, sel, VEC_GP, 0, &d))
		return STEP_FAULT;
	if (desc_is_segment(&d) || (desc_type(&d) != SYS_TSS32 && (c->lma || desc_type(&d) != SYS_TSS16)))
		return cpu_gp(c, sel_error(sel, 0));
	if (!desc_present(&d))
		return cpu_fault_err(c, VEC_NP, sel_error(sel, 0));
	if (!sys_base(c, sel, &d, &base) || !desc_set_type_bits(c, &d, SYS_BUSY, 0))
		return STEP_FAULT;
	c->arch.tr = desc_to_seg(&d, sel);
	c->arch.tr.base = base;
	return STEP_END;
}

/* System types that LAR and LSL accept (SDM LAR, "Segment and Gate Types"): bit n = type n. */
static const u16 query_types[2][2] = {
	[SEG_LAR] = { 1u << 1 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 9 | 1u << 11 | 1u << 12, 1u << 2 | 1u << 9 | 1u << 11 | 1u << 12 },
	[SEG_LSL] = { 1u << 1 | 1u << 2 | 1u << 3 | 1u << 9 | 1u << 11, 1u << 2 | 1u << 9 | 1u << 11 },
};

static bool query_type_ok(const struct cpu *c, enum seg_query q, const struct desc *d)
{
	if (desc_is_segment(d)) {
		if (q == SEG_VERR)
			return desc_is_readable(d);
		return q != SEG_VERW || desc_is_writable_data(d);
	}
	return q <= SEG_LSL && (query_types[q][c->lma] >> desc_type(d) & 1);
}

bool cpu_seg_query(struct cpu *c, enum seg_query q, u16 sel, u32 *out, bool *faulted)
{
	struct desc d;
	bool found;
	*faulted = false;
	if (sel_is_null(sel))
		return false;
	if (!desc_find(c, sel, &d, &found)) {
		*faulted = true;
		return false;
	}
	if (!found || !query_type_ok(c, q, &d))
		return false;
	if (!(desc_is_code(&d) && desc_is_conforming(&d)) && ((sel & 3u) > desc_dpl(&d) || c->arch.cpl > desc_dpl(&d)))
		return false;
	if (q == SEG_LAR)
		*out = d.hi & 0x00f0ff00;
	else if (q == SEG_LSL)
		*out = desc_limit(&d);
	return true;
}
