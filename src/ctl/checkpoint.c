/* Verbs about checkpoints and saved state of a VM that stays. The folder's rules are in migrate/store.h. Surprise: the order of steps is the point. What
 * is written down first must be right whether or not the process lives to do the rest. */
#include "base/log.h"
#include "ctl/ctl.h"
#include "ctl/handlers.h"
#include "host/disk.h"
#include "host/loop.h"
#include "migrate/snapshot.h"
#include "migrate/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct op {
	struct ctl_call *call;
	struct vm *vm;
	bool save, was_paused;
	char key[STORE_KEY], name[128];
	int overlay[VM_MAX_DISKS]; /* -1: this disk takes none */
	struct snap_result result;
};

static bool unfinished; /* an op has not been answered */

bool ctl_checkpoint_busy(struct vm *vm) { return unfinished || snapshots_busy(vm->snapshots); }

static const char *folder_of(struct vm *vm) { return vm->cfg.folder; }

static bool takes_writes(struct vm *vm, unsigned i)
{
	const struct disk_spec *s = disk_get_spec(board_disk(vm, i));
	return !s->read_only && !s->snapshot;
}

/* What every verb here needs. False: the call is answered. */
static bool ready(struct vm *vm, struct ctl_call *call)
{
	char path[PATH_MAX];
	if (!folder_of(vm) || !vm->snapshots) {
		ctl_fail(call, "foreground", "only a VM that stays (nestbox create) has checkpoints and saved state: this one runs in the foreground");
		return false;
	}
	if (ctl_checkpoint_busy(vm)) {
		ctl_fail(call, "busy", "a checkpoint is being written; try again when that is done");
		return false;
	}
	store_tidy(folder_of(vm));
	store_path(folder_of(vm), NULL, "", path, sizeof path);
	if (mkdir(path, 0700) && errno != EEXIST) {
		ctl_fail(call, "host", "\"%s\": %s", path, strerror(errno));
		return false;
	}
	return true;
}

/* The next snapshot may stand on the base only while its file is there. */
static void check_base(struct vm *vm)
{
	u8 id[16];
	char file[128], path[PATH_MAX];
	if (!snapshots_base(vm->snapshots, id, file))
		return;
	store_path(folder_of(vm), NULL, file, path, sizeof path);
	if (access(path, F_OK))
		snapshots_forget_base(vm->snapshots);
}

/* ---- overlays ---- */

static void close_overlays(struct op *o)
{
	for (unsigned i = 0; i < VM_MAX_DISKS; i++)
		if (o->overlay[i] >= 0)
			close(o->overlay[i]);
}

/* Each writable disk's list of `disks` with a new overlay on top, made and open. NULL: not possible (logged). */
static json_t *add_overlays(struct op *o, json_t *disks)
{
	json_t *out = json_array();
	for (unsigned i = 0; i < o->vm->cfg.ndisks; i++) {
		char file[64], path[PATH_MAX];
		json_t *layers = json_deep_copy(json_array_get(disks, i));
		json_array_append_new(out, layers ? layers : json_array());
		if (!takes_writes(o->vm, i))
			continue;
		snprintf(file, sizeof file, "disk%u-%s.overlay", i, o->key);
		store_path(folder_of(o->vm), NULL, file, path, sizeof path);
		if (json_array_size(layers) >= DISK_MAX_LAYERS) {
			log_error("disk %u stands on %zu overlays already, more than %d cannot be: delete checkpoints", i, json_array_size(layers), DISK_MAX_LAYERS);
			json_decref(out);
			return NULL;
		}
		o->overlay[i] = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (o->overlay[i] < 0) {
			log_error("\"%s\": %s", path, strerror(errno));
			json_decref(out);
			return NULL;
		}
		json_array_append_new(json_array_get(out, i), json_string(file));
	}
	return out;
}

/* Paused, devices still. */
static int freeze_disks(void *opaque)
{
	struct op *o = opaque;
	int err = 0;
	for (unsigned i = 0; i < o->vm->cfg.ndisks && !err && !o->save; i++) {
		if (o->overlay[i] < 0)
			continue;
		err = disk_freeze(board_disk(o->vm, i), o->overlay[i]);
		o->overlay[i] = err ? o->overlay[i] : -1;
	}
	return err;
}

/* ---- create, save ---- */

static int commit(struct op *o)
{
	const char *folder = folder_of(o->vm);
	char from[PATH_MAX], to[PATH_MAX];
	store_path(folder, o->key, ".tmp", from, sizeof from);
	store_path(folder, o->key, ".snap", to, sizeof to);
	int err = o->save ? store_mark_gone(folder, o->key) : 0;
	if (!err && rename(from, to))
		err = -errno;
	if (err)
		return err;
	if (o->save)
		return store_put(folder, "saved", json_pack("{ss sn}", "snapshot", o->key, "share"));
	json_t *current = store_current(folder);
	json_object_set_new(current, "parent", json_string(o->key));
	return store_put(folder, "checkpoints/current", current);
}

