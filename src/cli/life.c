/* Running VMs that stay: start, stop, reset, pause, resume, and the VM process itself. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/state.h"
#include "migrate/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STOP_DEFAULT_S 60
#define GONE_LIMIT_MS 20000
#define QUIT_LIMIT_MS 15000
#define READY_FD 3

/* ---- the VM process ---- */
static void say_ready(void *opaque)
{
	int *fd = opaque;
	if (write(*fd, "ready\n", 6) < 0)
		log_debug("nobody waits for the start: %s", strerror(errno));
	close(*fd);
}

/* The log is opened by whoever holds the lock, so that a second start does not take the first one's away. */
static int open_log(const struct cli_call *call, const struct reg_vm *vm)
{
	char path[PATH_MAX], old[PATH_MAX];
	int fd = -1, err = reg_path(call->state_dir, vm->id, NULL, path, sizeof path);
	if (!err)
		err = rundir_make_folders(path);
	if (!err && !reg_path(call->state_dir, vm->id, "log", path, sizeof path) && !reg_path(call->state_dir, vm->id, "log.old", old, sizeof old)) {
		rename(path, old);
		fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		err = fd < 0 ? -errno : 0;
	}
	if (err || fd < 0) {
		log_error("log file \"%s\": %s", path, strerror(-err));
		return STATUS_USAGE;
	}
	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
	close(fd);
	return 0;
}

/* Text that is no UTF-8, which file names may be, cannot be kept. */
static bool can_be_kept(const struct reg_vm *vm)
{
	bool all = true;
	for (unsigned i = 0; i < vm->options.n; i++) {
		json_t *text = json_string(vm->options.at[i].value);
		all &= text != NULL;
		json_decref(text);
	}
	return all;
}

static bool same_memory(const struct option_list *a, const struct option_list *b)
{
	const char *x = option_list_get(a, "memory"), *y = option_list_get(b, "memory");
	return x && y ? !strcmp(x, y) : x == y;
}

/* Saved state fits the options that its machine was started with, whatever has been set since: they take the place of vm's. *resized: the machine's memory
 * has been set since, so it is no longer the policy's. */
static void options_of_then(const struct cli_call *call, struct reg_vm *vm, const char *folder, bool *resized)
{
	char why[256];
	struct reg_vm then;
	if (!cli_vm_has(call, vm, REG_SAVED_STATE)) {
		int err = can_be_kept(vm) ? store_put(folder, REG_STARTED, reg_to_json(vm)) : -EILSEQ;
		if (err)
			store_remove(folder, REG_STARTED);
		return;
	}
	json_t *doc = store_get(folder, REG_STARTED);
	if (doc && !reg_from_json(doc, &then, why, sizeof why)) {
		struct option_list now = vm->options;
		vm->options = then.options;
		then.options = now;
		*resized = !same_memory(&vm->options, &now);
		reg_vm_free(&then);
	}
	json_decref(doc);
}

/* The lock is ours, so the VM cannot be deleted; what the registry says now holds for this run. */
static int run_registered(struct cli_call *call, struct rundir *r, int ready_fd)
{
	static struct reg_vm vm;
	static char folder[PATH_MAX];
	struct vm_config cfg;
	int status = cli_get_vm(call, call->argv[0], &vm);
	if (!status)
		status = open_log(call, &vm);
	if (status)
		return status;
	bool resized = false, kept = !reg_path(call->state_dir, vm.id, NULL, folder, sizeof folder);
	if (kept)
		options_of_then(call, &vm, folder, &resized);
	status = cli_vm_config(vm.name, &vm.options, &cfg);
	if (status >= 0)
		return status;
	if (kept)
		cfg.folder = folder;
	if (resized)
		cfg.memory_min = 0;
	return cli_run_claimed(&cfg, r, say_ready, &ready_fd);
}

int cli_vm_process_command(struct cli_call *call)
{
	struct rundir r;
	cli_watch(call->state_dir, call->argv[0], atoi(call->argv[1]));
	int err = rundir_claim(&r, call->state_dir, call->argv[0]);
	if (err == -EBUSY)
		log_error("VM \"%s\" is running already", call->argv[0]);
	else if (err)
		log_error("%s/run/%s: %s", call->state_dir, call->argv[0], strerror(-err));
	if (err)
		return STATUS_USAGE;
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_NAME, "nestbox-vm"); /* it was started as /proc/self/exe, which top would show as "exe" */
	int status = run_registered(call, &r, atoi(call->argv[1]));
	rundir_close(&r);
	return status;
}

