/* `nestbox clone`: a VM's options, and copies of its writable disks in the new VM's folder. Read-only disks are shared. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/clone.h"
#include "cli/state.h"
#include "migrate/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* One run of data. 0 or -errno. */
static int copy_run(int from, int to, off_t at, off_t end)
{
	while (at < end) {
		off_t in = at, out = at;
		ssize_t n = copy_file_range(from, &in, to, &out, end - at, 0);
		if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP)) {
			static char buf[1 << 20];
			n = pread(from, buf, min_u64(sizeof buf, end - at), at);
			if (n > 0)
				n = pwrite(to, buf, n, at);
		}
		if (n < 0)
			return -errno;
		if (!n)
			return -EIO; /* it has become shorter */
		at += n;
	}
	return 0;
}

/* All of it, holes staying holes; shares the blocks where the file system can. */
static int copy_content(int from, int to)
{
	struct stat st;
	if (!ioctl(to, FICLONE, from))
		return 0;
	off_t size = fstat(from, &st) ? -1 : S_ISBLK(st.st_mode) ? lseek(from, 0, SEEK_END) : st.st_size;
	int err = size < 0 || ftruncate(to, size) ? -errno : 0;
	for (off_t at = 0; !err && at < size;) {
		off_t data = lseek(from, at, SEEK_DATA), hole;
		if (data < 0 && errno == ENXIO)
			break; /* only a hole is left */
		if (data < 0)
			data = at;
		hole = lseek(from, data, SEEK_HOLE);
		if (hole < 0 || hole <= data)
			hole = size;
		err = copy_run(from, to, data, hole);
		at = hole;
	}
	return err;
}

