/* Block requests against a real file, errors included; and what the host says about bad images. */
#include "virtio_driver.h"
#include "virtio/virtio_blk.h"
#include "rig_disk.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SLOT = 4, HDR = 0x100000, DATA = 0x101000, STATUS = 0x100800, SECTORS = 256 };
enum { OK = 0, IOERR = 1, UNSUPP = 2 };

static struct rig *r;
static struct vdrv d;
static struct virtio_blk *b;
static struct disk *disk;
static char path[64];

static void make_image(size_t bytes)
{
	strcpy(path, "/tmp/nestbox-blk-XXXXXX");
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	for (unsigned i = 0; i < bytes / 512; i++)
		assert_int_equal(pwrite(fd, &i, sizeof(i), i * 512), sizeof(i));
	close(fd);
}

static void attach_words(const char *words, unsigned queues)
{
	struct virtio_blk_config cfg = { .queues = queues, .id = "serial-0123456789-abcdef" };

	make_image(SECTORS * 512);
	r = rig_create();
	disk = cfg.disk = rig_disk(path, words);
	b = virtio_blk_create(r->pci, SLOT, &cfg);
	assert_non_null(b);
	vdrv_start(&d, r, SLOT, VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX, queues);
}

static void attach(bool read_only, unsigned queues) { attach_words(read_only ? "ro" : "format=raw", queues); }

static int setup(void **state)
{
	attach(false, 1);
	return 0;
}

static int setup_two_queues(void **state)
{
	attach(false, 2);
	return 0;
}

static int setup_read_only(void **state)
{
	attach(true, 2);
	return 0;
}

static int teardown(void **state)
{
	rig_check_save_load(r);
	rig_free(r);
	disk_close(disk);
	unlink(path);
	return 0;
}

static void post(unsigned q, u32 type, u64 sector, u64 addr, u32 len, bool in)
{
	struct vbuf buf[3] = { { HDR, 16, 0 }, { addr, len, in ? VD_WRITE : 0 }, { STATUS, 1, VD_WRITE } };

	mem_write_le(&r->mem, gpa(HDR), type, 8);
	mem_write_le(&r->mem, gpa(HDR + 8), sector, 8);
	mem_write_le(&r->mem, gpa(STATUS), 0xee, 1);
	if (len == 0)
		buf[1] = buf[2];
	vdrv_add(&d, q, buf, len ? 3 : 2);
	vdrv_kick(&d, q);
}

static u8 request_on(unsigned q, u32 type, u64 sector, u64 addr, u32 len, bool in, u32 *used)
{
	u32 head, n;

	post(q, type, sector, addr, len, in);
	assert_true(vdrv_wait_used(&d, q, &head, &n));
	if (used)
		*used = n;
	return (u8)mem_read_le(&r->mem, gpa(STATUS), 1);
}

static u8 request(u32 type, u64 sector, u32 len, bool in, u32 *used)
{
	return request_on(0, type, sector, DATA, len, in, used);
}

static u32 file_word(unsigned sector)
{
	u32 v = 0;
	int fd = open(path, O_RDONLY);

	assert_int_equal(pread(fd, &v, 4, sector * 512), 4);
	close(fd);
	return v;
}

static void configuration_tells_size_and_limits(void **state)
{
	assert_int_equal(bus_mmio_read(&r->bus, d.device, 8), SECTORS);
	assert_int_equal(bus_mmio_read(&r->bus, d.device + 20, 4), 512);
	assert_int_equal(bus_mmio_read(&r->bus, d.device + 12, 4), 254);
	assert_true(vdrv_offered(&d) & BIT(9));
	assert_int_equal(cfg_get(r, SLOT, PCI_CLASS, 2), 0x0000);
	assert_int_equal(cfg_get(r, SLOT, PCI_CLASS + 2, 1), 1);
}

