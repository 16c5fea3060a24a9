/* A PCI function's configuration space. */
#include "dev/pci_internal.h"
#include <stdio.h>

STATE_DESC(pci_regs, PCI_STATE);

void pci_config_init(struct pci_function *f, unsigned off, u32 value, u32 writable, unsigned size)
{
	store_le(f->initial + off, value, size);
	store_le(f->regs.config + off, value, size);
	store_le(f->writable + off, writable, size);
}

/* The function reacts to what configuration space now says; a load calls this for the whole of it. */
static void config_changed(struct pci_function *f, unsigned off, unsigned size)
{
	if (off < PCI_SUBVENDOR)
		pci_bars_update(f);
	pci_msix_update(f);
	pci_host_update_irqs(f->host);
	if (f->config_written)
		f->config_written(f->dev, off, size);
}

u64 pci_config_read(struct pci_function *f, unsigned off, unsigned size)
{
	/* Extended space exists and is empty: a zero capability header. */
	if (off + size > PCI_CONFIG_SIZE)
		return 0;
	u64 v = load_le(f->regs.config + off, size);

	return f->config_read && size <= 4 ? f->config_read(f->dev, off, size, (u32)v) : v;
}

void pci_config_write(struct pci_function *f, unsigned off, u32 value, unsigned size)
{
	if (off + size > PCI_CONFIG_SIZE)
		return;
	for (unsigned i = 0; i < size; i++) {
		u8 *c = &f->regs.config[off + i], b = (u8)(value >> (8 * i)), w = f->writable[off + i];

		*c = (*c & ~w) | (b & w);
		*c &= ~(b & f->clear_by_one[off + i]);
	}
	config_changed(f, off, size);
}

unsigned pci_add_cap(struct pci_function *f, u8 id, unsigned len)
{
	unsigned at = f->next_cap;

	bug_if(at + len > PCI_CONFIG_SIZE);
	pci_config_init(f, at, id, 0, 2);
	pci_config_init(f, f->last_cap ? f->last_cap + 1u : PCI_CAP_PTR, at, 0, 1);
	pci_config_init(f, PCI_STS, load_le(f->initial + PCI_STS, 2) | PCI_STS_CAPS, 0, 2);
	f->last_cap = at;
	f->next_cap = (u8)align_up(at + len, 4);
	return at;
}

void pci_intx_set(struct pci_function *f, bool level)
{
	if (f->regs.intx == level)
		return;
	f->regs.intx = level;
	f->regs.config[PCI_STS] = (f->regs.config[PCI_STS] & ~PCI_STS_INTX) | (level ? PCI_STS_INTX : 0);
	pci_host_update_irqs(f->host);
	if (level)
		pci_msi_send(f);
}

static void function_reset(void *dev)
{
	struct pci_function *f = dev;

	memset(&f->regs, 0, sizeof(f->regs));
	memcpy(f->regs.config, f->initial, sizeof(f->initial));
	for (unsigned i = 0; i < PCI_MSIX_MAX; i++)
		f->regs.msix[i].control = 1;
	config_changed(f, 0, PCI_CONFIG_SIZE);
}

static void function_loaded(void *dev)
{
	struct pci_function *f = dev;

	f->regs.intx = !!f->regs.intx;
	if (f->msix_vectors < PCI_MSIX_MAX)
		f->regs.msix_pending &= (u32)low_mask(f->msix_vectors);
	config_changed(f, 0, PCI_CONFIG_SIZE);
}

static void init_header(struct pci_function *f, const struct pci_ident *id)
{
	const struct { u8 off, size; u32 value, writable; } row[] = {
		{ PCI_VENDOR, 2, id->vendor, 0 },
		{ PCI_DEVICE, 2, id->device, 0 },
		{ PCI_CMD, 2, 0, 0x0547 },  /* I/O, memory, master, parity, SERR, INTx disable */
		{ PCI_REVISION, 4, id->class_code << 8 | id->revision, 0 },
		{ PCI_CACHE_LINE, 2, 0, 0xffff },
		{ PCI_SUBVENDOR, 2, id->subvendor, 0 },
		{ PCI_SUBDEVICE, 2, id->subdevice, 0 },
		{ PCI_INT_LINE, 2, id->int_pin << 8, 0xff },
	};

	for (unsigned i = 0; i < array_len(row); i++)
		pci_config_init(f, row[i].off, row[i].value, row[i].writable, row[i].size);
	f->clear_by_one[PCI_STS + 1] = 0xf9; /* parity, SERR, aborts */
}

/* A slot with more than function 0 says so in function 0's header type. */
static void mark_multifunction(struct pci_host *h, unsigned slot)
{
	struct pci_function *f0 = h->function[slot * 8];

	for (unsigned fn = 1; f0 && fn < 8; fn++)
		if (h->function[slot * 8 + fn])
			pci_config_init(f0, PCI_HEADER, 0x80, 0, 1);
}

void pci_function_init(struct pci_function *f, struct pci_host *h, const char *name, unsigned slot, unsigned fn,
		       const struct pci_ident *id, void *dev)
{
	struct dev_instance inst = { .desc = &pci_regs_state, .regs = &f->regs, .dev = f, .reset = function_reset,
		.loaded = function_loaded };

	f->host = h;
	f->dev = dev;
	f->devfn = (u8)(slot * 8 + fn);
	f->next_cap = PCI_CAPS_START;
	bug_if(slot > 31 || fn > 7 || h->function[f->devfn]);
	h->function[f->devfn] = f;
	init_header(f, id);
	mark_multifunction(h, slot);
	snprintf(inst.name, sizeof(inst.name), "pci.%02x.%u", slot, fn);
	snprintf(f->name, sizeof(f->name), "%s", name);
	for (unsigned i = 0; i < PCI_MSIX_MAX; i++)
		f->regs.msix[i].control = 1; /* masked */
	dev_list_add(h->devs, &inst);
}

int pci_free_slot(const struct pci_host *h, unsigned first)
{
	for (unsigned slot = first; slot < 32; slot++) {
		unsigned fn = 0;

		while (fn < 8 && !h->function[slot * 8 + fn])
			fn++;
		if (fn == 8)
			return (int)slot;
	}
	return -1;
}
