/* AHCI: the controller's registers. Specification chapter 3, "HBA Memory Registers". */
#include "dev/ahci.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

STATE_DESC(ahci_regs, AHCI_STATE);

enum { REG_CAP = 0x00, REG_GHC = 0x04, REG_IS = 0x08, REG_PI = 0x0c, REG_VS = 0x10, REG_PORTS = 0x100, PORT_BYTES = 0x80, ABAR_BYTES = 0x1000 };
enum { P_CLB = 0x00, P_CLBU = 0x04, P_FB = 0x08, P_FBU = 0x0c, P_IS = 0x10, P_IE = 0x14, P_CMD = 0x18, P_TFD = 0x20, P_SIG = 0x24, P_SSTS = 0x28,
	P_SCTL = 0x2c, P_SERR = 0x30, P_SACT = 0x34, P_CI = 0x38 };
#define CAP_S64A BIT32(31)
#define CAP_SNCQ BIT32(30)
#define CAP_SCLO BIT32(24)
#define CAP_SAM BIT32(18)
#define CAP_SPEED (1u << 20)
#define GHC_AE BIT32(31)
#define SERR_X BIT32(26)
#define IS_WRITABLE 0xfd8000afu
#define IE_WRITABLE 0xfdc000ffu
#define CMD_WRITABLE (PORT_CMD_ST | PORT_CMD_SUD | PORT_CMD_POD | PORT_CMD_FRE)
#define SSTS_LINK 0x113u /* device present, first generation speed, active */
enum { GHC_RESET = 1, GHC_IE = 2, SCTL_DET = 15 };

/* PxIS bits that only mirror PxSERR are not stored: PCS and PRCS. */
static u32 port_is(const struct ahci_port_regs *r) { return r->is | (r->serr & SERR_X ? PORT_IS_PCS : 0); }

/* before: bits of IS that software knows of. With MSI each further one is worth a message: "Message Signaled Interrupts". */
static void update_from(struct ahci *a, u32 before)
{
	bool was = a->pci.regs.intx, irq;

	for (unsigned i = 0; i < AHCI_PORTS; i++)
		if (port_is(&a->regs.port[i]) & a->regs.port[i].ie)
			a->regs.is |= 1u << i;
	irq = a->regs.is && (a->regs.ghc & GHC_IE);
	pci_intx_set(&a->pci, irq);
	if (was && irq && (a->regs.is & ~before))
		pci_msi_send(&a->pci);
}

void ahci_update(struct ahci *a) { update_from(a, a->regs.is); }

static u32 port_read(const struct ahci_port_regs *r, unsigned reg)
{
	switch (reg) {
	case P_CLB: return (u32)r->clb;
	case P_CLBU: return (u32)(r->clb >> 32);
	case P_FB: return (u32)r->fb;
	case P_FBU: return (u32)(r->fb >> 32);
	case P_IS: return port_is(r);
	case P_IE: return r->ie;
	case P_CMD: return r->cmd;
	case P_TFD: return r->tfd;
	case P_SIG: return r->sig;
	case P_SSTS: return r->ssts;
	case P_SCTL: return r->sctl;
	case P_SERR: return r->serr;
	case P_SACT: return r->sact;
	case P_CI: return r->ci;
	}
	return 0;
}

/* "Port x Command and Status": CR and FR follow ST and FRE at once. */
static void write_cmd(struct ahci_port *p, u32 v)
{
	struct ahci_port_regs *r = &p->hba->regs.port[p->n];
	bool was = r->cmd & PORT_CMD_ST;

	r->cmd = (r->cmd & ~(u32)CMD_WRITABLE) | (v & CMD_WRITABLE);
	if (v & PORT_CMD_CLO)
		r->tfd &= ~(u32)(ATA_BSY | ATA_DRQ);
	r->cmd &= ~(u32)(PORT_CMD_FR | PORT_CMD_CR);
	r->cmd |= (r->cmd & PORT_CMD_FRE ? PORT_CMD_FR : 0) | (r->cmd & PORT_CMD_ST ? PORT_CMD_CR : 0);
	if (was && !(r->cmd & PORT_CMD_ST)) {
		ahci_abort(p);
		r->ci = r->sact = 0;
	}
	if (r->cmd & PORT_CMD_ST)
		ahci_issue(p);
}