/* ---- start ---- */
static __attribute__((noreturn)) void become_vm(const struct cli_call *call, const char *name, int log_fd, int ready_fd)
{
	char number[16];
	int null = open("/dev/null", O_RDONLY);
	snprintf(number, sizeof number, "%d", READY_FD);
	setsid(); /* it outlives this terminal */
	dup2(null, STDIN_FILENO);
	dup2(log_fd, STDOUT_FILENO);
	dup2(log_fd, STDERR_FILENO);
	/* It keeps nothing else of its caller's: a pipe or a lock that a script has open must not live as long as the VM. */
	dup2(ready_fd, READY_FD);
	fcntl(READY_FD, F_SETFD, 0);
	close_range(READY_FD + 1, ~0u, 0);
	if (chdir("/"))
		_exit(STATUS_USAGE);
	execl("/proc/self/exe", "nestbox", "--state", call->state_dir, "_vm", name, number, NULL);
	dprintf(STDERR_FILENO, "nestbox: cannot start myself again: %s\n", strerror(errno));
	_exit(STATUS_USAGE);
}

/* Waits until the vCPUs run. 0, or the VM process's status. */
static int wait_ready(pid_t pid, int fd)
{
	char buf[16];
	int status = 0;
	ssize_t n;
	do
		n = read(fd, buf, sizeof buf);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return 0;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : STATUS_USAGE;
}

/* What the VM process said before it gave up. */
static int report_failure(const struct cli_call *call, const struct reg_vm *vm, int early_fd)
{
	char path[PATH_MAX], buf[8192], *save = NULL, words[1024] = "it ended at once and said nothing";
	ssize_t n = pread(early_fd, buf, sizeof buf - 1, 0);
	int log_fd = n > 0 || reg_path(call->state_dir, vm->id, "log", path, sizeof path) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	if (log_fd >= 0) {
		n = read(log_fd, buf, sizeof buf - 1);
		close(log_fd);
	}
	buf[n > 0 ? n : 0] = 0;
	bool first = true;
	for (char *line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, "nestbox: ", 9))
			continue;
		size_t len = first ? 0 : strlen(words);
		snprintf(words + len, sizeof words - len, "%s%s", first ? "" : "; ", line + 9);
		first = false;
	}
	return cli_fail(call, "start-failed", "VM \"%s\" does not start: %s", vm->name, words);
}

/* By its status file, not by asking it: a quick guest may have switched itself off by now. */
static int report_start(const struct cli_call *call, const char *name)
{
	json_t *s = NULL;
	rundir_alive(call->state_dir, name, &s, NULL);
	const char *engine = json_string_value(json_object_get(s, "engine")), *reason = json_string_value(json_object_get(s, "engine_reason"));
	int pid = (int)json_integer_value(json_object_get(s, "pid"));
	if (call->json)
		cli_print_json(json_pack("{si ss* ss*}", "pid", pid, "engine", engine, "engine_reason", reason));
	else
		printf("%s is running (process %d) on engine %s: %s\n", name, pid, engine ? engine : "?", reason ? reason : "?");
	json_decref(s);
	return STATUS_OK;
}