static void reads_bring_the_file_into_memory(void **state)
{
	u32 used;

	assert_int_equal(request(0, 7, 1024, true, &used), OK);
	assert_int_equal(used, 1025);
	assert_int_equal(mem_read_le(&r->mem, gpa(DATA), 4), 7);
	assert_int_equal(mem_read_le(&r->mem, gpa(DATA + 512), 4), 8);
	/* the worker signals after it has published the used element */
	for (unsigned i = 0; i < 1000 && !__atomic_load_n(&r->msis, __ATOMIC_RELAXED); i++)
		usleep(1000);
	assert_int_equal(r->msi_data[r->msis % 16], 0x40);
}

static void writes_reach_the_file(void **state)
{
	u32 used;

	mem_write_le(&r->mem, gpa(DATA), 0xdecade, 4);
	assert_int_equal(request(1, 9, 512, false, &used), OK);
	assert_int_equal(used, 1);
	assert_int_equal(file_word(9), 0xdecade);
	assert_int_equal(request(4, 0, 0, false, NULL), OK);
}

static void requests_beyond_the_end_fail(void **state)
{
	assert_int_equal(request(0, SECTORS - 1, 512, true, NULL), OK);
	assert_int_equal(request(0, SECTORS - 1, 1024, true, NULL), IOERR);
	assert_int_equal(request(0, SECTORS, 512, true, NULL), IOERR);
	assert_int_equal(request(0, ~(u64)0, 512, true, NULL), IOERR);
	assert_int_equal(request(1, (u64)1 << 55, 512, false, NULL), IOERR);
	assert_int_equal(request(0, 0, 511, true, NULL), IOERR);
}

static void the_serial_number_is_cut_at_20_bytes(void **state)
{
	char id[20];

	assert_int_equal(request(8, 0, 20, true, NULL), OK);
	mem_read(&r->mem, gpa(DATA), id, 20);
	assert_memory_equal(id, "serial-0123456789-abcdef", 20);
	assert_int_equal(request(8, 0, 4, true, NULL), OK);
}

static void unknown_requests_are_unsupported(void **state)
{
	assert_int_equal(request(77, 0, 512, true, NULL), UNSUPP);
}

static void range(u64 sector, u32 sectors, u32 flags)
{
	mem_write_le(&r->mem, gpa(DATA), sector, 8);
	mem_write_le(&r->mem, gpa(DATA + 8), sectors, 4);
	mem_write_le(&r->mem, gpa(DATA + 12), flags, 4);
}

static void zeroes_and_discards_work_on_ranges(void **state)
{
	range(20, 2, 0);
	assert_int_equal(request(13, 0, 16, false, NULL), OK);
	assert_int_equal(file_word(20), 0);
	assert_int_equal(file_word(22), 22);
	range(30, 1, 1);
	assert_int_equal(request(13, 0, 16, false, NULL), OK);
	assert_int_equal(file_word(30), 0);
	range(40, 8, 0);
	assert_int_equal(request(11, 0, 16, false, NULL), OK);
	range(40, 8, 1);
	assert_int_equal(request(11, 0, 16, false, NULL), UNSUPP);
	range(SECTORS, 1, 0);
	assert_int_equal(request(13, 0, 16, false, NULL), IOERR);
	range(~(u64)0, 1, 0);
	assert_int_equal(request(13, 0, 16, false, NULL), IOERR);
	range(0, 1, 0);
	assert_int_equal(request(13, 0, 15, false, NULL), IOERR);
	assert_int_equal(request(13, 0, 17 * 16, false, NULL), IOERR);
	assert_int_equal(request(13, 0, 0, false, NULL), IOERR);
}

static void a_read_only_disk_refuses_writes(void **state)
{
	assert_true(vdrv_offered(&d) & BIT(5));
	assert_false(vdrv_offered(&d) & BIT(13));
	assert_int_equal(request(1, 0, 512, false, NULL), IOERR);
	assert_int_equal(request(13, 0, 16, false, NULL), IOERR);
	assert_int_equal(request_on(1, 0, 3, DATA, 512, true, NULL), OK);
	assert_int_equal(mem_read_le(&r->mem, gpa(DATA), 4), 3);
}