/* "Port x Serial ATA Control": DET 1 holds COMRESET, back to 0 lets the device answer. */
static void write_sctl(struct ahci_port *p, u32 v)
{
	struct ahci_port_regs *r = &p->hba->regs.port[p->n];
	u32 before = r->sctl & SCTL_DET, now = v & SCTL_DET;

	r->sctl = v & 0xfff;
	if (now == 1) {
		ahci_abort(p);
		r->ci = r->sact = 0;
		r->ssts = 0;
		r->tfd = 0x7f;
		r->sig = ~0u;
	} else if (now == 4) {
		r->ssts = 4;
	} else if (before && p->disk) {
		r->ssts = SSTS_LINK;
		r->serr |= SERR_X;
		ahci_signature(p);
	}
}

static void port_write(struct ahci_port *p, unsigned reg, u32 v)
{
	struct ahci_port_regs *r = &p->hba->regs.port[p->n];

	switch (reg) {
	case P_CLB: r->clb = (r->clb & ~(u64)0xffffffff) | (v & ~0x3ffu); break;
	case P_CLBU: r->clb = (u32)r->clb | (u64)v << 32; break;
	case P_FB: r->fb = (r->fb & ~(u64)0xffffffff) | (v & ~0xffu); break;
	case P_FBU: r->fb = (u32)r->fb | (u64)v << 32; break;
	case P_IS: r->is &= ~(v & (IS_WRITABLE | PORT_IS_TFES | PORT_IS_OFS)); break;
	case P_IE: r->ie = v & IE_WRITABLE; break;
	case P_CMD: write_cmd(p, v); break;
	case P_SCTL: write_sctl(p, v); break;
	case P_SERR: r->serr &= ~v; break;
	case P_SACT:
		if (r->cmd & PORT_CMD_ST)
			r->sact |= v;
		break;
	case P_CI:
		if (r->cmd & PORT_CMD_ST) {
			r->ci |= v;
			ahci_issue(p);
		}
		break;
	}
}

static void port_reset(struct ahci_port *p)
{
	struct ahci_port_regs *r = &p->hba->regs.port[p->n];

	ahci_abort(p);
	*r = (struct ahci_port_regs){ .tfd = 0x7f, .sig = ~0u, .cmd = PORT_CMD_SUD | PORT_CMD_POD };
	if (!p->disk)
		return;
	r->ssts = SSTS_LINK;
	r->cmd |= p->cdrom ? PORT_CMD_ATAPI : 0;
	ahci_signature(p);
}

static void hba_reset(struct ahci *a)
{
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		port_reset(&a->port[i]);
	a->regs.ghc = GHC_AE;
	a->regs.is = 0;
}

static u32 reg_read(struct ahci *a, u32 off)
{
	switch (off) {
	case REG_CAP: return CAP_S64A | CAP_SNCQ | CAP_SCLO | CAP_SAM | CAP_SPEED | (AHCI_SLOTS - 1) << 8 | (AHCI_PORTS - 1);
	case REG_GHC: return a->regs.ghc;
	case REG_IS: return a->regs.is;
	case REG_PI: return (1u << AHCI_PORTS) - 1;
	case REG_VS: return 0x00010300;
	}
	if (off < REG_PORTS || (off - REG_PORTS) / PORT_BYTES >= AHCI_PORTS)
		return 0;
	return port_read(&a->regs.port[(off - REG_PORTS) / PORT_BYTES], off % PORT_BYTES);
}

static void reg_write(struct ahci *a, u32 off, u32 v)
{
	if (off == REG_GHC) {
		if (v & GHC_RESET)
			hba_reset(a);
		else
			a->regs.ghc = GHC_AE | (v & GHC_IE);
	} else if (off == REG_IS) {
		a->regs.is &= ~v;
		update_from(a, 0); /* what is left has to be told again */
		return;
	} else if (off >= REG_PORTS && (off - REG_PORTS) / PORT_BYTES < AHCI_PORTS) {
		port_write(&a->port[(off - REG_PORTS) / PORT_BYTES], off % PORT_BYTES, v);
	}
	ahci_update(a);
}

