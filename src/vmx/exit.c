/* VM exits (SDM "VM Exits"): record why, save the guest, load the host. */
#include "vmx/priv.h"
#include <stdio.h>

/* CR0 bits that VM entry and exit leave alone: ET, CD, NW and the reserved ones. */
#define CR0_KEPT (~(u64)(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_PG))

hot_path u64 vmx_cr0_merge(u64 now, u64 wanted) { return (now & CR0_KEPT) | (wanted & ~CR0_KEPT); }

/* Whole GHz need no division. */
hot_path u64 vmx_timer_now(const struct cpu *c)
{
	u64 v = cpu_now(c), ghz = c->tsc_khz / 1000000;
	return (ghz * 1000000 == c->tsc_khz ? v * ghz : clock_mul_div(v, c->tsc_khz, 1000000)) >> VMX_TIMER_SHIFT;
}

/* SDM "Interruption-information": external interrupt 0, NMI 2, hardware exception 3, software interrupt 4, INT1 5, INT3
 * and INTO 6. */
u32 vmx_event_info(const struct event *ev)
{
	static const u8 type[] = {[EVENT_FAULT] = 3, [EVENT_TRAP] = 3,	  [EVENT_SOFT_INT] = 4, [EVENT_SOFT_EXC] = 6,
				  [EVENT_ICEBP] = 5, [EVENT_EXT_INT] = 0, [EVENT_NMI] = 2};
	if (!ev || ev->kind == EVENT_NONE || ev->kind >= array_len(type))
		return 0;
	return BIT(31) | ev->vector | type[ev->kind] << 8 | (ev->has_error ? BIT(11) : 0);
}

/* The exit happens in the middle of delivering `during` (SDM "Information for VM Exits During Event Delivery"). */
void vmx_set_vectoring(struct cpu *c, const struct event *during)
{
	struct exit_info *x = &vmx_of(c)->x;

	x->vectoring = vmx_event_info(during);
	if (!x->vectoring)
		return;
	x->vectoring_error = during->has_error ? during->error : 0;
	if (during->kind == EVENT_SOFT_INT || during->kind == EVENT_SOFT_EXC || during->kind == EVENT_ICEBP)
		x->len = during->insn_len;
}

static void save_segment(struct vmcs *m, unsigned n, const struct seg *s)
{
	vmcs_set(m, VF_GUEST_ES_SELECTOR + n, s->sel);
	vmcs_set(m, VF_GUEST_ES_BASE + n, s->base);
	vmcs_set(m, VF_GUEST_ES_LIMIT + n, s->limit);
	vmcs_set(m, VF_GUEST_ES_AR + n, s->attr & 0x1f0ff);
}

static void save_segments(const struct cpu *c, struct vmcs *m)
{
	for (unsigned n = 0; n < SEG_COUNT; n++)
		save_segment(m, n, &c->arch.seg[n]);
	save_segment(m, 6, &c->arch.ldtr);
	save_segment(m, 7, &c->arch.tr);
	vmcs_set(m, VF_GUEST_GDTR_BASE, c->arch.gdtr.base);
	vmcs_set(m, VF_GUEST_GDTR_LIMIT, c->arch.gdtr.limit);
	vmcs_set(m, VF_GUEST_IDTR_BASE, c->arch.idtr.base);
	vmcs_set(m, VF_GUEST_IDTR_LIMIT, c->arch.idtr.limit);
}

static void save_control(struct cpu *c, struct vmcs *m)
{
	const struct vmx *v = vmx_of(c);
	const struct cpu_arch *a = &c->arch;

	vmcs_set(m, VF_GUEST_CR0, a->cr0);
	vmcs_set(m, VF_GUEST_CR3, a->cr3);
	vmcs_set(m, VF_GUEST_CR4, a->cr4);
	vmcs_set(m, VF_GUEST_SYSENTER_CS, (u32)a->sysenter_cs);
	vmcs_set(m, VF_GUEST_SYSENTER_ESP, a->sysenter_esp);
	vmcs_set(m, VF_GUEST_SYSENTER_EIP, a->sysenter_eip);
	if (has(v, CTL_EXIT_SAVE_DEBUG)) {
		vmcs_set(m, VF_GUEST_DR7, a->dr[7]);
		vmcs_set(m, VF_GUEST_DEBUGCTL, a->debugctl);
	}
	if (has(v, CTL_EXIT_SAVE_PAT))
		vmcs_set(m, VF_GUEST_PAT, a->pat);
	if (has(v, CTL_EXIT_SAVE_EFER))
		vmcs_set(m, VF_GUEST_EFER, a->efer);
	/* IA32_VMX_MISC[5]: LMA goes to the "IA-32e mode guest" control. */
	u64 entry = v->f[VF_ENTRY_CONTROLS] & ~bit(CTL_ENTRY_IA32E & 31);
	entry |= a->efer & EFER_LMA ? bit(CTL_ENTRY_IA32E & 31) : 0;
	vmcs_set(m, VF_ENTRY_CONTROLS, entry);
	c->vm_written_part[VM_PART_ROOT] |= entry != v->f[VF_ENTRY_CONTROLS];
	if (v->ept && (a->cr0 & CR0_PG) && (a->cr4 & CR4_PAE) && !(a->efer & EFER_LMA))
		for (unsigned n = 0; n < 4; n++)
			vmcs_set(m, VF_GUEST_PDPTE0 + n, a->pdpte[n]);
}

