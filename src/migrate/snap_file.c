/* Reading snapshot files: everything is checked when a file is opened, before anything of it is used. Surprise: the checks of all page chunks cost
 * less than unpacking them (XXH3 runs at memory speed), so a lazy load can still promise that a damaged file is never half-loaded. */
#include "migrate/snapshot.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#define MAX_SECTION (256 * MiB) /* unpacked META, STATE, INDEX */

STATE_DESC(snap_meta, SNAP_META_STATE);

struct part { /* one file of the chain */
	int fd;
	bool quiet; /* somebody only asks */
	char name[256];
	struct snap_header h;
	struct snap_section sec[SNAP_SECTIONS];
	struct snap_meta meta;
	struct snap_chunk *chunks;
	u64 nchunks, first; /* first: number of its first chunk among all files' */
};

struct snap_file {
	struct part part[SNAP_MAX_CHAIN]; /* newest first */
	unsigned n;
	u64 frames;
	u32 *where; /* per frame: 1 + number of the chunk that has it, 0: zero */
};

struct snap_scratch {
	u8 packed[SNAP_MAX_CHUNK_PAGES * 4096], pages[SNAP_MAX_CHUNK_PAGES * 4096];
	ZSTD_DCtx *z;
};

static int bad(const struct part *p, u64 at, const char *fmt, ...) printf_like(3, 4);
static int bad(const struct part *p, u64 at, const char *fmt, ...)
{
	char text[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (!p->quiet)
		log_error("snapshot \"%s\": %s at offset %llu; nothing of it was loaded", p->name, text, (unsigned long long)at);
	return -EBADMSG;
}

static int read_at(const struct part *p, void *to, u64 len, u64 at)
{
	for (u64 done = 0; done < len;) {
		ssize_t n = pread(p->fd, (u8 *)to + done, len - done, at + done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int err = -errno;
			log_error("snapshot \"%s\": cannot read at offset %llu: %s", p->name, (unsigned long long)(at + done), strerror(-err));
			return err;
		}
		if (!n)
			return bad(p, at + done, "the file ends");
		done += n;
	}
	return 0;
}

/* ---- header and section table ---- */

static int read_header(struct part *p)
{
	struct stat st;
	struct snap_header *h = &p->h;
	if (fstat(p->fd, &st) || (u64)st.st_size < sizeof *h)
		return bad(p, 0, "the file is too short for a header (%lld bytes)", (long long)st.st_size);
	int err = read_at(p, h, sizeof *h, 0);
	if (err)
		return err;
	if (memcmp(h->magic, SNAP_MAGIC, 8))
		return bad(p, 0, "this is no nestbox snapshot");
	if (h->version != SNAP_VERSION)
		return bad(p, 8, "format version %u (this nestbox reads version %u)", h->version, SNAP_VERSION);
	if (snap_checksum(h, offsetof(struct snap_header, xxh)) != h->xxh)
		return bad(p, offsetof(struct snap_header, xxh), "the header's checksum is wrong");
	if ((u64)st.st_size != h->file_bytes)
		return bad(p, min_u64(st.st_size, h->file_bytes), "the file has %lld bytes instead of %llu", (long long)st.st_size,
			   (unsigned long long)h->file_bytes);
	bool pages_ok = h->page_bytes == PAGE_SIZE && h->chunk_pages && h->chunk_pages <= SNAP_MAX_CHUNK_PAGES && !(h->chunk_pages & (h->chunk_pages - 1));
	if (h->header_bytes != sizeof *h || h->flags || h->sections != SNAP_SECTIONS || !pages_ok)
		return bad(p, 12, "unknown header fields");
	if (!h->memory || h->memory % PAGE_SIZE || h->memory / PAGE_SIZE >= 0xffffffffull)
		return bad(p, offsetof(struct snap_header, memory), "impossible memory size %llu", (unsigned long long)h->memory);
	return 0;
}

/* Sections follow each other from the header to the table, each type once, in order. */
static int read_table(struct part *p)
{
	struct snap_header *h = &p->h;
	u64 at = sizeof *h;
	if (h->table_at > h->file_bytes || h->file_bytes - h->table_at != sizeof p->sec)
		return bad(p, offsetof(struct snap_header, table_at), "impossible place of the section table");
	int err = read_at(p, p->sec, sizeof p->sec, h->table_at);
	if (err)
		return err;
	if (snap_checksum(p->sec, sizeof p->sec) != h->table_xxh)
		return bad(p, h->table_at, "the section table's checksum is wrong");
	for (u32 i = 0; i < SNAP_SECTIONS; i++) {
		const struct snap_section *s = &p->sec[i];
		u64 entry = h->table_at + i * sizeof *s;
		if (s->type != i || s->flags || s->at != at || s->stored > h->table_at - at)
			return bad(p, entry, "section %u is not where it belongs", i);
		if (i != SNAP_PAGES && (s->raw > MAX_SECTION || !s->raw != !s->stored))
			return bad(p, entry, "section %u has an impossible size", i);
		at += s->stored;
	}
	return at == h->table_at ? 0 : bad(p, at, "bytes that belong to no section");
}

/* The section's unpacked bytes, malloc'd (never NULL on success). */
static int read_section(const struct part *p, unsigned type, u8 **out)
{
	const struct snap_section *s = &p->sec[type];
	u8 *stored = malloc(s->stored + 1), *raw = NULL;
	int err = stored ? read_at(p, stored, s->stored, s->at) : -ENOMEM;
	if (!err && snap_checksum(stored, s->stored) != s->xxh)
		err = bad(p, s->at, "section %u: wrong checksum", type);
	if (!err && s->stored == s->raw) {
		*out = stored;
		return 0;
	}
	if (!err && !(raw = malloc(s->raw + 1)))
		err = -ENOMEM;
	if (!err && ZSTD_decompress(raw, s->raw, stored, s->stored) != s->raw)
		err = bad(p, s->at, "section %u cannot be unpacked", type);
	free(stored);
	if (err)
		free(raw);
	else
		*out = raw;
	return err;
}

/* Its content is only wanted later, if at all. */
static int check_section(const struct part *p, unsigned type)
{
	u8 *raw;
	int err = read_section(p, type, &raw);
	if (!err)
		free(raw);
	return err;
}

static bool ends(const u8 *s, size_t size) { return memchr(s, 0, size); }

static int read_meta(struct part *p)
{
	struct state_buf b = { 0 };
	size_t pos = 0;
	int err = read_section(p, SNAP_META, &b.data);
	if (err)
		return err;
	b.len = p->sec[SNAP_META].raw;
	if (state_load(&b, &pos, &snap_meta_state, "snapshot", &p->meta) || pos != b.len)
		err = bad(p, p->sec[SNAP_META].at, "the description cannot be read");
	const struct snap_meta *m = &p->meta;
	if (!err && (!ends(m->cpu_model, sizeof m->cpu_model) || !ends(m->name, sizeof m->name) || !ends(m->parent_file, sizeof m->parent_file) ||
		     m->memory != p->h.memory || strchr((const char *)m->parent_file, '/')))
		err = bad(p, p->sec[SNAP_META].at, "the description contradicts the header");
	free(b.data);
	return err;
}

/* ---- chunks ---- */

static int check_chunk(struct part *p, u64 i, u64 *at, i64 *last, u8 *buf)
{
	const struct snap_chunk *c = &p->chunks[i];
	u32 per = p->h.chunk_pages;
	u64 entry = p->sec[SNAP_INDEX].at, frames = p->h.memory / PAGE_SIZE, first = (u64)c->number * per;
	u64 valid = first >= frames ? 0 : low_mask(min_u64(per, frames - first));
	u64 raw = (u64)__builtin_popcountll(c->data) * PAGE_SIZE;
	if ((i64)c->number <= *last || ((c->data | c->zero) & ~valid) || (c->data & c->zero) || !(c->data | c->zero))
		return bad(p, entry, "index: entry %llu makes no sense", (unsigned long long)i);
	if (c->at != *at || c->stored > raw || !c->stored != !raw || c->stored > p->sec[SNAP_PAGES].at + p->sec[SNAP_PAGES].stored - *at)
		return bad(p, entry, "index: page chunk %llu is not where it belongs", (unsigned long long)i);
	int err = read_at(p, buf, c->stored, c->at);
	if (!err && snap_checksum(buf, c->stored) != c->xxh)
		err = bad(p, c->at, "page chunk %llu: wrong checksum", (unsigned long long)i);
	*at += c->stored;
	*last = c->number;
	return err;
}

static int read_index(struct part *p)
{
	const struct snap_section *s = &p->sec[SNAP_INDEX];
	u64 at = p->sec[SNAP_PAGES].at;
	i64 last = -1;
	if (s->raw % sizeof(struct snap_chunk))
		return bad(p, s->at, "the index has a broken entry");
	int err = read_section(p, SNAP_INDEX, (u8 **)&p->chunks);
	p->nchunks = s->raw / sizeof(struct snap_chunk);
	u8 *buf = malloc(SNAP_MAX_CHUNK_PAGES * PAGE_SIZE);
	if (!err && !buf)
		err = -ENOMEM;
	for (u64 i = 0; i < p->nchunks && !err; i++)
		err = check_chunk(p, i, &at, &last, buf);
	free(buf);
	if (!err && at != p->sec[SNAP_PAGES].at + p->sec[SNAP_PAGES].stored)
		err = bad(p, at, "page bytes that belong to no chunk");
	return err;
}

static int open_part(struct part *p, const char *name, int fd)
{
	memcpy(p->name, name, strnlen(name, sizeof p->name - 1));
	p->fd = fd;
	int err = read_header(p);
	if (!err)
		err = read_table(p);
	if (!err)
		err = read_meta(p);
	if (!err)
		err = check_section(p, SNAP_STATE);
	return err ? err : read_index(p);
}

int snap_peek(const char *path, struct snap_header *h, struct snap_meta *m)
{
	struct part p = { .quiet = true, .fd = open(path, O_RDONLY | O_CLOEXEC) };
	if (p.fd < 0)
		return -errno;
	int err = read_header(&p);
	if (!err)
		err = read_table(&p);
	if (!err)
		err = read_meta(&p);
	close(p.fd);
	*h = p.h;
	*m = p.meta;
	return err;
}

/* ---- chain ---- */

static bool none(const u8 id[16]) { static const u8 zeros[16]; return !memcmp(id, zeros, 16); }

static int open_chain(struct snap_file *f, const char *name, int fd, int (*open_parent)(void *opaque, const char *name), void *opaque)
{
	int err = open_part(&f->part[f->n++], name, fd);
	while (!err && !none(f->part[f->n - 1].h.parent)) {
		const struct part *child = &f->part[f->n - 1];
		const char *parent = (const char *)child->meta.parent_file;
		if (f->n == SNAP_MAX_CHAIN)
			return bad(child, offsetof(struct snap_header, parent), "more than %d snapshots stand on each other", SNAP_MAX_CHAIN);
		int below = open_parent ? open_parent(opaque, parent) : -ENOENT;
		if (below < 0) {
			log_error("snapshot \"%s\" stands on \"%s\", which cannot be opened: %s", child->name, parent, strerror(-below));
			return below;
		}
		struct part *p = &f->part[f->n++];
		err = open_part(p, parent, below);
		if (!err && memcmp(p->h.id, child->h.parent, 16))
			err = bad(p, offsetof(struct snap_header, id), "this is not the snapshot that \"%s\" stands on", child->name);
		else if (!err && p->h.memory != child->h.memory)
			err = bad(p, offsetof(struct snap_header, memory), "another memory size than in \"%s\"", child->name);
	}
	return err;
}

/* Oldest first; each file's pages replace what was there. */
static int resolve(struct snap_file *f)
{
	u64 number = 0;
	f->frames = f->part[0].h.memory / PAGE_SIZE;
	f->where = calloc(f->frames, sizeof f->where[0]);
	if (!f->where)
		return -ENOMEM;
	for (unsigned n = f->n; n-- > 0;) {
		struct part *p = &f->part[n];
		p->first = number;
		for (u64 i = 0; i < p->nchunks; i++, number++) {
			const struct snap_chunk *c = &p->chunks[i];
			u64 base = (u64)c->number * p->h.chunk_pages;
			for (u64 m = c->data; m; m &= m - 1)
				f->where[base + __builtin_ctzll(m)] = number + 1;
			for (u64 m = c->zero; m; m &= m - 1)
				f->where[base + __builtin_ctzll(m)] = 0;
		}
	}
	return 0;
}

int snap_open_fd(struct snap_file **out, const char *name, int fd, int (*open_parent)(void *opaque, const char *name), void *opaque)
{
	struct snap_file *f = calloc(1, sizeof *f);
	if (!f) {
		close(fd);
		return -ENOMEM;
	}
	int err = open_chain(f, name, fd, open_parent, opaque);
	if (!err)
		err = resolve(f);
	if (err)
		snap_close(f);
	else
		*out = f;
	return err;
}

static int open_beside(void *opaque, const char *name)
{
	const char *path = opaque, *slash = strrchr(path, '/');
	char beside[4096];
	snprintf(beside, sizeof beside, "%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, name);
	int fd = open(beside, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int snap_open(struct snap_file **out, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		int err = -errno;
		log_error("snapshot \"%s\": %s", path, strerror(-err));
		return err;
	}
	return snap_open_fd(out, path, fd, open_beside, (void *)path);
}

void snap_close(struct snap_file *f)
{
	for (unsigned i = 0; f && i < f->n; i++) {
		close(f->part[i].fd);
		free(f->part[i].chunks);
	}
	if (f)
		free(f->where);
	free(f);
}

const struct snap_meta *snap_get_meta(const struct snap_file *f) { return &f->part[0].meta; }
const struct snap_header *snap_get_header(const struct snap_file *f) { return &f->part[0].h; }
unsigned snap_chain(const struct snap_file *f) { return f->n; }
bool snap_has_page(const struct snap_file *f, u64 frame) { return frame < f->frames && f->where[frame]; }

u64 snap_bytes(const struct snap_file *f)
{
	u64 sum = 0;
	for (unsigned i = 0; i < f->n; i++)
		sum += f->part[i].h.file_bytes;
	return sum;
}

/* ---- contents ---- */

struct snap_scratch *snap_scratch_create(void)
{
	struct snap_scratch *s = malloc(sizeof *s);
	if (s && !(s->z = ZSTD_createDCtx())) {
		free(s);
		return NULL;
	}
	return s;
}

void snap_scratch_free(struct snap_scratch *s)
{
	if (s)
		ZSTD_freeDCtx(s->z);
	free(s);
}

static const struct part *part_of(const struct snap_file *f, u64 number)
{
	for (unsigned i = 0; i < f->n; i++)
		if (number >= f->part[i].first && number - f->part[i].first < f->part[i].nchunks)
			return &f->part[i];
	return NULL;
}

/* Its pages, one after the other, or NULL. The checksum is asked again: the file may have changed. */
static const u8 *unpack(const struct part *p, const struct snap_chunk *c, struct snap_scratch *s)
{
	u64 raw = (u64)__builtin_popcountll(c->data) * PAGE_SIZE;
	if (read_at(p, s->packed, c->stored, c->at))
		return NULL;
	bool ok = snap_checksum(s->packed, c->stored) == c->xxh;
	if (ok && c->stored == raw)
		return s->packed;
	ok = ok && ZSTD_decompressDCtx(s->z, s->pages, sizeof s->pages, s->packed, c->stored) == raw;
	if (!ok)
		log_error("snapshot \"%s\": page chunk at offset %llu is damaged", p->name, (unsigned long long)c->at);
	return ok ? s->pages : NULL;
}

int snap_read_chunk(struct snap_file *f, struct snap_scratch *s, u64 frame, int (*put)(void *opaque, u64 frame, const u8 *page), void *opaque)
{
	if (!snap_has_page(f, frame))
		return 0;
	u64 number = f->where[frame] - 1;
	const struct part *p = part_of(f, number);
	bug_if(!p);
	const struct snap_chunk *c = &p->chunks[number - p->first];
	const u8 *page = unpack(p, c, s);
	int err = page ? 0 : -EBADMSG;
	for (u64 m = c->data; m && !err; m &= m - 1, page += PAGE_SIZE) {
		u64 g = (u64)c->number * p->h.chunk_pages + __builtin_ctzll(m);
		if (f->where[g] == number + 1)
			err = put(opaque, g, page);
	}
	return err;
}

int snap_read_state(struct snap_file *f, struct state_buf *b)
{
	memset(b, 0, sizeof *b);
	int err = read_section(&f->part[0], SNAP_STATE, &b->data);
	if (!err)
		b->len = b->cap = f->part[0].sec[SNAP_STATE].raw;
	return err;
}
