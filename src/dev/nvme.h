/* An NVMe controller with one namespace on a disk (NVM Express Base Specification 1.4), for guests and firmware without virtio. Not here:
 * the disk (host/disk.h). Missing on purpose: scatter-gather lists, metadata, namespaces and firmware management; such commands
 * get the status that the specification gives them. Surprise: a command is only fetched when its completion queue has room for
 * it, so completions never wait. */
#ifndef NB_NVME_H
#define NB_NVME_H

#include "dev/pci.h"
#include "host/disk.h"

enum { NVME_QUEUES = 9 /* the admin pair and 8 for I/O */, NVME_QUEUE_MAX = 1024, NVME_REQUESTS = 64, NVME_FEATURES = 12, NVME_EVENTS = 4 };

/* head: the next entry to fetch; tail: the driver's doorbell. */
struct nvme_sq_regs {
	u64 base;
	u16 size, head, tail, cq, exists, pad_[3];
};

/* head: the driver's doorbell; tail: the next entry to fill. */
struct nvme_cq_regs {
	u64 base;
	u16 size, head, tail, vector, phase, interrupts, exists, pad_;
};

/* A command that the host could not do and that shall be done again (on-error=pause). */
struct nvme_held {
	u16 sq, pad_[3];
	u8 command[64];
};

#define NVME_STATE(F, A) \
	F(u64, asq) F(u64, acq) F(u32, aqa) F(u32, cc) F(u32, csts) F(u32, intm) \
	A(u32, feature, NVME_FEATURES) \
	A(struct nvme_sq_regs, sq, NVME_QUEUES) A(struct nvme_cq_regs, cq, NVME_QUEUES) \
	F(u32, held_count) F(u16, events) A(u16, event_id, NVME_EVENTS) A(u16, pad_, 1) \
	A(struct nvme_held, held, NVME_REQUESTS)
STATE_STRUCT(nvme_regs, NVME_STATE);

struct nvme_config {
	struct disk *disk;   /* remains the caller's; outlives the device */
	const char *serial;  /* cut at 20 bytes */
};

struct nvme;
struct nvme *nvme_create(struct pci_host *h, unsigned slot, const struct nvme_config *cfg);

#endif
