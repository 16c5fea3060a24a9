/* Decoded code and memory writes, across vCPU threads.
 *
 * Two promises. (1) claim: before a vCPU decodes from a page that held no code, no vCPU keeps a TLB entry that writes it unseen; the claimer
 * waits until every vCPU inside the guest has answered. (2) written: whoever writes a line with code tells all vCPUs before its next
 * instruction, and each drops what it decoded at its next block boundary, so before it can act on any message that the writer sends
 * afterwards (SDM "Handling Self- and Cross-Modifying Code"). Surprise: a vCPU that waits in (1) answers others meanwhile; two claimers
 * cannot deadlock. */
#include "cpu/mmu.h"
#include "vm/vm.h"

#include <sched.h>

_Thread_local struct vcpu *vcpu_current;

/* Flush everything instead: forget requests and claims that nobody waits for are covered by that. */
static void collapse(struct vcpu *v)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < v->nqueue; i++)
		if (v->queue[i].acks)
			v->queue[kept++] = v->queue[i];
	v->nqueue = kept;
	v->overflow = true;
}

/* A page is mostly written line after line: widen the request that waits for it already. */
static bool merge(struct vcpu *v, const struct vm_code_request *r)
{
	for (unsigned i = v->nqueue; !r->claim && i-- > 0;) {
		struct vm_code_request *q = &v->queue[i];
		if (q->claim || q->frame != r->frame)
			continue;
		if (r->first < q->first)
			q->first = r->first;
		if (r->last > q->last)
			q->last = r->last;
		return true;
	}
	return false;
}

/* Claims that are waited for always fit: each other vCPU has at most one. */
static void post(struct vcpu *v, struct vm_code_request r)
{
	pthread_mutex_lock(&v->code_lock);
	if (merge(v, &r)) {
		pthread_mutex_unlock(&v->code_lock);
		cpu_pend(v->cpu, PEND_CODE);
		return;
	}
	if (v->nqueue >= VM_CODE_QUEUE)
		collapse(v);
	if (r.acks || !v->overflow) {
		bug_if(v->nqueue >= array_len(v->queue));
		v->queue[v->nqueue++] = r;
	}
	pthread_mutex_unlock(&v->code_lock);
	cpu_pend(v->cpu, PEND_CODE);
}

static void handle(struct vm *vm, struct vcpu *v, const struct vm_code_request *r)
{
	if (r->claim)
		mmu_write_protect(v->cpu, r->frame);
	else
		vm->engine->forget(v->cpu, r->frame, r->first, r->last);
}

/* Requests are answered in order; the queue is copied out so that posters never wait for our TLB scan. */
void vm_service_code(void *opaque, struct cpu *c)
{
	struct vm *vm = opaque;
	struct vcpu *v = &vm->vcpus[c->index];
	struct vm_code_request copy[VM_CODE_QUEUE + VM_MAX_CPUS];
	cpu_unpend(c, PEND_CODE);
	pthread_mutex_lock(&v->code_lock);
	unsigned n = v->nqueue;
	bool overflow = v->overflow;
	memcpy(copy, v->queue, n * sizeof copy[0]);
	v->nqueue = 0;
	v->overflow = false;
	pthread_mutex_unlock(&v->code_lock);
	if (overflow) {
		vm->engine->forget_all(c);
		mmu_flush_all(c);
	}
	for (unsigned i = 0; i < n; i++) {
		if (!overflow)
			handle(vm, v, &copy[i]);
		if (copy[i].acks)
			__atomic_fetch_add(copy[i].acks, 1, __ATOMIC_SEQ_CST);
	}
}

void vm_claim_code(void *opaque, struct cpu *c, u64 frame)
{
	struct vm *vm = opaque;
	mmu_write_protect(c, frame);
	u32 acks = 0;
	bool asked[VM_MAX_CPUS] = { false };
	unsigned wanted = 0;
	for (unsigned i = 0; i < vm->ncpus; i++) {
		struct vcpu *v = &vm->vcpus[i];
		if (v->cpu == c || !v->started)
			continue;
		post(v, (struct vm_code_request){ .frame = frame, .claim = true, .acks = &acks });
		asked[i] = true;
		wanted++;
	}
	/* A vCPU outside the guest answers before it enters again, so it need not be waited for; but its request holds a pointer to our
	 * acks, which must be taken back. */
	for (unsigned spin = 0; __atomic_load_n(&acks, __ATOMIC_SEQ_CST) < wanted; spin++) {
		if (__atomic_load_n(&c->pending, __ATOMIC_RELAXED) & PEND_CODE)
			vm_service_code(vm, c);
		for (unsigned i = 0; i < vm->ncpus; i++) {
			struct vcpu *v = &vm->vcpus[i];
			if (!asked[i] || __atomic_load_n(&v->in_guest, __ATOMIC_SEQ_CST))
				continue;
			pthread_mutex_lock(&v->code_lock);
			for (unsigned k = 0; k < v->nqueue; k++)
				if (v->queue[k].acks == &acks) {
					v->queue[k].acks = NULL;
					wanted--;
				}
			pthread_mutex_unlock(&v->code_lock);
			asked[i] = false;
		}
		if (spin > 200)
			sched_yield();
		else
			__builtin_ia32_pause();
	}
}

void vm_remapped(void *opaque)
{
	struct vm *vm = opaque;
	if (vcpu_current) /* the next access of this very instruction must see it */
		mmu_flush_all(vcpu_current->cpu);
	for (unsigned i = 0; i < vm->ncpus; i++) {
		struct vcpu *v = &vm->vcpus[i];
		if (!v->cpu || !v->started)
			continue;
		pthread_mutex_lock(&v->code_lock);
		collapse(v);
		pthread_mutex_unlock(&v->code_lock);
		cpu_pend(v->cpu, PEND_CODE);
	}
}

void vm_code_written(void *opaque, u64 frame, unsigned first_line, unsigned last_line)
{
	struct vm *vm = opaque;
	for (unsigned i = 0; i < vm->ncpus; i++) {
		struct vcpu *v = &vm->vcpus[i];
		if (v == vcpu_current || !v->started)
			vm->engine->forget(v->cpu, frame, first_line, last_line);
		else
			post(v, (struct vm_code_request){ .frame = frame, .first = first_line, .last = last_line });
	}
}
