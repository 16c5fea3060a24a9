#include "smp_rig.h"

#include "vm/vm.h"

#include <sched.h>
#include <stdlib.h>
#include <time.h>

/* The clock asks every 20,000 instructions of a vCPU: a good moment for one that only waits to let the other run. */
static u64 host_ns_after_others(void)
{
	struct timespec t;
	sched_yield();
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * NSEC_PER_SEC + (u64)t.tv_nsec;
}

void smp_open(struct smp *s)
{
	struct vm *vm = s->vm = calloc(1, sizeof *vm);
	assert_non_null(vm);
	vm->ncpus = 2;
	for (unsigned n = 0; n < 2; n++) {
		struct core *r = &s->core[n];
		struct vcpu *v = &vm->vcpus[n];
		core_open(r, CORE_LONG);
		r->clock.host_ns = host_ns_after_others;
		r->cpu->index = n;
		r->cpu->ncpus = 2;
		r->cpu->mem = &s->core[0].mem; /* the tables that core_open built are the same in both */
		mmu_flush_all(r->cpu);
		r->io = (struct cpu_io){ .claim_code = vm_claim_code, .service_code = vm_service_code, .vm = vm };
		v->vm = vm;
		v->cpu = r->cpu;
		v->started = true;
		pthread_mutex_init(&v->code_lock, NULL);
		vm->engine = interp_create_engine(r);
	}
	assert_int_equal(mem_add_listener(&s->core[0].mem, (struct mem_listener){ vm_code_written, vm }), 0);
}

void smp_close(struct smp *s)
{
	for (unsigned n = 2; n-- > 0;) {
		s->vm->engine->destroy(s->core[n].cpu);
		core_close(&s->core[n]);
	}
	free(s->vm);
}

/* As vcpu_main does it; a HLT ends the thread. */
static void *run(void *opaque)
{
	struct vcpu *v = opaque;
	struct exit_record out = { 0 };
	vcpu_current = v;
	__atomic_store_n(&v->in_guest, true, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&v->cpu->pending, __ATOMIC_SEQ_CST) & PEND_CODE)
		vm_service_code(v->vm, v->cpu);
	v->vm->engine->run(v->cpu, &out);
	__atomic_store_n(&v->in_guest, false, __ATOMIC_SEQ_CST);
	v->vm->engine->sync(v->cpu);
	return out.kind == EXIT_HALT ? v : NULL;
}

struct device_arg { struct smp *s; void (*device)(struct smp *s); };
static void *run_device(void *opaque)
{
	struct device_arg *a = opaque;
	a->device(a->s);
	return NULL;
}

void smp_go(struct smp *s, const u64 at[2], void (*device)(struct smp *s))
{
	pthread_t thread[2], device_thread;
	struct device_arg arg = { s, device };
	for (unsigned n = 0; n < 2; n++) {
		s->core[n].cpu->arch.activity = ACT_ACTIVE;
		s->core[n].cpu->arch.rip = at[n];
		if (at[n])
			assert_int_equal(pthread_create(&thread[n], NULL, run, &s->vm->vcpus[n]), 0);
	}
	if (device)
		assert_int_equal(pthread_create(&device_thread, NULL, run_device, &arg), 0);
	if (device)
		pthread_join(device_thread, NULL);
	for (unsigned n = 0; n < 2; n++) {
		void *halted = NULL;
		if (!at[n])
			continue;
		pthread_join(thread[n], &halted);
		if (!halted)
			print_error("death: %s\n", s->core[n].cpu->death);
		assert_non_null(halted);
	}
}
