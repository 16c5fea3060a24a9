/* VM entry leaves out checks whose outcome the last entry knows. Each way in which a field of the guest's state can change in between is tried with values that must
 * not pass, after entries that built on earlier ones (short_entries says so). */
#include "vmx_rig.h"
#include "mem/mem.h"

#define HIGH 0x0000800000000000ull /* lowest non-canonical address */

static void resume(struct vmx_rig *r)
{
	vmx_run(r, ZYDIS_MNEMONIC_VMRESUME);
	assert_true(r->cpu->arch.guest_mode);
}

static void leave(struct vmx_rig *r) { vmx_exit(r->cpu, EXIT_CPUID, 0); }

/* In root operation, after entries of the baseline guest of which the last one was short. */
static void open_warm(struct vmx_rig *r)
{
	vmx_open_root(r);
	vmx_run(r, ZYDIS_MNEMONIC_VMLAUNCH);
	assert_true(r->cpu->arch.guest_mode);
	leave(r);
	assert_int_equal(r->vmx->short_entries, 0);
	resume(r);
	assert_int_equal(r->vmx->short_entries, 1);
	leave(r);
}

static void expect_bad_state(struct vmx_rig *r, enum vmx_check row)
{
	vmx_run(r, ZYDIS_MNEMONIC_VMRESUME);
	vmx_expect_exit(r, EXIT_INVALID_GUEST_STATE | EXIT_ENTRY_FAILURE);
	assert_int_equal(vmx_last_failure(r->cpu, 0)->check, row);
}

static void what_moves_is_loaded_by_a_short_entry(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	set_field(&r, VF_GUEST_RIP, 0x123456);
	set_field(&r, VF_GUEST_RSP, 0x777000);
	set_field(&r, VF_GUEST_RFLAGS, FLAG_FIXED1 | FLAG_IF | FLAG_CF);
	set_field(&r, VF_GUEST_CR3, 0x5000);
	set_field(&r, VF_GUEST_FS_BASE, 0x111000);
	set_field(&r, VF_GUEST_GS_BASE, 0x222000);
	set_field(&r, VF_GUEST_INTERRUPTIBILITY, SHADOW_STI);
	resume(&r);
	assert_int_equal(r.vmx->short_entries, 2);
	const struct cpu_arch *a = &r.cpu->arch;
	assert_int_equal(a->rip, 0x123456);
	assert_int_equal(a->gpr[GPR_RSP], 0x777000);
	assert_int_equal(cpu_rflags(r.cpu), FLAG_FIXED1 | FLAG_IF | FLAG_CF);
	assert_int_equal(a->cr3, 0x5000);
	assert_int_equal(a->seg[SEG_FS].base, 0x111000);
	assert_int_equal(a->seg[SEG_GS].base, 0x222000);
	assert_int_equal(a->shadow, SHADOW_STI);
	vmx_close(&r);
}

static void vmwrite_of_any_part_of_the_state_is_noticed(void **state)
{
	static const struct { enum vmcs_slot field; u64 value; enum vmx_check row; } bad[] = {
		{ VF_GUEST_CR0, 0, CHECK_guest_cr0_fixed },
		{ VF_GUEST_CR4, 0, CHECK_guest_cr4_fixed },
		{ VF_GUEST_CR3, (u64)1 << 60, CHECK_guest_cr3_width },
		{ VF_GUEST_SYSENTER_EIP, (u64)1 << 60, CHECK_guest_sysenter_eip },
		{ VF_GUEST_CS_AR, 11 | SEG_S | SEG_P | SEG_L | SEG_DB | SEG_G, CHECK_cs_db },
		{ VF_GUEST_TR_AR, SEG_UNUSABLE, CHECK_tr_type },
		{ VF_GUEST_GS_BASE, (u64)1 << 60, CHECK_gs_base },
		{ VF_GUEST_GDTR_LIMIT, 0x10000, CHECK_guest_gdtr_limit },
		{ VF_GUEST_RIP, (u64)1 << 60, CHECK_guest_rip64 },
		{ VF_GUEST_RFLAGS, FLAG_FIXED1 | BIT(15), CHECK_rflags_reserved },
		{ VF_GUEST_RFLAGS, FLAG_FIXED1 | FLAG_VM, CHECK_cs_base_vm86 },
		{ VF_GUEST_INTERRUPTIBILITY, SHADOW_STI, CHECK_interruptibility_sti_if },
		{ VF_GUEST_ACTIVITY, 4, CHECK_activity_known },
		{ VF_GUEST_PENDING_DBG, BIT(4), CHECK_pending_dbg_reserved },
		{ VF_VMCS_LINK, AT_VMCS, CHECK_link_current },
	};
	for (unsigned n = 0; n < array_len(bad); n++) {
		struct vmx_rig r;
		open_warm(&r);
		vmx_run_write(&r, vmcs_fields[bad[n].field].encoding, bad[n].value);
		vmx_expect_success(&r);
		vmx_run(&r, ZYDIS_MNEMONIC_VMRESUME);
		assert_false(r.cpu->arch.guest_mode);
		const struct vmx_failure *f = vmx_last_failure(r.cpu, 0);
		/* RFLAGS.VM has more than one thing against it */
		if (bad[n].row != CHECK_cs_base_vm86)
			assert_int_equal(f->check, bad[n].row);
		vmx_close(&r);
	}
}

