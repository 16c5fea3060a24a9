/* The VMs that stay: an SQLite file STATE/registry.db, and a folder STATE/vms/ID for what belongs to each. Only the command writes it, in transactions, so a
 * command that is killed leaves it as it was before or after, never between. Not here: what a VM is doing now (state.h). Surprise: a folder without a row is
 * rubbish of a command that was killed, and the next command that changes something removes it. */
#ifndef NB_CLI_REGISTRY_H
#define NB_CLI_REGISTRY_H

#include "base/base.h"
#include "proto/rundir.h"
#include <jansson.h>

#define REG_ID_LEN 16
#define REG_MAX_OPTIONS 256
#define REG_MAX_VALUE 65536

/* In a VM's folder: the saved state that start resumes from, and the folder of checkpoints. */
#define REG_SAVED_STATE "saved"
#define REG_STARTED "started" /* the options of the last start that did not go on from saved state */
#define REG_CHECKPOINTS "checkpoints"

struct option_list {
	struct option_pair { char *key, *value; } *at; /* by options.def's names; value "on" for those without argument */
	unsigned n;
};
int option_list_add(struct option_list *l, const char *key, const char *value); /* copies; 0 or -ENOMEM */
void option_list_remove(struct option_list *l, unsigned i);
/* The last value of key, NULL: not set. */
const char *option_list_get(const struct option_list *l, const char *key);
int option_list_copy(struct option_list *to, const struct option_list *from);
void option_list_free(struct option_list *l);

struct reg_vm {
	char id[REG_ID_LEN + 1];
	char name[RUNDIR_MAX_NAME + 1];
	i64 created;              /* seconds since 1970 */
	struct option_list options;
};
void reg_vm_free(struct reg_vm *vm);

struct registry;
/* All of these: 0 or -errno with one log line, unless they say otherwise. create: make the folder and the file if they are not there; without it a missing
 * registry counts as an empty one. */
int reg_open(const char *state_dir, bool create, struct registry **reg);
void reg_close(struct registry *reg);
/* Everything between reg_begin and reg_commit happens whole or not at all, and nobody else changes anything meanwhile. */
int reg_begin(struct registry *reg);
int reg_commit(struct registry *reg);
void reg_rollback(struct registry *reg);

/* -ENOENT without a log line: no such VM. */
int reg_get(struct registry *reg, const char *name, struct reg_vm *vm);
/* All VMs by name; the caller frees each and the array. */
int reg_list(struct registry *reg, struct reg_vm **vms, unsigned *n);
/* vm->id must be new (reg_new_id). -EEXIST without a log line: the name is taken. */
int reg_insert(struct registry *reg, const struct reg_vm *vm);
int reg_set_options(struct registry *reg, const struct reg_vm *vm);
int reg_delete(struct registry *reg, const char *id);

void reg_new_id(char id[REG_ID_LEN + 1]);
/* STATE/vms/ID[/file]; file may be NULL. -ENAMETOOLONG without a log line. */
int reg_path(const char *state_dir, const char *id, const char *file, char *to, size_t size);
/* Makes the folder of a VM that is being made and keeps reg_tidy away from it: descriptor to close after reg_insert, or -errno with a log line. */
int reg_make_folder(const char *state_dir, const char *id);
/* Removes a folder and all in it (only below STATE/vms). */
void reg_remove_folder(const char *state_dir, const char *id);
/* Removes folders that no row owns and nobody is making. */
void reg_tidy(struct registry *reg);

/* A VM as a document, and back (for export and import; the input is a stranger's). vm->id is not part of it. */
json_t *reg_to_json(const struct reg_vm *vm);
/* 0, or -EINVAL with a sentence in why. Names and sizes are checked, options are not. */
int reg_from_json(const json_t *doc, struct reg_vm *vm, char *why, size_t size);

#endif
