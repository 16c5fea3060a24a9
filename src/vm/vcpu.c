/* vCPU threads: run, sleep, kick, pause. Surprise: the last vCPU to fall asleep becomes the clock's keeper: it sleeps until the next
 * timer of the whole machine is due, while the others sleep until somebody wakes them. */
#include "base/log.h"
#include "cpu/core.h"
#include "cpu/mmu.h"
#include "vm/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static void fire_wake(void *opaque)
{
	struct vcpu *v = opaque;
	cpu_pend(v->cpu, PEND_VIRT);
	vcpu_kick(v->vm, v->cpu->index);
}

int vcpu_create(struct vm *vm, unsigned index)
{
	struct vcpu *v = &vm->vcpus[index];
	struct cpu *c = aligned_alloc(64, align_up(sizeof *c, 64));
	if (!c)
		return -ENOMEM;
	memset(c, 0, sizeof *c);
	v->vm = vm;
	v->cpu = c;
	pthread_mutex_init(&v->lock, NULL);
	pthread_mutex_init(&v->code_lock, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&v->wake, &attr);
	pthread_condattr_destroy(&attr);
	c->index = index;
	c->ncpus = vm->ncpus;
	c->mem = &vm->mem;
	c->clock = &vm->clock;
	c->io = &vm->io;
	c->model = vm->model;
	c->tsc_khz = VM_TSC_KHZ;
	v->wake_timer = (struct clock_timer){ .deadline = CLOCK_NEVER, .fire = fire_wake, .opaque = v, .name = "vcpu" };
	clock_add_timer(&vm->clock, &v->wake_timer);
	int err = mmu_create(c);
	return err ? err : vm->engine->create(c);
}

void vcpu_destroy(struct vcpu *v)
{
	if (!v->cpu)
		return;
	if (v->cpu->engine)
		v->vm->engine->destroy(v->cpu);
	mmu_destroy(v->cpu);
	free(v->cpu);
	v->cpu = NULL;
}

void vcpu_kick(struct vm *vm, unsigned index)
{
	struct vcpu *v = &vm->vcpus[index];
	pthread_mutex_lock(&v->lock);
	if (v->sleeping)
		pthread_cond_signal(&v->wake);
	pthread_mutex_unlock(&v->lock);
}

/* clock.next moved earlier: running vCPUs recompute their budget; with none running, the keeper recomputes its sleep. */
void vm_clock_changed(void *opaque)
{
	struct vm *vm = opaque;
	bool idle = !__atomic_load_n(&vm->clock.running, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < vm->ncpus; i++) {
		struct vcpu *v = &vm->vcpus[i];
		if (!v->cpu || (v == vcpu_current && !idle && !v->sleeping)) {
			if (v->cpu)
				v->cpu->budget_end = 0;
			continue;
		}
		if (idle)
			vcpu_kick(vm, i);
		else if (__atomic_load_n(&v->in_guest, __ATOMIC_RELAXED))
			cpu_pend(v->cpu, PEND_TIMER);
	}
}

static void sleep_until(struct vcpu *v, u64 host_ns)
{
	if (host_ns == CLOCK_NEVER) {
		pthread_cond_wait(&v->wake, &v->lock);
		return;
	}
	struct timespec t = { .tv_sec = host_ns / NSEC_PER_SEC, .tv_nsec = host_ns % NSEC_PER_SEC };
	pthread_cond_timedwait(&v->wake, &v->lock, &t);
}

/* Does anything pend that ends a halt? PEND_TIMER and PEND_CODE are no reason; the service loop decides about the rest. */
static bool awake(const struct vcpu *v)
{
	return __atomic_load_n(&v->cpu->pending, __ATOMIC_SEQ_CST) & ~(PEND_TIMER | PEND_CODE | PEND_STEP);
}

/* The clock calls back into vcpu_kick, so it is never called with v->lock held. */
static void vcpu_sleep(struct vcpu *v, u64 wake_v)
{
	struct clock *clock = &v->vm->clock;
	u64 since = host_now_ns();
	__atomic_store_n(&v->in_guest, false, __ATOMIC_SEQ_CST);
	if (wake_v != CLOCK_NEVER)
		clock_arm(clock, &v->wake_timer, wake_v);
	clock_vcpu_idle(clock);
	while (!awake(v)) {
		bool keeper = !__atomic_load_n(&clock->running, __ATOMIC_SEQ_CST);
		u64 until = keeper ? clock_idle_wake_host_ns(clock) : CLOCK_NEVER;
		if (keeper && until <= host_now_ns()) {
			clock_idle_update(clock);
			clock_run_timers(clock);
			continue;
		}
		pthread_mutex_lock(&v->lock);
		v->sleeping = true;
		if (!awake(v) && keeper == !__atomic_load_n(&clock->running, __ATOMIC_SEQ_CST))
			sleep_until(v, until);
		v->sleeping = false;
		pthread_mutex_unlock(&v->lock);
	}
	clock_vcpu_run(clock);
	if (wake_v != CLOCK_NEVER)
		clock_arm(clock, &v->wake_timer, CLOCK_NEVER);
	v->times.slept += host_now_ns() - since;
}

