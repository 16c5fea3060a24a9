/* What happens to pages as wholes: brought in late, kept before a write, logged dirty, given back. See mem.h. Not here: snapshot files (migrate/).
 * Surprise: memory that was never written since mem_init is known without a log; the memfd's holes are exactly those pages. */
#include "mem/mem.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- ranges ---- */

/* First frame and number of frames of the part of [at, at+len) that lies in at's slot; *step: bytes to the next part. */
static bool frames_of(const struct mem *m, u64 at, u64 len, u64 *first, u64 *n, u64 *step)
{
	const struct mem_slot *s = mem_find(m, at);
	if (!s) {
		*step = min_u64(len, PAGE_SIZE - at % PAGE_SIZE);
		return false;
	}
	u64 off = at - s->gpa, end = off + min_u64(len, s->size - off);
	*step = end - off;
	*first = s->frame + off / PAGE_SIZE;
	*n = (end + PAGE_SIZE - 1) / PAGE_SIZE - off / PAGE_SIZE;
	return true;
}

void mem_fetch_range(const struct mem *m, gpa_t at, u64 len)
{
	if (likely(!m->source))
		return;
	for (u64 a = at.v, step, first, n; len; a += step, len -= step)
		if (frames_of(m, a, len, &first, &n, &step))
			for (u64 i = 0; i < n; i++)
				mem_fetch(m, first + i);
}

void mem_will_write_range(struct mem *m, gpa_t at, u64 len)
{
	if (likely(!m->source && !__atomic_load_n(&m->keeper, __ATOMIC_ACQUIRE)))
		return;
	for (u64 a = at.v, step, first, n; len; a += step, len -= step)
		if (frames_of(m, a, len, &first, &n, &step))
			for (u64 i = 0; i < n; i++)
				mem_will_write(m, first + i);
}

void mem_fetch_bytes(const struct mem *m, u64 frame, u64 off, u64 len)
{
	for (u64 f = off / PAGE_SIZE; m->source && len && f <= (off + len - 1) / PAGE_SIZE; f++)
		mem_fetch(m, frame + f);
}

void mem_will_write_bytes(struct mem *m, u64 frame, u64 off, u64 len)
{
	for (u64 f = off / PAGE_SIZE; len && f <= (off + len - 1) / PAGE_SIZE; f++)
		mem_will_write(m, frame + f);
}

void mem_note_write_bytes(struct mem *m, u64 frame, u64 off, u64 len)
{
	for (u64 n; len; off += n, len -= n) {
		n = min_u64(len, PAGE_SIZE - off % PAGE_SIZE);
		mem_note_write(m, frame + off / PAGE_SIZE, off % PAGE_SIZE, n);
	}
}

/* ---- dirty log ---- */

void mem_dirty_take(struct mem *m, u64 *taken)
{
	m->dirty_log = true;
	for (u64 i = 0; i < mem_bitmap_words(m); i++) {
		u64 was = __atomic_load_n(&m->dirty[i], __ATOMIC_RELAXED);
		if (was) /* an untouched page of the bitmap stays untouched */
			was = __atomic_exchange_n(&m->dirty[i], 0, __ATOMIC_SEQ_CST);
		if (taken)
			taken[i] = was;
	}
}

void mem_dirty_put(struct mem *m, const u64 *taken)
{
	for (u64 i = 0; i < mem_bitmap_words(m); i++)
		if (taken[i])
			__atomic_fetch_or(&m->dirty[i], taken[i], __ATOMIC_SEQ_CST);
}

int mem_touched(const struct mem *m, u64 *bits_)
{
	bug_if(m->is_private);
	for (off_t at = 0, end; (at = lseek(m->memfd, at, SEEK_DATA)) >= 0; at = end) {
		end = lseek(m->memfd, at, SEEK_HOLE);
		if (end < 0)
			return -errno;
		for (u64 f = at / PAGE_SIZE; f < (u64)end / PAGE_SIZE; f++)
			bits_[f / 64] |= bit(f % 64);
	}
	return errno == ENXIO ? 0 : -errno; /* ENXIO: no data beyond */
}

/* ---- giving back ---- */

static int punch(struct mem *m, u64 off, u64 len)
{
	if (m->is_private)
		return madvise(m->base + off, len, MADV_DONTNEED) ? -errno : 0;
	return fallocate(m->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len) ? -errno : 0;
}

int mem_clear(struct mem *m)
{
	mem_ahead_hold(m);
	int err = m->is_private ? mem_map_new(m) : punch(m, 0, m->bytes); /* an image that others share has nothing to do with what comes */
	mem_ahead_forget(m);
	mem_ahead_release(m);
	return err;
}

static int give_back(struct mem *m, u64 first, u64 n)
{
	mem_ahead_hold(m);
	int err = punch(m, first * PAGE_SIZE, n * PAGE_SIZE);
	if (!err)
		mem_ahead_given(m, first, n);
	mem_ahead_release(m);
	return err;
}

static void note_all(struct mem *m, u64 first, u64 n)
{
	for (u64 f = first; f < first + n; f++)
		mem_note_write(m, f, 0, PAGE_SIZE);
}

/* A page in the middle of being given back is seen by others as it was or as zeros; the guest has said that it does not care. */
u64 mem_discard(struct mem *m, gpa_t at, u64 len)
{
	u64 a = align_up(at.v, PAGE_SIZE), end = align_down(at.v + len, PAGE_SIZE), done = 0;
	if (at.v + len < at.v || a < at.v)
		return 0;
	for (u64 first, n, step; a < end; a += step) {
		const struct mem_slot *s = mem_find(m, a);
		if (!frames_of(m, a, end - a, &first, &n, &step) || s->kind != MEM_RAM)
			continue;
		mem_will_write_range(m, gpa(a), step);
		if (give_back(m, first, n))
			continue;
		note_all(m, first, n);
		done += step;
	}
	return done;
}

/* ---- a shared image below ---- */

int mem_map_private(struct mem *m, int fd)
{
	mem_ahead_hold(m); /* populating would copy what nobody has filled in yet */
	void *p = mmap(m->base, m->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, 0);
	int err = p == MAP_FAILED ? -errno : 0;
	if (!err) {
		madvise(m->base, m->bytes, MADV_NOHUGEPAGE);
		close(m->memfd);
		m->memfd = fd;
		m->is_private = true;
		mem_ahead_forget(m);
	}
	mem_ahead_release(m);
	return err;
}

int mem_fill(struct mem *m, u64 frame, const void *page)
{
	if (!m->is_private) {
		memcpy(m->base + frame * PAGE_SIZE, page, PAGE_SIZE);
		return 0;
	}
	ssize_t n = pwrite(m->memfd, page, PAGE_SIZE, frame * PAGE_SIZE);
	return n == (ssize_t)PAGE_SIZE ? 0 : n < 0 ? -errno : -ENOSPC;
}
