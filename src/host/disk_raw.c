/* A raw image: the disk's bytes are the file's. Surprise: when the format was guessed ("auto"), the guest must not be able to make its disk
 * look like an image of another format, which the next start would then open as such, with files of the host behind it; such a
 * write to the first sector is refused. */
#include "host/disk_layer.h"
#include "base/log.h"
#include "host/file.h"
#include <errno.h>
#include <stdlib.h>

struct raw {
	struct disk_layer l;
	struct file file;
	bool guarded;
	char *path;
};

static struct raw *raw_of(struct disk_layer *l) { return container_of(l, struct raw, l); }

static const struct { const char *magic; u8 at, len; const char *format; } magics[] = {
	{ "QFI\xfb", 0, 4, "qcow2" },
	{ "QED", 0, 4, "qed" },
	{ "vhdxfile", 0, 8, "vhdx" },
	{ "KDMV", 0, 4, "vmdk" },
	{ "COWD", 0, 4, "vmdk" },
	{ "# Disk DescriptorFile", 0, 21, "vmdk" },
	{ "conectix", 0, 8, "vpc" },
	{ "\x7f\x10\xda\xbe", 64, 4, "vdi" },
};

const char *disk_probe(const u8 *head, size_t n)
{
	for (unsigned i = 0; i < array_len(magics); i++)
		if ((size_t)magics[i].at + magics[i].len <= n && !memcmp(head + magics[i].at, magics[i].magic, magics[i].len))
			return magics[i].format;
	return NULL;
}

int disk_iov_slice(struct iovec *out, const struct iovec *iov, int n, u64 skip, u64 len)
{
	int m = 0;

	for (int i = 0; i < n && len > 0; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		u64 bytes = min_u64(iov[i].iov_len - skip, len);

		out[m++] = (struct iovec){ (u8 *)iov[i].iov_base + skip, bytes };
		len -= bytes;
		skip = 0;
	}
	return m;
}

static int raw_read(struct disk_layer *l, unsigned worker, struct iovec *iov, int n, u64 at)
{
	return file_read(&raw_of(l)->file, iov, n, at);
}

static int raw_read_at_once(struct disk_layer *l, const struct iovec *iov, int n, u64 at, u64 len)
{
	return file_read_at_once(&raw_of(l)->file, iov, n, at, len);
}

/* The guarded sector takes the other way. */
static int raw_write_at_once(struct disk_layer *l, const struct iovec *iov, int n, u64 at, u64 len)
{
	struct raw *r = raw_of(l);

	return at > 0 || !r->guarded ? file_write_at_once(&r->file, iov, n, at, len) : -EAGAIN;
}

static int write_bytes(struct raw *r, struct iovec *iov, int n, u64 at, bool fua)
{
	return fua ? file_write_through(&r->file, iov, n, at) : file_write(&r->file, iov, n, at);
}

/* The sector is copied first: the guest may change its buffer while we look. */
static int write_first_sector(struct raw *r, struct iovec *iov, int n, bool fua)
{
	u8 sector[DISK_SECTOR];
	struct iovec part[DISK_MAX_IOV], one = { sector, sizeof(sector) };
	int m = disk_iov_slice(part, iov, n, 0, sizeof(sector));
	size_t got = 0;

	for (int i = 0; i < m; got += part[i++].iov_len)
		memcpy(sector + got, part[i].iov_base, part[i].iov_len);
	if (disk_probe(sector, sizeof(sector))) {
		log_warn("disk \"%s\": the guest writes the beginning of a %s image to it, which is refused because the next start would take it "
			 "for one; say format=raw to allow it", r->path, disk_probe(sector, sizeof(sector)));
		return -EPERM;
	}
	return write_bytes(r, &one, 1, 0, fua);
}

static int raw_write(struct disk_layer *l, unsigned worker, struct iovec *iov, int n, u64 at, bool fua)
{
	struct raw *r = raw_of(l);
	struct iovec rest[DISK_MAX_IOV];
	int err;

	if (at > 0 || !r->guarded)
		return write_bytes(r, iov, n, at, fua);
	err = write_first_sector(r, iov, n, fua);
	n = disk_iov_slice(rest, iov, n, DISK_SECTOR, ~(u64)0);
	return err || n == 0 ? err : write_bytes(r, rest, n, DISK_SECTOR, fua);
}

static int raw_flush(struct disk_layer *l, unsigned worker) { return file_flush(&raw_of(l)->file); }

static int raw_discard(struct disk_layer *l, unsigned worker, u64 at, u64 len) { return file_discard(&raw_of(l)->file, at, len); }

static int raw_write_zeroes(struct disk_layer *l, unsigned worker, u64 at, u64 len, bool unmap, bool fua)
{
	int err = file_write_zeros(&raw_of(l)->file, at, len, unmap);

	return err || !fua ? err : raw_flush(l, worker);
}

static void raw_close(struct disk_layer *l)
{
	struct raw *r = raw_of(l);

	file_close(&r->file);
	free(r->path);
	free(r);
}

static const struct disk_layer_ops raw_ops = { raw_read, raw_write, raw_flush, raw_discard, raw_write_zeroes, raw_read_at_once, raw_write_at_once,
	raw_close };

int disk_raw_open(struct disk_layer **out, const char *path, int fd, u64 size, bool read_only, bool guarded)
{
	struct raw *r = calloc(1, sizeof(*r));

	if (!r || !(r->path = strdup(path))) {
		free(r);
		return -ENOMEM;
	}
	r->l = (struct disk_layer){ .ops = &raw_ops, .size = size, .read_only = read_only };
	r->file = (struct file){ .fd = fd, .size = size, .read_only = read_only };
	file_learn(&r->file);
	r->guarded = guarded;
	*out = &r->l;
	return 0;
}
