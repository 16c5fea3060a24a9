/* Loops without an end and without anything that leaves the engine by itself: hot, linked to themselves, made into regions. A timer's interrupt has to come
 * through within some hundred instructions of its time, and one that another thread pends within what the engine promises: at the next backward branch;
 * where there is none (indirect jumps and returns), within a slice (MAX_SLICE in cpu/service.c). Bounds are in instructions and rounds, never in host time. */
#include "interp_rig.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#define VECTOR 0x40
#define AT_COUNTER 0x50000u
#define TIMER_NS 600000u   /* 300,000 instructions: loops are looked at after 50,000, and are regions after three looks */
#define TIMER_LATE 500u    /* instructions */
#define SLICE 50000u
#define SOON 200u          /* rounds: what a thread may do between two instructions of the one that watches */

/* Each at AT_CODE; rsi: AT_COUNTER, rax: AT_CODE, rsp and rbp: a stack. `late`: rounds until a thread's interrupt is seen. */
static const struct { const char *name, *hex; u64 late; } loops[] = {
	{ "one block", "48ff06 ebfb", SOON },
	{ "a conditional branch", "48ff06 75fb ebf9", SOON },
	{ "LOOP", "48ff06 b902000000 e2fe ebf4", SOON },
	{ "forward, forward, back", "48ff06 eb02 cccc eb02 cccc ebf3", SOON },
	{ "two ways through", "48ff06 f60601 7402 eb05 0f1f4000 90 ebef", SOON },
	{ "into the next page and back", "48ff06 e9f80f0000", SOON },
	{ "CALL and RET", "48ff06 e802000000 ebf6 c3", SOON },
	{ "CALL of itself", "48ff06 4889ec e8f5ffffff", SOON },
	{ "JMP to a register", "48ff06 ffe0", SLICE },
	{ "CALL of a register", "48ff06 4889ec ffd0", SLICE },
	{ "PUSH and RET", "48ff06 50 c3", SLICE },
	{ "a handler in each round", "48ff06 9c 9d ebf9", SOON },
	{ "stores that share a probe", "48ff06 48894608 48894610 48895618 ebef", SOON },
	{ "vectors", "48ff06 660fefc0 0f114620 ebf3", SOON },
};

static struct core r;

static void open_loop(const char *hex)
{
	interp_open(&r, CORE_LONG);
	interp_catch(&r);
	interp_put(&r, AT_HANDLER + 16 * VECTOR, "f4");
	core_idt(&r, VECTOR, CODE64, AT_HANDLER + 16 * VECTOR, 0x8e, 0);
	assert_int_not_equal(cpu_set_cr4(r.cpu, r.cpu->arch.cr4 | CR4_OSFXSR), STEP_FAULT);
	interp_put(&r, AT_CODE, hex);
	interp_put(&r, AT_CODE + 0x1000, "e9fbefffff");
	r.cpu->arch.gpr[GPR_RSI] = AT_COUNTER;
	r.cpu->arch.gpr[GPR_RAX] = AT_CODE;
	r.cpu->arch.gpr[GPR_RBP] = r.cpu->arch.gpr[GPR_RSP];
	cpu_set_rflags(r.cpu, FLAG_IF);
}

static void assert_interrupted(void)
{
	assert_int_equal(r.cpu->arch.rip, AT_HANDLER + 16 * VECTOR + 1);
	assert_int_equal(r.acknowledged, 1);
}

/* ---- a timer ---- */
static void fire(void *opaque)
{
	r.irq = VECTOR;
	cpu_pend(r.cpu, PEND_INTR);
}

static void by_a_timer(void **state)
{
	for (unsigned k = 0; k < array_len(loops); k++) {
		open_loop(loops[k].hex);
		struct clock_timer timer = { .deadline = CLOCK_NEVER, .fire = fire, .name = "test" };
		clock_add_timer(&r.clock, &timer);
		u64 due = clock_now(&r.clock) + TIMER_NS;
		clock_arm(&r.clock, &timer, due);
		alarm(60);
		interp_go(&r, AT_CODE);
		alarm(0);
		assert_interrupted();
		u64 now = cpu_now(r.cpu);
		if (now < due || now > due + TIMER_LATE * CLOCK_NS_PER_INSN)
			print_error("%s: %lld ns late\n", loops[k].name, (long long)(now - due));
		assert_true(now >= due && now <= due + TIMER_LATE * CLOCK_NS_PER_INSN);
		clock_del_timer(&r.clock, &timer);
		interp_close(&r);
	}
}

/* ---- another thread ---- */
static u64 counter(void) { return mem_read_le(&r.mem, gpa(AT_COUNTER), 8); }

static u64 warm = 200000; /* rounds before: past the third slice */

/* The counter, read once the interrupt is there to be seen. */
static void *pend(void *opaque)
{
	u64 *after = opaque;
	while (counter() < warm)
		sched_yield();
	r.irq = VECTOR;
	cpu_pend(r.cpu, PEND_INTR);
	*after = counter();
	return NULL;
}

static void by_another_thread(void **state)
{
	for (unsigned k = 0; k < array_len(loops); k++) {
		open_loop(loops[k].hex);
		pthread_t thread;
		u64 after;
		alarm(60);
		assert_int_equal(pthread_create(&thread, NULL, pend, &after), 0);
		interp_go(&r, AT_CODE);
		pthread_join(thread, NULL);
		alarm(0);
		assert_interrupted();
		if (counter() > after + loops[k].late)
			print_error("%s: %llu rounds late\n", loops[k].name, (unsigned long long)(counter() - after));
		assert_true(counter() <= after + loops[k].late);
		interp_close(&r);
	}
}

int main(void)
{
	const char *engine = getenv("NESTBOX_TEST_ENGINE");
	if (engine && !strcmp(engine, "lockstep")) /* makes no regions, and is slow */
		warm = 20000;
	const struct CMUnitTest tests[] = { cmocka_unit_test(by_a_timer), cmocka_unit_test(by_another_thread) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
