#include "core_rig.h"

static struct core r;
#define CPU (r.cpu)

struct row { u16 sel; u8 vector; u8 fails; };

static void load_rows(unsigned seg, const struct row *rows, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		enum step s = cpu_load_seg(CPU, seg, rows[i].sel);
		if (rows[i].fails)
			core_expect_fault(&r, s, rows[i].vector, rows[i].sel & 0xfffc);
		else
			assert_int_not_equal(s, STEP_FAULT);
	}
}

static void data_segments_at_cpl0(void **state)
{
	static const struct row rows[] = {
		{ 0, 0, 0 }, { 3, 0, 0 }, { DATA0, 0, 0 }, { DATA0 | 3, VEC_GP, 1 }, { DATA3, 0, 0 }, { CODE0, 0, 0 }, { CONFORMING | 3, 0, 0 },
		{ EXEC_ONLY, VEC_GP, 1 }, { READ_ONLY, 0, 0 }, { ABSENT_DATA, VEC_NP, 1 }, { TSS, VEC_GP, 1 }, { GDT_END, VEC_GP, 1 }, { 0xfff8, VEC_GP, 1 },
		{ DATA0 | 4, VEC_GP, 1 } /* no LDT */
	};
	core_open(&r, CORE_PROT);
	load_rows(SEG_DS, rows, array_len(rows));
	core_close(&r);
}

static void data_segments_at_cpl3(void **state)
{
	static const struct row rows[] = { { 0, 0, 0 }, { DATA3, 0, 0 }, { DATA3 & ~3, 0, 0 }, { DATA0, VEC_GP, 1 }, { CONFORMING, 0, 0 }, { CODE0, VEC_GP, 1 } };
	core_open(&r, CORE_PROT);
	core_user(&r);
	load_rows(SEG_ES, rows, array_len(rows));
	core_close(&r);
}

static void stack_segments(void **state)
{
	static const struct row rows[] = {
		{ 0, VEC_GP, 1 }, { DATA0, 0, 0 }, { DATA0 | 1, VEC_GP, 1 }, { DATA3, VEC_GP, 1 }, { READ_ONLY, VEC_GP, 1 }, { CODE0, VEC_GP, 1 },
		{ ABSENT_DATA, VEC_SS, 1 }, { EXPAND_DOWN, 0, 0 }, { GDT_END, VEC_GP, 1 }
	};
	core_open(&r, CORE_PROT);
	load_rows(SEG_SS, rows, array_len(rows));
	core_close(&r);
}

static void a_null_ss_is_for_64_bit_code_below_cpl_3(void **state)
{
	core_open(&r, CORE_LONG);
	assert_int_not_equal(cpu_load_seg(CPU, SEG_SS, 0), STEP_FAULT);
	assert_true(CPU->arch.seg[SEG_SS].attr & SEG_UNUSABLE);
	core_expect_fault(&r, cpu_load_seg(CPU, SEG_SS, 1), VEC_GP, 0);
	core_user(&r);
	core_expect_fault(&r, cpu_load_seg(CPU, SEG_SS, 3), VEC_GP, 0);
	core_close(&r);
}

static void loading_sets_the_accessed_bit(void **state)
{
	core_open(&r, CORE_PROT);
	assert_int_equal(core_get(&r, AT_GDT + READ_ONLY + 5, 1), 0x90);
	assert_int_not_equal(cpu_load_seg(CPU, SEG_FS, READ_ONLY), STEP_FAULT);
	assert_int_equal(core_get(&r, AT_GDT + READ_ONLY + 5, 1), 0x91);
	assert_int_equal(CPU->arch.seg[SEG_FS].attr & 0xf, 1);
	core_close(&r);
}

static void limits_and_types_are_checked(void **state)
{
	core_open(&r, CORE_PROT);
	CPU->arch.seg[SEG_DS].limit = 0xfff;
	assert_true(cpu_seg_check(CPU, SEG_DS, 0xffc, 4, true));
	assert_false(cpu_seg_check(CPU, SEG_DS, 0xffd, 4, true));
	core_expect_fault(&r, STEP_FAULT, VEC_GP, 0);
	CPU->arch.seg[SEG_SS].limit = 0xfff;
	assert_false(cpu_seg_check(CPU, SEG_SS, 0x1000, 1, false));
	core_expect_fault(&r, STEP_FAULT, VEC_SS, 0);
	assert_false(cpu_seg_check(CPU, SEG_CS, AT_CODE, 1, true)); /* code is never writable */
	core_expect_fault(&r, STEP_FAULT, VEC_GP, 0);
	assert_true(cpu_seg_check(CPU, SEG_CS, AT_CODE, 1, false));
	cpu_load_seg(CPU, SEG_FS, READ_ONLY);
	assert_false(cpu_seg_check(CPU, SEG_FS, 0, 1, true));
	cpu_load_seg(CPU, SEG_FS, 0);
	assert_false(cpu_seg_check(CPU, SEG_FS, 0, 1, false));
	core_close(&r);
}

static void expand_down_segments_lie_above_their_limit(void **state)
{
	core_open(&r, CORE_PROT);
	cpu_load_seg(CPU, SEG_ES, EXPAND_DOWN);
	assert_int_equal(CPU->bound_r[SEG_ES], 0);
	assert_false(cpu_seg_check(CPU, SEG_ES, 0xfff, 1, false));
	assert_true(cpu_seg_check(CPU, SEG_ES, 0x1000, 4, true));
	assert_true(cpu_seg_check(CPU, SEG_ES, 0xfffffffc, 4, true));
	assert_false(cpu_seg_check(CPU, SEG_ES, 0xfffffffd, 4, true));
	core_close(&r);
}

