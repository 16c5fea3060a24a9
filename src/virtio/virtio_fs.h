/* virtio-fs: a file system that a server on the host serves (share/share.h). Specification "File System Device". Not here: FUSE; a request is handed on
 * as it is. Surprise: a driver's reset waits for the requests in flight, because the server writes to the guest's memory. */
#ifndef NB_VIRTIO_FS_H
#define NB_VIRTIO_FS_H

#include "virtio/virtio_pci.h"
#include <pthread.h>

enum { VIRTIO_FS_TAG = 36, VIRTIO_FS_IN_FLIGHT = 16 };

struct virtio_fs_slot {
	struct virtq_chain chain;
	unsigned queue;
	bool busy, done; /* lock */
	u32 written;
};

struct virtio_fs {
	struct virtio_device v;
	int fd;                  /* the server's socket */
	pthread_t thread;        /* takes the answers */
	pthread_mutex_t lock;    /* inside bus->lock, never the other way round */
	pthread_cond_t idle;
	struct virtio_fs_slot *slot; /* VIRTIO_FS_IN_FLIGHT */
	unsigned waiting;        /* lock: for the server */
	bool dead, stop;         /* lock: the server has gone; the device goes */
	bool returning;          /* lock, and bus->lock to make it false: the thread has an answer and waits for bus->lock */
	char share[128];         /* for messages */
};

/* tag: what the guest mounts, at most 36 bytes. fd: from share_start(); taken over. NULL with one log line when the thread cannot be made. */
struct virtio_fs *virtio_fs_create(struct pci_host *h, unsigned slot, const char *tag, int fd, const char *share);

#endif
