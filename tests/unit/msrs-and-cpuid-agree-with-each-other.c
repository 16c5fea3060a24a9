#include "core_rig.h"

#include <stdio.h>

static struct core r;
#define CPU (r.cpu)

static void use_model(const char *name, bool nested, unsigned ncpus)
{
	cpu_model_free((struct cpu_model *)CPU->model);
	CPU->model = cpu_model_make(name, nested, ncpus, 2000000);
	assert_non_null(CPU->model);
	cpu_reset(CPU);
}

struct msr_case { u32 msr; u64 v; bool ok; };

static void writes_are_checked(void **state)
{
	static const struct msr_case cases[] = {
		{ 0x1a0, 0x400c51889, true }, { 0x1a0, BIT(1), false }, { 0x277, 0x0407050600070106, true }, { 0x277, 0x0000000000000002, false },
		{ 0x277, 0x0700000000000000, true }, { 0x2ff, 0xc06, true }, { 0x2ff, 0xc02, false }, { 0x2ff, 0x1006, false },
		{ 0x250, 0x0606060606060606, true }, { 0x250, 0x0606060606060607, false }, { 0x200, 0x80000006, true }, { 0x200, 0x80000007, false },
		{ 0x201, 0x3fff80000800, true }, { 0x201, 0xffff80000800, false }, { 0x201, 0x400, false }, { 0xfe, 0x508, false },
		{ 0xc0000082, 0xffff800000000000, true }, { 0xc0000082, 0x0000800000000000, false }, { 0xc0000100, 0x0000800000000000, false },
		{ 0xc0000101, 0xffff888000000000, true }, { 0xc0000102, 0x8000000000000000, false }, { 0xc0000084, 0x47700, true },
		{ 0xc0000084, 1ull << 32, false }, { 0xc0000103, 1ull << 32, false }, { 0x174, 0x10, true }, { 0x176, 0x0000800000000000, false },
		{ 0x400, ~0ull, true }, { 0x400, 0, true }, { 0x400, 5, false }, { 0x401, 0, true }, { 0x401, 1, false }, { 0x402, 1, true },
		{ 0x428, 0, false }, { 0x17a, 0, true }, { 0x17b, ~0ull, true }, { 0x179, 0, false }, { 0x1d9, 1, true }, { 0x1d9, 0x40, false },
		{ 0x1b, 0xfee00900, true }, { 0x1b, 0xfee00901, false }, { 0xda0, 0, true }, { 0xda0, 0x100, false }, { 0x79, 0x1234, true },
		{ 0x3a, 5, false /* no VMX */ }, { 0x48, 0, false /* fast has no SPEC_CTRL */ }, { 0x10a, 0, false }, { 0x480, 0, false }, { 0x802, 0, false },
		{ 0xc1, 0, false }, { 0x186, 0, false }, { 0x38f, 0, false }, { 0xffffffff, 0, false }, { 0x140, 0, true }, { 0x140, 1, false },
	};
	core_open(&r, CORE_LONG);
	for (unsigned i = 0; i < array_len(cases); i++) {
		u64 v;
		bool got = cpu_wrmsr(CPU, cases[i].msr, cases[i].v);
		if (got != cases[i].ok)
			print_error("WRMSR %x %llx\n", cases[i].msr, (unsigned long long)cases[i].v);
		assert_int_equal(got, cases[i].ok);
		if (got && cases[i].msr != 0x79) {
			assert_true(cpu_rdmsr(CPU, cases[i].msr, &v));
			assert_true(v == cases[i].v);
		}
	}
	core_close(&r);
}

static void feature_control_locks(void **state)
{
	u64 v;
	core_open(&r, CORE_LONG);
	use_model("fast", true, 1);
	assert_true(cpu_rdmsr(CPU, 0x3a, &v));
	assert_int_equal(v, 0);
	assert_false(cpu_wrmsr(CPU, 0x3a, 2));
	assert_true(cpu_wrmsr(CPU, 0x3a, 4));
	assert_true(cpu_wrmsr(CPU, 0x3a, 5));
	assert_false(cpu_wrmsr(CPU, 0x3a, 5));
	cpu_init_signal(CPU);
	assert_int_equal(CPU->arch.feat_ctl, 5);
	assert_true(cpu_cr4_supported(CPU) & CR4_VMXE);
	core_close(&r);
}

static void tsc_writes_show_in_tsc_adjust(void **state)
{
	u64 v, before;
	core_open(&r, CORE_LONG);
	assert_true(cpu_rdmsr(CPU, 0x3b, &v));
	assert_int_equal(v, 0);
	before = cpu_tsc(CPU);
	assert_true(cpu_wrmsr(CPU, 0x10, before + 1000));
	assert_true(cpu_rdmsr(CPU, 0x3b, &v));
	assert_int_equal(v, 1000);
	assert_true(cpu_wrmsr(CPU, 0x3b, 0));
	assert_int_equal(cpu_tsc(CPU), before);
	core_close(&r);
}

