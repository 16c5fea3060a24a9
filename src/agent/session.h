/* The host's side of one session with the helper in the guest: runs a command there with this process's standard streams. frames.h describes the
 * messages. Blocking; for the command line, never for the VM process. What comes from the guest is checked like any stranger's bytes. */
#ifndef NB_AGENT_SESSION_H
#define NB_AGENT_SESSION_H

#include "base/base.h"

struct session_request {
	const char *op;             /* NULL: exec; "get", "put": a file's content, see path */
	char *const *argv;          /* exec: the command; NULL-terminated, as all lists here; may be NULL */
	char *const *env;           /* NULL: the helper's own */
	char *const *mount;         /* nestbox kvm: TAG:PATH */
	const char *cwd, *path, *base, *host; /* base: name for put into a folder */
	unsigned mode;              /* put: the file's */
	bool as_user;               /* become uid, gid and groups */
	unsigned uid, gid, ngroups;
	const unsigned *groups;
	bool tty;                   /* the command gets a terminal; standard input is one */
	int in, out, err;           /* descriptors to pump; in may be -1: empty input */
	void (*on_out)(void *opaque, const u8 *data, size_t len); /* instead of out */
	void *opaque;
	unsigned hello_ms;          /* how long the helper may take to answer at first */
	bool quiet_streams;         /* do not forward signals or the terminal's size */
};

struct session_result {
	int status;                 /* as a shell has it: 128 + signal when one killed the command */
	bool began;
	u64 began_ns;               /* the guest's time since its start, when the command started */
	u64 began_host_ns;          /* the host's clock then */
	char error[512];            /* empty, or why there is no status of the command: the session broke or the command could not run */
};

/* Runs it over fd, a connected stream socket; returns 0 when result->status is the command's own, 1 with result->error when the guest says that it cannot run
 * (status 126 or 127), -errno with result->error when the session broke: -ETIMEDOUT: no helper answered, -ECONNRESET: the other side closed, -EPROTO. */
int session_run(int fd, const struct session_request *rq, struct session_result *result);

/* The helper program, for x86-64 Linux. */
extern const u8 session_helper[];
extern const size_t session_helper_len;

#endif
