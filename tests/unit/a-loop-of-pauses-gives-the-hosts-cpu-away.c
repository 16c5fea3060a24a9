/* A kernel that waits for another CPU does so with PAUSE. When that CPU's thread is not running, because the two share one CPU of the host, the wait would last
 * until the host takes the CPU away: the engine tells the VM, which yields. Counted, never timed. */
#include "interp_rig.h"

#define ROUNDS 20000u
#define LOOP "b9204e0000 f390 ffc9 75fa"                 /* mov ecx, 20000; again: pause; dec ecx; jnz again */
#define RARE "b9204e0000 b820000000 ffc8 75fc f390 ffc9 75f1" /* with 32 rounds of another loop for each */

static struct core r;
static unsigned spins;
static void spinning(void *vm, struct cpu *c) { spins++; }

static unsigned run(unsigned ncpus, const char *hex)
{
	interp_open(&r, CORE_LONG);
	r.cpu->ncpus = ncpus;
	r.io.spinning = spinning;
	spins = 0;
	interp_do(&r, hex);
	assert_int_equal((u32)r.cpu->arch.gpr[GPR_RCX], 0);
	assert_int_equal(r.cpu->stats.spins, spins);
	interp_close(&r);
	return spins;
}

static void several_cpus(void **state)
{
	unsigned n = run(2, LOOP);
	assert_true(n > ROUNDS / 200 && n < ROUNDS / 100);
}

static void one_cpu(void **state) { assert_int_equal(run(1, LOOP), 0); }
static void pauses_of_somebody_who_works(void **state) { assert_int_equal(run(2, RARE), 0); }

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(several_cpus), cmocka_unit_test(one_cpu), cmocka_unit_test(pauses_of_somebody_who_works) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