static void reset_starts_the_tsc_at_zero(void **state)
{
	core_open(&r, CORE_REAL);
	clock_publish(&r.clock, 123456789);
	CPU->v_base = 123456789;
	CPU->v_icount = CPU->icount;
	cpu_reset(CPU);
	assert_int_equal(cpu_tsc(CPU), 0);
	core_close(&r);
}

static u32 reg(u32 leaf, u32 sub, unsigned n)
{
	u32 out[4];
	cpu_cpuid(CPU, leaf, sub, out);
	return out[n];
}

static void identity(void **state)
{
	char brand[49] = "";
	core_open(&r, CORE_LONG);
	assert_int_equal(reg(0, 0, EBX), 0x756e6547);
	assert_int_equal(reg(0, 0, EAX), 0x1f);
	assert_int_equal(reg(1, 0, EAX), 0x30661); /* family 6, model 36h */
	for (u32 i = 0; i < 3; i++) {
		u32 out[4];
		cpu_cpuid(CPU, 0x80000002 + i, 0, out);
		memcpy(brand + 16 * i, out, 16);
	}
	assert_string_equal(brand, "nestbox fast vCPU");
	assert_int_equal(reg(0x80000008, 0, EAX), 46 | 48 << 8);
	assert_int_equal(reg(0xa, 0, EAX), 0);
	use_model("compat", false, 1);
	assert_int_equal(reg(1, 0, EAX), 0x806f8);
	assert_int_equal(reg(7, 0, EDX) >> 29 & 1, 1);
	u64 v;
	assert_true(cpu_rdmsr(CPU, 0x10a, &v));
	assert_true(v & 1);
	assert_false(v & (BIT(2) | BIT(19) | BIT(28)));
	assert_true(cpu_wrmsr(CPU, 0x48, 0x401));
	assert_null(cpu_model_make("pentium", false, 1, 2000000));
	core_close(&r);
}

static void frequencies_give_a_crystal_of_1_ghz(void **state)
{
	core_open(&r, CORE_LONG);
	assert_int_equal(reg(0x15, 0, EAX), 1);
	assert_int_equal(reg(0x15, 0, EBX), 2);
	assert_int_equal(reg(0x15, 0, ECX), 1000000000);
	assert_int_equal(reg(0x16, 0, EAX), 2000);
	assert_true(reg(0x80000007, 0, EDX) & BIT(8));
	core_close(&r);
}

static void dynamic_bits_follow_the_registers(void **state)
{
	core_open(&r, CORE_LONG);
	assert_false(reg(1, 0, ECX) & BIT(27));
	assert_int_not_equal(cpu_set_cr4(CPU, CPU->arch.cr4 | CR4_OSXSAVE | CR4_PKE), STEP_FAULT);
	assert_true(reg(1, 0, ECX) & BIT(27));
	assert_true(reg(7, 0, ECX) & BIT(4));
	assert_true(reg(1, 0, EDX) & BIT(9));
	CPU->arch.apic_base &= ~BIT(11);
	assert_false(reg(1, 0, EDX) & BIT(9));
	assert_true(reg(0x80000001, 0, EDX) & BIT(11));
	assert_int_not_equal(cpu_far_jmp(CPU, CODE0, AT_CODE, 4, 7), STEP_FAULT);
	assert_false(reg(0x80000001, 0, EDX) & BIT(11));
	assert_int_equal(reg(0xd, 0, EBX), 576);
	assert_int_not_equal(cpu_set_xcr0(CPU, 7), STEP_FAULT);
	assert_int_equal(reg(0xd, 0, EBX), 832);
	assert_int_equal(reg(0xd, 1, EBX), 832);
	core_close(&r);
}

static void topology_is_one_package_of_cores(void **state)
{
	core_open(&r, CORE_LONG);
	use_model("fast", false, 3);
	CPU->index = 2;
	assert_int_equal(reg(1, 0, EBX) >> 24, 2);
	assert_int_equal(reg(1, 0, EBX) >> 16 & 0xff, 3);
	assert_true(reg(1, 0, EDX) & BIT(28));
	for (u32 leaf = 0xb; leaf <= 0x1f; leaf += 0x14) {
		assert_int_equal(reg(leaf, 0, EAX), 0);
		assert_int_equal(reg(leaf, 0, EBX), 1);
		assert_int_equal(reg(leaf, 0, ECX), 0x100);
		assert_int_equal(reg(leaf, 1, EAX), 2);
		assert_int_equal(reg(leaf, 1, EBX), 3);
		assert_int_equal(reg(leaf, 1, ECX), 0x201);
		assert_int_equal(reg(leaf, 2, ECX), 2);
		assert_int_equal(reg(leaf, 2, EBX), 0);
		assert_int_equal(reg(leaf, 7, EDX), 2);
	}
	assert_int_equal(reg(4, 0, EAX) >> 26, 3);
	core_close(&r);
}

