/* Images of all formats but raw: NBD requests to qemu-storage-daemon, by libnbd. A worker has a connection of its own, so that requests
 * run beside each other. Surprise: buffers go through one piece per worker, because NBD wants one. When the server has died every
 * request fails; it is not started again, because nobody could say which of its writes are in the image. */
#include "host/disk_layer.h"
#include "host/disk_server.h"
#include "base/log.h"
#include <dlfcn.h>
#include <errno.h>
#include <libnbd.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 20 }; /* bytes per NBD request; all servers take 32 MiB */

/* The library brings 5 MiB of others along, so only those pay who need it. */
#define LIBRARY "libnbd.so.0"
#define FUNCTIONS(F) F(create) F(close) F(set_export_name) F(set_request_structured_replies) F(connect_socket) F(shutdown) F(aio_is_ready) F(aio_is_dead) F(aio_is_closed) F(get_errno) \
	F(get_size) F(can_flush) F(can_fua) F(can_trim) F(can_zero) F(pread) F(pwrite) F(flush) F(trim) F(zero)

static struct {
#define F(name) __typeof__(nbd_##name) *name;
	FUNCTIONS(F)
#undef F
} lib;

static int load_library(const char *path)
{
	void *so = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	bool all = so;

#define F(name) all = all && (lib.name = (__typeof__(lib.name))dlsym(so, "nbd_" #name));
	FUNCTIONS(F)
#undef F
	if (!all)
		log_error("disk \"%s\": images that are not raw need libnbd (package libnbd0): %s", path, dlerror());
	return all ? 0 : -ENOENT;
}

struct nbd_disk {
	struct disk_layer l;
	struct disk_server server;
	struct nbd_handle *nbd[DISK_WORKERS];
	u8 *buffer[DISK_WORKERS];
	bool can_flush, can_fua, can_trim, can_zero;
	bool told;       /* atomic: that the server has gone */
	int lock_fd;
	char *path;
};

static struct nbd_disk *nbd_of(struct disk_layer *l) { return container_of(l, struct nbd_disk, l); }

/* The reason for the last failure on worker's connection. A server that has gone is told once. */
static int failure(struct nbd_disk *d, unsigned worker)
{
	int err = lib.get_errno();
	char words[512];

	if (!lib.aio_is_dead(d->nbd[worker]) && !lib.aio_is_closed(d->nbd[worker]))
		return err > 0 ? -err : -EIO;
	if (!__atomic_exchange_n(&d->told, true, __ATOMIC_RELAXED)) {
		disk_server_last_words(&d->server, words, sizeof(words), 100);
		log_error("disk \"%s\": %s (process %d), which reads and writes it, has ended%s%s", d->path, DISK_SERVER_PROGRAM, (int)d->server.pid,
			  *words ? ": " : "", words);
	}
	return -EIO;
}

/* Whole iov in one piece at hand: no copy. */
static u8 *piece(struct nbd_disk *d, unsigned worker, struct iovec *iov, int n, u64 done, u64 bytes, bool fill)
{
	struct iovec part[DISK_MAX_IOV];
	int m = disk_iov_slice(part, iov, n, done, bytes);
	u8 *p = d->buffer[worker];

	if (m == 1)
		return part[0].iov_base;
	for (int i = 0; fill && i < m; p += part[i++].iov_len)
		memcpy(p, part[i].iov_base, part[i].iov_len);
	return d->buffer[worker];
}

static void spread(struct nbd_disk *d, unsigned worker, struct iovec *iov, int n, u64 done, u64 bytes, const u8 *from)
{
	struct iovec part[DISK_MAX_IOV];
	int m = disk_iov_slice(part, iov, n, done, bytes);

	if (from != d->buffer[worker])
		return;
	for (int i = 0; i < m; from += part[i++].iov_len)
		memcpy(part[i].iov_base, from, part[i].iov_len);
}

static u64 total(const struct iovec *iov, int n)
{
	u64 sum = 0;

	for (int i = 0; i < n; i++)
		sum += iov[i].iov_len;
	return sum;
}

static int nbd_layer_read(struct disk_layer *l, unsigned worker, struct iovec *iov, int n, u64 at)
{
	struct nbd_disk *d = nbd_of(l);
	u64 len = total(iov, n);

	for (u64 done = 0; done < len; done += CHUNK) {
		u64 bytes = min_u64(CHUNK, len - done);
		u8 *p = piece(d, worker, iov, n, done, bytes, false);

		if (lib.pread(d->nbd[worker], p, bytes, at + done, 0) < 0)
			return failure(d, worker);
		spread(d, worker, iov, n, done, bytes, p);
	}
	return 0;
}

static int nbd_layer_flush(struct disk_layer *l, unsigned worker)
{
	struct nbd_disk *d = nbd_of(l);

	return d->can_flush && lib.flush(d->nbd[worker], 0) < 0 ? failure(d, worker) : 0;
}

/* After a write that was to reach stable storage, for servers that cannot say so in the write. */
static int through(struct nbd_disk *d, unsigned worker, bool fua)
{
	return fua && !d->can_fua ? nbd_layer_flush(&d->l, worker) : 0;
}

static u32 fua_flag(const struct nbd_disk *d, bool fua) { return fua && d->can_fua ? LIBNBD_CMD_FLAG_FUA : 0; }

