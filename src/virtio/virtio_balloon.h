/* virtio-balloon: memory that the guest gives back leaves the process. Specification "Traditional Memory Balloon Device". Not here: the policy
 * that says how big the balloon shall be. Surprises: free pages that the guest merely reports are dropped as well, and the queue for those is
 * number 3 for Linux but 4 for a driver that counts as the specification's text does, so both are served. */
#ifndef NB_VIRTIO_BALLOON_H
#define NB_VIRTIO_BALLOON_H

#include "virtio/virtio_pci.h"

/* Tags of the statistics, in the order of their numbers ("Memory Statistics Tags"); sizes in bytes. */
enum virtio_balloon_stat {
	BALLOON_SWAP_IN, BALLOON_SWAP_OUT, BALLOON_MAJOR_FAULTS, BALLOON_MINOR_FAULTS, BALLOON_FREE, BALLOON_TOTAL, BALLOON_AVAILABLE,
	BALLOON_CACHES, BALLOON_HUGE_ALLOCATED, BALLOON_HUGE_FAILED, BALLOON_STATS,
};

/* num_pages: what we ask for, actual: what the driver says it has given, both in 4 KiB pages. stats_head: the buffer that waits for the next
 * request, while stats_held. */
#define BALLOON_STATE(F, A) \
	A(u64, stat, BALLOON_STATS) F(u64, reported) \
	F(u32, num_pages) F(u32, actual) F(u32, stats_valid) \
	F(u16, stats_head) F(u8, stats_held) A(u8, pad_, 1)
STATE_STRUCT(balloon_regs, BALLOON_STATE);

struct virtio_balloon_config {
	/* Both optional; under bus->lock, must not block. */
	void (*stats_came)(void *opaque);
	void (*actual_changed)(void *opaque, u64 bytes);
	void *opaque;
};

struct virtio_balloon {
	struct virtio_device v;
	struct balloon_regs regs; /* bus->lock */
	struct virtio_balloon_config cfg;
};

struct virtio_balloon *virtio_balloon_create(struct pci_host *h, unsigned slot, const struct virtio_balloon_config *cfg);

/* The functions below take bus->lock; any thread. */

/* How many bytes the guest shall give (rounded down to pages). It does so when its driver is there, and gives what it can. */
void virtio_balloon_set_target(struct virtio_balloon *b, u64 bytes);
struct virtio_balloon_info {
	u64 target, actual;   /* bytes */
	u64 reported;         /* bytes of free memory reported and dropped so far */
	bool driver;          /* the guest has a driver that runs */
	bool answered;        /* no request for statistics is open */
	u32 stats_valid;      /* bit n: stat[n] has been given */
	u64 stat[BALLOON_STATS];
};
void virtio_balloon_info(struct virtio_balloon *b, struct virtio_balloon_info *info);
/* Asks the guest for new statistics. False: no driver, or the last request is not answered yet. */
bool virtio_balloon_ask_stats(struct virtio_balloon *b);
/* "free-memory" and the like. */
const char *virtio_balloon_stat_name(enum virtio_balloon_stat s);

#endif
