/* A VM's disk: requests in, completions out, whatever the image is. Beneath it lies a stack of layers (disk_layer.h): a
 * raw file (by ourselves), an image of another format (through qemu-storage-daemon), and overlays that take the writes
 * (snapshot=on, checkpoints). Not here: what the guest sees (virtio-blk, NVMe, AHCI).
 *
 * Contract: requests are done by worker threads, several at once, in no order. A driver must not rely on the order of two
 * requests in flight, as with any disk. What a completed flush covers (all writes completed before it was submitted) is on
 * stable storage. Writes that have not been flushed may be lost when the host loses power, not when this process dies.
 * Surprise: with on-error=pause a request that the host failed is not completed: it is held, and done again after
 * disk_retry(). */
#ifndef NB_HOST_DISK_H
#define NB_HOST_DISK_H

#include "base/base.h"
#include <sys/uio.h>

enum { DISK_SECTOR = 512, DISK_SERIAL_MAX = 20, DISK_MAX_LAYERS = 128 };

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };

/* One request, owned by the caller from disk_submit() until done() is called. */
struct disk_request {
	enum disk_op op;
	bool unmap;           /* DISK_WRITE_ZEROES: the space may be freed */
	bool fua;             /* DISK_WRITE, DISK_WRITE_ZEROES: on stable storage before done() */
	u64 at, len;          /* bytes, multiples of DISK_SECTOR inside the disk, except for a flush */
	struct iovec *iov;    /* DISK_READ, DISK_WRITE: len bytes in all; the vector is left as it was */
	int niov;
	/* Called once, from a worker thread that holds no lock. err: 0, or -errno; a failed read may have changed the buffers, a
	 * failed write may have written part. */
	void (*done)(struct disk_request *r, int err);
	void *owner;          /* whose request it is, for disk_cancel() */
	/* The disk's own: */
	struct disk_request *next;
	int error;            /* why it is held */
};

enum disk_bus { DISK_BUS_VIRTIO, DISK_BUS_NVME, DISK_BUS_AHCI };
enum disk_on_error { DISK_ERROR_REPORT, DISK_ERROR_PAUSE };

/* What the user said after --disk. */
struct disk_spec {
	char path[4096];
	char format[16];      /* "auto", "raw", or a name that qemu-storage-daemon knows */
	enum disk_bus bus;
	enum disk_on_error on_error;
	bool read_only, snapshot;
	char serial[DISK_SERIAL_MAX + 1]; /* empty: the caller's choice */
	/* Overlay files on top of path, lowest first (docs/formats/overlay.md); the last one takes the writes. */
	char *overlays[DISK_MAX_LAYERS];
	unsigned noverlays;
};

/* "FILE", "FILE:ro" or "FILE,key=value,...". 0, or -EINVAL with one log line that names the word. A comma in the file's name
 * is written twice. */
int disk_spec_parse(struct disk_spec *s, const char *text);
void disk_spec_free(struct disk_spec *s);

struct disk_counters { u64 reads, writes, flushes, discards, read_bytes, write_bytes, errors; };

struct disk;

/* Opens and locks the image (and starts the program that reads it, where it is not raw): before the sandbox closes. 0, or
 * -errno with one log line. The spec is copied. */
int disk_open(struct disk **out, const struct disk_spec *s);
/* Nothing may be in flight. Flushes, ends the helper program. NULL is fine. */
void disk_close(struct disk *d);

u64 disk_size(const struct disk *d);       /* bytes, a multiple of DISK_SECTOR; fixed */
bool disk_read_only(const struct disk *d);
bool disk_needs_server(const struct disk *d); /* the sandbox must keep SANDBOX_DISK_SERVER */
const struct disk_spec *disk_get_spec(const struct disk *d);

/* Hands a request over; never blocks. A request that makes no sense (beyond the end, odd) fails with -EINVAL through done(). Any
 * thread, also under bus->lock. */
void disk_submit(struct disk *d, struct disk_request *r);
/* Does a read or a write of moderate size at once if that needs no waiting (the page cache has it, or takes it): true, all is well, and done()
 * is not called. Else false, and the request can be submitted. */
bool disk_at_once(struct disk *d, struct disk_request *r);
/* Takes back all of owner's requests that have not begun (held ones too). Returns them as a list by ->next; done() is not called for
 * them. Those that have begun complete as ever. */
struct disk_request *disk_cancel(struct disk *d, void *owner);

/* ---- errors: on-error=pause ---- */
/* Called (once until disk_retry) from a worker thread when a request is held: the VM shall pause. text: one sentence. */
void disk_set_pause(struct disk *d, void (*pause)(void *opaque, struct disk *d, const char *text), void *opaque);
/* Does all held requests again: the VM goes on. */
void disk_retry(struct disk *d);
/* How many of the requests of owner are held. */
unsigned disk_held(struct disk *d, void *owner);

/* While on, no request begins, whatever the guest submits. Any thread. */
void disk_wait(struct disk *d, bool on);

/* ---- checkpoints. Only while nothing is in flight (after dev_list_quiesce, vCPUs paused). ---- */
/* Flushes, then all further writes go to a new overlay in fd (an empty file, opened for reading and writing; taken over). What is
 * below stays as it is from now on. 0 or -errno with one log line; then nothing has changed. */
int disk_freeze(struct disk *d, int fd);
/* Throws away all layers above the image itself and takes these overlays instead, lowest first (fds taken over, also on failure; the
 * last one takes the writes). An overlay whose parent is another one than the layer below is refused, and nothing has changed. */
int disk_set_overlays(struct disk *d, const int *fd, unsigned n);
/* The overlay number n (0 is the lowest), good until disk_set_overlays; NULL: there is none. */
struct disk_layer;
struct disk_layer *disk_overlay_number(struct disk *d, unsigned n);
/* An overlay absorbs the one below it, as disk_overlay_absorb in disk_layer.h says. Any thread, beside requests and disk_freeze. fd: its file, open for writing; taken over. Then
 * disk_skip with its number, while nothing is in flight, takes the one below out of the stack. */
int disk_absorb(struct disk_layer *upper, int fd, const bool *cancel);
void disk_skip(struct disk *d, unsigned upper);
/* The same for overlay files that no disk uses. base: what `below` stands on, -1 for the image. Descriptors stay the caller's; upper must be writable. */
int disk_overlay_absorb_files(int base, int below, int upper, const bool *cancel);
/* How many overlays lie above the image. */
unsigned disk_overlays(const struct disk *d);

void disk_get_counters(struct disk *d, struct disk_counters *c);

#endif
