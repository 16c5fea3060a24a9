/* Raw disk images. */
#include "host/file.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int complain(struct file *f, int err, const char *path, const char *what)
{
	log_error("disk \"%s\": %s", path, what);
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	return -err;
}

static int check_kind(struct file *f, const char *path)
{
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return complain(f, errno, path, strerror(errno));
	if (S_ISREG(st.st_mode)) {
		f->size = (u64)st.st_size;
		return 0;
	}
	if (!S_ISBLK(st.st_mode))
		return complain(f, EINVAL, path, "is neither a regular file nor a block device");
	if (ioctl(f->fd, BLKGETSIZE64, &f->size) < 0)
		return complain(f, errno, path, strerror(errno));
	return 0;
}

int file_open_disk(struct file *f, const char *path, bool read_only)
{
	int err;

	*f = (struct file){ .fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK), .read_only = read_only };
	if (f->fd < 0) {
		err = errno;
		log_error("disk \"%s\": cannot open for %s: %s", path, read_only ? "reading" : "reading and writing", strerror(err));
		return -err;
	}
	err = check_kind(f, path);
	if (err)
		return err;
	if (f->size == 0)
		return complain(f, EINVAL, path, "is empty");
	if (f->size % FILE_SECTOR) {
		log_error("disk \"%s\": %llu bytes is not a multiple of %d", path, (unsigned long long)f->size, FILE_SECTOR);
		close(f->fd);
		f->fd = -1;
		return -EINVAL;
	}
	if (flock(f->fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0)
		return complain(f, errno, path, errno == EWOULDBLOCK ? "is in use by another VM or program" : strerror(errno));
	return 0;
}

void file_close(struct file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

/* Drops the first `done` bytes of the vector. */
static void iov_advance(struct iovec **iov, int *n, size_t done)
{
	while (*n > 0 && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (*n > 0) {
		(*iov)->iov_base = (u8 *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
}

typedef ssize_t (*transfer_fn)(int fd, const struct iovec *iov, int n, off_t at);

static int transfer(struct file *f, struct iovec *iov, int n, u64 at, transfer_fn fn)
{
	iov_advance(&iov, &n, 0);
	while (n > 0) {
		ssize_t done = fn(f->fd, iov, n < 1024 ? n : 1024, (off_t)at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (done == 0)
			return -EIO;
		at += (u64)done;
		iov_advance(&iov, &n, (size_t)done);
	}
	return 0;
}

int file_read(struct file *f, struct iovec *iov, int n, u64 at)
{
	return transfer(f, iov, n, at, preadv);
}

int file_write(struct file *f, struct iovec *iov, int n, u64 at)
{
	return f->read_only ? -EROFS : transfer(f, iov, n, at, pwritev);
}

int file_flush(struct file *f)
{
	return f->read_only || fdatasync(f->fd) == 0 ? 0 : -errno;
}

/* fallocate, or -EOPNOTSUPP once and for all if the file system cannot. */
static int try_fallocate(struct file *f, int mode, bool *refused, u64 at, u64 len)
{
	int r;

	if (__atomic_load_n(refused, __ATOMIC_RELAXED))
		return -EOPNOTSUPP;
	do
		r = fallocate(f->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len);
	while (r < 0 && errno == EINTR);
	if (r == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS && errno != ENODEV)
		return -errno;
	__atomic_store_n(refused, true, __ATOMIC_RELAXED);
	return -EOPNOTSUPP;
}

int file_discard(struct file *f, u64 at, u64 len)
{
	int err;

	if (f->read_only)
		return -EROFS;
	err = try_fallocate(f, FALLOC_FL_PUNCH_HOLE, &f->no_punch, at, len);
	return err == -EOPNOTSUPP ? 0 : err;
}

static int write_zero_blocks(struct file *f, u64 at, u64 len)
{
	static const u8 zeros[65536];
	int err = 0;

	while (len > 0 && !err) {
		struct iovec iov = { (void *)zeros, min_u64(len, sizeof(zeros)) };
		u64 n = iov.iov_len;

		err = file_write(f, &iov, 1, at);
		at += n;
		len -= n;
	}
	return err;
}

int file_write_zeros(struct file *f, u64 at, u64 len, bool unmap)
{
	int err = -EOPNOTSUPP;

	if (f->read_only)
		return -EROFS;
	if (unmap)
		err = try_fallocate(f, FALLOC_FL_PUNCH_HOLE, &f->no_punch, at, len);
	if (err == -EOPNOTSUPP)
		err = try_fallocate(f, FALLOC_FL_ZERO_RANGE, &f->no_zero_range, at, len);
	return err == -EOPNOTSUPP ? write_zero_blocks(f, at, len) : err;
}
