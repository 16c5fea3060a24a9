/* Split virtqueues, device side. */
#include "virtio/virtq.h"
#include <errno.h>

/* Only to prove that the nested registers have no padding. */
STATE_DESC(virtq_regs, VIRTQ_STATE);

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, AVAIL_NO_INTERRUPT = 1, DESC_SIZE = 16 };

struct desc {
	u64 addr;
	u32 len;
	u16 flags, next;
};

/* A descriptor table: the queue's own or an indirect one. */
struct table {
	u64 at;
	u32 count;
};

static u16 ring_read16(const struct virtq *q, u64 at)
{
	return (u16)mem_read_le(q->mem, gpa(at), 2);
}

static u16 avail_idx(const struct virtq *q)
{
	u16 v = ring_read16(q, q->r->avail + 2);

	/* What the driver wrote before the index must be read after it. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return v;
}

static int read_desc(const struct virtq *q, const struct table *t, u16 i, struct desc *d)
{
	if (i >= t->count)
		return -EINVAL;
	return mem_read(q->mem, gpa(t->at + (u64)i * DESC_SIZE), d, sizeof(*d)) ? -EINVAL : 0;
}

/* The buffer must lie in one piece of RAM. */
static int add_seg(const struct virtq *q, struct virtq_chain *c, const struct desc *d)
{
	const struct mem_slot *slot = mem_slot_at(q->mem, gpa(d->addr));
	bool in = d->flags & DESC_WRITE;
	unsigned n = c->nout + c->nin;

	if (!in && c->nin)
		return -EINVAL; /* "Message Framing": readable parts come first */
	if (d->len == 0)
		return 0;
	if (n == VIRTQ_MAX_SEGS || !slot || d->len > slot->size - (d->addr - slot->gpa))
		return -EINVAL;
	if (in && slot->kind != MEM_RAM)
		return -EINVAL;
	if (in)
		mem_will_write_range(q->mem, gpa(d->addr), d->len);
	else
		mem_fetch_range(q->mem, gpa(d->addr), d->len);
	c->seg[n] = (struct virtq_seg){ slot->host + (d->addr - slot->gpa), d->addr, d->len };
	*(in ? &c->nin : &c->nout) += 1;
	*(in ? &c->in_len : &c->out_len) += d->len;
	return 0;
}

/* At most one level of indirection, and only as the last descriptor of the direct part. */
static int enter_indirect(const struct virtq *q, struct table *t, const struct desc *d, bool already)
{
	if (!q->indirect || already || (d->flags & (DESC_NEXT | DESC_WRITE)) || d->len == 0 || d->len % DESC_SIZE)
		return -EINVAL;
	if (d->len / DESC_SIZE > 65536)
		return -EINVAL;
	*t = (struct table){ d->addr, d->len / DESC_SIZE };
	return 0;
}

/* A chain may not be longer than the queue or its indirect table: a longer one is a loop. */
static int walk(const struct virtq *q, struct virtq_chain *c)
{
	struct table t = { q->r->desc, q->r->size };
	bool indirect = false;
	u32 seen = 0;
	u16 i = c->head;

	for (;;) {
		struct desc d;
		int err = read_desc(q, &t, i, &d);

		if (!err && (d.flags & DESC_INDIRECT)) {
			err = enter_indirect(q, &t, &d, indirect);
			indirect = true;
			seen = 0;
			i = 0;
			if (err)
				return err;
			continue;
		}
		if (!err)
			err = ++seen > t.count ? -EINVAL : add_seg(q, c, &d);
		if (err || !(d.flags & DESC_NEXT))
			return err;
		i = d.next;
	}
}

int virtq_read_chain(struct virtq *q, u16 head, struct virtq_chain *c)
{
	c->head = head;
	c->nout = c->nin = 0;
	c->out_len = c->in_len = 0;
	return walk(q, c);
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
	struct virtq_regs *r = q->r;
	u16 ahead = (u16)(avail_idx(q) - r->last_avail);

	if (ahead == 0)
		return 0;
	if (ahead > r->size)
		return -EINVAL;
	if (virtq_read_chain(q, ring_read16(q, r->avail + 4 + 2 * (u64)(r->last_avail % r->size)), c))
		return -EINVAL;
	r->last_avail++;
	return 1;
}

void virtq_put(struct virtq *q, u16 ahead, u16 head, u32 len)
{
	struct virtq_regs *r = q->r;
	u64 elem = (u64)len << 32 | head;
	u16 at = (u16)(r->next_used + ahead) % r->size;

	mem_write(q->mem, gpa(r->used + 4 + 8 * (u64)at), &elem, sizeof(elem));
}

void virtq_publish(struct virtq *q, u16 count)
{
	q->r->next_used += count;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	mem_write_le(q->mem, gpa(q->r->used + 2), q->r->next_used, 2);
}

void virtq_push(struct virtq *q, u16 head, u32 len)
{
	virtq_put(q, 0, head, len);
	virtq_publish(q, 1);
}

bool virtq_arm_more(struct virtq *q)
{
	struct virtq_regs *r = q->r;
	u16 seen = avail_idx(q);

	if (q->event_idx)
		mem_write_le(q->mem, gpa(r->used + 4 + 8 * (u64)r->size), seen, 2);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return avail_idx(q) != seen;
}

void virtq_unpop(struct virtq *q, u16 count) { q->r->last_avail -= count; }

u16 virtq_available(const struct virtq *q) { return (u16)(avail_idx(q) - q->r->last_avail); }

/* "Used Buffer Notification Suppression" */
bool virtq_wants_interrupt(struct virtq *q)
{
	struct virtq_regs *r = q->r;
	u16 old = r->signalled, now = r->next_used;

	/* The driver sets its wish, then looks at the index; we set the index, then look at the wish. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	r->signalled = now;
	if (!q->event_idx)
		return now != old && !(ring_read16(q, r->avail) & AVAIL_NO_INTERRUPT);
	u16 event = ring_read16(q, r->avail + 4 + 2 * (u64)r->size);

	return (u16)(now - event - 1) < (u16)(now - old);
}

bool virtq_arm_notify(struct virtq *q)
{
	struct virtq_regs *r = q->r;

	if (q->event_idx)
		mem_write_le(q->mem, gpa(r->used + 4 + 8 * (u64)r->size), r->last_avail, 2);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return avail_idx(q) != r->last_avail;
}

void virtq_wrote(struct mem *m, const struct virtq_seg *s, u64 len)
{
	u64 at = s->gpa, end = s->gpa + min_u64(len, s->len);

	while (at < end) {
		u64 n = min_u64(PAGE_SIZE - at % PAGE_SIZE, end - at);
		i64 frame = mem_frame(m, gpa(at));

		if (frame >= 0)
			mem_note_write(m, (u64)frame, (unsigned)(at % PAGE_SIZE), (unsigned)n);
		at += n;
	}
}

/* Walks the segments [first, first + n) from byte offset `at`, calling back for each piece. */
static u64 for_pieces(const struct virtq_chain *c, unsigned first, unsigned n, u64 at, u64 len,
		      void (*piece)(void *opaque, const struct virtq_seg *s, u64 done), void *opaque)
{
	u64 done = 0;

	for (unsigned i = first; i < first + n && done < len; i++) {
		const struct virtq_seg *s = &c->seg[i];

		if (at >= s->len) {
			at -= s->len;
			continue;
		}
		struct virtq_seg part = { s->host + at, s->gpa + at, (u32)min_u64(s->len - at, len - done) };

		piece(opaque, &part, done);
		done += part.len;
		at = 0;
	}
	return done;
}

static void piece_out(void *opaque, const struct virtq_seg *s, u64 done)
{
	memcpy((u8 *)opaque + done, s->host, s->len);
}

u64 virtq_chain_read(const struct virtq_chain *c, u64 at, void *to, u64 len)
{
	return for_pieces(c, 0, c->nout, at, len, piece_out, to);
}

struct piece_in_arg {
	struct mem *m;
	const u8 *from;
};

static void piece_in(void *opaque, const struct virtq_seg *s, u64 done)
{
	const struct piece_in_arg *a = opaque;

	mem_will_write_range(a->m, gpa(s->gpa), s->len);
	memcpy(s->host, a->from + done, s->len);
	virtq_wrote(a->m, s, s->len);
}

u64 virtq_chain_write(struct mem *m, const struct virtq_chain *c, u64 at, const void *from, u64 len)
{
	struct piece_in_arg a = { m, from };

	return for_pieces(c, c->nout, c->nin, at, len, piece_in, &a);
}
