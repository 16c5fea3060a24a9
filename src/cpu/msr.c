/* RDMSR and WRMSR: one row per register in msr.def. False means #GP(0), or an EVENT_VIRT that is already in cpu->fault. */
#include "cpu/desc.h"
#include "cpu/model.h"
#include "base/log.h"

#define NONE (-1)

struct msr_row {
	u32 first, last;
	const char *name;
	bool (*read)(struct cpu *c, const struct msr_row *row, u32 msr, u64 *v);
	bool (*write)(struct cpu *c, const struct msr_row *row, u32 msr, u64 v);
	u64 arg;   /* STORED: writable bits; FIXED: the value */
	u32 off;   /* of the field in struct cpu_arch */
	i32 feature;
};

#define MSR_ARGS struct cpu *c, const struct msr_row *row, u32 msr

static u64 *msr_field(struct cpu *c, const struct msr_row *row) { return (u64 *)((char *)&c->arch + row->off); }

/* ---- common kinds ---- */

static bool rd_field(MSR_ARGS, u64 *v) { *v = *msr_field(c, row); return true; }
static bool wr_masked(MSR_ARGS, u64 v)
{
	if (v & ~row->arg)
		return false;
	*msr_field(c, row) = v;
	return true;
}
static bool wr_canonical(MSR_ARGS, u64 v)
{
	if (!cpu_canonical(v))
		return false;
	*msr_field(c, row) = v;
	return true;
}
static bool rd_fixed(MSR_ARGS, u64 *v) { *v = row->arg; return true; }
static bool rd_refuse(MSR_ARGS, u64 *v) { return false; }
static bool wr_refuse(MSR_ARGS, u64 v) { return false; }
static bool wr_zero(MSR_ARGS, u64 v) { return v == 0; }
static bool wr_ignore(MSR_ARGS, u64 v) { return true; }

/* ---- time ---- */

static bool rd_tsc(MSR_ARGS, u64 *v)
{
	*v = cpu_tsc(c);
	if (c->arch.guest_mode)
		*v = c->virt->tsc(c, *v);
	return true;
}

/* The TSC moved under the deadline timer: let it be computed anew. */
static void tsc_moved(struct cpu *c, u64 by)
{
	c->arch.tsc_offset += by;
	c->arch.tsc_adjust += by; /* SDM "IA32_TSC_ADJUST": WRMSR to the TSC adds the same amount */
	if (c->intc && c->intc->deadline(c->intc_state))
		c->intc->set_deadline(c->intc_state, c->intc->deadline(c->intc_state));
}

static bool wr_tsc(MSR_ARGS, u64 v)
{
	tsc_moved(c, v - cpu_tsc(c));
	return true;
}
static bool rd_tsc_adjust(MSR_ARGS, u64 *v) { *v = c->arch.tsc_adjust; return true; }
static bool wr_tsc_adjust(MSR_ARGS, u64 v)
{
	tsc_moved(c, v - c->arch.tsc_adjust);
	return true;
}
static bool rd_deadline(MSR_ARGS, u64 *v) { *v = c->intc ? c->intc->deadline(c->intc_state) : 0; return true; }
static bool wr_deadline(MSR_ARGS, u64 v)
{
	if (c->intc)
		c->intc->set_deadline(c->intc_state, v);
	return true;
}

/* ---- local APIC ---- */

static bool rd_apic_base(MSR_ARGS, u64 *v) { *v = c->arch.apic_base; return true; }
static bool wr_apic_base(MSR_ARGS, u64 v)
{
	u64 old = c->arch.apic_base;
	if (c->intc && !c->intc->set_base(c->intc_state, v))
		return false;
	c->arch.apic_base = v;
	if (old != v) /* the page that is the APIC changed */
		mmu_flush_all(c);
	return true;
}

static bool rd_x2apic(MSR_ARGS, u64 *v)
{
	bool ok = true;
	if (c->arch.guest_mode && c->virt->x2apic(c, msr, false, v, &ok))
		return ok;
	return c->intc && (c->arch.apic_base & BIT(10)) && c->intc->msr_read(c->intc_state, msr, v);
}
static bool wr_x2apic(MSR_ARGS, u64 v)
{
	bool ok = true;
	if (c->arch.guest_mode && c->virt->x2apic(c, msr, true, &v, &ok))
		return ok;
	return c->intc && (c->arch.apic_base & BIT(10)) && c->intc->msr_write(c->intc_state, msr, v);
}

