/* Guest-physical memory: see mem.h. Surprise: nothing here is touched before the guest touches it; the memfd is
 * sparse and the arrays are fresh anonymous mappings, so the process's memory follows what the guest has really used.
 * */
#include "mem/mem.h"

#include "base/log.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#define LINE_SHIFT 6
#define MAX_FRAMES 0xffffffffull /* frame numbers are u32 in the TLB, all ones is none */

static void *map_zeroes(u64 bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static u64 dirty_bytes(const struct mem *m) { return align_up((m->frames + 63) / 64 * 8, PAGE_SIZE); }
static u64 lines_bytes(const struct mem *m) { return align_up(m->frames * 8, PAGE_SIZE); }

int mem_map_new(struct mem *m)
{
	int fd = memfd_create("nestbox-ram", MFD_CLOEXEC), fixed = m->base ? MAP_FIXED : 0;
	void *p = MAP_FAILED;
	if (fd >= 0 && !ftruncate(fd, (off_t)m->bytes))
		p = mmap(m->base, m->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | fixed, fd, 0);
	if (p == MAP_FAILED) {
		int err = -errno;
		if (fd >= 0)
			close(fd);
		return err;
	}
	if (m->memfd >= 0)
		close(m->memfd);
	m->memfd = fd;
	m->base = p;
	m->is_private = false;
	/* With huge pages a touched byte would cost 2 MiB. A kernel without them refuses, which is as good. */
	madvise(m->base, m->bytes, MADV_NOHUGEPAGE);
	return 0;
}

static int map_all(struct mem *m)
{
	int err = mem_map_new(m);
	if (err)
		return err;
	m->code_lines = map_zeroes(lines_bytes(m));
	m->dirty = map_zeroes(dirty_bytes(m));
	return m->code_lines && m->dirty ? 0 : -ENOMEM;
}

int mem_init(struct mem *m, u64 bytes)
{
	memset(m, 0, sizeof *m);
	m->memfd = -1;
	m->bytes = bytes;
	m->frames = bytes / PAGE_SIZE;
	int err = !bytes || bytes % PAGE_SIZE || m->frames >= MAX_FRAMES ? -EINVAL : map_all(m);
	if (err) {
		log_error("guest memory: cannot map %llu KiB: %s", (unsigned long long)(bytes / KiB), strerror(-err));
		mem_free(m);
	}
	return err;
}

void mem_free(struct mem *m)
{
	mem_ahead_stop(m);
	if (m->base)
		munmap(m->base, m->bytes);
	if (m->code_lines)
		munmap(m->code_lines, lines_bytes(m));
	if (m->dirty)
		munmap(m->dirty, dirty_bytes(m));
	if (m->memfd >= 0)
		close(m->memfd);
	memset(m, 0, sizeof *m);
	m->memfd = -1;
}

u64 mem_next_frame(const struct mem *m)
{
	u64 frame = 0;
	for (unsigned i = 0; i < m->nslots; i++)
		frame = max_u64(frame, m->slots[i].frame + m->slots[i].size / PAGE_SIZE);
	return frame;
}

int mem_add_view(struct mem *m, gpa_t at, u64 size, u64 frame, enum mem_kind kind, const char *name)
{
	unsigned place = 0;
	if (m->nslots == MEM_MAX_SLOTS || size / PAGE_SIZE > m->frames || frame > m->frames - size / PAGE_SIZE)
		return -ENOSPC;
	while (place < m->nslots && m->slots[place].size >= size)
		place++;
	memmove(&m->slots[place + 1], &m->slots[place], (m->nslots - place) * sizeof m->slots[0]);
	m->slots[place] = (struct mem_slot){ .gpa = at.v, .size = size, .host = m->base + frame * PAGE_SIZE, .frame = frame,
					     .kind = kind, .name = name };
	m->nslots++;
	return 0;
}

int mem_add_slot(struct mem *m, gpa_t at, u64 size, enum mem_kind kind, const char *name)
{
	bug_if(!size || (at.v | size) % PAGE_SIZE || at.v + size < at.v);
	for (unsigned i = 0; i < m->nslots; i++) {
		const struct mem_slot *s = &m->slots[i];
		if (at.v < s->gpa + s->size && s->gpa < at.v + size)
			return -EEXIST;
	}
	return mem_add_view(m, at, size, mem_next_frame(m), kind, name);
}

void mem_remap(struct mem *m, const char *name, u64 at, u64 size, u64 frame, enum mem_kind kind)
{
	struct mem_slot *s = m->slots;
	bug_if((at | size) % PAGE_SIZE || frame + size / PAGE_SIZE > m->frames);
	while (s < m->slots + m->nslots && strcmp(s->name, name))
		s++;
	bug_if(s == m->slots + m->nslots);
	__atomic_store_n(&s->size, 0, __ATOMIC_SEQ_CST);
	s->gpa = at;
	s->frame = frame;
	s->host = m->base + frame * PAGE_SIZE;
	s->kind = kind;
	__atomic_store_n(&s->size, size, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&m->remaps, 1, __ATOMIC_SEQ_CST);
}

void mem_remap_done(struct mem *m)
{
	if (m->remapped)
		m->remapped(m->remapped_opaque);
}

const struct mem_slot *mem_slot_at(const struct mem *m, gpa_t at) { return mem_find(m, at.v); }

/* The slot that holds at, and how many of the len bytes from there lie in it. */
static const struct mem_slot *piece(const struct mem *m, u64 at, u64 len, u64 *n)
{
	const struct mem_slot *s = mem_find(m, at);
	if (!s)
		return NULL;
	u64 size = __atomic_load_n(&s->size, __ATOMIC_RELAXED), off = at - s->gpa;
	if (off >= size) /* closed since mem_find looked */
		return NULL;
	*n = min_u64(len, size - off);
	return s;
}

void *mem_ptr(const struct mem *m, gpa_t at, u64 len)
{
	u64 n;
	const struct mem_slot *s = piece(m, at.v, len, &n);
	if (!s || n != len)
		return NULL;
	if (unlikely(m->source))
		mem_fetch_range(m, at, len);
	return s->host + (at.v - s->gpa);
}

i64 mem_frame(const struct mem *m, gpa_t at)
{
	const struct mem_slot *s = mem_find(m, at.v);
	return s ? (i64)(s->frame + (at.v - s->gpa) / PAGE_SIZE) : -1;
}

/* All of [at, at+len) is memory, and RAM if `writing`. */
static bool covered(const struct mem *m, u64 at, u64 len, bool writing)
{
	for (u64 n; len; at += n, len -= n) {
		const struct mem_slot *s = piece(m, at, len, &n);
		if (!s || (writing && s->kind == MEM_ROM))
			return false;
	}
	return true;
}

/* mem_note_write over any length within a slot. */
static void note_range(struct mem *m, const struct mem_slot *s, u64 at, u64 len)
{
	u64 off = at - s->gpa;
	for (u64 n; len; off += n, len -= n) {
		n = min_u64(len, PAGE_SIZE - off % PAGE_SIZE);
		mem_note_write(m, s->frame + off / PAGE_SIZE, off % PAGE_SIZE, n);
	}
}

int mem_read(const struct mem *m, gpa_t at, void *to, u64 len)
{
	if (!covered(m, at.v, len, false))
		return -EFAULT;
	u8 *p = to;
	u64 a = at.v;
	for (u64 n = 0; len; a += n, p += n, len -= n) {
		const struct mem_slot *s = piece(m, a, len, &n);
		if (unlikely(m->source))
			mem_fetch_range(m, gpa(a), n);
		memcpy(p, s->host + (a - s->gpa), n);
	}
	return 0;
}

/* Fresh pages that are written by a system call need not be zeroed, and take no fault each: half the time of writing through the mapping. */
static bool store_file(const struct mem *m, u64 off, const u8 *p, u64 len)
{
	for (ssize_t n; len; off += (u64)n, p += n, len -= (u64)n) {
		n = pwrite(m->memfd, p, len, (off_t)off);
		if (n < 0 && errno == EINTR)
			n = 0;
		else if (n <= 0)
			return false;
	}
	return true;
}

/* by_call: with store_file(), as far as that works. */
static int write_all(struct mem *m, u64 a, const u8 *p, u64 len, bool by_call)
{
	if (!covered(m, a, len, true))
		return -EFAULT;
	for (u64 n = 0; len; a += n, p += n, len -= n) {
		const struct mem_slot *s = piece(m, a, len, &n);
		u8 *to = s->host + (a - s->gpa);
		mem_will_write_range(m, gpa(a), n);
		if (!by_call || !store_file(m, (u64)(to - m->base), p, n))
			memcpy(to, p, n);
		note_range(m, s, a, n);
	}
	return 0;
}

int mem_write(struct mem *m, gpa_t at, const void *from, u64 len) { return write_all(m, at.v, from, len, false); }
int mem_load(struct mem *m, gpa_t at, const void *from, u64 len) { return write_all(m, at.v, from, len, !m->is_private); }

/* The file's pages are in the host's page cache, where a system call finds them: one copy instead of two. */
static bool load_piece(struct mem *m, u64 a, int fd, u64 off, u64 len)
{
	u64 n = 0, before = off % PAGE_SIZE;
	const struct mem_slot *s = piece(m, a, len, &n);
	if (!s || n < len || s->kind != MEM_RAM)
		return false;
	u8 *p = mmap(NULL, before + len, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, (off_t)(off - before));
	if (p == MAP_FAILED)
		return false;
	mem_will_write_range(m, gpa(a), len);
	bool ok = store_file(m, (u64)(s->host + (a - s->gpa) - m->base), p + before, len);
	note_range(m, s, a, len);
	munmap(p, before + len);
	return ok;
}

int mem_load_file(struct mem *m, gpa_t at, int fd, u64 off, u64 len)
{
	const u64 most = 4 * MiB;
	if (m->is_private || !covered(m, at.v, len, true))
		return -EINVAL;
	for (u64 done = 0; done < len; done += most)
		if (!load_piece(m, at.v + done, fd, off + done, min_u64(most, len - done)))
			return -EIO;
	return 0;
}

u64 mem_read_le(const struct mem *m, gpa_t at, unsigned size)
{
	const void *p = mem_ptr(m, at, size);
	if (likely(p))
		return host_load(p, size);
	u64 v = low_mask(8 * size);
	for (unsigned i = 0; i < size; i++) {
		const u8 *b = mem_ptr(m, gpa(at.v + i), 1);
		if (b)
			v = (v & ~((u64)0xff << 8 * i)) | (u64)*b << 8 * i;
	}
	return v;
}

void mem_write_le(struct mem *m, gpa_t at, u64 value, unsigned size)
{
	u64 n;
	const struct mem_slot *s = piece(m, at.v, size, &n);
	if (likely(s && n == size && s->kind == MEM_RAM)) {
		mem_will_write_range(m, at, size);
		host_store(s->host + (at.v - s->gpa), size, value);
		note_range(m, s, at.v, size);
		return;
	}
	for (unsigned i = 0; i < size; i++) {
		u8 b = (u8)(value >> 8 * i);
		mem_write(m, gpa(at.v + i), &b, 1);
	}
}

void mem_note_write(struct mem *m, u64 frame, unsigned off, unsigned len)
{
	if (!len)
		return;
	bug_if(frame >= m->frames || off + len > PAGE_SIZE);
	if (m->dirty_log)
		__atomic_fetch_or(&m->dirty[frame / 64], bit(frame % 64), __ATOMIC_RELAXED);
	/* Either we see the line's bit, or the decoder, which sets the bit before it reads, sees our bytes. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	unsigned first = off >> LINE_SHIFT, last = (off + len - 1) >> LINE_SHIFT;
	u64 hit = mem_code_lines(m, frame) & low_mask(last + 1) & ~low_mask(first);
	if (likely(!hit))
		return;
	/* Cleared before the engines are told: who decodes here from now on sees the new bytes and marks the lines again. A page whose code is gone becomes an
	 * ordinary page that way. */
	__atomic_fetch_and(&m->code_lines[frame], ~hit, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < m->nlisteners; i++)
		m->listeners[i].code_written(m->listeners[i].opaque, frame, first, last);
}

int mem_add_listener(struct mem *m, struct mem_listener l)
{
	if (m->nlisteners == array_len(m->listeners))
		return -ENOSPC;
	m->listeners[m->nlisteners++] = l;
	return 0;
}
