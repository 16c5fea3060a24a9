#include "test.h"

struct probe { struct clock *c; struct clock_timer t; unsigned fired; u64 at, again; };

static void fire(void *opaque)
{
	struct probe *p = opaque;
	p->fired++;
	p->at = clock_now(p->c);
	if (p->again != CLOCK_NEVER)
		clock_arm(p->c, &p->t, p->again);
}

static void add(struct rig *r, struct probe *p)
{
	*p = (struct probe){ .c = &r->clock, .again = CLOCK_NEVER };
	p->t = (struct clock_timer){ .fire = fire, .opaque = p, .name = "probe" };
	clock_add_timer(&r->clock, &p->t);
}

static unsigned changes;
static void changed(void *opaque) { changes++; }

TEST(v_only_grows)
{
	assert_int_equal(clock_publish(&r->clock, 100), 100);
	assert_int_equal(clock_publish(&r->clock, 50), 100);
	assert_int_equal(clock_now(&r->clock), 100);
}

TEST(v_stands_still_before_the_first_vcpu_runs)
{
	rig_host_ns += 5000 * MS;
	clock_idle_update(&r->clock);
	assert_int_equal(clock_now(&r->clock), 0);
	clock_vcpu_run(&r->clock);
	assert_int_equal(clock_now(&r->clock), 0);
	clock_vcpu_idle(&r->clock);
}

TEST(host_time_counts_only_while_all_vcpus_idle)
{
	clock_vcpu_run(&r->clock);
	clock_vcpu_run(&r->clock);
	rig_host_ns += 100 * MS;
	clock_idle_update(&r->clock);
	clock_vcpu_idle(&r->clock);
	rig_host_ns += 100 * MS;
	clock_idle_update(&r->clock);
	assert_int_equal(clock_now(&r->clock), 0);
	clock_vcpu_idle(&r->clock);
	rig_host_ns += 7 * MS;
	clock_idle_update(&r->clock);
	assert_int_equal(clock_now(&r->clock), 7 * MS);
	rig_host_ns += MS;
	clock_vcpu_run(&r->clock);
	assert_int_equal(clock_now(&r->clock), 8 * MS);
	rig_host_ns += 100 * MS;
	clock_vcpu_idle(&r->clock);
	clock_idle_update(&r->clock);
	assert_int_equal(clock_now(&r->clock), 8 * MS);
}

TEST(a_late_wake_up_loses_the_excess)
{
	struct probe p;
	add(r, &p);
	clock_vcpu_run(&r->clock);
	clock_arm(&r->clock, &p.t, 10 * MS);
	clock_vcpu_idle(&r->clock);
	assert_int_equal(clock_idle_wake_host_ns(&r->clock), rig_host_ns + 10 * MS);
	rig_host_ns += 500 * MS; /* the host had other things to do */
	clock_idle_update(&r->clock);
	assert_int_equal(clock_now(&r->clock), 10 * MS + CLOCK_MAX_SLACK_NS);
	clock_run_timers(&r->clock);
	assert_int_equal(p.fired, 1);
	clock_arm(&r->clock, &p.t, 20 * MS);
	rig_host_ns += 2 * MS;
	clock_idle_update(&r->clock);
	assert_int_equal(clock_now(&r->clock), 13 * MS); /* follows again from there, without catching up */
	assert_int_equal(clock_idle_wake_host_ns(&r->clock), rig_host_ns + 7 * MS);
	clock_vcpu_run(&r->clock);
	assert_int_equal(clock_idle_wake_host_ns(&r->clock), CLOCK_NEVER);
	clock_vcpu_idle(&r->clock);
	clock_del_timer(&r->clock, &p.t);
}

TEST(a_pause_takes_no_time)
{
	clock_vcpu_run(&r->clock);
	clock_vcpu_idle(&r->clock);
	rig_host_ns += 3 * MS;
	clock_stand_still(&r->clock);
	rig_host_ns += 1000 * MS;
	clock_idle_update(&r->clock);
	assert_int_equal(clock_now(&r->clock), 3 * MS);
	clock_vcpu_run(&r->clock);
	clock_vcpu_idle(&r->clock);
	rig_host_ns += MS;
	clock_idle_update(&r->clock);
	assert_int_equal(clock_now(&r->clock), 4 * MS);
}

