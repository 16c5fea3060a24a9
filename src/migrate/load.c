/* Putting a machine into a snapshot's state. Memory is brought in page by page as it is touched, and by a thread that goes through all of it. Not here:
 * reading and checking the file (snap_file.c). Surprise: the state is checked against this machine's rows before anything is changed, so a snapshot of
 * another machine, or of another version, is refused with the old state in place. */
#include "base/log.h"
#include "migrate/snap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HEAD_START_MS 500 /* the guest's own first pages come before the rest (bench/snapshot on a busy host) */

struct lazy_load {
	struct vm *vm;
	struct snap_file *f;
	struct mem_source source;
	struct snap_scratch *scratch; /* lock */
	u64 *absent;
	u64 *present;          /* the shared image's bitmap, behind its pages; NULL: no image. atomic */
	u64 present_bytes;
	pthread_mutex_t lock;
	pthread_t thread;
	bool started, stop;    /* stop: atomic */
	bool failed;           /* lock */
};

/* ---- fetching ---- */

static int put_page(void *opaque, u64 frame, const u8 *page)
{
	struct lazy_load *l = opaque;
	u64 b = bit(frame % 64);
	if (!(l->absent[frame / 64] & b))
		return 0;
	int err = mem_fill(&l->vm->mem, frame, page);
	if (err)
		return err;
	__atomic_fetch_and(&l->absent[frame / 64], ~b, __ATOMIC_RELEASE);
	if (l->present)
		__atomic_fetch_or(&l->present[frame / 64], b, __ATOMIC_RELEASE);
	return 0;
}

/* Another machine has filled the shared image already? */
static bool shared(struct lazy_load *l, u64 frame)
{
	u64 there = l->present ? __atomic_load_n(&l->present[frame / 64], __ATOMIC_ACQUIRE) : 0;
	if (!(there & bit(frame % 64)))
		return false;
	__atomic_fetch_and(&l->absent[frame / 64], ~there, __ATOMIC_RELEASE);
	return true;
}

