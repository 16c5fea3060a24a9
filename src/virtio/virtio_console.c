/* virtio-console. */
#include "virtio/virtio_console.h"
#include <stdlib.h>

enum { RX, TX, QUEUES, QUEUE_SIZE = 64, BURST = 64, CHUNK = 1024, CHAIN_BYTES = 65536 };
enum { CONFIG_EMERG_WR = 8, CONFIG_BYTES = 12 };
#define F_EMERG_WRITE BIT(2)

static struct virtio_console *console_of(struct virtio_device *v)
{
	return container_of(v, struct virtio_console, v);
}

static void output(struct virtio_console *c, const u8 *data, size_t len)
{
	if (c->cfg.output)
		c->cfg.output(c->cfg.opaque, data, len);
}

/* A chain of more than CHAIN_BYTES is cut: no driver has that much to say at once. */
static void transmit(struct virtio_console *c, const struct virtq_chain *chain)
{
	u8 buf[CHUNK];
	u64 at = 0, n;

	while (at < CHAIN_BYTES && (n = virtq_chain_read(chain, at, buf, sizeof(buf))) > 0) {
		output(c, buf, n);
		at += n;
	}
}

static void serve_tx(struct virtio_console *c)
{
	struct virtq_chain chain;
	unsigned served = 0;

	do {
		while (served < BURST && virtio_pop(&c->v, TX, &chain)) {
			transmit(c, &chain);
			virtio_push(&c->v, TX, chain.head, 0);
			served++;
		}
	} while (virtio_arm_notify(&c->v, TX) && served < BURST);
	virtio_signal(&c->v, TX);
	if (served >= BURST)
		virtio_notify_later(&c->v, TX);
}

/* Up to n bytes of the backlog, in one piece. */
static unsigned backlog_piece(struct virtio_console *c, u64 n, const u8 **at)
{
	unsigned piece = (unsigned)min_u64(min_u64(c->count, n), VIRTIO_CONSOLE_BACKLOG - c->head);

	*at = c->backlog + c->head;
	return piece;
}

static u32 fill(struct virtio_console *c, const struct virtq_chain *chain)
{
	u64 done = 0;

	while (c->count > 0 && done < chain->in_len) {
		const u8 *p;
		unsigned n = backlog_piece(c, chain->in_len - done, &p);

		done += virtq_chain_write(c->v.bus->mem, chain, done, p, n);
		c->head = (c->head + n) % VIRTIO_CONSOLE_BACKLOG;
		c->count -= n;
	}
	return (u32)done;
}

static void serve_rx(struct virtio_console *c)
{
	struct virtq_chain chain;
	bool moved = false;

	do {
		while (c->count > 0 && virtio_pop(&c->v, RX, &chain)) {
			virtio_push(&c->v, RX, chain.head, fill(c, &chain));
			moved = true;
		}
	} while (virtio_arm_notify(&c->v, RX) && c->count > 0);
	if (!moved)
		return;
	virtio_signal(&c->v, RX);
	if (c->cfg.input_space)
		c->cfg.input_space(c->cfg.opaque);
}

static void console_notify(struct virtio_device *v, unsigned n)
{
	if (n == TX)
		serve_tx(console_of(v));
	else
		serve_rx(console_of(v));
}

static void console_config_written(struct virtio_device *v, unsigned off, unsigned size, u32 value)
{
	u8 byte = (u8)value;

	if (off == CONFIG_EMERG_WR)
		output(console_of(v), &byte, 1);
}

size_t virtio_console_receive(struct virtio_console *c, const u8 *data, size_t len)
{
	size_t n = 0;

	pthread_mutex_lock(&c->v.bus->lock);
	for (; n < len && c->count < VIRTIO_CONSOLE_BACKLOG; n++)
		c->backlog[(c->head + c->count++) % VIRTIO_CONSOLE_BACKLOG] = data[n];
	if (virtio_queue_ready(&c->v, RX))
		serve_rx(c);
	pthread_mutex_unlock(&c->v.bus->lock);
	return n;
}

static void console_destroy(struct virtio_device *v)
{
	free(console_of(v));
}

static const struct virtio_class console_class = { .name = "virtio-console", .id = 3, .class_code = 0x078000, .features = F_EMERG_WRITE,
	.notify = console_notify, .config_written = console_config_written, .destroy = console_destroy };

struct virtio_console *virtio_console_create(struct pci_host *h, unsigned slot, const struct virtio_console_config *cfg)
{
	struct virtio_console *c = dev_alloc(sizeof(*c));

	c->cfg = *cfg;
	virtio_device_init(&c->v, h, slot, &console_class, 0, QUEUES, QUEUE_SIZE, CONFIG_BYTES);
	return c;
}
