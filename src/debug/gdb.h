/* gdb's remote serial protocol (gdb manual, "Remote Protocol"): vCPUs are threads, breakpoints and watchpoints are the machine's (cpu/debugger.h), and any level
 * of guests can be looked at. While gdb is connected the machine stands still unless gdb lets it run. */
#ifndef NB_DEBUG_GDB_H
#define NB_DEBUG_GDB_H

#include "vm/vm.h"

struct gdb;
/* Serves one gdb at a time on listen_fd, a listening stream socket that becomes ours, until gdb_close(). Loop thread. NULL with one log line. */
struct gdb *gdb_open(struct vm *vm, int listen_fd);
/* Drops the connection and lets the machine go on. NULL is allowed. */
void gdb_close(struct gdb *g);

#endif
