/* `nestbox run`: one VM in the foreground, its console on stdio. */
#include "base/log.h"
#include "cli/cli.h"
#include "host/loop.h"
#include "host/sandbox.h"
#include "host/term.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static struct vm *signalled_vm;

static void on_signal(int sig)
{
	u64 one = 1;
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
	struct loop_timer *limit;
};

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

static void on_event(void *opaque, unsigned ready)
{
	struct foreground *fg = opaque;
	if (fg->vm->quit_signal)
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
	if (fg.event) {
		on_event(&fg, 0); /* what happened before we listened */
		loop_run(l);
	} else {
		vm_end(vm, VM_HOST_ERROR);
	}
	loop_timer_remove(fg.limit);
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
	signal(SIGPIPE, SIG_IGN);
}

int cli_run(const struct vm_config *cfg)
{
	struct vm *vm = calloc(1, sizeof *vm);
	if (!vm)
		return STATUS_USAGE;
	int status = STATUS_USAGE;
	if (!vm_create(vm, cfg)) {
		catch_signals(vm);
		if (cfg->serial == VM_SERIAL_STDIO)
			host_term_raw();
		if (!host_sandbox_enter(vm->promises) && !vm_start(vm))
			main_loop(vm);
		bool stopped = vm_stop(vm);
		/* What the guest said comes before what we say. */
		board_console_finish(vm, vm->end == VM_TIMEOUT || vm->quit_signal ? 1000 : -1);
		status = status_of(vm);
		host_term_restore();
		if (vm->end == VM_TIMEOUT)
			log_error("timeout after %u s", cfg->timeout_s);
		if (cfg->stats)
			vm_print_stats(vm, stderr);
		if (!stopped)
			_exit(status);
	}
	vm_destroy(vm);
	free(vm);
	return status;
}
