/* VMX behind cpu/virt.h: the table of operations, lifetime, and the small views of registers. */
#include "vmx/priv.h"
#include <errno.h>
#include <stdlib.h>

STATE_DESC(vmx_state, VMX_STATE);

/* ---- CR0, CR4 ---- */

static u64 cr_view(const struct cpu *c, unsigned cr, u64 real)
{
	const struct vmx *v = vmx_of(c);
	u64 mask = v->f[cr ? VF_CR4_MASK : VF_CR0_MASK];
	return (real & ~mask) | (v->f[cr ? VF_CR4_SHADOW : VF_CR0_SHADOW] & mask);
}

static u64 cr_merge(const struct cpu *c, unsigned cr, u64 wanted)
{
	const struct vmx *v = vmx_of(c);
	u64 mask = v->f[cr ? VF_CR4_MASK : VF_CR0_MASK], real = cr ? c->arch.cr4 : c->arch.cr0;
	return (wanted & ~mask) | (real & mask);
}

static bool cr_allowed(const struct cpu *c, unsigned cr, u64 value)
{
	const struct vmx *v = vmx_of(c);
	u64 fixed0 = cr ? v->caps.cr4_fixed0 : v->caps.cr0_fixed0,
	    fixed1 = cr ? v->caps.cr4_fixed1 : v->caps.cr0_fixed1;

	if (!v->s.on)
		return true;
	if (!cr && c->arch.guest_mode && has(v, CTL_PROC2_UNRESTRICTED))
		fixed0 &= ~(u64)(CR0_PE | CR0_PG);
	return !(~value & fixed0) && !(value & ~fixed1);
}

/* ---- TSC ---- */

/* SDM "Changes to Instruction Behavior in VMX Non-Root Operation": RDTSC. */
static u64 guest_tsc(const struct cpu *c, u64 tsc)
{
	const struct vmx *v = vmx_of(c);

	if (!has(v, CTL_PROC_TSC_OFFSET))
		return tsc;
	if (has(v, CTL_PROC2_TSC_SCALING))
		tsc = (u64)((u128)tsc * v->f[VF_TSC_MULTIPLIER] >> 48);
	return tsc + v->f[VF_TSC_OFFSET];
}

/* ---- NMI, INIT, address spaces ---- */

/* With NMI exiting but no virtual NMIs, IRET does not touch NMI blocking (SDM "IRET" in non-root operation). */
static void nmi_unblock(struct cpu *c)
{
	const struct vmx *v = vmx_fresh(c);

	if (has(v, CTL_PIN_NMI) && !has(v, CTL_PIN_VIRTUAL_NMI))
		return;
	c->arch.shadow &= ~(u32)SHADOW_NMI;
}

static bool init_blocked(const struct cpu *c) { return vmx_of(c)->s.on && !c->arch.guest_mode; }

static bool npt_enabled(const struct cpu *c) { return vmx_of(c)->ept; }

hot_path static void tlb_tag(const struct cpu *c, u16 *vpid, u64 *npt_root)
{
	const struct vmx *v = vmx_of(c);

	*vpid = c->arch.guest_mode && has(v, CTL_PROC2_VPID) ? v->f[VF_VPID] : 0;
	*npt_root = c->arch.guest_mode ? v->npt_tag : 0;
}

/* ---- lifetime ---- */

static void reset(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	memset(&v->s, 0, sizeof(v->s));
	memset(&v->x, 0, sizeof(v->x));
	memset(v->ctl, 0, sizeof(v->ctl));
	v->s.vmcs_ptr = VMCS_NONE;
	v->vmcs = NULL;
	v->vmcs_frame = -1;
	vmcs_offer(c);
	v->ept = v->ept_ad = v->mbec = v->iret_unblocked = false;
	v->npt_tag = 0;
	v->fresh = true;
	v->passed = v->passed_guest = v->host_segs_made = false;
	c->mtf = MTF_OFF;
}

static void loaded(struct cpu *c)
{
	vmx_of(c)->fresh = false;
	vmx_refresh(c);
}

/* The current VMCS and, in guest mode, the virtual-APIC page. */
static void kept_frames(const struct cpu *c, i64 frames[VIRT_KEPT_FRAMES])
{
	const struct vmx *v = vmx_of(c);

	frames[0] = v->vmcs ? v->vmcs_frame : -1;
	frames[1] = c->arch.guest_mode && v->vapic ? v->vapic_frame : -1;
}

int vmx_create(struct cpu *c)
{
	struct vmx *v = calloc(1, sizeof(*v));
	u8 *pages = aligned_alloc(PAGE_SIZE, 2 * PAGE_SIZE);

	if (!v || !pages) {
		free(v);
		free(pages);
		return -ENOMEM;
	}
	memset(pages, 0, PAGE_SIZE);
	memset(pages + PAGE_SIZE, 0xff, PAGE_SIZE);
	v->nest.wants = -1;
	v->scratch = pages;
	v->ones = pages + PAGE_SIZE;
	c->virt = &vmx_ops;
	c->virt_state = v;
	isa_decoder_init(&v->dec, true, true);
	vmx_caps_init(c);
	vmcs_find_rows(c);
	reset(c);
	return 0;
}

void vmx_destroy(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	if (c->virt != &vmx_ops || !v)
		return;
	free(v->scratch);
	free(v);
	c->virt = NULL;
	c->virt_state = NULL;
}

const struct virt_ops vmx_ops = {
	.name = "vmx",
	.icept = vmx_icept,
	.insn = vmx_insn,
	.event = vmx_event,
	.triple_fault = vmx_triple_fault,
	.take_exit = vmx_take_exit,
	.npt_walk = vmx_npt_walk,
	.npt_enabled = npt_enabled,
	.apic_access_page = vmx_apic_access_page,
	.virtual_apic = vmx_virtual_apic,
	.poll = vmx_poll,
	.poll_waits = vmx_poll_waits,
	.init_signal = vmx_init_signal,
	.sipi = vmx_sipi,
	.init_blocked = init_blocked,
	.deadline = vmx_deadline,
	.rdmsr = vmx_rdmsr,
	.wrmsr = vmx_wrmsr,
	.x2apic = vmx_x2apic,
	.cr8 = vmx_cr8,
	.tsc = guest_tsc,
	.cr_view = cr_view,
	.cr_merge = cr_merge,
	.cr_allowed = cr_allowed,
	.nmi_unblock = nmi_unblock,
	.tlb_tag = tlb_tag,
	.reset = reset,
	.loaded = loaded,
	.kept_frames = kept_frames,
	.state = &vmx_state_state,
};
