/* SDM "The Extended Page Table Mechanism (EPT)": translations, violations with their qualifications, misconfigurations,
 * flags, logging, #VE. */
#include "vmx_rig.h"

#define R BIT(0)
#define W BIT(1)
#define X BIT(2)
#define WB ((u64)6 << 3)
#define LEAF BIT(7)
#define A BIT(8)
#define D BIT(9)
#define XU BIT(10)
#define RWX (R | W | X)

#define GPA 0x123456789ull /* PML4 0, PDPT 4, PD 0x11a, PT 0x56 */
#define AT_PML4E (AT_EPT)
#define AT_PDPTE (AT_EPT + 0x1000 + 8 * (GPA >> 30 & 511))
#define AT_PDE (AT_EPT + 0x2000 + 8 * (GPA >> 21 & 511))
#define AT_PTE (AT_EPT + 0x3000 + 8 * (GPA >> 12 & 511))
#define PAGE 0x1f0000ull /* where GPA goes */

/* A guest with EPT runs; its walks can be asked for. */
static void open_guest(struct vmx_rig *r, u64 eptp_flags, const enum vmx_control *extra, unsigned n)
{
	vmx_open_root(r);
	set_control(r, CTL_PROC2_EPT, true);
	set_field(r, VF_EPTP, AT_EPT | 0x1e | eptp_flags);
	set_field(r, VF_PML_ADDRESS, AT_PML);
	set_field(r, VF_VE_INFO_ADDR, AT_VE);
	for (unsigned i = 0; i < n; i++)
		set_control(r, extra[i], true);
	core_set(&r->core, AT_PML4E, 8, (AT_EPT + 0x1000) | RWX | XU);
	core_set(&r->core, AT_PDPTE, 8, (AT_EPT + 0x2000) | RWX | XU);
	core_set(&r->core, AT_PDE, 8, (AT_EPT + 0x3000) | RWX | XU);
	core_set(&r->core, AT_PTE, 8, PAGE | RWX | XU | WB);
	vmx_run(r, ZYDIS_MNEMONIC_VMLAUNCH);
	assert_true(r->cpu->arch.guest_mode);
}

static bool walk(struct vmx_rig *r, u32 acc, enum npt_use use, struct npt_page *out)
{
	r->cpu->fault.kind = EVENT_NONE;
	return vmx_ops.npt_walk(r->cpu, l2gpa(GPA), acc, use, true, gva(0xabcdef), out);
}

static void a_page_of_each_size_translates(void **state)
{
	static const struct { u64 at, entry, gpa, size; } rows[] = {
		{ AT_PTE, PAGE | RWX | WB, PAGE | 0x789, 4 * KiB },
		{ AT_PDE, 0x7fe00000 | RWX | WB | LEAF, 0x7fe00000 | (GPA & 0x1fffff), 2 * MiB },
		{ AT_PDPTE, 0x40000000 | RWX | WB | LEAF, 0x40000000 | (GPA & 0x3fffffff), 1 * GiB },
	};
	for (unsigned n = 0; n < array_len(rows); n++) {
		struct vmx_rig r;
		struct npt_page p;
		open_guest(&r, 0, NULL, 0);
		core_set(&r.core, rows[n].at, 8, rows[n].entry);
		assert_true(walk(&r, ACC_R, NPT_DATA, &p));
		assert_int_equal(p.gpa, rows[n].gpa);
		assert_int_equal(p.size, rows[n].size);
		assert_true(p.r && p.w && p.x && p.xu && p.dirty_ok);
		vmx_close(&r);
	}
}

struct violation { u64 at, clear; u32 acc; enum npt_use use; u64 qualification; };

static void expect_exit(struct vmx_rig *r, u32 reason, u64 qualification)
{
	static const struct event none;
	assert_int_equal(r->cpu->fault.kind, EVENT_VIRT);
	vmx_ops.take_exit(r->cpu, &none);
	vmx_expect_exit(r, reason);
	assert_int_equal(get_field(r, VF_EXIT_QUALIFICATION), qualification);
}