static int start(const struct cli_call *call, const struct reg_vm *vm)
{
	int fds[2] = { -1, -1 };
	if (rundir_alive(call->state_dir, vm->name, NULL, NULL))
		return cli_fail(call, "running", "VM \"%s\" is running already", vm->name);
	int early_fd = memfd_create("early-messages", MFD_CLOEXEC); /* what it says before it has its log */
	pid_t pid = early_fd < 0 || pipe2(fds, O_CLOEXEC) ? -1 : fork();
	if (!pid)
		become_vm(call, vm->name, early_fd, fds[1]);
	int status = STATUS_USAGE;
	if (pid < 0) {
		cli_fail(call, "host", "cannot make a process: %s", strerror(errno));
	} else {
		close(fds[1]);
		fds[1] = -1;
		status = wait_ready(pid, fds[0]) ? report_failure(call, vm, early_fd) : report_start(call, vm->name);
	}
	for (unsigned i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (early_fd >= 0)
		close(early_fd);
	return status;
}

int cli_start_command(struct cli_call *call)
{
	struct reg_vm vm;
	int status = cli_get_vm(call, call->argv[0], &vm);
	if (!status)
		status = start(call, &vm);
	reg_vm_free(&vm);
	return status;
}

/* ---- stop ---- */
static int report_end(const struct cli_call *call, const char *name, json_t *end)
{
	const char *reason = json_string_value(json_object_get(end, "reason"));
	if (!rundir_wait_gone(call->state_dir, name, GONE_LIMIT_MS)) {
		json_decref(end);
		return cli_fail(call, "no-answer", "VM \"%s\" has ended, but its process has not: nestbox stop --force %s", name, name);
	}
	if (call->json)
		return cli_print_json(end);
	printf("%s is off: %s\n", name, reason ? reason : "?");
	json_decref(end);
	return STATUS_OK;
}

/* The control socket is deaf: the process itself. The lock says that it is alive, so the pid in its status file is still its own. */
static int kill_process(const struct cli_call *call, const char *name)
{
	json_t *begin = NULL;
	bool alive = rundir_alive(call->state_dir, name, &begin, NULL);
	pid_t pid = (pid_t)json_integer_value(json_object_get(begin, "pid"));
	json_decref(begin);
	int fd = alive && pid > 1 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	if (fd >= 0 && rundir_alive(call->state_dir, name, NULL, NULL))
		syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
	if (fd >= 0)
		close(fd);
	return report_end(call, name, json_pack("{ss ss}", "end", "killed", "reason", "its process did not answer and was killed"));
}

enum outcome { END_TOLD, END_GONE /* the process vanished */, END_SILENT, END_REFUSED /* *end is the answer's sentence */ };

/* Waits for the answer to request `id`, at most limit_ms; a refusal of any request ends it. *end: the caller's. */
static enum outcome wait_end(struct proto_client *c, json_int_t id, int limit_ms, json_t **end)
{
	u64 until = host_now_ns() + (u64)limit_ms * 1000000;
	int err = 0;
	*end = NULL;
	for (;;) {
		u64 now = host_now_ns();
		json_t *msg = now < until ? proto_client_receive(c, (int)((until - now) / 1000000) + 1, &err) : NULL;
		if (!msg)
			return err && err != -ETIMEDOUT ? END_GONE : END_SILENT;
		bool ours = json_integer_value(json_object_get(msg, "id")) == id, ok = json_is_true(json_object_get(msg, "ok"));
		if (ours && ok)
			*end = json_incref(json_object_get(msg, "result"));
		else if (!ok)
			*end = json_incref(json_object_get(json_object_get(msg, "error"), "message"));
		json_decref(msg);
		if (ours && ok)
			return END_TOLD;
		if (!ok)
			return END_REFUSED;
	}
}

static json_t *vanished(void) { return json_pack("{ss ss}", "end", "crashed", "reason", "its process vanished"); }

/* Presses the power button and waits. 0 with *end filled, or the exit status after one error line. */
static int stop_gently(const struct cli_call *call, const char *name, struct proto_client *c, long limit_s, json_t **end)
{
	json_int_t id = proto_client_send(c, "wait", NULL, NULL, 0);
	if (id > 0)
		proto_client_send(c, "power-button", NULL, NULL, 0);
	switch (wait_end(c, id, (int)limit_s * 1000, end)) {
	case END_TOLD:
		return 0;
	case END_GONE:
		*end = vanished();
		return 0;
	case END_REFUSED:
		cli_fail(call, "refused", "VM \"%s\": %s, or stop it with --force", name, json_string_value(*end) ?: "its power button cannot be pressed");
		break;
	case END_SILENT:
		cli_fail(call, "no-answer",
			 "VM \"%s\" did not switch itself off within %ld s of its power button: its guest may not listen to it; stop --force pulls the plug", name,
			 limit_s);
	}
	json_decref(*end);
	*end = NULL;
	return STATUS_USAGE;
}

static int stop_by_force(const struct cli_call *call, const char *name, struct proto_client *c)
{
	json_t *end;
	enum outcome how = wait_end(c, proto_client_send(c, "quit", NULL, NULL, 0), QUIT_LIMIT_MS, &end);
	if (how == END_TOLD || how == END_GONE)
		return report_end(call, name, how == END_TOLD ? end : vanished());
	json_decref(end);
	return kill_process(call, name);
}

int cli_stop_vm(const struct cli_call *call, const char *name)
{
	struct proto_client c;
	json_t *end = NULL;
	int status = cli_connect(call, name, &c);
	if (status)
		return status;
	status = stop_gently(call, name, &c, STOP_DEFAULT_S, &end);
	if (!status && !rundir_wait_gone(call->state_dir, name, GONE_LIMIT_MS))
		status = cli_fail(call, "no-answer", "VM \"%s\" has ended, but its process has not", name);
	json_decref(end);
	proto_client_close(&c);
	return status;
}

int cli_stop_command(struct cli_call *call)
{
	const char *name = call->argv[0];
	struct proto_client c;
	json_t *end = NULL;
	long limit = cli_number(call, "timeout", 1, 86400, STOP_DEFAULT_S);
	if (limit < 0)
		return STATUS_USAGE;
	int status = cli_connect(call, name, &c);
	if (status)
		return status;
	if (cli_option(call, "force"))
		status = stop_by_force(call, name, &c);
	else if (!(status = stop_gently(call, name, &c, limit, &end)))
		status = report_end(call, name, end);
	proto_client_close(&c);
	return status;
}

/* ---- verbs that are one request ---- */
static int simple(struct cli_call *call, const char *verb)
{
	json_t *result = cli_ask(call, call->argv[0], verb, NULL);
	if (!result)
		return STATUS_USAGE;
	const char *state = json_string_value(json_object_get(result, "state"));
	if (call->json)
		return cli_print_json(result);
	printf("%s is %s\n", call->argv[0], state ? state : "reset");
	json_decref(result);
	return STATUS_OK;
}

int cli_reset_command(struct cli_call *call) { return simple(call, "reset"); }
int cli_pause_command(struct cli_call *call) { return simple(call, "pause"); }
int cli_resume_command(struct cli_call *call) { return simple(call, "resume"); }
