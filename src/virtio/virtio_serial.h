/* virtio-console with many named ports ("virtio-serial"): byte streams between programs of the host and of the guest, which appear there as
 * /dev/virtio-ports/NAME. Specification "Console Device", "Multiport Device Operation". Not here: hvc0 (virtio_console.c), who talks over a port.
 * Surprise: a chain that the backend takes only in part is put back into the ring, and a register says how far it went, so nothing is in
 * flight when the machine is saved. Input that the guest has no buffer for waits here and is not the guest's state. */
#ifndef NB_VIRTIO_SERIAL_H
#define NB_VIRTIO_SERIAL_H

#include "virtio/virtio_pci.h"

enum { VIRTIO_SERIAL_PORTS = 5, VIRTIO_SERIAL_BACKLOG = 65536 };

/* Per port: pending: SERIAL_SAY_* control messages still to be sent; host_open: what the guest was last told; guest_open: a program there has
 * the port open; tx_at: bytes of the transmit queue's next chain that were taken. */
#define SERIAL_STATE(F, A) \
	A(u32, tx_at, VIRTIO_SERIAL_PORTS) A(u8, pending, VIRTIO_SERIAL_PORTS) A(u8, host_open, VIRTIO_SERIAL_PORTS) \
	A(u8, guest_open, VIRTIO_SERIAL_PORTS) A(u8, pad_, 1)
STATE_STRUCT(serial_regs, SERIAL_STATE);

struct virtio_serial_port {
	const char *name; /* what the guest's udev makes a link of */
	/* All optional; under bus->lock, so none may block. output: returns how many bytes it took; after less than all it is called again only
	 * after virtio_serial_output_space(). */
	size_t (*output)(void *opaque, const u8 *data, size_t len);
	void (*guest_opened)(void *opaque, bool open);
	/* Instead of guest_opened when state has been loaded: a program of the guest that has the port open talked to somebody who is not there. */
	void (*guest_loaded)(void *opaque, bool open);
	void (*input_space)(void *opaque);
	void *opaque;
};

struct virtio_serial {
	struct virtio_device v;
	struct serial_regs regs;                              /* bus->lock, as all below */
	unsigned nports;
	struct virtio_serial_port port[VIRTIO_SERIAL_PORTS];
	bool want_open[VIRTIO_SERIAL_PORTS];                  /* a host program is there */
	bool stuck[VIRTIO_SERIAL_PORTS];                      /* output took less than all */
	u8 backlog[VIRTIO_SERIAL_PORTS][VIRTIO_SERIAL_BACKLOG];
	unsigned head[VIRTIO_SERIAL_PORTS], count[VIRTIO_SERIAL_PORTS];
};

/* Ports 0..n-1, n <= VIRTIO_SERIAL_PORTS; `ports` is copied. */
struct virtio_serial *virtio_serial_create(struct pci_host *h, unsigned slot, const struct virtio_serial_port *ports, unsigned n);

/* All of these take bus->lock; any thread. */

/* Bytes for the guest; returns how many were taken. */
size_t virtio_serial_receive(struct virtio_serial *s, unsigned port, const u8 *data, size_t len);
/* output() will take bytes again. */
void virtio_serial_output_space(struct virtio_serial *s, unsigned port);
/* A host program comes or goes; the guest hears of it. Going drops input that the guest has not read yet. */
void virtio_serial_host_open(struct virtio_serial *s, unsigned port, bool open);
/* A program of the guest has the port open. */
bool virtio_serial_guest_open(struct virtio_serial *s, unsigned port);
/* The guest's driver runs and has been told the port's name. */
bool virtio_serial_port_known(struct virtio_serial *s, unsigned port);

#endif