/* Registers are dwords; narrower reads see a part of one, and an aligned 64-bit access is two. */
static u64 abar_read(void *dev, u64 off, unsigned size)
{
	u64 v = 0;

	for (unsigned i = 0; i < size; i += 4)
		v |= (u64)reg_read(dev, (u32)(off + i) & ~3u) << (8 * i);
	return size < 4 ? v >> (8 * (off & 3)) : v;
}

static void abar_write(void *dev, u64 off, u64 value, unsigned size)
{
	if (size < 4 || off % 4)
		return;
	for (unsigned i = 0; i < size; i += 4)
		reg_write(dev, (u32)off + i, (u32)(value >> (8 * i)));
}

static const struct bus_ops abar_ops = { abar_read, abar_write };

/* BAR 4, "Index / Data Pair registers": the same by ports. */
static u64 pair_read(void *dev, u64 off, unsigned size)
{
	struct ahci *a = dev;

	if (size != 4)
		return 0;
	return off == 16 ? a->regs.index : off == 20 ? reg_read(a, a->regs.index) : 0;
}

static void pair_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct ahci *a = dev;

	if (size != 4)
		return;
	if (off == 16)
		a->regs.index = (u32)value & (ABAR_BYTES - 4);
	else if (off == 20)
		reg_write(a, a->regs.index, (u32)value);
}

static const struct bus_ops pair_ops = { pair_read, pair_write };

static void ahci_reset(void *dev)
{
	hba_reset(dev);
	ahci_update(dev);
}

/* Commands that were being carried out are done again: their data has not arrived, or can arrive twice. */
static void ahci_loaded(void *dev)
{
	struct ahci *a = dev;

	a->regs.index &= ABAR_BYTES - 4;
	for (unsigned i = 0; i < AHCI_PORTS; i++) {
		struct ahci_port_regs *r = &a->regs.port[i];

		u32 slots = r->active;

		ahci_abort(&a->port[i]);
		ahci_resume(&a->port[i], slots);
	}
	ahci_update(a);
}

static void ahci_destroy(void *dev)
{
	struct ahci *a = dev;

	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_abort(&a->port[i]);
	ahci_quiesce(a);
	disk_flight_destroy(&a->flight);
	free(a);
}

struct ahci *ahci_create(struct pci_host *h, unsigned slot, unsigned fn)
{
	static const struct pci_ident id = { .vendor = 0x8086, .device = 0x2922, .class_code = 0x010601, .revision = 2, .subvendor = 0x1af4,
		.subdevice = 0x1100, .int_pin = 1 };
	struct ahci *a = dev_alloc(sizeof(*a));

	a->bus = h->bus;
	disk_flight_init(&a->flight);
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		a->port[i] = (struct ahci_port){ .hba = a, .n = i };
	pci_function_init(&a->pci, h, "ahci", slot, fn, &id, a);
	pci_add_msi(&a->pci);
	pci_add_bar(&a->pci, 4, PCI_BAR_IO, 32, &pair_ops, a);
	pci_add_bar(&a->pci, 5, PCI_BAR_MEM32, ABAR_BYTES, &abar_ops, a);
	dev_list_add(h->devs, &(struct dev_instance){ .name = "ahci", .desc = &ahci_regs_state, .regs = &a->regs, .dev = a, .reset = ahci_reset,
		.quiesce = ahci_quiesce, .loaded = ahci_loaded, .destroy = ahci_destroy });
	hba_reset(a);
	return a;
}

int ahci_attach(struct ahci *a, struct disk *d, bool cdrom, const char *serial)
{
	for (unsigned i = 0; i < AHCI_PORTS; i++) {
		struct ahci_port *p = &a->port[i];

		if (p->disk)
			continue;
		p->disk = d;
		p->cdrom = cdrom;
		snprintf(p->serial, sizeof(p->serial), "%s", serial);
		port_reset(p);
		return 0;
	}
	return -ENOSPC;
}
