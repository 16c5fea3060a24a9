/* virtio-mem: see virtio_mem.h. */
#include "virtio/virtio_mem.h"
#include <stdio.h>
#include <stdlib.h>

STATE_DESC(virtio_mem_regs, VIRTIO_MEM_STATE);

/* BURST requests are served before others get the bus. */
enum { REQUESTS, QUEUES, QUEUE_SIZE = 16, BURST = 16 };
enum { REQ_PLUG, REQ_UNPLUG, REQ_UNPLUG_ALL, REQ_STATE, REQ_BYTES = 24, RESP_BYTES = 10 };
enum { RESP_ACK, RESP_NACK, RESP_BUSY, RESP_ERROR };
enum { STATE_PLUGGED, STATE_UNPLUGGED, STATE_MIXED };
enum { CONFIG_BLOCK = 0, CONFIG_ADDR = 16, CONFIG_REGION = 24, CONFIG_USABLE = 32, CONFIG_PLUGGED = 40, CONFIG_REQUESTED = 48, CONFIG_BYTES = 56 };

struct request { u16 type; u64 addr; u16 blocks; };
struct response { u16 type, state; };

static struct virtio_mem *mem_of(struct virtio_device *v) { return container_of(v, struct virtio_mem, v); }
static bool is_plugged(const struct virtio_mem *m, u64 block) { return m->regs.plugged[block / 64] & bit(block % 64); }

/* All of the region is usable at any time: that a guest plugs no more than it shall is checked when it asks. */
static void show_config(struct virtio_mem *m)
{
	store_le(m->v.config + CONFIG_BLOCK, m->block, 8);
	store_le(m->v.config + CONFIG_ADDR, m->addr, 8);
	store_le(m->v.config + CONFIG_REGION, m->size, 8);
	store_le(m->v.config + CONFIG_USABLE, m->size, 8);
	store_le(m->v.config + CONFIG_PLUGGED, m->nplugged * m->block, 8);
	store_le(m->v.config + CONFIG_REQUESTED, m->regs.requested, 8);
}

static u64 count_plugged(const struct virtio_mem *m, u64 first, u64 n)
{
	u64 count = 0;

	for (u64 i = first; i < first + n; i++)
		count += is_plugged(m, i);
	return count;
}

static void set_plugged(struct virtio_mem *m, u64 first, u64 n, bool on)
{
	for (u64 i = first; i < first + n; i++)
		if (on)
			m->regs.plugged[i / 64] |= bit(i % 64);
		else
			m->regs.plugged[i / 64] &= ~bit(i % 64);
	m->nplugged = on ? m->nplugged + n : m->nplugged - n;
	memcpy(m->held, m->regs.plugged, sizeof m->held);
	show_config(m);
}

/* Gives back the pages of each run of blocks that are held and not plugged. */
static void drop_unplugged(struct virtio_mem *m)
{
	u64 blocks = m->size / m->block;

	for (u64 i = 0, n; i < blocks; i += n + 1) {
		for (n = 0; i + n < blocks && (m->held[(i + n) / 64] & bit((i + n) % 64)) && !is_plugged(m, i + n);)
			n++;
		if (n)
			mem_discard(m->v.bus->mem, gpa(m->addr + i * m->block), n * m->block);
	}
	memcpy(m->held, m->regs.plugged, sizeof m->held);
}

static u16 plug(struct virtio_mem *m, u64 first, u64 n)
{
	if (count_plugged(m, first, n))
		return RESP_ERROR;
	if ((m->nplugged + n) * m->block > m->regs.requested)
		return RESP_NACK;
	set_plugged(m, first, n, true);
	return RESP_ACK;
}

static u16 unplug(struct virtio_mem *m, u64 first, u64 n)
{
	if (count_plugged(m, first, n) != n)
		return RESP_ERROR;
	mem_discard(m->v.bus->mem, gpa(m->addr + first * m->block), n * m->block);
	set_plugged(m, first, n, false);
	return RESP_ACK;
}

static u16 unplug_all(struct virtio_mem *m)
{
	memset(m->regs.plugged, 0, sizeof m->regs.plugged);
	m->nplugged = 0;
	drop_unplugged(m);
	show_config(m);
	return RESP_ACK;
}

static struct response serve(struct virtio_mem *m, const struct request *q)
{
	struct response r = { .type = RESP_ERROR };
	u64 off = q->addr - m->addr, first = off / m->block, n = q->blocks;

