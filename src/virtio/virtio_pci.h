/* Virtio over PCI, modern only (Virtual I/O Device specification 1.2, "Virtio Over PCI Bus"), and the base of every
 * virtio device. Not here: rings (virtq.c), what a device does. Surprise: a queue that would keep the bus busy for
 * long goes on from a timer. */
#ifndef NB_VIRTIO_PCI_H
#define NB_VIRTIO_PCI_H

#include "dev/pci.h"
#include "virtio/virtq.h"

enum { VIRTIO_MAX_QUEUES = 16, VIRTIO_CONFIG_MAX = 64 };
enum { VIRTIO_S_ACK = 1, VIRTIO_S_DRIVER = 2, VIRTIO_S_DRIVER_OK = 4, VIRTIO_S_FEATURES_OK = 8,
	VIRTIO_S_NEEDS_RESET = 64, VIRTIO_S_FAILED = 128 };
#define VIRTIO_F_INDIRECT_DESC BIT(28)
#define VIRTIO_F_EVENT_IDX BIT(29)
#define VIRTIO_F_VERSION_1 BIT(32)

#define VIRTIO_STATE(F, A) \
	F(u64, driver_features) \
	F(u32, device_feature_select) F(u32, driver_feature_select) \
	F(u16, config_vector) F(u16, queue_select) F(u16, later) F(u8, status) F(u8, config_generation) F(u8, isr) A(u8, pad_, 7) \
	A(struct virtq_regs, queue, VIRTIO_MAX_QUEUES)
STATE_STRUCT(virtio_regs, VIRTIO_STATE);

struct virtio_device;

struct virtio_class {
	const char *name;
	u16 id;              /* virtio device id; PCI device 1040h + id */
	u32 class_code;
	u64 features;        /* besides VERSION_1, INDIRECT_DESC, EVENT_IDX */
	/* The driver has made chains available in queue n (or may have). bus->lock held. */
	void (*notify)(struct virtio_device *v, unsigned n);
	/* Nothing of the driver's may be touched after this returns. bus->lock held. Optional, as the rest. */
	void (*reset)(struct virtio_device *v);
	/* The driver has chosen v->regs.driver_features. */
	void (*started)(struct virtio_device *v);
	/* The driver wrote device configuration. */
	void (*config_written)(struct virtio_device *v, unsigned off, unsigned size, u32 value);
	/* Waits until everything taken from the rings has been given back. bus->lock NOT held. */
	void (*quiesce)(struct virtio_device *v);
	/* Ends threads and frees the device, of which v is a part. bus->lock NOT held. Not optional. */
	void (*destroy)(struct virtio_device *v);
};

struct virtio_device {
	struct pci_function pci;
	const struct virtio_class *class;
	struct bus *bus;
	struct virtio_regs regs;          /* bus->lock */
	u64 features;                     /* offered; fixed after boot, as the next three */
	unsigned nqueues;
	u16 queue_size;
	u8 config[VIRTIO_CONFIG_MAX];
	unsigned config_size;
	u8 pci_cfg_cap;
	struct clock_timer later;         /* regs.later: queues that go on at the next tick of it */
};

/* Puts the device at a PCI slot. Queues are 0..nqueues-1, each of queue_size entries at most. v->config may be
 * filled in afterwards. */
void virtio_device_init(struct virtio_device *v, struct pci_host *h, unsigned slot, const struct virtio_class *class, u64 more_features,
			unsigned nqueues, u16 queue_size, unsigned config_size);

static inline bool virtio_has(const struct virtio_device *v, u64 feature) { return (v->regs.driver_features & feature) == feature; }
/* Whether queue n may be used now. */
bool virtio_queue_ready(const struct virtio_device *v, unsigned n);
/* The next chain of queue n: true and filled in, or false (empty, not ready, or broken: then the device asks to be
 * reset). */
bool virtio_pop(struct virtio_device *v, unsigned n, struct virtq_chain *c);
/* Puts the chain that virtio_pop just took back, to be popped again. */
void virtio_unpop(struct virtio_device *v, unsigned n);
/* A chain that was popped before the state was saved, once more. False: broken, as above. */
bool virtio_pop_again(struct virtio_device *v, unsigned n, u16 head, struct virtq_chain *c);
/* Gives it back, `len` bytes written, without an interrupt yet. */
void virtio_push(struct virtio_device *v, unsigned n, u16 head, u32 len);
/* For devices that spread one item over several chains: virtq.h says how. */
void virtio_put(struct virtio_device *v, unsigned n, u16 ahead, u16 head, u32 len);
void virtio_publish(struct virtio_device *v, unsigned n, u16 count);
bool virtio_arm_more(struct virtio_device *v, unsigned n);
void virtio_unpop_chains(struct virtio_device *v, unsigned n, u16 count);
/* How many chains wait in queue n; 0 when it is not ready. */
u16 virtio_available(struct virtio_device *v, unsigned n);
/* Interrupts for what was pushed, if wanted. */
void virtio_signal(struct virtio_device *v, unsigned n);
/* Enables notifications of queue n. True if there is already more to do. */
bool virtio_arm_notify(struct virtio_device *v, unsigned n);
/* Calls notify(v, n) again soon, from the clock: for queues that never run dry. */
void virtio_notify_later(struct virtio_device *v, unsigned n);
/* The device's configuration has changed: tells the driver. bus->lock held. */
void virtio_config_changed(struct virtio_device *v);
/* The driver broke the rules: sets NEEDS_RESET; no queue is served until then. */
void virtio_broken(struct virtio_device *v, const char *why);

#endif
