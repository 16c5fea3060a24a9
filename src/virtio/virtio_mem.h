/* virtio-mem: memory that the guest plugs and unplugs while it runs. Specification "Memory Device". Not here: how much it shall plug
 * (vm/memory_policy.h), nor the memory slot, which is there from the start with no page touched. Surprise: a slot stays open where nothing is plugged, so
 * a guest that touches unplugged memory, which the specification leaves undefined, finds memory there; it never gets more than the region has. */
#ifndef NB_VIRTIO_MEM_H
#define NB_VIRTIO_MEM_H

#include "virtio/virtio_pci.h"

#define VIRTIO_MEM_BLOCK (2 * MiB)  /* the least; a region of more blocks than the bitmap has bits gets bigger ones */
#define VIRTIO_MEM_WORDS 1024

/* plugged: a bit per block. requested: bytes that the guest shall have plugged. */
#define VIRTIO_MEM_STATE(F, A) A(u64, plugged, VIRTIO_MEM_WORDS) F(u64, requested)
STATE_STRUCT(virtio_mem_regs, VIRTIO_MEM_STATE);

struct virtio_mem {
	struct virtio_device v;
	struct virtio_mem_regs regs;  /* bus->lock */
	u64 addr, size, block;        /* bytes; fixed */
	u64 nplugged;                 /* bits in regs.plugged */
	u64 held[VIRTIO_MEM_WORDS];   /* blocks whose pages we may hold: regs.plugged, before registers were loaded */
};

/* For the RAM slot of `size` bytes at `addr`, both multiples of VIRTIO_MEM_BLOCK; what does not make a whole block at the end is not used. */
struct virtio_mem *virtio_mem_create(struct pci_host *h, unsigned slot, u64 addr, u64 size);

/* The functions below take bus->lock; any thread. */

/* How many bytes the guest shall have plugged (cut to what there is, rounded down to blocks). It does so when its driver is there, as far as it can. */
void virtio_mem_request(struct virtio_mem *m, u64 bytes);
struct virtio_mem_info {
	u64 size, block;        /* bytes */
	u64 requested, plugged; /* bytes */
	bool driver;            /* the guest has a driver that runs */
};
void virtio_mem_info(struct virtio_mem *m, struct virtio_mem_info *info);

#endif