static void violations_say_access_rights_and_address(void **state)
{
	static const struct violation rows[] = {
		{ AT_PTE, RWX, ACC_R, NPT_DATA, 0x181 },
		{ AT_PTE, RWX, ACC_W, NPT_DATA, 0x182 },
		{ AT_PTE, RWX, ACC_X, NPT_DATA, 0x184 },
		{ AT_PTE, W, ACC_W, NPT_DATA, 0x1aa },        /* read and execute allowed */
		{ AT_PTE, X, ACC_X, NPT_DATA, 0x19c },
		{ AT_PTE, W | X, ACC_R | ACC_W, NPT_DATA, 0x18b },
		{ AT_PDE, W, ACC_W, NPT_DATA, 0x1aa },        /* rights of all levels count */
		{ AT_PML4E, RWX, ACC_R, NPT_DATA, 0x181 },
		{ AT_PTE, RWX, ACC_R, NPT_GUEST_PT, 0x081 },  /* bit 8 is 0: a paging structure */
		{ AT_PTE, R | W, ACC_R, NPT_DATA, 0x1a1 },    /* execute-only is allowed, but not readable */
	};
	for (unsigned n = 0; n < array_len(rows); n++) {
		struct vmx_rig r;
		struct npt_page p;
		open_guest(&r, 0, NULL, 0);
		core_set(&r.core, rows[n].at, 8, core_get(&r.core, rows[n].at, 8) & ~(rows[n].clear | XU));
		assert_false(walk(&r, rows[n].acc, rows[n].use, &p));
		expect_exit(&r, EXIT_EPT_VIOLATION, rows[n].qualification);
		assert_int_equal(get_field(&r, VF_GUEST_PHYSICAL_ADDR), GPA);
		assert_int_equal(get_field(&r, VF_GUEST_LINEAR_ADDR), 0xabcdef);
		assert_true(get_field(&r, VF_GUEST_RFLAGS) & FLAG_RF);
		vmx_close(&r);
	}
}

static void misconfigurations_are_those_of_the_manual(void **state)
{
	const u64 beyond = BIT(51); /* above any width that we show */
	const struct { u64 at, entry; bool bad;
	} rows[] = {
		{AT_PTE, PAGE | W | WB, true},
		{AT_PTE, PAGE | W | X | WB, true},
		{AT_PTE, PAGE | X | WB, false},
		{AT_PTE, PAGE | RWX | (u64)2 << 3, true},
		{AT_PTE, PAGE | RWX | (u64)3 << 3, true},
		{AT_PTE, PAGE | RWX | (u64)7 << 3, true},
		{AT_PTE, PAGE | RWX, false},
		{AT_PTE, PAGE | RWX | (u64)1 << 3, false},
		{AT_PTE, PAGE | RWX | WB | LEAF, false},
		{AT_PTE, PAGE | RWX | WB | beyond, true},
		{AT_PTE, PAGE | RWX | WB | BIT(52) | BIT(11), false},
		{AT_PDE, (AT_EPT + 0x3000) | RWX | BIT(3), true},
		{AT_PDE, (AT_EPT + 0x3000) | RWX | BIT(6), true},
		{AT_PDE, RWX | WB | LEAF | BIT(12), true},
		{AT_PDE, RWX | WB | LEAF | BIT(20), true},
		{AT_PDE, RWX | WB | LEAF | BIT(21), false},
		{AT_PDPTE, RWX | WB | LEAF | BIT(29), true},
		{AT_PDPTE, RWX | WB | LEAF | BIT(30), false},
		{AT_PDPTE, (AT_EPT + 0x2000) | RWX | BIT(5), true},
		{AT_PML4E, (AT_EPT + 0x1000) | RWX | LEAF, true},
		{AT_PML4E, (AT_EPT + 0x1000) | RWX | BIT(4), true},
		{AT_PML4E, (AT_EPT + 0x1000) | RWX | beyond, true},
	};
	for (unsigned n = 0; n < array_len(rows); n++) {
		struct vmx_rig r;
		struct npt_page p;
		open_guest(&r, 0, NULL, 0);
		core_set(&r.core, rows[n].at, 8, rows[n].entry);
		bool ok = walk(&r, ACC_X, NPT_DATA, &p);
		if (ok == rows[n].bad)
			print_error("row %u\n", n);
		assert_int_equal(ok, !rows[n].bad);
		if (rows[n].bad) {
			expect_exit(&r, EXIT_EPT_MISCONFIG, 0);
			assert_int_equal(get_field(&r, VF_GUEST_PHYSICAL_ADDR), GPA);
		}
		vmx_close(&r);
	}
}