static void fetch(void *opaque, u64 frame)
{
	struct lazy_load *l = opaque;
	u64 b = bit(frame % 64);
	pthread_mutex_lock(&l->lock);
	if ((l->absent[frame / 64] & b) && !shared(l, frame)) {
		int err = snap_read_chunk(l->f, l->scratch, frame, put_page, l);
		if (err && !l->failed) {
			log_error("a page of the snapshot that this machine was loaded from cannot be read any more: %s", strerror(-err));
			l->failed = true;
			vm_end(l->vm, VM_HOST_ERROR);
		}
		/* After a failure the vCPU, which must stop at its next boundary, gets there with zeros. */
		__atomic_fetch_and(&l->absent[frame / 64], ~b, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&l->lock);
}

static void *load_thread(void *opaque)
{
	struct lazy_load *l = opaque;
	const struct timespec nap = { .tv_nsec = 10 * 1000000 };
	for (unsigned ms = 0; ms < HEAD_START_MS && !__atomic_load_n(&l->stop, __ATOMIC_RELAXED); ms += 10)
		nanosleep(&nap, NULL);
	for (u64 f = 0; f < l->vm->mem.frames && !__atomic_load_n(&l->stop, __ATOMIC_RELAXED); f++)
		mem_fetch(&l->vm->mem, f);
	return NULL;
}

u64 snapshots_absent(struct snapshots *s)
{
	u64 n = 0;
	for (u64 i = 0; s->load && i < mem_bitmap_words(&s->vm->mem); i++)
		n += __builtin_popcountll(__atomic_load_n(&s->load->absent[i], __ATOMIC_RELAXED));
	return n;
}

/* ---- lifetime ---- */

static void free_load(struct lazy_load *l)
{
	__atomic_store_n(&l->stop, true, __ATOMIC_RELAXED);
	if (l->started)
		pthread_join(l->thread, NULL);
	if (l->present)
		munmap(l->present, l->present_bytes);
	snap_scratch_free(l->scratch);
	snap_close(l->f);
	free(l->absent);
	free(l);
}

void lazy_load_free(struct snapshots *s)
{
	s->vm->mem.source = NULL;
	if (s->load)
		free_load(s->load);
	s->load = NULL;
}

static struct lazy_load *create_load(struct vm *vm, struct snap_file *f)
{
	struct lazy_load *l = calloc(1, sizeof *l);
	if (!l)
		return NULL;
	l->vm = vm;
	l->scratch = snap_scratch_create();
	l->absent = calloc(mem_bitmap_words(&vm->mem), sizeof(u64));
	pthread_mutex_init(&l->lock, NULL);
	if (!l->scratch || !l->absent) {
		free_load(l);
		return NULL;
	}
	l->f = f;
	for (u64 i = 0; i < vm->mem.frames; i++)
		if (snap_has_page(f, i))
			l->absent[i / 64] |= bit(i % 64);
	l->source = (struct mem_source){ fetch, l, l->absent };
	return l;
}

/* ---- does it fit? ---- */

void snap_describe(struct vm *vm, struct snap_meta *m)
{
	memset(m, 0, sizeof *m);
	m->memory = vm->mem.bytes;
	m->virtual_ns = clock_now(&vm->clock);
	m->cpus = vm->ncpus;
	m->nested = vm->cfg.nested;
	snprintf((char *)m->cpu_model, sizeof m->cpu_model, "%s", vm->cfg.cpu_model);
}

static int refuse(const char *name, const char *what, u64 has, u64 wants)
{
	log_error("snapshot \"%s\" was made with %s %llu, this machine has %llu: start it with the options of then", name, what, (unsigned long long)wants,
		  (unsigned long long)has);
	return -EINVAL;
}

static int check_machine(struct vm *vm, const struct snap_file *f, const char *name)
{
	const struct snap_meta *m = snap_get_meta(f);
	struct snap_meta own;
	snap_describe(vm, &own);
	if (m->memory != own.memory)
		return refuse(name, "memory (KiB, with that of firmware and devices):", own.memory / KiB, m->memory / KiB);
	if (m->cpus != own.cpus)
		return refuse(name, "vCPUs:", own.cpus, m->cpus);
	if (m->nested != own.nested)
		return refuse(name, "nesting (1 is on)", own.nested, m->nested);
	if (strcmp((const char *)m->cpu_model, (const char *)own.cpu_model)) {
		log_error("snapshot \"%s\" was made with --cpu %s, this machine has %s", name, m->cpu_model, own.cpu_model);
		return -EINVAL;
	}
	return 0;
}

/* ---- sharing memory with other machines: pages, then a bitmap of those that are filled in, then the snapshot's id ---- */

static int prepare_image(struct lazy_load *l, int fd)
{
	struct mem *m = &l->vm->mem;
	const u8 *id = snap_get_header(l->f)->id;
	u64 bitmap = align_up(mem_bitmap_words(m) * 8, PAGE_SIZE), end = m->bytes + bitmap;
	u8 has[16];
	struct stat st;
	flock(fd, LOCK_EX);
	int err = fstat(fd, &st) ? -errno : 0;
	if (!err && !st.st_size && (ftruncate(fd, end) || pwrite(fd, id, 16, end) != 16))
		err = errno ? -errno : -ENOSPC;
	flock(fd, LOCK_UN);
	if (!err && pread(fd, has, 16, end) != 16)
		err = -EBADMSG;
	if (err || memcmp(has, id, 16)) {
		log_error("the image for sharing memory: %s; remove it and try again", err ? strerror(-err) : "it belongs to another snapshot");
		return err ? err : -EINVAL;
	}
	void *p = mmap(NULL, bitmap, PROT_READ | PROT_WRITE, MAP_SHARED, fd, m->bytes);
	if (p == MAP_FAILED)
		return -errno;
	l->present = p;
	l->present_bytes = bitmap;
	return 0;
}

/* ---- load ---- */

static int switch_memory(struct snapshots *s, struct lazy_load *l, int image)
{
	struct mem *m = &s->vm->mem;
	int err = image < 0 ? mem_clear(m) : mem_map_private(m, image);
	if (err)
		return err;
	free(s->ever);
	s->ever = NULL;
	if (image >= 0 && !(s->ever = malloc(mem_bitmap_words(m) * sizeof(u64))))
		return -ENOMEM;
	if (s->ever)
		memcpy(s->ever, l->absent, mem_bitmap_words(m) * sizeof(u64));
	m->source = &l->source;
	mem_dirty_take(m, NULL);
	return 0;
}

static int load(struct snapshots *s, struct snap_file *f, const char *name, int *image, bool *half)
{
	struct vm *vm = s->vm;
	struct state_buf state = { 0 };
	int err = check_machine(vm, f, name);
	if (!err)
		err = snap_read_state(f, &state);
	if (!err)
		err = vm_check_state(vm, &state);
	struct lazy_load *l = err ? NULL : create_load(vm, f);
	if (!err && !l)
		err = -ENOMEM;
	if (!err && *image >= 0)
		err = prepare_image(l, *image);
	if (err) {
		if (l) {
			l->f = NULL; /* the caller's */
			free_load(l);
		}
		state_buf_free(&state);
		return err;
	}
	*half = true;
	save_job_free(s);
	vm_quiesce(vm);
	lazy_load_free(s);
	s->load = l;
	err = switch_memory(s, l, *image);
	*image = -1;
	if (!err)
		err = vm_load_state(vm, &state, VM_TIME_LOADED);
	state_buf_free(&state);
	if (err)
		return err;
	*half = false;
	snap_set_base(s, snap_get_header(f)->id, name, snap_chain(f));
	l->started = !pthread_create(&l->thread, NULL, load_thread, l); /* without it pages still come as they are touched */
	return 0;
}

int snapshots_load(struct snapshots *s, struct snap_file *f, const char *name, int image, bool *half)
{
	*half = false;
	int err = load(s, f, name, &image, half);
	if (err && !*half)
		snap_close(f);
	if (image >= 0)
		close(image);
	if (err)
		log_error("snapshot \"%s\" was not loaded: %s", name, *half ? "this machine cannot go on" : "the machine is as it was");
	return err;
}

int snapshots_restore(struct snapshots *s, const char *path, const char *share)
{
	const char *slash = strrchr(path, '/');
	struct snap_file *f;
	int image = -1;
	bool half;
	if (share && (image = open(share, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0) {
		int err = -errno;
		log_error("--share-memory \"%s\": %s", share, strerror(-err));
		return err;
	}
	int err = snap_open(&f, path);
	if (!err)
		return snapshots_load(s, f, slash ? slash + 1 : path, image, &half);
	if (image >= 0)
		close(image);
	return err;
}