static void leaves_beyond_the_last_repeat_it(void **state)
{
	core_open(&r, CORE_LONG);
	CPU->index = 0;
	for (unsigned n = 0; n < 4; n++) {
		assert_int_equal(reg(0x20, 1, n), reg(0x1f, 1, n));
		assert_int_equal(reg(0x40000000, 1, n), reg(0x1f, 1, n));
		assert_int_equal(reg(0x80000009, 0, n), reg(0x1f, 0, n));
	}
	core_close(&r);
}

/* What a feature adds must be refused without it. */
static void a_feature_is_shown_exactly_when_it_works(void **state)
{
	core_open(&r, CORE_LONG);
	assert_false(cpu_has(CPU, FEAT_VMX));
	assert_false(reg(1, 0, ECX) & BIT(5));
	assert_false(reg(1, 0, ECX) & BIT(3)); /* MONITOR */
	assert_int_equal(cpu_has(CPU, FEAT_AVX2), reg(7, 0, EBX) >> 5 & 1);
	assert_int_equal(cpu_has(CPU, FEAT_XSAVES), reg(0xd, 1, EAX) >> 3 & 1);
	assert_int_equal(cpu_has(CPU, FEAT_RDTSCP), reg(0x80000001, 0, EDX) >> 27 & 1);
	assert_int_equal(!!(cpu_cr4_supported(CPU) & CR4_SMEP), reg(7, 0, EBX) >> 7 & 1);
	use_model("fast", true, 1);
	assert_true(reg(1, 0, ECX) & BIT(5));
	struct cpu_model *m = (struct cpu_model *)CPU->model;
	u64 v;
	m->has[FEAT_TSC_ADJUST] = m->has[FEAT_NX] = m->has[FEAT_SMAP] = m->has[FEAT_RDTSCP] = false;
	assert_false(cpu_rdmsr(CPU, 0x3b, &v));
	assert_false(cpu_rdmsr(CPU, 0xc0000103, &v));
	assert_false(cpu_wrmsr(CPU, 0xc0000080, EFER_NXE));
	assert_false(cpu_cr4_supported(CPU) & CR4_SMAP);
	core_close(&r);
}

static void a_feature_can_be_hidden_or_shown_by_name(void **state)
{
	core_open(&r, CORE_LONG);
	use_model("fast,-pcid,+hypervisor,phys-bits=40", false, 1);
	assert_false(reg(1, 0, ECX) & BIT(17));
	assert_true(reg(7, 0, EBX) & BIT(10)); /* INVPCID is a feature of its own */
	assert_true(reg(1, 0, ECX) & BIT(31));
	assert_int_equal(reg(0x80000008, 0, EAX) & 0xff, 40);
	assert_int_equal(cpu_set_cr4(CPU, CPU->arch.cr4 | CR4_PCIDE), STEP_FAULT);
	use_model("compat,-tsc-deadline,-sse4.1,-xsave", false, 1);
	assert_false(reg(1, 0, ECX) & (BIT(24) | BIT(19) | BIT(20) | BIT(26) | BIT(28)));
	assert_false(cpu_has(CPU, FEAT_AVX2) || cpu_has(CPU, FEAT_XSAVES));
	use_model("fast,-lm,-syscall", false, 1);
	assert_false(cpu_wrmsr(CPU, 0xc0000080, EFER_LME));
	assert_false(cpu_wrmsr(CPU, 0xc0000080, EFER_SCE));
	core_close(&r);
}

static void x2apic_registers_exist_in_x2apic_mode(void **state)
{
	u64 v;
	core_open(&r, CORE_LONG);
	assert_false(cpu_rdmsr(CPU, 0x802, &v));
	CPU->arch.apic_base |= BIT(10);
	assert_true(cpu_rdmsr(CPU, 0x802, &v));
	assert_int_equal(v, 0x802);
	core_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_are_checked), cmocka_unit_test(feature_control_locks), cmocka_unit_test(tsc_writes_show_in_tsc_adjust),
		cmocka_unit_test(reset_starts_the_tsc_at_zero), cmocka_unit_test(identity), cmocka_unit_test(frequencies_give_a_crystal_of_1_ghz),
		cmocka_unit_test(dynamic_bits_follow_the_registers), cmocka_unit_test(topology_is_one_package_of_cores),
		cmocka_unit_test(leaves_beyond_the_last_repeat_it), cmocka_unit_test(a_feature_is_shown_exactly_when_it_works),
		cmocka_unit_test(a_feature_can_be_hidden_or_shown_by_name), cmocka_unit_test(x2apic_registers_exist_in_x2apic_mode),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
