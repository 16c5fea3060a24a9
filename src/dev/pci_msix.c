/* MSI-X: table, pending bits, delivery. PCI Local Bus Specification "MSI-X Capability and Table Structures". */
#include "dev/pci_internal.h"

enum { TABLE_OFF = 0, PBA_OFF = 0x800, BAR_BYTES = 0x1000 };
enum { CONTROL_OFF = 2, CONTROL_ENABLE = 0x8000, CONTROL_MASK_ALL = 0x4000, ENTRY_MASKED = 1 };

static u16 msix_control(const struct pci_function *f)
{
	return f->msix_cap ? (u16)pci_config_get(f, f->msix_cap + CONTROL_OFF, 2) : 0;
}

bool pci_msix_enabled(const struct pci_function *f)
{
	return msix_control(f) & CONTROL_ENABLE;
}

static void deliver(struct pci_function *f, unsigned n)
{
	const struct pci_msix_entry *e = &f->regs.msix[n];
	struct bus *bus = f->host->bus;

	f->regs.msix_pending &= ~(1u << n);
	if (bus->msi)
		bus->msi(bus->msi_opaque, (u64)e->addr_hi << 32 | e->addr_lo, e->data);
}

void pci_msix_update(struct pci_function *f)
{
	u16 control = msix_control(f);

	if (!f->regs.msix_pending || !(control & CONTROL_ENABLE) || (control & CONTROL_MASK_ALL))
		return;
	for (unsigned n = 0; n < f->msix_vectors; n++)
		if ((f->regs.msix_pending & (1u << n)) && !(f->regs.msix[n].control & ENTRY_MASKED))
			deliver(f, n);
}

void pci_msix_notify(struct pci_function *f, unsigned n)
{
	if (n >= f->msix_vectors || !pci_msix_enabled(f))
		return;
	f->regs.msix_pending |= 1u << n;
	pci_msix_update(f);
}

static u32 msix_read32(struct pci_function *f, u64 off)
{
	if (off < f->msix_vectors * sizeof(struct pci_msix_entry))
		return (u32)load_le((u8 *)f->regs.msix + off, 4);
	return off == PBA_OFF ? f->regs.msix_pending : 0;
}

static void msix_write32(struct pci_function *f, u64 off, u32 v)
{
	if (off >= f->msix_vectors * sizeof(struct pci_msix_entry))
		return;
	if (off % 16 == offsetof(struct pci_msix_entry, control))
		v &= ENTRY_MASKED;
	store_le((u8 *)f->regs.msix + off, v, 4);
	pci_msix_update(f);
}

/* The specification allows aligned 4 and 8 byte accesses only. */
static u64 msix_read(void *dev, u64 off, unsigned size)
{
	if (size < 4 || off % size)
		return 0;
	return msix_read32(dev, off) | (size == 8 ? (u64)msix_read32(dev, off + 4) << 32 : 0);
}

static void msix_write(void *dev, u64 off, u64 value, unsigned size)
{
	if (size < 4 || off % size)
		return;
	msix_write32(dev, off, (u32)value);
	if (size == 8)
		msix_write32(dev, off + 4, (u32)(value >> 32));
}

static const struct bus_ops msix_ops = { msix_read, msix_write };

void pci_add_msix(struct pci_function *f, unsigned bar, unsigned vectors)
{
	unsigned cap = pci_add_cap(f, PCI_CAP_MSIX, 12);

	bug_if(vectors == 0 || vectors > PCI_MSIX_MAX);
	f->msix_cap = (u8)cap;
	f->msix_vectors = vectors;
	pci_config_init(f, cap + CONTROL_OFF, vectors - 1, CONTROL_ENABLE | CONTROL_MASK_ALL, 2);
	pci_config_init(f, cap + 4, TABLE_OFF | bar, 0, 4);
	pci_config_init(f, cap + 8, PBA_OFF | bar, 0, 4);
	pci_add_bar(f, bar, PCI_BAR_MEM32, BAR_BYTES, &msix_ops, f);
}
