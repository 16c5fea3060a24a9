/* The VM's ports to programs inside the guest: virtio-serial ports as connected sockets of the host. Not here: what is said over them (the guest agent's
 * JSON, nestbox exec's frames): whoever holds the other end of the socket speaks with the guest. Surprise: the agent's port always looks open to the
 * guest, because qemu-ga polls ten times a second on one that is closed. */
#ifndef NB_GUEST_PORTS_H
#define NB_GUEST_PORTS_H

#include "vm/vm.h"

struct guest_ports;
struct pci_host;

enum { GUEST_PORT_AGENT, GUEST_PORT_EXEC, GUEST_PORT_EXECS = 4 };

/* Puts the device at a PCI slot. Needs vm->loop. */
struct guest_ports *guest_ports_create(struct vm *vm, struct pci_host *h, unsigned slot);
/* Closes what is attached; before the devices go. NULL is allowed. */
void guest_ports_free(struct guest_ports *g);

/* The rest: loop thread, or before the loop runs. */

/* Joins a connected stream socket, which is taken over, to a port until one side closes. 0, or -EBUSY: somebody else has it; fd is left alone then. */
int guest_ports_attach(struct guest_ports *g, unsigned port, int fd);
/* The same with the first free port for commands; returns its number among those, 0..GUEST_PORT_EXECS-1, or -EBUSY. */
int guest_ports_attach_exec(struct guest_ports *g, int fd);

struct guest_port_info {
	const char *name;
	bool known, open, attached; /* the guest's driver has it; a program there has it open; a socket is joined to it */
};
void guest_ports_info(struct guest_ports *g, unsigned port, struct guest_port_info *info);

#endif