static void point_at(struct vmx_rig *r, u64 at)
{
	vmx_run_pointer(r, ZYDIS_MNEMONIC_VMPTRLD, at);
	vmx_expect_success(r);
	r->vmcs = r->vmx->vmcs;
}

/* It may be noticed by any entry; what was not checked is never loaded. */
static void a_write_to_the_page_is_noticed_by_vmptrld(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	u32 attr = r.vmx->f[VF_GUEST_LDTR_AR];
	core_set(&r.core, AT_VMCS + offsetof(struct vmcs, f[VF_GUEST_LDTR_AR]), 8, 0);
	vmx_run(&r, ZYDIS_MNEMONIC_VMRESUME);
	if (r.cpu->arch.guest_mode) {
		assert_int_equal(r.cpu->arch.ldtr.attr, attr);
		leave(&r);
		point_at(&r, AT_VMCS);
		vmx_run(&r, ZYDIS_MNEMONIC_VMRESUME);
	}
	vmx_expect_exit(&r, EXIT_INVALID_GUEST_STATE | EXIT_ENTRY_FAILURE);
	assert_int_equal(vmx_last_failure(r.cpu, 0)->check, CHECK_ldtr_type);
	vmx_close(&r);
}

/* Bits beyond a field's width are not the field's. */
static void bits_that_a_field_does_not_have_are_ignored(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	r.vmcs->f[VF_GUEST_ES_SELECTOR] |= 0xabc0000;
	r.vmcs->f[VF_GUEST_ACTIVITY] |= (u64)1 << 32;
	vmcs_changed(r.cpu);
	resume(&r);
	assert_int_equal(r.cpu->arch.seg[SEG_ES].sel, DATA0);
	assert_int_equal(r.cpu->arch.activity, ACT_ACTIVE);
	vmx_close(&r);
}

static void copy_to_other(struct vmx_rig *r)
{
	u8 page[sizeof(struct vmcs)];
	assert_int_equal(mem_read(r->cpu->mem, gpa(AT_VMCS), page, sizeof page), 0);
	assert_int_equal(mem_write(r->cpu->mem, gpa(AT_SHADOW_VMCS), page, sizeof page), 0);
}

static void another_vmcs_is_looked_at(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	copy_to_other(&r);
	point_at(&r, AT_SHADOW_VMCS);
	set_field(&r, VF_GUEST_SS_AR, 0);
	expect_bad_state(&r, CHECK_ss_type);
	point_at(&r, AT_VMCS); /* and the first one is as good as before */
	resume(&r);
	leave(&r);
	resume(&r);
	vmx_close(&r);
}

static void a_link_pointer_that_names_the_current_vmcs_is_found(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	copy_to_other(&r);
	set_field(&r, VF_VMCS_LINK, AT_SHADOW_VMCS);
	resume(&r);
	leave(&r);
	resume(&r); /* its first word is in memory: nothing to build on */
	assert_int_equal(r.vmx->short_entries, 1);
	leave(&r);
	core_set(&r.core, AT_SHADOW_VMCS, 4, VMCS_REVISION + 1);
	expect_bad_state(&r, CHECK_link_revision);
	core_set(&r.core, AT_SHADOW_VMCS, 4, VMCS_REVISION);
	copy_to_other(&r);
	set_field(&r, VF_VMCS_LINK, AT_SHADOW_VMCS);
	copy_to_other(&r);
	point_at(&r, AT_SHADOW_VMCS);
	expect_bad_state(&r, CHECK_link_current);
	vmx_close(&r);
}

