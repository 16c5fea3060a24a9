#include "core_rig.h"

static struct core r;
#define CPU (r.cpu)

static void gp(enum step s) { core_expect_fault(&r, s, VEC_GP, 0); }
static void ok(enum step s) { assert_int_not_equal(s, STEP_FAULT); }

static void cr0_combinations(void **state)
{
	core_open(&r, CORE_PROT);
	gp(cpu_set_cr0(CPU, CR0_PG));
	gp(cpu_set_cr0(CPU, CR0_PE | CR0_NW));
	gp(cpu_set_cr0(CPU, CR0_PE | 1ull << 32));
	ok(cpu_set_cr0(CPU, CR0_PE | 0x1ff80040)); /* reserved bits of the lower half are ignored */
	assert_int_equal(CPU->arch.cr0, CR0_PE | CR0_ET | (0x1ff80040 & 0));
	core_close(&r);
}

static void entering_and_leaving_long_mode(void **state)
{
	core_open(&r, CORE_PROT);
	assert_true(cpu_wrmsr(CPU, 0xc0000080, EFER_LME));
	gp(cpu_set_cr0(CPU, CPU->arch.cr0 | CR0_PG)); /* no PAE */
	ok(cpu_set_cr4(CPU, CR4_PAE));
	CPU->arch.tr.attr = 0x83;
	gp(cpu_set_cr0(CPU, CPU->arch.cr0 | CR0_PG)); /* 16-bit TSS */
	core_close(&r);
	core_open(&r, CORE_LONG);
	gp(cpu_set_cr0(CPU, CPU->arch.cr0 & ~CR0_PG)); /* from 64-bit code */
	gp(cpu_set_cr4(CPU, CPU->arch.cr4 & ~CR4_PAE));
	assert_false(cpu_wrmsr(CPU, 0xc0000080, 0)); /* LME with paging on */
	assert_true(cpu_wrmsr(CPU, 0xc0000080, EFER_LME)); /* LMA cannot be written */
	assert_true(CPU->arch.efer & EFER_LMA);
	assert_false(cpu_wrmsr(CPU, 0xc0000080, EFER_LME | 2));
	assert_false(cpu_wrmsr(CPU, 0xc0000080, EFER_LME | EFER_SVME));
	ok(cpu_far_jmp(CPU, CODE0, AT_CODE, 4, 7));
	ok(cpu_set_cr0(CPU, CPU->arch.cr0 & ~CR0_PG));
	assert_false(CPU->arch.efer & EFER_LMA);
	assert_false(CPU->lma);
	core_close(&r);
}

static void cr4_shows_what_cpuid_shows(void **state)
{
	core_open(&r, CORE_PROT);
	u64 supported = cpu_cr4_supported(CPU);
	for (unsigned n = 0; n < 64; n++)
		if (!(supported & bit(n)) || bit(n) == CR4_PCIDE)
			gp(cpu_set_cr4(CPU, bit(n)));
		else
			ok(cpu_set_cr4(CPU, bit(n)));
	assert_false(supported & (CR4_VMXE | CR4_LA57 | CR4_SMXE));
	assert_true(supported & CR4_SMAP);
	core_close(&r);
}

static void pcide_needs_long_mode_and_pcid_0(void **state)
{
	core_open(&r, CORE_LONG);
	ok(cpu_set_cr3(CPU, AT_TABLES | 8));
	gp(cpu_set_cr4(CPU, CPU->arch.cr4 | CR4_PCIDE));
	ok(cpu_set_cr3(CPU, AT_TABLES));
	ok(cpu_set_cr4(CPU, CPU->arch.cr4 | CR4_PCIDE));
	ok(cpu_set_cr3(CPU, AT_TABLES | 5 | BIT(63)));
	assert_int_equal(CPU->arch.cr3, AT_TABLES | 5);
	gp(cpu_set_cr3(CPU, BIT(46)));
	ok(cpu_far_jmp(CPU, CODE0, AT_CODE, 4, 7));
	gp(cpu_set_cr0(CPU, CPU->arch.cr0 & ~CR0_PG));
	core_close(&r);
}

