/* SDM "Loading Guest State", "Saving Guest State", "Loading Host State", "VM-Entry Failures During or After Loading
 * Guest State". */
#include "vmx_rig.h"

static void enter(struct vmx_rig *r)
{
	vmx_run(r, r->vmcs->launched ? ZYDIS_MNEMONIC_VMRESUME : ZYDIS_MNEMONIC_VMLAUNCH);
	assert_true(r->cpu->arch.guest_mode);
}

static void leave(struct vmx_rig *r)
{
	vmx_run(r, ZYDIS_MNEMONIC_VMCALL);
	vmx_expect_exit(r, EXIT_VMCALL);
}

static void the_guest_gets_its_registers(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	struct cpu_arch *a = &r.cpu->arch;
	set_control(&r, CTL_ENTRY_LOAD_DEBUG, true);
	set_field(&r, VF_GUEST_DR7, 0xffffffff);
	set_field(&r, VF_GUEST_FS_BASE, 0x7f0000001000);
	set_field(&r, VF_GUEST_SYSENTER_EIP, 0xffff800000001000);
	set_field(&r, VF_GUEST_RFLAGS, FLAG_FIXED1 | FLAG_CF | FLAG_OF | FLAG_IF);
	set_field(&r, VF_GUEST_INTERRUPTIBILITY, SHADOW_STI);
	enter(&r);
	assert_int_equal(a->rip, AT_GUEST_CODE);
	assert_int_equal(a->gpr[GPR_RSP], AT_STACK3);
	assert_int_equal(cpu_rflags(r.cpu), FLAG_FIXED1 | FLAG_CF | FLAG_OF | FLAG_IF);
	assert_int_equal(a->dr[7], 0xffff2fff);
	assert_int_equal(a->seg[SEG_FS].base, 0x7f0000001000);
	assert_int_equal(a->sysenter_eip, 0xffff800000001000);
	assert_int_equal(a->shadow, SHADOW_STI);
	assert_int_equal(a->gdtr.limit, GDT_END - 1);
	assert_int_equal(a->ldtr.attr & SEG_UNUSABLE, SEG_UNUSABLE);
	vmx_close(&r);
}

static void cr0_keeps_et_nw_and_cd_both_ways(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	r.cpu->arch.cr0 |= CR0_CD;
	set_field(&r, VF_GUEST_CR0, get_field(&r, VF_GUEST_CR0) & ~(u64)CR0_ET);
	enter(&r);
	assert_int_equal(r.cpu->arch.cr0 & (CR0_CD | CR0_NW | CR0_ET), CR0_CD | CR0_ET);
	r.cpu->arch.cr0 &= ~(u64)CR0_CD;
	set_field(&r, VF_HOST_CR0, get_field(&r, VF_HOST_CR0) | CR0_CD);
	leave(&r);
	assert_int_equal(r.cpu->arch.cr0 & (CR0_CD | CR0_NW | CR0_ET), CR0_ET);
	vmx_close(&r);
}

static void the_host_gets_the_manuals_defaults(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	struct cpu_arch *a = &r.cpu->arch;
	set_field(&r, VF_HOST_GS_BASE, 0xffff800000002000);
	set_field(&r, VF_HOST_DS_SELECTOR, 0);
	enter(&r);
	a->dr[7] = 0x4ff;
	a->debugctl = 3;
	a->shadow = SHADOW_MOVSS;
	a->pending_dbg = BIT(12) | 1;
	cpu_set_rflags(r.cpu, FLAG_FIXED1 | FLAG_IF | FLAG_ZF | FLAG_DF);
	leave(&r);
	assert_int_equal(a->dr[7], 0x400);
	assert_int_equal(a->debugctl, 0);
	assert_int_equal(cpu_rflags(r.cpu), FLAG_FIXED1);
	assert_int_equal(a->shadow, 0);
	assert_int_equal(a->pending_dbg, 0);
	assert_int_equal(a->gdtr.limit, 0xffff);
	assert_int_equal(a->idtr.limit, 0xffff);
	assert_int_equal(a->tr.limit, 0x67);
	assert_int_equal(a->tr.attr, 0x8b);
	assert_int_equal(a->ldtr.attr & SEG_UNUSABLE, SEG_UNUSABLE);
	assert_int_equal(a->seg[SEG_CS].attr, 0xa09b);
	assert_int_equal(a->seg[SEG_CS].limit, 0xffffffff);
	assert_int_equal(a->seg[SEG_SS].attr, 0xc093);
	assert_int_equal(a->seg[SEG_DS].attr & SEG_UNUSABLE, SEG_UNUSABLE);
	assert_int_equal(a->seg[SEG_GS].base, 0xffff800000002000);
	assert_int_equal(a->cpl, 0);
	assert_int_equal(a->gpr[GPR_RSP], AT_STACK0);
	/* What the guest had is in the VMCS. */
	assert_int_equal(get_field(&r, VF_GUEST_INTERRUPTIBILITY), SHADOW_MOVSS);
	assert_int_equal(get_field(&r, VF_GUEST_PENDING_DBG), BIT(12) | 1);
	assert_int_equal(get_field(&r, VF_GUEST_RFLAGS), FLAG_FIXED1 | FLAG_IF | FLAG_ZF | FLAG_DF);
	vmx_close(&r);
}

