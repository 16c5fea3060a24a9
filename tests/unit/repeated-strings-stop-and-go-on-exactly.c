/* REP: faults, interruptions, overlaps and steps leave registers and memory as the manual says (SDM "REP/REPE/REPZ/REPNE/REPNZ"). */
#include "interp_rig.h"

static struct core r;
#define GPR(n) (r.cpu->arch.gpr[GPR_##n])

/* 1 GiB: 4 KiB pages 0 and 1 present (at 40000h, 50000h), 2 and up not. */
static int open_long(void **state)
{
	u64 pd = AT_TABLES + 0x2000, pt = AT_TABLES + 0x3000;
	interp_open(&r, CORE_LONG);
	interp_catch(&r);
	core_set(&r, AT_TABLES + 0x1008, 8, pd | 7);
	core_set(&r, pd, 8, pt | 7);
	core_set(&r, pt, 8, 0x40000 | 7);
	core_set(&r, pt + 8, 8, 0x50000 | 7);
	mmu_flush_all(r.cpu);
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	return 0;
}

static void movs_faults_at_the_missing_page(void **state)
{
	core_set(&r, 0x50ff8, 8, 0x1122334455667788);
	GPR(RSI) = 0x40001ff0;
	GPR(RDI) = 0x60000;
	GPR(RCX) = 100;
	interp_do(&r, "f348a5");
	assert_int_equal(interp_caught(&r), VEC_PF);
	assert_int_equal(r.cpu->arch.cr2, 0x40002000);
	assert_int_equal(GPR(RCX), 98);
	assert_int_equal(GPR(RSI), 0x40002000);
	assert_int_equal(GPR(RDI), 0x60010);
	assert_int_equal(core_get(&r, 0x60008, 8), 0x1122334455667788);
}

static void stos_faults_for_a_write(void **state)
{
	GPR(RDI) = 0x40001ffc;
	GPR(RCX) = 5;
	GPR(RAX) = 0xaabbccdd;
	interp_do(&r, "f3ab");
	assert_int_equal(interp_caught(&r), VEC_PF);
	assert_int_equal(core_stack(&r, 0, 8), 2); /* error code: write, not present */
	assert_int_equal(GPR(RCX), 4);
	assert_int_equal(core_get(&r, 0x50ffc, 4), 0xaabbccdd);
}

/* An element across the edge of the missing page is not stored in part. */
static void element_across_the_edge_is_all_or_nothing(void **state)
{
	core_set(&r, 0x50ff8, 8, 0);
	GPR(RDI) = 0x40001ffc;
	GPR(RCX) = 1;
	GPR(RAX) = ~(u64)0;
	interp_do(&r, "f348ab");
	assert_int_equal(interp_caught(&r), VEC_PF);
	assert_int_equal(r.cpu->arch.cr2, 0x40002000);
	assert_int_equal(core_get(&r, 0x50ff8, 8), 0);
	assert_int_equal(GPR(RCX), 1);
}

static void faulting_scas_keeps_the_flags(void **state)
{
	r.cpu->arch.cc = cpu_flags_to_cc(FLAG_CF | FLAG_OF);
	GPR(RDI) = 0x40001000;
	GPR(RCX) = 0x2000;
	GPR(RAX) = 0x77;
	interp_do(&r, "f2ae");
	assert_int_equal(interp_caught(&r), VEC_PF);
	assert_int_equal(GPR(RCX), 0x1000);
	assert_int_equal(core_stack(&r, 3, 8) & FLAG_ARITH, FLAG_CF | FLAG_OF);
}

static void forward_overlap_repeats_the_pattern(void **state)
{
	core_set(&r, 0x60000, 8, 0x0807060504030201);
	GPR(RSI) = 0x60000;
	GPR(RDI) = 0x60003;
	GPR(RCX) = 9;
	interp_do(&r, "f3a4");
	assert_int_equal(core_get(&r, 0x60000, 8), 0x0201030201030201);
	assert_int_equal(core_get(&r, 0x60008, 4), 0x03020103);
}

static void backward_copies_end_first(void **state)
{
	for (unsigned k = 0; k < 16; k++)
		core_set(&r, 0x60000 + k, 1, k);
	GPR(RSI) = 0x6000f;
	GPR(RDI) = 0x60013;
	GPR(RCX) = 16;
	interp_do(&r, "fd f3a4 fc");
	assert_int_equal(core_get(&r, 0x60004, 8), 0x0706050403020100);
	assert_int_equal(GPR(RSI), 0x5ffff);
	assert_int_equal(GPR(RDI), 0x60003);
}

static void long_copy_is_interrupted_between_elements(void **state)
{
	/* Handler 40h: HLT. Interrupts on, one pending from the start of the copy: the copy stops after a piece. */
	core_idt(&r, 0x40, CODE64, AT_HANDLER + 0x800, 0x8e, 0);
	interp_put(&r, AT_HANDLER + 0x800, "f4");
	GPR(RSI) = 0x70000;
	GPR(RDI) = 0x40000000;
	GPR(RCX) = 0x2000;
	r.irq = 0x40;
	cpu_pend(r.cpu, PEND_INTR);
	interp_do(&r, "fb f3a4"); /* STI; its shadow covers the start of REP MOVS */
	assert_int_equal(r.acknowledged, 1);
	assert_true(GPR(RCX) > 0 && GPR(RCX) < 0x2000);
	assert_int_equal(GPR(RSI), 0x70000 + 0x2000 - GPR(RCX));
	assert_int_equal(core_stack(&r, 0, 8), AT_CODE + 1); /* the return address is the REP itself */
}

static void zero_count_touches_nothing(void **state)
{
	GPR(RDI) = 0x40002000;
	GPR(RCX) = 0;
	interp_do(&r, "f3aa");
	assert_int_equal(interp_caught(&r), -1);
	assert_int_equal(GPR(RDI), 0x40002000);
}

/* Address size 32: the counter is ECX, and what is written back is zero-extended. */
static void address_size_32_uses_the_low_halves(void **state)
{
	GPR(RDI) = 0xffffffff00060000;
	GPR(RCX) = 0xffffffff00000003;
	GPR(RAX) = 0x5a;
	interp_do(&r, "67f3aa");
	assert_int_equal(GPR(RCX), 0);
	assert_int_equal(GPR(RDI), 0x60003);
	assert_int_equal(core_get(&r, 0x60000, 4), 0x005a5a5a);
}

static void trap_flag_stops_after_each_iteration(void **state)
{
	GPR(RDI) = 0x60000;
	GPR(RCX) = 3;
	GPR(RAX) = 0x11;
	interp_do(&r, "9c 810c2400010000 9d f3aa"); /* pushf; or [rsp],100h; popf; rep stosb */
	assert_int_equal(interp_caught(&r), VEC_DB);
	assert_int_equal(GPR(RCX), 2);
	assert_int_equal(core_stack(&r, 0, 8), AT_CODE + 9);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, open_long, close_it)
	const struct CMUnitTest tests[] = {
		T(movs_faults_at_the_missing_page), T(stos_faults_for_a_write), T(element_across_the_edge_is_all_or_nothing), T(faulting_scas_keeps_the_flags),
		T(forward_overlap_repeats_the_pattern), T(backward_copies_end_first), T(long_copy_is_interrupted_between_elements), T(zero_count_touches_nothing),
		T(address_size_32_uses_the_low_halves), T(trap_flag_stops_after_each_iteration),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
