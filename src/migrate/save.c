/* Making a snapshot of a running machine. The pause holds: state rows, the list of dirty pages, and taking write permission out of the TLBs. Then a
 * thread copies page after page; a page that the guest (or a device) is about to write before the thread has come to it is copied aside first.
 * Not here: the file (snap_writer.c). Surprise: the page aside lies at the page's own place in a second mapping as large as guest memory, which costs
 * address space only. */
#include "base/log.h"
#include "cpu/mmu.h"
#include "migrate/snap_priv.h"
#include "migrate/snap_writer.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define CHUNK SNAP_CHUNK_PAGES
#define MAX_CHAIN 16 /* then a full one: loading opens and checks all of them */

struct save_job {
	struct snapshots *s;
	struct snap_request rq;
	char name[128], file[128];
	struct mem *mem;
	struct mem_keeper keeper;
	struct snap_writer *w;
	struct snap_header h;
	struct snap_meta meta;
	struct state_buf state;
	u64 *wanted;           /* frames that the file gets */
	u64 *taken;            /* what was dirty: put back if writing fails */
	u64 *pending;          /* atomic; cleared under lock: not copied yet */
	u64 *kept;             /* lock: copied aside */
	u8 *aside;             /* mem->bytes, sparse */
	u64 words, kept_pages;
	pthread_mutex_t lock;
	pthread_t thread;
	bool running;          /* s->lock */
	bool joined;
	unsigned chain;
	struct snap_result result;
	u64 start_ns;
};

/* ---- copy before write ---- */

