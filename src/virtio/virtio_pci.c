/* Virtio over PCI: the four register windows in one BAR, and the capabilities that point at them.
 * Specification "Virtio Structure PCI Capabilities". */
#include "virtio/virtio_internal.h"

enum { BAR_MSIX = 1, BAR_REGS = 4, BAR_BYTES = 0x4000 };
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI_CFG = 5 };
enum { AT_COMMON = 0, AT_ISR = 0x1000, AT_DEVICE = 0x2000, AT_NOTIFY = 0x3000, REGION_BYTES = 0x1000, NOTIFY_MULTIPLIER = 4 };

/* Offsets in the common configuration structure. */
enum common_reg {
	DEVICE_FEATURE_SELECT = 0x00, DEVICE_FEATURE = 0x04, DRIVER_FEATURE_SELECT = 0x08, DRIVER_FEATURE = 0x0c,
	CONFIG_VECTOR = 0x10, NUM_QUEUES = 0x12, DEVICE_STATUS = 0x14, CONFIG_GENERATION = 0x15,
	QUEUE_SELECT = 0x16, QUEUE_SIZE = 0x18, QUEUE_VECTOR = 0x1a, QUEUE_ENABLE = 0x1c, QUEUE_NOTIFY_OFF = 0x1e,
	QUEUE_DESC = 0x20, QUEUE_DRIVER = 0x28, QUEUE_DEVICE = 0x30, COMMON_BYTES = 0x38,
};

/* Each register is accessed with its own width, the 64-bit ones also as two halves. */
static u64 common_read(struct virtio_device *v, u64 off, unsigned size)
{
	const struct virtio_regs *r = &v->regs;
	const struct virtq_regs none = { 0 }, *q = r->queue_select < v->nqueues ? &r->queue[r->queue_select] : &none;

	switch (off) {
	case DEVICE_FEATURE_SELECT: return r->device_feature_select;
	case DEVICE_FEATURE: return r->device_feature_select > 1 ? 0 : (u32)(v->features >> (32 * r->device_feature_select));
	case DRIVER_FEATURE_SELECT: return r->driver_feature_select;
	case DRIVER_FEATURE: return r->driver_feature_select > 1 ? 0 : (u32)(r->driver_features >> (32 * r->driver_feature_select));
	case CONFIG_VECTOR: return r->config_vector;
	case NUM_QUEUES: return v->nqueues;
	case DEVICE_STATUS: return r->status;
	case CONFIG_GENERATION: return r->config_generation;
	case QUEUE_SELECT: return r->queue_select;
	case QUEUE_SIZE: return q->size;
	case QUEUE_VECTOR: return q == &none ? VIRTQ_NO_VECTOR : q->vector;
	case QUEUE_ENABLE: return q->enabled;
	case QUEUE_NOTIFY_OFF: return r->queue_select;
	case QUEUE_DESC: return size == 8 ? q->desc : (u32)q->desc;
	case QUEUE_DESC + 4: return q->desc >> 32;
	case QUEUE_DRIVER: return size == 8 ? q->avail : (u32)q->avail;
	case QUEUE_DRIVER + 4: return q->avail >> 32;
	case QUEUE_DEVICE: return size == 8 ? q->used : (u32)q->used;
	case QUEUE_DEVICE + 4: return q->used >> 32;
	}
	return 0;
}

static void set_address(u64 *reg, unsigned at, u64 value, unsigned size)
{
	if (size == 8)
		*reg = value;
	else if (size == 4)
		store_le((u8 *)reg + at, value, 4);
}

/* A vector that the device lacks reads back as NO_VECTOR: "MSI-X Vector Configuration". */
static u16 checked_vector(const struct virtio_device *v, u64 value)
{
	return value < v->pci.msix_vectors ? (u16)value : VIRTQ_NO_VECTOR;
}

static void queue_write(struct virtio_device *v, struct virtq_regs *q, u64 off, u64 value, unsigned size)
{
	if (off == QUEUE_VECTOR) {
		q->vector = checked_vector(v, value & 0xffff);
		return;
	}
	if (q->enabled)
		return; /* only a reset takes an enabled queue back */
	switch (off) {
	case QUEUE_SIZE:
		if (value && value <= v->queue_size && !(value & (value - 1)))
			q->size = (u16)value;
		return;
	case QUEUE_ENABLE: q->enabled = (value & 0xffff) == 1; return;
	case QUEUE_DESC: case QUEUE_DESC + 4: set_address(&q->desc, off & 7, value, size); return;
	case QUEUE_DRIVER: case QUEUE_DRIVER + 4: set_address(&q->avail, off & 7, value, size); return;
	case QUEUE_DEVICE: case QUEUE_DEVICE + 4: set_address(&q->used, off & 7, value, size); return;
	}
}

static void common_write(struct virtio_device *v, u64 off, u64 value, unsigned size)
{
	struct virtio_regs *r = &v->regs;

	switch (off) {
	case DEVICE_FEATURE_SELECT: r->device_feature_select = (u32)value; return;
	case DRIVER_FEATURE_SELECT: r->driver_feature_select = (u32)value; return;
	case DRIVER_FEATURE: virtio_write_features(v, (u32)value); return;
	case CONFIG_VECTOR: r->config_vector = checked_vector(v, value & 0xffff); return;
	case DEVICE_STATUS: virtio_write_status(v, (u8)value); return;
	case QUEUE_SELECT: r->queue_select = (u16)value; return;
	}
	if (off >= QUEUE_SIZE && r->queue_select < v->nqueues)
		queue_write(v, &r->queue[r->queue_select], off, value, size);
}

