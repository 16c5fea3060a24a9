/* A folder of the host served to the guest: the FUSE server behind a virtio-fs device. It is a process of its own, which may touch files while the VM
 * process may not; it sees the guest's memory (the mapping is inherited) and one folder. Not here: the device (virtio/virtio_fs.h). Surprise: names never
 * become paths. Every file is found by one name inside an open folder, never following a symbolic link, so that there is no way out of the shared folder. */
#ifndef NB_SHARE_H
#define NB_SHARE_H

#include "base/base.h"

struct share_config {
	const char *path;
	bool read_only;
	unsigned cache_s;  /* how long the guest may believe what it has seen of names and attributes; 0: 1 s */
};

/* One request of the guest, as it goes over the socket: `nout` pieces to read, then `nin` to write, at these addresses of the VM process. */
enum { SHARE_MAX_SEGS = 256 };
struct share_seg {
	u64 addr;
	u64 len;
};
struct share_request {
	u32 id;
	u16 nout, nin;
	struct share_seg seg[SHARE_MAX_SEGS];
};
struct share_reply {
	u32 id, written; /* bytes, from the first piece to write on */
};

/* Starts the server: a descriptor of a seqpacket socket that takes the first bytes of a struct share_request up to its last piece, and gives a struct
 * share_reply for each; closing it ends the server. -errno with one log line. Before the sandbox closes, after the guest's memory was mapped. */
int share_start(const struct share_config *cfg);
/* What the server does, in this process: for tests. Returns when the other end of fd has closed. */
int share_serve(const struct share_config *cfg, int fd, bool confine);

#endif
