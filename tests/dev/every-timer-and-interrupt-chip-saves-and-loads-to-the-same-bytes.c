#include "test.h"
#include <stdlib.h>

static u32 seed = 1;
static u32 rnd(void) { return seed = seed * 1664525 + 1013904223, seed >> 8; }

/* Random but plausible use of everything, so that no register keeps its reset value. */
static void shake(struct rig *r)
{
	static const u16 ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x70, 0x71 };
	for (unsigned i = 0; i < 3000; i++) {
		unsigned n = rnd() % RIG_CPUS;
		switch (rnd() % 6) {
		case 0: out8(r, ports[rnd() % array_len(ports)], (u8)rnd()); break;
		case 1: in8(r, ports[rnd() % array_len(ports)]); break;
		case 2: wr32(r, HPET_BASE + (rnd() & 0x1fc), rnd()); break;
		case 3: ioapic_wr(r, rnd() & 0x3f, rnd()); break;
		case 4: apic_wr(r, n, rnd() & 0x3f, rnd()); break;
		case 5: rig_run(r, rnd() & 0xfffff); apic_ack(r, n); break;
		}
	}
}

/* Chips compute lazily: make them bring their registers up to the present. */
static void touch(struct rig *r)
{
	in8(r, 0x40);
	in8(r, 0x71);
	rd32(r, HPET_BASE);
	for (unsigned i = 0; i < RIG_CPUS; i++)
		apic_rd(r, i, LAPIC_TIMER_COUNT);
}

TEST(rows_cover_every_byte_exactly_once)
{
	unsigned with_state = 0;
	for (unsigned i = 0; i < r->devs.count; i++) {
		const struct state_desc *d = r->devs.item[i].desc;
		if (!d)
			continue;
		u32 sum = 0;
		for (u32 k = 0; k < d->nrows; k++)
			sum += d->rows[k].size * d->rows[k].count;
		assert_int_equal(sum, d->size);
		with_state++;
	}
	assert_int_equal(with_state, 3 + RIG_CPUS + 3); /* lines, 8259, IOAPIC; local APICs; HPET, 8254, RTC */
}

TEST(save_load_save_is_identical)
{
	for (unsigned round = 0; round < 20; round++) {
		shake(r);
		struct state_buf a = { 0 }, b = { 0 };
		struct clock_regs now;
		clock_get_regs(&r->clock, &now);
		dev_list_save(&r->devs, &a);
		struct rig *other = rig_create();
		clock_set_regs(&other->clock, &now);
		for (unsigned i = 0; i < RIG_CPUS; i++)
			other->cpu[i]->arch.apic_base = r->cpu[i]->arch.apic_base;
		size_t pos = 0;
		assert_int_equal(dev_list_load(&other->devs, &a, &pos), 0);
		assert_int_equal(pos, a.len);
		dev_list_save(&other->devs, &b);
		assert_int_equal(a.len, b.len);
		assert_memory_equal(a.data, b.data, a.len);
		state_buf_free(&a);
		state_buf_free(&b);
		rig_free(other);
	}
}

/* The copy goes on exactly as the original does: derived timers and lines were rebuilt. */
TEST(a_loaded_machine_runs_on_like_the_original)
{
	for (unsigned round = 0; round < 20; round++) {
		shake(r);
		struct state_buf a = { 0 }, b = { 0 };
		struct clock_regs now;
		struct rig *other = rig_create();
		clock_get_regs(&r->clock, &now);
		dev_list_save(&r->devs, &a);
		clock_set_regs(&other->clock, &now);
		for (unsigned i = 0; i < RIG_CPUS; i++)
			other->cpu[i]->arch.apic_base = r->cpu[i]->arch.apic_base;
		size_t pos = 0;
		assert_int_equal(dev_list_load(&other->devs, &a, &pos), 0);
		a.len = 0;
		for (unsigned i = 0; i < 50; i++) {
			u64 ns = rnd() & 0xfffff;
			rig_run(r, ns);
			rig_run(other, ns);
			for (unsigned n = 0; n < RIG_CPUS; n++)
				assert_int_equal(apic_ack(r, n), apic_ack(other, n));
		}
		touch(r);
		touch(other);
		dev_list_save(&r->devs, &a);
		dev_list_save(&other->devs, &b);
		assert_memory_equal(a.data, b.data, a.len);
		state_buf_free(&a);
		state_buf_free(&b);
		rig_free(other);
	}
}

TEST(reset_of_everything_is_repeatable)
{
	struct state_buf a = { 0 }, b = { 0 };
	shake(r);
	dev_list_reset(&r->devs);
	dev_list_reset(&r->devs);
	dev_list_save(&r->devs, &a);
	dev_list_reset(&r->devs);
	dev_list_save(&r->devs, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	state_buf_free(&a);
	state_buf_free(&b);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		ROW(rows_cover_every_byte_exactly_once), ROW(save_load_save_is_identical), ROW(a_loaded_machine_runs_on_like_the_original),
		ROW(reset_of_everything_is_repeatable),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
