/* mem/: slots, copies, tracking, laziness. */
#include "mem/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

static struct mem m;

static int open_two(void **state)
{
	assert_int_equal(mem_init(&m, 3 * MiB), 0);
	assert_int_equal(mem_add_slot(&m, gpa(4 * GiB), MiB, MEM_RAM, "high"), 0);
	assert_int_equal(mem_add_slot(&m, gpa(0), MiB, MEM_RAM, "low"), 0);
	assert_int_equal(mem_add_slot(&m, gpa(MiB), 64 * KiB, MEM_ROM, "rom"), 0);
	return 0;
}
static int close_all(void **state) { mem_free(&m); return 0; }

static void slots_are_sorted_and_do_not_overlap(void **state)
{
	assert_int_equal(m.nslots, 3);
	assert_string_equal(m.slots[0].name, "high"); /* biggest first, so that page walks find RAM at once */
	assert_string_equal(m.slots[1].name, "low");
	assert_string_equal(m.slots[2].name, "rom");
	assert_int_equal(m.slots[0].frame, 0);
	assert_int_equal(mem_add_slot(&m, gpa(MiB - PAGE_SIZE), 2 * PAGE_SIZE, MEM_RAM, "x"), -EEXIST);
	assert_int_equal(mem_add_slot(&m, gpa(8 * GiB), MiB, MEM_RAM, "x"), -ENOSPC);
	assert_int_equal(mem_frame(&m, gpa(0x5000)), 256 + 5);
	assert_int_equal(mem_frame(&m, gpa(2 * GiB)), -1);
	assert_null(mem_slot_at(&m, gpa(4 * GiB + MiB)));
	assert_null(mem_ptr(&m, gpa(4 * GiB + MiB - 4), 5));
	assert_non_null(mem_ptr(&m, gpa(4 * GiB + MiB - 4), 4));
	assert_null(mem_ptr(&m, gpa(~0ull - 3), 8));
	assert_null(mem_ptr(&m, gpa(0), ~0ull));
}

static void copies_cross_slots_or_do_nothing(void **state)
{
	u8 buf[64], back[64];
	memset(buf, 0xab, sizeof buf);
	assert_int_equal(mem_write(&m, gpa(MiB - 32), buf, 64), -EFAULT); /* runs into the ROM */
	assert_int_equal(mem_read_le(&m, gpa(MiB - 8), 8), 0);
	assert_int_equal(mem_read(&m, gpa(MiB - 32), back, 64), 0);
	assert_int_equal(mem_read(&m, gpa(MiB + 64 * KiB - 32), back, 64), -EFAULT);
	assert_int_equal(mem_write(&m, gpa(~0ull - 8), buf, 64), -EFAULT);
	assert_int_equal(mem_write(&m, gpa(100), buf, 64), 0);
	assert_int_equal(mem_read(&m, gpa(100), back, 64), 0);
	assert_memory_equal(buf, back, 64);
}

static void what_is_loaded_is_there_and_tracked(void **state)
{
	static u8 buf[3 * PAGE_SIZE], back[sizeof buf];
	for (unsigned i = 0; i < sizeof buf; i++)
		buf[i] = (u8)(i * 7 + i / 256);
	assert_int_equal(mem_load(&m, gpa(MiB - 32), buf, 64), -EFAULT); /* runs into the ROM: nothing of it */
	assert_int_equal(mem_read_le(&m, gpa(MiB - 8), 8), 0);
	assert_int_equal(mem_load(&m, gpa(0x8123), buf, sizeof buf), 0); /* pages begun, whole, and ended */
	assert_int_equal(mem_read(&m, gpa(0x8123), back, sizeof buf), 0);
	assert_memory_equal(buf, back, sizeof buf);
	assert_int_equal(mem_read_le(&m, gpa(0x8122), 1), 0);
	assert_int_equal(mem_read_le(&m, gpa(0x8123 + sizeof buf), 1), 0);
	mem_dirty_take(&m, NULL);
	assert_int_equal(mem_load(&m, gpa(0xa000), buf, 1), 0);
	assert_true(m.dirty[(256 + 10) / 64] & bit((256 + 10) % 64));
	m.dirty_log = false;
}

static void a_file_is_loaded_as_what_was_read_of_it(void **state)
{
	static u8 buf[5 * PAGE_SIZE + 100], back[sizeof buf];
	FILE *f = tmpfile();
	for (unsigned i = 0; i < sizeof buf; i++)
		buf[i] = (u8)(i * 13 + i / 256);
	assert_int_equal(fwrite(buf, 1, sizeof buf, f), sizeof buf);
	fflush(f);
	assert_int_equal(mem_load_file(&m, gpa(MiB - 32), fileno(f), 0, 64), -EINVAL); /* runs into the ROM */
	assert_int_equal(mem_read_le(&m, gpa(MiB - 8), 8), 0);
	for (unsigned off = 0; off < 2 * PAGE_SIZE; off += 1000) {
		u64 at = 0x8000 + 17 * off, len = sizeof buf - off;
		mem_dirty_take(&m, NULL);
		assert_int_equal(mem_load_file(&m, gpa(at), fileno(f), off, len), 0);
		assert_int_equal(mem_read(&m, gpa(at), back, len), 0);
		assert_memory_equal(buf + off, back, len);
		u64 last = 256 + (at + len - 1) / PAGE_SIZE;
		assert_true(m.dirty[last / 64] & bit(last % 64));
	}
	m.dirty_log = false;
	assert_int_equal(ftruncate(fileno(f), 2 * PAGE_SIZE), 0);
	assert_int_equal(mem_load_file(&m, gpa(0x8000), fileno(f), 0, sizeof buf), -EIO);
	assert_int_equal(mem_load_file(&m, gpa(0x8000), -1, 0, 100), -EIO);
	fclose(f);
}

