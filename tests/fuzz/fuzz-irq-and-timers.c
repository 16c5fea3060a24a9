/* Random port, MMIO, MSR and IPI accesses to the whole set of interrupt controllers and timers while V moves. Beyond what the sanitizers see:
 * pending() and acknowledge() agree, V never goes back, and the machine's state survives a save and load unchanged. */
#include "../dev/rig.h"
#include "fuzz_input.h"

static const u16 ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x70, 0x71, 0x3f, 0x60, 0xffff };
static const u64 bases[] = { HPET_BASE, HPET_BASE + 0x100, IRQ_IOAPIC_BASE, 0xfffffffffffffff0 };
/* Plausible vectors and modes are rare in random bits. */
static u32 tame(u64 v) { return v & 1 ? (u32)v : (u32)(v & 0x8c1ffu); }

static void check_acknowledge(struct rig *r, unsigned n)
{
	int will = apic_pending(r, n), got = apic_ack(r, n);
	bug_if(will != got || got > 255);
}

static void port_access(struct rig *r, struct fuzz_input *in)
{
	u16 port = ports[fuzz_take(in, 1) % array_len(ports)];
	unsigned how = (unsigned)fuzz_take(in, 1), bytes = 1u << (how >> 1) % 3;
	if (how & 1)
		bus_port_write(&r->bus, port, fuzz_take(in, bytes), bytes);
	else
		bus_port_read(&r->bus, port, bytes);
}

static void mmio_access(struct rig *r, struct fuzz_input *in)
{
	unsigned how = (unsigned)fuzz_take(in, 1), bytes = 1u << (how >> 1) % 4;
	u64 at = bases[how >> 4 & 3] + (fuzz_take(in, 1) & ~(u64)(how & 8 ? 0 : 3));
	if (how & 1)
		bus_mmio_write(&r->bus, at, fuzz_take(in, bytes), bytes);
	else
		bus_mmio_read(&r->bus, at, bytes);
}

/* Registers that exist, values that switch something on. */
static void hpet_access(struct rig *r, struct fuzz_input *in)
{
	static const u16 regs[] = { 0x10, 0x20, 0xf0, 0x100, 0x108, 0x110, 0x120, 0x128, 0x140, 0x148 };
	u16 reg = regs[fuzz_take(in, 1) % array_len(regs)];
	u32 v = (u32)fuzz_take(in, 2);
	wr32(r, HPET_BASE + reg, (reg & 0x1f) == 8 ? rd32(r, HPET_BASE + 0xf0) + v : reg == 0x10 ? v & 3 : v);
}

static void ioapic_access(struct rig *r, struct fuzz_input *in)
{
	u8 reg = fuzz_take(in, 1) & 0x3f;
	ioapic_wr(r, reg, reg & 1 ? (u32)fuzz_take(in, 1) << 24 : tame(fuzz_take(in, 3)));
	ioapic_rd(r, reg);
}

static void apic_access(struct rig *r, struct fuzz_input *in)
{
	const struct intc_ops *o = r->cpu[0]->intc;
	unsigned how = (unsigned)fuzz_take(in, 1), reg = (unsigned)fuzz_take(in, 1);
	void *s = r->cpu[how & 3]->intc_state;
	u64 v;
	switch (how >> 2 & 15) {
	case 0: o->mmio_write(s, reg << 4 | (how >> 6), fuzz_take(in, 4), how & 0x40 ? 4 : 8); break;
	case 1: o->mmio_read(s, reg << 4 | (how >> 6), 1u << (how >> 6)); break;
	case 2: o->msr_write(s, 0x800 + reg, fuzz_take(in, 8)); break;
	case 3: o->msr_read(s, 0x800 + reg, &v); break;
	case 4: o->set_base(s, 0xfee00000 | (reg & 15) << 8); break;
	case 5: o->set_deadline(s, how & 0x40 ? fuzz_take(in, 8) : 2 * clock_now(&r->clock) + fuzz_take(in, 3)); break;
	case 6: o->deadline(s); break;
	case 7: o->set_tpr(s, (u8)reg); break;
	case 8: o->eoi(s); break;
	case 9: o->mmio_write(s, LAPIC_ICR << 4, tame(fuzz_take(in, 3)), 4); break;
	case 10: o->msr_write(s, 0x800 + LAPIC_ICR, fuzz_take(in, 1) << 32 | tame(fuzz_take(in, 3))); break;
	case 11: o->mmio_write(s, LAPIC_SVR << 4, 0x1ff, 4); break;
	case 12: o->msr_write(s, 0x800 + LAPIC_SVR, 0x1ff); break;
	case 13: o->mmio_write(s, (LAPIC_LVT + reg % 6) << 4, (u32)fuzz_take(in, 3) & 0x7f7ff, 4); break;
	case 14: o->init(s, how & 0x40); break;
	case 15: irq_system_msi(r->irq, 0xfee00000 | fuzz_take(in, 2) << 2, tame(fuzz_take(in, 2))); break;
	}
}

static void save_and_load(struct rig *r)
{
	struct state_buf a = { 0 }, b = { 0 };
	size_t pos = 0;
	dev_list_save(&r->devs, &a);
	bug_if(dev_list_load(&r->devs, &a, &pos));
	dev_list_save(&r->devs, &b);
	bug_if(a.len != b.len || memcmp(a.data, b.data, a.len));
	state_buf_free(&a);
	state_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };
	struct rig *r = rig_create();
	struct irq_line lines[IRQ_GSIS];
	for (unsigned i = 0; i < IRQ_GSIS; i++)
		lines[i] = irq_system_line(r->irq, i);
	u64 last = 0;
	while (fuzz_more(&in)) {
		u8 op = (u8)fuzz_take(&in, 1);
		switch (op & 7) {
		case 0: port_access(r, &in); break;
		case 1: op & 8 ? hpet_access(r, &in) : mmio_access(r, &in); break;
		case 2: ioapic_access(r, &in); break;
		case 3:
		case 4: apic_access(r, &in); break;
		case 5: irq_line_set(lines[(op >> 3) % IRQ_GSIS], (int)fuzz_take(&in, 1) & 1); break;
		case 6: rig_run(r, fuzz_take(&in, 3) << (op >> 6)); break;
		case 7: check_acknowledge(r, op >> 3 & 3); break;
		}
		bug_if(clock_now(&r->clock) < last);
		last = clock_now(&r->clock);
	}
	save_and_load(r);
	dev_list_reset(&r->devs);
	rig_free(r);
	return 0;
}
