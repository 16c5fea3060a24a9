/* The memory policy: see memory_policy.h. Every second, and several times a second while the guest is short or uses more and more, it is asked for its
 * statistics; the answer is looked at when it is fresh, for a guest may fill all that it has left in the second after. One that is short gets
 * memory at once. One that has had plenty for a while gives some back slowly, so that a pause between two jobs costs nothing. Surprise: what counts is what
 * the guest has now, not what it was told: a balloon that cannot get its pages, or that gave some back because the guest ran out of memory, is taken for pressure. */
#include "vm/memory_policy.h"

#include "virtio/virtio_balloon.h"
#include "virtio/virtio_mem.h"
#include "vm/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#define TICK_MS 1000
#define TICK_SHORT_MS 200
#define ANSWER_MS 50          /* after which the guest's answer is looked at */
#define GROWS (8 * MiB)       /* used more than at the last answer: it is looked at again soon */
#define FLOOR (32 * MiB)      /* a kernel with less does not live */
/* Available, of its size: less is pressure, what it shall have, and more is plenty. In bytes: a guest of any size fills so much in a second or two. */
#define SHORT_PERCENT 15
#define SHORT_LEAST (64 * MiB)
#define AIM_PERCENT 25
#define AIM_LEAST (112 * MiB)
#define PLENTY_PERCENT 35
#define PLENTY_LEAST (160 * MiB)
#define SHRINK_STEP (64 * MiB) /* a second */
#define GROW_STEP (128 * MiB)  /* for a guest whose statistics are late or behind */
#define SWAPPED_IN MiB         /* between two answers: it works with more than it has */
#define SILENT_MS 3000         /* no answer for so long: it may be too short of memory to give one */
#define UNSETTLED_MS 10000     /* what it has not given up after so long it needs */
enum { CALM = 16 /* what it used in so many seconds it may use again */ };

struct memory_policy {
	struct vm *vm;
	struct loop_timer *timer;
	u64 min, wanted, max;
	bool fixed;           /* its user has said how much */
	bool asked;           /* the next tick looks at the answer */
	u64 used_before;      /* at the last answer */
	u64 used[CALM];       /* the most in each of the last seconds */
	u64 second;           /* of the newest */
	u64 answered_ms, settled_ms; /* when last: by the host's clock */
	u64 balloon, swapped_in;     /* what the devices said before */
};

static u64 percent_of(u64 bytes, u64 percent, u64 least) { return max_u64(bytes / 100 * percent, least); }

/* The size at which so much is used and the aim is available. */
static u64 size_for(u64 used) { return max_u64(used / (100 - AIM_PERCENT) * 100, used + AIM_LEAST); }

u64 memory_policy_next(u64 min, u64 max, u64 now, u64 available, u64 calm)
{
	u64 next = now;
	available = min_u64(available, now); /* the guest's word */
	calm = min_u64(calm, available);
	if (available < percent_of(now, SHORT_PERCENT, SHORT_LEAST))
		next = max_u64(now, size_for(now - available));
	else if (calm > percent_of(now, PLENTY_PERCENT, PLENTY_LEAST))
		next = max_u64(size_for(now - calm), now - min_u64(now, SHRINK_STEP));
	return align_down(max_u64(min, min_u64(next, max)), MiB);
}

/* What both devices say. */
struct devices {
	struct virtio_balloon_info balloon;
	struct virtio_mem_info more; /* zeros: there is no more */
};

static void ask_devices(const struct memory_policy *p, struct devices *d)
{
	*d = (struct devices){ 0 };
	virtio_balloon_info(board_balloon(p->vm), &d->balloon);
	if (board_virtio_mem(p->vm))
		virtio_mem_info(board_virtio_mem(p->vm), &d->more);
}

static u64 size_now(const struct memory_policy *p, const struct devices *d)
{
	u64 boot = p->vm->cfg.memory;
	return boot - min_u64(d->balloon.actual, boot) + d->more.plugged;
}

/* Up to what the guest was started with by the balloon, beyond that by virtio-mem. */
static void tell_devices(const struct memory_policy *p)
{
	u64 boot = p->vm->cfg.memory;
	virtio_balloon_set_target(board_balloon(p->vm), boot - min_u64(p->wanted, boot));
	if (board_virtio_mem(p->vm))
		virtio_mem_request(board_virtio_mem(p->vm), p->wanted - min_u64(p->wanted, boot));
}

static u64 now_ms(void) { return host_now_ns() / 1000000; }

/* The most that was used in the last seconds. */
static u64 most_used(struct memory_policy *p, u64 used, u64 ms)
{
	u64 second = ms / 1000, most = 0;
	for (; p->second < second; p->second++)
		p->used[(p->second + 1) % CALM] = 0;
	p->used[second % CALM] = max_u64(p->used[second % CALM], used);
	for (unsigned i = 0; i < CALM; i++)
		most = max_u64(most, p->used[i]);
	return most;
}

/* Signs that it has too little whatever it says is available: its balloon gave memory back unasked (VIRTIO_BALLOON_F_DEFLATE_ON_OOM), it reads back what it has
 * swapped out, or it does not answer. */
