/* FUSE operations on names and attributes. */
#include "share/server.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/vfs.h>
#include <unistd.h>

/* The node that the request is about. */
static struct node *self(struct server *s, const struct request *r) { return node_get(s, r->h->nodeid); }

static int answer_entry(struct server *s, struct request *r, u64 parent, const char *name)
{
	struct fuse_entry_out e;
	int err = node_lookup(s, parent, name, &e);
	void *to = err ? NULL : reply_add(r, sizeof e);
	if (to)
		memcpy(to, &e, sizeof e);
	return err;
}

static int answer_attr(struct server *s, struct request *r, int fd)
{
	struct fuse_attr_out out = { .attr_valid = s->cfg.cache_s };
	struct stat st;
	if (fstat(fd, &st))
		return -errno;
	attr_fill(s, &out.attr, &st);
	memcpy(reply_add(r, sizeof out), &out, sizeof out);
	return 0;
}

int share_init(struct server *s, struct request *r)
{
	const struct fuse_init_in *in = (const void *)r->arg;
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_readahead = in->max_readahead, .max_background = 64,
		.congestion_threshold = 48, .max_write = MAX_READ, .time_gran = 1, .max_pages = MAX_READ / 4096 };
	if (in->major < 7)
		return -EPROTO;
	nodes_clear(s); /* a new driver: what the old one knew is gone */
	out.flags = in->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ATOMIC_O_TRUNC | FUSE_AUTO_INVAL_DATA | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
				 FUSE_CACHE_SYMLINKS | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO);
	memcpy(reply_add(r, sizeof out), &out, sizeof out);
	return 0;
}

int share_destroy(struct server *s, struct request *r)
{
	nodes_clear(s);
	return 0;
}

int share_interrupt(struct server *s, struct request *r)
{
	r->silent = true; /* everything is answered at once */
	return 0;
}

int share_lookup(struct server *s, struct request *r)
{
	const char *name = request_name(r, 0);
	int err = name ? answer_entry(s, r, r->h->nodeid, name) : -EINVAL;
	if (err == -ENOENT && s->cfg.cache_s > 1) { /* the guest may remember that there is no such file */
		*(struct fuse_entry_out *)reply_add(r, sizeof(struct fuse_entry_out)) = (struct fuse_entry_out){ .entry_valid = s->cfg.cache_s };
		return 0;
	}
	return err;
}

int share_forget(struct server *s, struct request *r)
{
	r->silent = true;
	node_forget(s, r->h->nodeid, load_le(r->arg, 8));
	return 0;
}

int op_batch_forget(struct server *s, struct request *r)
{
	const struct fuse_batch_forget_in *in = (const void *)r->arg;
	const struct fuse_forget_one *one = (const void *)(r->arg + sizeof *in);
	r->silent = true;
	for (u64 i = 0; i < in->count && sizeof *in + (i + 1) * sizeof *one <= r->len; i++)
		node_forget(s, one[i].nodeid, one[i].nlookup);
	return 0;
}

int share_getattr(struct server *s, struct request *r)
{
	const struct fuse_getattr_in *in = (const void *)r->arg;
	struct node *n = self(s, r);
	int fd = in->getattr_flags & FUSE_GETATTR_FH ? handle_get(s, in->fh) : -1;
	if (!n)
		return -ESTALE;
	return answer_attr(s, r, fd >= 0 ? fd : n->fd);
}

int share_readlink(struct server *s, struct request *r)
{
	struct node *n = self(s, r);
	ssize_t len = n ? readlinkat(n->fd, "", (char *)r->reply, 4096) : -1;
	if (len < 0)
		return n ? -errno : -ESTALE;
	r->reply_len = (size_t)len;
	return 0;
}

int share_statfs(struct server *s, struct request *r)
{
	struct node *n = self(s, r);
	struct fuse_statfs_out out = { 0 };
	struct statfs fs;
	if (!n || fstatfs(n->fd, &fs))
		return n ? -errno : -ESTALE;
	out.st = (struct fuse_kstatfs){ .blocks = fs.f_blocks, .bfree = fs.f_bfree, .bavail = fs.f_bavail, .files = fs.f_files, .ffree = fs.f_ffree,
		.bsize = (u32)fs.f_bsize, .namelen = (u32)fs.f_namelen, .frsize = (u32)fs.f_frsize };
	memcpy(reply_add(r, sizeof out), &out, sizeof out);
	return 0;
}

/* ---- attributes ---- */
/* The guest cannot leave programs on the host that run as their owner. */
static mode_t allowed_mode(const struct node *n, u32 mode) { return mode & (n->type == S_IFREG ? 01777 : 07777); }

static int set_times(struct server *s, const struct node *n, const struct fuse_setattr_in *in)
{
	char name[16];
	struct timespec t[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_OMIT } };
	if (in->valid & FATTR_ATIME)
		t[0] = (struct timespec){ (time_t)in->atime, in->valid & FATTR_ATIME_NOW ? UTIME_NOW : (long)(in->atimensec % NSEC_PER_SEC) };
	if (in->valid & FATTR_MTIME)
		t[1] = (struct timespec){ (time_t)in->mtime, in->valid & FATTR_MTIME_NOW ? UTIME_NOW : (long)(in->mtimensec % NSEC_PER_SEC) };
	int r = n->type == S_IFLNK ? utimensat(n->fd, "", t, AT_EMPTY_PATH) : utimensat(s->proc, node_proc_name(n, name), t, 0);
	return r ? -errno : 0;
}

