/* Opening an image: what it is, whether it is free, and the layers above it. */
#include "host/disk_int.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* An image's file while it is being opened. */
struct image {
	const char *path;
	int fd;
	u64 size; /* of the file */
};

static int complain(const char *path, int err, const char *what)
{
	log_error("disk \"%s\": %s", path, what);
	return err;
}

static int open_file(struct image *im, bool read_only)
{
	int err;

	im->fd = open(im->path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (im->fd >= 0)
		return 0;
	err = -errno;
	log_error("disk \"%s\": cannot open for %s: %s%s", im->path, read_only ? "reading" : "reading and writing", strerror(-err),
		  !read_only && (err == -EACCES || err == -EROFS || err == -EPERM) ? " (ro or snapshot=on needs reading only)" : "");
	return err;
}

static int check_kind(struct image *im)
{
	struct stat st;

	if (fstat(im->fd, &st) < 0)
		return complain(im->path, -errno, strerror(errno));
	im->size = (u64)st.st_size;
	if (S_ISDIR(st.st_mode))
		return complain(im->path, -EINVAL, "is a folder, not an image");
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return complain(im->path, -EINVAL, "is neither a regular file nor a block device");
	if (S_ISBLK(st.st_mode) && ioctl(im->fd, BLKGETSIZE64, &im->size) < 0)
		return complain(im->path, -errno, strerror(errno));
	return im->size == 0 ? complain(im->path, -EINVAL, "is empty") : 0;
}

static int lock(const struct image *im, bool read_only, bool raw)
{
	int err = disk_lock(im->fd, read_only, raw);

	if (err == -EAGAIN)
		return complain(im->path, err, "is in use by another VM or program");
	return err ? complain(im->path, err, strerror(-err)) : 0;
}

/* The format that the image's first bytes tell; "raw" for none. */
static const char *guess(const struct image *im)
{
	u8 head[DISK_SECTOR];
	ssize_t n = pread(im->fd, head, sizeof(head), 0);
	const char *format = n > 0 ? disk_probe(head, (size_t)n) : NULL;

	return format ? format : "raw";
}

static int open_raw(struct image *im, const struct disk_spec *s, bool read_only, struct disk_layer **out)
{
	int err;

	if (im->size % DISK_SECTOR) {
		log_error("disk \"%s\": %llu bytes is not a multiple of %d", im->path, (unsigned long long)im->size, DISK_SECTOR);
		return -EINVAL;
	}
	err = disk_raw_open(out, im->path, im->fd, im->size, read_only, !strcmp(s->format, "auto"));
	if (!err)
		im->fd = -1;
	return err;
}

static int open_image(struct image *im, const struct disk_spec *s, bool read_only, struct disk_layer **out)
{
	const char *format = s->format;
	int err = open_file(im, read_only);

	if (!err)
		err = check_kind(im);
	if (err)
		return err;
	if (!strcmp(format, "auto"))
		format = guess(im);
	bool raw = !strcmp(format, "raw");

	err = lock(im, read_only, raw);
	if (err)
		return err;
	if (raw)
		return open_raw(im, s, read_only, out);
	err = disk_nbd_open(out, im->path, format, read_only, im->fd);
	if (!err)
		im->fd = -1;
	return err;
}

/* A file without a name for the writes that nobody will want. */
static int anonymous_file(const char *path)
{
	static const char *const folders[] = { NULL, "/var/tmp", "/tmp" };

	for (unsigned i = 0; i < array_len(folders); i++) {
		const char *folder = folders[i] ? folders[i] : getenv("TMPDIR");
		int fd = folder ? open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600) : -1;

		if (fd >= 0)
			return fd;
	}
	log_error("disk \"%s\": snapshot=on needs a folder for temporary files; set TMPDIR to one: %s", path, strerror(errno));
	return -ENOENT;
}

static int add_anonymous(const char *path, struct disk_layer **top)
{
	int fd = anonymous_file(path), err;

	if (fd < 0)
		return fd;
	err = disk_overlay_create(top, *top, fd, true);
	if (err)
		close(fd);
	return err;
}

/* An overlay file that does not exist or is empty begins a new one. */
static int add_overlay(const char *path, struct disk_layer **top, bool last)
{
	struct image im = { .path = path };
	struct stat st;
	int err;

	im.fd = open(path, (last ? O_RDWR | O_CREAT : O_RDONLY) | O_CLOEXEC | O_NONBLOCK, 0666);
	if (im.fd < 0)
		return complain(path, -errno, strerror(errno));
	err = fstat(im.fd, &st) < 0 ? -errno : 0;
	if (!err && !S_ISREG(st.st_mode))
		err = complain(path, -EINVAL, "is no regular file, as an overlay must be");
	if (!err)
		err = lock(&im, !last, true);
	if (!err && last && st.st_size == 0)
		err = disk_overlay_create(top, *top, im.fd, false);
	else if (!err)
		err = disk_overlay_open(top, *top, im.fd, path, !last);
	if (err)
		close(im.fd);
	return err;
}

int disk_open(struct disk **out, const struct disk_spec *s)
{
	struct image im = { .path = s->path, .fd = -1 };
	struct disk_layer *top = NULL;
	int err = open_image(&im, s, s->read_only || s->snapshot || s->noverlays > 0, &top);

	if (!err && top->size == 0)
		err = complain(s->path, -EINVAL, "holds a disk of 0 bytes");
	if (!err && s->snapshot)
		err = add_anonymous(s->path, &top);
	for (unsigned i = 0; i < s->noverlays && !err; i++)
		err = add_overlay(s->overlays[i], &top, i + 1 == s->noverlays);
	if (!err)
		return disk_start(out, top, s);
	if (top)
		top->ops->close(top);
	if (im.fd >= 0)
		close(im.fd);
	return err;
}