static noinline void save_all(struct cpu *c, struct vmcs *m)
{
	save_control(c, m);
	save_segments(c, m);
	c->vm_written_part[VM_PART_GUEST] = 1;
}

static inline u64 if_has(const struct vmx *v, enum vmx_control ctl, u64 value) { return has(v, ctl) ? value : 0; }

/* True: of what save_control() and save_segments() store, only CR3 and two bases need be: the guest has the rest as the entry loaded it from these very fields, which
 * nobody but VM exits may write meanwhile (SDM "Software Use of the VMCS and Related Structures"). */
hot_path static bool mostly_as_loaded(struct cpu *c, struct vmcs *m)
{
	struct vmx *v = vmx_of(c);
	const struct cpu_arch *a = &c->arch;
	const u64 *f = v->f;
	struct vmx_segs *s = &v->guest_segs;
	u64 differ = (a->cr0 ^ f[VF_GUEST_CR0]) | (a->cr4 ^ f[VF_GUEST_CR4]) | ((u32)a->sysenter_cs ^ f[VF_GUEST_SYSENTER_CS]) | (a->sysenter_esp ^ f[VF_GUEST_SYSENTER_ESP]) |
		     (a->sysenter_eip ^ f[VF_GUEST_SYSENTER_EIP]) | (!!(a->efer & EFER_LMA) ^ has(v, CTL_ENTRY_IA32E)) |
		     if_has(v, CTL_EXIT_SAVE_DEBUG, (a->dr[7] ^ f[VF_GUEST_DR7]) | (a->debugctl ^ f[VF_GUEST_DEBUGCTL])) |
		     if_has(v, CTL_EXIT_SAVE_PAT, a->pat ^ f[VF_GUEST_PAT]) | if_has(v, CTL_EXIT_SAVE_EFER, a->efer ^ f[VF_GUEST_EFER]);

	if (differ || !v->passed_guest || !v->guest_segs_exact)
		return false;
	for (unsigned n = SEG_FS; n <= SEG_GS; n++)
		if (unlikely(a->seg[n].base != s->seg[n].base)) {
			s->seg[n].base = a->seg[n].base;
			vmcs_set(m, VF_GUEST_ES_BASE + n, a->seg[n].base);
		}
	if (unlikely(vmx_segs_differ(vmx_segs_of(c), s)))
		return false;
	vmcs_set(m, VF_GUEST_CR3, a->cr3);
	return true;
}

static void save_rest(const struct cpu *c, struct vmcs *m, enum exit_rf rf)
{
	const struct vmx *v = vmx_of(c);
	u64 flags = cpu_rflags(c);

	if (rf != RF_KEEP)
		flags = rf == RF_SET ? flags | FLAG_RF : flags & ~FLAG_RF;
	vmcs_set(m, VF_GUEST_RIP, c->arch.rip);
	vmcs_set(m, VF_GUEST_RSP, c->arch.gpr[GPR_RSP]);
	vmcs_set(m, VF_GUEST_RFLAGS, flags);
	vmcs_set(m, VF_GUEST_ACTIVITY, c->arch.activity);
	vmcs_set(m, VF_GUEST_INTERRUPTIBILITY, c->arch.shadow & (SHADOW_STI | SHADOW_MOVSS | SHADOW_NMI));
	vmcs_set(m, VF_GUEST_PENDING_DBG, c->arch.pending_dbg);
	if (has(v, CTL_EXIT_SAVE_TIMER)) {
		u64 now = vmx_timer_now(c);
		vmcs_set(m, VF_PREEMPTION_TIMER, v->s.timer_end > now ? v->s.timer_end - now : 0);
	}
}