static int set_size(struct server *s, const struct node *n, const struct fuse_setattr_in *in)
{
	int fd = in->valid & FATTR_FH ? handle_get(s, in->fh) : -EBADF, own = -1;
	if (n->type != S_IFREG)
		return -EINVAL;
	if (fd < 0 || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
		fd = own = node_open(s, n, O_WRONLY);
	int err = fd < 0 ? fd : ftruncate(fd, (off_t)in->size) ? -errno : 0;
	if (own >= 0)
		close(own);
	return err;
}

int share_setattr(struct server *s, struct request *r)
{
	const struct fuse_setattr_in *in = (const void *)r->arg;
	struct node *n = self(s, r);
	char name[16];
	int err = n ? 0 : -ESTALE;
	if (!err && (in->valid & FATTR_MODE) && fchmodat(s->proc, node_proc_name(n, name), n->type == S_IFLNK ? 0777 : allowed_mode(n, in->mode), 0))
		err = -errno;
	if (!err && (in->valid & (FATTR_UID | FATTR_GID)) &&
	    fchownat(n->fd, "", in->valid & FATTR_UID ? in->uid : (uid_t)-1, in->valid & FATTR_GID ? in->gid : (gid_t)-1, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
		err = -errno;
	if (!err && (in->valid & FATTR_SIZE))
		err = set_size(s, n, in);
	if (!err && (in->valid & (FATTR_ATIME | FATTR_MTIME)))
		err = set_times(s, n, in);
	return err ? err : answer_attr(s, r, n->fd);
}

/* ---- new and vanishing names ---- */
static int made(struct server *s, struct request *r, int result, const char *name) { return result < 0 ? -errno : answer_entry(s, r, r->h->nodeid, name); }

int share_symlink(struct server *s, struct request *r)
{
	struct node *n = self(s, r);
	const char *name = request_name(r, 0), *target = name ? name + strlen(name) + 1 : NULL;
	if (!n || !name)
		return n ? -EINVAL : -ESTALE;
	size_t room = r->len - (size_t)((const u8 *)target - r->arg);
	if ((const u8 *)target >= r->arg + r->len || strnlen(target, room) == room)
		return -EINVAL;
	return made(s, r, symlinkat(target, n->fd, name), name);
}

/* No devices: those of the host are not the guest's to make. */
int share_mknod(struct server *s, struct request *r)
{
	const struct fuse_mknod_in *in = (const void *)r->arg;
	struct node *n = self(s, r);
	const char *name = request_name(r, sizeof *in);
	u32 type = in->mode & S_IFMT;
	if (!n || !name)
		return n ? -EINVAL : -ESTALE;
	if (type && type != S_IFREG && type != S_IFIFO && type != S_IFSOCK)
		return -EPERM;
	return made(s, r, mknodat(n->fd, name, in->mode & (S_IFMT | 01777), 0), name);
}

int share_mkdir(struct server *s, struct request *r)
{
	const struct fuse_mkdir_in *in = (const void *)r->arg;
	struct node *n = self(s, r);
	const char *name = request_name(r, sizeof *in);
	if (!n || !name)
		return n ? -EINVAL : -ESTALE;
	return made(s, r, mkdirat(n->fd, name, in->mode & 07777), name);
}

static int remove_name(struct server *s, struct request *r, int flags)
{
	struct node *n = self(s, r);
	const char *name = request_name(r, 0);
	if (!n || !name)
		return n ? -EINVAL : -ESTALE;
	return unlinkat(n->fd, name, flags) ? -errno : 0;
}

int share_unlink(struct server *s, struct request *r) { return remove_name(s, r, 0); }
int share_rmdir(struct server *s, struct request *r) { return remove_name(s, r, AT_REMOVEDIR); }

static int rename_names(struct server *s, struct request *r, u64 newdir, size_t names, unsigned flags)
{
	struct node *from = self(s, r), *to = node_get(s, newdir);
	const char *old = request_name(r, names), *new = old ? request_name(r, (size_t)((const u8 *)old - r->arg) + strlen(old) + 1) : NULL;
	if (!from || !to || !new)
		return from && to ? -EINVAL : -ESTALE;
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	return renameat2(from->fd, old, to->fd, new, flags) ? -errno : 0;
}

int share_rename(struct server *s, struct request *r)
{
	const struct fuse_rename_in *in = (const void *)r->arg;
	return rename_names(s, r, in->newdir, sizeof *in, 0);
}

int op_rename2(struct server *s, struct request *r)
{
	const struct fuse_rename2_in *in = (const void *)r->arg;
	return rename_names(s, r, in->newdir, sizeof *in, in->flags);
}

int share_link(struct server *s, struct request *r)
{
	const struct fuse_link_in *in = (const void *)r->arg;
	struct node *dir = self(s, r), *old = node_get(s, in->oldnodeid);
	const char *name = request_name(r, sizeof *in);
	char proc[16];
	if (!dir || !old || !name)
		return dir && old ? -EINVAL : -ESTALE;
	return made(s, r, linkat(s->proc, node_proc_name(old, proc), dir->fd, name, AT_SYMLINK_FOLLOW), name);
}
