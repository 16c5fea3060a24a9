/* Error lines and files for the loaders. */
#include "boot/boot_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE (4 * GiB)
#define CHUNK (256 * KiB) /* stays in a cache */

int boot_fail(struct boot *b, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(b->err, b->errlen, fmt, ap);
	va_end(ap);
	for (char *p = b->err; *p; p++) /* a file name may hold anything; the message stays one line */
		if ((u8)*p < ' ' || *p == 0x7f)
			*p = '?';
	return -err;
}

static int read_all(int fd, u8 *data, size_t size, size_t *got)
{
	*got = 0;
	while (*got < size) {
		ssize_t n = read(fd, data + *got, size - *got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		*got += n;
	}
	return 0;
}

/* Is it a file that can be loaded, and how long? */
static int file_look(struct boot *b, struct boot_file *f, const char *what)
{
	struct stat st;

	if (fstat(f->fd, &st))
		return boot_fail(b, errno, "%s \"%s\": %s", what, f->path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return boot_fail(b, EINVAL, "%s \"%s\": is %s; give a regular file", what, f->path,
				 S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
	if (st.st_size == 0)
		return boot_fail(b, EINVAL, "%s \"%s\": the file is empty", what, f->path);
	if ((u64)st.st_size > MAX_FILE)
		return boot_fail(b, EFBIG, "%s \"%s\": %lld bytes is more than the limit of 4 GiB", what, f->path, (long long)st.st_size);
	f->size = st.st_size;
	return 0;
}

/* The file's descriptor: one that stayed open, rewound, or a new one. *keep: the caller does not close it. */
static int file_open(struct boot_files *files, const char *path, bool *keep)
{
	unsigned i;
	int fd;

	*keep = false;
	for (i = 0; files && i < files->n; i++)
		if (!strcmp(files->file[i].path, path)) {
			*keep = true;
			return lseek(files->file[i].fd, 0, SEEK_SET) < 0 ? -1 : files->file[i].fd;
		}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* O_NONBLOCK: a FIFO must not hang us */
	if (fd >= 0 && files && files->n < BOOT_MAX_FILES) {
		files->file[files->n].path = strdup(path);
		if (files->file[files->n].path) {
			files->file[files->n++].fd = fd;
			*keep = true;
		}
	}
	return fd;
}

void boot_files_close(struct boot_files *f)
{
	while (f->n) {
		close(f->file[--f->n].fd);
		free(f->file[f->n].path);
	}
}

int boot_file_open(struct boot *b, struct boot_file *f, const char *what, const char *path)
{
	int r;

	*f = (struct boot_file){ .path = path };
	f->fd = file_open(b->rq->files, path, &f->keep);
	if (f->fd < 0)
		return boot_fail(b, errno, "%s \"%s\": %s", what, path, strerror(errno));
	r = file_look(b, f, what);
	if (r)
		boot_file_free(f);
	return r;
}

int boot_file_read(struct boot *b, struct boot_file *f, const char *what, u64 most)
{
	size_t want = min_u64(f->size, most) - f->have, n = 0;
	int r;

	if (!f->data)
		f->data = malloc(f->size);
	if (!f->data)
		return boot_fail(b, ENOMEM, "%s \"%s\": no host memory for its %zu bytes", what, f->path, f->size);
	r = read_all(f->fd, f->data + f->have, want, &n);
	if (r)
		return boot_fail(b, -r, "%s \"%s\": %s", what, f->path, strerror(-r));
	f->have += n;
	if (n < want)
		f->size = f->have;
	return 0;
}

int boot_file_put(struct boot *b, struct boot_file *f, const char *what, u64 off, u64 at)
{
	size_t n = 0;
	if (!mem_load_file(b->m, gpa(at), f->fd, off, f->size - off))
		return 0;
	u8 *chunk = malloc(CHUNK);
	int r = chunk ? 0 : boot_fail(b, ENOMEM, "%s \"%s\": no host memory to read it", what, f->path);

	if (!r && lseek(f->fd, (off_t)off, SEEK_SET) < 0)
		r = boot_fail(b, errno, "%s \"%s\": %s", what, f->path, strerror(errno));
	for (u64 done = 0; !r && off + done < f->size; done += n) {
		r = read_all(f->fd, chunk, min_u64(CHUNK, f->size - off - done), &n);
		if (r)
			boot_fail(b, -r, "%s \"%s\": %s", what, f->path, strerror(-r));
		else if (!n)
			r = boot_fail(b, EIO, "%s \"%s\": became shorter than its %zu bytes while it was read", what, f->path, f->size);
		else
			r = boot_put(b, at + done, chunk, n);
	}
	free(chunk);
	return r;
}

void boot_file_free(struct boot_file *f)
{
	free(f->data);
	if (f->fd >= 0 && !f->keep)
		close(f->fd);
	*f = (struct boot_file){ .path = f->path, .fd = -1 };
}
