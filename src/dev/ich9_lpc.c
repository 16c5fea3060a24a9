/* The ICH9's LPC bridge. */
#include "dev/ich9_lpc.h"
#include <stdlib.h>

STATE_DESC(ich9_rcba_regs, ICH9_RCBA_STATE);

enum { PMBASE = 0x40, ACPI_CNTL = 0x44, GPIOBASE = 0x48, PIRQA = 0x60, SERIRQ = 0x64, PIRQE = 0x68, LPC_IO = 0x80, LPC_EN = 0x82,
	GEN_DEC = 0x84, GEN_PMCON = 0xa0, BIOS_CNTL = 0xdc, RCBA = 0xf0 };
enum { ACPI_EN = 0x80, RCBA_ENABLE = 1, RCBA_BYTES = 0x4000, RCBA_ROUTES = 0x3100, RCBA_OIC = 0x31fc, RCBA_GCS = 0x3410 };

/* Power-on value, writable bits. */
static const struct { u8 off, size; u32 value, writable; } lpc_row[] = {
	{ PMBASE, 4, ICH9_PM_DEFAULT_BASE | 1, 0xff80 },
	{ ACPI_CNTL, 1, ACPI_EN, 0x87 },
	{ GPIOBASE, 4, 1, 0xff80 },
	{ PIRQA, 4, 0x80808080, 0x8f8f8f8f },
	{ SERIRQ, 1, 0x10, 0xff },
	{ PIRQE, 4, 0x80808080, 0x8f8f8f8f },
	{ LPC_IO, 2, 0, 0x1377 },
	{ LPC_EN, 2, 0x3f0f, 0x3f0f },
	{ GEN_DEC, 4, 0, 0xfcfffd },
	{ GEN_DEC + 4, 4, 0, 0xfcfffd },
	{ GEN_DEC + 8, 4, 0, 0xfcfffd },
	{ GEN_DEC + 12, 4, 0, 0xfcfffd },
	{ GEN_PMCON, 4, 0, 0x00ff1fff },
	{ BIOS_CNTL, 1, 0, 0x0f },
	{ RCBA, 4, 0, 0xffffc001 },
};

static void lpc_derive(struct ich9_lpc *l)
{
	const u8 *c = l->pci.regs.config;
	u32 pmbase = (u32)load_le(c + PMBASE, 4) & 0xff80, rcba = (u32)load_le(c + RCBA, 4);
	u8 route[8];

	memcpy(route, c + PIRQA, 4);
	memcpy(route + 4, c + PIRQE, 4);
	pci_host_route(l->pci.host, route);
	ich9_pm_place(l->pm, (u16)pmbase, (c[ACPI_CNTL] & ACPI_EN) && pmbase);
	bus_move_mmio(l->pci.host->bus, l->rcba_window, rcba & 0xffffc000, rcba & RCBA_ENABLE);
}

static void lpc_written(void *dev, unsigned off, unsigned size)
{
	if (off + size > PMBASE)
		lpc_derive(dev);
}

/* The stored byte at a chipset configuration offset; NULL where nothing is kept. */
static u8 *rcba_byte(struct ich9_lpc *l, u64 off)
{
	if (off >= RCBA_OIC && off < RCBA_OIC + 4)
		return (u8 *)&l->rcba.oic + (off - RCBA_OIC);
	if (off >= RCBA_GCS && off < RCBA_GCS + 4)
		return (u8 *)&l->rcba.gcs + (off - RCBA_GCS);
	if (off >= RCBA_ROUTES && off < RCBA_ROUTES + sizeof(l->rcba.routes))
		return &l->rcba.routes[off - RCBA_ROUTES];
	return NULL;
}

static u8 rcba_read8(void *dev, u64 off)
{
	const u8 *p = rcba_byte(dev, off);

	return p ? *p : 0;
}

static void rcba_write8(void *dev, u64 off, u8 v)
{
	u8 *p = rcba_byte(dev, off);

	if (p)
		*p = v;
}

static u64 rcba_read(void *dev, u64 off, unsigned size)
{
	return dev_read_bytes(dev, off, size, rcba_read8);
}

static void rcba_write(void *dev, u64 off, u64 value, unsigned size)
{
	dev_write_bytes(dev, off, value, size, rcba_write8);
}

static const struct bus_ops rcba_ops = { rcba_read, rcba_write };

static void lpc_reset(void *dev)
{
	struct ich9_lpc *l = dev;

	memset(&l->rcba, 0, sizeof(l->rcba));
}

struct ich9_lpc *ich9_lpc_create(struct pci_host *h, struct ich9_pm *pm)
{
	static const struct pci_ident id = { .vendor = 0x8086, .device = 0x2918, .class_code = 0x060100, .revision = 2,
		.subvendor = 0x1af4, .subdevice = 0x1100 };
	struct ich9_lpc *l = dev_alloc(sizeof(*l));

	l->pm = pm;
	pci_function_init(&l->pci, h, "ich9-lpc", 31, 0, &id, l);
	for (unsigned i = 0; i < array_len(lpc_row); i++)
		pci_config_init(&l->pci, lpc_row[i].off, lpc_row[i].value, lpc_row[i].writable, lpc_row[i].size);
	l->rcba_window = bus_add_mmio(h->bus, 0, RCBA_BYTES, &rcba_ops, l, "ich9-rcba");
	l->pci.config_written = lpc_written;
	lpc_derive(l);
	dev_list_add(h->devs, &(struct dev_instance){ .name = "ich9-rcba", .desc = &ich9_rcba_regs_state, .regs = &l->rcba, .dev = l,
		.reset = lpc_reset, .destroy = free });
	return l;
}