static void every_segment_register_survives_the_round_trip(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	enter(&r);
	for (unsigned n = 0; n < SEG_COUNT; n++)
		if (n != SEG_CS && n != SEG_SS)
			r.cpu->arch.seg[n] = (struct seg){
				.base = 0x1000 * n, .limit = 0xffff + n, .attr = 0x93 | SEG_UNUSABLE, .sel = 8 * n};
	r.cpu->arch.ldtr = (struct seg){ .base = 0x123000, .limit = 0xfff, .attr = 0x82, .sel = 0x80 };
	struct cpu_arch before = r.cpu->arch;
	leave(&r);
	enter(&r);
	assert_memory_equal(r.cpu->arch.seg, before.seg, sizeof before.seg);
	assert_memory_equal(&r.cpu->arch.ldtr, &before.ldtr, sizeof before.ldtr);
	assert_memory_equal(&r.cpu->arch.tr, &before.tr, sizeof before.tr);
	vmx_close(&r);
}

static void save_and_load_controls_move_pat_efer_and_debug(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	static const enum vmx_control on[] = {CTL_EXIT_SAVE_PAT,   CTL_EXIT_LOAD_PAT,	CTL_EXIT_SAVE_EFER,
					      CTL_EXIT_LOAD_EFER,  CTL_EXIT_SAVE_DEBUG, CTL_ENTRY_LOAD_PAT,
					      CTL_ENTRY_LOAD_EFER, CTL_ENTRY_LOAD_DEBUG};
	for (unsigned n = 0; n < array_len(on); n++)
		set_control(&r, on[n], true);
	set_field(&r, VF_GUEST_PAT, 0x0606060606060606);
	set_field(&r, VF_HOST_PAT, 0x0404040404040404);
	set_field(&r, VF_GUEST_EFER, EFER_LMA | EFER_LME);
	set_field(&r, VF_HOST_EFER, EFER_LMA | EFER_LME | EFER_SCE);
	enter(&r);
	assert_int_equal(r.cpu->arch.pat, 0x0606060606060606);
	assert_int_equal(r.cpu->arch.efer, EFER_LMA | EFER_LME);
	r.cpu->arch.pat = 0x0101010101010101;
	r.cpu->arch.efer |= EFER_NXE;
	r.cpu->arch.dr[7] = 0x401;
	r.cpu->arch.debugctl = 2;
	leave(&r);
	assert_int_equal(r.cpu->arch.pat, 0x0404040404040404);
	assert_int_equal(r.cpu->arch.efer, EFER_LMA | EFER_LME | EFER_SCE);
	assert_int_equal(get_field(&r, VF_GUEST_PAT), 0x0101010101010101);
	assert_int_equal(get_field(&r, VF_GUEST_EFER), EFER_LMA | EFER_LME | EFER_NXE);
	assert_int_equal(get_field(&r, VF_GUEST_DR7), 0x401);
	assert_int_equal(get_field(&r, VF_GUEST_DEBUGCTL), 2);
	vmx_close(&r);
}

