/* VMX capability MSRs 480h-491h, computed from controls.def (SDM appendix "VMX Capability Reporting Facility"). */
#include "vmx/priv.h"

const char *vmx_control_name(unsigned group, unsigned bit_nr)
{
	static const char *const names[GROUP_COUNT * 32] = {
#define DEFAULT1(group, legacy, true_)
#define CONTROL(group, bit, id, text, supported) [GROUP_##group * 32 + (bit)] = text,
#include "vmx/controls.def"
#undef CONTROL
#undef DEFAULT1
	};
	return group < GROUP_COUNT && bit_nr < 32 ? names[group * 32 + bit_nr] : NULL;
}

static void init_controls(struct cpu *c, struct vmx_caps *k)
{
#define DEFAULT1(group, legacy, true_) \
	k->allowed0[GROUP_##group] = (legacy); \
	k->true_allowed0[GROUP_##group] = (true_); \
	k->allowed1[GROUP_##group] = (legacy);
#define CONTROL(group, bit, id, text, supported) \
	if (supported) \
		k->allowed1[GROUP_##group] |= 1u << (bit);
#include "vmx/controls.def"
#undef CONTROL
#undef DEFAULT1
}

static u64 max_field_index(const struct vmx *v)
{
	u64 max = 0;
	for (unsigned s = 0; s < VF_COUNT; s++)
		if (can(v, vmcs_fields[s].gate))
			max = max_u64(max, vmcs_fields[s].encoding >> 1 & 0x1ff);
	return max;
}

/* SDM "VPID and EPT Capabilities". */
#define EPT_CAPS \
	(BIT(0) /* execute-only */ | BIT(6) /* 4 levels */ | BIT(8) /* UC */ | BIT(14) /* WB */ | BIT(16) /* 2 MB */ | \
	 BIT(17) /* 1 GB */ | BIT(20) /* INVEPT */ | BIT(21) /* accessed and dirty flags */ | BIT(25) | \
	 BIT(26) /* INVEPT single, all */)
#define VPID_CAPS \
	(BIT(32) /* INVVPID */ | BIT(40) | BIT(41) | BIT(42) | \
	 BIT(43) /* address, single, all, single keeping globals */)

void vmx_caps_init(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	struct vmx_caps *k = &v->caps;

	memset(k, 0, sizeof(*k));
	init_controls(c, k);
	/* Region of 4096 bytes, write-back, INS/OUTS information, TRUE MSRs. Bit 56 stays 0: error codes are checked by
	 * vector. */
	k->basic = VMCS_REVISION | (u64)4096 << 32 | (u64)6 << 50 | BIT(54) | BIT(55);
	/* Timer rate; LMA saved on exit; HLT, shutdown, wait-for-SIPI; CR3 targets; 512-entry MSR lists; VMWRITE to any
	 * field; zero-length injection. */
	k->misc = VMX_TIMER_SHIFT | BIT(5) | 7u << 6 | (u64)VMX_CR3_TARGETS << 16 | BIT(29) | BIT(30);
	k->cr0_fixed0 = CR0_PG | CR0_NE | CR0_PE;
	k->cr0_fixed1 = 0xffffffff;
	k->cr4_fixed0 = CR4_VMXE;
	k->cr4_fixed1 = cpu_cr4_supported(c) | CR4_VMXE;
	k->ept_vpid = EPT_CAPS | VPID_CAPS;
	k->vmfunc = BIT(0); /* EPTP switching */
	k->vmcs_enum = max_field_index(v) << 1;
	v->phys_mask = ~low_mask(cpu_maxphyaddr(c));
}

static u64 control_msr(u32 allowed0, u32 allowed1) { return allowed0 | (u64)allowed1 << 32; }

bool vmx_rdmsr(struct cpu *c, u32 msr, u64 *value, bool *ok)
{
	const struct vmx_caps *k = &vmx_of(c)->caps;

	if (msr < 0x480 || msr > 0x493)
		return false;
	*ok = cpu_has(c, FEAT_VMX);
	*value = 0;
	if (!*ok)
		return true;
	switch (msr) {
	case 0x480: *value = k->basic; break;
	case 0x481: *value = control_msr(k->allowed0[GROUP_PIN], k->allowed1[GROUP_PIN]); break;
	case 0x482: *value = control_msr(k->allowed0[GROUP_PROC], k->allowed1[GROUP_PROC]); break;
	case 0x483: *value = control_msr(k->allowed0[GROUP_EXIT], k->allowed1[GROUP_EXIT]); break;
	case 0x484: *value = control_msr(k->allowed0[GROUP_ENTRY], k->allowed1[GROUP_ENTRY]); break;
	case 0x485: *value = k->misc; break;
	case 0x486: *value = k->cr0_fixed0; break;
	case 0x487: *value = k->cr0_fixed1; break;
	case 0x488: *value = k->cr4_fixed0; break;
	case 0x489: *value = k->cr4_fixed1; break;
	case 0x48a: *value = k->vmcs_enum; break;
	case 0x48b: *value = control_msr(k->allowed0[GROUP_PROC2], k->allowed1[GROUP_PROC2]); break;
	case 0x48c: *value = k->ept_vpid; break;
	case 0x48d: *value = control_msr(k->true_allowed0[GROUP_PIN], k->allowed1[GROUP_PIN]); break;
	case 0x48e: *value = control_msr(k->true_allowed0[GROUP_PROC], k->allowed1[GROUP_PROC]); break;
	case 0x48f: *value = control_msr(k->true_allowed0[GROUP_EXIT], k->allowed1[GROUP_EXIT]); break;
	case 0x490: *value = control_msr(k->true_allowed0[GROUP_ENTRY], k->allowed1[GROUP_ENTRY]); break;
	case 0x491: *value = k->vmfunc; break;
	default: *ok = false; break; /* 492h tertiary, 493h secondary exit controls: their activating bits are 0 */
	}
	return true;
}

bool vmx_wrmsr(struct cpu *c, u32 msr, u64 value, bool *ok)
{
	if (msr < 0x480 || msr > 0x493)
		return false;
	*ok = false; /* read-only */
	return true;
}