static void addresses_must_be_canonical_in_64_bit_mode(void **state)
{
	core_open(&r, CORE_LONG);
	assert_true(cpu_seg_check(CPU, SEG_DS, 0x00007ffffffffff8, 8, true));
	assert_false(cpu_seg_check(CPU, SEG_DS, 0x00007ffffffffffc, 8, true));
	core_expect_fault(&r, STEP_FAULT, VEC_GP, 0);
	assert_false(cpu_seg_check(CPU, SEG_SS, 0x8000000000000000, 8, true));
	core_expect_fault(&r, STEP_FAULT, VEC_SS, 0);
	core_close(&r);
}

static void real_mode_keeps_limits_and_attributes(void **state)
{
	core_open(&r, CORE_PROT);
	assert_int_not_equal(cpu_set_cr0(CPU, CR0_ET), STEP_FAULT);
	assert_int_not_equal(cpu_load_seg(CPU, SEG_DS, 0x1234), STEP_FAULT);
	assert_int_equal(CPU->arch.seg[SEG_DS].base, 0x12340);
	assert_int_equal(CPU->arch.seg[SEG_DS].limit, 0xffffffff); /* big real mode */
	core_close(&r);
}

static void system_segments(void **state)
{
	core_open(&r, CORE_PROT);
	assert_int_equal(core_get(&r, AT_GDT + TSS + 5, 1), 0x8b); /* LTR made it busy */
	core_expect_fault(&r, cpu_ltr(CPU, TSS), VEC_GP, TSS);
	core_expect_fault(&r, cpu_ltr(CPU, 0), VEC_GP, 0);
	core_expect_fault(&r, cpu_ltr(CPU, LDT), VEC_GP, LDT);
	core_expect_fault(&r, cpu_lldt(CPU, DATA0), VEC_GP, DATA0);
	core_expect_fault(&r, cpu_lldt(CPU, LDT | 4), VEC_GP, LDT | 4);
	assert_int_equal(cpu_lldt(CPU, LDT), STEP_END);
	assert_int_equal(CPU->arch.ldtr.base, AT_LDT);
	assert_int_equal(cpu_lldt(CPU, 0), STEP_END);
	assert_true(CPU->arch.ldtr.attr & SEG_UNUSABLE);
	core_close(&r);
}

static void system_descriptors_have_16_bytes_in_long_mode(void **state)
{
	core_open(&r, CORE_LONG);
	core_set(&r, AT_GDT + LDT + 8, 8, 0xffff8000);
	assert_int_equal(cpu_lldt(CPU, LDT), STEP_END);
	assert_int_equal(CPU->arch.ldtr.base, 0xffff800000000000 + AT_LDT);
	core_set(&r, AT_GDT + LDT + 8, 8, 0x00008000);
	core_expect_fault(&r, cpu_lldt(CPU, LDT), VEC_GP, LDT); /* not canonical */
	core_set(&r, AT_GDT + LDT + 8, 8, 0x0000010000000000);
	core_expect_fault(&r, cpu_lldt(CPU, LDT), VEC_GP, LDT); /* type of the upper half */
	CPU->arch.gdtr.limit = LDT + 7;
	core_expect_fault(&r, cpu_lldt(CPU, LDT), VEC_GP, LDT);
	core_close(&r);
}

static void queries_answer_without_faulting(void **state)
{
	static const struct { u16 sel; bool lar, lsl, verr, verw; } rows[] = {
		{ 0, 0, 0, 0, 0 }, { CODE0, 1, 1, 1, 0 }, { DATA0, 1, 1, 1, 1 }, { EXEC_ONLY, 1, 1, 0, 0 }, { READ_ONLY, 1, 1, 1, 0 }, { TSS, 1, 1, 0, 0 },
		{ LDT, 1, 1, 0, 0 }, { TASK_GATE, 1, 0, 0, 0 }, { ABSENT_DATA, 1, 1, 1, 1 }, { DATA0 | 3, 0, 0, 0, 0 }, { GDT_END, 0, 0, 0, 0 }
	};
	u32 out;
	bool faulted;
	core_open(&r, CORE_PROT);
	for (unsigned i = 0; i < array_len(rows); i++) {
		assert_int_equal(cpu_seg_query(CPU, SEG_LAR, rows[i].sel, &out, &faulted), rows[i].lar);
		assert_int_equal(cpu_seg_query(CPU, SEG_LSL, rows[i].sel, &out, &faulted), rows[i].lsl);
		assert_int_equal(cpu_seg_query(CPU, SEG_VERR, rows[i].sel, &out, &faulted), rows[i].verr);
		assert_int_equal(cpu_seg_query(CPU, SEG_VERW, rows[i].sel, &out, &faulted), rows[i].verw);
		assert_false(faulted);
	}
	assert_true(cpu_seg_query(CPU, SEG_LSL, CODE0, &out, &faulted));
	assert_int_equal(out, 0xffffffff);
	assert_true(cpu_seg_query(CPU, SEG_LAR, CODE0, &out, &faulted));
	assert_int_equal(out, 0x00c09b00);
	core_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(data_segments_at_cpl0), cmocka_unit_test(data_segments_at_cpl3), cmocka_unit_test(stack_segments),
		cmocka_unit_test(a_null_ss_is_for_64_bit_code_below_cpl_3), cmocka_unit_test(loading_sets_the_accessed_bit),
		cmocka_unit_test(limits_and_types_are_checked), cmocka_unit_test(expand_down_segments_lie_above_their_limit),
		cmocka_unit_test(addresses_must_be_canonical_in_64_bit_mode), cmocka_unit_test(real_mode_keeps_limits_and_attributes),
		cmocka_unit_test(system_segments), cmocka_unit_test(system_descriptors_have_16_bytes_in_long_mode),
		cmocka_unit_test(queries_answer_without_faulting),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
