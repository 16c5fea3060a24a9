/* A guest's NVMe driver, as far as tests need one. Queues and buffers lie in rig memory. */
#ifndef NVME_DRIVER_H
#define NVME_DRIVER_H

#include "dev_rig.h"

enum { ND_ENTRIES = 8, ND_QUEUES = 3, ND_PAGE = 0x200000 /* buffers from here on are the tests' */ };

struct nvme_driver {
	struct rig *r;
	u64 bar, msix;
	u16 sq_tail[ND_QUEUES], cq_head[ND_QUEUES], id;
	u8 phase[ND_QUEUES];
};

struct nvme_result { bool came; u16 id, sq, status; u32 dw0; };

static inline u64 nd_sq(unsigned q) { return 0x100000 + q * 0x2000; }
static inline u64 nd_cq(unsigned q) { return 0x101000 + q * 0x2000; }

u64 nd_reg(struct nvme_driver *d, unsigned off, unsigned size);
void nd_set(struct nvme_driver *d, unsigned off, u64 v, unsigned size);
/* BARs placed, MSI-X on; the controller enabled, with admin queues of ND_ENTRIES. */
void nd_find(struct nvme_driver *d, struct rig *r, unsigned slot);
void nd_enable(struct nvme_driver *d);
/* Puts a command into queue q; dw: dwords 10 to 15. Returns its id. */
u16 nd_post(struct nvme_driver *d, unsigned q, u8 opcode, u32 nsid, u64 prp1, u64 prp2, const u32 dw[6]);
void nd_ring(struct nvme_driver *d, unsigned q);
/* The next completion of queue q, waited for up to two seconds (0: not at all). Frees the entry. */
struct nvme_result nd_take(struct nvme_driver *d, unsigned q, unsigned wait_ms);
/* Posts, rings, waits: the status. */
u16 nd_do(struct nvme_driver *d, unsigned q, u8 opcode, u32 nsid, u64 prp1, u64 prp2, u32 dw10, u32 dw11, u32 dw12);
/* I/O queue pairs 1 and 2. */
void nd_queues(struct nvme_driver *d);

#endif