static json_t *numbers(const struct op *o)
{
	const struct snap_result *r = &o->result;
	return json_pack("{ss ss sb sf sf sI sI}", "name", o->name, "key", o->key, "incremental", (int)r->incremental, "pause_ms", r->pause_ns / 1e6, "write_ms",
			 r->write_ns / 1e6, "bytes", (json_int_t)r->file_bytes, "pages", (json_int_t)r->data_pages);
}

static void give_up(struct op *o, const char *why)
{
	char path[PATH_MAX];
	store_path(folder_of(o->vm), o->key, ".tmp", path, sizeof path);
	unlink(path);
	if (o->save && !o->was_paused)
		vm_user_pause(o->vm, false);
	ctl_fail(o->call, "not-written", "%s \"%s\" was not made: %s; the VM goes on", o->save ? "saved state" : "checkpoint", o->name, why);
	unfinished = false;
	free(o);
}

static void finish(void *opaque)
{
	struct op *o = opaque;
	int err = o->result.err ? o->result.err : commit(o);
	if (err) {
		give_up(o, strerror(-err));
		return;
	}
	ctl_reply(o->call, numbers(o));
	unfinished = false;
	if (o->save)
		vm_end(o->vm, VM_QUIT);
	else
		ctl_merge(o->vm);
	free(o);
}

static void written(void *opaque, const struct snap_result *r)
{
	struct op *o = opaque;
	o->result = *r;
	if (loop_post(o->vm->loop, finish, o))
		log_error("out of memory: checkpoint \"%s\" is left unfinished", o->name);
}

/* Writes down what the machine stands on, then starts the snapshot. */
static int begin(struct op *o)
{
	const char *folder = folder_of(o->vm);
	char file[64], path[PATH_MAX], snap[32];
	json_t *current = store_current(folder);
	json_t *disks = o->save ? json_incref(json_object_get(current, "disks")) : add_overlays(o, json_object_get(current, "disks"));
	int err = disks ? 0 : -EIO;
	snprintf(file, sizeof file, "checkpoints/%s.disks", o->key);
	if (!err)
		err = store_put(folder, file, json_deep_copy(current));
	if (!err && !o->save)
		err = store_put(folder, "checkpoints/current", json_pack("{sO sO}", "parent", json_object_get(current, "parent"), "disks", disks));
	json_decref(disks);
	json_decref(current);
	store_path(folder, o->key, ".tmp", path, sizeof path);
	int fd = err ? -1 : open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (!err && fd < 0)
		err = -errno;
	if (err)
		return err;
	check_base(o->vm);
	snprintf(snap, sizeof snap, "%s.snap", o->key);
	struct snap_request rq = { .fd = fd, .name = o->name, .file = snap, .paused = freeze_disks, .done = written, .opaque = o };
	return snapshots_start(o->vm->snapshots, &rq);
}

static struct op *create_op(struct vm *vm, struct ctl_call *call, const char *name, bool save)
{
	struct op *o = calloc(1, sizeof *o);
	bug_if(!o);
	o->call = call;
	o->vm = vm;
	o->save = save;
	snprintf(o->name, sizeof o->name, "%s", name);
	store_new_key(o->key);
	for (unsigned i = 0; i < VM_MAX_DISKS; i++)
		o->overlay[i] = -1;
	return o;
}

static void start_op(struct op *o)
{
	unfinished = true;
	int err = begin(o);
	if (err) {
		close_overlays(o);
		give_up(o, strerror(-err));
	}
}

/* -1: no such one (or, wanted false: there is one). The call is answered then. */
static bool find(struct vm *vm, struct ctl_call *call, const char *name, struct store_entry *e)
{
	struct store_entry *list;
	unsigned n;
	int err = store_list(folder_of(vm), &list, &n);
	const struct store_entry *found = err ? NULL : store_find(list, n, name);
	if (found)
		*e = *found;
	free(list);
	return found;
}

void ctl_do_checkpoint_create(struct vm *vm, struct ctl_call *call, json_t *args)
{
	const char *name = json_string_value(json_object_get(args, "name"));
	struct store_entry e;
	if (!store_name_ok(name)) {
		ctl_fail(call, "bad-name", "\"%s\" cannot be a checkpoint's name: letters, digits, blanks and -_.:+ inside, at most 64", name);
		return;
	}
	if (!ready(vm, call))
		return;
	if (find(vm, call, name, &e)) {
		ctl_fail(call, "name-taken", "there is a checkpoint \"%s\" already", name);
		return;
	}
	start_op(create_op(vm, call, name, false));
}

void ctl_do_save(struct vm *vm, struct ctl_call *call, json_t *args)
{
	if (!ready(vm, call))
		return;
	struct op *o = create_op(vm, call, "saved state", true);
	o->was_paused = vm->user_paused;
	vm_user_pause(vm, true);
	start_op(o);
}

/* ---- apply ---- */

