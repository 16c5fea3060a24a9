#include "vmx/nest.h"
#include "vmx/priv.h"

#include <x86intrin.h>

/* A guest that nobody has entered for long makes room; what it was the parent of goes up one. */
static unsigned make_room(struct nest *n)
{
	unsigned oldest = 0;
	for (unsigned i = 1; i < NEST_GUESTS; i++)
		if (n->guest[i].last_entry < n->guest[oldest].last_entry)
			oldest = i;
	for (unsigned i = 0; i < NEST_GUESTS; i++)
		if (n->guest[i].parent == (int)oldest)
			n->guest[i].parent = n->guest[oldest].parent;
	if (n->wants == (int)oldest)
		n->wants = -1;
	return oldest;
}

static unsigned find(struct nest *n, u64 vmcs, u64 eptp)
{
	for (unsigned i = 0; i < n->n; i++)
		if (n->guest[i].vmcs == vmcs && n->guest[i].eptp == eptp)
			return i;
	return NEST_GUESTS;
}

static bool is_entry(u32 reason) { return reason == EXIT_VMLAUNCH || reason == EXIT_VMRESUME; }

/* The guest `h` is entered for the first time. */
static int parent_of(const struct nest *n)
{
	if (!n->out || !is_entry(n->out_reason))
		return -1;
	/* The hypervisor of `wants` has now done what `wants` asked for. */
	if (n->wants >= 0 && n->guest[n->wants].parent == (int)n->cur)
		return n->wants;
	return n->cur;
}

static unsigned add(struct nest *n, u64 vmcs, u64 eptp)
{
	int parent = n->n ? parent_of(n) : -1;
	unsigned i = n->n < NEST_GUESTS ? n->n : make_room(n);
	if (parent == (int)i)
		parent = -1;
	struct nest_guest *g = &n->guest[i];
	memset(g, 0, sizeof *g);
	g->vmcs = vmcs;
	g->eptp = eptp;
	g->parent = (i8)parent;
	g->level = parent < 0 ? 2 : n->guest[parent].level + 1;
	if (n->n < NEST_GUESTS)
		__atomic_store_n(&n->n, n->n + 1, __ATOMIC_RELEASE);
	return i;
}

static void follow(struct nest *n, unsigned to)
{
	if (!n->out || !is_entry(n->out_reason) || to == n->cur)
		return;
	if (n->guest[n->cur].parent == (int)to)
		n->wants = n->cur; /* told of its guest's VMRESUME */
	else if (n->wants >= 0 && n->guest[n->wants].parent == (int)n->cur)
		n->wants = -1;     /* has done it */
}

static cold_path void record(struct nest *n, u64 ticks, bool entry, u32 reason)
{
	struct nest_recording *r = n->recording;
	if (r->n == r->room)
		r->lost++;
	else
		r->event[r->n++] = (struct nest_event){ ticks, (u8)n->cur, entry, (u16)reason };
}

struct nest_recording *vmx_nest_record(struct cpu *c, struct nest_recording *r)
{
	struct nest *n = c->virt == &vmx_ops ? &vmx_of(c)->nest : NULL;
	if (!n)
		return r;
	struct nest_recording *old = n->recording;
	n->recording = r;
	return old;
}

/* Reading the host's TSC twice was 2 % of an exit. Of a reason that has been short on average, after so many, one exit in 16 stands for all. */
#define TIMED_ALL 1024
#define TIMED_ONE 16
#define SHORT_TICKS 20000

static bool is_sampled(const struct nest_count *k) { return k->exits > TIMED_ALL && k->ticks < k->exits * SHORT_TICKS; }

/* Host's TSC of an entry behind an exit for this reason. */
static u64 count_time(struct nest *n, struct nest_count *k)
{
	if (!n->weight && !n->recording)
		return n->out_ticks;
	u64 now = __rdtsc();
	k->ticks += (now - n->out_ticks) * n->weight;
	return now;
}

/* Another guest than the one that was entered before. */
static cold_path struct nest_guest *change(struct nest *n, u64 vmcs, u64 eptp)
{
	unsigned i = find(n, vmcs, eptp);
	if (i == NEST_GUESTS)
		i = add(n, vmcs, eptp);
	follow(n, i);
	n->cur = i;
	return &n->guest[i];
}