static void record(struct cpu *c, u32 reason, u64 qualification)
{
	struct vmx *v = vmx_of(c);
	struct vmcs *m = v->vmcs;
	const struct exit_info *x = &v->x;

	vmcs_set(m, VF_EXIT_REASON, reason);
	vmcs_set(m, VF_EXIT_QUALIFICATION, qualification);
	vmcs_set(m, VF_EXIT_INTR_INFO, x->intr);
	vmcs_set(m, VF_EXIT_INTR_ERROR, x->intr_error);
	vmcs_set(m, VF_IDT_VECTORING, x->vectoring);
	vmcs_set(m, VF_IDT_VECTORING_ERROR, x->vectoring_error);
	vmcs_set(m, VF_EXIT_INSN_LENGTH, x->len);
	vmcs_set(m, VF_EXIT_INSN_INFO, x->info);
	if (x->has_linear)
		vmcs_set(m, VF_GUEST_LINEAR_ADDR, x->linear);
	if (x->has_physical)
		vmcs_set(m, VF_GUEST_PHYSICAL_ADDR, x->physical);
	/* SDM "Recording VM-Exit Information": the valid bit of the VM-entry interruption information is cleared. */
	if (v->f[VF_ENTRY_INTR_INFO] & BIT(31)) {
		vmcs_set(m, VF_ENTRY_INTR_INFO, v->f[VF_ENTRY_INTR_INFO] & ~BIT(31));
		c->vm_written_part[VM_PART_ROOT] = 1;
	}
}

static cold_path void trace_exit(const struct cpu *c, u32 reason, u64 qualification)
{
	const struct exit_info *x = &vmx_of(c)->x;

	trace_line(TRACE_VMEXIT, "cpu%u %s rip %llx qual %llx intr %x vect %x len %u gla %llx gpa %llx", c->index,
		   vmx_exit_name(reason & 0xffff), (unsigned long long)c->arch.rip, (unsigned long long)qualification,
		   x->intr, x->vectoring, x->len, (unsigned long long)x->linear, (unsigned long long)x->physical);
}

/* ---- host state (SDM "Loading Host State") ---- */

static void flat_segment(struct seg *s, u64 sel, u64 base, u32 attr)
{
	vmx_set_seg(s, sel, base, 0xffffffff, sel ? attr : attr | SEG_UNUSABLE);
}

static cold_path void make_host_segments(struct cpu *c, const u64 *f, bool host64)
{
	const u32 data = 3 | SEG_S | SEG_P | SEG_DB | SEG_G;
	struct seg *s = c->arch.seg;

	flat_segment(&s[SEG_CS], f[VF_HOST_CS_SELECTOR], 0, 11 | SEG_S | SEG_P | SEG_G | (host64 ? SEG_L : SEG_DB));
	flat_segment(&s[SEG_SS], f[VF_HOST_SS_SELECTOR], 0, data);
	flat_segment(&s[SEG_DS], f[VF_HOST_DS_SELECTOR], 0, data);
	flat_segment(&s[SEG_ES], f[VF_HOST_ES_SELECTOR], 0, data);
	flat_segment(&s[SEG_FS], f[VF_HOST_FS_SELECTOR], f[VF_HOST_FS_BASE], data);
	flat_segment(&s[SEG_GS], f[VF_HOST_GS_SELECTOR], f[VF_HOST_GS_BASE], data);
	s[SEG_CS].attr &= ~(u32)SEG_UNUSABLE;
	vmx_set_seg(&c->arch.tr, f[VF_HOST_TR_SELECTOR], f[VF_HOST_TR_BASE], 0x67, 11 | SEG_P);
	vmx_set_seg(&c->arch.ldtr, 0, 0, 0, SEG_UNUSABLE);
	c->arch.gdtr = (struct dtable){ .base = f[VF_HOST_GDTR_BASE], .limit = 0xffff };
	c->arch.idtr = (struct dtable){ .base = f[VF_HOST_IDTR_BASE], .limit = 0xffff };
}

/* They are the same until the host's state in f is copied anew. */
static void load_host_segments(struct cpu *c, bool host64)
{
	struct vmx *v = vmx_of(c);

	if (likely(v->host_segs_made)) {
		vmx_copy_segs(vmx_segs_of(c), &v->host_segs);
	} else {
		make_host_segments(c, v->f, host64);
		vmx_copy_segs(&v->host_segs, vmx_segs_of(c));
		v->host_segs_made = true;
	}
	c->arch.cpl = 0;
}

static void load_host_msrs(struct cpu *c, const struct vmx *v)
{
	const u64 *f = v->f;

	c->arch.debugctl = 0;
	c->arch.sysenter_cs = (u32)f[VF_HOST_SYSENTER_CS];
	c->arch.sysenter_esp = f[VF_HOST_SYSENTER_ESP];
	c->arch.sysenter_eip = f[VF_HOST_SYSENTER_EIP];
	if (has(v, CTL_EXIT_LOAD_PAT))
		c->arch.pat = f[VF_HOST_PAT];
}

static u64 host_efer(const struct cpu *c, const struct vmx *v, bool host64)
{
	if (has(v, CTL_EXIT_LOAD_EFER))
		return v->f[VF_HOST_EFER];
	u64 mode = EFER_LMA | EFER_LME;
	return (c->arch.efer & ~mode) | (host64 ? mode : 0);
}

