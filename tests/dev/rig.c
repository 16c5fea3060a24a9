/* See rig.h. */
#include "rig.h"
#include "cpu/core.h"
#include <stdlib.h>

u64 rig_host_ns;
static u64 host_ns(void) { return rig_host_ns; }

/* The only things that irq/ asks of the CPU core. */
bool cpu_has(const struct cpu *c, enum cpu_feature f) { return true; }
unsigned cpu_maxphyaddr(const struct cpu *c) { return 40; }

static void kick(void *vm, unsigned n) { ((struct rig *)vm)->kicks[n]++; }

struct rig *rig_create(void)
{
	struct rig *r = calloc(1, sizeof *r);
	struct irq_line lines[HPET_LINES] = { 0 };
	bus_init(&r->bus, NULL, &r->clock);
	clock_init(&r->clock, &r->bus.lock);
	r->clock.host_ns = host_ns;
	r->clock.rtc_base_s = 1700000000; /* 2023-11-14 22:13:20, a Tuesday */
	r->irq = irq_system_create(&r->bus, &r->devs);
	r->irq->kick = kick;
	r->irq->vm = r;
	for (unsigned i = 0; i < RIG_CPUS; i++) {
		r->cpu[i] = aligned_alloc(64, align_up(sizeof *r->cpu[i], 64));
		memset(r->cpu[i], 0, sizeof *r->cpu[i]);
		r->cpu[i]->index = i;
		r->cpu[i]->ncpus = RIG_CPUS;
		r->cpu[i]->clock = &r->clock;
		r->cpu[i]->tsc_khz = 2000000;
		irq_system_add_cpu(r->irq, r->cpu[i]);
	}
	for (unsigned i = 0; i < HPET_LINES; i++)
		lines[i] = irq_system_line(r->irq, i);
	r->hpet = hpet_create(&r->bus, &r->devs, lines);
	r->pit = i8254_create(&r->bus, &r->devs, hpet_pit_line(r->hpet));
	r->rtc = mc146818_create(&r->bus, &r->devs, hpet_rtc_line(r->hpet));
	return r;
}

void rig_free(struct rig *r)
{
	dev_list_free(&r->devs);
	for (unsigned i = 0; i < RIG_CPUS; i++)
		free(r->cpu[i]);
	bus_destroy(&r->bus);
	clock_destroy(&r->clock);
	free(r);
}

void rig_run(struct rig *r, u64 ns)
{
	u64 end = clock_now(&r->clock) + ns;
	while (r->clock.next <= end) {
		clock_publish(&r->clock, r->clock.next);
		clock_run_timers(&r->clock);
	}
	clock_publish(&r->clock, end);
}

#define OPS(r, n) (r)->cpu[n]->intc
#define STATE(r, n) (r)->cpu[n]->intc_state

u32 apic_rd(struct rig *r, unsigned n, unsigned reg) { return (u32)OPS(r, n)->mmio_read(STATE(r, n), reg * 16, 4); }
void apic_wr(struct rig *r, unsigned n, unsigned reg, u32 v) { OPS(r, n)->mmio_write(STATE(r, n), reg * 16, v, 4); }
bool apic_msr_rd(struct rig *r, unsigned n, unsigned reg, u64 *v) { return OPS(r, n)->msr_read(STATE(r, n), 0x800 + reg, v); }
bool apic_msr_wr(struct rig *r, unsigned n, unsigned reg, u64 v) { return OPS(r, n)->msr_write(STATE(r, n), 0x800 + reg, v); }
bool apic_base(struct rig *r, unsigned n, u64 v) { return OPS(r, n)->set_base(STATE(r, n), v); }
int apic_pending(struct rig *r, unsigned n) { return OPS(r, n)->pending(STATE(r, n)); }
int apic_ack(struct rig *r, unsigned n) { return OPS(r, n)->acknowledge(STATE(r, n)); }
void apic_enable(struct rig *r, unsigned n) { apic_wr(r, n, LAPIC_SVR, 0x1ff); }
void apic_x2(struct rig *r, unsigned n) { apic_base(r, n, r->cpu[n]->arch.apic_base | APIC_BASE_X2); }

u32 ioapic_rd(struct rig *r, u32 reg)
{
	wr32(r, IRQ_IOAPIC_BASE, reg);
	return rd32(r, IRQ_IOAPIC_BASE + 0x10);
}

void ioapic_wr(struct rig *r, u32 reg, u32 v)
{
	wr32(r, IRQ_IOAPIC_BASE, reg);
	wr32(r, IRQ_IOAPIC_BASE + 0x10, v);
}

void ioapic_pin(struct rig *r, unsigned pin, u64 rte)
{
	ioapic_wr(r, 0x11 + 2 * pin, (u32)(rte >> 32));
	ioapic_wr(r, 0x10 + 2 * pin, (u32)rte);
}

void pic_init(struct rig *r)
{
	static const struct { u16 port; u8 v; } writes[] = {
		{ 0x20, 0x11 }, { 0x21, 0x20 }, { 0x21, 0x04 }, { 0x21, 0x01 }, { 0x21, 0 },
		{ 0xa0, 0x11 }, { 0xa1, 0x28 }, { 0xa1, 0x02 }, { 0xa1, 0x01 }, { 0xa1, 0 },
	};
	for (unsigned i = 0; i < array_len(writes); i++)
		out8(r, writes[i].port, writes[i].v);
}

void rig_virtual_wire(struct rig *r)
{
	pic_init(r);
	irq_system_virtual_wire(r->irq);
}
