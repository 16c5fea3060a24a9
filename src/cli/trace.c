/* trace NAME: a file of VM entries and exits. */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int cli_trace_command(struct cli_call *call)
{
	struct proto_client c;
	struct proto_error e;
	const char *out = cli_option(call, "out");
	long seconds = cli_number(call, "seconds", 1, 60, 1);
	if (seconds < 0)
		return STATUS_USAGE;
	if (!out)
		return cli_fail(call, "no-out", "trace: --out FILE says where to write it");
	int status = cli_connect(call, call->argv[0], &c);
	if (status)
		return status;
	int fd = open(out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0) {
		proto_client_close(&c);
		return cli_fail(call, "no-file", "--out \"%s\": %s", out, strerror(errno));
	}
	json_t *r = proto_call(&c, "trace", json_pack("{s:I}", "seconds", (json_int_t)seconds), &fd, 1, (int)seconds * 1000 + 60000, NULL, NULL, &e);
	close(fd);
	proto_client_close(&c);
	if (!r) {
		unlink(out);
		return cli_fail(call, e.code, "VM \"%s\": %s", call->argv[0], e.message);
	}
	if (call->json)
		return cli_print_json(r);
	printf("%s: %lld VM entries and exits in %ld s", out, (long long)json_integer_value(json_object_get(r, "events")), seconds);
	if (json_integer_value(json_object_get(r, "lost")))
		printf(", %lld later ones lost", (long long)json_integer_value(json_object_get(r, "lost")));
	printf("\n");
	json_decref(r);
	return STATUS_OK;
}
