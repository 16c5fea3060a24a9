#include "core_rig.h"

static struct core r;
#define CPU (r.cpu)

enum { T_LINK = 0, T_CR3 = 0x1c, T_IP = 0x20, T_FLAGS = 0x24, T_EAX = 0x28, T_ES = 0x48, T_LDT = 0x60, T_TRAP = 0x64 };

static void put(unsigned off, u32 v) { core_set(&r, AT_TSS2 + off, 4, v); }
static u32 old(unsigned off) { return (u32)core_get(&r, AT_TSS + off, 4); }
static unsigned access_byte(u16 sel) { return (unsigned)core_get(&r, AT_GDT + sel + 5, 1); }

static void prepare(void)
{
	static const u16 segs[6] = { DATA0, CODE0, DATA0, DATA0, 0, DATA3 };
	core_open(&r, CORE_PROT);
	put(T_IP, 0x4321);
	put(T_FLAGS, FLAG_IF | FLAG_CF | 2);
	for (unsigned i = 0; i < 8; i++)
		put(T_EAX + 4 * i, 0x1000 * (i + 1));
	for (unsigned i = 0; i < 6; i++)
		put(T_ES + 4 * i, segs[i]);
	put(T_LDT, LDT);
	CPU->arch.rip = 0x100;
	for (unsigned i = 0; i < 8; i++)
		CPU->arch.gpr[i] = 0x70 + i;
}

static void a_jump_switches_and_frees_the_old_task(void **state)
{
	prepare();
	cpu_load_seg(CPU, SEG_FS, READ_ONLY);
	CPU->arch.dr[7] = 0x703;
	assert_int_equal(cpu_far_jmp(CPU, TSS2, 0, 4, 7), STEP_STOP);
	assert_int_equal(CPU->arch.rip, 0x4321);
	assert_int_equal(cpu_rflags(CPU), FLAG_IF | FLAG_CF | 2);
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(CPU->arch.gpr[i], 0x1000 * (i + 1));
		assert_int_equal(old(T_EAX + 4 * i), 0x70 + i);
	}
	assert_int_equal(old(T_IP), 0x107);
	assert_int_equal(old(T_ES + 4 * 4), READ_ONLY);
	assert_int_equal(CPU->arch.seg[SEG_GS].sel, DATA3);
	assert_true(CPU->arch.seg[SEG_FS].attr & SEG_UNUSABLE);
	assert_int_equal(CPU->arch.ldtr.base, AT_LDT);
	assert_int_equal(CPU->arch.tr.sel, TSS2);
	assert_true(CPU->arch.cr0 & CR0_TS);
	assert_int_equal(CPU->arch.dr[7] & 0xff, 2); /* local enables are cleared */
	assert_int_equal(access_byte(TSS), 0x89);
	assert_int_equal(access_byte(TSS2), 0x8b);
	core_close(&r);
}

static void a_call_nests_and_iret_comes_back(void **state)
{
	prepare();
	assert_int_equal(cpu_far_call(CPU, TASK_GATE, 0, 4, 7), STEP_STOP);
	assert_int_equal(cpu_rflags(CPU), FLAG_NT | FLAG_IF | FLAG_CF | 2);
	assert_int_equal(core_get(&r, AT_TSS2, 2), TSS);
	assert_int_equal(access_byte(TSS), 0x8b); /* still busy: it is in the chain */
	assert_int_equal(access_byte(TSS2), 0x8b);
	core_expect_fault(&r, cpu_far_call(CPU, TSS, 0, 4, 7), VEC_GP, TSS); /* busy */
	assert_int_equal(cpu_iret(CPU, 4, NULL), STEP_STOP);
	assert_int_equal(CPU->arch.rip, 0x107);
	assert_int_equal(CPU->arch.gpr[GPR_RBX], 0x73);
	assert_int_equal(CPU->arch.tr.sel, TSS);
	assert_int_equal(access_byte(TSS2), 0x89);
	assert_int_equal(core_get(&r, AT_TSS2 + T_FLAGS, 4), FLAG_IF | FLAG_CF | 2); /* NT cleared in the task that returned */
	core_close(&r);
}

static void an_exception_through_a_task_gate_pushes_its_error_code_there(void **state)
{
	prepare();
	core_gate(&r, AT_IDT + 8 * VEC_GP, TSS2, 0, 0x85, 0);
	CPU->fault = (struct event){ .kind = EVENT_FAULT, .vector = VEC_GP, .has_error = 1, .error = 0x88 };
	cpu_take_fault(CPU);
	assert_int_equal(CPU->arch.rip, 0x4321);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], 0x5000 - 4);
	assert_int_equal(core_stack(&r, 0, 4), 0x88);
	assert_int_equal(old(T_IP), 0x100);
	assert_true(old(T_FLAGS) & FLAG_RF);
	core_close(&r);
}