static void accessed_and_dirty_flags_are_set_only_when_enabled(void **state)
{
	for (unsigned ad = 0; ad < 2; ad++) {
		struct vmx_rig r;
		struct npt_page p;
		open_guest(&r, ad ? BIT(6) : 0, NULL, 0);
		assert_true(walk(&r, ACC_R, NPT_DATA, &p));
		assert_int_equal(p.dirty_ok, !ad);
		assert_int_equal(core_get(&r.core, AT_PML4E, 8) & (A | D), ad ? A : 0);
		assert_int_equal(core_get(&r.core, AT_PTE, 8) & (A | D), ad ? A : 0);
		assert_true(walk(&r, ACC_R | ACC_PROBE | ACC_W, NPT_DATA, &p));
		assert_int_equal(core_get(&r.core, AT_PTE, 8) & (A | D), ad ? A : 0);
		assert_true(walk(&r, ACC_W, NPT_DATA, &p));
		assert_true(p.dirty_ok);
		assert_int_equal(core_get(&r.core, AT_PTE, 8) & (A | D), ad ? A | D : 0);
		assert_int_equal(core_get(&r.core, AT_PDE, 8) & D, 0);
		vmx_close(&r);
	}
}

static void with_flags_enabled_paging_structures_are_written(void **state)
{
	struct vmx_rig r;
	struct npt_page p;
	open_guest(&r, BIT(6), NULL, 0);
	assert_true(walk(&r, ACC_R, NPT_GUEST_PT, &p));
	assert_true(core_get(&r.core, AT_PTE, 8) & D);
	core_set(&r.core, AT_PTE, 8, PAGE | R | X | WB);
	assert_false(walk(&r, ACC_R, NPT_GUEST_PT, &p));
	expect_exit(&r, EXIT_EPT_VIOLATION, 0x0ab);
	vmx_close(&r);
}

static void mode_based_execute_control_tells_user_pages(void **state)
{
	static const enum vmx_control mbec[] = { CTL_PROC2_MBEC };
	static const struct { u64 rights; u32 acc; bool ok; u64 qualification;
	} rows[] = {
		{R | X, ACC_X, true, 0},	      {R | X, ACC_X | ACC_UPAGE, false, 0x1ac},
		{R | XU, ACC_X, false, 0x1cc},    {R | XU, ACC_X | ACC_UPAGE, true, 0},
		{XU, ACC_X | ACC_UPAGE, true, 0},
	};
	for (unsigned n = 0; n < array_len(rows); n++) {
		struct vmx_rig r;
		struct npt_page p;
		open_guest(&r, 0, mbec, 1);
		core_set(&r.core, AT_PTE, 8, PAGE | rows[n].rights | WB);
		assert_int_equal(walk(&r, rows[n].acc, NPT_DATA, &p), rows[n].ok);
		if (!rows[n].ok)
			expect_exit(&r, EXIT_EPT_VIOLATION, rows[n].qualification);
		vmx_close(&r);
	}
}

static void dirty_pages_are_logged_until_the_log_is_full(void **state)
{
	static const enum vmx_control pml[] = { CTL_PROC2_PML };
	struct vmx_rig r;
	struct npt_page p;
	vmx_open_root(&r);
	vmx_close(&r);
	open_guest(&r, BIT(6), pml, 1);
	vmcs_put(r.cpu, VF_PML_INDEX, 0);
	assert_true(walk(&r, ACC_W, NPT_DATA, &p));
	assert_int_equal(core_get(&r.core, AT_PML, 8), GPA & ~(u64)0xfff);
	assert_int_equal(get_field(&r, VF_PML_INDEX), 0xffff);
	assert_true(walk(&r, ACC_W, NPT_DATA, &p)); /* already dirty */
	core_set(&r.core, AT_PTE, 8, PAGE | RWX | WB);
	assert_false(walk(&r, ACC_W, NPT_DATA, &p));
	expect_exit(&r, EXIT_PML_FULL, 0);
	assert_int_equal(core_get(&r.core, AT_PTE, 8) & D, 0);
	vmx_close(&r);
}