static u64 isr_read(struct virtio_device *v)
{
	u8 isr = v->regs.isr;

	v->regs.isr = 0;
	virtio_update(v);
	return isr;
}

static u64 regs_read(void *dev, u64 off, unsigned size)
{
	struct virtio_device *v = dev;
	u64 reg = off % REGION_BYTES;

	switch (off - reg) {
	case AT_COMMON: return common_read(v, reg, size) & low_mask(8 * size);
	case AT_ISR: return reg == 0 ? isr_read(v) : 0;
	case AT_DEVICE: return reg + size <= v->config_size ? load_le(v->config + reg, size) : 0;
	}
	return 0;
}

static void regs_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct virtio_device *v = dev;
	u64 reg = off % REGION_BYTES;

	switch (off - reg) {
	case AT_COMMON: common_write(v, reg, value, size); return;
	case AT_DEVICE:
		if (v->class->config_written && reg + size <= v->config_size && size <= 4)
			v->class->config_written(v, (unsigned)reg, size, (u32)value);
		return;
	case AT_NOTIFY: virtio_kick(v, (unsigned)(reg / NOTIFY_MULTIPLIER)); return;
	}
}

static const struct bus_ops regs_ops = { regs_read, regs_write };

/* struct virtio_pci_cap after its id and link bytes: length, type, BAR, id, 2 bytes of padding, offset, length. */
static unsigned add_virtio_cap(struct virtio_device *v, u8 type, u32 offset, u32 bytes, unsigned len)
{
	unsigned cap = pci_add_cap(&v->pci, PCI_CAP_VENDOR, len);

	pci_config_init(&v->pci, cap + 2, len | (u32)type << 8, 0, 2);
	pci_config_init(&v->pci, cap + 4, BAR_REGS, 0, 1);
	pci_config_init(&v->pci, cap + 8, offset, 0, 4);
	pci_config_init(&v->pci, cap + 12, bytes, 0, 4);
	return cap;
}

/* VIRTIO_PCI_CAP_PCI_CFG: a window into the BAR through configuration space, for software that cannot reach the BAR. */
enum { CFG_BAR = 4, CFG_OFFSET = 8, CFG_LENGTH = 12, CFG_DATA = 16 };

static bool cfg_window(const struct virtio_device *v, u64 *off, unsigned *len)
{
	const u8 *cap = v->pci.regs.config + v->pci_cfg_cap;

	*off = load_le(cap + CFG_OFFSET, 4);
	*len = (unsigned)load_le(cap + CFG_LENGTH, 4);
	return cap[CFG_BAR] == BAR_REGS && (*len == 1 || *len == 2 || *len == 4) && *off % *len == 0 && *off + *len <= BAR_BYTES;
}

static u32 cfg_read(void *dev, unsigned off, unsigned size, u32 value)
{
	struct virtio_device *v = dev;
	unsigned len;
	u64 at;

	if (off != v->pci_cfg_cap + CFG_DATA || !cfg_window(v, &at, &len))
		return value;
	return (u32)(regs_read(v, at, len) & low_mask(8 * size));
}

static void cfg_written(void *dev, unsigned off, unsigned size)
{
	struct virtio_device *v = dev;
	unsigned len;
	u64 at;

	if (off == v->pci_cfg_cap + CFG_DATA && size <= 4 && cfg_window(v, &at, &len))
		regs_write(v, at, load_le(v->pci.regs.config + off, 4) & low_mask(8 * len), len);
	virtio_update(v); /* MSI-X may have been switched */
}

void virtio_pci_init(struct virtio_device *v)
{
	unsigned cap;

	pci_add_bar(&v->pci, BAR_REGS, PCI_BAR_MEM64, BAR_BYTES, &regs_ops, v);
	pci_add_msix(&v->pci, BAR_MSIX, v->nqueues + 1);
	add_virtio_cap(v, CAP_COMMON, AT_COMMON, COMMON_BYTES, 16);
	add_virtio_cap(v, CAP_ISR, AT_ISR, 1, 16);
	if (v->config_size)
		add_virtio_cap(v, CAP_DEVICE, AT_DEVICE, v->config_size, 16);
	cap = add_virtio_cap(v, CAP_NOTIFY, AT_NOTIFY, v->nqueues * NOTIFY_MULTIPLIER, 20);
	pci_config_init(&v->pci, cap + 16, NOTIFY_MULTIPLIER, 0, 4);
	cap = add_virtio_cap(v, CAP_PCI_CFG, 0, 0, 20);
	pci_config_init(&v->pci, cap + CFG_BAR, 0, 0xff, 1);
	pci_config_init(&v->pci, cap + CFG_OFFSET, 0, ~0u, 4);
	pci_config_init(&v->pci, cap + CFG_LENGTH, 0, ~0u, 4);
	pci_config_init(&v->pci, cap + CFG_DATA, 0, ~0u, 4);
	v->pci_cfg_cap = (u8)cap;
	v->pci.config_read = cfg_read;
	v->pci.config_written = cfg_written;
}
