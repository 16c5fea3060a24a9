/* Guest-physical memory of one VM: RAM and ROM slots over one memfd, code and dirty tracking, typed reads and writes.
 * Not here: devices (bus/), guest page tables (cpu/mmu.h). Surprise: a page that holds decoded code is tracked in
 * 64-byte lines; writers (vCPUs, DMA) call mem_note_write() for such pages and the engines hear of it. */
#ifndef NB_MEM_H
#define NB_MEM_H

#include "base/base.h"

enum mem_kind { MEM_RAM, MEM_ROM };

struct mem_slot {
	u64 gpa;       /* page-aligned */
	u64 size;      /* page-aligned; 0: not mapped now */
	u8 *host;      /* start in the memfd mapping */
	u64 frame;     /* number of the slot's first 4 KiB page in the VM's page arrays */
	enum mem_kind kind;
	const char *name;
};

#define MEM_MAX_SLOTS 32

/* Where pages that are not in memory yet come from (a snapshot that is being loaded lazily). */
struct mem_source {
	/* Brings in at least this page, then clears its bit in `absent`. Any thread, several at once; cannot fail (a host failure ends the VM). */
	void (*fetch)(void *opaque, u64 frame);
	void *opaque;
	u64 *absent; /* one bit per frame; atomic */
};

/* Who has to see a page as it was before its next write (a checkpoint that is being written in the background). */
struct mem_keeper {
	void (*before_write)(void *opaque, u64 frame); /* any thread; may be told of one page many times */
	void *opaque;
};

/* Called after bytes of a page with decoded code were written, from the writer's thread. */
struct mem_listener {
	void (*code_written)(void *opaque, u64 frame, unsigned first_line, unsigned last_line);
	void *opaque;
};

struct mem {
	struct mem_slot slots[MEM_MAX_SLOTS]; /* disjoint, the biggest first; once the vCPUs run only mem_remap changes one, in place */
	unsigned nslots;
	u32 remaps;      /* counts what mem_remap does, for who keeps host addresses; atomic */
	u8 *base;        /* the whole memfd mapping */
	u64 bytes, frames;
	int memfd;
	u64 *code_lines; /* per frame: bit n = 64-byte line n holds decoded code; atomic */
	u64 *dirty;      /* one bit per frame, only while dirty_log; atomic */
	bool dirty_log;
	bool is_private; /* copy-on-write over memfd's content, which others share: see mem_map_private */
	struct mem_source *source; /* NULL: all pages are there. Set while the vCPUs are paused; stays valid until the next pause */
	struct mem_keeper *keeper; /* NULL: nobody. Set while paused, taken away at any time (atomic); stays valid until the next pause */
	struct mem_listener listeners[16];
	unsigned nlisteners;
	struct mem_ahead *ahead; /* NULL: nobody brings pages in before they are touched (ahead.c) */
	u64 *touched;            /* ahead's: a word for MEM_AHEAD_PIECE frames, whose low bits are set for those that were touched; atomic. NULL without */
	void (*remapped)(void *opaque); /* translations to host memory are stale; set by vm/ */
	void *remapped_opaque;
};

/* Maps `bytes` (page multiple) of zeroed guest memory. Returns 0 or -errno with one log line. */
int mem_init(struct mem *m, u64 bytes);
void mem_free(struct mem *m);

/* Gives the next `size` bytes of the memfd to guest-physical `gpa`. Before the vCPUs start. 0, or -ENOSPC / -EEXIST
 * (overlap). */
int mem_add_slot(struct mem *m, gpa_t at, u64 size, enum mem_kind kind, const char *name);

/* The same for pages of the memfd that the caller chooses: frames may be shared by slots (shadow RAM, a ROM's alias). Overlaps are the caller's bug. */
int mem_add_view(struct mem *m, gpa_t at, u64 size, u64 frame, enum mem_kind kind, const char *name);
/* Number of the memfd's first page that no slot has used yet. */
u64 mem_next_frame(const struct mem *m);
/* Moves, opens or (size 0) closes the slot called `name`, while vCPUs may run; mem_remap_done once after the last of a batch, from the thread whose
 * guest asked for it: that vCPU sees the change with its next access, the others at their next boundary. Memory-safe for threads in mem_find: at
 * every moment a slot's gpa and size lie within what its frame has. */
