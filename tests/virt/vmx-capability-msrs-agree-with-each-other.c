/* SDM appendix "VMX Capability Reporting Facility", and what kvm_intel and Xen demand of it. */
#include "vmx_rig.h"

static u64 msr(struct vmx_rig *r, u32 n)
{
	u64 v = 0;
	assert_true(cpu_rdmsr(r->cpu, n, &v));
	return v;
}

/* Low half: bits that must be 1; high half: bits that may be 1. */
static void what_must_be_one_may_be_one(void **state)
{
	struct vmx_rig r;
	vmx_open(&r);
	static const u32 msrs[] = { 0x481, 0x482, 0x483, 0x484, 0x48b, 0x48d, 0x48e, 0x48f, 0x490 };
	for (unsigned n = 0; n < array_len(msrs); n++) {
		u64 v = msr(&r, msrs[n]);
		assert_int_equal(v & ~(v >> 32) & 0xffffffff, 0);
	}
	vmx_close(&r);
}

static void the_true_msrs_only_free_default1_bits(void **state)
{
	struct vmx_rig r;
	vmx_open(&r);
	static const struct {
		u32 legacy, true_;
		u64 freed;
	} pairs[] = {
		{0x481, 0x48d, 0}, {0x482, 0x48e, BIT(15) | BIT(16)}, {0x483, 0x48f, BIT(2)}, {0x484, 0x490, BIT(2)}};
	assert_true(msr(&r, 0x480) & BIT(55));
	for (unsigned n = 0; n < array_len(pairs); n++) {
		u64 a = msr(&r, pairs[n].legacy), b = msr(&r, pairs[n].true_);
		assert_int_equal(a >> 32, b >> 32);
		assert_int_equal((a ^ b) & 0xffffffff, pairs[n].freed);
	}
	vmx_close(&r);
}

static void the_msrs_are_read_only_and_end_where_their_controls_end(void **state)
{
	struct vmx_rig r;
	u64 v;
	vmx_open(&r);
	for (u32 n = 0x480; n <= 0x491; n++) {
		assert_false(cpu_wrmsr(r.cpu, n, msr(&r, n)));
	}
	assert_false(cpu_rdmsr(r.cpu, 0x492, &v)); /* no tertiary controls */
	assert_false(cpu_rdmsr(r.cpu, 0x493, &v)); /* no secondary exit controls */
	assert_int_equal(msr(&r, 0x482) >> 32 & BIT(17), 0);
	assert_int_equal(msr(&r, 0x483) >> 32 & BIT(31), 0);
	vmx_close(&r);
}

static void basic_reports_revision_size_and_memory_type(void **state)
{
	struct vmx_rig r;
	vmx_open(&r);
	u64 basic = msr(&r, 0x480);
	assert_int_equal(basic & 0xffffffff, VMCS_REVISION);
	assert_int_equal(basic >> 31 & 1, 0);
	assert_in_range(bits(basic, 44, 32), 1, 4096);
	assert_int_equal(bits(basic, 53, 50), 6);
	assert_int_equal(basic & BIT(48), 0);
	vmx_close(&r);
}

static void kvm_finds_all_that_it_requires(void **state)
{
	struct vmx_rig r;
	vmx_open(&r);
	static const struct { u32 msr; u64 bits; const char *who;
	} need[] = {
		{0x481, BIT(0) | BIT(3), "KVM"},
		{0x482,
	     BIT(2) | BIT(3) | BIT(7) | BIT(9) | BIT(10) | BIT(11) | BIT(15) | BIT(16) | BIT(19) | BIT(20) | BIT(23) |
		 BIT(24) | BIT(29),
	     "KVM"},
	    {0x483, BIT(2) | BIT(9) | BIT(15), "KVM"},
	    {0x484, BIT(2) | BIT(9), "KVM"},
	    {0x482, BIT(25) | BIT(12) | BIT(28) | BIT(21) | BIT(31), "Xen"},
	    {0x48b, BIT(1) | BIT(5) | BIT(7), "EPT, VPID, unrestricted guest"},
	};
	for (unsigned n = 0; n < array_len(need); n++)
		assert_int_equal(msr(&r, need[n].msr) >> 32 & need[n].bits, need[n].bits);
	/* Either both of a pair of load controls or none. */
	u64 exit = msr(&r, 0x483) >> 32, entry = msr(&r, 0x484) >> 32;
	assert_int_equal(exit >> 12 & 1, entry >> 13 & 1);
	assert_int_equal(exit >> 19 & 1, entry >> 14 & 1);
	assert_int_equal(exit >> 21 & 1, entry >> 15 & 1);
	/* EPT and VPID: all that KVM makes a condition. */
	u64 ept = msr(&r, 0x48c), all = BIT(0) | BIT(6) | BIT(14) | BIT(16) | BIT(17) | BIT(20) | BIT(21) | BIT(25) |
					BIT(26) | BIT(32) | (u64)15 << 40;
	assert_int_equal(ept & all, all);
	vmx_close(&r);
}

