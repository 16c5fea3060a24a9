/* virtio-mem: what is asked for is plugged and no more, what is unplugged leaves the memory file, rubbish is refused, a RESET unplugs everything. */
#include "virtio_driver.h"
#include "virtio/virtio_mem.h"
#include <sys/stat.h>

enum { SLOT = 6, REQ = 0x100000, RESP = 0x101000, PLUG = 0, UNPLUG = 1, UNPLUG_ALL = 2, STATE = 3, ACK = 0, NACK = 1, ERROR = 3 };
#define BASE (6 * GiB)
#define SIZE (140 * MiB) /* not a whole word of the bitmap */
#define BLOCK (2 * MiB)

static struct rig *r;
static struct vdrv d;
static struct virtio_mem *m;
static u16 state_seen;

static int setup(void **state)
{
	r = rig_create();
	mem_free(&r->mem);
	assert_int_equal(mem_init(&r->mem, RIG_RAM + SIZE), 0);
	assert_int_equal(mem_add_slot(&r->mem, gpa(0), RIG_RAM, MEM_RAM, "ram"), 0);
	assert_int_equal(mem_add_slot(&r->mem, gpa(BASE), SIZE, MEM_RAM, "ram-plugged"), 0);
	m = virtio_mem_create(r->pci, SLOT, BASE, SIZE);
	vdrv_start(&d, r, SLOT, 0, 1);
	return 0;
}

static int teardown(void **state)
{
	rig_check_save_load(r);
	rig_free(r);
	return 0;
}

static u64 file_bytes(void)
{
	struct stat st;

	assert_int_equal(fstat(r->mem.memfd, &st), 0);
	return (u64)st.st_blocks * 512;
}

static u64 config(unsigned off) { return bus_mmio_read(&r->bus, d.device + off, 4) | bus_mmio_read(&r->bus, d.device + off + 4, 4) << 32; }

/* Sends a request as it stands, `len` bytes of it, and returns the response's type. */
static u16 ask(u16 type, u64 addr, u16 blocks, u32 len)
{
	u32 head, used;

	mem_write_le(&r->mem, gpa(REQ), type, 8);
	mem_write_le(&r->mem, gpa(REQ + 8), addr, 8);
	mem_write_le(&r->mem, gpa(REQ + 16), blocks, 8);
	mem_write_le(&r->mem, gpa(RESP), 0x7777, 8);
	mem_write_le(&r->mem, gpa(RESP + 8), 0x7777, 2);
	vdrv_add(&d, 0, (struct vbuf[]){ { REQ, len, 0 }, { RESP, 10, VD_WRITE } }, 2);
	vdrv_kick(&d, 0);
	assert_true(vdrv_used(&d, 0, &head, &used));
	assert_int_equal(used, 10);
	state_seen = (u16)mem_read_le(&r->mem, gpa(RESP + 8), 2);
	return (u16)mem_read_le(&r->mem, gpa(RESP), 2);
}

static u16 do_blocks(u16 type, unsigned first, unsigned n) { return ask(type, BASE + first * BLOCK, (u16)n, 24); }

static void touch(unsigned block)
{
	for (u64 at = 0; at < BLOCK; at += PAGE_SIZE)
		mem_write_le(&r->mem, gpa(BASE + block * BLOCK + at), 0x55, 1);
}

static void the_configuration_says_what_there_is(void **state)
{
	unsigned msis = r->msis;

	assert_int_equal(config(0), BLOCK);
	assert_int_equal(config(16), BASE);
	assert_int_equal(config(24), SIZE);
	assert_int_equal(config(32), SIZE);
	assert_int_equal(config(40), 0);
	assert_int_equal(config(48), 0);
	virtio_mem_request(m, 10 * MiB + 5);
	assert_int_equal(config(48), 10 * MiB);
	assert_int_equal(r->msis, msis + 1);
	virtio_mem_request(m, 10 * MiB);
	assert_int_equal(r->msis, msis + 1);
	virtio_mem_request(m, ~0ull);
	assert_int_equal(config(48), SIZE);
	bus_mmio_write(&r->bus, d.device + 48, 1, 4); /* not the driver's to write */
	assert_int_equal(config(48), SIZE);
}

static void no_more_is_plugged_than_requested(void **state)
{
	struct virtio_mem_info info;

	assert_int_equal(do_blocks(PLUG, 0, 1), NACK);
	virtio_mem_request(m, 6 * MiB);
	assert_int_equal(do_blocks(PLUG, 0, 4), NACK);
	assert_int_equal(do_blocks(PLUG, 1, 2), ACK);
	assert_int_equal(do_blocks(PLUG, 5, 2), NACK);
	assert_int_equal(do_blocks(PLUG, 69, 1), ACK);
	assert_int_equal(do_blocks(PLUG, 0, 1), NACK);
	assert_int_equal(config(40), 6 * MiB);
	virtio_mem_request(m, 0); /* what is plugged stays until the guest unplugs it */
	virtio_mem_info(m, &info);
	assert_int_equal(info.plugged, 6 * MiB);
	assert_int_equal(info.requested, 0);
	assert_true(info.driver);
}

