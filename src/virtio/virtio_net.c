/* virtio-net: life, configuration, link. */
#include "virtio/virtio_net_int.h"
#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>

STATE_DESC(virtio_net_regs, VIRTIO_NET_STATE);

enum { QUEUE_SIZE = 256, CFG_MAC = 0, CFG_STATUS = 6, CFG_PAIRS = 8, CFG_MTU = 10, CFG_SPEED = 12, CFG_DUPLEX = 16, CFG_BYTES = 17 };
enum { SPEED_MBIT = 10000, FULL_DUPLEX = 1, BATCH_BYTES = 4 * (NET_HDR_BYTES + NET_FRAME_MAX) };
#define FEATURES (NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_CTRL_GUEST_OFFLOADS | NET_F_MAC | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | \
	NET_F_GUEST_ECN | NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN | NET_F_MRG_RXBUF | NET_F_STATUS | NET_F_CTRL_VQ | \
	NET_F_CTRL_RX | NET_F_CTRL_VLAN | NET_F_CTRL_RX_EXTRA | NET_F_GUEST_ANNOUNCE | NET_F_CTRL_MAC_ADDR | NET_F_GUEST_USO4 | \
	NET_F_GUEST_USO6 | NET_F_HOST_USO | NET_F_SPEED_DUPLEX)

void virtio_net_update(struct virtio_net *n)
{
	u8 *cfg = n->v.config;

	memcpy(cfg + CFG_MAC, n->regs.mac, NET_MAC_BYTES);
	store_le(cfg + CFG_STATUS, (n->link_up ? NET_S_LINK_UP : 0u) | (n->regs.announce ? NET_S_ANNOUNCE : 0u), 2);
	store_le(cfg + CFG_PAIRS, n->max_pairs, 2);
	store_le(cfg + CFG_SPEED, n->link_up ? SPEED_MBIT : 0xffffffff, 4);
	cfg[CFG_DUPLEX] = n->link_up ? FULL_DUPLEX : 0xff;
}

/* The control queue's number depends on what the driver knows of: "Virtqueues". */
static unsigned ctrl_queue(const struct virtio_net *n) { return virtio_has(&n->v, NET_F_MQ) ? 2 * n->max_pairs : 2; }

static void net_notify(struct virtio_device *v, unsigned q)
{
	struct virtio_net *n = virtio_net_of(v);

	if (q == ctrl_queue(n) && virtio_has(v, NET_F_CTRL_VQ))
		virtio_net_serve_ctrl(n, q);
	else if (q & 1)
		virtio_net_kicked(n);
	else if (__atomic_load_n(&n->port->blocked, __ATOMIC_SEQ_CST))
		net_port_wake(n->port);
}

static void net_reset(struct virtio_device *v)
{
	struct virtio_net *n = virtio_net_of(v);

	memset(&n->regs, 0, sizeof(n->regs));
	memcpy(n->regs.mac, n->own, NET_MAC_BYTES);
	memcpy(n->regs.given, n->own, NET_MAC_BYTES);
	n->regs.pairs = 1;
	n->touched = 0;
	virtio_net_update(n);
}

/* The driver has chosen its features; from now on CTRL_GUEST_OFFLOADS may change the offloads. */
static void net_started(struct virtio_device *v)
{
	struct virtio_net *n = virtio_net_of(v);

	n->regs.offloads = v->regs.driver_features & NET_GUEST_OFFLOADS;
	if (!virtio_has(v, NET_F_CTRL_RX)) /* who cannot say what it wants gets what a simple card passes, and multicast */
		n->regs.rx_mode = 1u << NET_RX_ALLMULTI;
}

static void hold(struct virtio_net *n)
{
	n->held = true;
	clock_arm(n->v.bus->clock, &n->go_on, clock_now(n->v.bus->clock) + 1);
}

/* bus->lock held. Asks the driver to tell the network where it is now: "Gratuitous Packet Sending". */
static void announce(struct virtio_net *n)
{
	if (!virtio_has(&n->v, NET_F_GUEST_ANNOUNCE) || !(n->v.regs.status & VIRTIO_S_DRIVER_OK) || !n->link_up)
		return;
	n->regs.announce = 1;
	virtio_net_update(n);
	virtio_config_changed(&n->v);
}

