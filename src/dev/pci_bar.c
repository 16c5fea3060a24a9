/* Base address registers: sizing, moving, and assignment for a boot without firmware.
 * PCI Local Bus Specification "Base Addresses". */
#include "dev/pci_internal.h"
#include "base/log.h"
#include <errno.h>

enum { BAR_IO = 1, BAR_MEM64 = 4, IO_TYPE_BITS = 3, MEM_TYPE_BITS = 15 };

static unsigned bar_reg(unsigned n)
{
	return PCI_BAR0 + 4 * n;
}

void pci_add_bar(struct pci_function *f, unsigned n, enum pci_bar_kind kind, u64 size, const struct bus_ops *ops, void *dev)
{
	struct pci_bar *b = &f->bar[n];
	u64 mask = ~(size - 1);

	bug_if(n >= PCI_BARS || b->kind != PCI_BAR_NONE || size & (size - 1) || size < 16);
	bug_if(kind == PCI_BAR_MEM64 && n + 1 >= PCI_BARS);
	b->kind = kind;
	b->size = size;
	if (kind == PCI_BAR_IO) {
		pci_config_init(f, bar_reg(n), BAR_IO, (u32)mask, 4); /* all 32 bits: SeaBIOS takes 16-bit ones for huge */
		b->window = bus_add_port(f->host->bus, 0, (u32)size, ops, dev, f->name);
		bus_move_port(f->host->bus, b->window, 0, false);
		return;
	}
	pci_config_init(f, bar_reg(n), kind == PCI_BAR_MEM64 ? BAR_MEM64 : 0, (u32)mask, 4);
	if (kind == PCI_BAR_MEM64)
		pci_config_init(f, bar_reg(n + 1), 0, (u32)(mask >> 32), 4);
	b->window = bus_add_mmio(f->host->bus, 0, size, ops, dev, f->name);
	bus_move_mmio(f->host->bus, b->window, 0, false);
}

u64 pci_bar_address(const struct pci_function *f, unsigned n)
{
	u64 v = pci_config_get(f, bar_reg(n), 4);

	switch (f->bar[n].kind) {
	case PCI_BAR_NONE: break;
	case PCI_BAR_IO: return v & ~(u64)IO_TYPE_BITS;
	case PCI_BAR_MEM32: return v & ~(u64)MEM_TYPE_BITS;
	case PCI_BAR_MEM64: return (v & ~(u64)MEM_TYPE_BITS) | (u64)pci_config_get(f, bar_reg(n + 1), 4) << 32;
	}
	return 0;
}

/* Address 0 and addresses while the guest sizes the BAR (all ones: the window would end at the address space's last
 * byte) decode nothing. */
static bool bar_decodes(const struct pci_function *f, unsigned n, u64 base)
{
	const struct pci_bar *b = &f->bar[n];
	u16 cmd = (u16)pci_config_get(f, PCI_CMD, 2);
	u64 space = b->kind == PCI_BAR_IO ? 0x10000 : b->kind == PCI_BAR_MEM32 ? GiB * 4 : BIT(52);

	if (!(cmd & (b->kind == PCI_BAR_IO ? PCI_CMD_IO : PCI_CMD_MEM)) || base == 0)
		return false;
	return base < space && b->size < space - base;
}

static void bar_update(struct pci_function *f, unsigned n)
{
	struct pci_bar *b = &f->bar[n];
	u64 base = pci_bar_address(f, n);
	bool on = bar_decodes(f, n, base);

	if (on == b->enabled && (!on || base == b->base))
		return;
	b->enabled = on;
	b->base = on ? base : 0;
	if (b->kind == PCI_BAR_IO)
		bus_move_port(f->host->bus, b->window, b->base, on);
	else
		bus_move_mmio(f->host->bus, b->window, b->base, on);
	if (f->bar_moved)
		f->bar_moved(f->dev, n, b->base, on);
}

void pci_bars_update(struct pci_function *f)
{
	for (unsigned n = 0; n < PCI_BARS; n++)
		if (f->bar[n].kind != PCI_BAR_NONE)
			bar_update(f, n);
}

static bool fits_class(const struct pci_bar *b, bool io, u64 size)
{
	return b->kind != PCI_BAR_NONE && (b->kind == PCI_BAR_IO) == io && b->size == size;
}

/* One pass per size, biggest first, so that natural alignment leaves no holes. *next grows. */
static int assign_space(struct pci_host *h, bool io, u64 *next, u64 end)
{
	for (u64 size = io ? 0x1000 : GiB; size >= 16; size /= 2) {
		for (unsigned i = 0; i < 256 * PCI_BARS; i++) {
			struct pci_function *f = h->function[i / PCI_BARS];
			unsigned n = i % PCI_BARS;

			if (!f || !fits_class(&f->bar[n], io, size))
				continue;
			u64 at = align_up(*next, size);

			if (at + size > end) {
				log_error("PCI: no room for the %#llx bytes of %s's BAR %u", (unsigned long long)size, f->name, n);
				return -ENOSPC;
			}
			pci_config_write(f, bar_reg(n), (u32)at, 4);
			if (f->bar[n].kind == PCI_BAR_MEM64)
				pci_config_write(f, bar_reg(n + 1), (u32)(at >> 32), 4);
			*next = at + size;
		}
	}
	return 0;
}

int pci_assign_bars(struct pci_host *h, const struct pci_windows *w)
{
	u64 mem = w->mem_base, io = w->io_base;
	int err = assign_space(h, false, &mem, w->mem_end);

	if (!err)
		err = assign_space(h, true, &io, w->io_end);
	for (unsigned i = 0; i < 256 && !err; i++) {
		struct pci_function *f = h->function[i];

		if (f)
			pci_config_write(f, PCI_CMD, pci_config_get(f, PCI_CMD, 2) | PCI_CMD_IO | PCI_CMD_MEM, 2);
	}
	return err;
}
