/* FUSE operations on open files. */
#include "share/server.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

/* What of the guest's open flags is for the host. Not O_APPEND: the guest says where each write goes. */
enum { PASSED = O_ACCMODE | O_TRUNC | O_DSYNC | O_SYNC };

static int answer_open(struct server *s, struct request *r, int fd)
{
	struct fuse_open_out out = { .open_flags = s->cfg.cache_s > 1 ? FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR : 0 };
	int err = handle_add(s, fd, &out.fh);
	if (!err)
		memcpy(reply_add(r, sizeof out), &out, sizeof out);
	return err;
}

static bool wants_to_write(u32 flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC); }

int share_open(struct server *s, struct request *r)
{
	const struct fuse_open_in *in = (const void *)r->arg;
	struct node *n = node_get(s, r->h->nodeid);
	if (!n)
		return -ESTALE;
	if (s->cfg.read_only && wants_to_write(in->flags))
		return -EROFS;
	if (n->type != S_IFREG)
		return n->type == S_IFDIR ? -EISDIR : -ENXIO;
	int fd = node_open(s, n, (int)in->flags & PASSED);
	return fd < 0 ? fd : answer_open(s, r, fd);
}

int share_opendir(struct server *s, struct request *r)
{
	struct node *n = node_get(s, r->h->nodeid);
	int fd = !n ? -ESTALE : n->type != S_IFDIR ? -ENOTDIR : node_open(s, n, O_RDONLY | O_DIRECTORY);
	return fd < 0 ? fd : answer_open(s, r, fd);
}

int share_create(struct server *s, struct request *r)
{
	const struct fuse_create_in *in = (const void *)r->arg;
	struct node *dir = node_get(s, r->h->nodeid);
	const char *name = request_name(r, sizeof *in);
	struct fuse_entry_out e;
	struct stat st;
	if (!dir || !name)
		return dir ? -EINVAL : -ESTALE;
	int fd = openat(dir->fd, name, ((int)in->flags & (PASSED | O_EXCL)) | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, in->mode & 01777);
	if (fd < 0)
		return -errno;
	int err = fstat(fd, &st) ? -errno : S_ISREG(st.st_mode) ? node_lookup(s, r->h->nodeid, name, &e) : -ENXIO;
	if (!err && node_get(s, e.nodeid)->ino != st.st_ino) { /* somebody on the host has put another file there meanwhile */
		node_forget(s, e.nodeid, 1);
		err = -ESTALE;
	}
	if (err) {
		close(fd);
		return err;
	}
	memcpy(reply_add(r, sizeof e), &e, sizeof e);
	err = answer_open(s, r, fd);
	if (err)
		node_forget(s, e.nodeid, 1);
	return err;
}

int share_release(struct server *s, struct request *r)
{
	handle_close(s, ((const struct fuse_release_in *)(const void *)r->arg)->fh);
	return 0;
}

int share_read(struct server *s, struct request *r)
{
	const struct fuse_read_in *in = (const void *)r->arg;
	struct iovec iov[SHARE_MAX_SEGS];
	int fd = handle_get(s, in->fh);
	if (fd < 0)
		return fd;
	int n = request_iov(r, true, sizeof(struct fuse_out_header), min_u64(in->size, MAX_READ), iov);
	ssize_t done = preadv(fd, iov, n, (off_t)in->offset);
	if (done < 0)
		return -errno;
	r->direct = true;
	r->reply_len = (size_t)done;
	return 0;
}

int share_write(struct server *s, struct request *r)
{
	const struct fuse_write_in *in = (const void *)r->arg;
	struct fuse_write_out out = { 0 };
	struct iovec iov[SHARE_MAX_SEGS];
	int fd = handle_get(s, in->fh);
	if (fd < 0)
		return fd;
	int n = request_iov(r, false, sizeof *r->h + sizeof *in, min_u64(in->size, MAX_READ), iov);
	ssize_t done = pwritev(fd, iov, n, (off_t)in->offset);
	if (done < 0)
		return -errno;
	out.size = (u32)done;
	memcpy(reply_add(r, sizeof out), &out, sizeof out);
	return 0;
}

int share_fsync(struct server *s, struct request *r)
{
	const struct fuse_fsync_in *in = (const void *)r->arg;
	int fd = handle_get(s, in->fh);
	if (fd < 0)
		return fd;
	return (in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(fd) : fsync(fd)) ? -errno : 0;
}

int share_fallocate(struct server *s, struct request *r)
{
	const struct fuse_fallocate_in *in = (const void *)r->arg;
	int fd = handle_get(s, in->fh);
	if (fd < 0)
		return fd;
	if (in->mode & ~(u32)(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;
	return fallocate(fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) ? -errno : 0;
}

int share_lseek(struct server *s, struct request *r)
{
	const struct fuse_lseek_in *in = (const void *)r->arg;
	int fd = handle_get(s, in->fh);
	if (fd < 0)
		return fd;
	if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)
		return -EINVAL;
	off_t at = lseek(fd, (off_t)in->offset, (int)in->whence);
	if (at < 0)
		return -errno;
	((struct fuse_lseek_out *)reply_add(r, sizeof(struct fuse_lseek_out)))->offset = (u64)at;
	return 0;
}