	if (q->type == REQ_UNPLUG_ALL) {
		r.type = unplug_all(m);
		return r;
	}
	if (!n || off >= m->size || off % m->block || n > (m->size - off) / m->block)
		return r;
	if (q->type == REQ_PLUG)
		r.type = plug(m, first, n);
	if (q->type == REQ_UNPLUG)
		r.type = unplug(m, first, n);
	if (q->type == REQ_STATE) {
		u64 count = count_plugged(m, first, n);
		r.type = RESP_ACK;
		r.state = count == n ? STATE_PLUGGED : count ? STATE_MIXED : STATE_UNPLUGGED;
	}
	return r;
}

/* A request cut short asks for type and blocks 0 where it ends, which is an error. */
static u32 answer(struct virtio_mem *m, const struct virtq_chain *c)
{
	u8 in[REQ_BYTES] = { 0 }, out[RESP_BYTES] = { 0 };
	u64 n = virtq_chain_read(c, 0, in, sizeof in);
	struct request q = { .type = (u16)load_le(in, 2), .addr = load_le(in + 8, 8), .blocks = (u16)load_le(in + 16, 2) };
	struct response r = n >= 2 ? serve(m, &q) : (struct response){ .type = RESP_ERROR };

	store_le(out, r.type, 2);
	store_le(out + 8, r.state, 2);
	return (u32)virtq_chain_write(m->v.bus->mem, c, 0, out, sizeof out);
}

static void mem_notify(struct virtio_device *v, unsigned n)
{
	struct virtq_chain c;
	unsigned served = 0;

	do {
		while (served < BURST && virtio_pop(v, n, &c)) {
			virtio_push(v, n, c.head, answer(mem_of(v), &c));
			served++;
		}
	} while (virtio_arm_notify(v, n) && served < BURST);
	virtio_signal(v, n);
	if (served >= BURST)
		virtio_notify_later(v, n);
}

/* After a RESET, too, which unplugs everything. What comes from a file is no more to be trusted than what a guest says. */
static void mem_loaded(void *dev)
{
	struct virtio_mem *m = dev;
	u64 blocks = m->size / m->block;

	for (u64 i = 0; i < VIRTIO_MEM_WORDS; i++)
		m->regs.plugged[i] &= i < blocks / 64 ? ~0ull : i == blocks / 64 ? low_mask(blocks % 64) : 0;
	m->regs.requested = align_down(min_u64(m->regs.requested, m->size), m->block);
	m->nplugged = count_plugged(m, 0, blocks);
	drop_unplugged(m);
	show_config(m);
}

static void mem_destroy(struct virtio_device *v) { free(mem_of(v)); }

/* A reset of the device leaves plugged what is plugged. */
static const struct virtio_class mem_class = { .name = "virtio-mem", .id = 24, .class_code = 0x00ff00, .notify = mem_notify, .destroy = mem_destroy };

struct virtio_mem *virtio_mem_create(struct pci_host *h, unsigned slot, u64 addr, u64 size)
{
	struct virtio_mem *m = dev_alloc(sizeof *m);
	struct dev_instance inst = { .desc = &virtio_mem_regs_state, .regs = &m->regs, .dev = m, .loaded = mem_loaded };

	m->block = VIRTIO_MEM_BLOCK;
	while (size / m->block > VIRTIO_MEM_WORDS * 64)
		m->block *= 2;
	m->addr = addr;
	m->size = align_down(size, m->block);
	bug_if(!m->size || addr % m->block);
	virtio_device_init(&m->v, h, slot, &mem_class, 0, QUEUES, QUEUE_SIZE, CONFIG_BYTES);
	show_config(m);
	/* A state of another region is refused by its name. */
	snprintf(inst.name, sizeof inst.name, "mem-%llx+%llx", (unsigned long long)addr, (unsigned long long)size);
	dev_list_add(h->devs, &inst);
	return m;
}

void virtio_mem_request(struct virtio_mem *m, u64 bytes)
{
	bus_lock(m->v.bus);
	bytes = align_down(min_u64(bytes, m->size), m->block);
	if (bytes != m->regs.requested) {
		m->regs.requested = bytes;
		show_config(m);
		virtio_config_changed(&m->v);
	}
	bus_unlock(m->v.bus);
}

void virtio_mem_info(struct virtio_mem *m, struct virtio_mem_info *info)
{
	bus_lock(m->v.bus);
	*info = (struct virtio_mem_info){ .size = m->size, .block = m->block, .requested = m->regs.requested, .plugged = m->nplugged * m->block,
		.driver = virtio_queue_ready(&m->v, REQUESTS) };
	bus_unlock(m->v.bus);
}