TEST(timers_fire_in_order_and_each_once_per_call)
{
	struct probe a, b;
	add(r, &a);
	add(r, &b);
	a.again = 5; /* re-arms itself in the past: must not spin */
	clock_arm(&r->clock, &a.t, 20);
	clock_arm(&r->clock, &b.t, 10);
	assert_int_equal(r->clock.next, 10);
	clock_publish(&r->clock, 9);
	clock_run_timers(&r->clock);
	assert_int_equal(a.fired + b.fired, 0);
	clock_publish(&r->clock, 30);
	clock_run_timers(&r->clock);
	assert_int_equal(a.fired, 1);
	assert_int_equal(b.fired, 1);
	assert_int_equal(r->clock.next, 5);
	a.again = CLOCK_NEVER;
	clock_run_timers(&r->clock);
	assert_int_equal(a.fired, 2);
	assert_int_equal(r->clock.next, CLOCK_NEVER);
	clock_del_timer(&r->clock, &a.t);
	clock_del_timer(&r->clock, &b.t);
}

TEST(an_earlier_deadline_is_announced)
{
	struct probe a;
	add(r, &a);
	changes = 0;
	r->clock.changed = changed;
	clock_arm(&r->clock, &a.t, 100);
	clock_arm(&r->clock, &a.t, 100);
	assert_int_equal(changes, 1);
	clock_arm(&r->clock, &a.t, 200);
	assert_int_equal(changes, 1);
	clock_arm(&r->clock, &a.t, 150);
	assert_int_equal(changes, 2);
	clock_arm(&r->clock, &a.t, CLOCK_NEVER);
	assert_int_equal(changes, 2);
	clock_del_timer(&r->clock, &a.t);
}

static void *advance(void *opaque)
{
	struct clock *c = opaque;
	u64 last = 0;
	for (u64 i = 1; i <= 200000; i++) {
		u64 v = clock_publish(c, i * 10);
		bug_if(v < last || v < i * 10);
		last = v;
		if (v >= __atomic_load_n(&c->next, __ATOMIC_ACQUIRE))
			clock_run_timers(c);
	}
	return NULL;
}

TEST(threads_agree_on_v_and_no_timer_is_lost)
{
	pthread_t t[2];
	struct probe a;
	add(r, &a);
	a.t.locked = true;
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, advance, &r->clock);
	for (u64 i = 1; i <= 1000; i++)
		clock_arm(&r->clock, &a.t, i * 1000);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	clock_run_timers(&r->clock);
	assert_int_equal(clock_now(&r->clock), 2000000);
	assert_true(a.fired >= 1);
	assert_int_equal(r->clock.next, CLOCK_NEVER);
	clock_del_timer(&r->clock, &a.t);
}

/* ---- several readers ---- */
TEST(a_reader_that_is_hardly_ahead_writes_nothing)
{
	struct clock *c = &r->clock;
	clock_share(c);
	clock_publish(c, 1000000);
	u64 first = clock_now(c), last = first;
	for (u64 v = first; v < first + CLOCK_READ_NS; v++) {
		u64 now = clock_read(c, v);
		assert_true(now >= last && now < first + CLOCK_READ_NS);
		assert_int_equal(clock_now(c), first);
		last = now;
	}
	assert_int_equal(clock_read(c, first + CLOCK_READ_NS), first + CLOCK_READ_NS);
	assert_int_equal(clock_now(c), first + CLOCK_READ_NS);
	assert_int_equal(clock_publish(c, first), first + CLOCK_READ_NS);
}

TEST(time_that_was_read_is_published_before_it_is_passed)
{
	struct clock *c = &r->clock;
	clock_share(c);
	for (u64 v = 1000; v < 2000000; v += 7) {
		u64 read = clock_read(c, v);
		assert_true(clock_publish(c, clock_now(c) + 1) > read);
	}
}

