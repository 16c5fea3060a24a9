/* The virtual clock V: the only time that guests and devices know (GUESTS.md section 7).
 *
 * V is nanoseconds since power-on. While any vCPU runs, V advances with executed instructions (CLOCK_NS_PER_INSN each, or less where
 * that would be faster than the host's clock: cpu/pace.c); when all vCPUs are idle it follows the host's monotonic clock,
 * and never jumps past the next deadline by more than CLOCK_MAX_SLACK_NS. TSC = V * tsc_khz / 1e6, and every device timer is
 * derived from V too. Surprise: timers fire on whichever vCPU thread notices that V passed the deadline. */
#ifndef NB_CLOCK_H
#define NB_CLOCK_H

#include "base/base.h"
#include "state/state.h"
#include <pthread.h>

#define CLOCK_NS_PER_INSN 2            /* a 4 ms tick then holds 2 M instructions, whatever the host's load */
#define CLOCK_MAX_SLACK_NS 1000000ull
#define CLOCK_NEVER (~(u64)0)
#define CLOCK_READ_NS 4096ull          /* a vCPU may be so far ahead before it says so to readers */
#define CLOCK_READ_TICKS (1u << 16)    /* enough for that */
#define CLOCK_MIN_PERIOD_NS 20000ull   /* a periodic timer fires at most this often; missed ticks are dropped, so that a guest cannot drown itself */

struct clock_timer {
	u64 deadline;              /* V in ns, CLOCK_NEVER = not armed; clock->lock */
	void (*fire)(void *opaque); /* called without clock->lock held; may re-arm */
	void *opaque;
	const char *name;
	bool locked;               /* hold the clock's device lock around fire (set for all but the local APICs') */
};

#define CLOCK_MAX_TIMERS 128

struct clock {
	u64 now __attribute__((aligned(16))); /* V; atomic, only grows */
	u64 now_ticks;             /* host's TSC when now was published; atomic together with now */
	bool shared;               /* several vCPUs read it: clock_share */
	u32 per_tick;              /* ns of V, in 1/2^32, per tick of the host's TSC between two publications */
	u8 apart_[64];             /* readers of what is above do not wait for writers of what is below */
	u64 next;                  /* earliest deadline of all timers; atomic */
	pthread_mutex_t lock;
	struct clock_timer *timers[CLOCK_MAX_TIMERS]; /* lock */
	unsigned ntimers;          /* lock */
	pthread_mutex_t *device_lock; /* bus->lock */
	unsigned running;          /* vCPUs not idle; atomic */
	void (*changed)(void *opaque); /* next moved earlier: running vCPUs must recompute their budget, idle ones their sleep. Called without
					* clock->lock, often under the device lock: must not block on that */
	void *changed_opaque;
	u64 idle_base_host, idle_base_v; /* lock; when the last vCPU went idle. host = CLOCK_NEVER: V stands still (not started, or paused) */
	i64 rtc_base_s;            /* wall-clock seconds at V = 0 */
	u64 (*host_ns)(void);      /* the host's monotonic clock; tests replace it */
};

/* Saved part, see clock_get_regs. */
#define CLOCK_STATE(F, A) F(u64, now) F(i64, rtc_base_s)
STATE_STRUCT(clock_regs, CLOCK_STATE);
extern const struct state_desc clock_regs_state;

/* V = 0 and still until the first clock_vcpu_run. */
void clock_init(struct clock *c, pthread_mutex_t *device_lock);
void clock_destroy(struct clock *c);
void clock_get_regs(struct clock *c, struct clock_regs *r);
/* Only while no vCPU runs; devices must re-arm afterwards (their update functions do). */
void clock_set_regs(struct clock *c, const struct clock_regs *r);

/* V in ns as last published. Devices use this. */
static inline u64 clock_now(const struct clock *c) { return __atomic_load_n(&c->now, __ATOMIC_ACQUIRE); }

/* A vCPU has advanced V to at least v. Returns the new V (another vCPU may be ahead). */
u64 clock_publish(struct clock *c, u64 v);

/* Several vCPUs will read the time. Before they start. */
void clock_share(struct clock *c);
/* The time for a vCPU that has got to v and only asks: no less than what any vCPU has been told before it asked. With several vCPUs that is seldom v itself.
 * What one reads, all must know, and to say so each time costs more than the rest of a system call: all would write one cache line in turn. So V is written
 * once per CLOCK_READ_NS; in between all read the same line through it, the host's TSC. */
u64 clock_read(struct clock *c, u64 v);

/* Fires every timer that is due at the current V, each at most once, earliest first. Call when clock_now() >= next, holding no lock. A fire may be
 * stale (re-armed meanwhile by another thread): handlers look at V, not at the fact that they were called. */
void clock_run_timers(struct clock *c);

/* Registers a timer, once, before the vCPUs start. */
void clock_add_timer(struct clock *c, struct clock_timer *t);
/* Forgets it, before its memory goes away. */
void clock_del_timer(struct clock *c, struct clock_timer *t);
/* (Re)arms or, with CLOCK_NEVER, disarms. Any thread. */
void clock_arm(struct clock *c, struct clock_timer *t, u64 deadline);

/* A vCPU goes idle / runs again. While none runs, clock_idle_update moves V with the host's clock, at most to the next deadline + slack: what a late
 * wake-up missed beyond that is lost to V, so guests never see a jump. */
void clock_vcpu_idle(struct clock *c);
void clock_vcpu_run(struct clock *c);
void clock_idle_update(struct clock *c);
/* Host monotonic ns at which V reaches `next` if everything stays idle; CLOCK_NEVER if no timer is armed, some vCPU runs, or V stands still. */
u64 clock_idle_wake_host_ns(struct clock *c);
/* Stops V while all vCPUs are stopped (pause, snapshot); the next clock_vcpu_run or clock_vcpu_idle starts it again. */
void clock_stand_still(struct clock *c);

/* Ratio helpers without overflow: a * b / d in 128 bits. */
static inline u64 clock_mul_div(u64 a, u64 b, u64 d) { return (u64)((u128)a * b / d); }

#endif
