/* --stats: what the machine did, in "stats: name value" lines that people and scripts read. */
#include "vm/vm.h"
#include "vmx/vmx.h"

#include <unistd.h>

static double seconds(u64 ns) { return (double)ns / NSEC_PER_SEC; }

double vm_ticks_per_s(const struct vm *vm)
{
	u64 ns = host_now_ns() - vm->start_host_ns, ticks = __builtin_ia32_rdtsc() - vm->start_ticks;
	return ns ? (double)ticks * NSEC_PER_SEC / ns : 1e9;
}

static void print_exits(const struct vm *vm, FILE *out)
{
	u64 total = 0, entries = 0, failures = 0, by_reason[128] = { 0 };
	for (unsigned i = 0; i < vm->ncpus; i++) {
		const struct cpu_stats *s = &vm->vcpus[i].cpu->stats;
		entries += s->vmentries;
		failures += s->vmentry_failures;
		for (unsigned r = 0; r < array_len(by_reason); r++) {
			by_reason[r] += s->vmexits[r];
			total += s->vmexits[r];
		}
	}
	double s = seconds(host_now_ns() - vm->start_host_ns);
	fprintf(out, "stats: vmexits total=%llu entries=%llu failed_entries=%llu per_s=%.0f\n", (unsigned long long)total, (unsigned long long)entries,
		(unsigned long long)failures, s > 0 ? total / s : 0);
	for (unsigned r = 0; r < array_len(by_reason); r++)
		if (by_reason[r])
			fprintf(out, "stats: vmexit reason=%u name=\"%s\" count=%llu\n", r, vmx_exit_name(r), (unsigned long long)by_reason[r]);
}

/* What the process holds beside the guest's memory: resident pages that are neither shared nor of a file (proc(5), statm). */
static u64 own_bytes(const struct vm *vm)
{
	char text[128] = "";
	unsigned long long size, resident, shared;
	if (vm->statm_fd < 0 || pread(vm->statm_fd, text, sizeof text - 1, 0) <= 0 || sscanf(text, "%llu %llu %llu", &size, &resident, &shared) != 3)
		return 0;
	return (resident - shared) * PAGE_SIZE;
}

/* waited: for a CPU of the host. */
static void print_thread(const struct vcpu *v, unsigned i, FILE *out)
{
	const struct cpu_stats *s = &v->cpu->stats;
	u64 busy = v->times.ran + v->times.slept;
	if (v->times.lived)
		fprintf(out, "stats: vcpu=%u ran_s=%.3f slept_s=%.3f waited_s=%.3f preempted=%llu ipis_sent=%llu spins_yielded=%llu\n", i, seconds(v->times.ran),
			seconds(v->times.slept), seconds(v->times.lived > busy ? v->times.lived - busy : 0), (unsigned long long)v->times.preempted,
			(unsigned long long)s->ipis, (unsigned long long)s->spins);
}

static double mib_of(u64 pages) { return (double)pages * PAGE_SIZE / MiB; }

void vm_print_stats(struct vm *vm, FILE *out)
{
	u64 wall = host_now_ns() - vm->start_host_ns;
	u64 insns = 0;
	struct mem_ahead_stats ahead;
	for (unsigned i = 0; i < vm->ncpus; i++) {
		const struct cpu *c = vm->vcpus[i].cpu;
		const struct cpu_stats *s = &c->stats;
		insns += c->icount;
		fprintf(out, "stats: vcpu=%u insns=%llu blocks_decoded=%llu lookups=%llu invalidated=%llu tlb_misses=%llu walks=%llu interrupts=%llu halts=%llu ports=%llu mmio=%llu\n",
			i, (unsigned long long)c->icount, (unsigned long long)s->decodes, (unsigned long long)s->block_lookups,
			(unsigned long long)s->code_invalidations, (unsigned long long)s->tlb_misses, (unsigned long long)s->walks,
			(unsigned long long)s->interrupts, (unsigned long long)s->halts, (unsigned long long)s->ports, (unsigned long long)s->mmios);
		print_thread(&vm->vcpus[i], i, out);
		if (vm->engine->print_stats)
			vm->engine->print_stats(c, out);
	}
	fprintf(out, "stats: wall_s=%.3f virtual_s=%.3f insns=%llu mips=%.1f\n", seconds(wall), seconds(clock_now(&vm->clock)),
		(unsigned long long)insns, wall ? (double)insns * 1000 / wall : 0.0);
	mem_ahead_stats(&vm->mem, &ahead);
	fprintf(out, "stats: own_memory_mib=%.1f\n", (double)own_bytes(vm) / MiB);
	fprintf(out, "stats: memory_mib touched=%.1f ahead=%.1f spare=%.1f\n", mib_of(ahead.touched), mib_of(ahead.came), mib_of(ahead.spare));
	nets_print_stats(vm, out);
	print_exits(vm, out);
}
