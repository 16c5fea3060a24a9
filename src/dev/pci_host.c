/* The host bridge's access paths: configuration mechanism #1 (CF8h/CFCh), ECAM, reset control CF9h, and INTx routing.
 * Surprise: CF9h lies inside the address register: a byte access there is the ICH9's reset control. */
#include "dev/pci_internal.h"
#include <stdlib.h>

STATE_DESC(pci_host_regs, PCI_HOST_STATE);

enum { PORT_ADDRESS = 0xcf8, PORT_DATA = 0xcfc, RESET_CONTROL = 1, SYS_RST = 2, RST_CPU = 4, FULL_RST = 8 };
enum { ECAM_BYTES = 256 * 1024 * 1024, ISA_ROUTABLE = 0xdef8 };

static struct pci_function *addressed(struct pci_host *h)
{
	u32 a = h->regs.address;

	if (!(a & 0x80000000u) || bits(a, 23, 16) != 0)
		return NULL;
	return h->function[bits(a, 15, 8)];
}

static u64 address_read(void *dev, u64 off, unsigned size)
{
	struct pci_host *h = dev;

	if (off == RESET_CONTROL && size == 1)
		return h->regs.reset_control;
	return size == 4 ? h->regs.address : low_mask(8 * size);
}

/* Intel ICH9 data sheet "RST_CNT—Reset Control Register": a 1 in RST_CPU resets, SYS_RST and FULL_RST say how hard. */
static void reset_control(struct pci_host *h, u8 v)
{
	h->regs.reset_control = v & (SYS_RST | FULL_RST); /* RST_CPU never stays set: it resets us too */
	if ((v & RST_CPU) && h->bus->power)
		h->bus->power(h->bus->power_opaque, BUS_RESET, 0);
}

static void address_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct pci_host *h = dev;

	if (off == 0 && size == 4)
		h->regs.address = (u32)value & 0x80fffffc;
	else if (off == RESET_CONTROL && size == 1)
		reset_control(h, (u8)value);
}

static u64 data_read(void *dev, u64 off, unsigned size)
{
	struct pci_host *h = dev;
	struct pci_function *f = addressed(h);

	return f ? pci_config_read(f, (h->regs.address & 0xfc) + (unsigned)off, size) : low_mask(8 * size);
}

static void data_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct pci_host *h = dev;
	struct pci_function *f = addressed(h);

	if (f)
		pci_config_write(f, (h->regs.address & 0xfc) + (unsigned)off, (u32)value, size);
}

/* ECAM offset: bus 27:20, device 19:15, function 14:12, register 11:0. */
static struct pci_function *ecam_function(struct pci_host *h, u64 off)
{
	return off >> 20 ? NULL : h->function[bits(off, 19, 12)];
}

static u64 ecam_read(void *dev, u64 off, unsigned size)
{
	struct pci_function *f = ecam_function(dev, off);

	return f ? pci_config_read(f, off & 0xfff, size) : low_mask(8 * size);
}

static void ecam_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct pci_function *f = ecam_function(dev, off);

	for (unsigned i = 0; f && i < size; i += 4)
		pci_config_write(f, (off & 0xfff) + i, (u32)(value >> (8 * i)), size < 4 ? size : 4);
}

static const struct bus_ops address_ops = { address_read, address_write };
static const struct bus_ops data_ops = { data_read, data_write };
static const struct bus_ops ecam_ops = { ecam_read, ecam_write };

void pci_host_place_ecam(struct pci_host *h, u64 base, bool enabled)
{
	bus_move_mmio(h->bus, h->ecam_window, enabled ? base : 0, enabled);
}

void pci_host_route(struct pci_host *h, const u8 route[8])
{
	memcpy(h->pirq_route, route, 8);
	pci_host_update_irqs(h);
}

/* Wired OR of all functions' pins on each PIRQ. */
static u8 pirq_levels(const struct pci_host *h)
{
	u8 level = 0;

	for (unsigned i = 0; i < 256; i++) {
		const struct pci_function *f = h->function[i];

		if (f && f->regs.intx && f->regs.config[PCI_INT_PIN] && !pci_msi_enabled(f) && !(pci_config_get(f, PCI_CMD, 2) & PCI_CMD_NO_INTX))
			level |= 1u << pci_pirq(i >> 3, f->regs.config[PCI_INT_PIN] - 1u);
	}
	return level;
}

static u16 isa_levels(const struct pci_host *h, u8 pirq)
{
	u16 level = 0;

	for (unsigned i = 0; i < 8; i++)
		if ((pirq & (1u << i)) && !(h->pirq_route[i] & 0x80))
			level |= 1u << (h->pirq_route[i] & 15);
	return level & ISA_ROUTABLE;
}

static void drive(const struct irq_line *line, unsigned count, u16 old, u16 now)
{
	for (unsigned i = 0; i < count; i++)
		if ((old ^ now) & (1u << i))
			irq_line_set(line[i], now >> i & 1);
}

void pci_host_update_irqs(struct pci_host *h)
{
	u8 pirq = pirq_levels(h);
	u16 isa = isa_levels(h, pirq);

	drive(h->cfg.gsi, 8, h->pirq_level, pirq);
	drive(h->cfg.isa, 16, h->isa_level, isa);
	h->pirq_level = pirq;
	h->isa_level = isa;
}

static void host_reset(void *dev)
{
	struct pci_host *h = dev;

	memset(&h->regs, 0, sizeof(h->regs));
}

static void host_loaded(void *dev)
{
	struct pci_host *h = dev;

	pci_host_update_irqs(h);
	/* Say every level again: the interrupt controllers were loaded too. */
	drive(h->cfg.gsi, 8, (u8)~h->pirq_level, h->pirq_level);
}

struct pci_host *pci_host_create(struct bus *bus, struct dev_list *devs, const struct pci_host_config *cfg)
{
	struct pci_host *h = dev_alloc(sizeof(*h));

	h->bus = bus;
	h->devs = devs;
	h->cfg = *cfg;
	memset(h->pirq_route, 0x80, sizeof(h->pirq_route));
	bus_add_port(bus, PORT_ADDRESS, 4, &address_ops, h, "pci-address");
	bus_add_port(bus, PORT_DATA, 4, &data_ops, h, "pci-data");
	h->ecam_window = bus_add_mmio(bus, 0, ECAM_BYTES, &ecam_ops, h, "pci-ecam");
	pci_host_place_ecam(h, 0, false);
	dev_list_add(devs, &(struct dev_instance){ .name = "pci-host", .desc = &pci_host_regs_state, .regs = &h->regs, .dev = h,
		.reset = host_reset, .loaded = host_loaded, .destroy = free });
	return h;
}
