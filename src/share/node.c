/* Nodes (what the guest knows by number) and open files. */
#include "share/server.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { ROOT = FUSE_ROOT_ID, MAX_HANDLES = 65536 };

static u32 bucket(const struct server *s, u64 dev, u64 ino) { return (u32)((ino * 0x9e3779b97f4a7c15ull ^ dev * 0xff51afd7ed558ccdull) >> 32) & (s->nhash - 1); }

static int grow(struct server *s)
{
	u32 n = s->nnodes ? s->nnodes * 2 : 1024;
	struct node *more = realloc(s->node, n * sizeof *more);
	if (!more)
		return -ENOMEM;
	s->node = more;
	for (u32 i = s->nnodes; i < n; i++)
		s->node[i] = (struct node){ .fd = -1, .next = i + 1 < n ? i + 1 : 0 };
	s->free_node = s->nnodes ? s->nnodes : 2;
	s->nnodes = n;
	u32 *hash = realloc(s->hash, n * sizeof *hash);
	if (!hash)
		return -ENOMEM;
	s->hash = hash;
	s->nhash = n;
	memset(hash, 0, n * sizeof *hash);
	for (u32 i = 1; i < n; i++)
		if (s->node[i].fd >= 0) {
			u32 *b = &hash[bucket(s, s->node[i].dev, s->node[i].ino)];
			s->node[i].next = *b;
			*b = i;
		}
	return 0;
}

static void enter(struct server *s, u32 id, int fd, const struct stat *st)
{
	u32 *b = &s->hash[bucket(s, st->st_dev, st->st_ino)];
	s->node[id] = (struct node){ .fd = fd, .type = st->st_mode & S_IFMT, .dev = st->st_dev, .ino = st->st_ino, .generation = ++s->generation, .next = *b };
	*b = id;
}

