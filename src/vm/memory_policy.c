/* The memory policy: see memory_policy.h. Once a second the guest is asked for its statistics; a guest that is short gets memory at once, one that has plenty
 * gives some back slowly, so that a pause between two jobs costs nothing. Surprise: nothing happens before the guest has loaded its balloon driver;
 * until then it has all of MAX to use, as it must, having been told of it. */
#include "vm/memory_policy.h"

#include "virtio/virtio_balloon.h"
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

static u64 size_now(const struct memory_policy *p, const struct virtio_balloon_info *b) { return p->max - min_u64(b->actual, p->max); }

static void tick(void *opaque)
{
	struct memory_policy *p = opaque;
	struct virtio_balloon *b = board_balloon(p->vm);
	struct virtio_balloon_info info;
	virtio_balloon_info(b, &info);
	if (info.driver && p->min < p->max && (info.stats_valid & (1u << BALLOON_AVAILABLE)) && info.actual == info.target)
		p->wanted = memory_policy_next(p->min, p->max, size_now(p, &info), info.stat[BALLOON_AVAILABLE]);
	if (info.target != p->max - p->wanted)
		virtio_balloon_set_target(b, p->max - p->wanted);
	virtio_balloon_ask_stats(b);
	loop_timer_set(p->timer, TICK_MS);
}

struct memory_policy *memory_policy_create(struct vm *vm)
{
	struct memory_policy *p = calloc(1, sizeof *p);
	struct virtio_balloon_info info;
	if (!p)
		return NULL;
	p->vm = vm;
	p->max = vm->cfg.memory;
	p->min = vm->cfg.memory_min ? vm->cfg.memory_min : p->max;
	p->wanted = vm->cfg.memory_start ? vm->cfg.memory_start : p->max;
	virtio_balloon_info(board_balloon(vm), &info);
	if (info.target && !vm->cfg.memory_min) /* restored with a balloon */
		p->min = p->wanted = p->max - min_u64(info.target, p->max - FLOOR);
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
	virtio_balloon_set_target(board_balloon(p->vm), p->max - bytes);
	return 0;
}

void memory_policy_info(struct memory_policy *p, struct memory_info *info)
{
	struct virtio_balloon_info b;
	struct stat st;
	virtio_balloon_info(board_balloon(p->vm), &b);
	*info = (struct memory_info){ .min = p->min, .wanted = p->wanted, .max = p->max, .now = size_now(p, &b), .driver = b.driver };
	if (b.stats_valid & (1u << BALLOON_AVAILABLE))
		info->available = b.stat[BALLOON_AVAILABLE];
	if (!p->vm->mem.is_private && !fstat(p->vm->mem.memfd, &st))
		info->resident = (u64)st.st_blocks * 512;
}