static void vmclear_forgets_nothing_that_matters(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	vmx_run_pointer(&r, ZYDIS_MNEMONIC_VMCLEAR, AT_VMCS);
	core_set(&r.core, AT_VMCS + offsetof(struct vmcs, f[VF_GUEST_TR_LIMIT]), 8, 0xfffff000);
	point_at(&r, AT_VMCS);
	vmx_run(&r, ZYDIS_MNEMONIC_VMRESUME);
	vmx_expect_error(&r, VMERR_VMRESUME_NOT_LAUNCHED);
	vmx_run(&r, ZYDIS_MNEMONIC_VMLAUNCH);
	vmx_expect_exit(&r, EXIT_INVALID_GUEST_STATE | EXIT_ENTRY_FAILURE);
	assert_int_equal(vmx_last_failure(r.cpu, 0)->check, CHECK_tr_g);
	vmx_close(&r);
}

static void a_failed_entry_is_nothing_to_build_on(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	set_field(&r, VF_GUEST_FS_AR, 0);
	expect_bad_state(&r, CHECK_fs_type);
	expect_bad_state(&r, CHECK_fs_type); /* the same values again */
	set_field(&r, VF_GUEST_FS_AR, SEG_UNUSABLE);
	set_field(&r, VF_GUEST_RIP, (u64)1 << 60);
	expect_bad_state(&r, CHECK_guest_rip64);
	expect_bad_state(&r, CHECK_guest_rip64);
	set_field(&r, VF_GUEST_RIP, AT_GUEST_CODE);
	resume(&r);
	leave(&r);
	resume(&r); /* short */
	leave(&r);
	u64 good = get_field(&r, VF_GUEST_CR3);
	set_field(&r, VF_GUEST_CR3, (u64)1 << 60); /* of those that move */
	expect_bad_state(&r, CHECK_guest_cr3_width);
	expect_bad_state(&r, CHECK_guest_cr3_width);
	set_field(&r, VF_GUEST_CR3, good);
	resume(&r);
	vmx_close(&r);
}

static void what_the_guest_did_is_saved_and_checked(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	resume(&r);
	r.cpu->arch.seg[SEG_DS].base = 0x100000000; /* no 64-bit guest can: it is what the next entry sees */
	leave(&r);
	assert_int_equal(get_field(&r, VF_GUEST_DS_BASE), 0x100000000);
	expect_bad_state(&r, CHECK_ds_base);
	vmx_close(&r);
}

/* A state of which only bases have moved is saved in a shorter way. */
static void bases_that_the_guest_moved_are_saved(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	for (unsigned n = 1; n < 3; n++) {
		resume(&r);
		r.cpu->arch.seg[SEG_FS].base = 0x1000 * n;
		r.cpu->arch.seg[SEG_GS].base = 0x2000 * n;
		r.cpu->arch.cr3 = 0x3000 * n;
		leave(&r);
		assert_int_equal(get_field(&r, VF_GUEST_FS_BASE), 0x1000 * n);
		assert_int_equal(get_field(&r, VF_GUEST_GS_BASE), 0x2000 * n);
		assert_int_equal(get_field(&r, VF_GUEST_CR3), 0x3000 * n);
		assert_int_equal(r.vmx->short_entries, 1 + n);
	}
	resume(&r);
	assert_int_equal(r.cpu->arch.seg[SEG_FS].base, 0x2000);
	assert_int_equal(r.cpu->arch.seg[SEG_GS].base, 0x4000);
	r.cpu->arch.seg[SEG_ES].limit = 0x1000;
	r.cpu->arch.sysenter_eip = 0x123;
	leave(&r);
	assert_int_equal(get_field(&r, VF_GUEST_ES_LIMIT), 0x1000);
	assert_int_equal(get_field(&r, VF_GUEST_SYSENTER_EIP), 0x123);
	vmx_close(&r);
}

