/* virtio-serial. */
#include "virtio/virtio_serial.h"
#include <stdlib.h>

STATE_DESC(serial_regs, SERIAL_STATE);

/* Queues: port 0's pair, the control pair, then a pair for each further port. BURST chains are served before others get the bus. */
enum { CONTROL_RX = 2, CONTROL_TX = 3, QUEUE_SIZE = 32, BURST = 64, CHUNK = 4096 };
enum { CONFIG_MAX_PORTS = 4, CONFIG_BYTES = 12, CONTROL_BYTES = 8, NAME_MAX_BYTES = 64 };
#define F_MULTIPORT BIT(1)

/* "Multiport Device Operation" */
enum event { DEVICE_READY, PORT_ADD, PORT_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME };
enum { SAY_ADD = 1, SAY_NAME = 2, SAY_OPEN = 4, KNOWN = 8 /* the guest has answered PORT_READY */ };

static struct virtio_serial *serial_of(struct virtio_device *v) { return container_of(v, struct virtio_serial, v); }
static unsigned rx_queue(unsigned port) { return port ? 2 * port + 2 : 0; }
static unsigned tx_queue(unsigned port) { return rx_queue(port) + 1; }
static bool multiport(const struct virtio_serial *s) { return virtio_has(&s->v, F_MULTIPORT); }

/* ---- control messages to the guest ---- */
static u64 message(struct virtio_serial *s, unsigned port, unsigned say, u8 *out)
{
	u64 len = CONTROL_BYTES;
	enum event e = say == SAY_ADD ? PORT_ADD : say == SAY_NAME ? PORT_NAME : PORT_OPEN;

	store_le(out, port, 4);
	store_le(out + 4, e, 2);
	store_le(out + 6, 1, 2);
	if (e == PORT_OPEN) {
		s->regs.host_open[port] = s->want_open[port];
		store_le(out + 6, s->want_open[port], 2);
	}
	if (e == PORT_NAME) {
		u64 n = min_u64(strlen(s->port[port].name), NAME_MAX_BYTES);

		memcpy(out + len, s->port[port].name, n);
		len += n;
	}
	return len;
}

/* The lowest thing that port has to say, 0 if nothing. */
static unsigned next_word(u8 pending) { return pending & SAY_ADD ? SAY_ADD : pending & SAY_NAME ? SAY_NAME : pending & SAY_OPEN; }

static bool say_one(struct virtio_serial *s, unsigned port)
{
	u8 text[CONTROL_BYTES + NAME_MAX_BYTES];
	unsigned say = next_word(s->regs.pending[port]);
	struct virtq_chain c;

	if (!say || !virtio_pop(&s->v, CONTROL_RX, &c))
		return false;
	u64 len = message(s, port, say, text);
	virtio_push(&s->v, CONTROL_RX, c.head, (u32)virtq_chain_write(s->v.bus->mem, &c, 0, text, len));
	s->regs.pending[port] &= (u8)~say;
	return true;
}

static void speak(struct virtio_serial *s)
{
	bool said = false, more = true;

	if (!multiport(s) || !virtio_queue_ready(&s->v, CONTROL_RX))
		return;
	while (more) {
		more = false;
		for (unsigned p = 0; p < s->nports; p++)
			while (say_one(s, p))
				said = true;
		/* There may be buffers that came after the last look. */
		for (unsigned p = 0; p < s->nports && !more; p++)
			more = next_word(s->regs.pending[p]) && virtio_arm_notify(&s->v, CONTROL_RX);
		more = more && virtio_queue_ready(&s->v, CONTROL_RX);
	}
	if (said)
		virtio_signal(&s->v, CONTROL_RX);
}

/* ---- control messages from the guest ---- */
static void set_guest_open(struct virtio_serial *s, unsigned port, bool open)
{
	if (s->regs.guest_open[port] == open)
		return;
	s->regs.guest_open[port] = open;
	if (s->port[port].guest_opened)
		s->port[port].guest_opened(s->port[port].opaque, open);
}

static void heard(struct virtio_serial *s, u32 port, unsigned event, unsigned value)
{
	if (event == DEVICE_READY) {
		for (unsigned p = 0; p < s->nports && value; p++)
			s->regs.pending[p] |= SAY_ADD;
		return;
	}
	if (port >= s->nports)
		return;
	if (event == PORT_READY && value)
		s->regs.pending[port] |= KNOWN | SAY_NAME | (s->want_open[port] ? SAY_OPEN : 0);
	if (event == PORT_OPEN)
		set_guest_open(s, port, value != 0);
}

