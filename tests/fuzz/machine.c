#include "machine.h"
#include "cpu/desc.h"
#include "cpu/model.h"
#include "interp/interp.h"
#include "vmx/vmx.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

/* The machines live as long as the process, and what their mappings point to looks lost to the leak checker. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return 1; }

/* ---- random numbers ---- */
static u64 mix(u64 v)
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
	v = (v ^ v >> 27) * 0x94d049bb133111ebull;
	return v ^ v >> 31;
}

void rng_init(struct rng *r, const u8 *data, size_t size)
{
	*r = (struct rng){ .p = data, .end = data + size };
	for (size_t i = 0; i < size; i++)
		r->s = mix(r->s ^ data[i] ^ i << 8);
}

u64 rng_u64(struct rng *r)
{
	u64 v = 0;
	if (r->end - r->p < 2)
		return mix(r->s += 0x9e3779b97f4a7c15ull);
	memcpy(&v, r->p, 2);
	r->p += 2;
	return v | (mix(v + r->s) << 16);
}

/* ---- the world outside ---- */
static u64 bus_value(struct machine *m, u64 at, unsigned size) { return mix(m->bus_seed + m->bus_reads++ + (at << 20)) & low_mask(8 * size); }
static u64 port_read(void *o, u16 port, unsigned size) { return bus_value(o, port, size); }
static u64 mmio_read(void *o, u64 at, unsigned size) { return bus_value(o, at, size); }
static void port_write(void *o, u16 port, u64 v, unsigned size) { ((struct machine *)o)->bus_reads++; }
static void mmio_write(void *o, u64 at, u64 v, unsigned size) { ((struct machine *)o)->bus_reads++; }
static void service_code(void *o, struct cpu *c) { cpu_unpend(c, PEND_CODE); }

static int intc_pending(void *o) { return ((struct machine *)o)->irq; }
static int intc_acknowledge(void *o)
{
	struct machine *m = o;
	int v = m->irq;
	m->irq = -1;
	return v;
}
static u8 intc_tpr(void *o) { return ((struct machine *)o)->tpr; }
static void intc_set_tpr(void *o, u8 v) { ((struct machine *)o)->tpr = v; }
static bool intc_set_base(void *o, u64 v)
{
	struct machine *m = o;
	if (v & 0xff)
		return false;
	m->cpu->arch.apic_base = v;
	return true;
}
static bool intc_msr_read(void *o, u32 msr, u64 *v) { *v = bus_value(o, msr, 4); return msr != 0x8ff; }
static bool intc_msr_write(void *o, u32 msr, u64 v) { return msr != 0x8fe; }
static u64 intc_mmio_read(void *o, u32 off, unsigned size)
{
	bug_if(off + size > PAGE_SIZE || size > 4);
	return bus_value(o, off, size);
}
static void intc_mmio_write(void *o, u32 off, u64 v, unsigned size) { bug_if(off + size > PAGE_SIZE || size > 4); }
static u64 intc_deadline(void *o) { return ((struct machine *)o)->deadline; }
static void intc_set_deadline(void *o, u64 v) { ((struct machine *)o)->deadline = v; }
static void intc_init(void *o, bool reset) {}
static void intc_eoi(void *o) {}
static u32 intc_id(void *o) { return 0; }
static const struct intc_ops intc = {
	.pending = intc_pending, .acknowledge = intc_acknowledge, .tpr = intc_tpr, .set_tpr = intc_set_tpr, .set_base = intc_set_base,
	.msr_read = intc_msr_read, .msr_write = intc_msr_write, .mmio_read = intc_mmio_read, .mmio_write = intc_mmio_write,
	.deadline = intc_deadline, .set_deadline = intc_set_deadline, .init = intc_init, .eoi = intc_eoi, .apic_id = intc_id,
};

/* Mostly interrupts, some NMIs, rarely INIT and SIPI. */
static void signal_fire(void *o)
{
	struct machine *m = o;
	u64 what = mix(m->bus_seed ^ m->signals++);
	unsigned kind = what & 31;
	if (kind < 24) {
		m->irq = what & 32 ? POSTED_VECTOR : (int)(what >> 8 & 0xff);
		cpu_pend(m->cpu, PEND_INTR);
	} else if (kind < 30) {
		cpu_pend_nmi(m->cpu);
	} else if (kind == 30) {
		cpu_pend(m->cpu, PEND_INIT);
	} else {
		m->cpu->arch.sipi_vector = AT_CODE >> 12;
		cpu_pend(m->cpu, PEND_SIPI);
	}
	clock_arm(&m->clock, &m->events, clock_now(&m->clock) + m->event_period);
}

