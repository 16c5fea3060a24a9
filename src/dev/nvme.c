/* NVMe controller registers and life ("Controller Registers", "Controller Initialization"). */
#include "dev/nvme_int.h"
#include <stdlib.h>

STATE_DESC(nvme_regs, NVME_STATE);

enum { BAR_REGS = 0, BAR_MSIX = 4, BAR_BYTES = 0x2000, DOORBELLS = 0x1000 };
enum reg { CAP = 0x00, VS = 0x08, INTMS = 0x0c, INTMC = 0x10, CC = 0x14, CSTS = 0x1c, AQA = 0x24, ASQ = 0x28, ACQ = 0x30 };
#define CC_ENABLE 1u
#define CC_WRITABLE 0x00fffff1u
#define CSTS_READY 1u
#define CSTS_FATAL 2u
/* Queue entries, contiguous queues only, 10 s to become ready, doorbells 4 bytes apart, NVM commands, pages of 4 KiB. */
#define CAP_VALUE ((u64)(NVME_QUEUE_MAX - 1) | BIT(16) | (u64)20 << 24 | BIT(37))

static u64 read_reg(struct nvme *n, u64 off)
{
	switch (off) {
	case CAP: return CAP_VALUE;
	case VS: return 0x00010400;
	case INTMS: case INTMC: return n->regs.intm;
	case CC: return n->regs.cc;
	case CSTS: return n->regs.csts;
	case AQA: return n->regs.aqa;
	case ASQ: return n->regs.asq;
	case ACQ: return n->regs.acq;
	}
	return 0;
}

/* Registers are 4 or 8 bytes wide; firmware reads the wide ones in halves. */
static u64 regs_read(void *dev, u64 off, unsigned size)
{
	struct nvme *n = dev;

	if (off >= DOORBELLS || size < 4 || off % size)
		return 0;
	if (size == 8)
		return read_reg(n, off);
	switch (off) {
	case CAP + 4: case ASQ + 4: case ACQ + 4: return read_reg(n, off - 4) >> 32;
	}
	return (u32)read_reg(n, off);
}

/* ---- enabling, resetting, shutting down ---- */
static bool sane(const struct nvme_regs *r)
{
	u32 cc = r->cc, sqs = (r->aqa & 0xfff) + 1, cqs = (r->aqa >> 16 & 0xfff) + 1;

	/* NVM command set, pages of 4 KiB, round robin; admin queues of at least two entries on page boundaries */
	return (cc >> 4 & 7) == 0 && (cc >> 7 & 0xf) == 0 && (cc >> 11 & 7) == 0 && sqs >= 2 && cqs >= 2 && !(r->asq & (NVME_PAGE - 1)) &&
	       !(r->acq & (NVME_PAGE - 1));
}

static void enable(struct nvme *n)
{
	struct nvme_regs *r = &n->regs;

	if (!sane(r)) {
		r->csts = CSTS_FATAL;
		return;
	}
	r->sq[0] = (struct nvme_sq_regs){ .base = r->asq, .size = (u16)((r->aqa & 0xfff) + 1), .exists = 1 };
	r->cq[0] = (struct nvme_cq_regs){ .base = r->acq, .size = (u16)((r->aqa >> 16 & 0xfff) + 1), .phase = 1, .interrupts = 1, .exists = 1 };
	r->csts = CSTS_READY;
}

/* "Controller Level Reset": the admin queue's registers stay. */
static void controller_reset(struct nvme *n)
{
	struct nvme_regs kept = { .asq = n->regs.asq, .acq = n->regs.acq, .aqa = n->regs.aqa };

	nvme_forget(n, 0);
	memset(n->of_cq, 0, sizeof(n->of_cq));
	n->regs = kept;
	nvme_default_features(n);
	nvme_update(n);
}

static void write_cc(struct nvme *n, u32 value)
{
	u32 old = n->regs.cc;

	value &= CC_WRITABLE;
	if ((old & CC_ENABLE) && !(value & CC_ENABLE)) {
		controller_reset(n);
		n->regs.cc = value;
		return;
	}
	n->regs.cc = value;
	if (!(old & CC_ENABLE) && (value & CC_ENABLE))
		enable(n);
	if ((value >> 14 & 3) && !(old >> 14 & 3))
		nvme_start_shutdown(n);
	if (!(value >> 14 & 3) && (old >> 14 & 3))
		n->regs.csts &= ~0xcu;
}

