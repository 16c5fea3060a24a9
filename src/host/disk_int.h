/* What disk.c and disk_open.c share. */
#ifndef NB_HOST_DISK_INT_H
#define NB_HOST_DISK_INT_H

#include "host/disk_layer.h"
#include <pthread.h>

/* First in, first out. */
struct disk_list {
	struct disk_request *first, **last;
};

struct disk {
	struct disk_spec spec;
	u64 size;
	struct disk_layer *top;      /* changes only while nothing is in flight */
	pthread_mutex_t lock;        /* taken inside bus->lock, never the other way round */
	pthread_cond_t work;
	struct disk_list queue, held; /* lock, as all below but where another rule stands */
	unsigned idle;               /* workers that wait */
	bool stop, paused;
	bool waits;                  /* atomic, changed under lock: disk_wait */
	bool complained;             /* atomic */
	pthread_t thread[DISK_WORKERS];
	unsigned nthreads;           /* fixed after the start, as the next two */
	void (*pause)(void *opaque, struct disk *d, const char *text);
	void *pause_opaque;
	struct disk_counters counters;
	struct disk_at_once {
		u64 requests, bytes; /* atomic */
	} read_at_once, written_at_once;
};

/* A running disk over the layer, which is taken over. */
int disk_start(struct disk **out, struct disk_layer *top, const struct disk_spec *s);

#endif
