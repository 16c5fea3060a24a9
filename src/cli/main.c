/* nestbox: the command. */
#include "base/log.h"
#include "cli/cli.h"

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	struct vm_config cfg;
	if (!strcmp(verb, "run")) {
		int status = cli_parse_run(argc - 1, argv + 1, &cfg);
		return status >= 0 ? status : cli_run(&cfg);
	}
	if (!strcmp(verb, "help") || !strcmp(verb, "--help") || !strcmp(verb, "-h")) {
		cli_print_help(stdout);
		return STATUS_OK;
	}
	if (!strcmp(verb, "man")) {
		cli_print_man(stdout);
		return STATUS_OK;
	}
	if (!strcmp(verb, "version") || !strcmp(verb, "--version")) {
		puts("nestbox " NESTBOX_VERSION);
		return STATUS_OK;
	}
	if (*verb)
		log_error("unknown command \"%s\"; nestbox help lists them", verb);
	else
		cli_print_help(stderr);
	return STATUS_USAGE;
}
