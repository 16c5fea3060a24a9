/* virtio-blk on a disk (host/disk.h). Specification "Block Device". Requests are taken from the queues under bus->lock, done by the
 * disk's workers without it, and given back under it. Surprise: what the host's page cache has or takes is done at once, in the
 * vCPU's thread. And a driver's reset waits for requests that have begun, because they write to the guest's memory. */
#ifndef NB_VIRTIO_BLK_H
#define NB_VIRTIO_BLK_H

#include "host/disk_flight.h"
#include "virtio/virtio_pci.h"

enum { VIRTIO_BLK_REQUESTS = 128, VIRTIO_BLK_ID_BYTES = DISK_SERIAL_MAX };

struct virtio_blk_request {
	struct virtio_blk_request *next;
	struct virtio_blk *blk;
	struct disk_request disk;
	struct virtq_chain chain;
	struct iovec iov[VIRTQ_MAX_SEGS];
	unsigned queue;
	u32 type;
	u64 data_len;
	u64 range;         /* discard, write zeroes: the one being done */
	u8 status;         /* VIRTIO_BLK_S_* */
	u64 written;       /* bytes of data that may have changed in the guest's memory */
};

/* Requests that the host could not do, and that shall be done again (on-error=pause): they are part of the state. held[0..held_count-1]: queue
 * << 16 | head of the chain. */
#define VIRTIO_BLK_STATE(F, A) F(u32, held_count) A(u32, held, VIRTIO_BLK_REQUESTS)
STATE_STRUCT(virtio_blk_regs, VIRTIO_BLK_STATE);

struct virtio_blk {
	struct virtio_device v;
	struct disk *disk;
	char id[VIRTIO_BLK_ID_BYTES];
	struct virtio_blk_regs regs;             /* bus->lock; filled in by quiesce */
	struct virtio_blk_request *requests;     /* all VIRTIO_BLK_REQUESTS of them */
	struct virtio_blk_request *free;         /* bus->lock */
	struct disk_flight flight;
};

struct virtio_blk_config {
	struct disk *disk;  /* remains the caller's; outlives the device */
	unsigned queues;    /* 1..VIRTIO_MAX_QUEUES */
	const char *id;     /* serial number, cut at 20 bytes */
};

struct virtio_blk *virtio_blk_create(struct pci_host *h, unsigned slot, const struct virtio_blk_config *cfg);

#endif