static bool starves(struct memory_policy *p, const struct virtio_balloon_info *b, u64 ms)
{
	u64 in = b->stats_valid & (1u << BALLOON_SWAP_IN) ? b->stat[BALLOON_SWAP_IN] : 0;
	bool burst = b->actual < p->balloon && b->actual < b->target, swaps = in > p->swapped_in && in - p->swapped_in > SWAPPED_IN;
	bool silent = ms - p->answered_ms > SILENT_MS;
	if (silent)
		p->answered_ms = ms; /* the next step when it stays so */
	p->balloon = b->actual;
	p->swapped_in = in;
	return burst || swaps || silent;
}

/* Without its driver virtio-mem has nothing to give. True: look again soon. */
static bool follow(struct memory_policy *p, const struct devices *d)
{
	const struct virtio_balloon_info *b = &d->balloon;
	u64 boot = p->vm->cfg.memory, ms = now_ms(), now = size_now(p, d), max = d->more.driver ? p->max : max_u64(p->min, min_u64(p->max, boot));
	if (b->answered || p->vm->user_paused)
		p->answered_ms = ms;
	bool starved = starves(p, b, ms);
	if (p->fixed || !b->driver || !(b->stats_valid & (1u << BALLOON_AVAILABLE)))
		return false;
	if (!b->answered && !starved)
		return p->wanted > now; /* the last answer is about another size */
	u64 available = min_u64(b->stat[BALLOON_AVAILABLE], now);
	bool grows = now - available > p->used_before + GROWS;
	p->used_before = now - available;
	u64 most = most_used(p, now - available, ms);
	u64 next = b->answered ? memory_policy_next(p->min, max, now, available, now - min_u64(now, most)) : now;
	if (starved)
		next = max_u64(next, min_u64(now + GROW_STEP, max));
	bool settled = b->actual == b->target && d->more.plugged == d->more.requested;
	if (settled || ms - p->settled_ms > UNSETTLED_MS)
		p->settled_ms = ms;
	if (next > now) /* what is under way stays so */
		p->wanted = max_u64(p->wanted, next);
	else if (p->wanted < now && next == now) /* it gives, and has no plenty any more */
		p->wanted = now;
	else if (p->settled_ms == ms)
		p->wanted = settled ? next : now;
	return next > now || p->wanted > now || grows;
}

static void tick(void *opaque)
{
	struct memory_policy *p = opaque;
	struct devices d;
	p->asked = !p->asked;
	if (p->asked) {
		virtio_balloon_ask_stats(board_balloon(p->vm));
		loop_timer_set(p->timer, ANSWER_MS);
		return;
	}
	ask_devices(p, &d);
	bool soon = follow(p, &d);
	tell_devices(p);
	loop_timer_set(p->timer, (soon ? TICK_SHORT_MS : TICK_MS) - ANSWER_MS);
}

struct memory_policy *memory_policy_create(struct vm *vm)
{
	struct memory_policy *p = calloc(1, sizeof *p);
	struct devices d;
	if (!p)
		return NULL;
	p->vm = vm;
	ask_devices(p, &d);
	p->max = vm->cfg.memory + d.more.size;
	/* Restored, it wants what it wanted. */
	p->wanted = vm->cfg.memory - min_u64(d.balloon.target, vm->cfg.memory - min_u64(FLOOR, vm->cfg.memory)) + d.more.requested;
	p->min = vm->cfg.memory_min ? vm->cfg.memory_min : p->wanted;
	p->fixed = !vm->cfg.memory_min || p->min >= p->max;
	p->balloon = d.balloon.actual;
	p->answered_ms = p->settled_ms = now_ms();
	p->second = p->answered_ms / 1000;
	p->timer = loop_timer_add(vm->loop, tick, p);
	if (p->timer)
		loop_timer_set(p->timer, TICK_MS);
	return p;
}

void memory_policy_free(struct memory_policy *p)
{
	if (p)
		loop_timer_remove(p->timer);
	free(p);
}

int memory_policy_set(struct memory_policy *p, u64 bytes)
{
	if (bytes > p->max || bytes < min_u64(FLOOR, p->max))
		return -ERANGE;
	p->min = p->wanted = bytes;
	p->fixed = true;
	tell_devices(p);
	return 0;
}

void memory_policy_info(struct memory_policy *p, struct memory_info *info)
{
	struct devices d;
	struct stat st;
	ask_devices(p, &d);
	*info = (struct memory_info){ .min = p->min, .wanted = p->wanted, .max = p->max, .boot = p->vm->cfg.memory, .now = size_now(p, &d),
		.plugged = d.more.plugged, .block = d.more.block, .driver = d.balloon.driver, .mem_driver = d.more.driver };
	if (d.balloon.stats_valid & (1u << BALLOON_AVAILABLE))
		info->available = d.balloon.stat[BALLOON_AVAILABLE];
	if (!p->vm->mem.is_private && !fstat(p->vm->mem.memfd, &st))
		info->resident = (u64)st.st_blocks * 512;
}
