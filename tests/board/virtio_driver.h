/* A guest's virtio driver, as far as tests need one: finds the device's windows by its capabilities, sets up queues
 * in rig memory. */
#ifndef VIRTIO_DRIVER_H
#define VIRTIO_DRIVER_H

#include "dev_rig.h"
#include "virtio/virtio_pci.h"

enum { VD_QSIZE = 16, VD_WRITE = 2, VD_INDIRECT = 4 };

struct vring {
	u64 desc, avail, used;
	u16 size, next_desc, avail_idx, used_idx;
};

struct vdrv {
	struct rig *r;
	unsigned slot;
	u64 common, notify, isr, device, msix;
	u32 notify_multiplier;
	struct vring q[VIRTIO_MAX_QUEUES];
	u64 data; /* free memory for buffers starts here */
};

/* Assigns BARs, checks the capabilities, leaves the device reset. */
void vdrv_find(struct vdrv *d, struct rig *r, unsigned slot);
/* ACKNOWLEDGE .. FEATURES_OK with exactly these features; returns the status read back. */
u8 vdrv_negotiate(struct vdrv *d, u64 features);
/* Queue n of `size` entries in rig memory, MSI-X vector n. */
void vdrv_queue(struct vdrv *d, unsigned n, u16 size);
/* Find, negotiate, `queues` queues, MSI-X on and unmasked, DRIVER_OK. */
void vdrv_start(struct vdrv *d, struct rig *r, unsigned slot, u64 features, unsigned queues);

u64 vdrv_common(struct vdrv *d, unsigned off, unsigned size);
void vdrv_set_common(struct vdrv *d, unsigned off, u64 v, unsigned size);
u64 vdrv_offered(struct vdrv *d);
u8 vdrv_status(struct vdrv *d);

struct vbuf {
	u64 addr;
	u32 len;
	u16 flags; /* VD_WRITE */
};
/* Puts a chain into the ring without telling; returns its head. */
u16 vdrv_add(struct vdrv *d, unsigned n, const struct vbuf *b, unsigned count);
/* One raw descriptor. */
void vdrv_desc(struct vdrv *d, unsigned n, u16 i, u64 addr, u32 len, u16 flags, u16 next);
void vdrv_publish(struct vdrv *d, unsigned n, u16 head);
void vdrv_kick(struct vdrv *d, unsigned n);
/* Next used element, or false. */
bool vdrv_used(struct vdrv *d, unsigned n, u32 *head, u32 *len);
/* The same, waiting for a worker thread up to two seconds. */
bool vdrv_wait_used(struct vdrv *d, unsigned n, u32 *head, u32 *len);

#endif
