/* pci-testdev. Each BAR starts with a header that describes the test chosen by a write to its first byte. */
#include "dev/pci_testdev.h"
#include <stdlib.h>

STATE_DESC(pci_testdev_regs, PCI_TESTDEV_STATE);

struct header {
	u8 test, width, pad[2];
	u32 offset, data, count;
	char name[48];
};

/* offset: where the test writes; data: what must be written to be counted, or any. */
static const struct test_row {
	const char *name;
	u8 width;
	u32 offset, data;
	bool any;
} test_row[] = {
	{ "plain", 1, 0x40, 0xff, false },
	{ "wildcard", 1, 0x44, 0xfa, true },
	{ "datamatch", 1, 0x48, 0xfa, false },
};

static struct header describe(const struct pci_testdev_bar *b)
{
	struct header h = { .test = b->t->regs.test[b->n], .count = b->t->regs.count[b->n] };

	if (h.test < array_len(test_row)) {
		const struct test_row *row = &test_row[h.test];

		h.width = row->width;
		h.offset = row->offset;
		h.data = row->data;
		strncpy(h.name, row->name, sizeof(h.name) - 1);
	}
	return h;
}

static u64 testdev_read(void *dev, u64 off, unsigned size)
{
	struct header h = describe(dev);

	return off + size <= sizeof(h) ? load_le((u8 *)&h + off, size) : 0;
}

static void testdev_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct pci_testdev_bar *b = dev;
	struct pci_testdev_regs *r = &b->t->regs;

	if (off == offsetof(struct header, test)) {
		r->test[b->n] = (u8)value;
		r->count[b->n] = 0;
		return;
	}
	if (r->test[b->n] >= array_len(test_row))
		return;
	const struct test_row *row = &test_row[r->test[b->n]];

	if (off == row->offset && size == row->width && (row->any || value == row->data))
		r->count[b->n]++;
}

static const struct bus_ops testdev_ops = { testdev_read, testdev_write };

static void testdev_reset(void *dev)
{
	struct pci_testdev *t = dev;

	memset(&t->regs, 0, sizeof(t->regs));
}

struct pci_testdev *pci_testdev_create(struct pci_host *h, unsigned slot)
{
	static const struct pci_ident id = { .vendor = 0x1b36, .device = 0x0005, .class_code = 0x00ff00, .subvendor = 0x1af4,
		.subdevice = 0x1100 };
	struct pci_testdev *t = dev_alloc(sizeof(*t));

	pci_function_init(&t->pci, h, "pci-testdev", slot, 0, &id, t);
	for (unsigned n = 0; n < PCI_TESTDEV_BARS; n++)
		t->bar[n] = (struct pci_testdev_bar){ t, n };
	pci_add_bar(&t->pci, 0, PCI_BAR_MEM32, 4096, &testdev_ops, &t->bar[0]);
	pci_add_bar(&t->pci, 1, PCI_BAR_IO, 256, &testdev_ops, &t->bar[1]);
	dev_list_add(h->devs, &(struct dev_instance){ .name = "pci-testdev", .desc = &pci_testdev_regs_state, .regs = &t->regs, .dev = t,
		.reset = testdev_reset, .destroy = free });
	return t;
}