/* 2 x 64 flushes against a pool of 64 requests, all posted before the first is looked for. */
static void more_requests_than_the_device_holds_are_all_served(void **state)
{
	u32 head, len;

	vdrv_set_common(&d, 0x14, 0, 1);
	vdrv_negotiate(&d, VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX);
	vdrv_queue(&d, 0, 128);
	vdrv_queue(&d, 1, 128);
	vdrv_set_common(&d, 0x14, 0x0f, 1);
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < 128; i++)
			post(i & 1, 4, 0, 0, 0, false);
		for (unsigned i = 0; i < 128; i++)
			assert_true(vdrv_wait_used(&d, i & 1, &head, &len));
	}
}

static void a_request_without_status_breaks_the_device(void **state)
{
	vdrv_add(&d, 0, (struct vbuf[]){ { HDR, 16, 0 }, { DATA, 512, 0 } }, 2);
	vdrv_kick(&d, 0);
	assert_true(vdrv_status(&d) & VIRTIO_S_NEEDS_RESET);
}

static void a_short_header_breaks_the_device(void **state)
{
	vdrv_add(&d, 0, (struct vbuf[]){ { HDR, 15, 0 }, { STATUS, 1, VD_WRITE } }, 2);
	vdrv_kick(&d, 0);
	assert_true(vdrv_status(&d) & VIRTIO_S_NEEDS_RESET);
}

static void a_reset_in_mid_flight_forgets_requests(void **state)
{
	u32 head, len;

	for (unsigned round = 0; round < 300; round++) {
		for (unsigned i = 0; i < 5; i++)
			post(0, 0, i, DATA, 4096, true);
		vdrv_set_common(&d, 0x14, 0, 1);
		assert_int_equal(vdrv_status(&d), 0);
		u16 used = (u16)mem_read_le(&r->mem, gpa(d.q[0].used + 2), 2);

		mem_write_le(&r->mem, gpa(DATA), 0x1234, 4);
		usleep(round % 16 == 0 ? 1000 : 0);
		assert_int_equal(mem_read_le(&r->mem, gpa(d.q[0].used + 2), 2), used);
		assert_int_equal(mem_read_le(&r->mem, gpa(DATA), 4), 0x1234);
		vdrv_start(&d, r, SLOT, 0, 1);
		post(0, 0, 5, DATA, 512, true);
		assert_true(vdrv_wait_used(&d, 0, &head, &len));
		assert_false(vdrv_used(&d, 0, &head, &len));
	}
}

static void quiesce_leaves_nothing_in_flight(void **state)
{
	u32 head, len;

	for (unsigned i = 0; i < 5; i++)
		post(0, 0, i, DATA, 4096, true);
	dev_list_quiesce(&r->devs);
	for (unsigned i = 0; i < 5; i++)
		assert_true(vdrv_used(&d, 0, &head, &len));
}

static void a_file_that_shrank_gives_io_errors(void **state)
{
	assert_int_equal(truncate(path, 512), 0);
	assert_int_equal(request(0, 10, 512, true, NULL), IOERR);
	assert_int_equal(request(0, 0, 512, true, NULL), OK);
}

static int setup_pausing(void **state)
{
	attach_words("format=raw,on-error=pause", 1);
	return 0;
}

static unsigned pauses;
static void on_pause(void *opaque, struct disk *x, const char *text) { __atomic_fetch_add(&pauses, 1, __ATOMIC_SEQ_CST); }