static void before_write(void *opaque, u64 frame)
{
	struct save_job *j = opaque;
	u64 b = bit(frame % 64);
	if (!(__atomic_load_n(&j->pending[frame / 64], __ATOMIC_ACQUIRE) & b))
		return;
	pthread_mutex_lock(&j->lock);
	if (j->pending[frame / 64] & b) {
		memcpy(j->aside + frame * PAGE_SIZE, j->mem->base + frame * PAGE_SIZE, PAGE_SIZE);
		j->kept[frame / 64] |= b;
		j->kept_pages++;
		__atomic_fetch_and(&j->pending[frame / 64], ~b, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&j->lock);
}

/* ---- the writing thread ---- */

static u64 chunk_mask(const u64 *bits_, u64 first) { return bits_[first / 64] >> (first % 64) & low_mask(CHUNK); }

/* Copies the wanted pages of one chunk as they were at the pause. */
static void copy_chunk(struct save_job *j, u64 first, u64 wanted, u8 *to)
{
	for (u64 m = wanted; m; m &= m - 1)
		mem_fetch(j->mem, first + __builtin_ctzll(m));
	pthread_mutex_lock(&j->lock);
	u64 kept = chunk_mask(j->kept, first);
	for (u64 m = wanted; m; m &= m - 1) {
		u64 n = __builtin_ctzll(m), at = (first + n) * PAGE_SIZE;
		memcpy(to + n * PAGE_SIZE, (kept & bit(n) ? j->aside : j->mem->base) + at, PAGE_SIZE);
	}
	__atomic_fetch_and(&j->pending[first / 64], ~(wanted << (first % 64)), __ATOMIC_RELEASE);
	pthread_mutex_unlock(&j->lock);
	if (kept)
		madvise(j->aside + first * PAGE_SIZE, CHUNK * PAGE_SIZE, MADV_DONTNEED);
}

static int write_pages(struct save_job *j)
{
	u8 *pages = malloc(CHUNK * PAGE_SIZE);
	int err = pages ? 0 : -ENOMEM;
	for (u64 first = 0; first < j->mem->frames && !err; first += CHUNK) {
		u64 wanted = chunk_mask(j->wanted, first);
		if (!wanted)
			continue;
		copy_chunk(j, first, wanted, pages);
		err = snap_writer_chunk(j->w, first / CHUNK, wanted, pages, j->result.incremental);
	}
	free(pages);
	return err;
}

static void *write_thread(void *opaque)
{
	struct save_job *j = opaque;
	struct snapshots *s = j->s;
	struct snap_result *r = &j->result;
	int err = write_pages(j);
	__atomic_store_n(&j->mem->keeper, NULL, __ATOMIC_RELEASE);
	if (!err)
		err = snap_writer_finish(j->w, &j->h, &j->meta, &j->state);
	if (err) {
		log_error("snapshot \"%s\" could not be written: %s; the machine goes on without it", j->name, strerror(-err));
		mem_dirty_put(j->mem, j->taken); /* as if it had never been: those pages are still newer than the base */
	} else {
		snap_set_base(s, j->h.id, j->file, j->chain);
	}
	r->err = err;
	memcpy(r->id, j->h.id, sizeof r->id);
	r->write_ns = host_now_ns() - j->start_ns;
	r->file_bytes = j->h.file_bytes;
	r->data_pages = j->meta.data_pages;
	r->zero_pages = j->meta.zero_pages;
	r->kept_pages = j->kept_pages;
	snap_writer_free(j->w);
	j->w = NULL;
	pthread_mutex_lock(&s->lock);
	j->running = false;
	pthread_mutex_unlock(&s->lock);
	if (j->rq.done)
		j->rq.done(j->rq.opaque, r);
	return NULL;
}

/* ---- the pause ---- */

static u64 *bitmap(u64 words) { return calloc(words, sizeof(u64)); }

static void free_job(struct save_job *j)
{
	if (j->aside)
		munmap(j->aside, j->mem->bytes);
	free(j->wanted);
	free(j->taken);
	free(j->pending);
	free(j->kept);
	state_buf_free(&j->state);
	snap_writer_free(j->w);
	free(j);
}

/* All that needs memory or files, before the guest stands still. NULL: nothing was left behind but the log line. */
static struct save_job *prepare(struct snapshots *s, const struct snap_request *rq)
{
	struct save_job *j = calloc(1, sizeof *j);
	if (!j) {
		close(rq->fd);
		return NULL;
	}
	j->s = s;
	j->rq = *rq;
	j->mem = &s->vm->mem;
	j->words = mem_bitmap_words(j->mem);
	j->keeper = (struct mem_keeper){ before_write, j };
	pthread_mutex_init(&j->lock, NULL);
	snprintf(j->name, sizeof j->name, "%s", rq->name);
	snprintf(j->file, sizeof j->file, "%s", rq->file);
	j->w = snap_writer_create(rq->fd);
	j->wanted = bitmap(j->words);
	j->taken = bitmap(j->words);
	j->pending = bitmap(j->words);
	j->kept = bitmap(j->words);
	void *p = mmap(NULL, j->mem->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	j->aside = p == MAP_FAILED ? NULL : p;
	if (!j->w || !j->wanted || !j->taken || !j->pending || !j->kept || !j->aside) {
		free_job(j);
		return NULL;
	}
	return j;
}

static void name_it(struct save_job *j, bool incremental)
{
	struct snapshots *s = j->s;
	if (getrandom(j->h.id, sizeof j->h.id, 0) != sizeof j->h.id)
		memcpy(j->h.id, &j->start_ns, sizeof j->start_ns);
	snap_describe(s->vm, &j->meta);
	snprintf((char *)j->meta.name, sizeof j->meta.name, "%s", j->name);
	j->meta.created_s = time(NULL);
	j->h.memory = j->meta.memory;
	j->chain = 1;
	j->result.incremental = incremental;
	if (!incremental)
		return;
	memcpy(j->h.parent, s->base_id, sizeof j->h.parent);
	snprintf((char *)j->meta.parent_file, sizeof j->meta.parent_file, "%s", s->base_file);
	j->chain = s->base_chain + 1;
}

/* vCPUs that keep host addresses of pages write them without asking again: such pages are always new, and kept at once. */
static void keep_frames(struct save_job *j, bool now)
{
	struct vm *vm = j->s->vm;
	for (unsigned i = 0; i < vm->ncpus; i++) {
		struct cpu *c = vm->vcpus[i].cpu;
		i64 frames[VIRT_KEPT_FRAMES];
		if (!c->virt || !c->virt->kept_frames)
			continue;
		c->virt->kept_frames(c, frames);
		for (unsigned k = 0; k < VIRT_KEPT_FRAMES; k++) {
			if (frames[k] < 0)
				continue;
			if (now)
				mem_will_write(j->mem, frames[k]);
			__atomic_fetch_or(&j->mem->dirty[frames[k] / 64], bit(frames[k] % 64), __ATOMIC_SEQ_CST);
		}
	}
}

/* Paused, devices still. */
static int take(struct save_job *j)
{
	struct snapshots *s = j->s;
	struct vm *vm = s->vm;
	vm_save_state(vm, &j->state); /* ends what devices have in flight */
	int err = j->rq.paused ? j->rq.paused(j->rq.opaque) : 0;
	if (err)
		return err;
	bool incremental = s->has_base && !j->rq.full && s->base_chain < MAX_CHAIN;
	name_it(j, incremental);
	keep_frames(j, false);
	mem_dirty_take(j->mem, j->taken);
	memcpy(j->wanted, j->taken, j->words * sizeof(u64));
	for (u64 i = 0; s->ever && i < j->words; i++)
		s->ever[i] |= j->taken[i];
	err = incremental ? 0 : snap_nonzero_frames(s, j->wanted);
	if (err) {
		mem_dirty_put(j->mem, j->taken);
		return err;
	}
	memcpy(j->pending, j->wanted, j->words * sizeof(u64));
	__atomic_store_n(&j->mem->keeper, &j->keeper, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < vm->ncpus; i++)
		mmu_flush_all(vm->vcpus[i].cpu);
	keep_frames(j, true);
	return 0;
}

static int start_thread(struct save_job *j)
{
	j->running = true;
	int err = -pthread_create(&j->thread, NULL, write_thread, j);
	if (!err)
		return 0;
	j->running = false;
	__atomic_store_n(&j->mem->keeper, NULL, __ATOMIC_RELEASE);
	mem_dirty_put(j->mem, j->taken);
	return err;
}

int snapshots_start(struct snapshots *s, const struct snap_request *rq)
{
	struct vm *vm = s->vm;
	if (snapshots_busy(s)) {
		log_error("snapshot \"%s\": the one before is still being written; try again when it is done", rq->name);
		close(rq->fd);
		return -EBUSY;
	}
	struct save_job *j = prepare(s, rq);
	if (!j) {
		log_error("snapshot \"%s\": out of memory", rq->name);
		return -ENOMEM;
	}
	bool was_paused = vm_is_paused(vm);
	j->start_ns = host_now_ns();
	vm_pause(vm);
	save_job_free(s);
	int err = take(j);
	if (!err) {
		s->job = j;
		j->result.pause_ns = host_now_ns() - j->start_ns;
		err = start_thread(j);
	}
	if (err) { /* before a vCPU can see the keeper */
		s->job = NULL;
		log_error("snapshot \"%s\" was not made: %s", rq->name, strerror(-err));
		free_job(j);
	}
	if (!was_paused)
		vm_resume(vm);
	return err;
}

void save_job_free(struct snapshots *s)
{
	snapshots_wait(s);
	if (s->job)
		free_job(s->job);
	s->job = NULL;
}

void snapshots_wait(struct snapshots *s)
{
	if (s->job && !s->job->joined)
		pthread_join(s->job->thread, NULL);
	if (s->job)
		s->job->joined = true;
}

bool snapshots_busy(struct snapshots *s)
{
	pthread_mutex_lock(&s->lock);
	bool busy = s->job && s->job->running;
	pthread_mutex_unlock(&s->lock);
	return busy;
}