static void lma_goes_back_into_the_entry_controls(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	enter(&r);
	r.cpu->arch.efer &= ~(u64)EFER_LMA;
	r.cpu->arch.seg[SEG_CS].attr = 0xc09b;
	cpu_update_mode(r.cpu);
	vmx_run(&r, ZYDIS_MNEMONIC_VMCALL);
	assert_int_equal(get_field(&r, VF_ENTRY_CONTROLS) & BIT(9), 0);
	vmx_close(&r);
}

static void msr_lists_are_stored_and_loaded(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	set_field(&r, VF_ENTRY_MSR_LOAD_ADDR, AT_MSR_LIST);
	set_field(&r, VF_ENTRY_MSR_LOAD_COUNT, 1);
	set_field(&r, VF_EXIT_MSR_STORE_ADDR, AT_MSR_LIST + 0x100);
	set_field(&r, VF_EXIT_MSR_STORE_COUNT, 1);
	set_field(&r, VF_EXIT_MSR_LOAD_ADDR, AT_MSR_LIST + 0x200);
	set_field(&r, VF_EXIT_MSR_LOAD_COUNT, 1);
	static const u64 values[] = { 0x1111, 0, 0x3333 };
	for (unsigned n = 0; n < 3; n++) {
		core_set(&r.core, AT_MSR_LIST + 0x100 * n, 8, 0xc0000102); /* IA32_KERNEL_GS_BASE */
		core_set(&r.core, AT_MSR_LIST + 0x100 * n + 8, 8, values[n]);
	}
	enter(&r);
	assert_int_equal(r.cpu->arch.kernel_gs_base, 0x1111);
	r.cpu->arch.kernel_gs_base = 0x2222;
	leave(&r);
	assert_int_equal(core_get(&r.core, AT_MSR_LIST + 0x108, 8), 0x2222);
	assert_int_equal(r.cpu->arch.kernel_gs_base, 0x3333);
	vmx_close(&r);
}

static void a_bad_exit_msr_list_is_a_vmx_abort(void **state)
{
	static const struct {
		enum vmcs_slot addr, count;
		u32 code;
	} rows[] = {{VF_EXIT_MSR_STORE_ADDR, VF_EXIT_MSR_STORE_COUNT, 1},
		    {VF_EXIT_MSR_LOAD_ADDR, VF_EXIT_MSR_LOAD_COUNT, 4}};
	for (unsigned n = 0; n < array_len(rows); n++) {
		struct vmx_rig r;
		vmx_open_root(&r);
		set_field(&r, rows[n].addr, AT_MSR_LIST);
		set_field(&r, rows[n].count, 1);
		core_set(&r.core, AT_MSR_LIST, 8, 0x174 | BIT(32));
		enter(&r);
		vmx_run(&r, ZYDIS_MNEMONIC_VMCALL);
		assert_int_equal(r.cpu->arch.activity, ACT_SHUTDOWN);
		assert_int_equal(r.vmcs->abort, rows[n].code);
		assert_non_null(strstr(r.cpu->death, "VMX abort"));
		vmx_close(&r);
	}
}

static void injected_events_wait_for_the_core(void **state)
{
	static const struct { u32 info; struct event ev;
	} rows[] = {
		{BIT(31) | 0x20, {.kind = EVENT_EXT_INT, .vector = 0x20}},
		{BIT(31) | 2 << 8 | 2, {.kind = EVENT_NMI, .vector = 2}},
		{BIT(31) | BIT(11) | 3 << 8 | 13, {.kind = EVENT_FAULT, .vector = 13, .has_error = 1, .error = 0x18}},
		{BIT(31) | 4 << 8 | 0x80, {.kind = EVENT_SOFT_INT, .vector = 0x80}},
		{BIT(31) | 5 << 8 | 1, {.kind = EVENT_ICEBP, .vector = 1}},
		{BIT(31) | 6 << 8 | 3, {.kind = EVENT_SOFT_EXC, .vector = 3}},
	};
	for (unsigned n = 0; n < array_len(rows); n++) {
		struct vmx_rig r;
		vmx_open_root(&r);
		set_field(&r, VF_GUEST_RFLAGS, 0x202);
		set_field(&r, VF_ENTRY_INTR_INFO, rows[n].info);
		set_field(&r, VF_ENTRY_EXCEPTION_ERROR, 0x18);
		set_field(&r, VF_ENTRY_INSN_LENGTH, 2);
		enter(&r);
		const struct event *ev = &r.cpu->arch.inject;
		assert_int_equal(ev->kind, rows[n].ev.kind);
		assert_int_equal(ev->vector, rows[n].ev.vector);
		assert_int_equal(ev->has_error, rows[n].ev.has_error);
		if (ev->has_error)
			assert_int_equal(ev->error, rows[n].ev.error);
		assert_true(r.cpu->pending & PEND_INJECT);
		assert_int_equal(vmx_event_info(ev), rows[n].info);
		leave(&r);
		/* An exit clears the valid bit. */
		assert_int_equal(get_field(&r, VF_ENTRY_INTR_INFO), rows[n].info & ~BIT(31));
		assert_false(r.cpu->pending & PEND_INJECT);
		vmx_close(&r);
	}
}

