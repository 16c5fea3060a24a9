/* `nestbox run`: one VM in the foreground, its console on stdio. */
#include "base/log.h"
#include "cli/cli.h"
#include "host/sandbox.h"
#include "host/term.h"

#include <errno.h>
#include <poll.h>
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

static int wait_ms(const struct vm *vm)
{
	if (!vm->cfg.timeout_s)
		return -1;
	u64 end = vm->start_host_ns + vm->cfg.timeout_s * NSEC_PER_SEC, now = host_now_ns();
	return now >= end ? 0 : (int)((end - now) / 1000000) + 1;
}

static void main_loop(struct vm *vm)
{
	enum { EVENT, IN, OUT };
	struct pollfd fds[] = { [EVENT] = { .fd = vm->event_fd, .events = POLLIN }, [IN] = { .events = POLLIN }, [OUT] = { .events = POLLOUT } };
	vm->input_closed = vm->cfg.serial != VM_SERIAL_STDIO;
	for (;;) {
		fds[IN].fd = !vm->input_closed && board_input_room(vm) ? STDIN_FILENO : -1; /* the guest reads slowly: leave it in the pipe */
		fds[OUT].fd = board_console_drain(vm) ? board_console_fd(vm) : -1;
		int n = poll(fds, array_len(fds), wait_ms(vm));
		if (n < 0 && errno != EINTR) {
			log_error("poll: %s", strerror(errno));
			vm_end(vm, VM_HOST_ERROR);
		}
		if (vm->quit_signal)
			vm_end(vm, VM_QUIT);
		if (wait_ms(vm) == 0)
			vm_end(vm, VM_TIMEOUT);
		if (n > 0 && fds[IN].fd >= 0 && fds[IN].revents)
			read_console(vm);
		if ((n <= 0 || fds[EVENT].revents) && !vm_handle_events(vm))
			return;
	}
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
		if (!host_sandbox_enter() && !vm_start(vm))
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
