/* A device's requests between it and its disk: how many the disk has, and which are done and wait to be given back to the guest. Not here: what a
 * request is to the guest. Surprise: one worker gives back what several have done, so that the device's lock is taken once for all of them. */
#ifndef NB_HOST_DISK_FLIGHT_H
#define NB_HOST_DISK_FLIGHT_H

#include "host/disk.h"
#include <pthread.h>

struct disk_flight {
	pthread_mutex_t lock;              /* innermost but for the disk's own; all below */
	pthread_cond_t idle;
	struct disk_request *done, **last; /* first in, first out */
	unsigned in_flight;                /* requests that the disk has */
	unsigned returning;                /* workers that are to give back what is done, or just did */
	bool giving;                       /* one of them will see what is added to the list now */
};

void disk_flight_init(struct disk_flight *f);
/* Waits for workers on their way back. Nothing may be in flight. */
void disk_flight_destroy(struct disk_flight *f);
void disk_flight_submit(struct disk_flight *f, struct disk *d, struct disk_request *r);

/* In a worker's thread: r is done. True: the caller shall take the device's lock, take all that is done, and call disk_flight_left() without it. */
bool disk_flight_land(struct disk_flight *f, struct disk_request *r);
/* The next one that is done, or NULL. */
struct disk_request *disk_flight_take(struct disk_flight *f);
void disk_flight_left(struct disk_flight *f);
/* For a device without a list: n requests are no longer in flight. */
void disk_flight_drop(struct disk_flight *f, unsigned n);

/* All of the owner's that have not begun, and those that are done, as a list by ->next: they are forgotten. */
struct disk_request *disk_flight_recall(struct disk_flight *f, struct disk *d, void *owner);
/* Waits a little if more than `held` are in flight, and says whether that was so. Nobody tells us when the disk holds a request: ask again. */
bool disk_flight_wait_above(struct disk_flight *f, unsigned held);
/* More than `held` are in flight, or some are done. */
bool disk_flight_busy(struct disk_flight *f, unsigned held);

#endif