static void inactive_states_are_entered_unless_an_event_is_injected(void **state)
{
	for (unsigned activity = ACT_HLT; activity <= ACT_WAIT_SIPI; activity++) {
		struct vmx_rig r;
		vmx_open_root(&r);
		set_field(&r, VF_GUEST_ACTIVITY, activity);
		enter(&r);
		assert_int_equal(r.cpu->arch.activity, activity);
		leave(&r);
		assert_int_equal(get_field(&r, VF_GUEST_ACTIVITY), activity);
		assert_int_equal(r.cpu->arch.activity, ACT_ACTIVE);
		if (activity != ACT_WAIT_SIPI) {
			set_field(&r, VF_GUEST_ACTIVITY, activity);
			set_field(&r, VF_ENTRY_INTR_INFO, BIT(31) | 2 << 8 | 2);
			enter(&r);
			assert_int_equal(r.cpu->arch.activity, ACT_ACTIVE);
		}
		vmx_close(&r);
	}
}

static void a_failed_entry_saves_nothing_and_loads_the_host(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	set_field(&r, VF_EXIT_INTR_INFO, 0x1234);
	set_field(&r, VF_ENTRY_INTR_INFO, BIT(31) | 3 << 8 | 6);
	set_field(&r, VF_GUEST_RFLAGS, 0);
	r.cpu->arch.dr[7] = 0x4ff;
	vmx_run(&r, ZYDIS_MNEMONIC_VMLAUNCH);
	vmx_expect_exit(&r, 33 | EXIT_ENTRY_FAILURE);
	assert_int_equal(r.cpu->arch.dr[7], 0x400);
	assert_int_equal(get_field(&r, VF_EXIT_INTR_INFO), 0x1234);
	assert_int_equal(get_field(&r, VF_ENTRY_INTR_INFO), BIT(31) | 3 << 8 | 6);
	assert_int_equal(get_field(&r, VF_GUEST_RFLAGS), 0);
	assert_int_equal(r.vmcs->launched, 0);
	vmx_close(&r);
}

static void a_vmcs_that_is_scribbled_on_while_its_guest_runs_changes_nothing(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	enter(&r);
	u64 rip = get_field(&r, VF_HOST_RIP);
	set_field(&r, VF_HOST_RIP, 0xdead);
	set_field(&r, VF_EXIT_CONTROLS, 0);
	vmx_run(&r, ZYDIS_MNEMONIC_VMCALL);
	assert_int_equal(r.cpu->arch.rip, rip);
	assert_true(r.cpu->mode & MODE_L);
	vmx_close(&r);
}

static void a_running_guest_comes_back_from_its_saved_rows_and_ram(void **state)
{
	struct vmx_rig r;
	struct state_buf b = { 0 };
	size_t pos = 0;
	vmx_open_root(&r);
	set_control(&r, CTL_PROC2_VPID, true);
	set_field(&r, VF_VPID, 7);
	set_control(&r, CTL_PROC_HLT, true);
	enter(&r);
	state_save(&b, vmx_ops.state, "vmx", r.cpu->virt_state);
	vmx_destroy(r.cpu);
	assert_int_equal(vmx_create(r.cpu), 0);
	r.vmx = r.cpu->virt_state;
	assert_int_equal(state_load(&b, &pos, vmx_ops.state, "vmx", r.cpu->virt_state), 0);
	vmx_ops.loaded(r.cpu);
	u16 vpid;
	u64 root;
	vmx_ops.tlb_tag(r.cpu, &vpid, &root);
	assert_int_equal(vpid, 7);
	struct insn i = vmx_insn_of(0);
	assert_true(vmx_ops.icept(r.cpu, ICEPT_HLT, &i, 0, 0));
	vmx_expect_exit(&r, EXIT_HLT);
	state_buf_free(&b);
	vmx_close(&r);
}

