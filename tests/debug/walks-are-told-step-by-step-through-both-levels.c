/* debug/space.c: what nestbox explain says of an address, and what a debugger reads through it. */
#include "debug/space.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>

static struct mem mem;

enum { PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, PT = 0x4000, EPT4 = 0x10000, EPT3 = 0x11000, EPT2 = 0x12000, EPT1 = 0x13000, DATA = 0x20000 };

static void put(u64 at, unsigned n, u64 v) { mem_write_le(&mem, gpa(at + 8 * n), v, 8); }

static int setup(void **state)
{
	assert_int_equal(mem_init(&mem, 1 * MiB), 0);
	assert_int_equal(mem_add_slot(&mem, gpa(0), 1 * MiB, MEM_RAM, "ram"), 0);
	put(PML4, 0, PDPT | 7);
	put(PDPT, 0, PD | 7);
	put(PD, 0, PT | 7);
	put(PT, 5, DATA | 0x63);
	put(PT, 6, (DATA + PAGE_SIZE) | 0x63);
	put(PT, 8, 0xf0000000 | 3); /* no memory there */
	put(PD, 1, 0x80 | 3);       /* 2 MiB at 0 */
	return 0;
}
static int teardown(void **state)
{
	mem_free(&mem);
	return 0;
}

static const struct debug_space l1 = { .cr0 = CR0_PE | CR0_PG, .cr3 = PML4, .cr4 = CR4_PAE, .efer = EFER_LMA | EFER_LME, .level = 1 };

static bool say(const struct debug_space *s, u64 la, u64 *at, char *text, size_t size)
{
	FILE *out = fmemopen(text, size, "w");
	bool ok = debug_translate(&mem, s, la, at, out);
	fclose(out);
	return ok;
}

static void each_entry_is_named_with_its_bits(void **state)
{
	char text[4096] = "";
	u64 at = 0;
	assert_true(say(&l1, 0x5123, &at, text, sizeof text));
	assert_int_equal(at, DATA + 0x123);
	assert_non_null(strstr(text, "the PML4 entry at 0x1000 is 0x2007: present, writable, user"));
	assert_non_null(strstr(text, "the page-table entry at 0x4028 is 0x20063: present, writable, supervisor, accessed, dirty"));
	assert_non_null(strstr(text, "L1-physical 0x20123 is RAM (ram)"));
	assert_true(say(&l1, 0x212345, &at, text, sizeof text));
	assert_int_equal(at, 0x12345);
	assert_non_null(strstr(text, "large page"));
}

static void a_walk_that_ends_says_where(void **state)
{
	char text[4096] = "";
	u64 at;
	assert_false(say(&l1, 0x7000, &at, text, sizeof text));
	assert_non_null(strstr(text, "the page-table entry at 0x4038 is 0x0: not present"));
	assert_true(say(&l1, 0x8000, &at, text, sizeof text));
	assert_non_null(strstr(text, "is no memory"));
}

static void a_nested_walk_goes_through_ept(void **state)
{
	struct debug_space l2 = l1;
	char text[4096] = "";
	u64 at = 0;
	put(EPT4, 0, EPT3 | 7);
	put(EPT3, 0, EPT2 | 7);
	put(EPT2, 0, EPT1 | 7);
	for (unsigned i = 1; i <= 4; i++)
		put(EPT1, i, i * PAGE_SIZE | 7);
	l2.eptp = EPT4 | 0x5e;
	l2.level = 2;
	assert_false(say(&l2, 0x5123, &at, text, sizeof text)); /* DATA's page is not mapped */
	assert_non_null(strstr(text, "the EPT page-table entry at 0x13100 is 0x0: not present"));
	assert_non_null(strstr(text, "EPT violation"));
	put(EPT1, DATA / PAGE_SIZE, 0x30000 | 5);
	assert_true(say(&l2, 0x5123, &at, text, sizeof text));
	assert_int_equal(at, 0x30123);
	assert_non_null(strstr(text, "r-x"));
	put(EPT1, DATA / PAGE_SIZE, 0x30000 | 2);
	assert_false(say(&l2, 0x5123, &at, text, sizeof text));
	assert_non_null(strstr(text, "EPT misconfiguration"));
	put(EPT1, 3, 0); /* a paging structure that EPT does not map */
	assert_false(say(&l2, 0x5123, &at, text, sizeof text));
	assert_non_null(strstr(text, "the page-directory entry would be at 0x3000, which EPT does not map"));
}

static void older_paging_modes_have_their_own_shape(void **state)
{
	struct debug_space s = { .cr0 = CR0_PE, .level = 1 };
	u64 at;
	assert_true(debug_translate(&mem, &s, 0x12345, &at, NULL));
	assert_int_equal(at, 0x12345);
	s = (struct debug_space){ .cr0 = CR0_PE | CR0_PG, .cr3 = 0x40000, .cr4 = CR4_PSE, .level = 1 };
	mem_write_le(&mem, gpa(0x40000 + 4 * 1), 0x41003, 4);
	mem_write_le(&mem, gpa(0x41000 + 4 * 2), DATA | 3, 4);
	mem_write_le(&mem, gpa(0x40000 + 4 * 2), 0x83 | 1 << 13, 4); /* 4 MiB at 1_00000000 by PSE-36 */
	assert_true(debug_translate(&mem, &s, 0x402044, &at, NULL));
	assert_int_equal(at, DATA + 0x44);
	assert_true(debug_translate(&mem, &s, 0x800044, &at, NULL));
	assert_int_equal(at, 0x100000044ull);
	s.cr4 = CR4_PAE;
	s.cr3 = 0x42020;
	put(0x42020, 1, PD | 1); /* PDPT of four entries, anywhere on 32 bytes */
	assert_true(debug_translate(&mem, &s, 0x40005010, &at, NULL));
	assert_int_equal(at, DATA + 0x10);
}

static void reads_and_writes_cross_pages_and_stop_where_mapping_does(void **state)
{
	char text[64] = { 0 };
	mem_write(&mem, gpa(DATA + PAGE_SIZE - 4), "abcdefgh", 8);
	assert_int_equal(debug_read(&mem, &l1, 0x5ffc, text, 8), 8);
	assert_string_equal(text, "abcdefgh");
	assert_int_equal(debug_read(&mem, &l1, 0x6ff8, text, 64), 8);
	assert_int_equal(debug_write(&mem, &l1, 0x5ffe, "XY12", 4), 4);
	mem_read(&mem, gpa(DATA + PAGE_SIZE - 4), text, 8);
	assert_memory_equal(text, "abXY12gh", 8);
	assert_int_equal(debug_write(&mem, &l1, 0x8000, "x", 1), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = { T(each_entry_is_named_with_its_bits), T(a_walk_that_ends_says_where), T(a_nested_walk_goes_through_ept),
					    T(older_paging_modes_have_their_own_shape), T(reads_and_writes_cross_pages_and_stop_where_mapping_does) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
