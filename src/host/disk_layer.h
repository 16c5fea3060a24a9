/* What disks are made of: layers with blocking calls, which several workers use at once. A layer that stands on another one owns
 * it. Failures are negative errno. */
#ifndef NB_HOST_DISK_LAYER_H
#define NB_HOST_DISK_LAYER_H

#include "host/disk.h"

enum { DISK_WORKERS = 4, DISK_MAX_IOV = 256 };

struct disk_layer;

/* at, len: multiples of DISK_SECTOR inside the layer. worker: 0..DISK_WORKERS-1, used by one thread at a time. iov may be changed. */
struct disk_layer_ops {
	int (*read)(struct disk_layer *l, unsigned worker, struct iovec *iov, int n, u64 at);
	int (*write)(struct disk_layer *l, unsigned worker, struct iovec *iov, int n, u64 at, bool fua);
	int (*flush)(struct disk_layer *l, unsigned worker);
	int (*discard)(struct disk_layer *l, unsigned worker, u64 at, u64 len);
	int (*write_zeroes)(struct disk_layer *l, unsigned worker, u64 at, u64 len, bool unmap, bool fua);
	/* Optional: 0 when all has been read or written without waiting, else negative (the buffers, or the disk there, may have changed). */
	int (*read_at_once)(struct disk_layer *l, const struct iovec *iov, int n, u64 at, u64 len);
	int (*write_at_once)(struct disk_layer *l, const struct iovec *iov, int n, u64 at, u64 len);
	/* Frees the layer and what it stands on. */
	void (*close)(struct disk_layer *l);
};

struct disk_layer {
	const struct disk_layer_ops *ops;
	struct disk_layer *below; /* NULL: an image */
	u64 size;                 /* bytes */
	bool read_only, server;   /* server: a program of its own reads and writes it */
	u8 id[16];                /* an overlay's; an image has zeros */
};

/* The first max bytes of an image say what it is: "qcow2", "vhdx", ..., or NULL (raw, or unknown). */
const char *disk_probe(const u8 *head, size_t n);

/* A raw file. guarded: the format was guessed, so the guest may not make the image look like another format.
 * fd is taken over if 0 is returned. */
int disk_raw_open(struct disk_layer **out, const char *path, int fd, u64 size, bool read_only, bool guarded);
/* Any other format through qemu-storage-daemon. lock_fd: the image's, taken over if 0 is returned. -errno with one log line. */
int disk_nbd_open(struct disk_layer **out, const char *path, const char *format, bool read_only, int lock_fd);

/* A new overlay on `below` in the empty file fd. anonymous: nobody will open it again, so nothing needs to reach stable storage. Both are
 * taken over, and *out set, if 0 is returned; else -errno with one log line. out may be &below. */
int disk_overlay_create(struct disk_layer **out, struct disk_layer *below, int fd, bool anonymous);
/* The overlay that is in fd; it must have been made on `below`. name: for messages. Otherwise as above. */
int disk_overlay_open(struct disk_layer **out, struct disk_layer *below, int fd, const char *name, bool read_only);
/* Gives back the layer below and forgets the overlay. */
struct disk_layer *disk_overlay_detach(struct disk_layer *l);

/* All that the overlay below l has and l does not comes into l, while others read and write; then l's file says so: from now on it may stand on the layer below
 * that one, too. Whatever happens meanwhile, both together hold what they held. fd: l's file, open for writing, taken over. *cancel: becomes true when it shall end
 * early. 0, -ECANCELED, or -errno. */
int disk_overlay_absorb(struct disk_layer *l, int fd, const bool *cancel);
/* Forgets the overlay below l, which l has absorbed. Nothing may be in flight. */
void disk_overlay_skip(struct disk_layer *l);

/* Locks an open image against other VMs: shared for readers, else exclusive. with_qemu: against QEMU's programs too. -EAGAIN: in use. */
int disk_lock(int fd, bool read_only, bool with_qemu);

/* The bytes [skip, skip + len) of a vector; returns how many pieces. out has room for n. */
int disk_iov_slice(struct iovec *out, const struct iovec *iov, int n, u64 skip, u64 len);

#endif
