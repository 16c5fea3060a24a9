/* The console side of a control socket; see console.c. */
#ifndef NB_CTL_CONSOLE_H
#define NB_CTL_CONSOLE_H

#include "ctl/ctl.h"

struct ctl_console;

/* For a VM with VM_SERIAL_CONTROL. NULL: out of memory. */
struct ctl_console *ctl_console_create(struct vm *vm);
/* Gives readers the rest and lets them go. The vCPUs have stopped. NULL is allowed. */
void ctl_console_destroy(struct ctl_console *c);
/* The server's console; NULL: its VM has none. */
struct ctl_console *ctl_console_of(struct ctl *ctl);

#endif