static void go_on(void *opaque)
{
	struct virtio_net *n = opaque;

	n->held = false;
	if (n->announce_due)
		announce(n);
	n->announce_due = false;
	net_port_wake(n->port);
}

static void net_quiesce(struct virtio_device *v)
{
	bus_lock(v->bus);
	hold(virtio_net_of(v));
	bus_unlock(v->bus);
}

/* Registers from a file are no more to be trusted than a guest's writes. */
static void net_loaded(void *opaque)
{
	struct virtio_net *n = opaque;
	struct virtio_net_regs *r = &n->regs;

	if (r->pairs < 1 || r->pairs > n->max_pairs)
		r->pairs = 1;
	for (unsigned i = 0; i < 2; i++)
		if (r->nmacs[i] > VIRTIO_NET_MACS)
			r->nmacs[i] = 0;
	r->offloads &= NET_GUEST_OFFLOADS;
	n->touched = 0;
	n->announce_due = true;
	hold(n);
	virtio_net_update(n);
}

static void update_link(struct virtio_net *n)
{
	bool up = n->cable && n->peer;

	if (n->link_up == up)
		return;
	n->link_up = up;
	virtio_net_update(n);
	virtio_config_changed(&n->v);
}

static void port_link(void *opaque, bool up)
{
	struct virtio_net *n = opaque;

	bus_lock(n->v.bus);
	n->peer = up;
	update_link(n);
	bus_unlock(n->v.bus);
}

void virtio_net_set_cable(struct virtio_net *n, bool in)
{
	bus_lock(n->v.bus);
	n->cable = in;
	update_link(n);
	bus_unlock(n->v.bus);
}

void virtio_net_get_counts(struct virtio_net *n, struct virtio_net_counts *to)
{
	bus_lock(n->v.bus);
	*to = n->counts;
	bus_unlock(n->v.bus);
}

static void net_destroy(struct virtio_device *v)
{
	struct virtio_net *n = virtio_net_of(v);

	net_port_stop(n->port);
	clock_del_timer(v->bus->clock, &n->go_on);
	free(n->port);
	free(n->bytes);
	free(n->scratch);
	free(n);
}

static const struct virtio_class net_class = { .name = "virtio-net", .id = 1, .class_code = 0x020000, .features = FEATURES,
	.notify = net_notify, .reset = net_reset, .started = net_started, .quiesce = net_quiesce, .destroy = net_destroy };

static void add_state(struct virtio_net *n, struct pci_host *h)
{
	struct dev_instance inst = { .desc = &virtio_net_regs_state, .regs = &n->regs, .dev = n, .loaded = net_loaded };

	dev_list_unique_name(h->devs, "virtio-net-card", inst.name, sizeof(inst.name));
	dev_list_add(h->devs, &inst);
	n->go_on = (struct clock_timer){ .deadline = CLOCK_NEVER, .fire = go_on, .opaque = n, .name = "virtio-net", .locked = true };
	clock_add_timer(h->bus->clock, &n->go_on);
}

struct virtio_net *virtio_net_create(struct pci_host *h, unsigned slot, const struct virtio_net_config *cfg)
{
	const struct net_client client = { virtio_net_transmit, virtio_net_receive, virtio_net_received, port_link, NULL };
	struct virtio_net *n = dev_alloc(sizeof(*n));
	struct net_client own = client;

	bug_if(cfg->pairs < 1 || cfg->pairs > VIRTIO_NET_MAX_PAIRS);
	n->port = cfg->port;
	n->cable = true;
	memcpy(n->own, cfg->mac, NET_MAC_BYTES);
	n->mac_spoofing = cfg->mac_spoofing;
	snprintf(n->allow, sizeof(n->allow), "%s", cfg->allow);
	n->max_pairs = cfg->pairs;
	n->bytes = dev_alloc(BATCH_BYTES);
	n->scratch = dev_alloc(NET_FRAME_MAX);
	virtio_device_init(&n->v, h, slot, &net_class, (cfg->pairs > 1 ? NET_F_MQ : 0) | (cfg->mtu ? NET_F_MTU : 0), 2 * cfg->pairs + 1,
			   QUEUE_SIZE, CFG_BYTES);
	store_le(n->v.config + CFG_MTU, cfg->mtu, 2);
	add_state(n, h);
	own.opaque = n;
	if (net_port_start(n->port, &own, cfg->threaded)) {
		/* the list of devices will free it */
		return NULL;
	}
	return n;
}