int nodes_init(struct server *s)
{
	struct stat st;
	int err = grow(s), fd = open(s->cfg.path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (err || fd < 0 || fstat(fd, &st))
		return err ? err : -errno;
	enter(s, ROOT, fd, &st);
	s->node[ROOT].lookups = 1;
	return 0;
}

static void drop(struct server *s, u32 id)
{
	struct node *n = &s->node[id];
	u32 *p = &s->hash[bucket(s, n->dev, n->ino)];
	while (*p != id)
		p = &s->node[*p].next;
	*p = n->next;
	close(n->fd);
	*n = (struct node){ .fd = -1, .next = s->free_node };
	s->free_node = id;
}

void nodes_clear(struct server *s)
{
	for (u32 i = 2; i < s->nnodes; i++)
		if (s->node[i].fd >= 0)
			drop(s, i);
	for (u32 i = 0; i < s->nhandles; i++)
		handle_close(s, i);
}

struct node *node_get(struct server *s, u64 id) { return id > 0 && id < s->nnodes && s->node[id].fd >= 0 ? &s->node[id] : NULL; }

/* The guest has its own: what the kernel makes up is never shared. */
static bool is_shareable(int fd)
{
	static const long hidden[] = { PROC_SUPER_MAGIC, SYSFS_MAGIC, DEVPTS_SUPER_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC, BPF_FS_MAGIC,
		CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, 0x19800202 /* mqueue */, 0x62656570 /* configfs */, 0x6165676c /* pstore */, SELINUX_MAGIC };
	struct statfs fs;
	if (fstatfs(fd, &fs))
		return false;
	for (unsigned i = 0; i < array_len(hidden); i++)
		if ((long)fs.f_type == hidden[i])
			return false;
	return true;
}

static u32 find(const struct server *s, const struct stat *st)
{
	u32 id = s->hash[bucket(s, st->st_dev, st->st_ino)];
	while (id && (s->node[id].dev != st->st_dev || s->node[id].ino != st->st_ino))
		id = s->node[id].next;
	return id;
}

int node_lookup(struct server *s, u64 parent, const char *name, struct fuse_entry_out *e)
{
	struct stat st;
	struct node *p = node_get(s, parent);
	int fd = p ? openat(p->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1, err = p ? -errno : -ESTALE;
	if (fd < 0) {
		if (err == -EMFILE || err == -ENFILE)
			log_once(LOG_WARN, "share \"%s\": the guest knows more files than this process may have open; ulimit -n raises the limit", s->cfg.path);
		return err;
	}
	if (fstat(fd, &st)) {
		err = -errno;
	} else if (st.st_dev != p->dev && !is_shareable(fd)) {
		err = -ENOENT;
	} else {
		u32 id = find(s, &st);
		err = !id && !s->free_node ? grow(s) : 0;
		if (!err && !id) {
			id = s->free_node;
			s->free_node = s->node[id].next;
			enter(s, id, fd, &st);
			fd = -1;
		}
		if (!err) {
			s->node[id].lookups++;
			*e = (struct fuse_entry_out){ .nodeid = id, .generation = s->node[id].generation, .entry_valid = s->cfg.cache_s, .attr_valid = s->cfg.cache_s };
			attr_fill(s, &e->attr, &st);
		}
	}
	if (fd >= 0)
		close(fd);
	return err;
}

void node_forget(struct server *s, u64 id, u64 lookups)
{
	struct node *n = node_get(s, id);
	if (!n || id == ROOT)
		return;
	n->lookups -= min_u64(lookups, n->lookups);
	if (!n->lookups)
		drop(s, (u32)id);
}

/* Numbers of other file systems below the folder must not look like those of its own. */
u64 attr_ino(const struct server *s, u64 dev, u64 ino) { return dev == s->node[ROOT].dev ? ino : ino ^ (dev * 0x9e3779b97f4a7c15ull | 1ull << 63); }

void attr_fill(const struct server *s, struct fuse_attr *a, const struct stat *st)
{
	*a = (struct fuse_attr){ .ino = attr_ino(s, st->st_dev, st->st_ino), .size = (u64)st->st_size, .blocks = (u64)st->st_blocks,
		.atime = (u64)st->st_atim.tv_sec, .mtime = (u64)st->st_mtim.tv_sec, .ctime = (u64)st->st_ctim.tv_sec,
		.atimensec = (u32)st->st_atim.tv_nsec, .mtimensec = (u32)st->st_mtim.tv_nsec, .ctimensec = (u32)st->st_ctim.tv_nsec, .mode = st->st_mode,
		.nlink = (u32)st->st_nlink, .uid = st->st_uid, .gid = st->st_gid, .rdev = (u32)st->st_rdev, .blksize = (u32)st->st_blksize };
}

const char *node_proc_name(const struct node *n, char buf[16])
{
	snprintf(buf, 16, "%d", n->fd);
	return buf;
}

/* By way of /proc/self/fd, which leads to this very file whatever its name is now. Never a pipe or a device: opening those does things. */
int node_open(struct server *s, const struct node *n, int flags)
{
	char name[16];
	if (n->type != S_IFREG && n->type != S_IFDIR)
		return n->type == S_IFLNK ? -ELOOP : -ENXIO;
	int fd = openat(s->proc, node_proc_name(n, name), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

int handle_add(struct server *s, int fd, u64 *fh)
{
	u32 i = 0;
	while (i < s->nhandles && s->handle[i] >= 0)
		i++;
	if (i == s->nhandles) {
		u32 n = s->nhandles ? s->nhandles * 2 : 64;
		int *more = n <= MAX_HANDLES ? realloc(s->handle, n * sizeof *more) : NULL;
		if (!more) {
			close(fd);
			return -ENFILE;
		}
		s->handle = more;
		for (u32 k = s->nhandles; k < n; k++)
			more[k] = -1;
		s->nhandles = n;
	}
	s->handle[i] = fd;
	*fh = i;
	return 0;
}

int handle_get(const struct server *s, u64 fh) { return fh < s->nhandles && s->handle[fh] >= 0 ? s->handle[fh] : -EBADF; }

void handle_close(struct server *s, u64 fh)
{
	if (handle_get(s, fh) < 0)
		return;
	close(s->handle[fh]);
	s->handle[fh] = -1;
}
