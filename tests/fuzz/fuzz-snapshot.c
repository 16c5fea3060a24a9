/* A snapshot file is a stranger's: whatever is in it, it is opened or refused, and reading what was opened stays within it. Inputs are changes to a good
 * file (its index unpacked, so that entries can be hit); for most of them the checksums are then made to fit, or they would all be refused at the door. */
#include "fuzz_input.h"
#include "migrate/snap_writer.h"
#include "migrate/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

enum { PAGES = 48 };

static u8 *good;
static size_t good_len;

static u8 *read_fd(int fd, size_t *n)
{
	*n = lseek(fd, 0, SEEK_END);
	u8 *p = calloc(1, *n + 65536);
	if (pread(fd, p, *n, 0) != (ssize_t)*n)
		abort();
	return p;
}

static void unpack_index(u8 *p, size_t *n)
{
	struct snap_header *h = (struct snap_header *)p;
	struct snap_section s[SNAP_SECTIONS];
	u8 raw[4096];
	memcpy(s, p + h->table_at, sizeof s);
	size_t len = ZSTD_decompress(raw, sizeof raw, p + s[SNAP_INDEX].at, s[SNAP_INDEX].stored);
	if (len != s[SNAP_INDEX].raw)
		return; /* it was not packed */
	memcpy(p + s[SNAP_INDEX].at, raw, len);
	s[SNAP_INDEX].stored = len;
	h->table_at = s[SNAP_INDEX].at + len;
	memcpy(p + h->table_at, s, sizeof s);
	*n = h->file_bytes = h->table_at + sizeof s;
}

static void make_good(void)
{
	static u8 pages[PAGES * 4096];
	struct snap_header h = { .id = { 1 }, .memory = sizeof pages };
	struct snap_meta m = { .memory = sizeof pages, .cpus = 1 };
	struct state_buf state = { 0 };
	int fd = memfd_create("good", 0);
	struct snap_writer *w = snap_writer_create(dup(fd));
	for (unsigned i = 0; i < sizeof pages; i++)
		pages[i] = i / 4096 % 3 ? (u8)(i >> 5) : 0;
	for (unsigned c = 0; c < PAGES / SNAP_CHUNK_PAGES; c++)
		snap_writer_chunk(w, c, 0xffff, pages + c * SNAP_CHUNK_PAGES * 4096, true);
	state_save(&state, &snap_meta_state, "anything", &m);
	if (snap_writer_finish(w, &h, &m, &state))
		abort();
	snap_writer_free(w);
	state_buf_free(&state);
	good = read_fd(fd, &good_len);
	unpack_index(good, &good_len);
	close(fd);
}

static u64 sum(const u8 *p, size_t n, u64 at, u64 len) { return at <= n && len <= n - at ? snap_checksum(p + at, len) : 0; }

static void fix_sums(u8 *p, size_t n)
{
	struct snap_header *h = (struct snap_header *)p;
	struct snap_section s[SNAP_SECTIONS];
	if (h->table_at > n || n - h->table_at < sizeof s)
		return;
	memcpy(s, p + h->table_at, sizeof s);
	u64 at = s[SNAP_INDEX].at, len = s[SNAP_INDEX].stored;
	for (u64 i = 0; at <= n && len <= n - at && i < len / sizeof(struct snap_chunk); i++) {
		struct snap_chunk c;
		memcpy(&c, p + at + i * sizeof c, sizeof c);
		c.xxh = sum(p, n, c.at, c.stored);
		memcpy(p + at + i * sizeof c, &c, sizeof c);
	}
	for (unsigned i = SNAP_META; i < SNAP_SECTIONS; i++)
		s[i].xxh = sum(p, n, s[i].at, s[i].stored);
	memcpy(p + h->table_at, s, sizeof s);
	h->table_xxh = snap_checksum(s, sizeof s);
	h->xxh = snap_checksum(h, offsetof(struct snap_header, xxh));
}

static int put(void *opaque, u64 frame, const u8 *page)
{
	volatile u8 last = page[PAGE_SIZE - 1];
	(void)last;
	if (frame * PAGE_SIZE >= *(u64 *)opaque)
		abort();
	return 0;
}

static int no_parent(void *opaque, const char *name) { return -ENOENT; }

static void read_it(int fd)
{
	struct snap_file *f;
	struct state_buf b;
	if (snap_open_fd(&f, "fuzz", fd, no_parent, NULL))
		return;
	struct snap_scratch *s = snap_scratch_create();
	u64 memory = snap_get_header(f)->memory;
	for (u64 i = 0; i < min_u64(memory / PAGE_SIZE, 4096); i++)
		snap_read_chunk(f, s, i, put, &memory);
	if (!snap_read_state(f, &b))
		state_buf_free(&b);
	snap_scratch_free(s);
	snap_close(f);
}

/* Where something interesting is: header, index, table, anywhere. */
static u64 place(struct fuzz_input *in, size_t n)
{
	const struct snap_header *h = (const struct snap_header *)good;
	u64 v = fuzz_take(in, 2), kind = v & 3;
	v >>= 2;
	return kind == 0 ? v % sizeof *h : kind == 1 ? h->table_at - PAGES / SNAP_CHUNK_PAGES * sizeof(struct snap_chunk) + v % 120 :
	       kind == 2 ? h->table_at + v % (SNAP_SECTIONS * sizeof(struct snap_section)) : v % n;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };
	if (!good)
		make_good();
	size_t n = good_len;
	u8 *p = malloc(n + 16);
	int fd = memfd_create("fuzz", 0);
	memcpy(p, good, n);
	u64 how = fuzz_take(&in, 1);
	for (unsigned i = 0; i < 1 + how % 4; i++) {
		u64 at = place(&in, n), v = fuzz_take(&in, 1) & 1 ? fuzz_take(&in, 1) : fuzz_take(&in, 8);
		unsigned len = fuzz_size(&in);
		if (at + len <= n)
			memcpy(p + at, &v, len);
	}
	if (how & 0xf0)
		fix_sums(p, n);
	if (how & 8 && n > 64)
		n -= fuzz_take(&in, 1) % 64;
	if (write(fd, p, n) == (ssize_t)n)
		read_it(fd);
	else
		close(fd);
	free(p);
	return 0;
}