static void unplugged_blocks_leave_the_process(void **state)
{
	u64 before = file_bytes();

	virtio_mem_request(m, SIZE);
	assert_int_equal(do_blocks(PLUG, 0, 70), ACK);
	for (unsigned i = 0; i < 4; i++)
		touch(i);
	touch(69);
	assert_in_range(file_bytes() - before, 5 * BLOCK, 5 * BLOCK + 16 * PAGE_SIZE);
	assert_int_equal(do_blocks(UNPLUG, 1, 2), ACK);
	assert_in_range(file_bytes() - before, 3 * BLOCK, 3 * BLOCK + 16 * PAGE_SIZE);
	assert_int_equal(mem_read_le(&r->mem, gpa(BASE), 1), 0x55);
	assert_int_equal(mem_read_le(&r->mem, gpa(BASE + BLOCK), 1), 0);
	assert_int_equal(mem_read_le(&r->mem, gpa(BASE + 3 * BLOCK), 1), 0x55);
	assert_int_equal(config(40), 68 * BLOCK);
	assert_int_equal(ask(UNPLUG_ALL, 0, 0, 24), ACK);
	assert_in_range(file_bytes() - before, 0, 16 * PAGE_SIZE);
	assert_int_equal(config(40), 0);
}

static void the_state_of_blocks_is_told(void **state)
{
	virtio_mem_request(m, SIZE);
	assert_int_equal(do_blocks(PLUG, 62, 4), ACK);
	assert_int_equal(do_blocks(STATE, 62, 4), ACK);
	assert_int_equal(state_seen, 0);
	assert_int_equal(do_blocks(STATE, 66, 4), ACK);
	assert_int_equal(state_seen, 1);
	assert_int_equal(do_blocks(STATE, 0, 70), ACK);
	assert_int_equal(state_seen, 2);
}

static void what_breaks_the_rules_is_an_error_and_changes_nothing(void **state)
{
	virtio_mem_request(m, SIZE);
	assert_int_equal(do_blocks(PLUG, 8, 4), ACK);
	assert_int_equal(do_blocks(PLUG, 10, 4), ERROR);
	assert_int_equal(do_blocks(UNPLUG, 7, 2), ERROR);
	assert_int_equal(do_blocks(PLUG, 0, 0), ERROR);
	assert_int_equal(do_blocks(PLUG, 69, 2), ERROR);
	assert_int_equal(do_blocks(PLUG, 70, 1), ERROR);
	assert_int_equal(do_blocks(PLUG, 0, 0xffff), ERROR);
	assert_int_equal(do_blocks(STATE, 69, 2), ERROR);
	assert_int_equal(ask(PLUG, BASE + MiB, 1, 24), ERROR);
	assert_int_equal(ask(PLUG, BASE - BLOCK, 1, 24), ERROR);
	assert_int_equal(ask(PLUG, 0, 1, 24), ERROR);
	assert_int_equal(ask(PLUG, ~0ull - BLOCK + 1, 0xffff, 24), ERROR);
	assert_int_equal(ask(7, BASE, 1, 24), ERROR);
	assert_int_equal(ask(PLUG, BASE, 1, 12), ERROR);
	assert_int_equal(ask(UNPLUG_ALL, 0, 0, 1), ERROR);
	assert_int_equal(config(40), 4 * BLOCK);
}

static void a_device_reset_leaves_memory_plugged(void **state)
{
	virtio_mem_request(m, SIZE);
	assert_int_equal(do_blocks(PLUG, 0, 3), ACK);
	vdrv_start(&d, r, SLOT, 0, 1);
	assert_int_equal(config(40), 3 * BLOCK);
	assert_int_equal(do_blocks(UNPLUG, 0, 3), ACK);
}

static void loading_an_earlier_state_unplugs_and_drops(void **state)
{
	struct state_buf b = { 0 };
	size_t pos = 0;
	u64 before = file_bytes();

	dev_list_save(&r->devs, &b);
	virtio_mem_request(m, SIZE);
	assert_int_equal(do_blocks(PLUG, 63, 2), ACK);
	touch(63);
	touch(64);
	assert_int_equal(dev_list_load(&r->devs, &b, &pos), 0);
	state_buf_free(&b);
	assert_in_range(file_bytes() - before, 0, 16 * PAGE_SIZE);
	assert_int_equal(config(40), 0);
	assert_int_equal(config(48), 0);
}

static void plugged_blocks_are_saved_and_loaded(void **state)
{
	struct state_buf b = { 0 };
	size_t pos = 0;

	virtio_mem_request(m, 8 * BLOCK);
	assert_int_equal(do_blocks(PLUG, 62, 4), ACK);
	touch(63);
	dev_list_save(&r->devs, &b);
	assert_int_equal(ask(UNPLUG_ALL, 0, 0, 24), ACK);
	virtio_mem_request(m, 0);
	assert_int_equal(dev_list_load(&r->devs, &b, &pos), 0);
	state_buf_free(&b);
	assert_int_equal(config(40), 4 * BLOCK);
	assert_int_equal(config(48), 8 * BLOCK);
	assert_int_equal(do_blocks(STATE, 62, 4), ACK);
	assert_int_equal(state_seen, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_configuration_says_what_there_is), T(no_more_is_plugged_than_requested), T(unplugged_blocks_leave_the_process),
		T(the_state_of_blocks_is_told), T(what_breaks_the_rules_is_an_error_and_changes_nothing), T(a_device_reset_leaves_memory_plugged),
		T(loading_an_earlier_state_unplugs_and_drops), T(plugged_blocks_are_saved_and_loaded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
