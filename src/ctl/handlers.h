/* Declares the handler of each row of verbs.def. */
#ifndef NB_CTL_HANDLERS_H
#define NB_CTL_HANDLERS_H

#include "ctl/ctl.h"

#define V(name, fn, args, results, help) void fn(struct vm *vm, struct ctl_call *call, json_t *args_);
#include "ctl/verbs.def"
#undef V

/* The machine has ended: gdb is let go. */
void ctl_gdb_end(void);
void ctl_trace_end(void);

#endif