static u64 told; /* by whoever read the time last */

static void *read_in_turn(void *opaque)
{
	struct clock *c = opaque;
	u64 v = 0;
	for (u64 i = 0; i < 300000; i++) {
		u64 before = __atomic_load_n(&told, __ATOMIC_ACQUIRE);
		u64 now = i % 64 ? clock_read(c, v) : clock_publish(c, v);
		bug_if(i % 64 && now < before);
		/* the greatest that any thread has told */
		while (i % 64 && before < now && !__atomic_compare_exchange_n(&told, &before, now, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			;
		v = max_u64(v + 3 + i % 50, clock_now(c));
	}
	return NULL;
}

TEST(no_reader_undercuts_what_another_was_told)
{
	pthread_t t[3];
	told = 0;
	clock_share(&r->clock);
	for (unsigned i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, read_in_turn, &r->clock);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	assert_true(clock_now(&r->clock) + CLOCK_READ_NS > told);
}

static u64 dev_read(void *dev, u64 off, unsigned size) { return (u64)(uintptr_t)dev + off; }
static u64 written;
static void dev_write(void *dev, u64 off, u64 v, unsigned size) { written = (u64)(uintptr_t)dev + off + v * 0x100 + size * 0x1000000; }

TEST(bus_windows_overlap_move_and_split)
{
	static const struct bus_ops ops = { dev_read, dev_write };
	int a = bus_add_port(&r->bus, 0x300, 4, &ops, (void *)0x10, "a");
	int b = bus_add_port(&r->bus, 0x302, 4, &ops, (void *)0x20, "b");
	assert_int_equal(in8(r, 0x301), 0x11);
	assert_int_equal(in8(r, 0x302), 0x20);
	assert_int_equal(bus_port_read(&r->bus, 0x302, 4), 0x20);
	assert_int_equal(bus_port_read(&r->bus, 0x304, 4), 0xffff2322); /* bytewise past the end */
	assert_int_equal(bus_port_read(&r->bus, 0x2ff, 2), 0x10ff);
	bus_move_port(&r->bus, b, 0x400, true);
	assert_int_equal(in8(r, 0x303), 0x13);
	assert_int_equal(in8(r, 0x403), 0x23);
	bus_move_port(&r->bus, a, 0x300, false);
	assert_int_equal(in8(r, 0x300), 0xff);
	bus_port_write(&r->bus, 0x400, 0xabcd, 2);
	assert_int_equal(written, 0x20 + 0xabcd00 + 0x2000000);
	assert_int_equal(bus_port_read(&r->bus, 0xffff, 4), 0xffffffff);
	int m = bus_add_mmio(&r->bus, 0xc0000000, 0x1000, &ops, NULL, "m");
	assert_int_equal(bus_mmio_read(&r->bus, 0xc0000ffc, 8), ~(u64)0);
	assert_int_equal(bus_mmio_read(&r->bus, 0xc0000ff8, 8), 0xff8);
	bus_move_mmio(&r->bus, m, 0xfffffffffffff000, true);
	assert_int_equal(bus_mmio_read(&r->bus, 0xfffffffffffffff8, 8), 0xff8);
	assert_int_equal(bus_mmio_read(&r->bus, 0xfffffffffffffffc, 8), ~(u64)0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		ROW(v_only_grows), ROW(v_stands_still_before_the_first_vcpu_runs), ROW(host_time_counts_only_while_all_vcpus_idle),
		ROW(a_late_wake_up_loses_the_excess), ROW(a_pause_takes_no_time), ROW(timers_fire_in_order_and_each_once_per_call),
		ROW(an_earlier_deadline_is_announced), ROW(threads_agree_on_v_and_no_timer_is_lost), ROW(a_reader_that_is_hardly_ahead_writes_nothing),
		ROW(time_that_was_read_is_published_before_it_is_passed), ROW(no_reader_undercuts_what_another_was_told), ROW(bus_windows_overlap_move_and_split),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
