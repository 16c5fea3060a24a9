/* VMLAUNCH and VMRESUME (SDM "VM Entries"): copy the VMCS, check it, load the guest, inject. */
#include "vmx/priv.h"

/* Control words of the copy; secondary controls count only when activated. */
static void take_controls(struct vmx *v)
{
	v->ctl[GROUP_PIN] = v->f[VF_PIN_CONTROLS];
	v->ctl[GROUP_PROC] = v->f[VF_PROC_CONTROLS];
	v->ctl[GROUP_PROC2] = has(v, CTL_PROC_SECONDARY) ? v->f[VF_PROC2_CONTROLS] : 0;
	v->ctl[GROUP_EXIT] = v->f[VF_EXIT_CONTROLS];
	v->ctl[GROUP_ENTRY] = v->f[VF_ENTRY_CONTROLS];
}

static const u64 widths[VF_COUNT] = {
#define FIELD(enc, name, kind, gate) \
	[VF_##name] = ((enc) >> 13) == 0 ? 0xffff : ((enc) >> 13) == 2 ? 0xffffffff : ~(u64)0,
#include "vmx/fields.def"
#undef FIELD
};

/* Each word of the page is read once. */
static void copy_fields(struct vmx *v, unsigned from, unsigned to)
{
	const volatile u64 *m = v->vmcs->f;
	u64 *f = v->f;
	for (unsigned s = from; s < to; s++)
		f[s] = m[s] & widths[s];
}

/* True: controls and the host's state are those that passed their checks at the last entry, with the same answers to what the checks ask beside the VMCS. Then their
 * copies in v->f and v->ctl still hold. As on silicon, the CPU keeps an active VMCS's fields: what stores other than VMWRITE do to the page, it may not see until the next
 * VMPTRLD (SDM "Software Use of the VMCS and Related Structures"), and what it uses has always been checked. What injects an event or compares with VTPR
 * depends on more: always checked. */
static bool same_as_passed(const struct cpu *c, const struct vmx *v)
{
	return v->passed && v->passed_long == !!(c->arch.efer & EFER_LMA) && !c->vm_written_part[VM_PART_ROOT];
}

static bool may_pass_again(const struct vmx *v)
{
	bool asks_vtpr = has(v, CTL_PROC_TPR_SHADOW) && !has(v, CTL_PROC2_APIC_ACCESSES) && !has(v, CTL_PROC2_VIRT_INTR);
	return !asks_vtpr && !(v->f[VF_ENTRY_INTR_INFO] & BIT(31));
}

/* The same for the guest's state, but for the few fields that move. Most registers do not change from one exit to the next entry, and the exit says when it has saved
 * others than the entry had loaded. */
static bool guest_as_passed(const struct cpu *c, const struct vmx *v) { return v->passed_guest && !c->vm_written_part[VM_PART_GUEST]; }

/* Fields whose checks ask more than v->f. */
static bool guest_may_pass_again(const struct vmx *v, const struct check_ctx *k)
{
	return v->passed && !k->has_pdptes && v->f[VF_VMCS_LINK] == VMCS_NONE && !(v->f[VF_GUEST_RFLAGS] & FLAG_VM);
}

/* What no check looks at, and RIP, whose checks vmx_checks_rip() does. */
static must_inline u64 unchecked_bits(enum vmcs_slot s)
{
	return s == VF_GUEST_RIP || s == VF_GUEST_RSP || s == VF_PREEMPTION_TIMER ? ~(u64)0 : s == VF_GUEST_RFLAGS ? FLAG_ARITH : 0;
}

/* False: of those that checks look at nothing but RIP has moved. */
static bool copy_moving(struct vmx *v)
{
	u64 differ = 0, now;
#define COPY(field) \
	now = vmcs_get(v->vmcs, VF_##field) & widths[VF_##field]; \
	differ |= (now ^ v->f[VF_##field]) & ~unchecked_bits(VF_##field); \
	v->f[VF_##field] = now;
	VMX_MOVING(COPY)
#undef COPY
	return differ;
}

static void copy_root(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	copy_fields(v, 0, VMCS_FIRST_GUEST);
	c->vm_written_part[VM_PART_ROOT] = 0;
	v->passed = v->host_segs_made = false;
	take_controls(v);
}

/* Host address of a bitmap that guest mode consults. One that is not RAM reads as all ones: everything intercepts. */
static const u8 *bind_bitmap(struct cpu *c, enum vmx_control ctl, enum vmcs_slot field)
{
	struct vmx *v = vmx_of(c);
	i64 frame = -1;
	const u8 *p = has(v, ctl) ? vmx_page(c, v->f[field], &frame) : NULL;
	return frame < 0 ? v->ones : p;
}

void vmx_bind_guest(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	v->bound_remaps = __atomic_load_n(&c->mem->remaps, __ATOMIC_ACQUIRE);
	take_controls(v);
	v->msr_bitmap = bind_bitmap(c, CTL_PROC_MSR_BITMAPS, VF_MSR_BITMAPS);
	v->io_bitmap_a = bind_bitmap(c, CTL_PROC_IO_BITMAPS, VF_IO_BITMAP_A);
	v->io_bitmap_b = bind_bitmap(c, CTL_PROC_IO_BITMAPS, VF_IO_BITMAP_B);
	v->vmread_bitmap = bind_bitmap(c, CTL_PROC2_VMCS_SHADOWING, VF_VMREAD_BITMAP);
	v->vmwrite_bitmap = bind_bitmap(c, CTL_PROC2_VMCS_SHADOWING, VF_VMWRITE_BITMAP);
	v->vapic = v->scratch;
	v->vapic_frame = -1;
	if (has(v, CTL_PROC_TPR_SHADOW))
		v->vapic = vmx_page(c, v->f[VF_VIRTUAL_APIC_ADDR], &v->vapic_frame);
	v->ept = has(v, CTL_PROC2_EPT);
	v->mbec = has(v, CTL_PROC2_MBEC);
	v->ept_ad = v->ept && (v->f[VF_EPTP] & BIT(6));
	v->npt_tag = v->ept ? vmx_npt_tag(v, v->f[VF_EPTP]) : 0;
	c->mtf = has(v, CTL_PROC_MTF) ? MTF_ARMED : MTF_OFF;
}

/* The same controls have been bound before. */
static void bind_again(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	if (unlikely(v->bound_remaps != __atomic_load_n(&c->mem->remaps, __ATOMIC_ACQUIRE))) {
		vmx_bind_guest(c);
		return;
	}
	if (v->vapic_frame >= 0)
		mem_will_write(c->mem, (u64)v->vapic_frame);
	c->mtf = has(v, CTL_PROC_MTF) ? MTF_ARMED : MTF_OFF;
}

static void load_segments(struct cpu *c, const u64 *f)
{
	struct seg *to[8] = {&c->arch.seg[SEG_ES], &c->arch.seg[SEG_CS], &c->arch.seg[SEG_SS], &c->arch.seg[SEG_DS],
			     &c->arch.seg[SEG_FS], &c->arch.seg[SEG_GS], &c->arch.ldtr,	       &c->arch.tr};

	for (unsigned n = 0; n < 8; n++)
		vmx_set_seg(to[n], f[VF_GUEST_ES_SELECTOR + n], f[VF_GUEST_ES_BASE + n], f[VF_GUEST_ES_LIMIT + n], f[VF_GUEST_ES_AR + n] & 0x1f0ff);
	c->arch.gdtr = (struct dtable){ .base = f[VF_GUEST_GDTR_BASE], .limit = f[VF_GUEST_GDTR_LIMIT] };
	c->arch.idtr = (struct dtable){ .base = f[VF_GUEST_IDTR_BASE], .limit = f[VF_GUEST_IDTR_LIMIT] };
}

/* Would saving these segments store what f has? Of access rights a segment has fewer bits. */
static bool segs_are_exact(const u64 *f)
{
	u64 lost = 0;
	for (unsigned n = 0; n < 8; n++)
		lost |= f[VF_GUEST_ES_AR + n] & ~(u64)0x1f0ff;
	return !lost;
}

static noinline void load_all_segments(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	load_segments(c, v->f);
	v->guest_segs_exact = v->passed_guest && segs_are_exact(v->f);
	if (v->guest_segs_exact)
		vmx_copy_segs(&v->guest_segs, vmx_segs_of(c));
}

/* Of the segments' state only two bases move. */
static void load_segments_again(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	struct vmx_segs *s = &v->guest_segs;

	if (unlikely(s->seg[SEG_FS].base != v->f[VF_GUEST_FS_BASE]))
		s->seg[SEG_FS].base = v->f[VF_GUEST_FS_BASE];
	if (unlikely(s->seg[SEG_GS].base != v->f[VF_GUEST_GS_BASE]))
		s->seg[SEG_GS].base = v->f[VF_GUEST_GS_BASE];
	vmx_copy_segs(vmx_segs_of(c), s);
}

/* SDM "Loading Guest Control Registers, Debug Registers, and MSRs". Returns the guest's IA32_EFER. */
static u64 load_msrs(struct cpu *c, const struct vmx *v)
{
	const u64 *f = v->f;
	bool ia32e = has(v, CTL_ENTRY_IA32E);

	if (has(v, CTL_ENTRY_LOAD_DEBUG)) {
		c->arch.dr[7] = (f[VF_GUEST_DR7] & 0xffff2fff) | 0x400; /* bits 12, 14, 15 read as 0, bit 10 as 1 */
		c->arch.debugctl = f[VF_GUEST_DEBUGCTL];
	}
	c->arch.sysenter_cs = (u32)f[VF_GUEST_SYSENTER_CS];
	c->arch.sysenter_esp = f[VF_GUEST_SYSENTER_ESP];
	c->arch.sysenter_eip = f[VF_GUEST_SYSENTER_EIP];
	if (has(v, CTL_ENTRY_LOAD_PAT))
		c->arch.pat = f[VF_GUEST_PAT];
	if (has(v, CTL_ENTRY_LOAD_EFER))
		return f[VF_GUEST_EFER];
	u64 efer = (c->arch.efer & ~(u64)EFER_LMA) | (ia32e ? EFER_LMA : 0);
	if (f[VF_GUEST_CR0] & CR0_PG)
		efer = (efer & ~(u64)EFER_LME) | (ia32e ? EFER_LME : 0);
	return efer;
}

/* again: the guest's state is as passed, as far as it does not move. */
hot_path static void load_guest(struct cpu *c, const struct check_ctx *k, bool again)
{
	struct vmx *v = vmx_of(c);
	const u64 *f = v->f;
	u64 efer = load_msrs(c, v);

	c->arch.guest_mode = 1;
	if (likely(again && v->guest_segs_exact))
		load_segments_again(c);
	else
		load_all_segments(c);
	c->arch.cpl = SEG_DPL(c->arch.seg[SEG_SS].attr);
	c->arch.rip = f[VF_GUEST_RIP];
	c->arch.gpr[GPR_RSP] = f[VF_GUEST_RSP];
	c->arch.shadow = f[VF_GUEST_INTERRUPTIBILITY] & (SHADOW_STI | SHADOW_MOVSS | SHADOW_NMI);
	c->arch.pending_dbg = f[VF_GUEST_PENDING_DBG];
	if (k->has_pdptes)
		memcpy(c->arch.pdpte, k->pdpte, sizeof(k->pdpte));
	cpu_set_rflags(c, f[VF_GUEST_RFLAGS]);
	cpu_load_control(c, vmx_cr0_merge(c->arch.cr0, f[VF_GUEST_CR0]), f[VF_GUEST_CR3], f[VF_GUEST_CR4], efer);
	if (!has(v, CTL_PROC2_VPID))
		mmu_flush_vpid(c, 0, true);
}

/* SDM "VM-Entry Failures During or After Loading Guest State": the host's state is loaded as by a VM exit, nothing of
 * the guest is saved. */
static cold_path void entry_failed(struct cpu *c, struct vmx_failure *fail, u32 reason)
{
	struct vmx *v = vmx_of(c);

	fail->reason = reason;
	vmcs_set(v->vmcs, VF_EXIT_REASON, reason | EXIT_ENTRY_FAILURE);
	vmcs_set(v->vmcs, VF_EXIT_QUALIFICATION, fail->qualification);
	vmx_page_written(c, v->vmcs_frame, 0, sizeof(*v->vmcs));
	vmx_report_failure(c, fail, v->s.vmcs_ptr);
	c->stats.vmexits[reason & 127]++;
	vmx_load_host(c);
	if (v->f[VF_EXIT_MSR_LOAD_COUNT] && !vmx_exit_load_msrs(c))
		vmx_abort(c, 4, "an entry of the VM-exit MSR-load area is bad");
}

/* SDM "Event Injection". */
static noinline void inject(struct cpu *c, const u64 *f)
{
	static const u8 kinds[8] = {EVENT_EXT_INT,  EVENT_NONE,	 EVENT_NMI,	 EVENT_FAULT,
				    EVENT_SOFT_INT, EVENT_ICEBP, EVENT_SOFT_EXC, EVENT_NONE};
	u32 info = f[VF_ENTRY_INTR_INFO];
	unsigned type = bits(info, 10, 8);

	if (type == 7) { /* pending MTF VM exit */
		c->mtf = MTF_DUE;
		return;
	}
	c->arch.inject = (struct event){.kind = kinds[type],
					.vector = info & 0xff,
					.has_error = info >> 11 & 1,
					.error = f[VF_ENTRY_EXCEPTION_ERROR],
					.insn_len = f[VF_ENTRY_INSN_LENGTH]};
	cpu_pend(c, PEND_INJECT);
}

/* SDM "VMX-Preemption Timer". cpu_service() is asked for only if it would come too late by itself: budget_end is at most so many ns of V away. */
static void start_timer(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	u64 value = v->f[VF_PREEMPTION_TIMER], slice = c->budget_end > c->icount ? (c->budget_end - c->icount) * CLOCK_NS_PER_INSN : 0;

	v->s.timer_end = vmx_timer_now(c) + value;
	if (value <= 1 || ((value - 1) << VMX_TIMER_SHIFT) * 1000000 <= slice * c->tsc_khz)
		cpu_pend(c, PEND_TIMER);
}

/* Would poll(), or what the core does between instructions, find something now? Interrupts that waited for the entry are pended by cpu_unblocked(). */
static bool something_waits(const struct cpu *c)
{
	return vmx_poll_waits(c) || vmx_of(c)->s.tpr_below;
}

hot_path static bool needs_steps(const struct cpu *c)
{
	return (c->arch.shadow & (SHADOW_STI | SHADOW_MOVSS)) || (c->arch.rflags & FLAG_TF) || c->mtf != MTF_OFF || c->arch.pending_dbg || (c->arch.dr[7] & 0xff);
}

static cold_path void trace_entry(const struct cpu *c)
{
	const struct vmx *v = vmx_of(c);

	trace_line(TRACE_VMENTRY, "cpu%u vmcs %llx rip %llx cr0 %llx cr3 %llx cr4 %llx flags %llx inject %x",
			   c->index, (unsigned long long)v->s.vmcs_ptr, (unsigned long long)c->arch.rip,
			   (unsigned long long)c->arch.cr0, (unsigned long long)c->arch.cr3,
			   (unsigned long long)c->arch.cr4, (unsigned long long)cpu_rflags(c),
			   (u32)v->f[VF_ENTRY_INTR_INFO]);
}

/* Whatever makes the guest stop early: windows, timer, traps, inactive states. */
hot_path static void start_guest(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	const u64 *f = v->f;
	bool injects = f[VF_ENTRY_INTR_INFO] & BIT(31);

	if (has(v, CTL_PIN_PREEMPTION_TIMER))
		start_timer(c);
	v->s.ple_first = v->s.ple_last = 0;
	v->iret_unblocked = false;
	if (has(v, CTL_PROC_TPR_SHADOW))
		vmx_apic_entry(c);
	c->arch.activity = ACT_ACTIVE;
	if (injects)
		inject(c, f);
	if (f[VF_GUEST_ACTIVITY] != ACT_ACTIVE && c->arch.inject.kind == EVENT_NONE)
		cpu_halt(c, f[VF_GUEST_ACTIVITY]);
	if (something_waits(c))
		cpu_pend(c, PEND_VIRT);
	if (needs_steps(c))
		cpu_pend(c, PEND_STEP);
	cpu_unblocked(c);
	c->stats.vmentries++;
	nest_entered(c);
	if (trace_on(TRACE_VMENTRY))
		trace_entry(c);
}

enum verdict { ENTERS, FAILS, HAS_BAD_STATE }; /* FAILS: VMfailValid is done */

static enum verdict check_root(struct cpu *c, struct check_ctx *k, struct vmx_failure *fail)
{
	struct vmx *v = vmx_of(c);

	for (enum vmx_check_group g = VMX_CHECK_CONTROLS; g <= VMX_CHECK_HOST; g++) {
		if (vmx_checks(k, g, fail))
			continue;
		fail->reason = g == VMX_CHECK_CONTROLS ? VMERR_ENTRY_CONTROLS : VMERR_ENTRY_HOST_STATE;
		vmx_report_failure(c, fail, v->s.vmcs_ptr);
		vmx_fail(c, fail->reason);
		return FAILS;
	}
	v->passed = may_pass_again(v);
	v->passed_long = k->long_mode;
	return ENTERS;
}

/* same: controls and host state are as passed. */
static noinline enum verdict check_all(struct cpu *c, struct check_ctx *k, struct vmx_failure *fail, bool same)
{
	struct vmx *v = vmx_of(c);

	v->passed_guest = false;
	if (!same)
		copy_root(c);
	copy_fields(v, VMCS_FIRST_GUEST, VMCS_END_GUEST);
	c->vm_written_part[VM_PART_GUEST] = 0;
	vmx_check_init(k, c);
	if (!same && check_root(c, k, fail) == FAILS)
		return FAILS;
	if (!vmx_checks(k, VMX_CHECK_GUEST, fail))
		return HAS_BAD_STATE;
	v->passed_guest = guest_may_pass_again(v, k);
	vmx_bind_guest(c);
	return ENTERS;
}

/* All is as passed, as far as it does not move. */
static enum verdict check_again(struct cpu *c, struct check_ctx *k, struct vmx_failure *fail)
{
	struct vmx *v = vmx_of(c);

	bool moved = copy_moving(v);
	if (v->f[VF_GUEST_RFLAGS] & FLAG_VM)
		return check_all(c, k, fail, true);
	vmx_check_init(k, c);
	if (!(moved ? vmx_checks_again : vmx_checks_rip)(k, fail)) {
		v->passed_guest = false;
		return HAS_BAD_STATE;
	}
	v->short_entries++;
	bind_again(c);
	return ENTERS;
}

hot_path static enum step enter_checked(struct cpu *c, bool launch)
{
	struct vmx *v = vmx_of(c);
	struct vmx_failure fail = { 0 };
	struct check_ctx k;
	bool same = same_as_passed(c, v), again = same && guest_as_passed(c, v);

	switch (again ? check_again(c, &k, &fail) : check_all(c, &k, &fail, same)) {
	case FAILS: return STEP_END;
	case HAS_BAD_STATE:
		fail.qualification = vmx_check_qualification(fail.check);
		entry_failed(c, &fail, EXIT_INVALID_GUEST_STATE);
		return STEP_STOP;
	case ENTERS: break;
	}
	load_guest(c, &k, again);
	if (v->f[VF_ENTRY_MSR_LOAD_COUNT] && vmx_entry_msrs(c, &fail)) {
		entry_failed(c, &fail, EXIT_MSR_LOADING);
		return STEP_STOP;
	}
	if (launch)
		__atomic_store_n(&v->vmcs->launched, 1, __ATOMIC_RELAXED);
	start_guest(c);
	return STEP_STOP;
}

hot_path enum step vmx_enter(struct cpu *c, bool launch)
{
	struct vmx *v = vmx_of(c);

	if (!v->vmcs || (v->vmcs->revision & VMCS_SHADOW))
		return vmx_fail(c, 0);
	if (c->arch.shadow & SHADOW_MOVSS)
		return vmx_fail(c, VMERR_ENTRY_MOVSS);
	bool launched = __atomic_load_n(&v->vmcs->launched, __ATOMIC_RELAXED);
	if (launch && launched)
		return vmx_fail(c, VMERR_VMLAUNCH_NOT_CLEAR);
	if (!launch && !launched)
		return vmx_fail(c, VMERR_VMRESUME_NOT_LAUNCHED);
	return enter_checked(c, launch);
}
