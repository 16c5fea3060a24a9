/* Raw disk images and other files that the user named. Failures travel as negative errno; file_open_disk logs one
 * line that names the file and what to do. Not here: image formats. */
#ifndef NB_HOST_FILE_H
#define NB_HOST_FILE_H

#include "base/base.h"
#include <sys/uio.h>

#define FILE_SECTOR 512

struct file {
	int fd;
	u64 size; /* bytes, a multiple of FILE_SECTOR; fixed while open */
	bool read_only;
	bool no_punch, no_zero_range; /* the file system refused once; atomic hints */
};

/* Opens a raw image (regular file or block device) and locks it: shared for read_only, else exclusive. 0 or -errno
 * with one log line. */
int file_open_disk(struct file *f, const char *path, bool read_only);
void file_close(struct file *f);

/* Transfer all of iov at byte offset `at`. 0 or -errno; a file that has become too short is -EIO. iov is changed.
 * Any thread. */
int file_read(struct file *f, struct iovec *iov, int n, u64 at);
int file_write(struct file *f, struct iovec *iov, int n, u64 at);
/* Data of all earlier writes is on stable storage. */
int file_flush(struct file *f);
/* The range's content no longer matters; may do nothing. */
int file_discard(struct file *f, u64 at, u64 len);
/* The range reads as zeros afterwards; unmap: space may be freed. */
int file_write_zeros(struct file *f, u64 at, u64 len, bool unmap);

#endif