/* As after a restore, where the page has what another process left. */
static void a_restored_machine_looks_at_everything(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	resume(&r);
	u64 before = r.vmx->short_entries;
	set_field(&r, VF_GUEST_GDTR_BASE, HIGH);
	r.cpu->virt->loaded(r.cpu);
	r.cpu->arch.gdtr.base = HIGH;
	leave(&r);
	expect_bad_state(&r, CHECK_guest_gdtr_base);
	set_field(&r, VF_GUEST_GDTR_BASE, AT_GDT);
	resume(&r);
	assert_int_equal(r.vmx->short_entries, before);
	vmx_close(&r);
}

static void controls_that_change_a_rule_of_the_state_are_noticed(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	set_field(&r, VF_GUEST_PAT, 2); /* nobody loads it */
	resume(&r);
	leave(&r);
	resume(&r);
	assert_int_equal(r.vmx->short_entries, 2);
	leave(&r);
	set_control(&r, CTL_ENTRY_LOAD_PAT, true);
	expect_bad_state(&r, CHECK_guest_pat);
	vmx_close(&r);
}

static void an_injected_event_brings_its_own_rules(void **state)
{
	struct vmx_rig r;
	open_warm(&r);
	set_field(&r, VF_ENTRY_INTR_INFO, BIT(31) | 0x40); /* an external interrupt, and IF is 0 */
	expect_bad_state(&r, CHECK_rflags_if);
	set_field(&r, VF_GUEST_RFLAGS, FLAG_FIXED1 | FLAG_IF);
	resume(&r);
	assert_int_equal(r.cpu->arch.inject.vector, 0x40);
	assert_int_equal(r.vmx->short_entries, 1);
	vmx_close(&r);
}

/* Guests whose checks read memory, or that are not worth it, are checked as a whole each time. */
static void the_pdptes_in_memory_are_read_each_time(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	set_control(&r, CTL_ENTRY_IA32E, false);
	set_field(&r, VF_GUEST_CR4, CR4_VMXE | CR4_PAE);
	set_field(&r, VF_GUEST_CS_AR, 11 | SEG_S | SEG_P | SEG_DB | SEG_G);
	set_field(&r, VF_GUEST_CR3, AT_EPT);
	vmx_run(&r, ZYDIS_MNEMONIC_VMLAUNCH);
	assert_true(r.cpu->arch.guest_mode);
	for (unsigned n = 0; n < 3; n++) {
		leave(&r);
		resume(&r);
	}
	leave(&r);
	core_set(&r.core, AT_EPT + 8, 8, 1 | 0x1e0);
	expect_bad_state(&r, CHECK_pdpte1);
	assert_int_equal(r.vmx->short_entries, 0);
	vmx_close(&r);
}

static void remapped_memory_is_looked_up_again(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	set_control(&r, CTL_PROC_MSR_BITMAPS, true);
	set_field(&r, VF_MSR_BITMAPS, AT_MSR_BITMAP);
	vmx_run(&r, ZYDIS_MNEMONIC_VMLAUNCH);
	leave(&r);
	const u8 *was = r.vmx->msr_bitmap;
	r.vmx->msr_bitmap = NULL;
	resume(&r);
	assert_null(r.vmx->msr_bitmap); /* the short way looks up nothing */
	leave(&r);
	__atomic_add_fetch(&r.cpu->mem->remaps, 1, __ATOMIC_SEQ_CST);
	resume(&r);
	assert_ptr_equal(r.vmx->msr_bitmap, was);
	vmx_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_moves_is_loaded_by_a_short_entry),
		cmocka_unit_test(vmwrite_of_any_part_of_the_state_is_noticed),
		cmocka_unit_test(a_write_to_the_page_is_noticed_by_vmptrld),
		cmocka_unit_test(bits_that_a_field_does_not_have_are_ignored),
		cmocka_unit_test(another_vmcs_is_looked_at),
		cmocka_unit_test(a_link_pointer_that_names_the_current_vmcs_is_found),
		cmocka_unit_test(vmclear_forgets_nothing_that_matters),
		cmocka_unit_test(a_failed_entry_is_nothing_to_build_on),
		cmocka_unit_test(what_the_guest_did_is_saved_and_checked),
		cmocka_unit_test(bases_that_the_guest_moved_are_saved),
		cmocka_unit_test(a_restored_machine_looks_at_everything),
		cmocka_unit_test(controls_that_change_a_rule_of_the_state_are_noticed),
		cmocka_unit_test(an_injected_event_brings_its_own_rules),
		cmocka_unit_test(the_pdptes_in_memory_are_read_each_time),
		cmocka_unit_test(remapped_memory_is_looked_up_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
