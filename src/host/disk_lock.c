/* An image belongs to one VM that writes, or to several that read. Two locks say so: flock() among VMs of ours, and the byte
 * locks by which QEMU's programs tell each other what they do with an image. Of the latter: byte 100 + n is read-locked by who uses
 * permission n, byte 200 + n by who does not let others use it; who comes second looks whether its wishes meet a lock. Permissions: 0
 * consistent reads, 1 writes, 3 resizing. Not here: images that qemu-storage-daemon opens; it takes its byte locks itself. */
#include "host/disk_layer.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

enum { USED = 100, REFUSED = 200, PERM_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3 };

static int byte_lock(int fd, off_t at)
{
	struct flock l = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

	return fcntl(fd, F_OFD_SETLK, &l) < 0 ? -errno : 0;
}

static bool others_hold(int fd, off_t at)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

	return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

/* A file system without such locks is no reason to refuse the image: flock() has succeeded. */
static int lock_bytes(int fd, bool read_only)
{
	const off_t take[] = { USED + PERM_READ, REFUSED + PERM_WRITE, REFUSED + PERM_RESIZE, USED + PERM_WRITE };
	const off_t meet[] = { REFUSED + PERM_READ, USED + PERM_WRITE, USED + PERM_RESIZE, REFUSED + PERM_WRITE };
	unsigned n = array_len(take) - read_only;

	/* Our own locks are no obstacle: they are on the same open file. */
	for (unsigned i = 0; i < n; i++)
		if (byte_lock(fd, take[i]) == -EAGAIN)
			return -EAGAIN;
	for (unsigned i = 0; i < n; i++)
		if (others_hold(fd, meet[i]))
			return -EAGAIN;
	return 0;
}

int disk_lock(int fd, bool read_only, bool with_qemu)
{
	if (flock(fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EAGAIN : -errno;
	return with_qemu ? lock_bytes(fd, read_only) : 0;
}
