/* The memory policy: see memory_policy.h. Once a second the guest is asked for its statistics; a guest that is short gets memory at once, one that has plenty
 * gives some back slowly, so that a pause between two jobs costs nothing. Surprise: nothing happens before the guest has loaded its drivers; until then it
 * has START to use, of which it was told at power-on. */
#include "vm/memory_policy.h"

#include "virtio/virtio_balloon.h"
#include "virtio/virtio_mem.h"
#include "vm/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#define TICK_MS 1000
#define FLOOR (32 * MiB)      /* a kernel with less does not live */
#define SHORT_PERCENT 15      /* of its size available: less is pressure */
#define PLENTY_PERCENT 35
#define AIM_PERCENT 25
#define SHRINK_STEP (64 * MiB) /* a second */

struct memory_policy {
	struct vm *vm;
	struct loop_timer *timer;
	u64 min, wanted, max;
};

u64 memory_policy_next(u64 min, u64 max, u64 now, u64 available)
{
	u64 next = now;
	available = min_u64(available, now); /* the guest's word */
	if (available < now / 100 * SHORT_PERCENT)
		/* (available + x) = AIM % of (now + x) */
		next = now + (now / 100 * AIM_PERCENT - available) * 100 / (100 - AIM_PERCENT);
	else if (available > now / 100 * PLENTY_PERCENT)
		next = now - min_u64((available - now / 100 * AIM_PERCENT) * 100 / (100 - AIM_PERCENT), SHRINK_STEP);
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

/* Without its driver virtio-mem has nothing to give. What a guest cannot unplug must not keep it from getting more. */
static void follow(struct memory_policy *p, const struct devices *d)
{
	const struct virtio_balloon_info *b = &d->balloon;
	u64 max = d->more.driver ? p->max : max_u64(p->min, min_u64(p->max, p->vm->cfg.memory)), now = size_now(p, d);
	if (!b->driver || p->min >= p->max || !(b->stats_valid & (1u << BALLOON_AVAILABLE)) || b->actual != b->target)
		return;
	u64 next = memory_policy_next(p->min, max, now, b->stat[BALLOON_AVAILABLE]);
	if (d->more.plugged == d->more.requested || next > now)
		p->wanted = next;
}

static void tick(void *opaque)
{
	struct memory_policy *p = opaque;
	struct devices d;
	ask_devices(p, &d);
	follow(p, &d);
	tell_devices(p);
	virtio_balloon_ask_stats(board_balloon(p->vm));
	loop_timer_set(p->timer, TICK_MS);
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
