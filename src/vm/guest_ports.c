/* virtio-serial ports as sockets. */
#include "vm/guest_ports.h"
#include "base/log.h"
#include "virtio/virtio_serial.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { PORTS = 1 + GUEST_PORT_EXECS, OUT_BYTES = 65536, IN_BYTES = 16384 };

static const char *const names[PORTS] = { "org.qemu.guest_agent.0", "org.nestbox.exec.0", "org.nestbox.exec.1", "org.nestbox.exec.2",
					  "org.nestbox.exec.3" };

struct link {
	struct guest_ports *g;
	unsigned port;
	int fd;                     /* -1: nobody; loop thread, as the next three */
	struct loop_fd *watch;
	u8 in[IN_BYTES];            /* read from fd, and not yet taken by the device */
	size_t in_at, in_len;
	/* bus->lock: */
	u8 out[OUT_BYTES];          /* from the guest, not yet written to fd */
	unsigned out_head, out_count;
	bool attached, posted, guest_gone;
	bool stale;                 /* the program in the guest that the last socket talked to has not closed its end yet */
};

struct guest_ports {
	struct vm *vm;
	struct virtio_serial *dev;
	struct link link[PORTS];
};

static void settle(void *opaque);

/* bus->lock held: leaves the rest to the loop thread. */
static void post(struct link *k)
{
	if (!k->posted && !loop_post(k->g->vm->loop, settle, k))
		k->posted = true;
}

/* ---- called by the device, under bus->lock ---- */
static size_t output(void *opaque, const u8 *data, size_t len)
{
	struct link *k = opaque;
	size_t done = 0;
	if (!k->attached)
		return len;
	while (done < len && k->out_count < OUT_BYTES) {
		unsigned at = (k->out_head + k->out_count) % OUT_BYTES;
		u64 n = min_u64(min_u64(len - done, OUT_BYTES - k->out_count), OUT_BYTES - at);
		memcpy(k->out + at, data + done, n);
		k->out_count += (unsigned)n;
		done += n;
	}
	post(k);
	return done;
}

static void guest_opened(void *opaque, bool open)
{
	struct link *k = opaque;
	k->stale &= open;
	if (!open && k->attached) {
		k->guest_gone = true;
		post(k);
	}
}

/* The agent stays the same program, and its protocol finds the beginning again; whoever spoke to a helper for commands has lost it. */
static void guest_loaded(void *opaque, bool open)
{
	struct link *k = opaque;
	if (k->port == GUEST_PORT_AGENT) {
		guest_opened(k, open);
		return;
	}
	k->stale = open;
	if (k->attached) {
		k->guest_gone = true;
		post(k);
	}
}

static void input_space(void *opaque) { post(opaque); }

/* ---- loop thread ---- */
static void detach(struct link *k)
{
	struct bus *bus = &k->g->vm->bus;
	loop_fd_remove(k->watch);
	close(k->fd);
	k->watch = NULL;
	k->fd = -1;
	k->in_at = k->in_len = 0;
	bus_lock(bus);
	k->attached = k->guest_gone = false;
	k->out_head = k->out_count = 0;
	k->stale = k->port != GUEST_PORT_AGENT && virtio_serial_guest_open(k->g->dev, k->port);
	if (k->port != GUEST_PORT_AGENT)
		virtio_serial_host_open(k->g->dev, k->port, false);
	virtio_serial_output_space(k->g->dev, k->port);
	bus_unlock(bus);
}

/* Writes what the guest has said. False: the other side is gone. */
static bool drain(struct link *k, bool *more)
{
	struct bus *bus = &k->g->vm->bus;
	static u8 buf[OUT_BYTES];
	for (;;) {
		bus_lock(bus);
		unsigned n = (unsigned)min_u64(k->out_count, OUT_BYTES - k->out_head);
		memcpy(buf, k->out + k->out_head, n);
		bus_unlock(bus);
		*more = n > 0;
		if (!n)
			return true;
		ssize_t done = write(k->fd, buf, n);
		if (done < 0)
			return errno == EAGAIN || errno == EINTR;
		bus_lock(bus);
		k->out_head = (k->out_head + (unsigned)done) % OUT_BYTES;
		k->out_count -= (unsigned)done;
		virtio_serial_output_space(k->g->dev, k->port);
		bus_unlock(bus);
	}
}

