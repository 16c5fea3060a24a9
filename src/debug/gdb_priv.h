/* Between gdb's files. */
#ifndef NB_DEBUG_GDB_PRIV_H
#define NB_DEBUG_GDB_PRIV_H

#include "cpu/debugger.h"
#include "debug/gdb.h"
#include "debug/space.h"
#include "vmx/nest.h"

#define GDB_PACKET 16384

struct gdb {
	struct vm *vm;
	int listen_fd, fd;        /* fd -1: nobody is connected */
	struct loop_fd *listen, *conn;
	u8 in[2 * GDB_PACKET];    /* received, not yet a whole packet */
	size_t in_len;
	char *out;                /* to be sent */
	size_t out_len, out_room;
	bool no_ack, running;
	unsigned cpu;             /* thread that g, m, ... mean */
	unsigned level;           /* whose registers and memory are shown; 1: the machine's own software */
	struct cpu_debug *debug;  /* one a vCPU, while connected */
};

/* A packet under construction; what does not fit is cut off, and the packet with it. */
struct gdb_text { char s[2 * GDB_PACKET]; size_t n; };
void gdb_put(struct gdb_text *t, const char *fmt, ...) printf_like(2, 3);
void gdb_put_hex(struct gdb_text *t, const void *bytes, size_t n);
/* n bytes from hex digits. False: not that many. */
bool gdb_get_hex(const char **s, void *bytes, size_t n);

/* ---- gdb_regs.c ---- */
/* The vCPU runs the level that is shown; else only what the VMCS tells is known. */
bool gdb_in_view(const struct gdb *g, const struct cpu *c);
void gdb_read_registers(struct gdb *g, struct gdb_text *t);              /* "g" */
bool gdb_write_registers(struct gdb *g, const char *hex);                /* "G" */
bool gdb_read_register(struct gdb *g, unsigned n, struct gdb_text *t);   /* "p" */
bool gdb_write_register(struct gdb *g, unsigned n, const char **hex);    /* "P" */
void gdb_target_xml(struct gdb_text *t);

/* ---- gdb_monitor.c ---- */
/* "monitor TEXT": answers in plain text. */
void gdb_monitor(struct gdb *g, const char *command, struct gdb_text *answer);

#endif