void mem_remap(struct mem *m, const char *name, u64 at, u64 size, u64 frame, enum mem_kind kind);
void mem_remap_done(struct mem *m);

/* The slot that holds `at`, or NULL (device or nothing). */
const struct mem_slot *mem_slot_at(const struct mem *m, gpa_t at);
/* The same for page walks, which ask five times per TLB miss. */
static inline const struct mem_slot *mem_find(const struct mem *m, u64 at)
{
	for (unsigned i = 0; i < m->nslots; i++)
		if (at - m->slots[i].gpa < m->slots[i].size)
			return &m->slots[i];
	return NULL;
}

/* ---- pages.c: before and after a page is touched ---- */

/* Makes sure that the frame's bytes are in memory: before its host address is read through or given out. The calls below and mem_ptr do it. */
static inline void mem_fetch(const struct mem *m, u64 frame)
{
	const struct mem_source *s = m->source;
	if (unlikely(s) && (__atomic_load_n(&s->absent[frame / 64], __ATOMIC_ACQUIRE) & bit(frame % 64)))
		s->fetch(s->opaque, frame);
}
/* The frame is about to be written around mem_write: before each such write, as mem_note_write is called after it. Who keeps a host address to
 * write through it later calls this again before the write. */
static inline void mem_will_write(struct mem *m, u64 frame)
{
	mem_fetch(m, frame);
	struct mem_keeper *k = __atomic_load_n(&m->keeper, __ATOMIC_ACQUIRE);
	if (unlikely(k))
		k->before_write(k->opaque, frame);
}
/* The same for [at, at+len) of guest-physical memory, as far as that is memory. */
void mem_fetch_range(const struct mem *m, gpa_t at, u64 len);
void mem_will_write_range(struct mem *m, gpa_t at, u64 len);

/* For a device with memory of its own at a frame, which it reads and writes around the calls below: before reading, before and after writing `len` bytes at
 * byte `off` from that frame's start. */
void mem_fetch_bytes(const struct mem *m, u64 frame, u64 off, u64 len);
void mem_will_write_bytes(struct mem *m, u64 frame, u64 off, u64 len);
void mem_note_write_bytes(struct mem *m, u64 frame, u64 off, u64 len);

/* ---- ahead.c: fresh pages before the guest touches them ---- */

/* A thread of its own populates the host's memory of chunks of 2 MiB of which a part has been touched, so that guests need not wait for the host's page faults. What came and was
 * not touched yet stays within 4 MiB and a thirty-second of what has been touched. Without it (one CPU only, no memory, Linux before 5.14) everything works as well.
 * start: before the vCPUs run; stop: after they have ended, mem_free does it too. */
enum { MEM_AHEAD_PIECE = 16 }; /* pages */
void mem_ahead_start(struct mem *m);
void mem_ahead_stop(struct mem *m);
void mem_ahead_first_touch(struct mem *m, u64 frame);
/* A vCPU is about to use the frame. Uses that nobody tells of (by devices, through windows of the TLB) only let fewer pages come. */
static inline void mem_ahead_touch(struct mem *m, u64 frame)
{
	if (m->touched && unlikely(!(__atomic_load_n(&m->touched[frame / MEM_AHEAD_PIECE], __ATOMIC_RELAXED) & bit(frame % MEM_AHEAD_PIECE))))
		mem_ahead_first_touch(m, frame);
}
/* Between these two nothing is populated: around all that takes pages away from below the guest, or puts others there. Any thread; waits for one piece at most. */
void mem_ahead_hold(struct mem *m);
void mem_ahead_release(struct mem *m);
/* While held. These n frames have been given back to the host: they do not come until the guest touches them. */
void mem_ahead_given(struct mem *m, u64 first, u64 n);
/* While held, vCPUs paused: all memory is another, and untouched. */
void mem_ahead_forget(struct mem *m);
struct mem_ahead_stats {
	u64 touched, came, spare; /* pages that vCPUs use; that were populated in all; that are there for that reason only, untouched */
};
void mem_ahead_stats(const struct mem *m, struct mem_ahead_stats *s);

