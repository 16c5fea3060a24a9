/* The virtual clock (GUESTS.md "Time on a slow or preempted software CPU"). Timers live in a small array: a VM has about a dozen, so
 * a minimum search costs less than keeping them sorted. Surprise: V never runs past the next deadline by more than the slack while idle,
 * so a host that wakes us late stretches the guest's time instead of tearing a hole into it. */
#include "bus/clock.h"
#include "base/log.h"

#include <cpuid.h>
#include <immintrin.h>
#include <time.h>

STATE_DESC(clock_regs, CLOCK_STATE);

static u64 host_monotonic_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * NSEC_PER_SEC + (u64)t.tv_nsec;
}

void clock_init(struct clock *c, pthread_mutex_t *device_lock)
{
	memset(c, 0, sizeof *c);
	pthread_mutex_init(&c->lock, NULL);
	c->next = CLOCK_NEVER;
	c->idle_base_host = CLOCK_NEVER;
	c->device_lock = device_lock;
	c->rtc_base_s = (i64)time(NULL);
	c->host_ns = host_monotonic_ns;
}

void clock_destroy(struct clock *c) { pthread_mutex_destroy(&c->lock); }

/* ---- V ---- */
/* V and the host's TSC when it was published. V only grows, so ticks that lie between two equal V belong to it. */
struct point { u64 v, ticks; };

static struct point last_point(const struct clock *c)
{
	struct point p;
	do {
		p.v = __atomic_load_n(&c->now, __ATOMIC_ACQUIRE);
		p.ticks = __atomic_load_n(&c->now_ticks, __ATOMIC_ACQUIRE);
	} while (p.v != __atomic_load_n(&c->now, __ATOMIC_ACQUIRE));
	return p;
}

static bool move_point(struct clock *c, struct point from, struct point to)
{
	bool ok;
	asm volatile("lock cmpxchg16b %1" : "=@ccz"(ok), "+m"(*(u128 *)&c->now), "+a"(from.v), "+d"(from.ticks) : "b"(to.v), "c"(to.ticks) : "memory", "cc");
	return ok;
}

/* What readers may have been told by now: a line from the point, that ends before CLOCK_READ_NS. It goes on from a later point no lower, because that lies above
 * it. Host code computes the same: jit/sys.c. */
static u64 line_at(const struct clock *c, struct point p, u64 ticks)
{
	i64 since = (i64)(ticks - p.ticks);
	u64 ns = since <= 0 ? 0 : min_u64((u64)since, CLOCK_READ_TICKS) * c->per_tick >> 32;
	return p.v + min_u64(ns, CLOCK_READ_NS - 1);
}

/* Not before what was read earlier. */
static u64 host_ticks(void)
{
	_mm_lfence();
	return __builtin_ia32_rdtsc();
}

#define MEASURE_NS 200000
#define OF_HOST 230 /* of 256: as fast as cpu/pace.c lets V be */

void clock_share(struct clock *c)
{
	u32 a, b, x, d = 0;
	c->shared = true;
	if (!__get_cpuid(0x80000007, &a, &b, &x, &d) || !(d & BIT32(8))) /* no invariant TSC: time stands still for CLOCK_READ_NS */
		return;
	u64 ns = host_monotonic_ns(), ticks = host_ticks(), took;
	while ((took = host_monotonic_ns() - ns) < MEASURE_NS)
		;
	c->per_tick = (u32)min_u64((took << 32) / (host_ticks() - ticks) / 256 * OF_HOST, ~(u32)0);
}

static u64 publish_shared(struct clock *c, u64 v)
{
	for (;;) {
		struct point p = last_point(c), next = { .ticks = host_ticks() };
		if (v <= p.v)
			return p.v;
		next.v = max_u64(v, line_at(c, p, next.ticks) + 1);
		if (move_point(c, p, next))
			return next.v;
	}
}