static void feed(struct link *k)
{
	if (!k->in_len)
		return;
	size_t n = virtio_serial_receive(k->g->dev, k->port, k->in + k->in_at, k->in_len);
	k->in_at += n;
	k->in_len -= n;
}

/* Moves what can be moved and says what to wait for. */
static void settle(void *opaque)
{
	struct link *k = opaque;
	struct bus *bus = &k->g->vm->bus;
	bool more = false;
	bus_lock(bus);
	k->posted = false;
	bool gone = k->guest_gone;
	bus_unlock(bus);
	if (k->fd < 0)
		return;
	feed(k);
	if (!drain(k, &more) || (gone && !more)) {
		detach(k);
		return;
	}
	loop_fd_events(k->watch, (k->in_len ? 0 : LOOP_READ) | (more ? LOOP_WRITE : 0));
}

static void on_socket(void *opaque, unsigned ready)
{
	struct link *k = opaque;
	if ((ready & (LOOP_READ | LOOP_HUP)) && !k->in_len) {
		ssize_t n = read(k->fd, k->in, sizeof k->in);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			detach(k);
			return;
		}
		k->in_at = 0;
		k->in_len = n > 0 ? (size_t)n : 0;
	}
	settle(k);
}

int guest_ports_attach(struct guest_ports *g, unsigned port, int fd)
{
	struct link *k = &g->link[port];
	struct bus *bus = &g->vm->bus;
	bug_if(port >= PORTS);
	if (k->fd >= 0 || k->stale)
		return -EBUSY;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	k->watch = loop_fd_add(g->vm->loop, fd, LOOP_READ, on_socket, k);
	if (!k->watch)
		return -ENOMEM;
	k->fd = fd;
	bus_lock(bus);
	k->attached = true;
	virtio_serial_host_open(g->dev, port, true);
	bus_unlock(bus);
	return 0;
}

int guest_ports_attach_exec(struct guest_ports *g, int fd)
{
	/* Those where a helper of the guest waits already come first. */
	for (unsigned waiting = 2; waiting-- > 0;)
		for (unsigned i = 0; i < GUEST_PORT_EXECS; i++) {
			if (virtio_serial_guest_open(g->dev, GUEST_PORT_EXEC + i) != waiting)
				continue;
			int err = guest_ports_attach(g, GUEST_PORT_EXEC + i, fd);
			if (err != -EBUSY)
				return err ? err : (int)i;
		}
	return -EBUSY;
}

void guest_ports_info(struct guest_ports *g, unsigned port, struct guest_port_info *info)
{
	bug_if(port >= PORTS);
	*info = (struct guest_port_info){ names[port], virtio_serial_port_known(g->dev, port), virtio_serial_guest_open(g->dev, port),
					  g->link[port].fd >= 0 };
}

struct guest_ports *guest_ports_create(struct vm *vm, struct pci_host *h, unsigned slot)
{
	struct guest_ports *g = calloc(1, sizeof *g);
	struct virtio_serial_port port[PORTS];
	bug_if(!g);
	g->vm = vm;
	for (unsigned i = 0; i < PORTS; i++) {
		g->link[i] = (struct link){ .g = g, .port = i, .fd = -1 };
		port[i] = (struct virtio_serial_port){ names[i], output, guest_opened, guest_loaded, input_space, &g->link[i] };
	}
	g->dev = virtio_serial_create(h, slot, port, PORTS);
	virtio_serial_host_open(g->dev, GUEST_PORT_AGENT, true);
	return g;
}

void guest_ports_free(struct guest_ports *g)
{
	if (!g)
		return;
	for (unsigned i = 0; i < PORTS; i++)
		if (g->link[i].fd >= 0)
			detach(&g->link[i]);
	/* The devices still call us until they are gone: the caller frees them first thing after this, with no vCPU running. */
	free(g);
}
