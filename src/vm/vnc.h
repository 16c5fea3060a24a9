/* The machine's screen for VNC viewers: a helper process, nestbox-vnc, speaks the protocol; this side draws and takes keys. Not here: the protocol. */
#ifndef NB_VM_VNC_H
#define NB_VM_VNC_H

struct vm;

/* For cfg.vnc, "unix:PATH" or "HOST:PORT": opens the listening socket and starts the helper, before the sandbox closes. 0 or -errno with one log line. */
int vnc_start(struct vm *vm);
/* Ends the helper. Also after a failed or no start. */
void vnc_stop(struct vm *vm);

#endif
