/* nestbox: the command. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/parse.h"
#include "net/helper.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

/* $XDG_DATA_HOME/nestbox, else ~/.local/share/nestbox (XDG Base Directory Specification). */
static const char *default_state_dir(char *buf, size_t size)
{
	const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
	if (data && *data == '/')
		snprintf(buf, size, "%s/nestbox", data);
	else
		snprintf(buf, size, "%s/.local/share/nestbox", home && *home == '/' ? home : "/tmp");
	return buf;
}

static int absolute(const char *dir, char *buf, size_t size)
{
	char cwd[PATH_MAX];
	int n = *dir == '/' ? snprintf(buf, size, "%s", dir) : getcwd(cwd, sizeof cwd) ? snprintf(buf, size, "%s/%s", cwd, dir) : -1;
	return n < 0 || n >= (int)size ? -1 : 0;
}

int main(int argc, char **argv)
{
	char buf[PATH_MAX], state[PATH_MAX];
	const char *dir = NULL;
	int at = 1;
	json_object_seed(0); /* libjansson would open /dev/urandom when it makes its first object, which may be inside the sandbox */
	/* helper processes of a machine's network: net/helper.h */
	if (argc > 1 && !strcmp(argv[1], "net-user"))
		return net_user_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "net-switch"))
		return net_switch_main(argc - 1, argv + 1);
	if (at + 1 < argc && !strcmp(argv[at], "--state")) {
		dir = argv[at + 1];
		at += 2;
	} else if (at < argc && !strncmp(argv[at], "--state=", 8)) {
		dir = argv[at++] + 8;
	}
	if (at == 1)
		dir = default_state_dir(buf, sizeof buf);
	if (!dir || !*dir || absolute(dir, state, sizeof state)) {
		log_error("--state \"%s\": not a usable folder name", dir ? dir : "");
		return STATUS_USAGE;
	}
	return cli_dispatch(state, argc - at, argv + at);
}