/* ---- doorbells ---- */
static void ring(struct nvme *n, u64 off, u32 value)
{
	unsigned q = (unsigned)(off - DOORBELLS) / 8;

	if (q >= NVME_QUEUES || !(n->regs.csts & CSTS_READY))
		return;
	if (off & 4) {
		struct nvme_cq_regs *c = &n->regs.cq[q];

		if (!c->exists || value >= c->size)
			return;
		c->head = (u16)value;
		nvme_update(n);
	} else {
		struct nvme_sq_regs *s = &n->regs.sq[q];

		if (!s->exists || value >= s->size)
			return; /* "Invalid Doorbell Write Value": an event that nobody has to be told */
		s->tail = (u16)value;
	}
	nvme_run(n);
}

static void set_half(u64 *reg, unsigned at, u64 value, unsigned size)
{
	store_le((u8 *)reg + at, value, size);
	*reg &= ~(u64)(NVME_PAGE - 1);
}

static void regs_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct nvme *n = dev;
	struct nvme_regs *r = &n->regs;

	if (size < 4 || off % size)
		return;
	if (off >= DOORBELLS) {
		ring(n, off, (u32)value);
		return;
	}
	switch (off) {
	case INTMS: r->intm |= (u32)value; nvme_update(n); break;
	case INTMC: r->intm &= ~(u32)value; nvme_update(n); break;
	case CC: write_cc(n, (u32)value); break;
	case AQA: r->aqa = (u32)value & 0x0fff0fff; break;
	case ASQ: case ASQ + 4: set_half(&r->asq, off & 4, value, size); break;
	case ACQ: case ACQ + 4: set_half(&r->acq, off & 4, value, size); break;
	}
}

static const struct bus_ops regs_ops = { regs_read, regs_write };

/* ---- life ---- */
static void reset(void *dev)
{
	struct nvme *n = dev;

	nvme_forget(n, 0);
	memset(n->of_cq, 0, sizeof(n->of_cq));
	memset(&n->regs, 0, sizeof(n->regs));
	nvme_default_features(n);
	nvme_update(n);
}

/* Registers from a file are no more to be trusted than a guest's writes. */
static void loaded(void *dev)
{
	struct nvme *n = dev;
	struct nvme_regs *r = &n->regs;

	for (unsigned q = 0; q < NVME_QUEUES; q++) {
		struct nvme_sq_regs *s = &r->sq[q];
		struct nvme_cq_regs *c = &r->cq[q];

		s->exists = s->exists && s->size >= 2 && s->size <= 4096 && s->head < s->size && s->tail < s->size && s->cq < NVME_QUEUES &&
			    (q == 0) == (s->cq == 0);
		c->exists = c->exists && c->size >= 2 && c->size <= 4096 && c->head < c->size && c->tail < c->size;
		c->phase &= 1;
		if (!s->exists)
			s->cq = 0;
	}
	r->events = (u16)min_u64(r->events, NVME_EVENTS);
	nvme_forget(n, 0);
	memset(n->of_cq, 0, sizeof(n->of_cq));
	nvme_restart_held(n);
	nvme_update(n);
	nvme_run(n);
}

static void destroy(void *dev)
{
	struct nvme *n = dev;

	nvme_io_free(n);
	free(n);
}

static void config_written(void *dev, unsigned off, unsigned size) { nvme_update(dev); }

struct nvme *nvme_create(struct pci_host *h, unsigned slot, const struct nvme_config *cfg)
{
	/* A device number of the range that is free for experiments; drivers go by the class. */
	const struct pci_ident id = { .vendor = 0x1af4, .device = 0x10f0, .class_code = 0x010802, .revision = 1, .subvendor = 0x1af4,
		.subdevice = 0x1100, .int_pin = 1 };
	struct nvme *n = dev_alloc(sizeof(*n));
	struct dev_instance inst = { .desc = &nvme_regs_state, .regs = &n->regs, .dev = n, .reset = reset, .quiesce = nvme_quiesce,
		.loaded = loaded, .destroy = destroy };

	n->bus = h->bus;
	n->disk = cfg->disk;
	memcpy(n->serial, cfg->serial, strnlen(cfg->serial, sizeof(n->serial)));
	nvme_io_init(n);
	nvme_default_features(n);
	dev_list_unique_name(h->devs, "nvme", inst.name, sizeof(inst.name));
	pci_function_init(&n->pci, h, inst.name, slot, 0, &id, n);
	n->pci.config_written = config_written;
	pci_add_bar(&n->pci, BAR_REGS, PCI_BAR_MEM64, BAR_BYTES, &regs_ops, n);
	pci_add_msix(&n->pci, BAR_MSIX, NVME_QUEUES);
	dev_list_add(h->devs, &inst);
	return n;
}
