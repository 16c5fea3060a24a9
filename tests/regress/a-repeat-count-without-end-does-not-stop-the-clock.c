/* fuzz-cpu, seed 723: a REP with a count near 2^64 was one instruction to the clock, so virtual time stood still for as long as it ran and no timer
 * could interrupt it. Now so many bytes take an instruction's time, whether they go one by one or by whole spans, and in the same places. */
#include "regress.h"

static u64 ones(void *vm, u64 addr, unsigned size) { return low_mask(8 * size); }

static void endless_repeat(void **state)
{
	static const char *const reps[] = { "f3ac", "f348ad", "f2ae" };
	for (unsigned i = 0; i < array_len(reps); i++) {
		struct core r;
		interp_open(&r, CORE_LONG);
		r.io.mmio_read = ones;
		interp_put(&r, AT_CODE, reps[i]);
		r.cpu->arch.gpr[GPR_RCX] = ~(u64)0;
		r.cpu->arch.gpr[GPR_RSI] = r.cpu->arch.gpr[GPR_RDI] = AT_HANDLER;
		r.cpu->arch.gpr[GPR_RAX] = i == 3 ? 0 : 1; /* SCAS: REPNE never finds 1, REPE finds zeros, then the hole's ones */
		assert_int_equal(regress_run(&r, AT_CODE, 1000), EXIT_KICK);
		u64 done = ~(u64)0 - r.cpu->arch.gpr[GPR_RCX], bytes = done * (i == 1 ? 8 : 1);
		assert_in_range(bytes, 10000, 30000); /* 500 ticks */
		interp_close(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(endless_repeat) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