static void pae_pdptes_are_loaded_and_checked_with_cr3(void **state)
{
	core_open(&r, CORE_PROT);
	core_set(&r, AT_TABLES, 8, 0x103000 | 1);
	core_set(&r, AT_TABLES + 0x3000, 8, 0x83); /* 2 MiB */
	ok(cpu_set_cr4(CPU, CR4_PAE | CR4_PSE));
	ok(cpu_set_cr3(CPU, AT_TABLES));
	ok(cpu_set_cr0(CPU, CPU->arch.cr0 | CR0_PG));
	assert_int_equal(CPU->arch.pdpte[0], 0x103001);
	core_set(&r, AT_TABLES + 0x800, 8, 1 | 2); /* reserved */
	gp(cpu_set_cr3(CPU, AT_TABLES + 0x800));
	assert_int_equal(CPU->arch.cr3, AT_TABLES);
	core_close(&r);
}

static void xcr0(void **state)
{
	core_open(&r, CORE_LONG);
	u64 all = model_xcr0(CPU->model);
	gp(cpu_set_xcr0(CPU, 0));
	gp(cpu_set_xcr0(CPU, 2));
	gp(cpu_set_xcr0(CPU, 5));
	gp(cpu_set_xcr0(CPU, 1 | 8));
	ok(cpu_set_xcr0(CPU, 3));
	ok(cpu_set_xcr0(CPU, all));
	gp(cpu_set_xcr0(CPU, all | BIT(62)));
	core_close(&r);
}

static void invpcid_checks_its_descriptor(void **state)
{
	core_open(&r, CORE_LONG);
	gp(cpu_invpcid(CPU, 4, 0, 0));
	gp(cpu_invpcid(CPU, 1, 0x1000, 0));
	gp(cpu_invpcid(CPU, 0, 1, 0)); /* PCIDE is off */
	gp(cpu_invpcid(CPU, 0, 0, 0x0000800000000000));
	ok(cpu_invpcid(CPU, 0, 0, 0x1000));
	ok(cpu_invpcid(CPU, 2, 0xfffff, 0));
	ok(cpu_set_cr4(CPU, CPU->arch.cr4 | CR4_PCIDE));
	ok(cpu_invpcid(CPU, 0, 7, 0x1000));
	ok(cpu_invpcid(CPU, 1, 7, 0));
	ok(cpu_invpcid(CPU, 3, 0, 0));
	core_close(&r);
}

static void reset_state_is_the_manuals(void **state)
{
	core_open(&r, CORE_REAL);
	CPU->arch.star = CPU->arch.tsc_aux = 1;
	cpu_reset(CPU);
	assert_int_equal(CPU->arch.cr0, 0x60000010);
	assert_int_equal(CPU->arch.rip, 0xfff0);
	assert_int_equal(CPU->arch.seg[SEG_CS].base + CPU->arch.rip, 0xfffffff0);
	assert_int_equal(CPU->arch.gpr[GPR_RDX], 0x30661);
	assert_int_equal(cpu_rflags(CPU), 2);
	assert_int_equal(CPU->arch.dr[6], 0xffff0ff0);
	assert_int_equal(CPU->arch.dr[7], 0x400);
	assert_int_equal(CPU->arch.pat, 0x0007040600070406);
	assert_int_equal(CPU->arch.apic_base, 0xfee00900);
	assert_int_equal(CPU->arch.xcr0, 1);
	assert_int_equal(CPU->arch.star, 0);
	assert_int_equal(CPU->arch.activity, ACT_ACTIVE);
	CPU->index = 1;
	cpu_reset(CPU);
	assert_int_equal(CPU->arch.apic_base, 0xfee00800);
	assert_int_equal(CPU->arch.activity, ACT_WAIT_SIPI);
	core_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cr0_combinations), cmocka_unit_test(entering_and_leaving_long_mode), cmocka_unit_test(cr4_shows_what_cpuid_shows),
		cmocka_unit_test(pcide_needs_long_mode_and_pcid_0), cmocka_unit_test(pae_pdptes_are_loaded_and_checked_with_cr3),
		cmocka_unit_test(xcr0), cmocka_unit_test(invpcid_checks_its_descriptor), cmocka_unit_test(reset_state_is_the_manuals),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
