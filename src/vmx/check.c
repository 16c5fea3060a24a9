/* VM-entry checks: rows of checks.def become one straight-line function per group. */
#include "vmx/priv.h"

#define F(name) (k->f[VF_##name])
#define ON(id) has(k->v, CTL_##id)
#define WHOLE(wrong) ((wrong) ? ~(u64)0 : 0)
#define PAGE_ADDR_BAD (0xfff | k->phys)
#define APICV_CONTROLS (BIT(CTL_PROC2_X2APIC & 31) | BIT(CTL_PROC2_APIC_REGISTERS & 31) | BIT(CTL_PROC2_VIRT_INTR & 31))
#define HIGH32 0xffffffff00000000
#define INJECT (F(ENTRY_INTR_INFO) >> 31 & 1)
#define INJECT_TYPE bits(F(ENTRY_INTR_INFO), 10, 8)
#define INJECT_VECTOR (F(ENTRY_INTR_INFO) & 0xff)
#define VM86 (F(GUEST_RFLAGS) & FLAG_VM)
#define USABLE(seg) (!(F(GUEST_##seg##_AR) & SEG_UNUSABLE))
#define TYPE(seg) (F(GUEST_##seg##_AR) & SEG_TYPE)
#define DPL(seg) SEG_DPL(F(GUEST_##seg##_AR))
#define AR_RESERVED 0xfffe0f00u     /* bits 31:17 and 11:8; bit 16 says unusable */
/* LBR, BTF and the rest that IA32_DEBUGCTL has without architectural debug features: LBR 0, BTF 1, TR 6, BTS 7, BTINT
 * 8, 9, 10, freeze 11, 12, 14, 15. */
#define DEBUGCTL_VALID 0xdfc3u
#define DEBUGCTL_BTF BIT(1)

static inline u64 fixed_bad(u64 value, u64 fixed0, u64 fixed1) { return (~value & fixed0) | (value & ~fixed1); }
static inline u64 control_bad(const struct check_ctx *k, unsigned group, u64 value)
{
	return fixed_bad(value, k->v->caps.true_allowed0[group], k->v->caps.allowed1[group]);
}
static inline u64 cr0_bad(const struct check_ctx *k, u64 value, bool unrestricted)
{
	u64 fixed0 = k->v->caps.cr0_fixed0 & ~(u64)(unrestricted ? CR0_PE | CR0_PG : 0);
	return fixed_bad(value, fixed0, k->v->caps.cr0_fixed1);
}
static inline u64 cr4_bad(const struct check_ctx *k, u64 value)
{
	return fixed_bad(value, k->v->caps.cr4_fixed0, k->v->caps.cr4_fixed1);
}
static inline bool data_type_ok(unsigned type) { return (type & 1) && (!(type & 8) || (type & 2)); }
static inline u64 bit_if(bool wrong, enum vmx_control ctl) { return wrong ? bit(ctl & 31) : 0; }
static inline bool eptp_type_ok(u64 eptp) { return (eptp & 7) == 0 || (eptp & 7) == 6; }

static unsigned vtpr(const struct check_ctx *k)
{
	return cpu_phys_read(k->c, (F(VIRTUAL_APIC_ADDR) & ~(PAGE_ADDR_BAD)) + 0x80, 4) & 0xff;
}

/* Start aligned to 16, and the last byte within the physical-address width. */
static u64 msr_area_bad(const struct check_ctx *k, u64 addr, u64 count)
{
	u64 last = addr + count * 16 - 1;
	return (addr & (0xf | k->phys)) | (last & k->phys);
}

static inline bool injects_error(const struct check_ctx *k)
{
	const u32 vectors =
		1u << VEC_DF | 1u << VEC_TS | 1u << VEC_NP | 1u << VEC_SS | 1u << VEC_GP | 1u << VEC_PF | 1u << VEC_AC;
	unsigned vector = INJECT_VECTOR;
	return INJECT_TYPE == 3 && (!k->unrestricted || (F(GUEST_CR0) & CR0_PE)) && vector < 32 &&
	       (vectors >> vector & 1);
}

static u64 pat_bad(u64 pat)
{
	u64 bad = 0;
	for (unsigned n = 0; n < 64; n += 8) {
		u64 type = pat >> n & 0xff;
		if (type > 7 || type == 2 || type == 3)
			bad |= (u64)0xff << n;
	}
	return bad;
}

static inline u64 efer_valid(const struct check_ctx *k)
{
	return EFER_SCE | EFER_LME | EFER_LMA | (cpu_has(k->c, FEAT_NX) ? EFER_NXE : 0);
}

static inline bool cs_type_ok(const struct check_ctx *k)
{
	unsigned type = TYPE(CS);
	return type == 9 || type == 11 || type == 13 || type == 15 || (type == 3 && k->unrestricted);
}

static inline u64 granularity_bad(u64 limit, u64 attr)
{
	if ((limit & 0xfff) != 0xfff && (attr & SEG_G))
		return SEG_G;
	return (limit & 0xfff00000) && !(attr & SEG_G) ? SEG_G : 0;
}

