/* Between registry.c and folders.c. */
#ifndef NB_CLI_REGISTRY_PRIV_H
#define NB_CLI_REGISTRY_PRIV_H

#include "cli/registry.h"

/* A row has this id; true when in doubt. */
bool reg_owns(struct registry *reg, const char *id);
const char *reg_state_dir(const struct registry *reg);

#endif
