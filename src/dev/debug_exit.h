/* Test exit: a 1, 2 or 4 byte write of v to port F4h ends the VM with status (v << 1) | 1. Present only with
 * --test-devices. No state. */
#ifndef NB_DEV_DEBUG_EXIT_H
#define NB_DEV_DEBUG_EXIT_H

#include "bus/bus.h"

void debug_exit_create(struct bus *bus, u16 port);

#endif