static void listen_to_guest(struct virtio_serial *s)
{
	struct virtq_chain c;
	unsigned served = 0;

	do {
		while (served < BURST && virtio_pop(&s->v, CONTROL_TX, &c)) {
			u8 m[CONTROL_BYTES];

			if (virtq_chain_read(&c, 0, m, sizeof m) == sizeof m)
				heard(s, (u32)load_le(m, 4), (unsigned)load_le(m + 4, 2), (unsigned)load_le(m + 6, 2));
			virtio_push(&s->v, CONTROL_TX, c.head, 0);
			served++;
		}
	} while (virtio_arm_notify(&s->v, CONTROL_TX) && served < BURST);
	virtio_signal(&s->v, CONTROL_TX);
	if (served >= BURST)
		virtio_notify_later(&s->v, CONTROL_TX);
	speak(s);
}

/* ---- data from the guest ---- */
/* Gives the chain's bytes from tx_at on to the backend. False: it takes no more for now. */
static bool transmit(struct virtio_serial *s, unsigned p, const struct virtq_chain *c)
{
	const struct virtio_serial_port *port = &s->port[p];
	u8 buf[CHUNK];
	u64 n;

	if (!port->output)
		return true;
	while ((n = virtq_chain_read(c, s->regs.tx_at[p], buf, sizeof buf)) > 0) {
		size_t taken = port->output(port->opaque, buf, n);

		s->regs.tx_at[p] += (u32)taken;
		if (taken < n)
			return false;
	}
	return true;
}

static void serve_tx(struct virtio_serial *s, unsigned p)
{
	struct virtq_chain c;
	unsigned served = 0, q = tx_queue(p);

	do {
		while (!s->stuck[p] && served < BURST && virtio_pop(&s->v, q, &c)) {
			if (!transmit(s, p, &c)) {
				s->stuck[p] = true;
				virtio_unpop(&s->v, q);
				break;
			}
			s->regs.tx_at[p] = 0;
			virtio_push(&s->v, q, c.head, 0);
			served++;
		}
	} while (!s->stuck[p] && virtio_arm_notify(&s->v, q) && served < BURST);
	virtio_signal(&s->v, q);
	if (served >= BURST && !s->stuck[p])
		virtio_notify_later(&s->v, q);
}

/* ---- data for the guest ---- */
static u32 fill(struct virtio_serial *s, unsigned p, const struct virtq_chain *c)
{
	u64 done = 0;

	while (s->count[p] > 0 && done < c->in_len) {
		u64 n = min_u64(min_u64(s->count[p], c->in_len - done), VIRTIO_SERIAL_BACKLOG - s->head[p]);

		done += virtq_chain_write(s->v.bus->mem, c, done, s->backlog[p] + s->head[p], n);
		s->head[p] = (s->head[p] + (unsigned)n) % VIRTIO_SERIAL_BACKLOG;
		s->count[p] -= (unsigned)n;
	}
	return (u32)done;
}

static void serve_rx(struct virtio_serial *s, unsigned p)
{
	struct virtq_chain c;
	unsigned q = rx_queue(p);
	bool moved = false;

	do {
		while (s->count[p] > 0 && virtio_pop(&s->v, q, &c)) {
			virtio_push(&s->v, q, c.head, fill(s, p, &c));
			moved = true;
		}
	} while (virtio_arm_notify(&s->v, q) && s->count[p] > 0);
	if (!moved)
		return;
	virtio_signal(&s->v, q);
	if (s->port[p].input_space)
		s->port[p].input_space(s->port[p].opaque);
}

/* ---- the device ---- */
static void serial_notify(struct virtio_device *v, unsigned n)
{
	struct virtio_serial *s = serial_of(v);

	if (n == CONTROL_RX)
		speak(s);
	else if (n == CONTROL_TX)
		listen_to_guest(s);
	else if (n & 1)
		serve_tx(s, n < 2 ? 0 : n / 2 - 1);
	else
		serve_rx(s, n < 2 ? 0 : n / 2 - 1);
}

