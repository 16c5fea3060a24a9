/* Copies of files and VMs. */
#ifndef NB_CLI_CLONE_H
#define NB_CLI_CLONE_H

struct cli_call;
struct registry;
struct reg_vm;

/* A durable copy at to_path, which must not exist; holes stay holes, and blocks are shared where the file system can. 0 or -errno; what was made of it stays. */
int clone_file(const char *from_path, const char *to_path);
/* Puts a finished VM (options checked, folder made) into the registry. 0, or the exit status after one error line. */
int cli_insert_vm(const struct cli_call *call, struct registry *reg, struct reg_vm *vm);

#endif
