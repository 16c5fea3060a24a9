/* fuzz-cpu, seed 37: a #UD handler whose first instruction is #UD again. No instruction ever completed, so the count of instructions, and with it
 * virtual time, stood still: no timer fired any more. Now the delivery of an event takes time too. */
#include "regress.h"

static void faulting_handler(void **state)
{
	struct core r;
	interp_open(&r, CORE_PROT);
	core_idt(&r, VEC_UD, CODE0, AT_HANDLER, 0x8f, 0);
	interp_put(&r, AT_HANDLER, "0f0b");
	interp_put(&r, AT_CODE, "0f0b");
	r.cpu->arch.gpr[GPR_RSP] = 0x1f0000;
	assert_int_equal(regress_run(&r, AT_CODE, 10000), EXIT_KICK);
	assert_true(clock_now(&r.clock) >= 10000);
	interp_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(faulting_handler) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