hot_path void nest_entered(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	struct nest *n = &v->nest;
	u64 vmcs = v->s.vmcs_ptr, eptp = v->ept ? v->f[VF_EPTP] : 0;
	struct nest_guest *g = &n->guest[n->cur];
	u64 now;

	if (n->out && n->n) {
		struct nest_count *k = &g->reason[n->out_reason];
		k->insns += c->icount - n->out_icount;
		now = count_time(n, k);
	} else {
		now = __rdtsc();
	}
	if (unlikely(!n->n || g->vmcs != vmcs || g->eptp != eptp))
		g = change(n, vmcs, eptp);
	g->vpid = v->ctl[GROUP_PROC2] & bit(CTL_PROC2_VPID & 31) ? (u16)v->f[VF_VPID] : 0;
	g->entries++;
	g->last_entry = now;
	g->running = true;
	n->out = false;
	if (unlikely(n->recording))
		record(n, now, true, 0);
}

hot_path void nest_exited(struct cpu *c, u32 reason)
{
	struct nest *n = &vmx_of(c)->nest;

	reason &= 0xffff;
	if (reason >= NEST_REASONS)
		reason = 0;
	if (unlikely(!n->n)) { /* a machine that was loaded in the middle of a guest */
		nest_entered(c);
		n->guest[n->cur].entries = 0;
	}
	struct nest_count *k = &n->guest[n->cur].reason[reason];
	k->exits++;
	n->guest[n->cur].running = false;
	n->out = true;
	n->out_reason = reason;
	n->out_icount = c->icount;
	n->weight = !is_sampled(k) ? 1 : k->exits % TIMED_ONE == 0 ? TIMED_ONE : 0;
	if (n->weight || n->recording)
		n->out_ticks = __rdtsc();
	if (unlikely(n->recording))
		record(n, n->out_ticks, false, reason);
}

const struct nest *vmx_nest(const struct cpu *c) { return c->virt == &vmx_ops ? &vmx_of(c)->nest : NULL; }

bool vmx_nest_state(const struct cpu *c, const struct nest_guest *g, struct nest_state *s)
{
	const struct vmx *v = vmx_of(c);
	const struct vmcs *m = mem_ptr(c->mem, gpa(g->vmcs), sizeof *m);
	if (!m)
		return false;
	if (c->arch.guest_mode && v->s.vmcs_ptr == g->vmcs) {
		*s = (struct nest_state){ .rip = c->arch.rip, .rsp = c->arch.gpr[GPR_RSP], .cr0 = c->arch.cr0, .cr3 = c->arch.cr3, .cr4 = c->arch.cr4,
					  .efer = c->arch.efer, .rflags = cpu_rflags(c), .idtr_base = c->arch.idtr.base, .cs_attr = c->arch.seg[SEG_CS].attr, .activity = c->arch.activity };
	} else {
		bool ia32e = vmcs_get(m, VF_ENTRY_CONTROLS) & bit(CTL_ENTRY_IA32E & 31);
		*s = (struct nest_state){ .rip = vmcs_get(m, VF_GUEST_RIP), .rsp = vmcs_get(m, VF_GUEST_RSP), .cr0 = vmcs_get(m, VF_GUEST_CR0),
					  .cr3 = vmcs_get(m, VF_GUEST_CR3), .cr4 = vmcs_get(m, VF_GUEST_CR4), .efer = ia32e ? EFER_LMA | EFER_LME : 0,
					  .rflags = vmcs_get(m, VF_GUEST_RFLAGS), .idtr_base = vmcs_get(m, VF_GUEST_IDTR_BASE), .cs_attr = (u32)vmcs_get(m, VF_GUEST_CS_AR),
					  .activity = (u32)vmcs_get(m, VF_GUEST_ACTIVITY) };
	}
	s->host64 = vmcs_get(m, VF_EXIT_CONTROLS) & bit(CTL_EXIT_HOST64 & 31);
	s->host_rip = vmcs_get(m, VF_HOST_RIP);
	s->host_rsp = vmcs_get(m, VF_HOST_RSP);
	s->host_cr3 = vmcs_get(m, VF_HOST_CR3);
	s->host_cr4 = vmcs_get(m, VF_HOST_CR4);
	s->eptp = g->eptp;
	return true;
}
