/* A virtio device's life: status, features, queues, interrupts. Specification chapters "Basic Facilities of a Virtio
 * Device" and "General Initialization And Device Operation". */
#include "virtio/virtio_internal.h"
#include "base/log.h"

STATE_DESC(virtio_regs, VIRTIO_STATE);

enum { ISR_QUEUE = 1, ISR_CONFIG = 2, LATER_NS = 20000 };

void virtio_update(struct virtio_device *v)
{
	pci_intx_set(&v->pci, v->regs.isr && !pci_msix_enabled(&v->pci));
}

static void interrupt(struct virtio_device *v, u16 vector, u8 isr)
{
	if (pci_msix_enabled(&v->pci)) {
		if (vector != VIRTQ_NO_VECTOR)
			pci_msix_notify(&v->pci, vector);
		return;
	}
	v->regs.isr |= isr;
	virtio_update(v);
}

void virtio_broken(struct virtio_device *v, const char *why)
{
	if (v->regs.status & VIRTIO_S_NEEDS_RESET)
		return;
	log_once(LOG_WARN, "%s: the guest's driver broke the rules: %s", v->pci.name, why);
	v->regs.status |= VIRTIO_S_NEEDS_RESET;
	if (v->regs.status & VIRTIO_S_DRIVER_OK)
		interrupt(v, v->regs.config_vector, ISR_CONFIG);
}

void virtio_config_changed(struct virtio_device *v)
{
	v->regs.config_generation++;
	if (v->regs.status & VIRTIO_S_DRIVER_OK)
		interrupt(v, v->regs.config_vector, ISR_CONFIG);
}

bool virtio_queue_ready(const struct virtio_device *v, unsigned n)
{
	const u8 want = VIRTIO_S_FEATURES_OK | VIRTIO_S_DRIVER_OK;

	return n < v->nqueues && (v->regs.status & (want | VIRTIO_S_NEEDS_RESET)) == want && v->regs.queue[n].enabled;
}

static struct virtq queue_of(struct virtio_device *v, unsigned n)
{
	return (struct virtq){ &v->regs.queue[n], v->bus->mem, virtio_has(v, VIRTIO_F_EVENT_IDX),
		virtio_has(v, VIRTIO_F_INDIRECT_DESC) };
}

bool virtio_pop(struct virtio_device *v, unsigned n, struct virtq_chain *c)
{
	if (!virtio_queue_ready(v, n))
		return false;
	struct virtq q = queue_of(v, n);
	int r = virtq_pop(&q, c);

	if (r < 0)
		virtio_broken(v, "bad descriptor chain");
	if (r > 0 && trace_on(TRACE_VIRTIO))
		trace_line(TRACE_VIRTIO, "%s queue %u: chain %u, %u+%u segments, %llu bytes out, %llu in", v->pci.name, n, c->head, c->nout,
			   c->nin, (unsigned long long)c->out_len, (unsigned long long)c->in_len);
	return r > 0;
}

void virtio_unpop(struct virtio_device *v, unsigned n)
{
	v->regs.queue[n].last_avail--;
}

bool virtio_pop_again(struct virtio_device *v, unsigned n, u16 head, struct virtq_chain *c)
{
	if (!virtio_queue_ready(v, n))
		return false;
	struct virtq q = queue_of(v, n);

	if (!virtq_read_chain(&q, head, c))
		return true;
	virtio_broken(v, "bad descriptor chain");
	return false;
}

void virtio_push(struct virtio_device *v, unsigned n, u16 head, u32 len)
{
	if (!virtio_queue_ready(v, n))
		return;
	struct virtq q = queue_of(v, n);

	virtq_push(&q, head, len);
}

void virtio_put(struct virtio_device *v, unsigned n, u16 ahead, u16 head, u32 len)
{
	struct virtq q = queue_of(v, n);

	if (virtio_queue_ready(v, n))
		virtq_put(&q, ahead, head, len);
}

void virtio_publish(struct virtio_device *v, unsigned n, u16 count)
{
	struct virtq q = queue_of(v, n);

	if (virtio_queue_ready(v, n))
		virtq_publish(&q, count);
}

bool virtio_arm_more(struct virtio_device *v, unsigned n)
{
	struct virtq q = queue_of(v, n);

	return virtio_queue_ready(v, n) && virtq_arm_more(&q);
}

void virtio_unpop_chains(struct virtio_device *v, unsigned n, u16 count)
{
	struct virtq q = queue_of(v, n);

	virtq_unpop(&q, count);
}

u16 virtio_available(struct virtio_device *v, unsigned n)
{
	struct virtq q = queue_of(v, n);

	return virtio_queue_ready(v, n) ? virtq_available(&q) : 0;
}

void virtio_signal(struct virtio_device *v, unsigned n)
{
	if (!virtio_queue_ready(v, n))
		return;
	struct virtq q = queue_of(v, n);

	if (virtq_wants_interrupt(&q))
		interrupt(v, q.r->vector, ISR_QUEUE);
}

bool virtio_arm_notify(struct virtio_device *v, unsigned n)
{
	if (!virtio_queue_ready(v, n))
		return false;
	struct virtq q = queue_of(v, n);

	return virtq_arm_notify(&q);
}