/* SDM "Checks on Guest Non-Register State", activity state. */
static bool injection_fits_activity(const struct check_ctx *k)
{
	unsigned type = INJECT_TYPE, vector = INJECT_VECTOR;

	switch (F(GUEST_ACTIVITY)) {
	case ACT_ACTIVE: return true;
	case ACT_HLT:
		return type == 0 || type == 2 || (type == 3 && (vector == VEC_DB || vector == VEC_MC)) ||
		       (type == 7 && vector == 0);
	case ACT_SHUTDOWN: return type == 2 || (type == 3 && vector == VEC_MC);
	}
	return false;
}

static inline bool single_steps(const struct check_ctx *k)
{
	return (F(GUEST_RFLAGS) & FLAG_TF) && !(F(GUEST_DEBUGCTL) & DEBUGCTL_BTF);
}

static bool report(struct vmx_failure *fail, enum vmx_check row, enum vmcs_slot field, u64 value, u64 bad)
{
	fail->check = row;
	fail->field = vmcs_fields[field].encoding;
	fail->value = value;
	fail->bad = bad & vmcs_mask(field);
	return false;
}

static bool check_controls(const struct check_ctx *k, struct vmx_failure *fail)
{
#define RUN(id, field, when, bad_bits) \
	if (when) { \
		u64 wrong_ = (bad_bits); \
		if (unlikely(wrong_)) \
			return report(fail, CHECK_##id, VF_##field, F(field), wrong_); \
	}
#define RUN_CONTROLS(...) RUN(__VA_ARGS__)
#define RUN_HOST(...)
#define RUN_GUEST(...)
#define RUN_MSR_LIST(...)
#define CHECK(group, id, field, when, bad, must, because, section) RUN_##group(id, field, when, bad)
#include "vmx/checks.def"
	return true;
}

#undef RUN_CONTROLS
#undef RUN_HOST
#define RUN_CONTROLS(...)
#define RUN_HOST(...) RUN(__VA_ARGS__)
static bool check_host(const struct check_ctx *k, struct vmx_failure *fail)
{
#include "vmx/checks.def"
	return true;
}

#undef RUN_HOST
#undef RUN_GUEST
#define RUN_HOST(...)
#define RUN_GUEST(...) RUN(__VA_ARGS__)
static bool check_guest(const struct check_ctx *k, struct vmx_failure *fail)
{
#include "vmx/checks.def"
	return true;
}

#undef RUN_GUEST
#define RUN_GUEST(id, field, when, bad_bits) RUN(id, field, moves(VF_##field) && (when), bad_bits)
static inline bool moves(enum vmcs_slot s) { return s >= VMCS_FIRST_GUEST && s < VMCS_END_GUEST && (VMX_MOVING_BITS >> (s - VMCS_FIRST_GUEST) & 1); }
bool vmx_checks_again(const struct check_ctx *k, struct vmx_failure *fail)
{
#include "vmx/checks.def"
	return true;
}

#undef RUN_GUEST
#define RUN_GUEST(id, field, when, bad_bits) RUN(id, field, VF_##field == VF_GUEST_RIP && (when), bad_bits)
hot_path bool vmx_checks_rip(const struct check_ctx *k, struct vmx_failure *fail)
{
#include "vmx/checks.def"
	return true;
}
#undef CHECK

bool vmx_checks(struct check_ctx *k, enum vmx_check_group group, struct vmx_failure *fail)
{
	switch (group) {
	case VMX_CHECK_CONTROLS: return check_controls(k, fail);
	case VMX_CHECK_HOST: return check_host(k, fail);
	case VMX_CHECK_GUEST: return check_guest(k, fail);
	case VMX_CHECK_MSR_LIST:
	case VMX_CHECK_GROUPS: break;
	}
	return true;
}

/* Fills the context for v->f; control words must be in v->ctl. */
hot_path void vmx_check_init(struct check_ctx *k, struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	*k = (struct check_ctx){ .c = c, .v = v, .f = v->f, .long_mode = c->arch.efer & EFER_LMA, .unrestricted = has(v, CTL_PROC2_UNRESTRICTED), .phys = v->phys_mask };
	if (F(VMCS_LINK) != VMCS_NONE && !(F(VMCS_LINK) & PAGE_ADDR_BAD))
		k->link_word = cpu_phys_read(c, F(VMCS_LINK), 4);
	/* PAE paging: the PDPTEs come from the VMCS with EPT, else from memory at CR3. */
	k->has_pdptes = (F(GUEST_CR0) & CR0_PG) && (F(GUEST_CR4) & CR4_PAE) && !has(v, CTL_ENTRY_IA32E);
	for (unsigned n = 0; n < 4 && k->has_pdptes; n++)
		k->pdpte[n] = has(v, CTL_PROC2_EPT) ? v->f[VF_GUEST_PDPTE0 + n]
						    : cpu_phys_read(c, (F(GUEST_CR3) & 0xffffffe0) + n * 8, 8);
}

/* SDM "VM-Entry Failures During or After Loading Guest State": exit qualification. */
u64 vmx_check_qualification(enum vmx_check row)
{
	switch ((unsigned)row) {
	case CHECK_pdpte0: case CHECK_pdpte1: case CHECK_pdpte2: case CHECK_pdpte3: return 2;
	case CHECK_link_address: case CHECK_link_revision: case CHECK_link_shadow: case CHECK_link_current: return 4;
	}
	return 0;
}
