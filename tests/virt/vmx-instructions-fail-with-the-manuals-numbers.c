/* SDM "VMX Instruction Reference": #UD, #GP, VMfailInvalid and VMfailValid in the manual's order. */
#include "vmx_rig.h"

#define Z(name) ZYDIS_MNEMONIC_##name

static const u16 all_but_vmxon[] = {Z(VMXOFF),	 Z(VMCLEAR),  Z(VMPTRLD), Z(VMPTRST), Z(VMREAD), Z(VMWRITE),
				    Z(VMLAUNCH), Z(VMRESUME), Z(VMCALL),  Z(VMFUNC),  Z(INVEPT), Z(INVVPID)};

static void expect_ud(struct vmx_rig *r, enum step s) { core_expect_fault(&r->core, s, VEC_UD, -1); }

static void outside_vmx_operation_everything_but_vmxon_is_undefined(void **state)
{
	struct vmx_rig r;
	vmx_open(&r);
	for (unsigned n = 0; n < array_len(all_but_vmxon); n++)
		expect_ud(&r, vmx_run_pointer(&r, all_but_vmxon[n], AT_VMCS));
	vmx_close(&r);
}

static void vmxon_needs_vmxe_and_the_feature_control_msr(void **state)
{
	struct vmx_rig r;
	vmx_open(&r);
	expect_ud(&r, vmx_run_pointer(&r, Z(VMXON), AT_VMXON));
	assert_int_not_equal(cpu_set_cr4(r.cpu, r.cpu->arch.cr4 | CR4_VMXE), STEP_FAULT);
	static const u64 bad[] = { 0, 1, 4, 2 | 1 };
	for (unsigned n = 0; n < array_len(bad); n++) {
		r.cpu->arch.feat_ctl = bad[n];
		core_expect_fault(&r.core, vmx_run_pointer(&r, Z(VMXON), AT_VMXON), VEC_GP, 0);
	}
	r.cpu->arch.feat_ctl = 5;
	r.cpu->arch.cr0 &= ~CR0_NE; /* fixed to 1 in VMX operation */
	core_expect_fault(&r.core, vmx_run_pointer(&r, Z(VMXON), AT_VMXON), VEC_GP, 0);
	r.cpu->arch.cr0 |= CR0_NE;
	expect_ud(&r, vmx_run(&r, Z(VMXON))); /* a register operand */
	vmx_run_pointer(&r, Z(VMXON), AT_VMXON);
	vmx_expect_success(&r);
	vmx_close(&r);
}

static void vmxon_checks_its_pointer_and_the_revision(void **state)
{
	struct vmx_rig r;
	vmx_open(&r);
	assert_int_not_equal(cpu_set_cr4(r.cpu, r.cpu->arch.cr4 | CR4_VMXE), STEP_FAULT);
	const u64 bad[] = {
		AT_VMXON + 1,  AT_VMXON + 0x800, r.beyond, r.beyond | AT_VMXON, AT_OPERAND /* no revision there */,
		AT_SHADOW_VMCS};
	for (unsigned n = 0; n < array_len(bad); n++) {
		assert_int_equal(vmx_run_pointer(&r, Z(VMXON), bad[n]), STEP_END);
		vmx_expect_invalid(&r);
	}
	vmx_run_pointer(&r, Z(VMXON), AT_VMXON);
	vmx_expect_success(&r);
	/* Again: VMfailInvalid without a current VMCS, error 15 with one. */
	vmx_run_pointer(&r, Z(VMXON), AT_VMXON);
	vmx_expect_invalid(&r);
	vmx_run_pointer(&r, Z(VMPTRLD), AT_VMCS);
	r.vmcs = r.vmx->vmcs;
	vmx_run_pointer(&r, Z(VMXON), AT_VMXON);
	vmx_expect_error(&r, 15);
	vmx_close(&r);
}

