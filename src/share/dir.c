/* Reading folders. */
#include "share/server.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

struct host_dirent {
	u64 ino;
	i64 off;
	u16 len;
	u8 type;
	char name[];
};

/* One entry into the answer. False: no more room. */
static bool add(struct server *s, struct request *r, const struct host_dirent *d, size_t max, bool plus)
{
	size_t namelen = strlen(d->name), head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET, size = FUSE_REC_ALIGN(head + namelen);
	struct fuse_dirent f = { .ino = d->ino, .off = (u64)d->off, .namelen = (u32)namelen, .type = d->type };
	struct fuse_entry_out e = { 0 };
	bool dots = !strcmp(d->name, ".") || !strcmp(d->name, "..");
	if (r->reply_len + size > max)
		return false;
	if (plus && !dots && node_lookup(s, r->h->nodeid, d->name, &e))
		e = (struct fuse_entry_out){ 0 }; /* the guest asks again if it wants to know */
	u8 *to = reply_add(r, size);
	memset(to, 0, size);
	if (plus) {
		memcpy(to, &e, sizeof e);
		to += sizeof e;
	}
	memcpy(to, &f, FUSE_NAME_OFFSET);
	memcpy(to + FUSE_NAME_OFFSET, d->name, namelen);
	return true;
}

static int read_folder(struct server *s, struct request *r, bool plus)
{
	const struct fuse_read_in *in = (const void *)r->arg;
	static u8 buf[32768] __attribute__((aligned(8)));
	size_t max = min_u64(min_u64(in->size, REPLY_BYTES), r->in_len - min_u64(r->in_len, sizeof(struct fuse_out_header)));
	int fd = handle_get(s, in->fh);
	if (fd < 0)
		return fd;
	if (lseek(fd, (off_t)in->offset, SEEK_SET) < 0)
		return -errno;
	for (bool room = true; room;) {
		long n = syscall(SYS_getdents64, fd, buf, sizeof buf);
		if (n < 0)
			return r->reply_len ? 0 : -errno;
		if (n == 0)
			break;
		for (long at = 0; at < n && room;) {
			const struct host_dirent *d = (const void *)(buf + at);
			room = add(s, r, d, max, plus);
			at += d->len;
		}
	}
	return 0;
}

int share_readdir(struct server *s, struct request *r) { return read_folder(s, r, false); }
int share_readdirplus(struct server *s, struct request *r) { return read_folder(s, r, true); }
