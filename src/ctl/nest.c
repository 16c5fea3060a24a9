/* tree, exits: who runs inside whom on this machine, and what their VM exits cost. The counters are kept by vmx/nest.c, per vCPU and VMCS; here they become
 * guests: the VMCS regions of one level with the same EPT root are the vCPUs of one virtual machine. */
#include "ctl/handlers.h"
#include "vmx/nest.h"
#include "vmx/vmx.h"

#include <stdlib.h>

#define MAX_GUESTS 64

static json_t *hex(u64 v)
{
	return json_sprintf("0x%llx", (unsigned long long)v);
}

static const char *activity(u32 a)
{
	static const char *const names[] = { "active", "halted", "shut down", "waits for SIPI" };
	return a < array_len(names) ? names[a] : "?";
}

static const char *mode(const struct nest_state *s)
{
	if (s->efer & EFER_LMA)
		return s->cs_attr & SEG_L ? "64-bit" : "32-bit under a 64-bit system";
	if (!(s->cr0 & CR0_PE))
		return "real mode";
	if (s->rflags & FLAG_VM)
		return "virtual-8086";
	return s->cr0 & CR0_PG ? "32-bit, paging" : "32-bit, no paging";
}

/* Systems put their interrupt descriptor table at addresses of their own: Linux always at the same one (Documentation/arch/x86/x86_64/mm.rst, cpu_entry_area),
 * Xen in its own 512 GiB slots (asm-x86/config.h's layout), Windows in its half of the system range. NULL: it cannot be told. */
static const char *looks(const struct nest_state *s)
{
	static const struct { u64 from, to; const char *name; } homes[] = {
		{ 0xfffffe0000000000, 0xfffffe0000000fff, "Linux" },
		{ 0xffff82c000000000, 0xffff87ffffffffff, "Xen" },
		{ 0xfffff80000000000, 0xfffff8ffffffffff, "Windows" },
		{ 0, 0xffffffff, "firmware or a boot loader" },
	};
	if (!(s->cr0 & CR0_PE) || !(s->cr0 & CR0_PG))
		return "firmware or a boot loader";
	for (unsigned i = 0; s->efer & EFER_LMA && i < array_len(homes); i++)
		if (s->idtr_base >= homes[i].from && s->idtr_base <= homes[i].to)
			return homes[i].name;
	return NULL;
}

static u64 exits_of(const struct nest_guest *g)
{
	u64 total = 0;
	for (unsigned r = 0; r < NEST_REASONS; r++)
		total += g->reason[r].exits;
	return total;
}

/* One virtual CPU of a guest: the same VMCS on every CPU that it has run on, described by the latest. */
struct runner {
	const struct cpu *c;
	const struct nest_guest *g;
	u64 entries, exits;
};

/* By the first vCPU: the others may not have been started yet. */
static json_t *looks_json(const struct runner *r, unsigned n)
{
	struct nest_state s;
	const char *name = n && vmx_nest_state(r->c, r->g, &s) ? looks(&s) : NULL;
	return name ? json_string(name) : json_null();
}

static json_t *vcpu_json(const struct runner *r, double rate)
{
	struct nest_state s;
	u64 ago = __builtin_ia32_rdtsc() - r->g->last_entry;
	json_t *o = json_pack("{s:i,s:o,s:i,s:b,s:f,s:I,s:I}", "cpu", r->c->index, "vmcs", hex(r->g->vmcs), "vpid", r->g->vpid, "running", r->g->running, "idle_s",
			      r->g->running || (i64)ago < 0 ? 0.0 : ago / rate, "entries", (json_int_t)r->entries, "exits", (json_int_t)r->exits);
	if (!vmx_nest_state(r->c, r->g, &s))
		return o;
	json_object_set_new(o, "mode", json_string(mode(&s)));
	json_object_set_new(o, "activity", json_string(activity(s.activity)));
	json_object_set_new(o, "rip", hex(s.rip));
	json_object_set_new(o, "cr3", hex(s.cr3));
	return o;
}

struct guest {
	u64 eptp, vmcs;   /* eptp 0: told apart by the VMCS */
	unsigned level;
	int parent;       /* index, -1: the machine */
	struct runner runner[NEST_GUESTS];
	unsigned nrunners;
	u64 entries, exits;
};

struct forest {
	struct guest g[MAX_GUESTS];
	unsigned n;
};

static void add_runner(struct guest *to, const struct cpu *c, const struct nest_guest *g)
{
	struct runner *r = to->runner;
	while (r < to->runner + to->nrunners && r->g->vmcs != g->vmcs)
		r++;
	if (r == to->runner + to->nrunners) {
		if (to->nrunners == array_len(to->runner))
			return;
		*r = (struct runner){ c, g, 0, 0 };
		to->nrunners++;
	}
	if (g->last_entry > r->g->last_entry) {
		r->c = c;
		r->g = g;
	}
	r->entries += g->entries;
	r->exits += exits_of(g);
}

