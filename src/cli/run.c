/* The VM process: `nestbox run` in the foreground with its console on stdio, or what `nestbox start` left in the background. With a name it has a run folder
 * (proto/rundir.h) and a control socket. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/registry.h"
#include "ctl/ctl.h"
#include "host/disk.h"
#include "host/loop.h"
#include "host/sandbox.h"
#include "host/term.h"
#include "migrate/snapshot.h"
#include "migrate/store.h"
#include "vm/memory_policy.h"
#include "proto/rundir.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static struct vm *signalled_vm;

static void on_signal(int sig)
{
	u64 one = 1;
	if (sig == SIGCONT)
		signalled_vm->resume_signal = 1;
	else
		signalled_vm->quit_signal = sig;
	if (write(signalled_vm->event_fd, &one, sizeof one) < 0)
		return;
}

static void read_console(struct vm *vm)
{
	u8 raw[256], typed[256];
	ssize_t n = read(STDIN_FILENO, raw, min_u64(sizeof raw, board_input_room(vm)));
	if (n <= 0) { /* end of input: the guest's line stays open, with nobody typing */
		vm->input_closed = true;
		return;
	}
	bool quit;
	size_t len = host_term_filter(raw, n, typed, &quit);
	if (len)
		board_serial_input(vm, typed, len);
	if (quit)
		vm_end(vm, VM_QUIT);
}

/* ---- the main loop ---- */
struct foreground {
	struct vm *vm;
	struct loop_fd *event, *in, *out;
	struct loop_timer *limit, *patience;
	bool asked;                    /* its power button has been pressed for a SIGTERM */
};
#define TERM_LIMIT_S 60

/* What to listen for next. A guest that reads slowly leaves its input in the pipe; a reader that is slow is waited for. */
static void settle(struct foreground *fg)
{
	struct vm *vm = fg->vm;
	bool more = board_console_drain(vm);
	if (fg->in)
		loop_fd_events(fg->in, !vm->input_closed && board_input_room(vm) ? LOOP_READ : 0);
	if (fg->out)
		loop_fd_events(fg->out, more ? LOOP_WRITE : 0);
}

static void on_patience(void *opaque)
{
	struct foreground *fg = opaque;
	log_warn("the guest has not switched itself off within %d s of a SIGTERM: it ends now", TERM_LIMIT_S);
	fg->vm->quit_signal = SIGTERM;
	vm_end(fg->vm, VM_QUIT);
}

/* A machine in the background that is asked to end, as when the host goes down, presses its power button first; asked again, it ends. False: at once. */
static bool ask_guest(struct foreground *fg)
{
	struct vm *vm = fg->vm;
	if (vm->quit_signal != SIGTERM || !vm->cfg.folder || fg->asked || !fg->patience)
		return false;
	fg->asked = true;
	vm->quit_signal = 0;
	if (vm->user_paused) /* it would not feel it */
		vm_user_pause(vm, false);
	log_info("SIGTERM: pressing the power button; the guest has %d s, a second SIGTERM ends the machine at once", TERM_LIMIT_S);
	board_power_button(vm);
	loop_timer_set(fg->patience, TERM_LIMIT_S * 1000ull);
	return true;
}

static void on_event(void *opaque, unsigned ready)
{
	struct foreground *fg = opaque;
	if (fg->vm->quit_signal && !ask_guest(fg))
		vm_end(fg->vm, VM_QUIT);
	if (!vm_handle_events(fg->vm))
		loop_stop(fg->vm->loop);
	settle(fg);
}

static void on_input(void *opaque, unsigned ready)
{
	struct foreground *fg = opaque;
	read_console(fg->vm);
	settle(fg);
}

static void on_output(void *opaque, unsigned ready) { settle(opaque); }

static void on_limit(void *opaque)
{
	struct foreground *fg = opaque;
	vm_end(fg->vm, VM_TIMEOUT);
}

