/* The nestbox command: rows (verbs.def, options.def) and what their handlers need. */
#ifndef NB_CLI_H
#define NB_CLI_H

#include "proto/proto.h"
#include "vm/vm.h"
#include <jansson.h>

/* Exit statuses. A machine in the foreground also ends with (v<<1)|1 and 128 + signal. */
enum { STATUS_OK = 0, STATUS_DIED = 1, STATUS_USAGE = 2, STATUS_NOT_READY = 3, STATUS_DECLINED = 4, STATUS_TIMEOUT = 124 };

#define CLI_MAX_OPTIONS 16

/* One command line, parsed by its row. */
struct cli_call {
	const struct cli_verb *verb;
	const char *state_dir;  /* where run folders and the registry are */
	bool json;
	int argc;
	char **argv;            /* what is left after options, NULL-terminated; for raw commands everything after the verb's name */
	const char *options[CLI_MAX_OPTIONS]; /* by the order of the verb's CO rows: NULL not given, "" without argument */
};

struct cli_verb {
	const char *name, *args;
	int (*fn)(struct cli_call *call); /* returns the exit status */
	const char *help;
};
struct cli_verb_option { const struct cli_verb *verb; const char *name, *arg, *text; };
struct cli_verb_key { const struct cli_verb *verb; const char *key, *type, *text; };
extern const struct cli_verb cli_verbs[];
extern const struct cli_verb_option cli_verb_options[];
extern const struct cli_verb_key cli_verb_keys[];
extern const unsigned cli_verb_count, cli_verb_option_count, cli_verb_key_count;
const struct cli_verb *cli_verb_find(const char *name);
/* run and create: takes the options of options.def. */
bool cli_verb_takes_vm_options(const struct cli_verb *verb);
/* The text after "usage: nestbox ", the options and keys of one command. */
void cli_print_verb_help(FILE *out, const struct cli_verb *verb);

/* An option's argument, "" if it has none, NULL if it was not given. The verb must have such a row. */
const char *cli_option(const struct cli_call *call, const char *name);
/* A number option's value, or `otherwise` when not given; -1 after one error line when it is not from min to max. */
long cli_number(const struct cli_call *call, const char *name, long min, long max, long otherwise);

/* One error line; with --json also {"error":{"code","message"}} on stdout. Returns STATUS_USAGE, or what STATUS is. */
int cli_fail(const struct cli_call *call, const char *code, const char *fmt, ...) printf_like(3, 4);
/* Prints result as one JSON document; takes it over. Returns STATUS_OK. */
int cli_print_json(json_t *result);

/* Connects to a running machine: registered or in the foreground. 0, or the exit status after one error line. */
int cli_connect(const struct cli_call *call, const char *name, struct proto_client *c);
/* Connects, asks, disconnects. The result (caller owns it), or NULL after one error line: the status is STATUS_USAGE. Takes args. */
json_t *cli_ask(const struct cli_call *call, const char *name, const char *verb, json_t *args);

/* All VMs, those in the foreground included, as `list --json` shows them. NULL after one error line. */
json_t *cli_list_vms(const struct cli_call *call);

/* Presses the power button and waits for the end, as `stop` does, quietly. 0, or the exit status after one error line. */
int cli_stop_vm(const struct cli_call *call, const char *name);

/* Parses `run`'s arguments (argv[0] is skipped). Returns -1 to go on with *cfg filled, else the process's exit status (help printed, or one error line).
 * cfg points into argv. */
int cli_parse_run(int argc, char **argv, struct vm_config *cfg);
void cli_print_run_options(FILE *out);
void cli_print_run_man(FILE *out);
extern const char cli_run_status_text[];

/* The VM process: runs the machine to its end; returns the exit status. r: its run folder, claimed (all -1 without cfg->name); stays the caller's. started
 * (may be NULL) is called once the vCPUs run, inside the sandbox. */
struct rundir;
int cli_run_claimed(const struct vm_config *cfg, struct rundir *r, void (*started)(void *opaque), void *opaque);
/* The same for a machine of the moment, whose run folder, if it has a name, is claimed here. */
int cli_run(const struct vm_config *cfg, const char *state_dir);

/* Handlers of the rows. */
#define C(id, name, args, fn, help) int fn(struct cli_call *call);
#define CO(id, name, arg, text)
#define CK(id, key, type, text)
#include "cli/verbs.def"
#undef C
#undef CO
#undef CK

#endif
