/* virtio-rng. */
#include "virtio/virtio_rng.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

/* CHAIN_BYTES: a longer request is answered in part, which the specification allows; BURST chains are served before
 * others get the bus. */
enum { QUEUE_SIZE = 64, CHAIN_BYTES = 1024, BURST = 64 };

static u32 fill(struct virtio_device *v, const struct virtq_chain *c)
{
	u8 buf[CHAIN_BYTES];
	ssize_t n;

	do
		n = getrandom(buf, min_u64(sizeof(buf), c->in_len), 0);
	while (n < 0 && errno == EINTR);
	return n > 0 ? (u32)virtq_chain_write(v->bus->mem, c, 0, buf, (u64)n) : 0;
}

static void rng_notify(struct virtio_device *v, unsigned n)
{
	struct virtq_chain c;
	unsigned served = 0;

	do {
		while (served < BURST && virtio_pop(v, n, &c)) {
			virtio_push(v, n, c.head, fill(v, &c));
			served++;
		}
	} while (virtio_arm_notify(v, n) && served < BURST);
	virtio_signal(v, n);
	if (served >= BURST)
		virtio_notify_later(v, n);
}

static void rng_destroy(struct virtio_device *v)
{
	free(v);
}

static const struct virtio_class rng_class = { .name = "virtio-rng", .id = 4, .class_code = 0x00ff00, .notify = rng_notify,
	.destroy = rng_destroy };

struct virtio_device *virtio_rng_create(struct pci_host *h, unsigned slot)
{
	struct virtio_device *v = dev_alloc(sizeof(*v));

	virtio_device_init(v, h, slot, &rng_class, 0, 1, QUEUE_SIZE, 0);
	return v;
}
