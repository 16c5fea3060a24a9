/* How much of its memory the guest may use: memory=MIN:START:MAX, and `set memory` on a running machine. The guest is told of START at power-on. Below that a
 * balloon inside it holds the rest, which leaves our process; beyond it, it plugs memory. Not here: the devices (virtio/virtio_balloon.h, virtio_mem.h). */
#ifndef NB_MEMORY_POLICY_H
#define NB_MEMORY_POLICY_H

#include "base/base.h"

struct vm;
struct memory_policy;

/* Follows vm->cfg from now on, on the main loop. NULL: out of memory. */
struct memory_policy *memory_policy_create(struct vm *vm);
void memory_policy_free(struct memory_policy *p);

/* The guest's memory shall be `bytes` from now on, whatever its pressure. 0, or -ERANGE: more than MAX, or so little that no guest lives with it. Main loop. */
int memory_policy_set(struct memory_policy *p, u64 bytes);
struct memory_info {
	u64 min, wanted, max;    /* bytes; min = max after memory_policy_set */
	u64 boot;                /* what it was started with */
	u64 now;                 /* what the guest has, outside the balloon and plugged */
	u64 plugged, block;      /* of that, by virtio-mem, which does it in blocks of that size; 0: there is none */
	u64 available;           /* what it says it could use without swapping; 0: it says nothing */
	u64 resident;            /* guest memory that our process holds */
	bool driver, mem_driver; /* the guest has a driver for the balloon, for virtio-mem */
};
void memory_policy_info(struct memory_policy *p, struct memory_info *info);

/* The policy itself: the size that a guest shall have next, that has `now` bytes of which `available` are, and at least `calm` were for some time. All from min
 * to max. */
u64 memory_policy_next(u64 min, u64 max, u64 now, u64 available, u64 calm);

#endif