static int nbd_layer_write(struct disk_layer *l, unsigned worker, struct iovec *iov, int n, u64 at, bool fua)
{
	struct nbd_disk *d = nbd_of(l);
	u64 len = total(iov, n);

	for (u64 done = 0; done < len; done += CHUNK) {
		u64 bytes = min_u64(CHUNK, len - done);
		const u8 *p = piece(d, worker, iov, n, done, bytes, true);

		if (lib.pwrite(d->nbd[worker], p, bytes, at + done, fua_flag(d, fua)) < 0)
			return failure(d, worker);
	}
	return through(d, worker, fua);
}

enum { RANGE_MAX = 1 << 30 }; /* bytes per request without data */

static int nbd_layer_discard(struct disk_layer *l, unsigned worker, u64 at, u64 len)
{
	struct nbd_disk *d = nbd_of(l);

	for (u64 done = 0; d->can_trim && done < len; done += RANGE_MAX)
		if (lib.trim(d->nbd[worker], min_u64(RANGE_MAX, len - done), at + done, 0) < 0)
			return failure(d, worker);
	return 0;
}

static int write_zero_data(struct nbd_disk *d, unsigned worker, u64 at, u64 len, bool fua)
{
	memset(d->buffer[worker], 0, CHUNK);
	for (u64 done = 0; done < len; done += CHUNK)
		if (lib.pwrite(d->nbd[worker], d->buffer[worker], min_u64(CHUNK, len - done), at + done, fua_flag(d, fua)) < 0)
			return failure(d, worker);
	return through(d, worker, fua);
}

static int nbd_layer_write_zeroes(struct disk_layer *l, unsigned worker, u64 at, u64 len, bool unmap, bool fua)
{
	struct nbd_disk *d = nbd_of(l);
	u32 flags = fua_flag(d, fua) | (unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);

	if (!d->can_zero)
		return write_zero_data(d, worker, at, len, fua);
	for (u64 done = 0; done < len; done += RANGE_MAX)
		if (lib.zero(d->nbd[worker], min_u64(RANGE_MAX, len - done), at + done, flags) < 0)
			return failure(d, worker);
	return through(d, worker, fua);
}

static void nbd_layer_close(struct disk_layer *l)
{
	struct nbd_disk *d = nbd_of(l);

	for (unsigned i = 0; i < DISK_WORKERS; i++) {
		if (d->nbd[i] && lib.aio_is_ready(d->nbd[i]))
			lib.shutdown(d->nbd[i], 0);
		if (d->nbd[i])
			lib.close(d->nbd[i]);
		free(d->buffer[i]);
	}
	disk_server_stop(&d->server);
	if (d->lock_fd >= 0)
		close(d->lock_fd);
	free(d->path);
	free(d);
}

static const struct disk_layer_ops nbd_ops = { nbd_layer_read, nbd_layer_write, nbd_layer_flush, nbd_layer_discard, nbd_layer_write_zeroes,
	NULL, NULL, nbd_layer_close };

/* Takes the sockets, also on failure. */
static int connect_workers(struct nbd_disk *d, int *sock)
{
	int err = 0;

	for (unsigned i = 0; i < DISK_WORKERS; i++) {
		d->buffer[i] = malloc(CHUNK);
		d->nbd[i] = lib.create();
		if (!err && (!d->buffer[i] || !d->nbd[i]))
			err = -ENOMEM;
		if (!err && (lib.set_export_name(d->nbd[i], DISK_SERVER_EXPORT) < 0 || lib.set_request_structured_replies(d->nbd[i], false) < 0 ||
			     lib.connect_socket(d->nbd[i], sock[i]) < 0))
			err = -EIO;
		if (err)
			close(sock[i]);
	}
	return err;
}

static int learn(struct nbd_disk *d)
{
	struct nbd_handle *h = d->nbd[0];
	i64 size = lib.get_size(h);

	d->can_flush = lib.can_flush(h) == 1;
	d->can_fua = lib.can_fua(h) == 1;
	d->can_trim = lib.can_trim(h) == 1;
	d->can_zero = lib.can_zero(h) == 1;
	if (size < 0 || size % DISK_SECTOR)
		return -EINVAL;
	d->l.size = (u64)size;
	return 0;
}

static int complain(struct nbd_disk *d, const char *format, int err)
{
	char words[512];

	disk_server_last_words(&d->server, words, sizeof(words), 5000);
	log_error("disk \"%s\": cannot be opened as %s: %s", d->path, format, *words ? words : strerror(-err));
	return -EINVAL;
}

int disk_nbd_open(struct disk_layer **out, const char *path, const char *format, bool read_only, int lock_fd)
{
	struct nbd_disk *d = calloc(1, sizeof(*d));
	int sock[DISK_WORKERS], err;
	struct stat st;

	if (!d || !(d->path = strdup(path))) {
		free(d);
		return -ENOMEM;
	}
	d->l = (struct disk_layer){ .ops = &nbd_ops, .read_only = read_only, .server = true };
	d->lock_fd = -1;
	err = load_library(path);
	if (!err && fstat(lock_fd, &st) < 0)
		err = -errno;
	if (!err)
		err = disk_server_start(&d->server, path, format, read_only, S_ISBLK(st.st_mode), sock, DISK_WORKERS);
	if (err) {
		free(d->path);
		free(d);
		return err;
	}
	err = connect_workers(d, sock);
	if (!err)
		err = learn(d);
	if (err) {
		err = complain(d, format, err);
		nbd_layer_close(&d->l);
		return err;
	}
	d->lock_fd = lock_fd;
	*out = &d->l;
	return 0;
}
