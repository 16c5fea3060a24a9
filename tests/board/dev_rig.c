#include "dev_rig.h"
#include <stdlib.h>

static void line_set(void *opaque, unsigned n, int level)
{
	struct rig *r = opaque;

	assert_true(n < array_len(r->level));
	if (level && !r->level[n])
		r->raises[n]++;
	r->level[n] = level;
}

struct irq_line rig_line(struct rig *r, unsigned n)
{
	return (struct irq_line){ line_set, r, n };
}

static void power(void *opaque, enum bus_power what, u32 value)
{
	struct rig *r = opaque;

	r->powers++;
	r->power = what;
	r->power_value = value;
}

static void msi(void *opaque, u64 address, u32 data)
{
	struct rig *r = opaque;

	r->msis++;
	r->msi_addr[r->msis % 16] = address;
	r->msi_data[r->msis % 16] = data;
}

static void make_bus(struct rig *r)
{
	assert_int_equal(mem_init(&r->mem, RIG_RAM), 0);
	assert_int_equal(mem_add_slot(&r->mem, gpa(0), RIG_RAM - 0x10000, MEM_RAM, "ram"), 0);
	assert_int_equal(mem_add_slot(&r->mem, gpa(0xfffc0000), 0x10000, MEM_ROM, "rom"), 0);
	clock_init(&r->clock, &r->bus.lock);
	bus_init(&r->bus, &r->mem, &r->clock);
	r->bus.power = power;
	r->bus.power_opaque = r;
	r->bus.msi = msi;
	r->bus.msi_opaque = r;
}

struct rig *rig_create(void)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct pci_host_config cfg;
	struct ich9_pm_config pm = { .sci = rig_line(r, 9) };

	assert_non_null(r);
	make_bus(r);
	for (unsigned i = 0; i < 8; i++)
		cfg.gsi[i] = rig_line(r, 16 + i);
	for (unsigned i = 0; i < 16; i++)
		cfg.isa[i] = rig_line(r, 32 + i);
	r->pci = pci_host_create(&r->bus, &r->devs, &cfg);
	r->mch = q35_mch_create(r->pci);
	r->pm = ich9_pm_create(&r->bus, &r->devs, &pm);
	r->lpc = ich9_lpc_create(r->pci, r->pm);
	return r;
}

void rig_free(struct rig *r)
{
	dev_list_free(&r->devs);
	bus_destroy(&r->bus);
	clock_destroy(&r->clock);
	mem_free(&r->mem);
	free(r);
}

void rig_advance(struct rig *r, u64 ns)
{
	clock_publish(&r->clock, clock_now(&r->clock) + ns);
	clock_run_timers(&r->clock);
}

void out8(struct rig *r, u16 port, u8 v) { bus_port_write(&r->bus, port, v, 1); }
void out16(struct rig *r, u16 port, u16 v) { bus_port_write(&r->bus, port, v, 2); }
void out32(struct rig *r, u16 port, u32 v) { bus_port_write(&r->bus, port, v, 4); }
u8 in8(struct rig *r, u16 port) { return (u8)bus_port_read(&r->bus, port, 1); }
u16 in16(struct rig *r, u16 port) { return (u16)bus_port_read(&r->bus, port, 2); }
u32 in32(struct rig *r, u16 port) { return (u32)bus_port_read(&r->bus, port, 4); }

static void select_config(struct rig *r, unsigned slot, unsigned off)
{
	out32(r, 0xcf8, 0x80000000u | slot << 11 | (off & 0xfc));
}

u32 cfg_get(struct rig *r, unsigned slot, unsigned off, unsigned size)
{
	select_config(r, slot, off);
	return (u32)bus_port_read(&r->bus, 0xcfc + (off & 3), size);
}

void cfg_set(struct rig *r, unsigned slot, unsigned off, u32 v, unsigned size)
{
	select_config(r, slot, off);
	bus_port_write(&r->bus, 0xcfc + (off & 3), v, size);
}

unsigned cfg_find_cap(struct rig *r, unsigned slot, u8 id, unsigned after)
{
	unsigned at = cfg_get(r, slot, after ? after + 1 : PCI_CAP_PTR, 1);

	while (at && cfg_get(r, slot, at, 1) != id)
		at = cfg_get(r, slot, at + 1, 1);
	return at;
}

void rig_assign(struct rig *r)
{
	const struct pci_windows w = { 0xc0000000, 0xfec00000, 0xc000, 0x10000 };

	assert_int_equal(pci_assign_bars(r->pci, &w), 0);
}

void rig_check_save_load(struct rig *r)
{
	struct state_buf a = { 0 }, b = { 0 };
	size_t pos = 0;

	dev_list_quiesce(&r->devs);
	dev_list_save(&r->devs, &a);
	assert_int_equal(dev_list_load(&r->devs, &a, &pos), 0);
	assert_int_equal(pos, a.len);
	dev_list_save(&r->devs, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	state_buf_free(&a);
	state_buf_free(&b);
}
