/* Command-line parsing for nestbox. */
#ifndef NB_CLI_H
#define NB_CLI_H

#include "vm/vm.h"

/* Exit statuses of nestbox run. */
enum { STATUS_OK = 0, STATUS_DIED = 1, STATUS_USAGE = 2, STATUS_TIMEOUT = 124 };

/* Parses `run`'s arguments. Returns -1 to go on with *cfg filled, else the process's exit status (help printed, or one error line). */
int cli_parse_run(int argc, char **argv, struct vm_config *cfg);

void cli_print_help(FILE *out);
/* The manual page in man(7) format, made from the same rows. */
void cli_print_man(FILE *out);

/* Runs a VM in the foreground; returns the exit status. */
int cli_run(const struct vm_config *cfg);

#endif
