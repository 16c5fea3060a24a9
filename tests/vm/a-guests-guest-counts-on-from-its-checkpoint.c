/* A guest's guest counts. Two checkpoints of the running machine are made, the second standing on the first; each must hold exactly the memory and the
 * state of its moment, although the machine ran on while it was written. Then the first is applied to the running machine, and the second restored
 * into a machine made anew: the count goes on from the checkpoint's each time, and the last machine reaches its end.
 * Arguments: KERNEL INITRD MEMORY_MIB CPUS ENGINE APPEND FOLDER. The folder gets console logs and snapshots. */
#include "base/log.h"
#include "migrate/snapshot.h"
#include "vm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *folder;
static char console[4096];
static struct vm_config cfg;

static void fail(const char *what)
{
	printf("FAIL: %s\n", what);
	exit(1);
}

static void path_of(char *to, size_t n, const char *name) { snprintf(to, n, "%s/%s", folder, name); }

/* The last number that the guest's guest has said, -1 for none. */
static int last_count(size_t from)
{
	char text[1 << 20];
	int fd = open(console, O_RDONLY), count = -1;
	ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, from);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	for (char *p = text; (p = strstr(p, "level=2 event=count")); p++) {
		char *v = strstr(p, " n=");
		if (v && strchr(v, '\n'))
			count = atoi(v + 3);
	}
	return count;
}

static int first_count(size_t from)
{
	char text[1 << 20], *p, *v;
	int fd = open(console, O_RDONLY);
	ssize_t n = pread(fd, text, sizeof text - 1, from);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	p = strstr(text, "level=2 event=count");
	v = p ? strstr(p, " n=") : NULL;
	return v ? atoi(v + 3) : -1;
}

static size_t console_size(void)
{
	int fd = open(console, O_RDONLY);
	off_t n = lseek(fd, 0, SEEK_END);
	close(fd);
	return n;
}

/* Lets the machine run until the count that is said after `from` is at least n, or the machine ends. False: it ended. */
static bool run_until(struct vm *vm, size_t from, int n)
{
	for (;;) {
		struct pollfd fd = { .fd = vm->event_fd, .events = POLLIN };
		bool more = board_console_drain(vm);
		if (poll(&fd, 1, more ? 1 : 20) > 0 && !vm_handle_events(vm))
			return false;
		board_console_drain(vm);
		if (last_count(from) >= n)
			return true;
	}
}

static struct vm *create(const char *log)
{
	struct vm *vm = calloc(1, sizeof *vm);
	path_of(console, sizeof console, log);
	if (!vm || vm_create(vm, &cfg) || !(vm->snapshots = snapshots_create(vm)))
		fail("a machine cannot be made");
	return vm;
}

/* ---- what was at the pause ---- */
struct moment {
	struct vm *vm;
	u8 *memory;
	struct state_buf state;
	int count;
	struct snap_result result;
	bool done;
};

