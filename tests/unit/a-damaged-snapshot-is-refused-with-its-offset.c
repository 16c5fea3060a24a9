/* Snapshot files: what was written comes back, and no file that lost a byte or had a bit flipped is opened. */
#include "base/log.h"
#include "migrate/snap_writer.h"
#include "migrate/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

enum { PAGES = 64 };

static u8 memory[PAGES * 4096];
static u8 back[PAGES * 4096];

static void fill(u64 frame, u32 seed)
{
	for (unsigned i = 0; i < PAGE_SIZE; i++)
		memory[frame * PAGE_SIZE + i] = seed ? (u8)((seed += 2654435761u) >> 24) & (frame % 2 ? 0xff : 0x03) : 0;
}

/* A snapshot of `wanted` frames in a memfd, standing on parent or nothing. */
static int make(u64 wanted, const struct snap_header *parent)
{
	struct snap_header h = { .memory = sizeof memory };
	struct snap_meta m = { .memory = sizeof memory, .cpus = 1 };
	struct state_buf state = { 0 };
	int fd = memfd_create("snapshot", 0), mine = dup(fd);
	struct snap_writer *w = snap_writer_create(mine);
	memset(h.id, parent ? 2 : 1, sizeof h.id);
	if (parent) {
		memcpy(h.parent, parent->id, sizeof h.parent);
		strcpy((char *)m.parent_file, "below");
	}
	strcpy((char *)m.name, "test");
	state_save(&state, &snap_meta_state, "anything", &m);
	for (unsigned c = 0; c < PAGES / SNAP_CHUNK_PAGES; c++) {
		u64 mask = wanted >> (c * SNAP_CHUNK_PAGES) & low_mask(SNAP_CHUNK_PAGES);
		if (mask)
			assert_int_equal(snap_writer_chunk(w, c, mask, memory + (u64)c * SNAP_CHUNK_PAGES * PAGE_SIZE, parent), 0);
	}
	assert_int_equal(snap_writer_finish(w, &h, &m, &state), 0);
	snap_writer_free(w);
	state_buf_free(&state);
	return fd;
}

static int put(void *opaque, u64 frame, const u8 *page)
{
	memcpy(back + frame * PAGE_SIZE, page, PAGE_SIZE);
	return 0;
}

static int below = -1;
static int open_below(void *opaque, const char *name) { return strcmp(name, "below") || below < 0 ? -ENOENT : dup(below); }

static int open_copy(int fd, struct snap_file **f) { return snap_open_fd(f, "test.snap", dup(fd), open_below, NULL); }

static void read_all(struct snap_file *f)
{
	struct snap_scratch *s = snap_scratch_create();
	memset(back, 0, sizeof back);
	for (u64 i = 0; i < PAGES; i++)
		assert_int_equal(snap_read_chunk(f, s, i, put, NULL), 0);
	snap_scratch_free(s);
}

static void pages_come_back_through_a_chain(void **state)
{
	struct snap_file *f;
	for (u64 i = 0; i < PAGES; i++)
		fill(i, i % 5 ? 7 * i + 1 : 0);
	int first = make(~0ull, NULL);
	assert_int_equal(open_copy(first, &f), 0);
	read_all(f);
	assert_memory_equal(memory, back, sizeof memory);
	assert_false(snap_has_page(f, 0));
	assert_true(snap_has_page(f, 1));
	assert_int_equal(snap_chain(f), 1);
	struct snap_header h = *snap_get_header(f);
	snap_close(f);
	fill(1, 0); /* has become zero */
	fill(5, 99);
	fill(40, 77);
	below = first;
	int second = make(BIT(1) | BIT(5) | BIT(40), &h);
	assert_int_equal(open_copy(second, &f), 0);
	assert_int_equal(snap_chain(f), 2);
	read_all(f);
	assert_memory_equal(memory, back, sizeof memory);
	snap_close(f);
	below = second; /* another one than it stands on */
	assert_true(open_copy(second, &f) < 0);
	below = -1;
	assert_int_equal(open_copy(second, &f), -ENOENT);
	close(first);
	close(second);
}

static u8 *content(int fd, size_t *n)
{
	*n = lseek(fd, 0, SEEK_END);
	u8 *p = malloc(*n);
	assert_int_equal(pread(fd, p, *n, 0), *n);
	return p;
}

static void no_flipped_bit_is_accepted(void **state)
{
	struct snap_file *f;
	size_t n;
	for (u64 i = 0; i < PAGES; i++)
		fill(i, i % 3 ? 0 : i + 1);
	int fd = make(~0ull, NULL);
	u8 *p = content(fd, &n);
	assert_int_equal(open_copy(fd, &f), 0);
	snap_close(f);
	u64 step = n > 20000 ? 7 : 1;
	for (u64 at = 0; at < n; at += at < 200 || at + 600 > n ? 1 : step) {
		u8 wrong = p[at] ^ (u8)bit(at % 8);
		assert_int_equal(pwrite(fd, &wrong, 1, at), 1);
		assert_true(open_copy(fd, &f) < 0);
		assert_int_equal(pwrite(fd, p + at, 1, at), 1);
	}
	assert_int_equal(open_copy(fd, &f), 0);
	snap_close(f);
	free(p);
	close(fd);
}

static void no_other_length_is_accepted(void **state)
{
	struct snap_file *f;
	size_t n;
	for (u64 i = 0; i < PAGES; i++)
		fill(i, i + 1);
	int fd = make(~0ull, NULL);
	u8 *p = content(fd, &n);
	for (u64 len = 0; len < n; len += len < 300 || len + 300 > n ? 1 : 211) {
		assert_int_equal(ftruncate(fd, len), 0);
		assert_true(open_copy(fd, &f) < 0);
		assert_int_equal(pwrite(fd, p, n, 0), n);
	}
	assert_int_equal(pwrite(fd, "x", 1, n), 1);
	assert_true(open_copy(fd, &f) < 0);
	free(p);
	close(fd);
}

/* A writer that was killed: all but the header is there. */
static void a_file_without_its_header_is_no_snapshot(void **state)
{
	struct snap_file *f;
	static const u8 zeros[sizeof(struct snap_header)];
	int fd = make(~0ull, NULL);
	assert_int_equal(pwrite(fd, zeros, sizeof zeros, 0), sizeof zeros);
	assert_true(open_copy(fd, &f) < 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_come_back_through_a_chain),
		cmocka_unit_test(no_flipped_bit_is_accepted),
		cmocka_unit_test(no_other_length_is_accepted),
		cmocka_unit_test(a_file_without_its_header_is_no_snapshot),
	};
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
