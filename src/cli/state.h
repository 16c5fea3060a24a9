/* What a VM is doing now, as far as can be seen from outside. */
#ifndef NB_CLI_STATE_H
#define NB_CLI_STATE_H

#include "cli/cli.h"
#include "cli/registry.h"

struct vm_now {
	const char *state;   /* off running paused saved crashed not-answering */
	bool alive;          /* there is a process */
	char reason[600];    /* why it is off or crashed; may be empty */
	json_t *status;      /* the control socket's answer to "status"; NULL: not running, or no answer */
	int pid;             /* 0: none */
};

/* id: NULL for one that runs in the foreground. Free with vm_now_free. */
void vm_now(const char *state_dir, const char *name, const char *id, struct vm_now *now);
void vm_now_free(struct vm_now *now);

/* A VM that stays with what it is doing. Opens and closes the registry. 0, or the exit status after one error line. */
int cli_get_vm(const struct cli_call *call, const char *name, struct reg_vm *vm);
/* An open registry, or NULL after one error line. create as in reg_open. */
struct registry *cli_registry(const struct cli_call *call, bool create);
/* The file in the VM's folder exists. */
bool cli_vm_has(const struct cli_call *call, const struct reg_vm *vm, const char *file);

/* A VM's process in the background gets a parent that writes down how it ended. Returns in the VM's process only. */
void cli_watch(const char *state_dir, const char *name, int ready_fd);

#endif