static void above_cpl_0_they_raise_gp(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	core_user(&r.core);
	for (unsigned n = 0; n < array_len(all_but_vmxon); n++)
		if (all_but_vmxon[n] != Z(VMFUNC))
			core_expect_fault(&r.core, vmx_run_pointer(&r, all_but_vmxon[n], AT_VMCS), VEC_GP, 0);
	core_expect_fault(&r.core, vmx_run_pointer(&r, Z(VMXON), AT_VMXON), VEC_GP, 0);
	vmx_close(&r);
}

static void compatibility_mode_makes_them_undefined(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	r.cpu->arch.seg[SEG_CS].attr &= ~(u32)SEG_L;
	cpu_update_mode(r.cpu);
	for (unsigned n = 0; n < array_len(all_but_vmxon); n++)
		expect_ud(&r, vmx_run_pointer(&r, all_but_vmxon[n], AT_VMCS));
	expect_ud(&r, vmx_run_pointer(&r, Z(VMXON), AT_VMXON));
	vmx_close(&r);
}

static void vmclear_and_vmptrld_check_the_address(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	static const struct { u16 op; u8 address, vmxon; } rows[] = { { Z(VMCLEAR), 2, 3 }, { Z(VMPTRLD), 9, 10 } };
	for (unsigned n = 0; n < array_len(rows); n++) {
		vmx_run_pointer(&r, rows[n].op, AT_VMCS + 8);
		vmx_expect_error(&r, rows[n].address);
		vmx_run_pointer(&r, rows[n].op, r.beyond);
		vmx_expect_error(&r, rows[n].address);
		vmx_run_pointer(&r, rows[n].op, AT_VMXON);
		vmx_expect_error(&r, rows[n].vmxon);
	}
	vmx_run_pointer(&r, Z(VMPTRLD), AT_OPERAND);
	vmx_expect_error(&r, 11);
	vmx_run_pointer(&r, Z(VMPTRLD), AT_SHADOW_VMCS); /* a shadow VMCS may be loaded, but not entered */
	vmx_expect_success(&r);
	vmx_run(&r, Z(VMLAUNCH));
	vmx_expect_invalid(&r);
	vmx_close(&r);
}

static void vmclear_of_the_current_vmcs_leaves_none(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	vmx_run_pointer(&r, Z(VMPTRST), 0);
	assert_int_equal(core_get(&r.core, AT_OPERAND, 8), AT_VMCS);
	vmx_run_pointer(&r, Z(VMCLEAR), AT_VMCS);
	vmx_expect_success(&r);
	vmx_run_pointer(&r, Z(VMPTRST), 0);
	assert_int_equal(core_get(&r.core, AT_OPERAND, 8), ~(u64)0);
	u64 v;
	vmx_run_read(&r, 0x4400, &v);
	vmx_expect_invalid(&r);
	vmx_run(&r, Z(VMCALL));
	vmx_expect_invalid(&r);
	vmx_close(&r);
}

static void launch_state_decides_between_vmlaunch_and_vmresume(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	vmx_run(&r, Z(VMRESUME));
	vmx_expect_error(&r, 5);
	r.vmcs->launched = 1;
	vmx_run(&r, Z(VMLAUNCH));
	vmx_expect_error(&r, 4);
	r.cpu->arch.shadow = SHADOW_MOVSS;
	vmx_run(&r, Z(VMLAUNCH)); /* MOV SS comes first */
	vmx_expect_error(&r, 26);
	r.cpu->arch.shadow = 0;
	vmx_run_pointer(&r, Z(VMCLEAR), AT_VMCS);
	vmx_run_pointer(&r, Z(VMPTRLD), AT_VMCS);
	vmx_run(&r, Z(VMRESUME));
	vmx_expect_error(&r, 5);
	vmx_close(&r);
}