static void serial_reset(struct virtio_device *v)
{
	struct virtio_serial *s = serial_of(v);

	for (unsigned p = 0; p < s->nports; p++) {
		set_guest_open(s, p, false);
		s->head[p] = s->count[p] = 0;
	}
	s->regs = (struct serial_regs){ 0 };
}

/* The programs of the host that were there when the state was saved are gone; others may be there. */
static void serial_loaded(void *dev)
{
	struct virtio_serial *s = dev;

	for (unsigned p = 0; p < s->nports; p++) {
		s->head[p] = s->count[p] = 0;
		s->stuck[p] = false;
		if ((s->regs.pending[p] & KNOWN) && s->regs.host_open[p] != s->want_open[p])
			s->regs.pending[p] |= SAY_OPEN;
		if (s->port[p].guest_loaded)
			s->port[p].guest_loaded(s->port[p].opaque, s->regs.guest_open[p]);
		else if (s->port[p].guest_opened)
			s->port[p].guest_opened(s->port[p].opaque, s->regs.guest_open[p]);
		serve_tx(s, p);
	}
	speak(s);
}

static void serial_destroy(struct virtio_device *v) { free(serial_of(v)); }

static const struct virtio_class serial_class = { .name = "virtio-serial", .id = 3, .class_code = 0x078000, .features = F_MULTIPORT,
	.notify = serial_notify, .reset = serial_reset, .destroy = serial_destroy };

struct virtio_serial *virtio_serial_create(struct pci_host *h, unsigned slot, const struct virtio_serial_port *ports, unsigned n)
{
	struct virtio_serial *s = dev_alloc(sizeof *s);
	struct dev_instance inst = { .desc = &serial_regs_state, .regs = &s->regs, .dev = s, .loaded = serial_loaded };

	bug_if(n < 1 || n > VIRTIO_SERIAL_PORTS);
	s->nports = n;
	memcpy(s->port, ports, n * sizeof *ports);
	virtio_device_init(&s->v, h, slot, &serial_class, 0, 2 + 2 * n, QUEUE_SIZE, CONFIG_BYTES);
	store_le(s->v.config + CONFIG_MAX_PORTS, n, 4);
	dev_list_unique_name(h->devs, "serial", inst.name, sizeof inst.name);
	dev_list_add(h->devs, &inst);
	return s;
}

size_t virtio_serial_receive(struct virtio_serial *s, unsigned p, const u8 *data, size_t len)
{
	size_t n = 0;

	bus_lock(s->v.bus);
	while (n < len && s->count[p] < VIRTIO_SERIAL_BACKLOG) {
		unsigned at = (s->head[p] + s->count[p]) % VIRTIO_SERIAL_BACKLOG;
		u64 piece = min_u64(min_u64(len - n, VIRTIO_SERIAL_BACKLOG - s->count[p]), VIRTIO_SERIAL_BACKLOG - at);

		memcpy(s->backlog[p] + at, data + n, piece);
		s->count[p] += (unsigned)piece;
		n += piece;
	}
	if (virtio_queue_ready(&s->v, rx_queue(p)))
		serve_rx(s, p);
	bus_unlock(s->v.bus);
	return n;
}

void virtio_serial_output_space(struct virtio_serial *s, unsigned p)
{
	bus_lock(s->v.bus);
	if (s->stuck[p]) {
		s->stuck[p] = false;
		serve_tx(s, p);
	}
	bus_unlock(s->v.bus);
}

void virtio_serial_host_open(struct virtio_serial *s, unsigned p, bool open)
{
	bus_lock(s->v.bus);
	if (s->want_open[p] != open) {
		s->want_open[p] = open;
		if (!open)
			s->head[p] = s->count[p] = 0;
		if (s->regs.pending[p] & KNOWN)
			s->regs.pending[p] |= SAY_OPEN;
		speak(s);
		virtio_serial_output_space(s, p);
	}
	bus_unlock(s->v.bus);
}

bool virtio_serial_guest_open(struct virtio_serial *s, unsigned p)
{
	bus_lock(s->v.bus);
	bool open = s->regs.guest_open[p];
	bus_unlock(s->v.bus);
	return open;
}

bool virtio_serial_port_known(struct virtio_serial *s, unsigned p)
{
	bus_lock(s->v.bus);
	bool known = s->regs.pending[p] & KNOWN;
	bus_unlock(s->v.bus);
	return known;
}
