/* Transfers to and from open files. */
#include "host/file.h"
#include "host/time.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

void file_learn(struct file *f)
{
	/* No network file system and no block device, whose page cache can be as slow as what is behind it. */
	static const u32 local[] = { EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC };
	struct statfs s;

	if (fstatfs(f->fd, &s))
		return;
	for (unsigned i = 0; i < array_len(local); i++)
		f->local |= (u32)s.f_type == local[i];
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

typedef ssize_t (*transfer_fn)(int fd, const struct iovec *iov, int n, off_t at, int flags);

static int transfer(struct file *f, struct iovec *iov, int n, u64 at, transfer_fn fn, int flags)
{
	iov_advance(&iov, &n, 0);
	while (n > 0) {
		ssize_t done = fn(f->fd, iov, n < 1024 ? n : 1024, (off_t)at, flags);

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
	return transfer(f, iov, n, at, preadv2, 0);
}

int file_write(struct file *f, struct iovec *iov, int n, u64 at)
{
	return f->read_only ? -EROFS : transfer(f, iov, n, at, pwritev2, 0);
}

int file_write_through(struct file *f, struct iovec *iov, int n, u64 at)
{
	return f->read_only ? -EROFS : transfer(f, iov, n, at, pwritev2, RWF_DSYNC);
}

/* Part of the data may be in the page cache: then all of it is read again, in the ordinary way. */
int file_read_at_once(struct file *f, const struct iovec *iov, int n, u64 at, u64 len)
{
	ssize_t got;

	if (__atomic_load_n(&f->no_nowait, __ATOMIC_RELAXED))
		return -EAGAIN;
	got = preadv2(f->fd, iov, n, (off_t)at, RWF_NOWAIT);
	if (got < 0 && errno != EAGAIN && errno != EINTR)
		__atomic_store_n(&f->no_nowait, true, __ATOMIC_RELAXED);
	return got == (ssize_t)len ? 0 : -EAGAIN;
}

/* How often this thread has waited. */
static u64 sleeps(void)
{
	struct rusage u;

	return getrusage(RUSAGE_THREAD, &u) ? 0 : (u64)u.ru_nvcsw;
}

/* RWF_NOWAIT is no help: ext4 refuses it for buffered writes. But such a write waits for nothing unless the kernel holds back who dirties too much.
 * One that took long may only have lost its CPU to another thread; so the next ones are watched (which costs 1 us each), and after one that slept there
 * is none for a hundred times as long. */
int file_write_at_once(struct file *f, const struct iovec *iov, int n, u64 at, u64 len)
{
	enum { LONG_NS = 1000000, WATCH = 64, PAUSE = 100 };
	u32 watch = __atomic_load_n(&f->watch, __ATOMIC_RELAXED);
	u64 begin, took, slept;
	ssize_t done;

	if (!f->local || f->read_only)
		return -EAGAIN;
	begin = host_now_ns();
	if (begin < __atomic_load_n(&f->write_not_before, __ATOMIC_RELAXED))
		return -EAGAIN;
	slept = watch ? sleeps() : 0;
	done = pwritev2(f->fd, iov, n, (off_t)at, 0);
	took = host_now_ns() - begin;
	if (watch && took > LONG_NS && sleeps() > slept)
		__atomic_store_n(&f->write_not_before, begin + took * PAUSE, __ATOMIC_RELAXED);
	if (watch || took > LONG_NS)
		__atomic_store_n(&f->watch, took > LONG_NS ? WATCH : watch - 1, __ATOMIC_RELAXED);
	return done == (ssize_t)len ? 0 : -EAGAIN;
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