int clone_file(const char *from_path, const char *to_path)
{
	int from = open(from_path, O_RDONLY | O_CLOEXEC);
	int err = from < 0 ? -errno : 0;
	int to = err ? -1 : open(to_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (!err && to < 0)
		err = -errno;
	if (!err)
		err = copy_content(from, to);
	if (!err && fsync(to))
		err = -errno;
	if (from >= 0)
		close(from);
	if (to >= 0)
		close(to);
	return err;
}

static bool has_item(const char *spec, const char *item)
{
	size_t n = strlen(item);
	for (const char *p = strchr(spec, ','); p; p = strchr(p + 1, ','))
		if (!strncmp(p + 1, item, n) && (p[1 + n] == ',' || !p[1 + n]))
			return true;
	return false;
}

/* "FILE[,...]" or "FILE[:ro]": the file's length in spec; *ro. */
static size_t file_part(const char *spec, bool *ro)
{
	size_t len = strcspn(spec, ",");
	*ro = has_item(spec, "ro") || has_item(spec, "ro=on") || has_item(spec, "snapshot=on");
	if (!spec[len] && len > 3 && !strcmp(spec + len - 3, ":ro")) {
		*ro = true;
		len -= 3;
	}
	return len;
}

/* A disk's or variables file's copy in the new VM's folder; the option then names that. */
static int clone_option(const struct cli_call *call, struct option_pair *o, const char *id, unsigned number)
{
	bool ro;
	size_t len = file_part(o->value, &ro);
	char from[PATH_MAX], to[PATH_MAX], name[PATH_MAX], *value = NULL;
	if (ro || len >= sizeof from)
		return 0;
	snprintf(from, sizeof from, "%.*s", (int)len, o->value);
	const char *base = strrchr(from, '/') ? strrchr(from, '/') + 1 : from;
	snprintf(name, sizeof name, "%s%u-%.200s", o->key, number, base);
	int err = reg_path(call->state_dir, id, name, to, sizeof to);
	if (!err)
		err = clone_file(from, to);
	if (!err && asprintf(&value, "%s%s", to, o->value + len) < 0)
		err = -ENOMEM;
	if (err)
		return cli_fail(call, err == -ENOSPC ? "no-space" : "host", "copying %s \"%s\": %s", o->key, from, strerror(-err));
	free(o->value);
	o->value = value;
	return 0;
}

/* Two machines with one MAC address cannot share a network: the copy gets its own. */
static void drop_mac(char *value)
{
	for (char *p = strstr(value, ",mac="); p; p = strstr(p, ",mac=")) {
		char *end = p + 1 + strcspn(p + 1, ",");
		memmove(p, end, strlen(end) + 1);
	}
}

static int fill(const struct cli_call *call, const struct reg_vm *from, struct reg_vm *to)
{
	int status = option_list_copy(&to->options, &from->options) ? STATUS_USAGE : 0;
	for (unsigned i = 0; !status && i < to->options.n; i++) {
		struct option_pair *o = &to->options.at[i];
		if (!strcmp(o->key, "disk") || !strcmp(o->key, "firmware-vars"))
			status = clone_option(call, o, to->id, i);
		else if (!strcmp(o->key, "net"))
			drop_mac(o->value);
	}
	return status;
}

/* The overlays that its disks stand on, and with --checkpoint the memory of then. */
static int fill_folder(const struct cli_call *call, const struct reg_vm *from, const struct reg_vm *to)
{
	const char *name = cli_option(call, "checkpoint");
	char a[PATH_MAX], b[PATH_MAX], key[STORE_KEY] = "";
	struct store_entry *list = NULL;
	unsigned n = 0;
	if (reg_path(call->state_dir, from->id, NULL, a, sizeof a) || reg_path(call->state_dir, to->id, NULL, b, sizeof b))
		return STATUS_USAGE;
	int err = name ? store_list(a, &list, &n) : 0;
	const struct store_entry *e = name && !err ? store_find(list, n, name) : NULL;
	if (e)
		snprintf(key, sizeof key, "%s", e->key);
	free(list);
	if (name && !*key)
		return cli_fail(call, "no-such-checkpoint", "VM \"%s\" has no checkpoint \"%s\"", from->name, name);
	return !err && !store_clone(a, b, name ? key : NULL, clone_file) ? 0 : cli_fail(call, "host", "the state of VM \"%s\" cannot be cloned", from->name);
}

static int clone_locked(struct cli_call *call, struct reg_vm *from, struct reg_vm *to, struct registry *reg)
{
	reg_tidy(reg);
	reg_new_id(to->id);
	int making = reg_make_folder(call->state_dir, to->id);
	int status = making < 0 ? STATUS_USAGE : fill(call, from, to);
	if (!status)
		status = fill_folder(call, from, to);
	if (!status)
		status = cli_insert_vm(call, reg, to);
	if (status && making >= 0)
		reg_remove_folder(call->state_dir, to->id);
	if (making >= 0)
		close(making);
	return status;
}

/* The new name is looked at before disks are copied for a long time; cli_insert_vm looks again. */
static int check_new_name(const struct cli_call *call, struct registry *reg, const char *name)
{
	struct reg_vm there;
	if (!rundir_name_ok(name))
		return cli_fail(call, "bad-name", "\"%s\" cannot be a VM's name: letters, digits, dots, dashes and underscores, at most 64, the first a letter or digit", name);
	int err = reg_get(reg, name, &there);
	reg_vm_free(&there);
	return !err ? cli_fail(call, "name-taken", "there is a VM \"%s\" already: choose another name", name) : err == -ENOENT ? 0 : STATUS_USAGE;
}

int cli_clone_command(struct cli_call *call)
{
	struct reg_vm from, to = { 0 };
	struct rundir r;
	int status = cli_get_vm(call, call->argv[0], &from);
	if (status)
		return status;
	/* Its disks stand still; those below a checkpoint do so anyway. */
	bool then = cli_option(call, "checkpoint");
	int err = then ? 0 : rundir_claim(&r, call->state_dir, from.name);
	if (err)
		status = err == -EBUSY ? cli_fail(call, "running", "VM \"%s\" is running: stop it first", from.name) :
					 cli_fail(call, "host", "%s/run/%s: %s", call->state_dir, from.name, strerror(-err));
	if (!status && !then && cli_vm_has(call, &from, REG_SAVED_STATE))
		status = cli_fail(call, "has-state", "VM \"%s\" has saved state, which a copy of its disks does not go with: start it and stop it first, or clone a checkpoint", from.name);
	struct registry *reg = status ? NULL : cli_registry(call, true);
	if (!status)
		status = reg ? check_new_name(call, reg, call->argv[1]) : STATUS_USAGE;
	if (!status) {
		snprintf(to.name, sizeof to.name, "%s", call->argv[1]);
		status = clone_locked(call, &from, &to, reg);
	}
	reg_close(reg);
	if (!err && !then)
		rundir_close(&r);
	if (!status && call->json)
		cli_print_json(json_pack("{ss ss}", "name", to.name, "id", to.id));
	else if (!status)
		printf("cloned %s to %s\n", from.name, to.name);
	reg_vm_free(&from);
	reg_vm_free(&to);
	return status;
}
