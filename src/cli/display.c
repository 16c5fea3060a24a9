/* `nestbox screenshot`: the VM process writes the picture into a file that we open for it. */
#include "base/log.h"
#include "cli/cli.h"
#include "vm/display.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* An old picture is replaced only when the new one is complete. */
static int take(const struct cli_call *call, struct proto_client *c, const char *path, const char *temp)
{
	struct proto_error e;
	int fd = open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return cli_fail(call, "host", "\"%s\": %s", temp, strerror(errno));
	json_t *args = json_pack("{ss}", "format", display_format_of(path) == DISPLAY_TEXT ? "text" : "png");
	json_t *r = proto_call(c, "screenshot", args, &fd, 1, 30000, NULL, NULL, &e);
	close(fd);
	if (r && !rename(temp, path))
		return call->json ? cli_print_json(r) : (json_decref(r), STATUS_OK);
	int status = r ? cli_fail(call, "host", "\"%s\": %s", path, strerror(errno)) : cli_fail(call, e.code, "VM \"%s\": %s", call->argv[0], e.message);
	json_decref(r);
	unlink(temp);
	return status;
}

int cli_screenshot_command(struct cli_call *call)
{
	struct proto_client c;
	char temp[4096];
	int n = snprintf(temp, sizeof temp, "%s.%d.tmp", call->argv[1], (int)getpid());
	if (n < 0 || (size_t)n >= sizeof temp)
		return cli_fail(call, "bad-usage", "\"%s\": the file's name is too long", call->argv[1]);
	int status = cli_connect(call, call->argv[0], &c);
	if (status)
		return status;
	status = take(call, &c, call->argv[1], temp);
	proto_client_close(&c);
	return status;
}