void virtio_kick(struct virtio_device *v, unsigned n)
{
	if (virtio_queue_ready(v, n))
		v->class->notify(v, n);
}

void virtio_notify_later(struct virtio_device *v, unsigned n)
{
	v->regs.later |= (u16)(1u << n);
	clock_arm(v->bus->clock, &v->later, clock_now(v->bus->clock) + LATER_NS);
}

static void later_fire(void *opaque)
{
	struct virtio_device *v = opaque;
	u16 queues = v->regs.later;

	v->regs.later = 0;
	for (unsigned n = 0; n < v->nqueues; n++)
		if (queues & (1u << n))
			virtio_kick(v, n);
}

void virtio_reset(struct virtio_device *v)
{
	if (v->class->reset)
		v->class->reset(v);
	memset(&v->regs, 0, sizeof(v->regs));
	v->regs.config_vector = VIRTQ_NO_VECTOR;
	for (unsigned n = 0; n < VIRTIO_MAX_QUEUES; n++) {
		v->regs.queue[n].size = n < v->nqueues ? v->queue_size : 0;
		v->regs.queue[n].vector = VIRTQ_NO_VECTOR;
	}
	clock_arm(v->bus->clock, &v->later, CLOCK_NEVER);
	virtio_update(v);
}

void virtio_write_features(struct virtio_device *v, u32 value)
{
	unsigned shift = v->regs.driver_feature_select * 32;

	if (v->regs.driver_feature_select > 1 || (v->regs.status & VIRTIO_S_FEATURES_OK))
		return;
	v->regs.driver_features = (v->regs.driver_features & ~((u64)0xffffffff << shift)) | (u64)value << shift;
}

/* Features that we did not offer, or a driver of the time before 1.0: FEATURES_OK then reads back as 0. */
static bool features_acceptable(const struct virtio_device *v)
{
	return !(v->regs.driver_features & ~v->features) && virtio_has(v, VIRTIO_F_VERSION_1);
}

void virtio_write_status(struct virtio_device *v, u8 value)
{
	u8 old = v->regs.status;

	if (value == 0) {
		virtio_reset(v);
		return;
	}
	if ((value & VIRTIO_S_FEATURES_OK) && !(old & VIRTIO_S_FEATURES_OK) && !features_acceptable(v))
		value &= ~VIRTIO_S_FEATURES_OK;
	v->regs.status = value | (old & VIRTIO_S_NEEDS_RESET);
	if ((value & ~old) & VIRTIO_S_FEATURES_OK && v->class->started)
		v->class->started(v);
	/* The driver may have filled queues before it said that it was ready. */
	if ((value & ~old) & VIRTIO_S_DRIVER_OK)
		for (unsigned n = 0; n < v->nqueues; n++)
			virtio_kick(v, n);
}

static void device_reset(void *dev)
{
	virtio_reset(dev);
}

static void device_quiesce(void *dev)
{
	struct virtio_device *v = dev;

	if (v->class->quiesce)
		v->class->quiesce(v);
}

static void device_destroy(void *dev)
{
	struct virtio_device *v = dev;

	clock_del_timer(v->bus->clock, &v->later);
	v->class->destroy(v);
}

/* Registers from a file are no more to be trusted than a guest's writes. */
static void device_loaded(void *dev)
{
	struct virtio_device *v = dev;

	for (unsigned n = 0; n < VIRTIO_MAX_QUEUES; n++) {
		struct virtq_regs *r = &v->regs.queue[n];

		if (n >= v->nqueues || r->size > v->queue_size || r->size == 0 || (r->size & (r->size - 1)))
			r->enabled = 0;
	}
	clock_arm(v->bus->clock, &v->later, v->regs.later ? clock_now(v->bus->clock) + LATER_NS : CLOCK_NEVER);
	virtio_update(v);
}

void virtio_device_init(struct virtio_device *v, struct pci_host *h, unsigned slot, const struct virtio_class *class, u64 more_features,
			unsigned nqueues, u16 queue_size, unsigned config_size)
{
	const struct pci_ident id = { .vendor = 0x1af4, .device = (u16)(0x1040 + class->id), .class_code = class->class_code, .revision = 1,
		.subvendor = 0x1af4, .subdevice = 0x1100, .int_pin = 1 };
	struct dev_instance inst = { .desc = &virtio_regs_state, .regs = &v->regs, .dev = v, .reset = device_reset,
		.quiesce = device_quiesce, .loaded = device_loaded, .destroy = device_destroy };

	bug_if(nqueues > VIRTIO_MAX_QUEUES || queue_size > VIRTQ_MAX_SIZE || config_size > VIRTIO_CONFIG_MAX);
	v->class = class;
	v->bus = h->bus;
	v->features = class->features | more_features | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
	v->nqueues = nqueues;
	v->queue_size = queue_size;
	v->config_size = config_size;
	v->later = (struct clock_timer){ .deadline = CLOCK_NEVER, .fire = later_fire, .opaque = v, .name = class->name, .locked = true };
	clock_add_timer(v->bus->clock, &v->later);
	dev_list_unique_name(h->devs, class->name, inst.name, sizeof(inst.name));
	pci_function_init(&v->pci, h, inst.name, slot, 0, &id, v);
	virtio_pci_init(v);
	dev_list_add(h->devs, &inst);
	virtio_reset(v);
}