static void the_preemption_timer_is_slow_enough_for_kvm(void **state)
{
	struct vmx_rig r;
	vmx_open(&r);
	/* tsc_hz >> rate must not exceed 2^32 / 10. */
	assert_true(r.cpu->tsc_khz * 1000 >> (msr(&r, 0x485) & 31) <= ((u64)1 << 32) / 10);
	vmx_close(&r);
}

static void fixed_bits_of_cr0_and_cr4_fit_together(void **state)
{
	struct vmx_rig r;
	vmx_open(&r);
	for (u32 n = 0x486; n <= 0x488; n += 2)
		assert_int_equal(msr(&r, n) & ~msr(&r, n + 1), 0);
	assert_int_equal(msr(&r, 0x486), CR0_PE | CR0_NE | CR0_PG);
	assert_int_equal(msr(&r, 0x488), CR4_VMXE);
	assert_int_equal(msr(&r, 0x489), cpu_cr4_supported(r.cpu));
	vmx_close(&r);
}

static void vmcs_enum_is_the_highest_index_that_vmread_knows(void **state)
{
	struct vmx_rig r;
	u64 max = 0, v;
	vmx_open_root(&r);
	for (u64 encoding = 0; encoding < 0x8000; encoding += 2) {
		vmx_run_read(&r, encoding, &v);
		if (!(cpu_rflags(r.cpu) & FLAG_ZF))
			max = max_u64(max, encoding >> 1 & 0x1ff);
	}
	assert_int_equal(msr(&r, 0x48a), max << 1);
	vmx_close(&r);
}

static void every_control_bit_that_is_offered_has_a_name(void **state)
{
	struct vmx_rig r;
	vmx_open(&r);
	for (unsigned g = 0; g < GROUP_COUNT; g++)
		for (unsigned n = 0; n < 32; n++)
			if ((r.vmx->caps.allowed1[g] & ~r.vmx->caps.true_allowed0[g]) >> n & 1)
				assert_non_null(vmx_control_name(g, n));
	vmx_close(&r);
}

static void without_nesting_there_is_nothing_to_see(void **state)
{
	struct core core;
	u64 v;
	core_open(&core, CORE_LONG);
	for (u32 n = 0x480; n <= 0x493; n++)
		assert_false(cpu_rdmsr(core.cpu, n, &v));
	assert_int_equal(cpu_set_cr4(core.cpu, core.cpu->arch.cr4 | CR4_VMXE), STEP_FAULT);
	core_close(&core);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_must_be_one_may_be_one),
		cmocka_unit_test(the_true_msrs_only_free_default1_bits),
		cmocka_unit_test(the_msrs_are_read_only_and_end_where_their_controls_end),
		cmocka_unit_test(basic_reports_revision_size_and_memory_type),
		cmocka_unit_test(kvm_finds_all_that_it_requires),
		cmocka_unit_test(the_preemption_timer_is_slow_enough_for_kvm),
		cmocka_unit_test(fixed_bits_of_cr0_and_cr4_fit_together),
		cmocka_unit_test(vmcs_enum_is_the_highest_index_that_vmread_knows),
		cmocka_unit_test(every_control_bit_that_is_offered_has_a_name),
		cmocka_unit_test(without_nesting_there_is_nothing_to_see),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
