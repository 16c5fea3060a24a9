/* Where a running VM is found: the folder STATE/run/NAME with
 *   lock    locked by the VM process as long as it lives (the one truth about "is it running?"),
 *   status  JSON lines: how it was started, and how it ended, if it could still say so,
 *   ctl     its control socket.
 * Here: the folder's life. Not here: the registry of VMs that stay (cli/registry.h). Surprise: a lock that is asked about is never taken, so that a question
 * cannot make a start fail. */
#ifndef NB_PROTO_RUNDIR_H
#define NB_PROTO_RUNDIR_H

#include "base/base.h"
#include <jansson.h>
#include <sys/types.h>

#define RUNDIR_MAX_NAME 64

struct rundir {
	int dir_fd, lock_fd, status_fd; /* -1: not open */
};

/* A VM's name: letters, digits, dot, dash, underscore, at most 64, the first a letter or digit. */
bool rundir_name_ok(const char *name);
/* Makes the folder `path` and those above it, readable for the user alone. 0 or -errno. */
int rundir_make_folders(const char *path);

/* VM process: makes and locks STATE/run/NAME. 0; -EBUSY: a VM of this name runs; other -errno. No log line. The lock goes with the process. */
int rundir_claim(struct rundir *r, const char *state_dir, const char *name);
/* A listening control socket in it, for ctl_open. Descriptor or -errno. */
int rundir_listen(struct rundir *r);
/* The first line of `status`, replacing what was there; adds pid, watcher (its parent's pid) and the host's boot id to `start`, which is taken over. 0 or -errno. */
int rundir_started(struct rundir *r, json_t *start);
/* The last line: {"end":...}; taken over. Works inside the sandbox. */
void rundir_ended(struct rundir *r, json_t *end);
/* From outside, once the VM's process `pid` has gone: the last line, if it has written none itself and `status` is still its own. end is taken over. */
void rundir_note_end(const char *state_dir, const char *name, pid_t pid, json_t *end);
/* From now on a fatal signal of this process leaves a line in `status`. */
void rundir_catch_crashes(struct rundir *r);
void rundir_close(struct rundir *r);

/* Others: is a VM process alive there? *start, *end: what `status` holds, NULL if nothing (caller owns them; a
 * process that has just begun has not said how it was started yet); either pointer may be NULL. */
bool rundir_alive(const char *state_dir, const char *name, json_t **start, json_t **end);
/* The same for a VM that has just gone: waits a little for its watcher's word. */
bool rundir_last_words(const char *state_dir, const char *name, json_t **start, json_t **end);
/* The folder's descriptor, -errno. */
int rundir_open(const char *state_dir, const char *name);
/* Waits until no process is alive there. False: after timeout_ms one still is. */
bool rundir_wait_gone(const char *state_dir, const char *name, int timeout_ms);
/* Removes what a VM that is not alive has left. */
void rundir_remove(const char *state_dir, const char *name);
/* This boot of the host; "" when the host does not say. */
void rundir_boot_id(char *to, size_t size);

#endif