/* Index of the guest that vCPU c's entry i belongs to; its parents are added first. -1: too many. */
static int plant(struct forest *f, const struct cpu *c, const struct nest *n, unsigned i, unsigned depth)
{
	const struct nest_guest *g = &n->guest[i];
	int parent = g->parent >= 0 && g->parent < NEST_GUESTS && depth < NEST_GUESTS ? plant(f, c, n, g->parent, depth + 1) : -1;
	for (unsigned k = 0; k < f->n; k++)
		if (f->g[k].eptp == g->eptp && f->g[k].level == g->level && f->g[k].parent == parent && (g->eptp || f->g[k].vmcs == g->vmcs))
			return k;
	if (f->n == MAX_GUESTS)
		return -1;
	f->g[f->n] = (struct guest){ .eptp = g->eptp, .vmcs = g->vmcs, .level = g->level, .parent = parent };
	return f->n++;
}

static void gather(struct vm *vm, struct forest *f)
{
	for (unsigned i = 0; i < vm->ncpus; i++) {
		const struct cpu *c = vm->vcpus[i].cpu;
		const struct nest *n = vmx_nest(c);
		unsigned count = n ? min_u64(__atomic_load_n(&n->n, __ATOMIC_ACQUIRE), NEST_GUESTS) : 0;
		for (unsigned k = 0; k < count; k++) {
			int at = plant(f, c, n, k, 0);
			if (at < 0)
				continue;
			f->g[at].entries += n->guest[k].entries;
			f->g[at].exits += exits_of(&n->guest[k]);
			add_runner(&f->g[at], c, &n->guest[k]);
		}
	}
}

void ctl_do_tree(struct vm *vm, struct ctl_call *call, json_t *args)
{
	struct forest *f = calloc(1, sizeof *f);
	if (!f) {
		ctl_fail(call, "no-memory", "out of memory");
		return;
	}
	gather(vm, f);
	double rate = vm_ticks_per_s(vm);
	json_t *guests = json_array();
	for (unsigned i = 0; i < f->n; i++) {
		struct guest *g = &f->g[i];
		json_t *vcpus = json_array();
		for (unsigned k = 0; k < g->nrunners; k++)
			json_array_append_new(vcpus, vcpu_json(&g->runner[k], rate));
		json_array_append_new(guests, json_pack("{s:i,s:o,s:i,s:o,s:o,s:I,s:I,s:o}", "id", i, "parent", g->parent < 0 ? json_null() : json_integer(g->parent),
							"level", g->level, "looks", looks_json(g->runner, g->nrunners), "eptp", hex(g->eptp), "entries", (json_int_t)g->entries, "exits",
							(json_int_t)g->exits, "vcpus", vcpus));
	}
	free(f);
	ctl_reply(call, json_pack("{s:i,s:b,s:o}", "cpus", vm->ncpus, "nested", vm->cfg.nested, "guests", guests));
}

/* ---- exits ---- */
#define LEVELS 16

void ctl_do_exits(struct vm *vm, struct ctl_call *call, json_t *args)
{
	static struct nest_count sum[LEVELS][NEST_REASONS]; /* loop thread only */
	double rate = vm_ticks_per_s(vm);
	json_t *rows = json_array();
	memset(sum, 0, sizeof sum);
	for (unsigned i = 0; i < vm->ncpus; i++) {
		const struct nest *n = vmx_nest(vm->vcpus[i].cpu);
		for (unsigned k = 0; n && k < min_u64(n->n, NEST_GUESTS); k++)
			for (unsigned r = 0; r < NEST_REASONS; r++) {
				struct nest_count *s = &sum[n->guest[k].level % LEVELS][r];
				s->exits += n->guest[k].reason[r].exits;
				s->insns += n->guest[k].reason[r].insns;
				s->ticks += n->guest[k].reason[r].ticks;
			}
	}
	for (unsigned l = 0; l < LEVELS; l++)
		for (unsigned r = 0; r < NEST_REASONS; r++)
			if (sum[l][r].exits)
				json_array_append_new(rows, json_pack("{s:i,s:i,s:s,s:I,s:I,s:f}", "level", l, "reason", r, "name", vmx_exit_name(r), "exits",
								      (json_int_t)sum[l][r].exits, "instructions", (json_int_t)sum[l][r].insns,
								      "handling_s", (double)sum[l][r].ticks / rate));
	ctl_reply(call, json_pack("{s:f,s:o}", "uptime_s", (double)(host_now_ns() - vm->start_host_ns) / NSEC_PER_SEC, "exits", rows));
}