/* ---- identity and features ---- */

static bool rd_smi_count(MSR_ARGS, u64 *v) { *v = c->arch.smi_count; return true; }
static bool rd_arch_cap(MSR_ARGS, u64 *v) { *v = c->model->arch_cap; return true; }
static bool wr_pred_cmd(MSR_ARGS, u64 v) { return !(v & ~(u64)1); }
static bool rd_feat_ctl(MSR_ARGS, u64 *v) { *v = c->arch.feat_ctl; return true; }
/* Lock and "VMX outside SMX" are all there is; locked until RESET. */
static bool wr_feat_ctl(MSR_ARGS, u64 v)
{
	if ((c->arch.feat_ctl & 1) || (v & ~(u64)5))
		return false;
	c->arch.feat_ctl = v;
	return true;
}

/* ---- memory types ---- */

static bool mtrr_type_ok(u64 t) { return t == 0 || t == 1 || t == 4 || t == 5 || t == 6; }
static bool types_ok(u64 v, bool pat)
{
	for (unsigned i = 0; i < 8; i++) {
		u64 t = v >> (8 * i) & 0xff;
		if (!mtrr_type_ok(t) && !(pat && t == 7))
			return false;
	}
	return true;
}

static bool rd_pat(MSR_ARGS, u64 *v) { *v = c->arch.pat; return true; }
static bool wr_pat(MSR_ARGS, u64 v)
{
	if (!types_ok(v, true))
		return false;
	c->arch.pat = v;
	return true;
}

static unsigned mtrr_fixed_index(u32 msr) { return msr == 0x250 ? 0 : msr < 0x260 ? 1 + (msr - 0x258) : 3 + (msr - 0x268); }
static bool rd_mtrr_fixed(MSR_ARGS, u64 *v) { *v = c->arch.mtrr_fixed[mtrr_fixed_index(msr)]; return true; }
static bool wr_mtrr_fixed(MSR_ARGS, u64 v)
{
	if (!types_ok(v, false))
		return false;
	c->arch.mtrr_fixed[mtrr_fixed_index(msr)] = v;
	return true;
}

static bool rd_mtrr_var(MSR_ARGS, u64 *v) { *v = c->arch.mtrr_var[msr - 0x200]; return true; }
static bool wr_mtrr_var(MSR_ARGS, u64 v)
{
	u64 address = low_mask(cpu_maxphyaddr(c)) & PAGE_MASK;
	bool mask = msr & 1;
	if (v & ~(address | (mask ? BIT(11) : 0xff)))
		return false;
	if (!mask && !mtrr_type_ok(v & 0xff))
		return false;
	c->arch.mtrr_var[msr - 0x200] = v;
	return true;
}

static bool rd_mtrr_def_type(MSR_ARGS, u64 *v) { *v = c->arch.mtrr_def_type; return true; }
static bool wr_mtrr_def_type(MSR_ARGS, u64 v)
{
	if ((v & ~(u64)0xcff) || !mtrr_type_ok(v & 0xff))
		return false;
	c->arch.mtrr_def_type = v;
	return true;
}

/* ---- machine check ---- */

static bool rd_mcg_ctl(MSR_ARGS, u64 *v) { *v = c->arch.mcg_ctl; return true; }
static bool wr_mcg_ctl(MSR_ARGS, u64 v)
{
	if (v && v != ~(u64)0)
		return false;
	c->arch.mcg_ctl = v;
	return true;
}

enum { MC_CTL, MC_STATUS, MC_ADDR, MC_MISC };
static bool rd_mc_bank(MSR_ARGS, u64 *v) { *v = c->arch.mc_bank[msr - 0x400]; return true; }
/* SDM "IA32_MCi_CTL MSRs": all ones or zeros (some systems clear one bit); IA32_MCi_STATUS can only be cleared. */
static bool wr_mc_bank(MSR_ARGS, u64 v)
{
	unsigned what = msr & 3;
	if (what == MC_CTL && v && (v | BIT(10) | BIT(0)) != ~(u64)0)
		return false;
	if (what == MC_STATUS && v)
		return false;
	c->arch.mc_bank[msr - 0x400] = v;
	return true;
}

