/* MSR lists of VM entry and exit (SDM "Loading MSRs" in "VM Entries" and "VM Exits", "Saving MSRs"). */
#include "vmx/priv.h"

struct msr_entry { u32 msr, reserved; u64 value; };

static struct msr_entry fetch(struct cpu *c, u64 list, u64 n)
{
	struct msr_entry e;
	u64 low = cpu_phys_read(c, list + n * 16, 8);
	e.msr = (u32)low;
	e.reserved = low >> 32;
	e.value = cpu_phys_read(c, list + n * 16 + 8, 8);
	return e;
}

/* x2APIC registers may not be touched by the lists while in x2APIC mode; 9Bh and 79h, 8Bh belong to SMM and to
 * microcode loading. */
static bool forbidden(const struct cpu *c, u32 msr)
{
	if (msr >> 8 == 8)
		return c->arch.apic_base & BIT(10);
	return msr == 0x9b || msr == 0x79 || msr == 0x8b;
}

static bool load_forbidden(const struct cpu *c, u32 msr)
{
	return msr == 0xc0000100 || msr == 0xc0000101 || forbidden(c, msr);
}

/* 0, or the number of the first entry that failed. A list longer than IA32_VMX_MISC recommends is undefined behaviour:
 * it stops with a failure. */
static u32 load_list(struct cpu *c, u64 list, u32 count, struct msr_entry *e, enum vmx_check *why)
{
	for (u32 n = 0; n < count; n++) {
		*e = fetch(c, list, n);
		*why = CHECK_entry_msr_reserved;
		if (e->reserved)
			return n + 1;
		*why = CHECK_entry_msr_forbidden;
		if (load_forbidden(c, e->msr) || n >= VMX_MSR_LIST_MAX)
			return n + 1;
		*why = CHECK_entry_msr_fault;
		if (!cpu_wrmsr(c, e->msr, e->value))
			return n + 1;
	}
	return 0;
}

u32 vmx_entry_msrs(struct cpu *c, struct vmx_failure *fail)
{
	struct vmx *v = vmx_of(c);
	struct msr_entry e = { 0 };
	enum vmx_check why = CHECK_entry_msr_fault;
	u8 guest = c->arch.guest_mode;

	c->arch.guest_mode = 0; /* the lists name real MSRs: no offsets, no virtual APIC */
	u32 bad = load_list(c, v->f[VF_ENTRY_MSR_LOAD_ADDR], v->f[VF_ENTRY_MSR_LOAD_COUNT], &e, &why);
	c->arch.guest_mode = guest;
	if (bad) {
		fail->check = why;
		fail->field = vmcs_fields[VF_ENTRY_MSR_LOAD_ADDR].encoding;
		fail->value = e.value;
		fail->detail = e.msr;
		fail->bad = ~(u64)0;
		fail->qualification = bad;
	}
	return bad;
}

bool vmx_exit_store_msrs(struct cpu *c)
{
	const u64 *f = vmx_of(c)->f;
	u64 list = f[VF_EXIT_MSR_STORE_ADDR];

	for (u32 n = 0; n < f[VF_EXIT_MSR_STORE_COUNT]; n++) {
		struct msr_entry e = fetch(c, list, n);
		if (e.reserved || forbidden(c, e.msr) || n >= VMX_MSR_LIST_MAX || !cpu_rdmsr(c, e.msr, &e.value))
			return false;
		cpu_phys_write(c, list + n * 16 + 8, 8, e.value);
	}
	return true;
}

bool vmx_exit_load_msrs(struct cpu *c)
{
	const u64 *f = vmx_of(c)->f;
	struct msr_entry e;
	enum vmx_check why;

	return !load_list(c, f[VF_EXIT_MSR_LOAD_ADDR], f[VF_EXIT_MSR_LOAD_COUNT], &e, &why);
}