static void a_convertible_violation_becomes_a_virtualization_exception(void **state)
{
	static const enum vmx_control ve[] = { CTL_PROC2_EPT_VE };
	static const struct event none;
	for (unsigned suppress = 0; suppress < 2; suppress++) {
		struct vmx_rig r;
		struct npt_page p;
		open_guest(&r, 0, ve, 1);
		set_control(&r, CTL_PROC2_EPT_VE, true);
		core_set(&r.core, AT_PTE, 8, suppress ? BIT(63) : 0);
		r.vmx->f[VF_EXCEPTION_BITMAP] = BIT(VEC_VE); /* so that its delivery is seen as an exit */
		assert_false(walk(&r, ACC_W, NPT_DATA, &p));
		vmx_ops.take_exit(r.cpu, &none);
		vmx_expect_exit(&r, suppress ? EXIT_EPT_VIOLATION : EXIT_EXCEPTION_NMI);
		if (!suppress) {
			assert_int_equal(get_field(&r, VF_EXIT_INTR_INFO), BIT(31) | 3 << 8 | VEC_VE);
			assert_int_equal(core_get(&r.core, AT_VE, 4), EXIT_EPT_VIOLATION);
			assert_int_equal(core_get(&r.core, AT_VE + 4, 4), 0xffffffff);
			assert_int_equal(core_get(&r.core, AT_VE + 8, 8), 0x182);
			assert_int_equal(core_get(&r.core, AT_VE + 24, 8), GPA);
		}
		vmx_close(&r);
	}
}

static void a_violation_while_an_event_is_delivered_reports_the_event(void **state)
{
	const struct event during = { .kind = EVENT_FAULT, .vector = VEC_PF, .has_error = 1, .error = 6 };
	struct vmx_rig r;
	struct npt_page p;
	open_guest(&r, 0, NULL, 0);
	core_set(&r.core, AT_PTE, 8, 0);
	assert_false(walk(&r, ACC_W, NPT_DATA, &p));
	vmx_ops.take_exit(r.cpu, &during);
	vmx_expect_exit(&r, EXIT_EPT_VIOLATION);
	assert_int_equal(get_field(&r, VF_IDT_VECTORING), BIT(31) | BIT(11) | 3 << 8 | VEC_PF);
	assert_int_equal(get_field(&r, VF_IDT_VECTORING_ERROR), 6);
	vmx_close(&r);
}

static void tlb_tags_tell_roots_and_their_modes_apart(void **state)
{
	struct vmx_rig r;
	u16 vpid;
	u64 root;
	open_guest(&r, 0, NULL, 0);
	vmx_ops.tlb_tag(r.cpu, &vpid, &root);
	assert_int_equal(vpid, 0);
	assert_int_not_equal(root, 0);
	assert_int_not_equal(root, vmx_npt_tag(r.vmx, AT_EPT | 0x5e));
	assert_int_not_equal(vmx_npt_tag(r.vmx, 0x1e), 0); /* a root at address 0 is not "no EPT" */
	vmx_run(&r, ZYDIS_MNEMONIC_VMCALL);
	vmx_ops.tlb_tag(r.cpu, &vpid, &root);
	assert_int_equal(root, 0);
	vmx_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_page_of_each_size_translates),
		cmocka_unit_test(violations_say_access_rights_and_address),
		cmocka_unit_test(misconfigurations_are_those_of_the_manual),
		cmocka_unit_test(accessed_and_dirty_flags_are_set_only_when_enabled),
		cmocka_unit_test(with_flags_enabled_paging_structures_are_written),
		cmocka_unit_test(mode_based_execute_control_tells_user_pages),
		cmocka_unit_test(dirty_pages_are_logged_until_the_log_is_full),
		cmocka_unit_test(a_convertible_violation_becomes_a_virtualization_exception),
		cmocka_unit_test(a_violation_while_an_event_is_delivered_reports_the_event),
		cmocka_unit_test(tlb_tags_tell_roots_and_their_modes_apart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
