/* The Q35's memory controller hub. */
#include "dev/q35_mch.h"
#include <stdlib.h>

enum { EPBAR = 0x40, MCHBAR = 0x48, DEVEN = 0x54, PCIEXBAR = 0x60, PAM0 = 0x90, SMRAM = 0x9d, ESMRAMC = 0x9e,
	TOLUD = 0xb0, SKPD = 0xdc };
enum { PCIEXBAR_ENABLE = 1 };

/* Data sheet "DRAM Controller Registers (D0:F0)": power-on value, writable bits. */
static const struct { u8 off, size; u32 value, writable; } mch_row[] = {
	{ EPBAR, 4, 0, 0xfffff001 },
	{ EPBAR + 4, 4, 0, 0xff },
	{ MCHBAR, 4, 0, 0xffffc001 },
	{ MCHBAR + 4, 4, 0, 0xff },
	{ DEVEN, 4, 1, 0 },
	{ PCIEXBAR, 4, Q35_ECAM_BASE | PCIEXBAR_ENABLE, 0xf0000007 },
	{ PCIEXBAR + 4, 4, 0, 0xff },
	{ PAM0, 4, 0, 0x33333330 },
	{ PAM0 + 4, 2, 0, 0x3333 },
	{ PAM0 + 6, 1, 0, 0x33 },
	{ SMRAM, 1, 0x02, 0x78 },
	{ ESMRAMC, 1, 0x38, 0x87 },
	{ TOLUD, 2, Q35_ECAM_BASE >> 16, 0xfff0 },
	{ SKPD, 4, 0, 0xffffffff },
};

static bool overlaps(unsigned off, unsigned size, unsigned reg, unsigned len)
{
	return off < reg + len && reg < off + size;
}

static void mch_written(void *dev, unsigned off, unsigned size)
{
	struct q35_mch *m = dev;

	if (overlaps(off, size, PCIEXBAR, 8)) {
		u64 v = load_le(m->pci.regs.config + PCIEXBAR, 8);

		/* Bits 2:1 could shrink it to 128 or 64 MB; the upper buses are empty anyway. */
		pci_host_place_ecam(m->pci.host, v & 0xfff0000000, v & PCIEXBAR_ENABLE);
	}
	if (m->pam_written && overlaps(off, size, PAM0, 7))
		m->pam_written(m->opaque, m->pci.regs.config + PAM0);
}

struct q35_mch *q35_mch_create(struct pci_host *h)
{
	static const struct pci_ident id = { .vendor = 0x8086, .device = 0x29c0, .class_code = 0x060000, .revision = 2,
		.subvendor = 0x1af4, .subdevice = 0x1100 };
	struct q35_mch *m = dev_alloc(sizeof(*m));

	pci_function_init(&m->pci, h, "q35-mch", 0, 0, &id, m);
	for (unsigned i = 0; i < array_len(mch_row); i++)
		pci_config_init(&m->pci, mch_row[i].off, mch_row[i].value, mch_row[i].writable, mch_row[i].size);
	m->pci.config_written = mch_written;
	mch_written(m, 0, PCI_CONFIG_SIZE);
	dev_list_add(h->devs, &(struct dev_instance){ .name = "q35-mch", .dev = m, .destroy = free });
	return m;
}