static void holes_read_as_ones_and_swallow_writes(void **state)
{
	assert_int_equal(mem_read_le(&m, gpa(2 * GiB), 4), 0xffffffff);
	assert_int_equal(mem_read_le(&m, gpa(2 * GiB), 8), ~0ull);
	mem_write_le(&m, gpa(2 * GiB), 1, 8);
	mem_write_le(&m, gpa(MiB), 1, 8);
	assert_int_equal(mem_read_le(&m, gpa(MiB), 8), 0);
	mem_write_le(&m, gpa(4 * GiB + MiB - 2), 0x11223344, 4); /* half of it */
	assert_int_equal(mem_read_le(&m, gpa(4 * GiB + MiB - 2), 4), 0xffff3344);
	mem_write_le(&m, gpa(3), 0x0807060504030201ull, 8);
	assert_int_equal(mem_read_le(&m, gpa(4), 2), 0x0302);
}

static struct { unsigned n; u64 frame; unsigned first, last; } heard;
static void hear(void *opaque, u64 frame, unsigned first, unsigned last)
{
	heard.n++;
	heard.frame = frame;
	heard.first = first;
	heard.last = last;
}

static void writes_to_code_lines_reach_listeners(void **state)
{
	memset(&heard, 0, sizeof heard);
	assert_int_equal(mem_add_listener(&m, (struct mem_listener){ hear, NULL }), 0);
	u64 f = mem_frame(&m, gpa(0x3000));
	m.code_lines[f] = bit(0) | bit(10);
	mem_write_le(&m, gpa(0x3040), 1, 8);
	assert_int_equal(heard.n, 0);
	mem_write_le(&m, gpa(0x303f), 1, 1);
	assert_int_equal(heard.n, 1);
	u8 page[3 * 4096] = { 0 };
	assert_int_equal(mem_write(&m, gpa(0x2000), page, sizeof page), 0);
	assert_int_equal(heard.n, 2);
	assert_int_equal(heard.frame, f);
	assert_int_equal(heard.first, 0);
	assert_int_equal(heard.last, 63);
}

static void dirty_pages_are_logged_while_asked(void **state)
{
	u64 f = mem_frame(&m, gpa(0x7000));
	mem_write_le(&m, gpa(0x7000), 1, 8);
	assert_false(m.dirty[f / 64] & bit(f % 64));
	m.dirty_log = true;
	mem_write_le(&m, gpa(0x7ffc), 1, 8); /* two pages */
	assert_true(m.dirty[f / 64] & bit(f % 64));
	assert_true(m.dirty[(f + 1) / 64] & bit((f + 1) % 64));
}

static long rss_kib(void)
{
	long size, rss;
	FILE *f = fopen("/proc/self/statm", "r");
	assert_int_equal(fscanf(f, "%ld %ld", &size, &rss), 2);
	fclose(f);
	return rss * 4;
}

static void untouched_memory_costs_nothing(void **state)
{
	struct mem big;
	long before = rss_kib();
	assert_int_equal(mem_init(&big, 64 * GiB), 0);
	assert_int_equal(mem_add_slot(&big, gpa(0), 64 * GiB, MEM_RAM, "ram"), 0);
	for (u64 at = 0; at < 64 * GiB; at += 4 * GiB)
		mem_write_le(&big, gpa(at), 1, 8);
	assert_true(rss_kib() - before < 4096);
	mem_free(&big);
}

static void impossible_sizes_are_refused(void **state)
{
	struct mem bad;
	assert_int_equal(mem_init(&bad, 0), -EINVAL);
	assert_int_equal(mem_init(&bad, 4097), -EINVAL);
	assert_int_equal(mem_init(&bad, ~0ull & PAGE_MASK), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(slots_are_sorted_and_do_not_overlap, open_two, close_all),
		cmocka_unit_test_setup_teardown(copies_cross_slots_or_do_nothing, open_two, close_all),
		cmocka_unit_test_setup_teardown(what_is_loaded_is_there_and_tracked, open_two, close_all),
		cmocka_unit_test_setup_teardown(a_file_is_loaded_as_what_was_read_of_it, open_two, close_all),
		cmocka_unit_test_setup_teardown(holes_read_as_ones_and_swallow_writes, open_two, close_all),
		cmocka_unit_test_setup_teardown(writes_to_code_lines_reach_listeners, open_two, close_all),
		cmocka_unit_test_setup_teardown(dirty_pages_are_logged_while_asked, open_two, close_all),
		cmocka_unit_test(untouched_memory_costs_nothing),
		cmocka_unit_test(impossible_sizes_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