/* ---- 64-bit mode ---- */

static bool rd_efer(MSR_ARGS, u64 *v) { *v = c->arch.efer; return true; }
static bool wr_efer(MSR_ARGS, u64 v)
{
	if (cpu_set_efer(c, v) != STEP_FAULT)
		return true;
	c->fault.kind = EVENT_NONE; /* the caller raises #GP(0) */
	return false;
}

static unsigned base_seg(u32 msr) { return msr & 1 ? SEG_GS : SEG_FS; }
static bool rd_seg_base(MSR_ARGS, u64 *v) { *v = c->arch.seg[base_seg(msr)].base; return true; }
static bool wr_seg_base(MSR_ARGS, u64 v)
{
	if (!cpu_canonical(v))
		return false;
	c->arch.seg[base_seg(msr)].base = c->seg_base[base_seg(msr)] = v;
	return true;
}

/* ---- the table ---- */

#define FIELD(f) ((u32)offsetof(struct cpu_arch, f))
static const struct msr_row msr_rows[] = {
#define STORED(first, last, name, field, mask, feature) { first, last, #name, rd_field, wr_masked, mask, FIELD(field), feature },
#define CANON(at, name, field, feature) { at, at, #name, rd_field, wr_canonical, 0, FIELD(field), feature },
#define ZERO(first, last, name, feature) { first, last, #name, rd_fixed, wr_zero, 0, 0, feature },
#define SINK(at, name, feature) { at, at, #name, rd_fixed, wr_ignore, 0, 0, feature },
#define FIXED(at, name, value, feature) { at, at, #name, rd_fixed, wr_refuse, value, 0, feature },
#define CUSTOM(first, last, name, rd, wr, feature) { first, last, #name, rd, wr, 0, 0, feature },
#include "cpu/msr.def"
#undef STORED
#undef CANON
#undef ZERO
#undef SINK
#undef FIXED
#undef CUSTOM
};

/* The row of msr, if this vCPU has it. */
static const struct msr_row *msr_find(const struct cpu *c, u32 msr)
{
	unsigned lo = 0, hi = array_len(msr_rows);
	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct msr_row *r = &msr_rows[mid];
		if (msr > r->last)
			lo = mid + 1;
		else if (msr < r->first)
			hi = mid;
		else
			return r->feature == NONE || cpu_has(c, (enum cpu_feature)r->feature) ? r : NULL;
	}
	return NULL;
}

static void trace_msr(const struct cpu *c, const struct msr_row *row, const char *what, u32 msr, u64 v, bool ok)
{
	trace_line(TRACE_MSR, "cpu%u %s %x %s %llx%s at %llx", c->index, what, msr, row ? row->name : "(no such row)", (unsigned long long)v,
		   ok ? "" : " refused", (unsigned long long)c->arch.rip);
}

bool cpu_rdmsr(struct cpu *c, u32 msr, u64 *value)
{
	const struct msr_row *row = msr_find(c, msr);
	bool ok = false;
	*value = 0;
	c->fault.kind = EVENT_NONE;
	if (row)
		ok = row->read(c, row, msr, value);
	else if (!c->virt || !c->virt->rdmsr(c, msr, value, &ok))
		ok = false;
	if (trace_on(TRACE_MSR))
		trace_msr(c, row, "RDMSR", msr, *value, ok);
	return ok;
}

bool cpu_wrmsr(struct cpu *c, u32 msr, u64 value)
{
	const struct msr_row *row = msr_find(c, msr);
	bool ok = false;
	c->fault.kind = EVENT_NONE;
	if (row)
		ok = row->write(c, row, msr, value);
	else if (!c->virt || !c->virt->wrmsr(c, msr, value, &ok))
		ok = false;
	if (trace_on(TRACE_MSR))
		trace_msr(c, row, "WRMSR", msr, value, ok);
	return ok;
}
