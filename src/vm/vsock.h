/* The host's side of virtio-vsock: unix sockets, as Firecracker's "hybrid vsock" has them. A program of the host connects to FILE, says "CONNECT PORT\n" and,
 * when the guest accepts, reads "OK N\n"; a program of the guest that connects to CID 2, port N reaches the socket FILE_N. */
#ifndef NB_VM_VSOCK_H
#define NB_VM_VSOCK_H

#include "vm/vm.h"

struct vsock;
struct pci_host;

struct vsock_spec {
	u32 cid;
	char path[80]; /* of the socket: leaves room for _PORT */
};

/* CID,path=FILE. 0, or -EINVAL with a sentence in err. */
int vsock_spec_parse(struct vsock_spec *spec, const char *text, char *err, size_t size);
/* The device and the listening socket. 0 with *out, or -errno with one log line. Adds SANDBOX_SERVE and SANDBOX_CONNECT to vm->promises. */
int vsock_create(struct vm *vm, struct pci_host *h, unsigned slot, const char *text, struct vsock **out);
/* Before the devices go. NULL is allowed. */
void vsock_free(struct vsock *s);

#endif
