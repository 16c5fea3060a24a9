/* Transfers to and from files that are open already. Failures travel as negative errno. Not here: opening and image formats (disk.h). */
#ifndef NB_HOST_FILE_H
#define NB_HOST_FILE_H

#include "base/base.h"
#include <sys/uio.h>

#define FILE_SECTOR 512

struct file {
	int fd;
	u64 size; /* bytes, a multiple of FILE_SECTOR; fixed while open */
	bool read_only;
	bool no_punch, no_zero_range, no_nowait; /* the file system refused once; atomic hints */
	bool local;       /* file_learn: its writes go to this host's page cache */
	u64 write_not_before; /* atomic, as the next; when file_write_at_once may try again, ns */
	u32 watch;        /* so many of its writes are looked at closely */
};

/* Fills in what the calls below want to know of an open file: needs fstatfs, and may be left out. */
void file_learn(struct file *f);
void file_close(struct file *f);

/* Transfer all of iov at byte offset `at`. 0 or -errno; a file that has become too short is -EIO. iov is changed.
 * Any thread. */
int file_read(struct file *f, struct iovec *iov, int n, u64 at);
int file_write(struct file *f, struct iovec *iov, int n, u64 at);
/* As file_write; the data is on stable storage afterwards. */
int file_write_through(struct file *f, struct iovec *iov, int n, u64 at);
/* Reads len bytes, the whole of iov, if they need not be waited for. 0, or -EAGAIN: then iov's content is undefined. */
int file_read_at_once(struct file *f, const struct iovec *iov, int n, u64 at, u64 len);
/* Writes len bytes, the whole of iov, if they will soon be in the page cache, as far as one can know. 0, or -EAGAIN: then part of them may have
 * been written. */
int file_write_at_once(struct file *f, const struct iovec *iov, int n, u64 at, u64 len);
/* Data of all earlier writes is on stable storage. */
int file_flush(struct file *f);
/* The range's content no longer matters; may do nothing. */
int file_discard(struct file *f, u64 at, u64 len);
/* The range reads as zeros afterwards; unmap: space may be freed. */
int file_write_zeros(struct file *f, u64 at, u64 len, bool unmap);

#endif
