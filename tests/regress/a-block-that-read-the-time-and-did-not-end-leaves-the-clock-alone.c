/* Two CPUs in L2, once: uptime 2^56 ns too much. RDTSC had taken over another vCPU's time in the middle of a block, all of which was counted; the rest of the block
 * did not run, so the count of instructions went back behind that moment, and the difference, unsigned, was the end of time. */
#include "core_rig.h"

static void time_goes_back_a_little(void **state)
{
	struct core r;
	core_open(&r, CORE_LONG);
	r.cpu->v_base = 1000000;
	r.cpu->v_icount = 5010;
	r.cpu->icount = 5000;
	assert_in_range(cpu_now(r.cpu), 1000000 - 20 * CLOCK_NS_PER_INSN, 1000000);
	r.cpu->icount = 5020;
	assert_in_range(cpu_now(r.cpu), 1000000, 1000000 + 20 * CLOCK_NS_PER_INSN);
	core_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(time_goes_back_a_little) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
