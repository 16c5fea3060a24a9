/* The balloon: pages given to it leave the memory file, statistics come when asked for, the wish is in the configuration. */
#include "virtio_driver.h"
#include "virtio/virtio_balloon.h"
#include <sys/stat.h>

enum { SLOT = 6, BUF = 0x100000, PAGES = 0x200000 };

static struct rig *r;
static struct vdrv d;
static struct virtio_balloon *b;
static unsigned stats_came;
static u64 actual;

static void came(void *opaque) { stats_came++; }
static void changed(void *opaque, u64 bytes) { actual = bytes; }

static int setup(void **state)
{
	r = rig_create();
	b = virtio_balloon_create(r->pci, SLOT, &(struct virtio_balloon_config){ came, changed, NULL });
	stats_came = 0;
	actual = 0;
	vdrv_start(&d, r, SLOT, BIT(1) | BIT(2) | BIT(5), 5);
	memset(mem_ptr(&r->mem, gpa(BUF), 0x1000), 1, 0x1000);
	memset(mem_ptr(&r->mem, gpa(PAGES), 0x100000), 0xaa, 0x100000);
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

static u8 first_byte(unsigned page) { return *(u8 *)mem_ptr(&r->mem, gpa(PAGES + page * PAGE_SIZE), 1); }

static void inflate(const u32 *pfn, unsigned n, unsigned queue)
{
	u32 head, len;

	mem_write(&r->mem, gpa(BUF), pfn, n * 4);
	vdrv_add(&d, queue, &(struct vbuf){ BUF, n * 4, 0 }, 1);
	vdrv_kick(&d, queue);
	assert_true(vdrv_used(&d, queue, &head, &len));
}

static void inflated_pages_leave_the_process(void **state)
{
	u64 before = file_bytes();
	u32 p = PAGES / PAGE_SIZE;

	inflate((u32[]){ p, p + 1, p + 2, p + 9, p + 8, p + 7, p + 20 }, 7, 0);
	assert_int_equal(before - file_bytes(), 7 * PAGE_SIZE);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(first_byte(i), i < 3 || (i >= 7 && i <= 9) || i == 20 ? 0 : 0xaa);
}

static void pages_that_are_no_memory_are_ignored(void **state)
{
	u64 before = file_bytes();

	inflate((u32[]){ 0xffffffff, 0xfffffffe, 0, 0xfee00 }, 4, 0);
	assert_in_range(file_bytes(), before - PAGE_SIZE, before);
}

static void deflating_touches_nothing(void **state)
{
	inflate((u32[]){ PAGES / PAGE_SIZE }, 1, 1);
	assert_int_equal(first_byte(0), 0xaa);
}

static void reported_pages_leave_on_either_queue_number(void **state)
{
	u32 head, len;
	u64 before = file_bytes();
	struct virtio_balloon_info info;

	for (unsigned q = 3; q <= 4; q++) {
		vdrv_add(&d, q, (struct vbuf[]){ { PAGES + q * 0x10000, 0x8000, VD_WRITE }, { PAGES + q * 0x10000 + 0xa000, 0x1000, VD_WRITE } }, 2);
		vdrv_kick(&d, q);
		assert_true(vdrv_used(&d, q, &head, &len));
	}
	assert_int_equal(before - file_bytes(), 2 * 9 * PAGE_SIZE);
	virtio_balloon_info(b, &info);
	assert_int_equal(info.reported, 2 * 9 * PAGE_SIZE);
}

static void the_wish_is_told_and_the_answer_heard(void **state)
{
	struct virtio_balloon_info info;
	unsigned msis = r->msis;

	virtio_balloon_set_target(b, 1 * MiB + 5);
	assert_int_equal(bus_mmio_read(&r->bus, d.device, 4), 256);
	assert_int_equal(r->msis, msis + 1);
	bus_mmio_write(&r->bus, d.device + 4, 77, 4);
	assert_int_equal(actual, 77 * PAGE_SIZE);
	virtio_balloon_info(b, &info);
	assert_int_equal(info.actual, 77 * PAGE_SIZE);
	assert_int_equal(info.target, 1 * MiB);
	assert_true(info.driver);
	bus_mmio_write(&r->bus, d.device, 1, 4); /* not the driver's to write */
	assert_int_equal(bus_mmio_read(&r->bus, d.device, 4), 256);
}

static void statistics_come_when_asked(void **state)
{
	struct virtio_balloon_info info;
	u32 head, len;

	assert_false(virtio_balloon_ask_stats(b));
	mem_write_le(&r->mem, gpa(BUF), BALLOON_FREE, 2);
	mem_write_le(&r->mem, gpa(BUF + 2), 123456, 8);
	mem_write_le(&r->mem, gpa(BUF + 10), 999, 2);
	mem_write_le(&r->mem, gpa(BUF + 12), 1, 8);
	vdrv_add(&d, 2, &(struct vbuf){ BUF, 20, 0 }, 1);
	vdrv_kick(&d, 2);
	assert_int_equal(stats_came, 1);
	assert_false(vdrv_used(&d, 2, &head, &len));
	virtio_balloon_info(b, &info);
	assert_int_equal(info.stats_valid, 1u << BALLOON_FREE);
	assert_int_equal(info.stat[BALLOON_FREE], 123456);
	rig_check_save_load(r);
	assert_true(virtio_balloon_ask_stats(b));
	assert_true(vdrv_used(&d, 2, &head, &len));
	assert_false(virtio_balloon_ask_stats(b));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(inflated_pages_leave_the_process), T(pages_that_are_no_memory_are_ignored), T(deflating_touches_nothing),
		T(reported_pages_leave_on_either_queue_number), T(the_wish_is_told_and_the_answer_heard), T(statistics_come_when_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
