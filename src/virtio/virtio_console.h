/* virtio-console with one port (hvc0). Specification "Console Device". Surprise: input that the guest has no buffer
 * for waits here, like bytes on a serial wire; it is not part of the guest's state. */
#ifndef NB_VIRTIO_CONSOLE_H
#define NB_VIRTIO_CONSOLE_H

#include "virtio/virtio_pci.h"

#define VIRTIO_CONSOLE_BACKLOG 4096

struct virtio_console_config {
	void (*output)(void *opaque, const u8 *data, size_t len); /* under bus->lock: must not block for long */
	void (*input_space)(void *opaque);                        /* optional: virtio_console_receive() will take more */
	void *opaque;
};

struct virtio_console {
	struct virtio_device v;
	struct virtio_console_config cfg;
	u8 backlog[VIRTIO_CONSOLE_BACKLOG]; /* bus->lock, as the next two */
	unsigned head, count;
};

struct virtio_console *virtio_console_create(struct pci_host *h, unsigned slot, const struct virtio_console_config *cfg);

/* Bytes arrive from the host. Any thread; takes bus->lock. Returns how many were taken. */
size_t virtio_console_receive(struct virtio_console *c, const u8 *data, size_t len);

#endif
