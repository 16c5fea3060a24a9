/* Split virtqueues, device side (Virtual I/O Device specification 1.2, "Split Virtqueues"). Not here: who may use a
 * queue when (virtio_pci.c). Everything in the rings and descriptor tables is the guest's and may change under us:
 * each word is read once into a local, checked, then used. Surprise: a chain's buffers come as host addresses,
 * already checked to be RAM; who writes to one says so with virtq_wrote(). A buffer may be written through its host
 * address from virtq_pop until the next quiesce only; who keeps a chain longer calls mem_will_write_range first, or
 * uses virtq_chain_write. */
#ifndef NB_VIRTIO_VIRTQ_H
#define NB_VIRTIO_VIRTQ_H

#include "mem/mem.h"
#include "state/state.h"

enum { VIRTQ_MAX_SIZE = 256, VIRTQ_MAX_SEGS = 256, VIRTQ_NO_VECTOR = 0xffff };

/* desc, avail, used: guest-physical addresses. last_avail: next avail entry to take; next_used: next used entry to
 * fill; signalled: next_used at the last decision about an interrupt. */
#define VIRTQ_STATE(F, A) \
	F(u64, desc) F(u64, avail) F(u64, used) \
	F(u16, size) F(u16, vector) F(u16, enabled) F(u16, last_avail) \
	F(u16, next_used) F(u16, signalled) A(u16, pad_, 2)
STATE_STRUCT(virtq_regs, VIRTQ_STATE);

/* A queue in use: registers plus what the driver negotiated. Cheap to make for one call. */
struct virtq {
	struct virtq_regs *r;
	struct mem *mem;
	bool event_idx, indirect;
};

struct virtq_seg {
	u8 *host;
	u64 gpa;
	u32 len;
};

/* One request: seg[0..nout) the device reads, seg[nout..nout+nin) it writes. */
struct virtq_chain {
	u16 head;
	u16 nout, nin;
	u64 out_len, in_len;
	struct virtq_seg seg[VIRTQ_MAX_SEGS];
};

/* Takes the next chain. 1, 0 when the ring is empty, or -EINVAL when the driver broke the rules (the device then
 * needs a reset). */
int virtq_pop(struct virtq *q, struct virtq_chain *c);
/* The chain that begins at `head` once more: one that was popped before its device's state was saved. 0 or -EINVAL. */
int virtq_read_chain(struct virtq *q, u16 head, struct virtq_chain *c);
/* Gives a chain back with `len` bytes written to it. */
void virtq_push(struct virtq *q, u16 head, u32 len);
/* The same for several chains that the driver must see at once: the nth goes `ahead` places after what is published; then all are. */
void virtq_put(struct virtq *q, u16 ahead, u16 head, u32 len);
void virtq_publish(struct virtq *q, u16 count);
/* Asks to be notified of the first chain after those that are available now (which do not suffice). True if one has come meanwhile. */
bool virtq_arm_more(struct virtq *q);
/* The last `count` chains that were popped are available again. */
void virtq_unpop(struct virtq *q, u16 count);
/* How many chains are available. */
u16 virtq_available(const struct virtq *q);
/* Whether the driver wants an interrupt for what was pushed since the last call. */
bool virtq_wants_interrupt(struct virtq *q);
/* Asks to be notified of the next available chain. True if one has come meanwhile. */
bool virtq_arm_notify(struct virtq *q);

/* Copies min(len, what is there) bytes from / to the readable / writable part at byte offset `at`; returns how many. */
u64 virtq_chain_read(const struct virtq_chain *c, u64 at, void *to, u64 len);
u64 virtq_chain_write(struct mem *m, const struct virtq_chain *c, u64 at, const void *from, u64 len);
/* `len` bytes from the segment's start were written through its host address. */
void virtq_wrote(struct mem *m, const struct virtq_seg *s, u64 len);

#endif