static int remember(void *opaque)
{
	struct moment *m = opaque;
	struct mem *mem = &m->vm->mem;
	m->memory = mmap(NULL, mem->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	u64 *bits_ = calloc(mem_bitmap_words(mem), 8);
	if (mem_touched(mem, bits_))
		fail("mem_touched");
	for (u64 f = 0; f < mem->frames; f++)
		if (bits_[f / 64] & bit(f % 64))
			memcpy(m->memory + f * PAGE_SIZE, mem->base + f * PAGE_SIZE, PAGE_SIZE);
	free(bits_);
	vm_save_state(m->vm, &m->state);
	while (board_console_drain(m->vm))
		;
	m->count = last_count(0);
	return 0;
}

static void done(void *opaque, const struct snap_result *r)
{
	struct moment *m = opaque;
	m->result = *r;
	__atomic_store_n(&m->done, true, __ATOMIC_RELEASE);
}

static void checkpoint(struct vm *vm, struct moment *m, const char *name)
{
	char path[4096];
	path_of(path, sizeof path, name);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	*m = (struct moment){ .vm = vm };
	struct snap_request rq = { .fd = fd, .name = name, .file = name, .paused = remember, .done = done, .opaque = m };
	if (snapshots_start(vm->snapshots, &rq))
		fail("snapshots_start");
	while (!__atomic_load_n(&m->done, __ATOMIC_ACQUIRE)) {
		struct pollfd fd2 = { .fd = vm->event_fd, .events = POLLIN };
		if (poll(&fd2, 1, 1) > 0 && !vm_handle_events(vm))
			fail("the machine ended during a checkpoint");
		board_console_drain(vm);
	}
	if (m->result.err)
		fail("the checkpoint could not be written");
	printf("%s: %s, %llu KiB for %llu pages with content and %llu of zeros, %llu kept aside, written in %llu ms\n", name,
	       m->result.incremental ? "incremental" : "full", (unsigned long long)m->result.file_bytes / 1024, (unsigned long long)m->result.data_pages,
	       (unsigned long long)m->result.zero_pages, (unsigned long long)m->result.kept_pages, (unsigned long long)m->result.write_ns / 1000000);
}

/* Every page through the lazy path, against what was there. */
static void compare(struct vm *vm, const struct moment *m)
{
	struct state_buf now = { 0 };
	u64 wrong = 0;
	for (u64 f = 0; f < vm->mem.frames; f++) {
		mem_fetch(&vm->mem, f);
		if (memcmp(vm->mem.base + f * PAGE_SIZE, m->memory + f * PAGE_SIZE, PAGE_SIZE) && wrong++ < 5)
			printf("frame %llu differs\n", (unsigned long long)f);
	}
	vm_save_state(vm, &now);
	if (wrong)
		fail("memory is not what it was");
	if (now.len != m->state.len || memcmp(now.data, m->state.data, now.len))
		fail("the state is not what it was");
	state_buf_free(&now);
}

static void load(struct vm *vm, const char *name, const struct moment *m)
{
	char path[4096];
	struct snap_file *f;
	bool half;
	path_of(path, sizeof path, name);
	if (snap_open(&f, path) || snapshots_load(vm->snapshots, f, name, -1, &half))
		fail("a checkpoint cannot be loaded");
	compare(vm, m);
}

/* A count said before the pause may come out of the guest's UART after it: so the next is the last one's successor, or that one again. */
static void expect_next(const char *what, size_t from, int count)
{
	int next = first_count(from);
	printf("%s: checkpoint at %d, then %d\n", what, count, next);
	if (next < count || next > count + 2)
		fail("the count did not go on from the checkpoint");
}

static void apply_to_running(struct vm *vm, const struct moment *m, const char *name)
{
	vm_pause(vm);
	while (board_console_drain(vm))
		;
	load(vm, name, m);
	size_t from = console_size();
	vm_resume(vm);
	if (!run_until(vm, from, m->count + 2))
		fail("the machine ended after an apply");
	expect_next("applied to the running machine", from, m->count);
}

static void end(struct vm *vm)
{
	vm_stop(vm);
	board_console_finish(vm, 1000);
	snapshots_destroy(vm->snapshots);
	vm_destroy(vm);
	free(vm);
}

int main(int argc, char **argv)
{
	if (argc != 8)
		return 2;
	folder = argv[7];
	cfg = (struct vm_config){ .kernel = argv[1], .initrd = argv[2], .memory = strtoull(argv[3], NULL, 10) * MiB, .cpus = atoi(argv[4]), .engine = argv[5],
				  .append = argv[6], .nested = true, .cpu_model = "fast", .serial = VM_SERIAL_FILE, .serial_path = console };
	setvbuf(stdout, NULL, _IOLBF, 0);
	struct moment first, second;
	struct vm *vm = create("console-1.log");
	if (vm_start(vm) || !run_until(vm, 0, 3))
		fail("the guest's guest does not count");
	checkpoint(vm, &first, "first.snap");
	run_until(vm, 0, first.count + 4);
	checkpoint(vm, &second, "second.snap");
	if (first.result.incremental || !second.result.incremental)
		fail("the first checkpoint is a full one, the second stands on it");
	run_until(vm, 0, second.count + 3);
	apply_to_running(vm, &first, "first.snap");
	end(vm);

	vm = create("console-2.log");
	load(vm, "second.snap", &second);
	if (vm_start(vm))
		fail("vm_start");
	while (run_until(vm, 0, 1 << 30))
		;
	expect_next("restored into a new machine", 0, second.count);
	if (vm->end != VM_POWERED_OFF)
		fail("the restored machine did not power off");
	end(vm);
	printf("counted on\n");
	return 0;
}
