/* Overlays that deleted checkpoints have left are merged while the machine runs: a thread of its own copies, the main loop does the rest. migrate/store.h has the rules. Not here:
 * machines that are off (store_merge_all). Surprise: a merge that ends while a checkpoint is being written waits for that, because it tidies the folder. */
#include "base/log.h"
#include "ctl/ctl.h"
#include "host/disk.h"
#include "migrate/store.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

/* One per process, as the machine is. Main loop's, but for what the thread has been given. */
static struct merge {
	struct vm *vm;
	struct store_merge what;
	struct disk_layer *layer; /* the upper one, in the stack of a disk; NULL: no disk uses it */
	unsigned number;          /* of that in the stack */
	int fd;
	pthread_t thread;
	bool running, done;       /* running: the thread is to be joined; done: it has posted its end */
	bool cancel;              /* atomic */
	uintptr_t count;          /* of threads: a late message of one that was given up means nothing */
	int err;
} merge;

static void complete(void);

static void on_end(void *opaque)
{
	merge.done = merge.done || (merge.running && (uintptr_t)opaque == merge.count);
	complete();
}

static void *run(void *opaque)
{
	const char *folder = merge.vm->cfg.folder;
	merge.err = merge.layer ? disk_absorb(merge.layer, merge.fd, &merge.cancel) : store_absorb(folder, &merge.what, &merge.cancel);
	if (loop_post(merge.vm->loop, on_end, opaque))
		log_error("out of memory: two overlays stay two");
	return NULL;
}

static void join(void)
{
	if (merge.running)
		pthread_join(merge.thread, NULL);
	merge.running = merge.done = false;
}

static void take_out(void)
{
	struct vm *vm = merge.vm;
	bool was_paused = vm_is_paused(vm);
	vm_pause(vm);
	vm_quiesce(vm);
	disk_skip(board_disk(vm, merge.what.disk), merge.number);
	if (!was_paused)
		vm_resume(vm);
}

/* The lists first: whoever is killed after that starts without the lower one. */
static void complete(void)
{
	if (!merge.done || ctl_checkpoint_busy(merge.vm))
		return;
	const char *folder = merge.vm->cfg.folder;
	join();
	int err = merge.err ? merge.err : store_merged(folder, &merge.what);
	if (err) {
		log_warn("overlays \"%s\" and \"%s\" stay two: %s", merge.what.below, merge.what.upper, strerror(-err));
		return;
	}
	if (merge.layer)
		take_out();
	log_info("overlay \"%s\" has become part of \"%s\"", merge.what.below, merge.what.upper);
	store_tidy(folder);
	ctl_merge(merge.vm);
}

/* The position is counted from the top of the list, whose overlays are the uppermost of the disk's. */
static int prepare(struct vm *vm)
{
	struct disk *d = board_disk(vm, merge.what.disk);
	merge.layer = NULL;
	if (!merge.what.position)
		return 0;
	merge.number = d ? disk_overlays(d) + merge.what.position : 0;
	merge.layer = d ? disk_overlay_number(d, merge.number) : NULL;
	if (!merge.layer)
		return -EINVAL;
	merge.fd = store_open_upper(vm->cfg.folder, &merge.what);
	return merge.fd < 0 ? merge.fd : 0;
}

void ctl_merge(struct vm *vm)
{
	merge.vm = vm;
	complete();
	if (merge.running || ctl_checkpoint_busy(vm))
		return;
	do {
		if (!store_find_merge(vm->cfg.folder, &merge.what))
			return;
	} while (merge.what.copied && !store_merged(vm->cfg.folder, &merge.what));
	if (merge.what.copied)
		return;
	merge.cancel = merge.done = false;
	int err = prepare(vm);
	if (!err) {
		merge.running = true;
		err = -pthread_create(&merge.thread, NULL, run, (void *)++merge.count);
		merge.running = !err;
	}
	if (err)
		log_warn("overlays \"%s\" and \"%s\" stay two: %s", merge.what.below, merge.what.upper, strerror(-err));
}

void ctl_merge_stop(void)
{
	__atomic_store_n(&merge.cancel, true, __ATOMIC_RELAXED);
	join();
}
