/* virtio-blk on a raw image. Specification "Block Device". Requests are taken from the queues under bus->lock, done
 * by one worker thread without it, and given back under it. Surprise: a driver's reset waits for the requests in
 * flight, because they write to the guest's memory. */
#ifndef NB_VIRTIO_BLK_H
#define NB_VIRTIO_BLK_H

#include "host/file.h"
#include "virtio/virtio_pci.h"
#include <sys/uio.h>

enum { VIRTIO_BLK_REQUESTS = 64, VIRTIO_BLK_ID_BYTES = 20 };

struct virtio_blk_request {
	struct virtio_blk_request *next;
	struct virtq_chain chain;
	struct iovec iov[VIRTQ_MAX_SEGS];
	unsigned queue, niov;
	u32 type;
	u64 sector, data_len;
	u8 status;         /* VIRTIO_BLK_S_* */
	u64 written;       /* bytes of data that may have changed in the guest's memory */
};

/* First in, first out. */
struct virtio_blk_list {
	struct virtio_blk_request *first, **last;
};

struct virtio_blk {
	struct virtio_device v;
	struct file file;
	char id[VIRTIO_BLK_ID_BYTES];
	struct virtio_blk_request *requests;     /* all VIRTIO_BLK_REQUESTS of them */
	struct virtio_blk_request *free;         /* bus->lock */
	pthread_t thread;
	pthread_mutex_t lock;                    /* taken inside bus->lock, never the other way round */
	pthread_cond_t work, idle;
	struct virtio_blk_list todo, done;       /* lock, as the next two */
	bool active, stop;                       /* the worker is at a request; shall end */
};

struct virtio_blk_config {
	struct file file;   /* taken over: closed with the device */
	unsigned queues;    /* 1..VIRTIO_MAX_QUEUES */
	const char *id;     /* serial number, cut at 20 bytes */
};

/* NULL with one log line when the thread cannot be made. */
struct virtio_blk *virtio_blk_create(struct pci_host *h, unsigned slot, const struct virtio_blk_config *cfg);

#endif
