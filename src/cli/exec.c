/* `nestbox exec`: a command inside a running machine. */
#include "base/log.h"
#include "cli/guest.h"
#include "host/term.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { HELLO_MS = 15000, MAX_INPUT = 8 << 20 };

static int run_session(struct cli_call *call, unsigned wait_s)
{
	bool tty = cli_option(call, "tty") != NULL;
	char term[128], *env[] = { term, NULL };
	struct session_result result;
	struct session_request rq = { .argv = call->argv + 1, .cwd = cli_option(call, "cwd"), .tty = tty, .in = STDIN_FILENO, .out = STDOUT_FILENO,
				      .err = STDERR_FILENO, .hello_ms = HELLO_MS };
	if (tty && !isatty(STDIN_FILENO)) {
		cli_fail(call, "no-terminal", "--tty: standard input is not a terminal");
		return STATUS_USAGE;
	}
	snprintf(term, sizeof term, "TERM=%s", getenv("TERM") ? getenv("TERM") : "dumb");
	if (tty)
		rq.env = env;
	int fd = cli_guest_session(call, call->argv[0], wait_s);
	if (fd < 0)
		return -fd;
	if (tty)
		host_term_raw();
	int err = session_run(fd, &rq, &result);
	host_term_restore();
	close(fd);
	if (err)
		cli_fail(call, err > 0 ? "cannot-run" : "broken", "VM \"%s\": %s", call->argv[0], result.error);
	return err >= 0 ? result.status : STATUS_NO_WAY;
}

/* All of standard input, unless a person would have to type it. */
static char *read_input(struct cli_call *call, size_t *len)
{
	char *buf = malloc(MAX_INPUT + 1);
	*len = 0;
	while (buf && !isatty(STDIN_FILENO) && *len <= MAX_INPUT) {
		ssize_t n = read(STDIN_FILENO, buf + *len, MAX_INPUT + 1 - *len);
		if (n <= 0)
			break;
		*len += (size_t)n;
	}
	if (*len <= MAX_INPUT)
		return buf;
	cli_fail(call, "too-long", "--plain: standard input is longer than %d MiB; use nestbox cp", MAX_INPUT >> 20);
	free(buf);
	return NULL;
}

static void print_output(const json_t *status, const char *key, FILE *to)
{
	const char *text = json_string_value(json_object_get(status, key));
	size_t len;
	void *data = text ? base64_decode(text, &len) : NULL;
	if (data)
		fwrite(data, 1, len, to);
	fflush(to);
	free(data);
}

static int plain_status(struct cli_call *call, const json_t *status)
{
	print_output(status, "out-data", stdout);
	print_output(status, "err-data", stderr);
	if (json_is_true(json_object_get(status, "out-truncated")) || json_is_true(json_object_get(status, "err-truncated")))
		log_warn("the guest agent has cut the output");
	json_int_t signal = json_integer_value(json_object_get(status, "signal"));
	return signal ? 128 + (int)(signal & 127) : (int)(json_integer_value(json_object_get(status, "exitcode")) & 255);
}

static int run_plain(struct cli_call *call, unsigned wait_s)
{
	struct qga q;
	size_t len;
	char *input = read_input(call, &len);
	if (!input)
		return STATUS_USAGE;
	int status = cli_guest_agent(call, call->argv[0], wait_s, &q);
	if (status) {
		free(input);
		return -status;
	}
	json_int_t pid = qga_exec(&q, call->argv + 1, input, len, true);
	free(input);
	json_t *end = NULL;
	for (unsigned us = 5000; pid >= 0; us = us < 200000 ? us * 3 / 2 : us) {
		end = qga_exec_status(&q, pid);
		if (!end || json_is_true(json_object_get(end, "exited")))
			break;
		json_decref(end);
		usleep(us);
	}
	status = STATUS_NO_WAY;
	if (end)
		status = plain_status(call, end);
	else
		cli_fail(call, "agent-refuses", "VM \"%s\": %s", call->argv[0], q.error);
	json_decref(end);
	cli_guest_agent_close(&q);
	return status;
}

int cli_exec_command(struct cli_call *call)
{
	long wait_s = cli_number(call, "wait", 0, 86400, 0);
	if (wait_s < 0)
		return STATUS_USAGE;
	bool plain = cli_option(call, "plain") != NULL;
	if (plain && (cli_option(call, "tty") || cli_option(call, "cwd")))
		return cli_fail(call, "bad-usage", "--plain goes with neither --tty nor --cwd");
	return plain ? run_plain(call, (unsigned)wait_s) : run_session(call, (unsigned)wait_s);
}