static void main_loop(struct vm *vm)
{
	struct foreground fg = { .vm = vm };
	struct loop *l = vm->loop;
	vm->input_closed = vm->cfg.serial != VM_SERIAL_STDIO;
	fg.event = loop_fd_add(l, vm->event_fd, LOOP_READ, on_event, &fg);
	if (!vm->input_closed)
		fg.in = loop_fd_add(l, STDIN_FILENO, 0, on_input, &fg);
	if (board_console_fd(vm) >= 0)
		fg.out = loop_fd_add(l, board_console_fd(vm), 0, on_output, &fg);
	if (vm->cfg.timeout_s && (fg.limit = loop_timer_add(l, on_limit, &fg)))
		loop_timer_set(fg.limit, vm->cfg.timeout_s * 1000ull);
	fg.patience = loop_timer_add(l, on_patience, &fg);
	if (fg.event) {
		on_event(&fg, 0); /* what happened before we listened */
		loop_run(l);
	} else {
		vm_end(vm, VM_HOST_ERROR);
	}
	loop_timer_remove(fg.limit);
	loop_timer_remove(fg.patience);
	loop_fd_remove(fg.out);
	loop_fd_remove(fg.in);
	loop_fd_remove(fg.event);
}

static int status_of(const struct vm *vm)
{
	switch (vm->end) {
	case VM_POWERED_OFF:
	case VM_REBOOT_REFUSED:
		return STATUS_OK;
	case VM_QUIT:
		return vm->quit_signal ? 128 + vm->quit_signal : STATUS_OK;
	case VM_DIED:
		return STATUS_DIED;
	case VM_DEBUG_EXIT:
		return ((vm->debug_exit_value << 1) | 1) & 0xff;
	case VM_TIMEOUT:
		return STATUS_TIMEOUT;
	case VM_RUNNING:
	case VM_HOST_ERROR:
		break;
	}
	return STATUS_USAGE;
}

