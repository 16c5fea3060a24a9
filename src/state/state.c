/* Saving, loading and printing of state rows. A section in bytes, all numbers little-endian:
 *
 * *       u32 magic "NBS1" | u32 bytes that follow in this section | str class | str instance | u32 rows *        per
 * row: str name | u32 element size | u32 count | size * count bytes            str = u8 length, then the characters
 *
 * Surprise: the loader fills a copy and only then the object, so a bad section changes nothing. */
#include "state/state.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MAGIC 0x3153424eu /* "NBS1" */
#define STR_MAX 255
#define HEADER_BYTES 8

/* ---- save ---- */

void state_buf_free(struct state_buf *b)
{
	free(b->data);
	memset(b, 0, sizeof *b);
}

static void put(struct state_buf *b, const void *p, size_t n)
{
	if (n > b->cap - b->len) {
		size_t cap = max_u64(b->cap * 2, align_up(b->len + n, 4096));
		b->data = realloc(b->data, cap);
		bug_if(!b->data);
		b->cap = cap;
	}
	memcpy(b->data + b->len, p, n);
	b->len += n;
}

static void put_u32(struct state_buf *b, u32 v) { put(b, &v, sizeof v); }

static void put_str(struct state_buf *b, const char *s)
{
	size_t n = strlen(s);
	bug_if(n > STR_MAX);
	u8 len = (u8)n;
	put(b, &len, 1);
	put(b, s, n);
}

void state_save(struct state_buf *b, const struct state_desc *d, const char *instance, const void *obj)
{
	size_t start = b->len;
	const u8 *p = obj;
	put_u32(b, MAGIC);
	put_u32(b, 0);
	put_str(b, d->name);
	put_str(b, instance);
	put_u32(b, d->nrows);
	for (u32 i = 0; i < d->nrows; i++) {
		const struct state_row *r = &d->rows[i];
		put_str(b, r->name);
		put_u32(b, r->size);
		put_u32(b, r->count);
		put(b, p, (size_t)r->size * r->count);
		p += (size_t)r->size * r->count;
	}
	store_le(b->data + start + 4, b->len - start - HEADER_BYTES, 4);
}

/* ---- load ---- */

/* What is left of one section. `bad` is the first complaint. */
struct reader {
	const u8 *data;
	size_t pos, end;
	const char *section, *row, *bad;
	char name[STR_MAX + 1];
};

static const u8 *take(struct reader *r, u64 n)
{
	if (n > r->end - r->pos) {
		r->bad = "is cut short";
		return NULL;
	}
	const u8 *p = r->data + r->pos;
	r->pos += n;
	return p;
}

static u32 take_u32(struct reader *r)
{
	const u8 *p = take(r, 4);
	return p ? (u32)load_le(p, 4) : 0;
}

/* Into r->name; "" on failure. */
static const char *take_str(struct reader *r)
{
	const u8 *n = take(r, 1), *p = n ? take(r, *n) : NULL;
	r->name[0] = 0;
	if (p) {
		memcpy(r->name, p, *n);
		r->name[*n] = 0;
		if (memchr(p, 0, *n))
			r->bad = "has a name with a zero byte";
	}
	return r->name;
}

static const struct state_row *find_row(const struct state_desc *d, const char *name, u32 *offset)
{
	*offset = 0;
	for (u32 i = 0; i < d->nrows; i++) {
		if (!strcmp(d->rows[i].name, name))
			return &d->rows[i];
		*offset += d->rows[i].size * d->rows[i].count;
	}
	return NULL;
}

static void load_row(struct reader *r, const struct state_desc *d, u8 *obj, u8 *seen)
{
	u32 offset;
	const struct state_row *row = find_row(d, take_str(r), &offset);
	if (r->bad)
		return;
	if (!row) {
		r->row = r->name;
		r->bad = "is unknown";
		return;
	}
	r->row = row->name;
	u32 size = take_u32(r), count = take_u32(r);
	if (r->bad)
		return;
	if (size != row->size || count != row->count) {
		r->bad = "has another size";
		return;
	}
	const u8 *p = take(r, (u64)size * count);
	if (!p)
		return;
	if (seen[row - d->rows]++) {
		r->bad = "comes twice";
		return;
	}
	memcpy(obj + offset, p, (size_t)size * count);
	r->row = NULL;
}

static void load_section(struct reader *r, const struct state_desc *d, const char *instance, u8 *obj, u8 *seen)
{
	if (take_u32(r) != MAGIC && !r->bad)
		r->bad = "does not start with a section header";
	u32 len = take_u32(r);
	if (!r->bad && len > r->end - r->pos)
		r->bad = "is longer than the file";
	if (r->bad)
		return;
	r->end = r->pos + len;
	if (strcmp(take_str(r), d->name) && !r->bad)
		r->bad = "is of another class";
	if (!r->bad && strcmp(take_str(r), instance) && !r->bad)
		r->bad = "is of another instance";
	u32 nrows = take_u32(r);
	if (!r->bad && nrows != d->nrows)
		r->bad = "has another number of rows";
	for (u32 i = 0; i < nrows && !r->bad; i++)
		load_row(r, d, obj, seen); /* none unknown, none twice, the right number: so none is missing */
	if (!r->bad && r->pos != r->end)
		r->bad = "has bytes after its last row";
}

int state_load(const struct state_buf *b, size_t *pos, const struct state_desc *d, const char *instance, void *obj)
{
	struct reader r = { .data = b->data, .pos = min_u64(*pos, b->len), .end = b->len };
	u8 *copy = malloc(d->size + 1), *seen = calloc(d->nrows + 1, 1);
	bug_if(!copy || !seen);
	load_section(&r, d, instance, copy, seen);
	if (!r.bad) {
		memcpy(obj, copy, d->size);
		*pos = r.pos;
	} else {
		log_error("saved state: section %s (%s)%s%s %s, at offset %zu", instance, d->name, r.row ? ", row " : "",
			  r.row ? r.row : "", r.bad, r.pos);
	}
	free(copy);
	free(seen);
	return r.bad ? -EINVAL : 0;
}

/* ---- dump ---- */

static void print_value(FILE *f, const u8 *p, u32 size)
{
	if (size == 1 || size == 2 || size == 4 || size == 8) {
		fprintf(f, "0x%llx", (unsigned long long)load_le(p, size));
		return;
	}
	for (u32 i = 0; i < size; i++)
		fprintf(f, "%02x", p[i]);
}

static void dump_value(FILE *f, const char *instance, const char *name, i64 index, const u8 *p, const u8 *was, u32 size)
{
	if (was && !memcmp(p, was, size))
		return;
	fprintf(f, "%s.%s", instance, name);
	if (index >= 0)
		fprintf(f, "[%lld]", (long long)index);
	fputs(" = ", f);
	if (was) {
		print_value(f, was, size);
		fputs(" -> ", f);
	}
	print_value(f, p, size);
	fputc('\n', f);
}

void state_dump(void *file, const struct state_desc *d, const char *instance, const void *obj, const void *old)
{
	const u8 *p = obj, *was = old;
	for (u32 i = 0; i < d->nrows; i++) {
		const struct state_row *r = &d->rows[i];
		/* Byte arrays are one long value: register images, FIFOs, pages. */
		u32 count = r->size == 1 ? 1 : r->count, size = r->size == 1 ? r->count : r->size;
		for (u32 k = 0; k < count; k++) {
			dump_value(file, instance, r->name, count > 1 ? (i64)k : -1, p, was, size);
			p += size;
			was = was ? was + size : NULL;
		}
	}
}