static void vmcall_in_root_operation_is_error_1(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	vmx_run(&r, Z(VMCALL));
	vmx_expect_error(&r, 1);
	expect_ud(&r, vmx_run(&r, Z(VMFUNC)));
	vmx_close(&r);
}

static void every_field_reads_back_what_its_width_holds(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	for (unsigned s = 0; s < VF_COUNT; s++) {
		u64 v, wanted = 0xfedcba9876543210 ^ s;
		unsigned encoding = vmcs_fields[s].encoding;
		vmx_run_write(&r, encoding, wanted);
		if (!can(r.vmx, vmcs_fields[s].gate)) {
			vmx_expect_error(&r, 12);
			continue;
		}
		vmx_expect_success(&r);
		vmx_run_read(&r, encoding, &v);
		vmx_expect_success(&r);
		assert_int_equal(v, wanted & vmcs_mask(s));
		vmx_run_read(&r, encoding | 1, &v);
		if (encoding >> 13 == 1) {
			assert_int_equal(v, wanted >> 32);
			vmx_run_write(&r, encoding | 1, 0xaabbccdd);
			vmx_run_read(&r, encoding, &v);
			assert_int_equal(v, (wanted & 0xffffffff) | 0xaabbccdd00000000);
		} else {
			vmx_expect_error(&r, 12);
		}
	}
	vmx_close(&r);
}

static void unknown_fields_are_error_12(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	static const u64 unknown[] = {0xffff,		0x1000, 0x5000, 0x8000, 0x10000,
				      0x4400 | BIT(32), 0x6c18, 0x0c0e, 0x7fff, 0x207e};
	for (unsigned n = 0; n < array_len(unknown); n++) {
		u64 v;
		vmx_run_read(&r, unknown[n], &v);
		vmx_expect_error(&r, 12);
		assert_int_equal(v, 0x5555555555555555);
		vmx_run_write(&r, unknown[n], 0);
		vmx_expect_error(&r, 12);
	}
	vmx_close(&r);
}

static void invept_and_invvpid_check_type_and_descriptor(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	static const struct { u16 op; u64 type, low, high; bool ok;
	} rows[] = {
		{Z(INVEPT), 0, 0, 0, false},
		{Z(INVEPT), 3, 0, 0, false},
		{Z(INVEPT), 2, 0, 0, true},
		{Z(INVEPT), 1, AT_EPT | 0x1e, 0, true},
		{Z(INVEPT), 1, AT_EPT | 0x5e, 0, true},
		{Z(INVEPT), 1, AT_EPT | 0x1f, 0, false},
		{Z(INVEPT), 1, AT_EPT | 0x26, 0, false},
		{Z(INVEPT), 1, AT_EPT | 0x9e, 0, false},
		{Z(INVEPT), 1, BIT(51) | 0x1e, 0, false},
		{Z(INVVPID), 4, 1, 0, false},
		{Z(INVVPID), 2, 0, 0, true},
		{Z(INVVPID), 1, 0, 0, false},
		{Z(INVVPID), 1, 1, 0, true},
		{Z(INVVPID), 3, 0, 0, false},
		{Z(INVVPID), 3, 7, 0, true},
		{Z(INVVPID), 0, 1, 0x1000, true},
		{Z(INVVPID), 0, 0, 0x1000, false},
		{Z(INVVPID), 0, 1, BIT(47), false},
		{Z(INVVPID), 2, 0x10000, 0, false},
		{Z(INVVPID), 1, 1 | BIT(63), 0, false},
	};
	for (unsigned n = 0; n < array_len(rows); n++) {
		assert_int_equal(vmx_run_desc(&r, rows[n].op, rows[n].type, rows[n].low, rows[n].high), STEP_END);
		if (rows[n].ok)
			vmx_expect_success(&r);
		else
			vmx_expect_error(&r, 28);
	}
	vmx_close(&r);
}

