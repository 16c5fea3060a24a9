#include "cli/state.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#define STATUS_LIMIT_MS 3000

/* The last line of the log that nestbox itself wrote, without its prefix. */
static void last_words(const char *state_dir, const char *id, char *to, size_t size)
{
	char path[PATH_MAX], buf[4097], *save = NULL;
	*to = 0;
	if (!id || reg_path(state_dir, id, "log", path, sizeof path))
		return;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t end = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
	ssize_t n = end > 0 ? pread(fd, buf, sizeof buf - 1, end > 4096 ? end - 4096 : 0) : 0;
	buf[n > 0 ? n : 0] = 0;
	for (char *line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (!strncmp(line, "nestbox: ", 9))
			snprintf(to, size, "%s", line + 9);
	if (fd >= 0)
		close(fd);
}

static void crashed(struct vm_now *now, const char *reason, const char *words)
{
	now->state = "crashed";
	snprintf(now->reason, sizeof now->reason, "%s%s%s", reason, *words ? ": " : "", words);
}

/* Ends that nobody asked for. */
static bool is_crash(const char *end) { return !strcmp(end, "crashed") || !strcmp(end, "died") || !strcmp(end, "host-error"); }

static void explain_off(const char *state_dir, const char *id, json_t *start, json_t *end, struct vm_now *now)
{
	char words[256], boot[64];
	const char *how = json_string_value(json_object_get(end, "end")), *why = json_string_value(json_object_get(end, "reason"));
	const char *started = json_string_value(json_object_get(start, "boot"));
	now->state = "off";
	if (!start)
		return;
	last_words(state_dir, id, words, sizeof words);
	rundir_boot_id(boot, sizeof boot);
	if (how && why && is_crash(how))
		crashed(now, why, words);
	else if (how && why)
		snprintf(now->reason, sizeof now->reason, "%s", why);
	else if (started && *boot && strcmp(started, boot))
		crashed(now, "the host went down while it ran", "");
	else
		crashed(now, "its process vanished, and so did the one that watched it", words);
}

static json_t *ask_status(const char *state_dir, const char *name)
{
	struct proto_client c;
	struct proto_error e;
	json_t *status = NULL;
	int dir = rundir_open(state_dir, name);
	if (dir >= 0 && !proto_client_open(&c, dir, "ctl")) {
		status = proto_call(&c, "status", NULL, NULL, 0, STATUS_LIMIT_MS, NULL, NULL, &e);
		proto_client_close(&c);
	}
	if (dir >= 0)
		close(dir);
	return status;
}

void vm_now(const char *state_dir, const char *name, const char *id, struct vm_now *now)
{
	json_t *start, *end;
	char path[PATH_MAX];
	*now = (struct vm_now){ 0 };
	now->alive = rundir_last_words(state_dir, name, &start, &end);
	if (now->alive)
		now->status = ask_status(state_dir, name);
	if (now->alive && !now->status) { /* it may just have ended, or begun */
		json_decref(start);
		json_decref(end);
		now->alive = rundir_last_words(state_dir, name, &start, &end);
	}
	if (now->status) {
		const char *s = json_string_value(json_object_get(now->status, "state"));
		now->state = s && !strcmp(s, "paused") ? "paused" : "running";
		now->pid = (int)json_integer_value(json_object_get(now->status, "pid"));
	} else if (now->alive) {
		now->state = "not-answering";
		now->pid = (int)json_integer_value(json_object_get(start, "pid"));
		snprintf(now->reason, sizeof now->reason, "it is starting or ending, or is too busy to answer");
	} else {
		explain_off(state_dir, id, start, end, now);
		/* The file goes once a machine that goes on from it runs: killed before, it is as it was. */
		if (id && !reg_path(state_dir, id, REG_SAVED_STATE, path, sizeof path) && !access(path, F_OK))
			now->state = "saved";
	}
	json_decref(start);
	json_decref(end);
}

void vm_now_free(struct vm_now *now)
{
	json_decref(now->status);
	now->status = NULL;
}

struct registry *cli_registry(const struct cli_call *call, bool create)
{
	struct registry *reg = NULL;
	int err = reg_open(call->state_dir, create, &reg);
	if (err && call->json)
		cli_print_json(json_pack("{s{ss ss}}", "error", "code", "registry", "message", strerror(-err)));
	return err ? NULL : reg;
}

int cli_get_vm(const struct cli_call *call, const char *name, struct reg_vm *vm)
{
	*vm = (struct reg_vm){ 0 };
	if (!rundir_name_ok(name))
		return cli_fail(call, "bad-name", "\"%s\" is no VM's name", name);
	struct registry *reg = cli_registry(call, false);
	if (!reg)
		return STATUS_USAGE;
	int err = reg_get(reg, name, vm);
	reg_close(reg);
	if (err == -ENOENT && rundir_alive(call->state_dir, name, NULL, NULL))
		return cli_fail(call, "foreground", "\"%s\" runs in the foreground (nestbox run --name): it is not among the VMs that stay", name);
	if (err == -ENOENT)
		return cli_fail(call, "no-such-vm", "there is no VM \"%s\"; nestbox list shows those that there are", name);
	return err ? STATUS_USAGE : 0;
}

bool cli_vm_has(const struct cli_call *call, const struct reg_vm *vm, const char *file)
{
	char path[PATH_MAX];
	return !reg_path(call->state_dir, vm->id, file, path, sizeof path) && !access(path, F_OK);
}
