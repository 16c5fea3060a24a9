/* From command line to handler. */
#ifndef NB_CLI_PARSE_H
#define NB_CLI_PARSE_H

/* argv[0] is the command's name. Returns the exit status. */
int cli_dispatch(const char *state_dir, int argc, char **argv);

#endif