/* Words of a bitmap with a bit per frame. */
static inline u64 mem_bitmap_words(const struct mem *m) { return (m->frames + 63) / 64; }
/* Dirty log: from now on writes set bits. Moves the bits set so far to taken (mem_bitmap_words), which may be NULL. vCPUs paused, devices still;
 * the caller flushes every vCPU's TLB afterwards, or writes go unseen. */
void mem_dirty_take(struct mem *m, u64 *taken);
/* Puts bits back: what was taken has not been saved after all. Any time. */
void mem_dirty_put(struct mem *m, const u64 *taken);
/* Sets in bits those frames that have ever been written since mem_init, mem_clear: the others are zero. Not while is_private. 0 or -errno. */
int mem_touched(const struct mem *m, u64 *bits);
/* All memory reads as zeros; gives it back to the host. Decoded code is not told: the caller makes the engines forget. vCPUs paused. 0 or -errno. */
int mem_clear(struct mem *m);
/* For mem_init and mem_clear: fresh zeroed memory in a memfd of our own, where there was any at the same address. */
int mem_map_new(struct mem *m);
/* The content of [at, at+len) no longer matters: the whole pages in it that are RAM go back to the host, and read as zeros (or as the shared image
 * has them, with mem_map_private). Returns how many bytes did. Any thread. */
u64 mem_discard(struct mem *m, gpa_t at, u64 len);
/* Maps all memory copy-on-write over fd (m->bytes long), which is shared with others: what they fill in later is seen until a page is written. fd is
 * taken over. Before the vCPUs run. 0 or -errno, then nothing has changed. */
int mem_map_private(struct mem *m, int fd);
/* Stores the frame's first content into what the mapping stands on: for a source's fetch. 0 or -errno. */
int mem_fill(struct mem *m, u64 frame, const void *page);

/* Host address of [at, at+len) when it lies in one slot, else NULL. Does not track writes: use mem_write for those, or
 * mem_will_write before and mem_note_write afterwards. */
void *mem_ptr(const struct mem *m, gpa_t at, u64 len);

/* Page number of `at` in the VM's page arrays, or -1 when it is no memory. */
i64 mem_frame(const struct mem *m, gpa_t at);

/* Copies across slots. Return 0, or -EFAULT when any byte is not memory (or, writing, is ROM); then nothing is
 * copied. */
int mem_read(const struct mem *m, gpa_t at, void *to, u64 len);
int mem_write(struct mem *m, gpa_t at, const void *from, u64 len);
/* mem_write for much at once into memory that nobody has touched yet: kernels, RAM disks. */
int mem_load(struct mem *m, gpa_t at, const void *from, u64 len);
/* As mem_load, of `len` bytes at `off` of a regular file, without reading them first. -errno if that cannot be, also when the file has become shorter: then part of it
 * may be there, and mem_load says more. */
int mem_load_file(struct mem *m, gpa_t at, int fd, u64 off, u64 len);

/* Little-endian scalar of 1, 2, 4 or 8 bytes; one host access when naturally aligned. A hole reads as all ones. */
u64 mem_read_le(const struct mem *m, gpa_t at, unsigned size);
void mem_write_le(struct mem *m, gpa_t at, u64 value, unsigned size);

/* A writer that went around mem_write has written `len` bytes inside frame `frame` at page offset `off`: log dirty;
 * if 64-byte lines with decoded code were hit, clear their bits in code_lines (atomically, before telling) and tell
 * listeners, so that a page whose code is all gone becomes an ordinary writable page again. An engine sets the bits
 * before it reads the bytes, so a writer in between is either seen or told. */
void mem_note_write(struct mem *m, u64 frame, unsigned off, unsigned len);
int mem_add_listener(struct mem *m, struct mem_listener l);

static inline u64 mem_code_lines(const struct mem *m, u64 frame) { return __atomic_load_n(&m->code_lines[frame], __ATOMIC_RELAXED); }

#endif
