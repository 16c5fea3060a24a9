/* A machine's options (options.def) as run, create and set use them. */
#ifndef NB_CLI_OPTIONS_H
#define NB_CLI_OPTIONS_H

#include "cli/registry.h"
#include "vm/vm.h"

/* argv's options (argv[0] is the command's name) into list, other words into words[max + 1], NULL-terminated. -1, or an exit status after one error line. */
int cli_parse_create(int argc, char **argv, struct option_list *list, const char **words, int max);
/* What a VM with these options is; cfg points into list and name. -1, or an exit status after one error line. */
int cli_vm_config(const char *name, const struct option_list *list, struct vm_config *cfg);
/* The same, and all that can be found out without making the machine: files, the CPU model. verb: the command, for messages. */
int cli_check_options(const char *verb, const char *name, const struct option_list *list);
/* value with the file names in it made absolute, so that it means the same from any folder. Allocated; NULL: out of memory. */
char *cli_absolute_value(const char *key, const char *value);
/* An option that a VM which stays can have. */
bool cli_option_exists(const char *key);
/* Row i: its name, argument (NULL: none) and text. NULL: there are no more. */
const char *cli_option_row(unsigned i, const char **arg, const char **text);

#endif
