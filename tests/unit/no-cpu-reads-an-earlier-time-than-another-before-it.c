/* What Linux asks of a machine with several CPUs (check_tsc_warp): under a lock, each reads the TSC and compares it with what was read last, by whichever of them. The
 * two are on threads of their own and in translated code, so RDTSC is mostly host code that writes nothing; every round is counted, and time decides nothing. */
#include "smp_rig.h"

#include <sched.h>
#include <unistd.h>

#define ROUNDS 300000u
#define AT_LOCK 0x60000u
#define AT_LAST 0x61000u /* and how often it was undercut, at + 8 */
#define AT_FIRST 0x20000u
#define AT_SECOND 0x28000u

/* again: mov eax, 1; xchg [rsi], eax; test eax, eax; jnz spin; lfence; rdtsc; shl rdx, 32; or rax, rdx; cmp rax, [rdi]; jae fine; inc qword [rdi + 8];
 * fine: mov [rdi], rax; mov dword [rsi], 0; dec ecx; jnz again; hlt; spin: pause; jmp again */
#define CHECK "b801000000 8706 85c0 7523 0faee8 0f31 48c1e220 4809d0 483b07 7304 48ff4708 488907 c70600000000 ffc9 75d3 f4 f390 ebce"

static struct smp s;
static void spinning(void *vm, struct cpu *c) { sched_yield(); }

static void under_a_lock(void **state)
{
	smp_open(&s);
	clock_share(&s.core[0].clock);
	core_set(&s.core[0], AT_LOCK, 8, 0);
	core_set(&s.core[0], AT_LAST, 8, 0);
	core_set(&s.core[0], AT_LAST + 8, 8, 0);
	for (unsigned n = 0; n < 2; n++) {
		struct cpu *c = s.core[n].cpu;
		c->clock = &s.core[0].clock;
		s.core[n].io.spinning = spinning;
		interp_put(&s.core[0], n ? AT_SECOND : AT_FIRST, CHECK);
		c->arch.gpr[GPR_RSI] = AT_LOCK;
		c->arch.gpr[GPR_RDI] = AT_LAST;
		c->arch.gpr[GPR_RCX] = ROUNDS;
	}
	alarm(100);
	smp_go(&s, (u64[]){ AT_FIRST, AT_SECOND }, NULL);
	alarm(0);
	for (unsigned n = 0; n < 2; n++)
		assert_int_equal((u32)s.core[n].cpu->arch.gpr[GPR_RCX], 0);
	assert_true(core_get(&s.core[0], AT_LAST, 8) > 0);
	assert_int_equal(core_get(&s.core[0], AT_LAST + 8, 8), 0);
	smp_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(under_a_lock) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