struct apply {
	struct vm *vm;
	struct op *o;          /* the new overlays */
	json_t *frozen;        /* per disk: the overlays of then */
};

static int open_layers(struct apply *a, unsigned i, int *fd, unsigned *n)
{
	size_t k;
	json_t *file;
	*n = 0;
	json_array_foreach(json_array_get(a->frozen, i), k, file) {
		char path[PATH_MAX];
		if (!json_is_string(file) || strchr(json_string_value(file), '/') || *n == DISK_MAX_LAYERS)
			return -EBADMSG;
		store_path(folder_of(a->vm), NULL, json_string_value(file), path, sizeof path);
		fd[*n] = open(path, O_RDWR | O_CLOEXEC);
		if (fd[*n] < 0) {
			int err = -errno;
			log_error("\"%s\": %s", path, strerror(-err));
			return err;
		}
		++*n;
	}
	return 0;
}

/* Paused, the snapshot is loaded. */
static int switch_disks(struct apply *a)
{
	int err = 0;
	for (unsigned i = 0; i < a->vm->cfg.ndisks && !err; i++) {
		int fd[DISK_MAX_LAYERS];
		unsigned n;
		if (a->o->overlay[i] < 0)
			continue;
		err = open_layers(a, i, fd, &n);
		if (!err)
			err = disk_set_overlays(board_disk(a->vm, i), fd, n);
		if (!err)
			err = disk_freeze(board_disk(a->vm, i), a->o->overlay[i]);
		if (!err)
			a->o->overlay[i] = -1;
	}
	return err;
}

static int load_paused(struct apply *a, struct snap_file *f, const char *file)
{
	struct vm *vm = a->vm;
	bool half;
	vm_pause(vm);
	int err = snapshots_load(vm->snapshots, f, file, -1, &half);
	int disk_err = err ? 0 : switch_disks(a);
	if (half || disk_err)
		vm_end(vm, VM_HOST_ERROR);
	else
		vm_resume(vm);
	return err ? err : disk_err;
}

static int apply(struct apply *a, const struct store_entry *e)
{
	const char *folder = folder_of(a->vm);
	char path[PATH_MAX], file[64];
	struct snap_file *f = NULL;
	json_t *before = store_current(folder);
	snprintf(file, sizeof file, "checkpoints/%s.disks", e->key);
	json_t *then = store_get(folder, file);
	a->frozen = json_object_get(then, "disks");
	store_path(folder, e->key, ".snap", path, sizeof path);
	snprintf(file, sizeof file, "%s.snap", e->key);
	int err = a->frozen ? snap_open(&f, path) : -EBADMSG;
	json_t *disks = err ? NULL : add_overlays(a->o, a->frozen);
	if (!err && !disks)
		err = -EIO;
	if (!err)
		err = store_put(folder, "checkpoints/current", json_pack("{ss sO}", "parent", e->key, "disks", disks));
	if (err && f)
		snap_close(f);
	if (!err && (err = load_paused(a, f, file)) && a->vm->end == VM_RUNNING)
		store_put(folder, "checkpoints/current", json_incref(before));
	json_decref(disks);
	json_decref(then);
	json_decref(before);
	return err;
}

void ctl_do_checkpoint_apply(struct vm *vm, struct ctl_call *call, json_t *args)
{
	const char *name = json_string_value(json_object_get(args, "name"));
	struct store_entry e;
	if (!ready(vm, call))
		return;
	if (!find(vm, call, name, &e)) {
		ctl_fail(call, "no-such-checkpoint", "there is no checkpoint \"%s\"", name);
		return;
	}
	ctl_merge_stop();
	struct apply a = { vm, create_op(vm, call, name, false), NULL };
	u64 start = host_now_ns();
	int err = apply(&a, &e);
	if (err)
		ctl_fail(call, "not-applied", "checkpoint \"%s\" was not applied: %s", name, strerror(-err));
	else
		ctl_reply(call, json_pack("{ss sf}", "name", name, "apply_ms", (host_now_ns() - start) / 1e6));
	close_overlays(a.o);
	free(a.o);
	if (!err)
		store_tidy(folder_of(vm));
	ctl_merge(vm);
}

/* ---- delete ---- */

void ctl_do_checkpoint_delete(struct vm *vm, struct ctl_call *call, json_t *args)
{
	const char *name = json_string_value(json_object_get(args, "name"));
	struct store_entry e;
	if (!ready(vm, call))
		return;
	if (!find(vm, call, name, &e)) {
		ctl_fail(call, "no-such-checkpoint", "there is no checkpoint \"%s\"", name);
		return;
	}
	int err = store_mark_gone(folder_of(vm), e.key);
	if (err) {
		ctl_fail(call, "host", "checkpoint \"%s\" cannot be deleted: %s", name, strerror(-err));
		return;
	}
	store_tidy(folder_of(vm));
	check_base(vm);
	ctl_reply(call, json_pack("{ss}", "name", name));
	ctl_merge(vm);
}
