/* The VM process's control socket: verbs from verbs.def, served on the main thread's event loop. proto/proto.h describes the messages.
 * A client is a stranger: whatever it sends, it gets an answer or its connection is closed; the VM goes on. */
#ifndef NB_CTL_H
#define NB_CTL_H

#include "base/base.h"
#include "vm/vm.h"
#include <jansson.h>

struct ctl;
struct ctl_call;

/* A verb's handler, on the loop thread. args has been checked against the verb's row: every argument has its type, those not marked optional are there,
 * and there are no others (it is an object even if the request had none). It is borrowed: json_incref what is kept. Every call is answered exactly once, by
 * ctl_reply or ctl_fail, at once or later; after that `call` is gone. */
typedef void ctl_fn(struct vm *vm, struct ctl_call *call, json_t *args);

/* Final answers. result: an object with the keys that the row names, taken over; NULL: {}. */
void ctl_reply(struct ctl_call *call, json_t *result);
/* code: short, lower-case, with dashes, part of the interface; the text is a sentence that names the thing, its value and what to do. */
void ctl_fail(struct ctl_call *call, const char *code, const char *fmt, ...) printf_like(3, 4);
/* A line before the final answer; taken over. Does nothing once the client has gone. */
void ctl_event(struct ctl_call *call, json_t *event);

/* The client is still connected. If not, whatever is answered goes nowhere, but answer all the same: that frees the call. */
bool ctl_alive(const struct ctl_call *call);
/* fn(opaque) once, on the loop thread, when the client goes before the answer. The call stays valid until it is answered. */
void ctl_on_gone(struct ctl_call *call, void (*fn)(void *opaque), void *opaque);
/* The next of the descriptors that came with the request, now the caller's; -1: there are no more. Those not taken are closed with the call. */
int ctl_take_fd(struct ctl_call *call);
/* Bytes that wait to be sent to this client; a handler that streams may pause above some limit. A client with more than 64 MiB is dropped. */
size_t ctl_backlog(const struct ctl_call *call);

/* For handlers that live longer than a call, e.g. the console's readers. */
struct loop *ctl_loop(struct ctl_call *call);
struct ctl *ctl_of(const struct ctl_call *call);

/* Starts serving on listen_fd, a listening unix stream socket that becomes ours. Before the sandbox closes; adds SANDBOX_SERVE to vm->promises.
 * NULL with one log line. */
struct ctl *ctl_open(struct vm *vm, int listen_fd);
/* The machine has ended and its loop has returned: tells callers that wait for the end (ctl_wait_end) `end`, everybody else that the VM is gone, tries for at
 * most limit_ms to deliver that, and frees everything. end is taken over. NULL ctl is allowed. */
void ctl_close(struct ctl *ctl, json_t *end, int limit_ms);
/* The call is answered when the machine ends, with `end` of ctl_close. Nobody else may answer it. */
void ctl_wait_end(struct ctl_call *call);

/* ---- checkpoint.c, merge.c ---- */
/* A snapshot is being written, or what is left to do after that is not done. Loop thread. */
bool ctl_checkpoint_busy(struct vm *vm);
/* Begins to merge overlays that can be one, if there are any and nothing else is going on; goes on by itself. The machine is one that stays. Loop thread. */
void ctl_merge(struct vm *vm);
/* Gives up what is under way, of which nothing is lost: before disks are changed or closed. */
void ctl_merge_stop(void);

/* ---- verbs.def ---- */
struct ctl_verb {
	const char *name;
	ctl_fn *fn;
	const char *args;    /* "name:type", comma-separated; type string int bool number object array any, with ? when optional */
	const char *results; /* the same way: keys of the result */
	const char *help;
};
extern const struct ctl_verb ctl_verbs[];
extern const unsigned ctl_verb_count;
/* NULL: no such verb. */
const struct ctl_verb *ctl_verb_find(const char *name);
/* Checks args against a spec as in struct ctl_verb. 0, or -EINVAL with a sentence in why. */
int ctl_check_args(const char *spec, json_t *args, char *why, size_t size);

#endif
