/* Is this VM, is this host ready for VMs inside VMs? Rows in checks.def; see nested.c for the commands. */
#ifndef NB_CLI_CHECKS_H
#define NB_CLI_CHECKS_H

#include "cli/cli.h"
#include "cli/options.h"
#include "cli/registry.h"
#include "cli/state.h"

enum check_scope { SCOPE_VM = 1, SCOPE_HOST = 2, SCOPE_BOTH = 3 };
enum check_level { LEVEL_MUST, LEVEL_SHOULD, LEVEL_NOTE };

/* What is looked at. For the host alone vm is NULL. */
struct check_subject {
	const char *state_dir;
	const struct reg_vm *vm;
	const struct vm_now *now;
	struct vm_config cfg;     /* of vm's options; defaults without a VM */
};

/* What will be done. */
struct check_plan {
	struct option_list options; /* as they will be */
	bool stop, discard;
};

struct check_row {
	const char *code;
	enum check_scope scope;
	enum check_level level;
	bool (*check)(const struct check_subject *s, char *detail, size_t size);
	int (*fix)(const struct check_subject *s, struct check_plan *plan); /* 0, or -errno */
	const char *what, *remedy;
};
extern const struct check_row check_rows[];
extern const unsigned check_row_count;

/* Bytes that the VM needs for itself and a small VM inside, and the sum in words. */
u64 check_memory_need(const struct check_subject *s, char *words, size_t size);

#define K(code, scope, level, check, fix, what, remedy) bool check(const struct check_subject *s, char *detail, size_t size);
#include "cli/checks.def"
#undef K

#endif