static void park_while_paused(struct vcpu *v)
{
	struct vm *vm = v->vm;
	__atomic_store_n(&v->in_guest, false, __ATOMIC_SEQ_CST);
	u64 since = host_now_ns();
	vm->engine->sync(v->cpu);
	clock_vcpu_idle(&vm->clock);
	pthread_mutex_lock(&vm->lock);
	while (vm->pause && !vm->stop) {
		vm->parked++;
		pthread_cond_broadcast(&vm->changed);
		pthread_cond_wait(&vm->changed, &vm->lock);
		vm->parked--;
	}
	pthread_mutex_unlock(&vm->lock);
	clock_vcpu_run(&vm->clock);
	v->times.slept += host_now_ns() - since;
}

/* Entering the guest: announce it first, then answer what was asked while we were out (see code.c). */
static void enter(struct vcpu *v)
{
	__atomic_store_n(&v->in_guest, true, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&v->cpu->pending, __ATOMIC_SEQ_CST) & PEND_CODE)
		vm_service_code(v->vm, v->cpu);
}

static void die(struct vcpu *v)
{
	log_error("vCPU %u: the guest died: %s", v->cpu->index, v->cpu->death[0] ? v->cpu->death : "triple fault");
	vm_end(v->vm, VM_DIED);
}

static u64 timeval_ns(struct timeval t) { return (u64)t.tv_sec * NSEC_PER_SEC + (u64)t.tv_usec * 1000; }

/* What the host gave this thread, for --stats. */
static void note_times(struct vcpu *v)
{
	struct rusage u;
	if (getrusage(RUSAGE_THREAD, &u))
		return;
	v->times.lived += host_now_ns() - v->times.began;
	v->times.ran += timeval_ns(u.ru_utime) + timeval_ns(u.ru_stime);
	v->times.preempted += (u64)u.ru_nivcsw;
}

static void *vcpu_main(void *opaque)
{
	struct vcpu *v = opaque;
	struct vm *vm = v->vm;
	struct cpu *c = v->cpu;
	vcpu_current = v;
	v->times.began = host_now_ns();
	clock_vcpu_run(&vm->clock);
	while (!__atomic_load_n(&vm->stop, __ATOMIC_SEQ_CST)) {
		struct exit_record ex = { .kind = EXIT_KICK, .wake_v = CLOCK_NEVER };
		enter(v);
		vm->engine->run(c, &ex);
		if (ex.kind == EXIT_SHUTDOWN) {
			die(v);
			vcpu_sleep(v, CLOCK_NEVER); /* until a reset or the end, which kick */
		}
		if (ex.kind == EXIT_HALT) {
			c->stats.halts++;
			vcpu_sleep(v, ex.wake_v);
		}
		if (unlikely(c->dbg) && c->dbg->hit != DEBUG_HIT_NONE)
			vm_debug_stop(vm);
		if (__atomic_load_n(&c->pending, __ATOMIC_SEQ_CST) & PEND_KICK) {
			cpu_unpend(c, PEND_KICK);
			park_while_paused(v);
		}
	}
	__atomic_store_n(&v->in_guest, false, __ATOMIC_SEQ_CST);
	vm->engine->sync(c);
	clock_vcpu_idle(&vm->clock);
	note_times(v);
	return NULL;
}

#define STACK_BYTES (8u << 20) /* whatever the shell's limit is: the JIT keeps return addresses there, 16 bytes for each instruction of a slice at worst (jit/returns.c) */

int vcpu_start(struct vcpu *v)
{
	pthread_attr_t attr;
	v->started = true;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	int err = -pthread_create(&v->thread, &attr, vcpu_main, v);
	pthread_attr_destroy(&attr);
	if (err) {
		v->started = false;
		log_error("cannot start the thread of vCPU %u: %s", v->cpu->index, strerror(-err));
	}
	return err;
}