u64 clock_publish(struct clock *c, u64 v)
{
	u64 now = __atomic_load_n(&c->now, __ATOMIC_ACQUIRE);
	if (v <= now)
		return now;
	if (c->shared)
		return publish_shared(c, v);
	while (v > now) {
		if (__atomic_compare_exchange_n(&c->now, &now, v, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return v;
	}
	return now;
}

u64 clock_read(struct clock *c, u64 v)
{
	if (!c->shared)
		return clock_publish(c, v);
	struct point p = last_point(c);
	if (v >= p.v + CLOCK_READ_NS)
		return publish_shared(c, v);
	return line_at(c, p, host_ticks());
}

/* ---- timers ---- */

/* Holding c->lock. True: the earliest deadline moved towards now. */
static bool recompute_next(struct clock *c)
{
	u64 next = CLOCK_NEVER;
	for (unsigned i = 0; i < c->ntimers; i++)
		next = min_u64(next, c->timers[i]->deadline);
	u64 old = __atomic_exchange_n(&c->next, next, __ATOMIC_ACQ_REL);
	return next < old;
}

void clock_add_timer(struct clock *c, struct clock_timer *t)
{
	pthread_mutex_lock(&c->lock);
	bug_if(c->ntimers == CLOCK_MAX_TIMERS);
	t->deadline = CLOCK_NEVER;
	c->timers[c->ntimers++] = t;
	pthread_mutex_unlock(&c->lock);
}

void clock_del_timer(struct clock *c, struct clock_timer *t)
{
	pthread_mutex_lock(&c->lock);
	for (unsigned i = 0; i < c->ntimers; i++) {
		if (c->timers[i] != t)
			continue;
		c->timers[i] = c->timers[--c->ntimers];
		recompute_next(c);
		break;
	}
	pthread_mutex_unlock(&c->lock);
}

void clock_arm(struct clock *c, struct clock_timer *t, u64 deadline)
{
	bool earlier = false;
	pthread_mutex_lock(&c->lock);
	if (t->deadline != deadline) {
		t->deadline = deadline;
		earlier = recompute_next(c);
	}
	pthread_mutex_unlock(&c->lock);
	if (earlier && c->changed)
		c->changed(c->changed_opaque);
}

/* The earliest timer due at v, already disarmed; NULL if none. `fired` keeps a timer that re-arms itself in the past from running twice in a row. */
static struct clock_timer *take_due(struct clock *c, u64 v, u64 fired[2])
{
	struct clock_timer *best = NULL;
	unsigned at = 0;
	pthread_mutex_lock(&c->lock);
	for (unsigned i = 0; i < c->ntimers; i++) {
		struct clock_timer *t = c->timers[i];
		if (t->deadline > v || (fired[i / 64] & bit(i % 64)) || (best && t->deadline >= best->deadline))
			continue;
		best = t;
		at = i;
	}
	if (best) {
		fired[at / 64] |= bit(at % 64);
		best->deadline = CLOCK_NEVER;
		recompute_next(c);
	}
	pthread_mutex_unlock(&c->lock);
	return best;
}

void clock_run_timers(struct clock *c)
{
	_Static_assert(CLOCK_MAX_TIMERS <= 128, "fired[] holds one bit per timer");
	u64 fired[2] = { 0, 0 };
	u64 v = clock_now(c);
	struct clock_timer *t;
	while ((t = take_due(c, v, fired))) {
		if (trace_on(TRACE_CLOCK))
			trace_line(TRACE_CLOCK, "V %llu: %s fires", (unsigned long long)v, t->name);
		if (t->locked && c->device_lock)
			pthread_mutex_lock(c->device_lock);
		t->fire(t->opaque);
		if (t->locked && c->device_lock)
			pthread_mutex_unlock(c->device_lock);
	}
}

/* Holding c->lock, no vCPU running. */
static void follow_host(struct clock *c)
{
	if (c->idle_base_host == CLOCK_NEVER)
		return;
	u64 host = c->host_ns();
	u64 v = c->idle_base_v + (host > c->idle_base_host ? host - c->idle_base_host : 0);
	u64 next = __atomic_load_n(&c->next, __ATOMIC_ACQUIRE);
	u64 cap = next > CLOCK_NEVER - CLOCK_MAX_SLACK_NS ? CLOCK_NEVER : next + CLOCK_MAX_SLACK_NS;
	if (v > cap) { /* woken late: what is beyond the slack is lost to V */
		v = max_u64(cap, clock_now(c));
		c->idle_base_host = host;
		c->idle_base_v = v;
	}
	clock_publish(c, v);
}

static void idle_from_here(struct clock *c)
{
	c->idle_base_host = c->host_ns();
	c->idle_base_v = clock_now(c);
}

void clock_vcpu_idle(struct clock *c)
{
	pthread_mutex_lock(&c->lock);
	bug_if(c->running == 0);
	if (__atomic_sub_fetch(&c->running, 1, __ATOMIC_ACQ_REL) == 0)
		idle_from_here(c);
	pthread_mutex_unlock(&c->lock);
}

void clock_vcpu_run(struct clock *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->running == 0)
		follow_host(c);
	__atomic_add_fetch(&c->running, 1, __ATOMIC_ACQ_REL);
	pthread_mutex_unlock(&c->lock);
}

void clock_idle_update(struct clock *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->running == 0)
		follow_host(c);
	pthread_mutex_unlock(&c->lock);
}

u64 clock_idle_wake_host_ns(struct clock *c)
{
	u64 host = CLOCK_NEVER;
	pthread_mutex_lock(&c->lock);
	u64 next = __atomic_load_n(&c->next, __ATOMIC_ACQUIRE);
	if (c->running == 0 && next != CLOCK_NEVER && c->idle_base_host != CLOCK_NEVER) {
		u64 ahead = next > c->idle_base_v ? next - c->idle_base_v : 0;
		host = ahead > CLOCK_NEVER - c->idle_base_host ? CLOCK_NEVER : c->idle_base_host + ahead;
	}
	pthread_mutex_unlock(&c->lock);
	return host;
}

void clock_stand_still(struct clock *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->running == 0) {
		follow_host(c);
		c->idle_base_host = CLOCK_NEVER;
	}
	pthread_mutex_unlock(&c->lock);
}

void clock_get_regs(struct clock *c, struct clock_regs *r)
{
	r->now = clock_now(c);
	r->rtc_base_s = c->rtc_base_s;
}

void clock_set_regs(struct clock *c, const struct clock_regs *r)
{
	pthread_mutex_lock(&c->lock);
	__atomic_store_n(&c->now_ticks, host_ticks(), __ATOMIC_RELEASE);
	__atomic_store_n(&c->now, r->now, __ATOMIC_RELEASE);
	c->rtc_base_s = r->rtc_base_s;
	c->idle_base_v = r->now;
	c->idle_base_host = CLOCK_NEVER;
	pthread_mutex_unlock(&c->lock);
}