static void in_a_guest_they_exit_whatever_the_cpl(void **state)
{
	static const struct {
		u16 op;
		u32 reason;
	} rows[] = {{Z(VMCALL), 18},  {Z(VMCLEAR), 19}, {Z(VMLAUNCH), 20}, {Z(VMPTRLD), 21},
		    {Z(VMPTRST), 22}, {Z(VMREAD), 23},	{Z(VMRESUME), 24}, {Z(VMWRITE), 25},
		    {Z(VMXOFF), 26},  {Z(VMXON), 27},	{Z(INVEPT), 50},   {Z(INVVPID), 53}};
	for (unsigned n = 0; n < array_len(rows); n++) {
		struct vmx_rig r;
		vmx_open_root(&r);
		vmx_run(&r, Z(VMLAUNCH));
		assert_true(r.cpu->arch.guest_mode);
		r.cpu->arch.cpl = 3;
		assert_int_equal(vmx_run_pointer(&r, rows[n].op, AT_VMCS), STEP_STOP);
		vmx_expect_exit(&r, rows[n].reason);
		assert_int_equal(get_field(&r, VF_EXIT_INSN_LENGTH), 3);
		assert_int_equal(get_field(&r, VF_GUEST_RIP), AT_GUEST_CODE);
		vmx_close(&r);
	}
}

static void shadowed_accesses_go_to_the_linked_vmcs(void **state)
{
	struct vmx_rig r;
	u64 v;
	vmx_open_root(&r);
	set_control(&r, CTL_PROC2_VMCS_SHADOWING, true);
	set_field(&r, VF_VMREAD_BITMAP, AT_IO_A);
	set_field(&r, VF_VMWRITE_BITMAP, AT_IO_B);
	set_field(&r, VF_VMCS_LINK, AT_SHADOW_VMCS);
	core_set(&r.core, AT_IO_B + 0x4402 / 8, 1, 1 << (0x4402 & 7)); /* writes of EXIT_REASON exit */
	vmx_run(&r, Z(VMLAUNCH));
	assert_true(r.cpu->arch.guest_mode);
	vmx_run_write(&r, 0x681e, 0x1234);
	vmx_expect_success(&r);
	vmx_run_read(&r, 0x681e, &v);
	assert_int_equal(v, 0x1234);
	assert_int_equal(core_get(&r.core, AT_SHADOW_VMCS + offsetof(struct vmcs, f) + 8 * VF_GUEST_RIP, 8), 0x1234);
	vmx_run_read(&r, 0x7ffe, &v);
	vmx_expect_error(&r, 12);
	vmx_run_write(&r, 0x4402, 1);
	vmx_expect_exit(&r, EXIT_VMWRITE);
	assert_int_equal(get_field(&r, VF_EXIT_INSN_INFO), BIT(10) | GPR_RBX << 3 | GPR_RCX << 28);
	vmx_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(outside_vmx_operation_everything_but_vmxon_is_undefined),
		cmocka_unit_test(vmxon_needs_vmxe_and_the_feature_control_msr),
		cmocka_unit_test(vmxon_checks_its_pointer_and_the_revision),
		cmocka_unit_test(above_cpl_0_they_raise_gp),
		cmocka_unit_test(compatibility_mode_makes_them_undefined),
		cmocka_unit_test(vmclear_and_vmptrld_check_the_address),
		cmocka_unit_test(vmclear_of_the_current_vmcs_leaves_none),
		cmocka_unit_test(launch_state_decides_between_vmlaunch_and_vmresume),
		cmocka_unit_test(vmcall_in_root_operation_is_error_1),
		cmocka_unit_test(every_field_reads_back_what_its_width_holds),
		cmocka_unit_test(unknown_fields_are_error_12),
		cmocka_unit_test(invept_and_invvpid_check_type_and_descriptor),
		cmocka_unit_test(in_a_guest_they_exit_whatever_the_cpl),
		cmocka_unit_test(shadowed_accesses_go_to_the_linked_vmcs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