hot_path void vmx_load_host(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	const u64 *f = v->f;
	bool host64 = has(v, CTL_EXIT_HOST64), virt;
	u64 cr4 = host64 ? f[VF_HOST_CR4] | CR4_PAE : f[VF_HOST_CR4] & ~CR4_PCIDE;

	c->arch.guest_mode = 0;
	c->mtf = MTF_OFF;
	load_host_msrs(c, v);
	load_host_segments(c, host64);
	c->arch.dr[7] = 0x400;
	c->arch.rip = f[VF_HOST_RIP];
	c->arch.gpr[GPR_RSP] = f[VF_HOST_RSP];
	c->arch.activity = ACT_ACTIVE;
	c->arch.pending_dbg = 0;
	c->arch.shadow &= ~(u32)(SHADOW_STI | SHADOW_MOVSS);
	c->arch.inject.kind = EVENT_NONE;
	cpu_unpend(c, PEND_INJECT);
	cpu_set_rflags(c, FLAG_FIXED1);
	cpu_load_control(c, vmx_cr0_merge(c->arch.cr0, f[VF_HOST_CR0]), f[VF_HOST_CR3] & ~v->phys_mask, cr4,
			 host_efer(c, v, host64));
	/* SDM "Loading Page-Directory-Pointer-Table Entries": VMX abort when a PAE host's are bad. */
	if (!host64 && (cr4 & CR4_PAE) && !mmu_load_pdptes(c, c->arch.cr3, &virt))
		vmx_abort(c, 2, "host page-directory-pointer-table entries have reserved bits set");
}

/* SDM "VMX Aborts": the processor is shut down. */
void vmx_abort(struct cpu *c, u32 code, const char *why)
{
	struct vmx *v = vmx_of(c);

	if (v->vmcs)
		__atomic_store_n(&v->vmcs->abort, code, __ATOMIC_RELAXED);
	c->arch.guest_mode = 0;
	snprintf(c->death, sizeof(c->death), "VMX abort %u on cpu%u: %s", code, c->index, why);
	log_info("%s", c->death);
	cpu_halt(c, ACT_SHUTDOWN);
}

/* NMI blocking after the exit (SDM "Updating Non-Register State"). */
static void update_nmi_blocking(struct cpu *c, const struct vmx *v, u32 reason)
{
	if (reason == EXIT_EXCEPTION_NMI && (v->x.intr & 0x700) == 0x200)
		c->arch.shadow |= SHADOW_NMI;
	else if (has(v, CTL_PIN_VIRTUAL_NMI)) /* the bit was the guest's virtual-NMI blocking */
		c->arch.shadow &= ~(u32)SHADOW_NMI;
}

hot_path void vmx_exit(struct cpu *c, u32 reason, u64 qualification)
{
	struct vmx *v = vmx_fresh(c);
	struct vmcs *m = v->vmcs;

	c->stats.vmexits[reason & 127]++;
	nest_exited(c, reason);
	if (trace_on(TRACE_VMEXIT))
		trace_exit(c, reason, qualification);
	record(c, reason, qualification);
	if (!mostly_as_loaded(c, m))
		save_all(c, m);
	save_rest(c, m, v->x.rf);
	vmx_page_written(c, v->vmcs_frame, 0, sizeof(*m));

	c->arch.guest_mode = 0;
	v->s.apic_write = v->s.tpr_below = v->s.eoi_exit = v->s.virt_intr = v->s.apic_exit = 0;
	v->iret_unblocked = false;
	update_nmi_blocking(c, v, reason);
	bool stored = !v->f[VF_EXIT_MSR_STORE_COUNT] || vmx_exit_store_msrs(c);
	if (!has(v, CTL_PROC2_VPID))
		mmu_flush_vpid(c, 0, true);
	vmx_load_host(c);
	if (!stored)
		vmx_abort(c, 1, "an entry of the VM-exit MSR-store area is bad");
	else if (v->f[VF_EXIT_MSR_LOAD_COUNT] && !vmx_exit_load_msrs(c))
		vmx_abort(c, 4, "an entry of the VM-exit MSR-load area is bad");
	memset(&v->x, 0, sizeof(v->x));
	c->fault.kind = EVENT_NONE;
	cpu_unblocked(c);
	if (c->arch.nmi_pending)
		cpu_pend(c, PEND_NMI);
}

hot_path void vmx_exit_insn(struct cpu *c, u32 reason, u64 qualification, const struct insn *i, u32 info)
{
	struct vmx *v = vmx_of(c);

	v->x.len = i ? i->len : 0;
	v->x.info = info;
	v->x.rf = RF_CLEAR;
	vmx_exit(c, reason, qualification);
}
