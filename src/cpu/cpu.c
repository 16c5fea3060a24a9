/* One vCPU's lifetime: reset, INIT, and what is derived from the architectural state. */
#include "cpu/desc.h"
#include "cpu/model.h"
#include "bus/clock.h"

STATE_DESC(cpu_arch, CPU_ARCH);

#define FLAG_VALID (FLAG_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID)

/* ---- derived state ---- */

/* Fast-path bounds of a segment outside 64-bit mode; 0 sends the access to cpu_seg_check(). */
static void seg_bounds(struct cpu *c, unsigned n, bool typed)
{
	const struct seg *s = &c->arch.seg[n];
	bool code = s->attr & SEG_TYPE_CODE, rw = s->attr & SEG_TYPE_RW;
	u64 bound = (u64)s->limit + 1;
	if ((s->attr & SEG_UNUSABLE) || (!code && (s->attr & SEG_TYPE_EC)))
		bound = 0;
	c->seg_base[n] = s->base;
	c->bound_r[n] = typed && code && !rw ? 0 : bound;
	c->bound_w[n] = typed && (code || !rw) ? 0 : bound;
}

static void bounds64(struct cpu *c)
{
	for (unsigned n = 0; n < SEG_COUNT; n++) {
		c->seg_base[n] = n == SEG_FS || n == SEG_GS ? c->arch.seg[n].base : 0;
		c->bound_r[n] = c->bound_w[n] = ~(u64)0;
	}
}

static bool spans_all(const struct cpu *c, unsigned n) { return c->seg_base[n] == 0 && c->bound_w[n] == (u64)1 << 32; }

/* Nothing that an instruction does through these four segments needs a base or a check. */
static bool is_flat(const struct cpu *c, u32 mode)
{
	const struct seg *cs = &c->arch.seg[SEG_CS];
	const u32 want = MODE_D | MODE_SSB | MODE_PE;
	return (mode & want) == want && cs->base == 0 && cs->limit == 0xffffffff && spans_all(c, SEG_SS) && spans_all(c, SEG_DS) && spans_all(c, SEG_ES);
}

/* Outside of 64-bit mode, or on the way into it. */
static cold_path void update_all(struct cpu *c, u32 mode)
{
	const struct cpu_arch *a = &c->arch;
	if (mode & MODE_L) {
		c->stack_mask = ~(u64)0;
		bounds64(c);
	} else {
		if (a->seg[SEG_CS].attr & SEG_DB)
			mode |= MODE_D;
		if (a->seg[SEG_SS].attr & SEG_DB)
			mode |= MODE_SSB;
		c->stack_mask = mode & MODE_SSB ? 0xffffffff : 0xffff;
		for (unsigned n = 0; n < SEG_COUNT; n++)
			seg_bounds(c, n, mode & MODE_PE);
		if (is_flat(c, mode))
			mode |= MODE_FLAT;
	}
	for (unsigned n = SEG_COUNT; n < SEG_COUNT + 2; n++) {
		c->seg_base[n] = 0;
		c->bound_r[n] = c->bound_w[n] = ~(u64)0;
	}
	c->mode = mode;
}

hot_path void cpu_update_mode(struct cpu *c)
{
	const struct cpu_arch *a = &c->arch;
	u32 mode = c->mode & MODE_ONE;
	bool pe = a->cr0 & CR0_PE, vm = a->rflags & FLAG_VM;
	c->lma = a->efer & EFER_LMA;
	c->paging = a->cr0 & CR0_PG;
	if (vm)
		mode |= MODE_VM86;
	else if (pe)
		mode |= MODE_PE;
	if (c->lma && pe && (a->seg[SEG_CS].attr & SEG_L))
		mode |= MODE_L | MODE_SSB;
	if (likely(mode & c->mode & MODE_L)) { /* what else follows from the mode is there */
		c->seg_base[SEG_FS] = a->seg[SEG_FS].base;
		c->seg_base[SEG_GS] = a->seg[SEG_GS].base;
		c->mode = mode;
	} else {
		update_all(c, mode);
	}
	c->acc_class = mmu_access_class(c);
}

hot_path void cpu_set_rflags(struct cpu *c, u64 value)
{
	u64 old = c->arch.rflags;
	c->arch.cc = cpu_flags_to_cc(value);
	c->arch.rflags = (value & FLAG_VALID & ~(u64)FLAG_ARITH) | FLAG_FIXED1;
	if (value & (FLAG_TF | FLAG_RF))
		cpu_pend(c, PEND_STEP);
	if ((old ^ value) & (FLAG_AC | FLAG_VM))
		cpu_update_mode(c);
	if (value & ~old & FLAG_IF)
		cpu_unblocked(c);
}

u16 cpu_vpid(const struct cpu *c)
{
	u16 vpid = 0;
	u64 root = 0;
	if (c->arch.guest_mode && c->virt)
		c->virt->tlb_tag(c, &vpid, &root);
	return vpid;
}

/* ---- time ---- */

/* Whole GHz need no division. */
static u64 v_to_tsc(const struct cpu *c, u64 v)
{
	u64 ghz = c->tsc_khz / 1000000;
	return ghz * 1000000 == c->tsc_khz ? v * ghz : clock_mul_div(v, c->tsc_khz, 1000000);
}

/* This vCPU's V jumps from v to now: its next service is as much nearer. */
static void catch_up(struct cpu *c, u64 v, u64 now)
{
	u64 left = c->budget_end > c->icount ? c->budget_end - c->icount : 0;
	c->budget_end -= min_u64(cpu_insns_of(c, now - v), left);
	c->v_base = now;
	c->v_icount = c->icount;
}