static void catch_signals(struct vm *vm)
{
	struct sigaction sa = { .sa_handler = on_signal };
	signalled_vm = vm;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	sigaction(SIGCONT, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* How the machine ended, for `status` and for those who wait. */
static json_t *end_of(const struct vm *vm, int status)
{
	static const struct { const char *name, *reason; } rows[] = {
		[VM_RUNNING] = { "host-error", "the host refused something; the log says what" },
		[VM_POWERED_OFF] = { "powered-off", "the guest switched itself off" },
		[VM_DIED] = { "died", "the guest died (triple fault); the log says where" },
		[VM_DEBUG_EXIT] = { "debug-exit", "the guest wrote to the debug-exit port" },
		[VM_TIMEOUT] = { "timeout", "the time limit of timeout= was reached" },
		[VM_QUIT] = { "quit", "it was told to end at once" },
		[VM_REBOOT_REFUSED] = { "reset", "the guest reset the machine, which ends it with no-reboot" },
		[VM_HOST_ERROR] = { "host-error", "the host refused something; the log says what" },
	};
	return json_pack("{ss ss si}", "end", rows[vm->end].name, "reason", vm->quit_signal ? "a signal told it to end" : rows[vm->end].reason, "status", status);
}

/* The run folder, before anything of the machine is touched. 0 or a status. */
static int claim(struct rundir *r, const char *state_dir, const char *name)
{
	int err = name ? rundir_claim(r, state_dir, name) : 0;
	if (!err)
		return 0;
	if (err == -EBUSY)
		log_error("VM \"%s\" is running already", name);
	else
		log_error("%s/run/%s: %s", state_dir, name, strerror(-err));
	return STATUS_USAGE;
}

static struct ctl *serve(struct vm *vm, struct rundir *r)
{
	int fd = rundir_listen(r);
	struct ctl *ctl = fd >= 0 ? ctl_open(vm, fd) : NULL;
	if (fd < 0)
		log_error("control socket of VM \"%s\": %s", vm->cfg.name, strerror(-fd));
	if (!ctl && fd >= 0)
		close(fd);
	return ctl;
}

static int start_serving(struct vm *vm, struct rundir *r, struct ctl **ctl)
{
	*ctl = serve(vm, r);
	if (!*ctl)
		return -EIO;
	int err = rundir_started(r, json_pack("{ss ss}", "engine", vm->engine->name, "engine_reason", vm_engine_reason(vm->cfg.engine)));
	if (err)
		log_error("VM \"%s\", status file: %s", vm->cfg.name, strerror(-err));
	else
		rundir_catch_crashes(r);
	return err;
}

/* Checkpoints are files that come and go while the machine runs. */
static int keep_to_folder(struct vm *vm)
{
	int err = vm->promises & SANDBOX_FILES ? 0 : host_sandbox_folder(vm->cfg.folder); /* else somebody needs more than the folder */
	vm->promises |= SANDBOX_FILES;
	return err;
}

static void disks_wait(struct vm *vm, bool on)
{
	for (unsigned i = 0; i < vm->cfg.ndisks; i++)
		if (board_disk(vm, i))
			disk_wait(board_disk(vm, i), on);
}

/* The vCPUs run. Saved state is past from the moment its file has gone, and not before: until then no disk has changed, so that whoever is killed meanwhile
 * has the same state to start from, and afterwards a machine that has run. */
static bool begin_running(struct vm *vm)
{
	bool saved = vm->cfg.folder != NULL; /* or might be */
	if (saved)
		disks_wait(vm, true);
	bool ok = !vm_start(vm);
	int err = ok && saved ? store_resumed(vm->cfg.folder) : 0;
	if (err)
		log_error("\"%s/saved\": cannot be removed: %s; the machine does not go on, and its saved state stays", vm->cfg.folder, strerror(-err));
	if (saved && !err)
		disks_wait(vm, false);
	return ok && !err;
}

/* From power-on to the end; the process's status. */
static int run_machine(struct vm *vm, struct ctl **ctl, struct rundir *r, void (*started)(void *), void *opaque)
{
	catch_signals(vm);
	bool ok = !vm->cfg.name || !start_serving(vm, r, ctl);
	if (ok && vm->cfg.serial == VM_SERIAL_STDIO)
		host_term_raw();
	if (ok && vm->cfg.folder)
		ok = !keep_to_folder(vm);
	if (ok && !host_sandbox_enter(vm->promises) && begin_running(vm)) {
		if (started)
			started(opaque);
		if (vm->cfg.folder)
			ctl_merge(vm);
		main_loop(vm);
	}
	bool stopped = vm_stop(vm);
	if (stopped)
		vm_last_screenshot(vm);
	int status = status_of(vm);
	/* What the guest said comes before what we say. */
	if (vm->cfg.serial != VM_SERIAL_CONTROL)
		board_console_finish(vm, vm->end == VM_TIMEOUT || vm->quit_signal ? 1000 : -1);
	host_term_restore();
	if (vm->end == VM_TIMEOUT)
		log_error("timeout after %u s", vm->cfg.timeout_s);
	if (vm->cfg.stats)
		vm_print_stats(vm, stderr);
	rundir_ended(r, end_of(vm, status));
	ctl_close(*ctl, end_of(vm, status), 2000);
	if (!stopped)
		_exit(status);
	return status;
}

int cli_run_claimed(const struct vm_config *cfg, struct rundir *r, void (*started)(void *), void *opaque)
{
	struct ctl *ctl = NULL;
	struct vm *vm = calloc(1, sizeof *vm);
	if (!vm)
		return STATUS_USAGE;
	struct vm_config own = *cfg;
	int err = own.folder ? store_configure(&own) : 0;
	if (!err)
		err = vm_create(vm, &own);
	if (!err && !(vm->snapshots = snapshots_create(vm)))
		err = -ENOMEM;
	if (!err && own.restore)
		err = snapshots_restore(vm->snapshots, own.restore, own.share);

	if (!err && !(vm->memory = memory_policy_create(vm)))
		err = -ENOMEM;
	int status = err ? STATUS_USAGE : run_machine(vm, &ctl, r, started, opaque);
	ctl_merge_stop();
	memory_policy_free(vm->memory);
	snapshots_destroy(vm->snapshots);
	vm_destroy(vm);
	free(vm);
	return status;
}

/* In the foreground. */
int cli_run(const struct vm_config *cfg, const char *state_dir)
{
	struct rundir r = { -1, -1, -1 };
	int status = claim(&r, state_dir, cfg->name);
	if (!status)
		status = cli_run_claimed(cfg, &r, NULL, NULL);
	rundir_close(&r);
	return status;
}

/* The name of a VM that stays is its own, also while it is off. */
static bool is_registered(const char *state_dir, const char *name)
{
	struct registry *reg;
	struct reg_vm vm;
	if (reg_open(state_dir, false, &reg))
		return false;
	bool yes = !reg_get(reg, name, &vm);
	reg_vm_free(&vm);
	reg_close(reg);
	return yes;
}

int cli_run_command(struct cli_call *call)
{
	struct vm_config cfg;
	int status = cli_parse_run(call->argc, call->argv, &cfg);
	if (status < 0 && cfg.name && is_registered(call->state_dir, cfg.name)) {
		log_error("--name \"%s\": there is a VM of this name that stays: nestbox start %s, or choose another name", cfg.name, cfg.name);
		status = STATUS_USAGE;
	}
	return status >= 0 ? status : cli_run(&cfg, call->state_dir);
}
