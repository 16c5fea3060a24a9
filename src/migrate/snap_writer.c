/* Writing snapshot files: see snap_writer.h. Surprise: a page is looked at whole only if its first words are zero; most pages that are not zero show
 * it at once. */
#include "migrate/snap_writer.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#define LEVEL 1 /* bench/snapshot: level 3 saves 6 % and takes half as long again */
#define CHUNK_BYTES (SNAP_CHUNK_PAGES * PAGE_SIZE)

struct snap_writer {
	int fd;
	u64 at; /* end of the file so far */
	ZSTD_CCtx *z;
	struct snap_chunk *index;
	u64 n, cap, data_pages, zero_pages;
	u8 pages[CHUNK_BYTES];
	u8 packed[CHUNK_BYTES + CHUNK_BYTES / 128 + 512]; /* zstd's worst case is less */
};

struct snap_writer *snap_writer_create(int fd)
{
	struct snap_writer *w = calloc(1, sizeof *w);
	if (!w || !(w->z = ZSTD_createCCtx())) {
		free(w);
		close(fd);
		return NULL;
	}
	w->fd = fd;
	w->at = sizeof(struct snap_header);
	ZSTD_CCtx_setParameter(w->z, ZSTD_c_compressionLevel, LEVEL);
	return w;
}

void snap_writer_free(struct snap_writer *w)
{
	if (!w)
		return;
	ZSTD_freeCCtx(w->z);
	close(w->fd);
	free(w->index);
	free(w);
}

static int write_at(struct snap_writer *w, const void *from, u64 len, u64 at)
{
	for (u64 done = 0; done < len;) {
		ssize_t n = pwrite(w->fd, (const u8 *)from + done, len - done, at + done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ENOSPC;
		done += n;
	}
	return 0;
}

static int append(struct snap_writer *w, const void *from, u64 len)
{
	int err = write_at(w, from, len, w->at);
	w->at += err ? 0 : len;
	return err;
}

static bool is_zero(const u8 *page)
{
	return !memcmp(page, (const u8[64]){ 0 }, 64) && !memcmp(page, page + 64, PAGE_SIZE - 64);
}

static int add_entry(struct snap_writer *w, const struct snap_chunk *c)
{
	if (w->n == w->cap) {
		u64 cap = w->cap ? 2 * w->cap : 1024;
		struct snap_chunk *more = realloc(w->index, cap * sizeof more[0]);
		if (!more)
			return -ENOMEM;
		w->index = more;
		w->cap = cap;
	}
	w->index[w->n++] = *c;
	return 0;
}

int snap_writer_chunk(struct snap_writer *w, u32 number, u64 wanted, const u8 *pages, bool base)
{
	struct snap_chunk c = { .at = w->at, .number = number };
	u64 raw = 0;
	for (u64 m = wanted; m; m &= m - 1) {
		unsigned n = __builtin_ctzll(m);
		const u8 *page = pages + n * PAGE_SIZE;
		if (is_zero(page)) {
			c.zero |= base ? bit(n) : 0;
			continue;
		}
		c.data |= bit(n);
		memcpy(w->pages + raw, page, PAGE_SIZE);
		raw += PAGE_SIZE;
	}
	if (!(c.data | c.zero))
		return 0;
	w->data_pages += raw / PAGE_SIZE;
	w->zero_pages += __builtin_popcountll(c.zero);
	size_t packed = raw ? ZSTD_compress2(w->z, w->packed, sizeof w->packed, w->pages, raw) : 0;
	bool smaller = !ZSTD_isError(packed) && packed < raw;
	const u8 *from = smaller ? w->packed : w->pages;
	c.stored = smaller ? packed : raw;
	c.xxh = snap_checksum(from, c.stored);
	int err = add_entry(w, &c);
	return err ? err : append(w, from, c.stored);
}

static int put_section(struct snap_writer *w, struct snap_section *s, unsigned type, const void *raw, u64 len)
{
	u64 room = ZSTD_compressBound(len);
	u8 *packed = malloc(room + 1);
	if (!packed)
		return -ENOMEM;
	size_t n = ZSTD_compress2(w->z, packed, room, raw, len);
	bool smaller = !ZSTD_isError(n) && n < len;
	const void *from = smaller ? packed : raw;
	*s = (struct snap_section){ .type = type, .at = w->at, .stored = smaller ? n : len, .raw = len };
	s->xxh = snap_checksum(from, s->stored);
	int err = append(w, from, s->stored);
	free(packed);
	return err;
}

int snap_writer_finish(struct snap_writer *w, struct snap_header *h, struct snap_meta *meta, const struct state_buf *state)
{
	struct snap_section sec[SNAP_SECTIONS] = { { .type = SNAP_PAGES, .at = sizeof *h, .stored = w->at - sizeof *h, .raw = w->at - sizeof *h } };
	struct state_buf m = { 0 };
	meta->data_pages = w->data_pages;
	meta->zero_pages = w->zero_pages;
	state_save(&m, &snap_meta_state, "snapshot", meta);
	int err = put_section(w, &sec[SNAP_META], SNAP_META, m.data, m.len);
	state_buf_free(&m);
	if (!err)
		err = put_section(w, &sec[SNAP_STATE], SNAP_STATE, state->data, state->len);
	if (!err)
		err = put_section(w, &sec[SNAP_INDEX], SNAP_INDEX, w->index, w->n * sizeof w->index[0]);
	memcpy(h->magic, SNAP_MAGIC, 8);
	h->version = SNAP_VERSION;
	h->header_bytes = sizeof *h;
	h->table_at = w->at;
	h->sections = SNAP_SECTIONS;
	h->page_bytes = PAGE_SIZE;
	h->chunk_pages = SNAP_CHUNK_PAGES;
	h->table_xxh = snap_checksum(sec, sizeof sec);
	if (!err)
		err = append(w, sec, sizeof sec);
	h->file_bytes = w->at;
	h->xxh = snap_checksum(h, offsetof(struct snap_header, xxh));
	/* The header makes it a snapshot: nothing of it may reach the disk before the rest has. */
	if (!err && fdatasync(w->fd))
		err = -errno;
	if (!err)
		err = write_at(w, h, sizeof *h, 0);
	return err ? err : fsync(w->fd) ? -errno : 0;
}
