#include "virtio_driver.h"
#include <time.h>

static u64 region(struct vdrv *d, u8 type, unsigned *cap_out)
{
	for (unsigned cap = cfg_find_cap(d->r, d->slot, PCI_CAP_VENDOR, 0); cap; cap = cfg_find_cap(d->r, d->slot, PCI_CAP_VENDOR, cap)) {
		if (cfg_get(d->r, d->slot, cap + 3, 1) != type)
			continue;
		unsigned bar = cfg_get(d->r, d->slot, cap + 4, 1);

		if (cap_out)
			*cap_out = cap;
		return (cfg_get(d->r, d->slot, PCI_BAR0 + 4 * bar, 4) & ~15u) + cfg_get(d->r, d->slot, cap + 8, 4);
	}
	return 0;
}

u64 vdrv_common(struct vdrv *d, unsigned off, unsigned size) { return bus_mmio_read(&d->r->bus, d->common + off, size); }
void vdrv_set_common(struct vdrv *d, unsigned off, u64 v, unsigned size) { bus_mmio_write(&d->r->bus, d->common + off, v, size); }
u8 vdrv_status(struct vdrv *d) { return (u8)vdrv_common(d, 0x14, 1); }

void vdrv_find(struct vdrv *d, struct rig *r, unsigned slot)
{
	unsigned cap = 0;

	*d = (struct vdrv){ .r = r, .slot = slot, .data = 0x100000 };
	rig_assign(r);
	d->common = region(d, 1, NULL);
	d->notify = region(d, 2, &cap);
	d->isr = region(d, 3, NULL);
	d->device = region(d, 4, NULL);
	d->notify_multiplier = cfg_get(r, slot, cap + 16, 4);
	cap = cfg_find_cap(r, slot, PCI_CAP_MSIX, 0);
	d->msix = cfg_get(r, slot, PCI_BAR0 + 4 * (cfg_get(r, slot, cap + 4, 4) & 7), 4) & ~15u;
	assert_true(d->common && d->notify && d->isr && cap);
	vdrv_set_common(d, 0x14, 0, 1);
	assert_int_equal(vdrv_status(d), 0);
}

u64 vdrv_offered(struct vdrv *d)
{
	u64 v = 0;

	for (unsigned i = 0; i < 2; i++) {
		vdrv_set_common(d, 0, i, 4);
		v |= vdrv_common(d, 4, 4) << (32 * i);
	}
	return v;
}

u8 vdrv_negotiate(struct vdrv *d, u64 features)
{
	vdrv_set_common(d, 0x14, VIRTIO_S_ACK, 1);
	vdrv_set_common(d, 0x14, VIRTIO_S_ACK | VIRTIO_S_DRIVER, 1);
	for (unsigned i = 0; i < 2; i++) {
		vdrv_set_common(d, 8, i, 4);
		vdrv_set_common(d, 0xc, (u32)(features >> (32 * i)), 4);
	}
	vdrv_set_common(d, 0x14, VIRTIO_S_ACK | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK, 1);
	return vdrv_status(d);
}

void vdrv_queue(struct vdrv *d, unsigned n, u16 size)
{
	struct vring *q = &d->q[n];

	*q = (struct vring){ .desc = 0x10000 + n * 0x4000, .avail = 0x11000 + n * 0x4000, .used = 0x12000 + n * 0x4000, .size = size };
	memset(mem_ptr(&d->r->mem, gpa(q->desc), 0x4000), 0, 0x4000);
	vdrv_set_common(d, 0x16, n, 2);
	vdrv_set_common(d, 0x18, size, 2);
	vdrv_set_common(d, 0x1a, n, 2);
	vdrv_set_common(d, 0x20, q->desc, 4);
	vdrv_set_common(d, 0x24, 0, 4);
	vdrv_set_common(d, 0x28, q->avail, 8);
	vdrv_set_common(d, 0x30, q->used, 8);
	vdrv_set_common(d, 0x1c, 1, 2);
	assert_int_equal(vdrv_common(d, 0x1c, 2), 1);
}

void vdrv_start(struct vdrv *d, struct rig *r, unsigned slot, u64 features, unsigned queues)
{
	unsigned cap;

	vdrv_find(d, r, slot);
	cap = cfg_find_cap(r, slot, PCI_CAP_MSIX, 0);
	for (unsigned i = 0; i <= queues; i++) {
		bus_mmio_write(&r->bus, d->msix + 16 * i, 0xfee00000, 8);
		bus_mmio_write(&r->bus, d->msix + 16 * i + 8, 0x40 + i, 8);
	}
	cfg_set(r, slot, cap + 2, 0x8000, 2);
	assert_int_equal(vdrv_negotiate(d, features | VIRTIO_F_VERSION_1), 0x0b);
	for (unsigned n = 0; n < queues; n++)
		vdrv_queue(d, n, VD_QSIZE);
	vdrv_set_common(d, 0x10, queues, 2);
	vdrv_set_common(d, 0x14, 0x0f, 1);
}

void vdrv_desc(struct vdrv *d, unsigned n, u16 i, u64 addr, u32 len, u16 flags, u16 next)
{
	u64 at = d->q[n].desc + 16 * (u64)i;

	mem_write_le(&d->r->mem, gpa(at), addr, 8);
	mem_write_le(&d->r->mem, gpa(at + 8), len, 4);
	mem_write_le(&d->r->mem, gpa(at + 12), flags, 2);
	mem_write_le(&d->r->mem, gpa(at + 14), next, 2);
}

void vdrv_publish(struct vdrv *d, unsigned n, u16 head)
{
	struct vring *q = &d->q[n];

	mem_write_le(&d->r->mem, gpa(q->avail + 4 + 2 * (q->avail_idx++ % q->size)), head, 2);
	mem_write_le(&d->r->mem, gpa(q->avail + 2), q->avail_idx, 2);
}

u16 vdrv_add(struct vdrv *d, unsigned n, const struct vbuf *b, unsigned count)
{
	struct vring *q = &d->q[n];
	u16 head = q->next_desc;

	for (unsigned i = 0; i < count; i++) {
		u16 at = q->next_desc, next = (u16)((at + 1) % q->size);

		vdrv_desc(d, n, at, b[i].addr, b[i].len, b[i].flags | (i + 1 < count ? 1 : 0), next);
		q->next_desc = next;
	}
	vdrv_publish(d, n, head);
	return head;
}

void vdrv_kick(struct vdrv *d, unsigned n)
{
	bus_mmio_write(&d->r->bus, d->notify + n * d->notify_multiplier, n, 2);
}

bool vdrv_used(struct vdrv *d, unsigned n, u32 *head, u32 *len)
{
	struct vring *q = &d->q[n];
	u64 at = q->used + 4 + 8 * (q->used_idx % q->size);

	if ((u16)mem_read_le(&d->r->mem, gpa(q->used + 2), 2) == q->used_idx)
		return false;
	*head = (u32)mem_read_le(&d->r->mem, gpa(at), 4);
	*len = (u32)mem_read_le(&d->r->mem, gpa(at + 4), 4);
	q->used_idx++;
	return true;
}

bool vdrv_wait_used(struct vdrv *d, unsigned n, u32 *head, u32 *len)
{
	for (unsigned i = 0; i < 2000; i++) {
		if (vdrv_used(d, n, head, len))
			return true;
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	return false;
}