u64 cpu_tsc(struct cpu *c)
{
	u64 v = cpu_now(c);
	/* Another vCPU may be ahead: what it has read, we may not undercut (Linux checks this with check_tsc_warp). */
	if (c->ncpus > 1 && c->clock) {
		u64 now = clock_now(c->clock);
		if (now > v)
			catch_up(c, v, now);
		v = clock_read(c->clock, max_u64(v, now));
	}
	return v_to_tsc(c, v) + c->arch.tsc_offset;
}

/* ---- reset ---- */

static struct seg reset_seg(u16 sel, u64 base, u32 attr)
{
	return (struct seg){ .base = base, .limit = 0xffff, .attr = attr, .sel = sel };
}

/* What RESET and INIT have in common: SDM "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT". */
static void reset_common(struct cpu *c)
{
	struct cpu_arch *a = &c->arch;
	memset(a->gpr, 0, sizeof a->gpr);
	a->gpr[GPR_RDX] = model_signature(c->model);
	a->rip = 0xfff0;
	a->rflags = FLAG_FIXED1;
	a->cc = cpu_flags_to_cc(0);
	a->cr2 = a->cr3 = a->cr4 = a->efer = 0;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		a->seg[i] = reset_seg(0, 0, 0x93);
	a->seg[SEG_CS] = reset_seg(0xf000, 0xffff0000, 0x9b);
	a->ldtr = reset_seg(0, 0, 0x82);
	a->tr = reset_seg(0, 0, 0x8b);
	a->gdtr = a->idtr = (struct dtable){ .limit = 0xffff };
	memset(a->pdpte, 0, sizeof a->pdpte);
	memset(a->dr, 0, sizeof a->dr);
	a->dr[6] = 0xffff0ff0;
	a->dr[7] = 0x400;
	a->pending_dbg = 0;
	a->debugctl = 0;
	a->spec_ctrl = 0;
	a->inject.kind = EVENT_NONE;
	a->shadow = 0;
	a->nmi_pending = a->init_pending = a->sipi_pending = 0;
	a->cpl = 0;
	a->guest_mode = 0;
	c->fault.kind = c->delivering.kind = EVENT_NONE;
	c->step = 0;
	c->mtf = MTF_OFF;
	c->deferred = 0;
	c->budget_end = 0;
	c->mode = 0;
}

static void reset_x87(struct cpu *c)
{
	struct cpu_arch *a = &c->arch;
	memset(a->x87, 0, sizeof a->x87);
	memset(a->ymm, 0, sizeof a->ymm);
	store_le(a->x87, 0x40, 2);  /* FCW after RESET; FNINIT makes it 37Fh */
	a->x87[4] = 0xff;           /* FTW: 5555h, all zero and valid, in the abridged form */
	a->mxcsr = 0x1f80;
	a->xcr0 = 1;
	a->pkru = 0;
	c->x87_resident = false;
}

static void reset_msrs(struct cpu *c)
{
	struct cpu_arch *a = &c->arch;
	a->star = a->lstar = a->cstar = a->fmask = a->kernel_gs_base = a->tsc_aux = 0;
	a->sysenter_cs = a->sysenter_esp = a->sysenter_eip = 0;
	a->pat = 0x0007040600070406;
	a->apic_base = 0xfee00800 | (c->index == 0 ? BIT(8) : 0);
	a->tsc_adjust = 0;
	a->tsc_offset = c->clock ? 0 - clock_mul_div(clock_now(c->clock), c->tsc_khz, 1000000) : 0;
	a->misc_enable = BIT(0) | BIT(11) | BIT(12); /* fast strings; no BTS, no PEBS */
	a->feat_ctl = 0;
	a->xss = 0;
	a->bios_sign_id = model_microcode(c->model);
	a->mtrr_def_type = 0;
	memset(a->mtrr_fixed, 0, sizeof a->mtrr_fixed);
	memset(a->mtrr_var, 0, sizeof a->mtrr_var);
	a->mcg_status = 0;
	memset(a->mc_bank, 0, sizeof a->mc_bank);
	a->mcg_ctl = ~(u64)0;
	memset(a->msr_plain, 0, sizeof a->msr_plain);
}

static void reset_finish(struct cpu *c, bool reset)
{
	c->arch.activity = c->arch.apic_base & BIT(8) ? ACT_ACTIVE : ACT_WAIT_SIPI;
	cpu_update_mode(c);
	if (c->intc)
		c->intc->init(c->intc_state, reset);
	mmu_switch(c);
	mmu_flush_all(c);
}

void cpu_reset(struct cpu *c)
{
	reset_common(c);
	c->arch.cr0 = CR0_CD | CR0_NW | CR0_ET;
	reset_x87(c);
	reset_msrs(c);
	__atomic_and_fetch(&c->pending, PEND_KICK | PEND_CODE, __ATOMIC_SEQ_CST);
	c->death[0] = 0;
	if (c->virt)
		c->virt->reset(c);
	reset_finish(c, true);
}

void cpu_init_signal(struct cpu *c)
{
	u64 keep = c->arch.cr0 & (CR0_CD | CR0_NW); /* INIT leaves caches, x87, vectors, TSC, MTRRs and most MSRs alone */
	u8 sipi = c->arch.sipi_pending; /* a thread that was slow to wake finds INIT and the SIPI behind it together */
	reset_common(c);
	c->arch.sipi_pending = sipi;
	c->arch.cr0 = keep | CR0_ET;
	cpu_unpend(c, PEND_NMI | PEND_NMI2 | PEND_STEP | PEND_INJECT);
	reset_finish(c, false);
}