static void kick_fire(void *o) { cpu_pend(((struct machine *)o)->cpu, PEND_KICK); }

static void code_written(void *o, u64 frame, unsigned first, unsigned last)
{
	struct machine *m = o;
	m->engine->forget(m->cpu, frame, first, last);
}

/* ---- lifetime ---- */
struct machine *machine_create(bool nested, const struct engine_ops *engine)
{
	struct machine *m = calloc(1, sizeof *m);
	/* Not from the heap: the sanitizer's leaves no room near it for host code. */
	struct cpu *c = mmap(NULL, align_up(sizeof *c, PAGE_SIZE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bug_if(!m || c == MAP_FAILED || mem_init(&m->mem, RAM_BYTES + ROM_BYTES));
	bug_if(mem_add_slot(&m->mem, gpa(0), RAM_BYTES, MEM_RAM, "ram") || mem_add_slot(&m->mem, gpa(RAM_BYTES), ROM_BYTES, MEM_ROM, "rom"));
	m->engine = engine;
	clock_init(&m->clock, NULL);
	m->kick = (struct clock_timer){ .deadline = CLOCK_NEVER, .fire = kick_fire, .opaque = m, .name = "kick" };
	m->events = (struct clock_timer){ .deadline = CLOCK_NEVER, .fire = signal_fire, .opaque = m, .name = "events" };
	clock_add_timer(&m->clock, &m->kick);
	clock_add_timer(&m->clock, &m->events);
	m->io = (struct cpu_io){ port_read, port_write, mmio_read, mmio_write, .service_code = service_code, .vm = m };
	m->cpu = c;
	c->mem = &m->mem;
	c->io = &m->io;
	c->clock = &m->clock;
	c->intc = &intc;
	c->intc_state = m;
	c->ncpus = 1;
	c->tsc_khz = 2000000;
	c->model = cpu_model_make("fast,-rdrand,-rdseed", nested, 1, c->tsc_khz); /* runs must be repeatable */
	bug_if(!c->model || mmu_create(c) || engine->create(c) || (nested && vmx_create(c)));
	bug_if(mem_add_listener(&m->mem, (struct mem_listener){ code_written, m }));
	return m;
}

void machine_destroy(struct machine *m)
{
	if (m->cpu->virt)
		vmx_destroy(m->cpu);
	m->engine->destroy(m->cpu);
	mmu_destroy(m->cpu);
	cpu_model_free((struct cpu_model *)m->cpu->model);
	munmap(m->cpu, align_up(sizeof *m->cpu, PAGE_SIZE));
	clock_destroy(&m->clock);
	mem_free(&m->mem);
	free(m);
}

static void restart_clock(struct machine *m, u64 now)
{
	struct clock_regs r = { .now = now };
	clock_arm(&m->clock, &m->kick, CLOCK_NEVER);
	clock_arm(&m->clock, &m->events, CLOCK_NEVER);
	clock_set_regs(&m->clock, &r);
	m->cpu->icount = m->cpu->v_icount = m->cpu->budget_end = 0;
	m->cpu->v_base = now;
}

void machine_reset(struct machine *m, u64 seed, u64 event_period)
{
	struct cpu *c = m->cpu;
	m->engine->sync(c);
	m->engine->forget_all(c);
	memset(m->mem.base, 0, m->mem.bytes);
	memset(m->mem.code_lines, 0, m->mem.frames * 8);
	restart_clock(m, 0);
	m->bus_seed = seed;
	m->bus_reads = m->signals = m->deadline = 0;
	m->tpr = 0;
	m->irq = -1;
	m->event_period = event_period;
	c->pending = 0;
	c->alone = false;
	memset(&c->arch, 0, sizeof c->arch); /* RESET leaves some of it alone */
	cpu_reset(c);
	if (event_period)
		clock_arm(&m->clock, &m->events, event_period);
}

void machine_adopt(struct machine *m)
{
	struct cpu *c = m->cpu;
	c->x87_resident = false;
	c->arch.gpr[GPR_ZERO] = 0;
	cpu_set_rflags(c, cpu_rflags(c));
	cpu_update_mode(c);
	mmu_switch(c);
	mmu_flush_all(c);
	cpu_pend(c, PEND_INTR | PEND_VIRT | PEND_TIMER | PEND_STEP);
}

/* ---- running ---- */
/* Asleep: V moves to the next timer, of the machine or of the vCPU. */
static void sleep_until(struct machine *m, u64 wake)
{
	u64 next = min_u64(m->clock.next, wake);
	clock_publish(&m->clock, max_u64(next, clock_now(&m->clock)));
	if (next == wake)
		cpu_pend(m->cpu, PEND_VIRT);
	clock_run_timers(&m->clock);
}

bool machine_run(struct machine *m, u64 insns)
{
	struct cpu *c = m->cpu;
	struct exit_record out;
	clock_arm(&m->clock, &m->kick, clock_now(&m->clock) + insns * CLOCK_NS_PER_INSN);
	c->budget_end = 0;
	for (;;) {
		out = (struct exit_record){ .wake_v = CLOCK_NEVER };
		m->engine->run(c, &out);
		if (out.kind != EXIT_HALT)
			break;
		sleep_until(m, out.wake_v);
	}
	cpu_unpend(c, PEND_KICK);
	m->engine->sync(c);
	bug_if(out.kind == EXIT_SHUTDOWN && (!c->death[0] || c->arch.activity != ACT_SHUTDOWN));
	return c->arch.guest_mode || c->arch.activity != ACT_SHUTDOWN;
}

/* ---- invariants ---- */
static void check_derived(const struct cpu *c)
{
	static struct cpu copy;
	memcpy(&copy, c, sizeof copy);
	cpu_update_mode(&copy);
	bug_if(copy.mode != c->mode || copy.acc_class != c->acc_class || copy.lma != c->lma || copy.paging != c->paging);
	bug_if(copy.stack_mask != c->stack_mask || memcmp(copy.seg_base, c->seg_base, sizeof copy.seg_base));
	bug_if(memcmp(copy.bound_r, c->bound_r, sizeof copy.bound_r) || memcmp(copy.bound_w, c->bound_w, sizeof copy.bound_w));
}

static void check_segments(const struct cpu *c)
{
	const struct cpu_arch *a = &c->arch;
	const struct seg *cs = &a->seg[SEG_CS], *ss = &a->seg[SEG_SS];
	bug_if(!cpu_long64(c) && a->rip >> 32);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		bug_if(a->seg[i].attr & ~0x1f0ffu);
	if (cpu_real_mode(c)) {
		bug_if(a->cpl != 0 || (a->rflags & FLAG_VM));
		return;
	}
	if (cpu_vm86(c)) {
		bug_if(a->cpl != 3 || c->lma);
		return;
	}
	bug_if(a->cpl > 3);
	/* Only right after MOV to CR0 is CS still what real mode had. */
	if ((cs->attr & SEG_TYPE_CODE) && (cs->attr & SEG_S))
		bug_if(cs->attr & SEG_TYPE_EC ? SEG_DPL(cs->attr) > a->cpl : SEG_DPL(cs->attr) != a->cpl);
	bug_if(!(ss->attr & SEG_UNUSABLE) && SEG_DPL(ss->attr) != a->cpl);
	bug_if(c->lma && (cs->attr & SEG_L) && (cs->attr & SEG_DB));
}

/* Decoded code says what memory says. */
static void check_block(struct machine *m, const struct interp *e, const struct block *b)
{
	u8 bytes[2 * PAGE_SIZE];
	u32 mode = b->key & 0xff;
	memcpy(bytes, m->mem.base + (u64)b->frame[0] * PAGE_SIZE, PAGE_SIZE);
	if (b->frame[1] != NO_FRAME)
		memcpy(bytes + PAGE_SIZE, m->mem.base + (u64)b->frame[1] * PAGE_SIZE, PAGE_SIZE);
	unsigned end = b->frame[1] != NO_FRAME ? 2 * PAGE_SIZE : PAGE_SIZE;
	for (unsigned k = 0; k < b->slots; k++) {
		const struct insn *i = &b->insn[k];
		unsigned at = b->off + i->off;
		struct isa_insn in;
		if (!i->len)
			continue;
		enum isa_result r = isa_decode(&e->dec, mode & MODE_L ? ISA_64 : mode & MODE_D ? ISA_32 : ISA_16, bytes + at, end - at, &in);
		bug_if(r != ISA_OK || in.zi.length != i->len || in.zi.mnemonic != i->op);
	}
}

static void check_blocks(struct machine *m)
{
	const struct interp *e = m->cpu->engine;
	for (unsigned s = 0; s < HASH_SIZE; s++)
		for (const struct block *b = e->hash[s]; b; b = b->hash_next)
			check_block(m, e, b);
}

void machine_check(struct machine *m)
{
	struct cpu *c = m->cpu;
	const struct cpu_arch *a = &c->arch;
	bug_if(a->gpr[GPR_ZERO]);
	bug_if((a->rflags & FLAG_ARITH) || !(a->rflags & FLAG_FIXED1) || (a->rflags & ~(u64)0x3f7fd7));
	bug_if((a->cr0 & (CR0_PG | CR0_PE)) == CR0_PG);
	bug_if(!(a->efer & EFER_LMA) != !((a->efer & EFER_LME) && (a->cr0 & CR0_PG)));
	bug_if((a->efer & EFER_LMA) && !(a->cr4 & CR4_PAE));
	bug_if(a->mxcsr & ~0xffffu);
	bug_if(a->activity > ACT_WAIT_SIPI || (a->shadow & ~0xfu) || (a->shadow & 3) == 3 || a->nmi_pending > 2);
	bug_if(a->guest_mode && !c->virt);
	bug_if(c->x87_resident || !(a->dr[7] & 0x400) || a->dr[7] >> 32 || a->dr[6] >> 32);
	bug_if(c->fault.kind >= EVENT_VIRT && !a->guest_mode && c->fault.kind != EVENT_VIRT);
	check_segments(c);
	check_derived(c);
	check_blocks(m);
}

/* ---- two machines ---- */
static void save(struct machine *m, struct state_buf *b)
{
	m->engine->sync(m->cpu);
	state_save(b, &cpu_arch_state, "cpu", &m->cpu->arch);
	if (m->cpu->virt)
		state_save(b, m->cpu->virt->state, "virt", m->cpu->virt_state);
}

/* As vm/ does it. */
static void load(struct machine *m, const struct state_buf *b)
{
	struct cpu *c = m->cpu;
	size_t pos = 0;
	bug_if(state_load(b, &pos, &cpu_arch_state, "cpu", &c->arch));
	bug_if(c->virt && state_load(b, &pos, c->virt->state, "virt", c->virt_state));
	c->x87_resident = false;
	if (c->virt && c->virt->loaded)
		c->virt->loaded(c);
	cpu_update_mode(c);
	mmu_flush_all(c);
	mmu_switch(c);
	m->engine->forget_all(c);
	cpu_pend(c, PEND_INTR | PEND_VIRT | PEND_TIMER | PEND_STEP);
}

void machine_clone(struct machine *b, struct machine *a)
{
	struct state_buf first = { 0 }, second = { 0 };
	machine_reset(b, a->bus_seed, 0);
	memcpy(b->mem.base, a->mem.base, a->mem.bytes);
	b->bus_reads = a->bus_reads;
	b->signals = a->signals;
	b->deadline = a->deadline;
	b->tpr = a->tpr;
	b->irq = a->irq;
	b->event_period = a->event_period;
	restart_clock(b, clock_now(&a->clock));
	clock_arm(&b->clock, &b->events, a->events.deadline);
	save(a, &first);
	load(b, &first);
	save(b, &second);
	bug_if(first.len != second.len || memcmp(first.data, second.data, first.len));
	state_buf_free(&first);
	state_buf_free(&second);
	/* The TLB is no state: what it still knew, the other cannot know. Decoded code decides how far a REP goes at once. */
	mmu_flush_all(a->cpu);
	a->engine->forget_all(a->cpu);
	memset(a->mem.code_lines, 0, a->mem.frames * 8);
}

static void report_difference(struct machine *a, struct machine *b)
{
	fprintf(stderr, "machines differ after the same instructions: %s V %llu, %s V %llu\n", a->engine->name, (unsigned long long)a->clock.now,
		b->engine->name, (unsigned long long)b->clock.now);
	state_dump(stderr, &cpu_arch_state, "cpu", &b->cpu->arch, &a->cpu->arch);
	if (a->cpu->virt)
		state_dump(stderr, a->cpu->virt->state, "virt", b->cpu->virt_state, a->cpu->virt_state);
	for (u64 i = 0; i < a->mem.bytes; i += 8)
		if (memcmp(a->mem.base + i, b->mem.base + i, 8))
			fprintf(stderr, "memory %llx: %llx -> %llx\n", (unsigned long long)i, (unsigned long long)load_le(a->mem.base + i, 8),
				(unsigned long long)load_le(b->mem.base + i, 8));
}

void machines_same(struct machine *a, struct machine *b)
{
	a->cpu->arch.gpr[GPR_BLOCK_RIP] = b->cpu->arch.gpr[GPR_BLOCK_RIP]; /* no state of the guest */
	bool same = !memcmp(&a->cpu->arch, &b->cpu->arch, sizeof a->cpu->arch) && !memcmp(a->mem.base, b->mem.base, a->mem.bytes) &&
		    a->bus_reads == b->bus_reads;
	if (same && a->cpu->virt)
		same = !memcmp(a->cpu->virt_state, b->cpu->virt_state, a->cpu->virt->state->size);
	if (!same)
		report_difference(a, b);
	bug_if(!same);
}
