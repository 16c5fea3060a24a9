/* dev/pflash: commands, blocks, what is shown and what is kept. */
#include "dev_rig.h"
#include "dev/pflash.h"
#include <errno.h>

enum { BASE = 0x80000000, SIZE = 0x10000, FRAME = 0x300 };

static struct rig *r;
static u64 stored_at, stored_len;
static unsigned stores;
static int store_result;

static int store(void *opaque, u64 at, const u8 *data, u64 len)
{
	stored_at = at;
	stored_len = len;
	stores++;
	return store_result;
}

static int setup(void **state)
{
	r = rig_create();
	assert_int_equal(mem_add_view(&r->mem, gpa(BASE), SIZE, FRAME, MEM_ROM, "flash"), 0);
	memset(r->mem.base + FRAME * PAGE_SIZE, 0xff, SIZE);
	r->mem.base[FRAME * PAGE_SIZE + 0x1234] = 0x5c;
	pflash_create(&r->bus, &r->devs, &(struct pflash_config){ "flash", BASE, SIZE, FRAME, store, NULL });
	stores = 0;
	store_result = 0;
	return 0;
}
static int teardown(void **state) { rig_free(r); return 0; }

static void put(u64 off, u8 v) { bus_mmio_write(&r->bus, BASE + off, v, 1); }
/* As a vCPU reads: memory where there is a slot, else the bus. */
static u8 get(u64 off)
{
	u8 v;
	return mem_read(&r->mem, gpa(BASE + off), &v, 1) ? (u8)bus_mmio_read(&r->bus, BASE + off, 1) : v;
}

/* The probe of EDK II's flash driver. */
static void ovmf_takes_it_for_flash(void **state)
{
	assert_int_equal(get(0x1234), 0x5c);
	put(0x1234, 0x50);
	assert_int_equal(get(0x1234), 0x5c); /* not RAM */
	put(0x1234, 0x70);
	assert_int_equal(get(0x1234), 0);    /* a cleared status */
	put(0x1234, 0xff);
	assert_int_equal(get(0x1234), 0x5c);
}

static void programming_clears_bits_and_erasing_a_block_sets_them(void **state)
{
	put(0x1234, 0x10);
	put(0x1234, 0x0f);
	assert_int_equal(get(0x1234), 0x80); /* status: ready */
	assert_int_equal(stores, 0);
	put(0, 0xff);
	assert_int_equal(get(0x1234), 0x5c & 0x0f);
	assert_int_equal(stores, 1);
	assert_int_equal(stored_at, 0x1000);
	assert_int_equal(stored_len, 0x1000);
	put(0x1000, 0x20);
	put(0x1000, 0xd0);
	put(0, 0xff);
	assert_int_equal(get(0x1234), 0xff);
	assert_int_equal(stores, 2);
}

static void an_erase_without_confirmation_is_an_error_and_erases_nothing(void **state)
{
	put(0x1000, 0x20);
	put(0x1000, 0x10);
	put(0, 0x70);
	assert_int_equal(get(0) & 0x30, 0x30);
	put(0, 0xff);
	assert_int_equal(get(0x1234), 0x5c);
	assert_int_equal(stores, 0);
}

static void a_file_that_cannot_be_written_is_a_program_error(void **state)
{
	store_result = -ENOSPC;
	put(0x1234, 0x40);
	put(0x1234, 0);
	put(0, 0xff);
	put(0, 0x70);
	assert_int_equal(get(0) & 0x10, 0x10);
}

static void what_is_saved_in_the_middle_of_a_command_goes_on(void **state)
{
	put(0x1234, 0x10);
	rig_check_save_load(r);
	put(0x1234, 0x50);
	put(0, 0xff);
	assert_int_equal(get(0x1234), 0x50);
}

static void restored_contents_are_kept_at_once(void **state)
{
	rig_check_save_load(r);
	assert_int_equal(stores, 1);
	assert_int_equal(stored_at, 0);
	assert_int_equal(stored_len, SIZE);
	put(0, 0x70);
	assert_int_equal(get(0) & 0x10, 0); /* and were no program error */
}

static void restored_contents_that_cannot_be_kept_are_no_error_of_the_guest(void **state)
{
	store_result = -ENOSPC;
	rig_check_save_load(r);
	put(0, 0x70);
	assert_int_equal(get(0) & 0x10, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(ovmf_takes_it_for_flash, setup, teardown),
		cmocka_unit_test_setup_teardown(programming_clears_bits_and_erasing_a_block_sets_them, setup, teardown),
		cmocka_unit_test_setup_teardown(an_erase_without_confirmation_is_an_error_and_erases_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_that_cannot_be_written_is_a_program_error, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_saved_in_the_middle_of_a_command_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(restored_contents_are_kept_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(restored_contents_that_cannot_be_kept_are_no_error_of_the_guest, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