/* The image shrinks behind our back, so that reads are held; the state is saved meanwhile. */
static void held_requests_are_part_of_the_state(void **state)
{
	struct state_buf a = { 0 };
	size_t pos = 0;
	u32 head, len;

	pauses = 0;
	disk_set_pause(disk, on_pause, NULL);
	assert_int_equal(truncate(path, 4096), 0);
	post(0, 0, 100, DATA, 512, true);
	for (unsigned i = 0; i < 2000 && !__atomic_load_n(&pauses, __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	dev_list_quiesce(&r->devs);
	assert_int_equal(b->regs.held_count, 1);
	dev_list_save(&r->devs, &a);
	assert_false(vdrv_used(&d, 0, &head, &len));
	int fd = open(path, O_RDWR);
	u32 word = 100;

	assert_int_equal(ftruncate(fd, SECTORS * 512), 0);
	assert_int_equal(pwrite(fd, &word, sizeof(word), 100 * 512), sizeof(word));
	close(fd);
	bus_lock(&r->bus);
	assert_int_equal(dev_list_load(&r->devs, &a, &pos), 0);
	bus_unlock(&r->bus);
	assert_true(vdrv_wait_used(&d, 0, &head, &len));
	assert_int_equal(mem_read_le(&r->mem, gpa(DATA), 4), 100);
	assert_int_equal(mem_read_le(&r->mem, gpa(STATUS), 1), OK);
	assert_false(vdrv_used(&d, 0, &head, &len));
	state_buf_free(&a);
}

/* A driver's reset takes held requests back, and the next driver starts afresh. */
static void a_reset_forgets_held_requests(void **state)
{
	pauses = 0;
	disk_set_pause(disk, on_pause, NULL);
	assert_int_equal(truncate(path, 4096), 0);
	for (unsigned i = 0; i < 4; i++)
		post(0, 0, 100 + i, DATA, 512, true);
	for (unsigned i = 0; i < 2000 && !__atomic_load_n(&pauses, __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	vdrv_set_common(&d, 0x14, 0, 1);
	assert_int_equal(disk_held(disk, b), 0);
	vdrv_start(&d, r, SLOT, 0, 1);
	assert_int_equal(request(0, 3, 512, true, NULL), OK);
}

static int try_open(const char *text)
{
	struct disk *x = NULL;
	int err = rig_disk_open(&x, text);

	disk_close(x);
	return err;
}

static void bad_images_are_refused(void **state)
{
	struct disk *f, *g;
	char ro[80];

	assert_int_equal(try_open("/nonexistent/disk"), -ENOENT);
	assert_int_equal(try_open("/tmp:ro"), -EINVAL);
	assert_int_equal(try_open("/dev/null"), -EINVAL);
	make_image(513);
	assert_int_equal(try_open(path), -EINVAL);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(try_open(path), -EINVAL);
	assert_int_equal(truncate(path, 1024), 0);
	snprintf(ro, sizeof(ro), "%s:ro", path);
	assert_int_equal(rig_disk_open(&f, path), 0);
	assert_int_equal(try_open(ro), -EAGAIN);
	assert_int_equal(try_open(path), -EAGAIN);
	disk_close(f);
	assert_int_equal(rig_disk_open(&f, ro), 0);
	assert_int_equal(rig_disk_open(&g, ro), 0);
	assert_int_equal(try_open(path), -EAGAIN);
	disk_close(f);
	disk_close(g);
	unlink(path);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(configuration_tells_size_and_limits), T(reads_bring_the_file_into_memory), T(writes_reach_the_file),
		T(requests_beyond_the_end_fail), T(the_serial_number_is_cut_at_20_bytes), T(unknown_requests_are_unsupported),
		T(zeroes_and_discards_work_on_ranges),
		cmocka_unit_test_setup_teardown(a_read_only_disk_refuses_writes, setup_read_only, teardown),
		cmocka_unit_test_setup_teardown(more_requests_than_the_device_holds_are_all_served, setup_two_queues, teardown),
		T(a_request_without_status_breaks_the_device),
		T(a_short_header_breaks_the_device), T(a_reset_in_mid_flight_forgets_requests), T(quiesce_leaves_nothing_in_flight),
		cmocka_unit_test_setup_teardown(held_requests_are_part_of_the_state, setup_pausing, teardown),
		cmocka_unit_test_setup_teardown(a_reset_forgets_held_requests, setup_pausing, teardown),
		T(a_file_that_shrank_gives_io_errors), cmocka_unit_test(bad_images_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
