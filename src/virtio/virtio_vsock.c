/* virtio-vsock. */
#include "virtio/virtio_vsock.h"
#include <stdlib.h>

STATE_DESC(vsock_regs, VSOCK_STATE);

enum { RX, TX, EVENTS, QUEUES, QUEUE_SIZE = 128, BURST = 64, CONFIG_BYTES = 8, TRANSPORT_RESET = 0 };

static struct virtio_vsock *vsock_of(struct virtio_device *v) { return container_of(v, struct virtio_vsock, v); }

static void serve_tx(struct virtio_vsock *s)
{
	struct virtq_chain c;
	struct vsock_head h;
	unsigned served = 0;

	do {
		while (served < BURST && virtio_pop(&s->v, TX, &c)) {
			bool whole = virtq_chain_read(&c, 0, &h, sizeof h) == sizeof h && h.len <= VSOCK_MAX_DATA &&
				     virtq_chain_read(&c, sizeof h, s->data, h.len) == h.len;

			if (whole && s->cfg.packet)
				s->cfg.packet(s->cfg.opaque, &h, s->data);
			virtio_push(&s->v, TX, c.head, 0);
			served++;
		}
	} while (virtio_arm_notify(&s->v, TX) && served < BURST);
	virtio_signal(&s->v, TX);
	if (served >= BURST)
		virtio_notify_later(&s->v, TX);
}

static void serve_events(struct virtio_vsock *s)
{
	const u32 id = TRANSPORT_RESET;
	struct virtq_chain c;

	if (!s->regs.reset_due || !virtio_pop(&s->v, EVENTS, &c))
		return;
	s->regs.reset_due = 0;
	virtio_push(&s->v, EVENTS, c.head, (u32)virtq_chain_write(s->v.bus->mem, &c, 0, &id, sizeof id));
	virtio_signal(&s->v, EVENTS);
}

bool virtio_vsock_send(struct virtio_vsock *s, const struct vsock_head *h, const u8 *data)
{
	struct virtq_chain c;

	if (!virtio_pop(&s->v, RX, &c)) {
		if (!virtio_arm_notify(&s->v, RX) || !virtio_pop(&s->v, RX, &c))
			return false;
	}
	u64 n = virtq_chain_write(s->v.bus->mem, &c, 0, h, sizeof *h);

	n += virtq_chain_write(s->v.bus->mem, &c, n, data, h->len);
	virtio_push(&s->v, RX, c.head, (u32)n);
	virtio_signal(&s->v, RX);
	return true;
}

static void vsock_notify(struct virtio_device *v, unsigned n)
{
	struct virtio_vsock *s = vsock_of(v);

	if (n == TX)
		serve_tx(s);
	else if (n == EVENTS)
		serve_events(s);
	else if (s->cfg.room)
		s->cfg.room(s->cfg.opaque);
}

static void vsock_reset(struct virtio_device *v)
{
	struct virtio_vsock *s = vsock_of(v);

	s->regs.reset_due = 0;
	if (s->cfg.reset)
		s->cfg.reset(s->cfg.opaque);
}

static void vsock_loaded(void *dev)
{
	struct virtio_vsock *s = dev;

	if (s->cfg.reset)
		s->cfg.reset(s->cfg.opaque);
	s->regs.reset_due = virtio_queue_ready(&s->v, EVENTS);
	serve_events(s);
}

static void vsock_destroy(struct virtio_device *v) { free(vsock_of(v)); }

static const struct virtio_class vsock_class = { .name = "virtio-vsock", .id = 19, .class_code = 0x078000, .notify = vsock_notify, .reset = vsock_reset,
	.destroy = vsock_destroy };

struct virtio_vsock *virtio_vsock_create(struct pci_host *h, unsigned slot, const struct virtio_vsock_config *cfg)
{
	struct virtio_vsock *s = dev_alloc(sizeof *s);
	struct dev_instance inst = { .desc = &vsock_regs_state, .regs = &s->regs, .dev = s, .loaded = vsock_loaded };

	s->cfg = *cfg;
	virtio_device_init(&s->v, h, slot, &vsock_class, 0, QUEUES, QUEUE_SIZE, CONFIG_BYTES);
	store_le(s->v.config, cfg->cid, 8);
	dev_list_unique_name(h->devs, "vsock", inst.name, sizeof inst.name);
	dev_list_add(h->devs, &inst);
	return s;
}