static void the_new_tss_is_checked_before_anything_changes(void **state)
{
	prepare();
	core_gdt(&r, TSS2, AT_TSS2, 0x66, 0x89, 0);
	core_expect_fault(&r, cpu_far_jmp(CPU, TSS2, 0, 4, 7), VEC_TS, TSS2);
	core_gdt(&r, TSS2, AT_TSS2, 0x67, 0x09, 0);
	core_expect_fault(&r, cpu_far_jmp(CPU, TSS2, 0, 4, 7), VEC_NP, TSS2);
	core_expect_fault(&r, cpu_far_jmp(CPU, TSS, 0, 4, 7), VEC_GP, TSS);
	core_gate(&r, AT_GDT + TASK_GATE, TSS2, 0, 0x05, 0);
	core_expect_fault(&r, cpu_far_jmp(CPU, TASK_GATE, 0, 4, 7), VEC_NP, TASK_GATE);
	cpu_set_rflags(CPU, FLAG_NT);
	core_set(&r, AT_TSS, 2, TSS2);
	core_expect_fault(&r, cpu_iret(CPU, 4, NULL), VEC_TS, TSS2); /* not busy */
	assert_int_equal(CPU->arch.tr.sel, TSS);
	assert_int_equal(CPU->arch.rip, 0x100);
	core_close(&r);
}

static void bad_segments_fault_in_the_new_task(void **state)
{
	static const struct { unsigned off; u16 sel; u8 vector; } rows[] = {
		{ T_ES + 4, DATA0, VEC_TS }, { T_ES + 4, ABSENT_CODE, VEC_NP }, { T_ES + 8, DATA3, VEC_TS }, { T_ES + 8, ABSENT_DATA, VEC_SS },
		{ T_ES + 12, EXEC_ONLY, VEC_TS }, { T_ES, ABSENT_DATA, VEC_NP }, { T_LDT, DATA0, VEC_TS }
	};
	for (unsigned i = 0; i < array_len(rows); i++) {
		prepare();
		put(rows[i].off, rows[i].sel);
		core_expect_fault(&r, cpu_far_jmp(CPU, TSS2, 0, 4, 7), rows[i].vector, rows[i].sel & ~3);
		assert_int_equal(CPU->arch.tr.sel, TSS2);
		assert_int_equal(CPU->arch.rip, 0x4321);
		core_close(&r);
	}
}

static void the_trap_bit_raises_db_in_the_new_task(void **state)
{
	struct exit_record what;
	prepare();
	put(T_TRAP, 1);
	core_idt(&r, VEC_DB, CODE0, AT_HANDLER, 0x8e, 0);
	assert_int_equal(cpu_far_jmp(CPU, TSS2, 0, 4, 7), STEP_STOP);
	assert_true(cpu_service(CPU, &what));
	assert_int_equal(CPU->arch.rip, AT_HANDLER);
	assert_int_equal(CPU->arch.dr[6], 0xffff8ff0);
	assert_int_equal(core_stack(&r, 0, 4), 0x4321);
	core_close(&r);
}

static void sixteen_bit_tasks_have_words(void **state)
{
	prepare();
	core_gdt(&r, TSS2, AT_TSS2, 0x2b, 0x81, 0);
	core_set(&r, AT_TSS2 + 0x0e, 2, 0x222);
	core_set(&r, AT_TSS2 + 0x10, 2, 2);
	for (unsigned i = 0; i < 8; i++)
		core_set(&r, AT_TSS2 + 0x12 + 2 * i, 2, 0x100 + i);
	core_set(&r, AT_TSS2 + 0x22, 2, DATA0);
	core_set(&r, AT_TSS2 + 0x24, 2, CODE16);
	core_set(&r, AT_TSS2 + 0x26, 2, DATA0);
	core_set(&r, AT_TSS2 + 0x28, 2, DATA0);
	core_set(&r, AT_TSS2 + 0x2a, 2, 0);
	assert_int_equal(cpu_far_jmp(CPU, TSS2, 0, 4, 7), STEP_STOP);
	assert_int_equal(CPU->arch.rip, 0x222);
	assert_int_equal(CPU->arch.gpr[GPR_RSI], 0x106);
	assert_false(CPU->mode & MODE_D);
	assert_true(CPU->arch.seg[SEG_GS].attr & SEG_UNUSABLE);
	core_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_jump_switches_and_frees_the_old_task), cmocka_unit_test(a_call_nests_and_iret_comes_back),
		cmocka_unit_test(an_exception_through_a_task_gate_pushes_its_error_code_there),
		cmocka_unit_test(the_new_tss_is_checked_before_anything_changes), cmocka_unit_test(bad_segments_fault_in_the_new_task),
		cmocka_unit_test(the_trap_bit_raises_db_in_the_new_task), cmocka_unit_test(sixteen_bit_tasks_have_words),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