static void what_passed_once_is_checked_again_when_it_has_changed(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	u64 cr4 = get_field(&r, VF_HOST_CR4), gs = get_field(&r, VF_HOST_GS_BASE);
	enter(&r);
	leave(&r);
	set_field(&r, VF_HOST_CR4, cr4 & ~(u64)CR4_VMXE);
	vmx_run(&r, ZYDIS_MNEMONIC_VMRESUME);
	vmx_expect_error(&r, VMERR_ENTRY_HOST_STATE);
	set_field(&r, VF_HOST_CR4, cr4);
	set_field(&r, VF_HOST_GS_BASE, 0xffff800000003000);
	enter(&r);
	leave(&r);
	assert_int_equal(r.cpu->arch.seg[SEG_GS].base, 0xffff800000003000);
	set_field(&r, VF_HOST_GS_BASE, gs);
	set_field(&r, VF_PIN_CONTROLS, 0);
	vmx_run(&r, ZYDIS_MNEMONIC_VMRESUME);
	vmx_expect_error(&r, VMERR_ENTRY_CONTROLS);
	vmx_close(&r);
}

static u64 npt_root(struct vmx_rig *r)
{
	u16 vpid;
	u64 root;
	vmx_ops.tlb_tag(r->cpu, &vpid, &root);
	return root;
}

static void an_eptp_that_is_written_back_after_eptp_switching_is_the_one_used(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	u64 eptp = AT_EPT | 3 << 3 | 6, other = (AT_EPT + 0x4000) | 3 << 3 | 6;
	set_control(&r, CTL_PROC2_EPT, true);
	set_control(&r, CTL_PROC2_VM_FUNCTIONS, true);
	set_field(&r, VF_EPTP, eptp);
	set_field(&r, VF_VM_FUNCTION_CONTROLS, 1);
	set_field(&r, VF_EPTP_LIST, AT_EPTP_LIST);
	cpu_phys_write(r.cpu, AT_EPTP_LIST + 8, 8, other);
	enter(&r);
	u64 root = npt_root(&r);
	r.cpu->arch.gpr[GPR_RAX] = 0;
	r.cpu->arch.gpr[GPR_RCX] = 1;
	vmx_run(&r, ZYDIS_MNEMONIC_VMFUNC);
	assert_int_not_equal(npt_root(&r), root);
	leave(&r);
	assert_int_equal(get_field(&r, VF_EPTP), other);
	set_field(&r, VF_EPTP, eptp);
	enter(&r);
	assert_int_equal(npt_root(&r), root);
	vmx_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_guest_gets_its_registers),
		cmocka_unit_test(cr0_keeps_et_nw_and_cd_both_ways),
		cmocka_unit_test(the_host_gets_the_manuals_defaults),
		cmocka_unit_test(every_segment_register_survives_the_round_trip),
		cmocka_unit_test(save_and_load_controls_move_pat_efer_and_debug),
		cmocka_unit_test(lma_goes_back_into_the_entry_controls),
		cmocka_unit_test(msr_lists_are_stored_and_loaded),
		cmocka_unit_test(a_bad_exit_msr_list_is_a_vmx_abort),
		cmocka_unit_test(injected_events_wait_for_the_core),
		cmocka_unit_test(inactive_states_are_entered_unless_an_event_is_injected),
		cmocka_unit_test(a_failed_entry_saves_nothing_and_loads_the_host),
		cmocka_unit_test(a_vmcs_that_is_scribbled_on_while_its_guest_runs_changes_nothing),
		cmocka_unit_test(what_passed_once_is_checked_again_when_it_has_changed),
		cmocka_unit_test(an_eptp_that_is_written_back_after_eptp_switching_is_the_one_used),
		cmocka_unit_test(a_running_guest_comes_back_from_its_saved_rows_and_ram),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
