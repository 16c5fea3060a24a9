/* Snapshots of a machine: files that hold its state and memory, made while it runs and loaded while it runs. Not here: which files belong to which VM
 * and to which checkpoint (ctl/, cli/), disks (host/disk.h). Surprise: neither making nor loading one waits for memory: pages are copied when the
 * guest is about to change them, and brought in when it touches them. */
#ifndef NB_SNAPSHOT_H
#define NB_SNAPSHOT_H

#include "migrate/snap_format.h"
#include "vm/vm.h"

/* ---- files (snap_file.c) ---- */

#define SNAP_MAX_CHAIN 64

/* An open snapshot whose every byte, and every byte of its parents, has been checked. */
struct snap_file;

/* Opens what stands at path; parents lie in the same folder. 0, or -errno with one log line that names the file and, for a damaged one, the offset. */
int snap_open(struct snap_file **out, const char *path);
/* The same for a descriptor (taken over, also on failure). open_parent: a descriptor, or -errno. name: for messages. */
int snap_open_fd(struct snap_file **out, const char *name, int fd, int (*open_parent)(void *opaque, const char *name), void *opaque);
void snap_close(struct snap_file *f);
/* Only what the file says of itself, without looking at its pages. 0, or -errno without a log line. */
int snap_peek(const char *path, struct snap_header *h, struct snap_meta *m);

const struct snap_meta *snap_get_meta(const struct snap_file *f);
const struct snap_header *snap_get_header(const struct snap_file *f);
unsigned snap_chain(const struct snap_file *f);   /* how many files: 1 without a parent */
u64 snap_bytes(const struct snap_file *f);        /* of all of them */
/* Whether the frame has content; if not it is zero. */
bool snap_has_page(const struct snap_file *f, u64 frame);
/* Unpacks the chunk that holds the frame's content and calls put for each page that comes from it. scratch is the caller's (one per thread).
 * 0 or -errno with one log line: the file has changed since it was checked. */
struct snap_scratch;
struct snap_scratch *snap_scratch_create(void);
void snap_scratch_free(struct snap_scratch *s);
int snap_read_chunk(struct snap_file *f, struct snap_scratch *s, u64 frame, int (*put)(void *opaque, u64 frame, const u8 *page), void *opaque);
/* The state section, unpacked: what vm_save_state wrote. Free with state_buf_free. */
int snap_read_state(struct snap_file *f, struct state_buf *b);

/* ---- of a machine (save.c, load.c) ---- */

/* What was made. */
struct snap_result {
	int err;              /* 0, or -errno (logged) */
	u8 id[16];
	bool incremental;
	u64 pause_ns;         /* how long the guest stood still */
	u64 write_ns;         /* until all was on disk */
	u64 file_bytes, data_pages, zero_pages, kept_pages; /* kept: copied because the guest was about to write them */
};

struct snap_request {
	int fd;               /* empty file, readable and writable; taken over */
	const char *name;     /* what people call it, at most 127 bytes */
	const char *file;     /* the file's own name, by which later snapshots find it as their parent */
	bool full;            /* do not stand on the one before */
	/* While the vCPUs are paused and devices still: freezes the disks. 0 or -errno (logged): no snapshot then. May be NULL. */
	int (*paused)(void *opaque);
	/* From the writing thread when all is done; the VM runs on whatever the result. May be NULL. */
	void (*done)(void *opaque, const struct snap_result *r);
	void *opaque;
};

/* Per VM. */
struct snapshots;
struct snapshots *snapshots_create(struct vm *vm);
/* After vm_stop, before vm_destroy; waits for what is being written. NULL is fine. */
void snapshots_destroy(struct snapshots *s);

/* Pauses the machine, starts a snapshot, lets the machine go on as it was (paused, if the caller had paused it) and writes in the background. 0, or
 * -errno with one log line (-EBUSY: one is being written): done is not called then, and nothing has changed. Not from a vCPU thread. */
int snapshots_start(struct snapshots *s, const struct snap_request *rq);
/* Waits until nothing is being written. */
void snapshots_wait(struct snapshots *s);
bool snapshots_busy(struct snapshots *s);
/* What the machine's memory has evolved from, as the next snapshot would name it: false, there is none (the next one is a full one). */
bool snapshots_base(struct snapshots *s, u8 id[16], char file[128]);
/* The base is no longer to be stood on: its file goes away. */
void snapshots_forget_base(struct snapshots *s);

/* Puts the machine into f's state (f is taken over, also on failure). The machine is paused, or not started yet. image: -1, or a file for sharing
 * memory with other machines that load the same f (docs/formats/snapshot.md; taken over). 0, or -errno with one log line: then nothing has
 * changed, unless *half is set (the host failed in the middle: end the machine). name: the file's own name, as in snap_request. */
int snapshots_load(struct snapshots *s, struct snap_file *f, const char *name, int image, bool *half);
/* Before the machine starts and the sandbox closes: snapshots_load of the file at path, with an image at share (NULL: none; made if it does not
 * exist). 0 or -errno with one log line. */
int snapshots_restore(struct snapshots *s, const char *path, const char *share);
/* Pages that have not been brought in yet. */
u64 snapshots_absent(struct snapshots *s);

#endif
