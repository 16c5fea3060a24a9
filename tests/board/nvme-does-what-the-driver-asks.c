/* NVMe commands against a real file, wrong ones included. */
#include "nvme_driver.h"
#include "dev/nvme.h"
#include "rig_disk.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SLOT = 4, SECTORS = 8192, BUF = ND_PAGE, LIST = ND_PAGE + 0x180000 };
enum { WRITE = 1, READ = 2, FLUSH = 0, ZEROES = 8, DATASET = 9 };

static struct rig *r;
static struct nvme_driver d;
static struct disk *disk;
static char path[64];

static void attach(const char *words)
{
	strcpy(path, "/tmp/nestbox-nvme-XXXXXX");
	int fd = mkstemp(path);

	assert_int_equal(ftruncate(fd, SECTORS * 512), 0);
	for (unsigned i = 0; i < SECTORS; i++)
		assert_int_equal(pwrite(fd, &i, sizeof(i), i * 512), sizeof(i));
	close(fd);
	r = rig_create();
	disk = rig_disk(path, words);
	nvme_create(r->pci, SLOT, &(struct nvme_config){ disk, "serial-of-the-disk" });
	nd_find(&d, r, SLOT);
	nd_enable(&d);
	assert_int_equal(nd_reg(&d, 0x1c, 4), 1);
	nd_queues(&d);
}

static int setup(void **state)
{
	attach("format=raw");
	return 0;
}

static int setup_read_only(void **state)
{
	attach("ro");
	return 0;
}

static int setup_pausing(void **state)
{
	attach("format=raw,on-error=pause");
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

static u32 file_word(unsigned sector)
{
	u32 v = 0;
	int fd = open(path, O_RDONLY);

	assert_int_equal(pread(fd, &v, 4, (off_t)sector * 512), 4);
	close(fd);
	return v;
}

static u32 word(u64 at) { return (u32)mem_read_le(&r->mem, gpa(at), 4); }
static u16 io(u8 op, u64 lba, u32 blocks, u64 prp1, u64 prp2) { return nd_do(&d, 1, op, 1, prp1, prp2, (u32)lba, (u32)(lba >> 32), blocks - 1); }

static void registers_read_as_the_specification_says(void **state)
{
	u64 cap = nd_reg(&d, 0, 8);

	assert_int_equal(cap & 0xffff, 1023);
	assert_int_equal(cap >> 37 & 1, 1);
	assert_int_equal(nd_reg(&d, 4, 4), cap >> 32);
	assert_int_equal(nd_reg(&d, 8, 4), 0x10400);
	assert_int_equal(cfg_get(r, SLOT, PCI_CLASS, 2), 0x0802);
	assert_int_equal(cfg_get(r, SLOT, PCI_CLASS + 2, 1), 1);
}

static void identify_tells_the_disk(void **state)
{
	assert_int_equal(nd_do(&d, 0, 6, 0, BUF, 0, 1, 0, 0), 0);
	char sn[21] = { 0 };

	mem_read(&r->mem, gpa(BUF + 4), sn, 20);
	assert_string_equal(sn, "serial-of-the-disk  ");
	assert_int_equal(word(BUF + 516), 1);
	assert_int_equal(nd_do(&d, 0, 6, 1, BUF, 0, 0, 0, 0), 0);
	assert_int_equal(mem_read_le(&r->mem, gpa(BUF), 8), SECTORS);
	assert_int_equal(mem_read_le(&r->mem, gpa(BUF + 130), 1), 9);
	assert_int_equal(nd_do(&d, 0, 6, 0, BUF, 0, 2, 0, 0), 0);
	assert_int_equal(word(BUF), 1);
	assert_int_equal(word(BUF + 4), 0);
	assert_int_equal(nd_do(&d, 0, 6, 1, BUF, 0, 3, 0, 0), 0);
	assert_int_equal(word(BUF), 0x1003);
	assert_int_equal(nd_do(&d, 0, 6, 0, BUF, 0, 0x77, 0, 0), 2);
}

static void transfers_follow_prp_entries(void **state)
{
	/* one page, at an offset in it */
	assert_int_equal(io(READ, 7, 2, BUF + 0x400, 0), 0);
	assert_int_equal(word(BUF + 0x400), 7);
	assert_int_equal(word(BUF + 0x600), 8);
	/* across two pages */
	assert_int_equal(io(READ, 16, 8, BUF + 0x800, BUF + 0x5000), 0);
	assert_int_equal(word(BUF + 0x800), 16);
	assert_int_equal(word(BUF + 0x5000), 20);
	/* a list, scattered backwards */
	for (unsigned i = 0; i < 31; i++)
		mem_write_le(&r->mem, gpa(LIST + 8 * i), BUF + 0x1000 * (40 - i), 8);
	assert_int_equal(io(READ, 100, 256, BUF, LIST), 0);
	for (unsigned i = 0; i < 31; i++)
		assert_int_equal(word(BUF + 0x1000 * (40 - i)), 108 + 8 * i);
	/* a list that goes on in another page, at MDTS exactly; and one block more */
	u64 at = LIST + 0x1000 - 16;

	mem_write_le(&r->mem, gpa(at), BUF + 0x1000, 8);
	mem_write_le(&r->mem, gpa(at + 8), LIST + 0x2000, 8);
	for (unsigned i = 0; i < 126; i++)
		mem_write_le(&r->mem, gpa(LIST + 0x2000 + 8 * i), BUF + 0x2000 + 0x1000 * i, 8);
	assert_int_equal(io(READ, 0, 1024, BUF, at), 0);
	for (unsigned i = 0; i < 1024; i++)
		assert_int_equal(word(BUF + 512 * i), i);
	assert_int_equal(io(READ, 0, 1025, BUF, at), 2);
}

static void wrong_prp_entries_are_errors(void **state)
{
	assert_int_equal(io(READ, 0, 1, BUF + 1, 0), 0x13);
	assert_int_equal(io(READ, 0, 16, BUF, BUF + 8), 0x13);
	assert_int_equal(io(READ, 0, 1, RIG_RAM, 0), 4);
	assert_int_equal(io(READ, 0, 1, ~(u64)0xfff, 0), 4);
	mem_write_le(&r->mem, gpa(LIST), BUF + 4, 8);
	assert_int_equal(io(READ, 0, 32, BUF, LIST), 0x13);
	assert_int_equal(io(READ, 0, 32, BUF, LIST + 4), 0x13);
	assert_int_equal(io(READ, 0, 32, BUF, RIG_RAM + 8), 4);
}

static void writes_flushes_and_zeroes_reach_the_file(void **state)
{
	mem_write_le(&r->mem, gpa(BUF), 0xdecade, 4);
	assert_int_equal(io(WRITE, 9, 1, BUF, 0), 0);
	assert_int_equal(file_word(9), 0xdecade);
	mem_write_le(&r->mem, gpa(BUF), 0xfacade, 4);
	assert_int_equal(nd_do(&d, 1, WRITE, 1, BUF, 0, 10, 0, 1u << 30), 0);
	assert_int_equal(file_word(10), 0xfacade);
	assert_int_equal(nd_do(&d, 1, FLUSH, 1, 0, 0, 0, 0, 0), 0);
	assert_int_equal(nd_do(&d, 1, FLUSH, ~0u, 0, 0, 0, 0, 0), 0);
	assert_int_equal(io(ZEROES, 20, 2, 0, 0), 0);
	assert_int_equal(file_word(20), 0);
	assert_int_equal(file_word(21), 0);
	assert_int_equal(file_word(22), 22);
	for (unsigned i = 0; i < 3; i++) {
		mem_write_le(&r->mem, gpa(BUF + 16 * i), 0, 4);
		mem_write_le(&r->mem, gpa(BUF + 16 * i + 4), 8, 4);
		mem_write_le(&r->mem, gpa(BUF + 16 * i + 8), 64 + 16 * i, 8);
	}
	assert_int_equal(nd_do(&d, 1, DATASET, 1, BUF, 0, 2, 4, 0), 0);
	assert_int_equal(file_word(63), 63);
	mem_write_le(&r->mem, gpa(BUF + 16 + 8), SECTORS, 8);
	assert_int_equal(nd_do(&d, 1, DATASET, 1, BUF, 0, 2, 4, 0), 0x80);
}

static void commands_beyond_the_end_or_unknown_fail(void **state)
{
	assert_int_equal(io(READ, SECTORS, 1, BUF, 0), 0x80);
	assert_int_equal(io(READ, SECTORS - 1, 2, BUF, 0), 0x80);
	assert_int_equal(io(WRITE, ~(u64)0, 1, BUF, 0), 0x80);
	assert_int_equal(nd_do(&d, 1, READ, 2, BUF, 0, 0, 0, 0), 0x0b);
	assert_int_equal(nd_do(&d, 1, 0x55, 1, BUF, 0, 0, 0, 0), 1);
	assert_int_equal(nd_do(&d, 0, 0x55, 1, BUF, 0, 0, 0, 0), 1);
}

static void queues_are_checked(void **state)
{
	assert_int_equal(nd_do(&d, 0, 5, 0, nd_cq(1), 0, 7 << 16 | 1, 3, 0), 0x101);
	assert_int_equal(nd_do(&d, 0, 5, 0, nd_cq(1), 0, 7 << 16 | 9, 3, 0), 0x101);
	assert_int_equal(nd_do(&d, 0, 5, 0, nd_cq(1), 0, 2000u << 16 | 3, 3, 0), 0x102);
	assert_int_equal(nd_do(&d, 0, 5, 0, nd_cq(1), 0, 7 << 16 | 3, 99 << 16 | 3, 0), 0x108);
	assert_int_equal(nd_do(&d, 0, 5, 0, nd_cq(1) + 8, 0, 7 << 16 | 3, 3, 0), 0x13);
	assert_int_equal(nd_do(&d, 0, 1, 0, nd_sq(1), 0, 7 << 16 | 3, 5 << 16 | 1, 0), 0x100);
	assert_int_equal(nd_do(&d, 0, 4, 0, 0, 0, 1, 0, 0), 0x10c);
	assert_int_equal(nd_do(&d, 0, 0, 0, 0, 0, 7, 0, 0), 0x101);
	assert_int_equal(nd_do(&d, 0, 0, 0, 0, 0, 1, 0, 0), 0);
	assert_int_equal(nd_do(&d, 0, 4, 0, 0, 0, 1, 0, 0), 0);
}

static void features_and_logs(void **state)
{
	struct nvme_result res;

	nd_post(&d, 0, 9, 0, 0, 0, (u32[6]){ 7, 0x00ff00ff });
	nd_ring(&d, 0);
	res = nd_take(&d, 0, 2000);
	assert_int_equal(res.status, 0);
	assert_int_equal(res.dw0, 0x00070007);
	nd_post(&d, 0, 10, 0, 0, 0, (u32[6]){ 6 });
	nd_ring(&d, 0);
	assert_int_equal(nd_take(&d, 0, 2000).dw0, 1);
	assert_int_equal(nd_do(&d, 0, 9, 0, 0, 0, 6, 0, 0), 0);
	assert_int_equal(io(WRITE, 9, 1, BUF, 0), 0);
	assert_int_equal(nd_do(&d, 0, 9, 0, 0, 0, 0x99, 0, 0), 2);
	assert_int_equal(nd_do(&d, 0, 2, ~0u, BUF, 0, 127 << 16 | 2, 0, 0), 0);
	assert_int_equal(mem_read_le(&r->mem, gpa(BUF + 3), 1), 100);
	assert_int_equal(nd_do(&d, 0, 2, ~0u, BUF, 0, 127 << 16 | 0x70, 0, 0), 0x109);
	/* four events may be asked for, and none comes */
	for (unsigned i = 0; i < 4; i++) {
		nd_post(&d, 0, 12, 0, 0, 0, (u32[6]){ 0 });
		nd_ring(&d, 0);
		assert_false(nd_take(&d, 0, 0).came);
	}
	assert_int_equal(nd_do(&d, 0, 12, 0, 0, 0, 0, 0, 0), 0x105);
}

/* Completions that the driver does not take stop the queue, and taking them lets it go on. */
static void a_full_completion_queue_holds_commands_back(void **state)
{
	for (unsigned i = 0; i < 7; i++)
		nd_post(&d, 1, FLUSH, 1, 0, 0, (u32[6]){ 0 });
	nd_ring(&d, 1);
	dev_list_quiesce(&r->devs);
	for (unsigned i = 0; i < 3; i++)
		nd_post(&d, 1, FLUSH, 1, 0, 0, (u32[6]){ 0 });
	nd_ring(&d, 1);
	dev_list_quiesce(&r->devs);
	for (unsigned i = 0; i < 10; i++)
		assert_true(nd_take(&d, 1, 2000).came);
	assert_false(nd_take(&d, 1, 0).came);
}

static void a_read_only_disk_refuses_writes(void **state)
{
	assert_int_equal(nd_do(&d, 0, 6, 1, BUF, 0, 0, 0, 0), 0);
	assert_int_equal(mem_read_le(&r->mem, gpa(BUF + 99), 1), 1);
	assert_int_equal(io(WRITE, 0, 1, BUF, 0), 0x20);
	assert_int_equal(io(ZEROES, 0, 1, BUF, 0), 0x20);
	assert_int_equal(nd_do(&d, 1, DATASET, 1, BUF, 0, 0, 4, 0), 0x20);
	assert_int_equal(io(READ, 3, 1, BUF, 0), 0);
	assert_int_equal(word(BUF), 3);
}

static void a_reset_in_mid_flight_forgets_commands(void **state)
{
	for (unsigned round = 0; round < 100; round++) {
		for (unsigned i = 0; i < 5; i++)
			nd_post(&d, 1 + i % 2, i & 1 ? FLUSH : WRITE, 1, BUF, 0, (u32[6]){ i });
		nd_ring(&d, 1);
		nd_ring(&d, 2);
		if (round & 1)
			assert_int_equal(nd_do(&d, 0, 0, 0, 0, 0, 1, 0, 0), 0); /* deletes queue 1 */
		nd_set(&d, 0x14, 0x460000, 4);
		assert_int_equal(nd_reg(&d, 0x1c, 4), 0);
		nd_enable(&d);
		nd_queues(&d);
		assert_int_equal(io(READ, 5, 1, BUF, 0), 0);
	}
}

static void shutdown_flushes_and_says_so(void **state)
{
	nd_set(&d, 0x14, 0x464001, 4);
	for (unsigned i = 0; i < 2000 && (nd_reg(&d, 0x1c, 4) & 0xc) != 8; i++)
		usleep(1000);
	assert_int_equal(nd_reg(&d, 0x1c, 4), 9);
}

static void a_controller_set_up_wrongly_reports_a_fatal_status(void **state)
{
	nd_set(&d, 0x14, 0, 4);
	nd_set(&d, 0x14, 0x460081, 4); /* pages of 8 KiB */
	assert_int_equal(nd_reg(&d, 0x1c, 4), 2);
	nd_ring(&d, 0);
	assert_int_equal(nd_reg(&d, 0x1c, 4), 2);
}

static void without_msix_the_pin_follows_the_queues(void **state)
{
	unsigned cap = cfg_find_cap(r, SLOT, PCI_CAP_MSIX, 0), line = 16 + pci_pirq(SLOT, 0);

	cfg_set(r, SLOT, cap + 2, 0, 2);
	nd_post(&d, 1, READ, 1, BUF, 0, (u32[6]){ 0 });
	nd_ring(&d, 1);
	dev_list_quiesce(&r->devs);
	assert_int_equal(r->level[line], 1);
	nd_set(&d, 0x0c, 1u << 1, 4);
	assert_int_equal(r->level[line], 0);
	nd_set(&d, 0x10, 1u << 1, 4);
	assert_int_equal(r->level[line], 1);
	assert_true(nd_take(&d, 1, 2000).came);
	assert_int_equal(r->level[line], 0);
}

static unsigned pauses;
static void on_pause(void *opaque, struct disk *x, const char *text) { __atomic_fetch_add(&pauses, 1, __ATOMIC_SEQ_CST); }

/* The image shrinks behind our back; the state is saved meanwhile and loaded into the same machine: nothing is lost. */
static void held_commands_are_part_of_the_state(void **state)
{
	struct state_buf b = { 0 };
	size_t pos = 0;

	pauses = 0;
	disk_set_pause(disk, on_pause, NULL);
	assert_int_equal(truncate(path, 4096), 0);
	for (unsigned i = 0; i < 3; i++)
		nd_post(&d, 1, READ, 1, BUF + 0x1000 * i, 0, (u32[6]){ 100 + i });
	nd_ring(&d, 1);
	for (unsigned i = 0; i < 2000 && !__atomic_load_n(&pauses, __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	dev_list_quiesce(&r->devs);
	dev_list_save(&r->devs, &b);
	assert_false(nd_take(&d, 1, 0).came);
	int fd = open(path, O_RDWR);

	for (unsigned i = 8; i < SECTORS; i++)
		assert_int_equal(pwrite(fd, &i, sizeof(i), i * 512), sizeof(i));
	assert_int_equal(ftruncate(fd, SECTORS * 512), 0);
	close(fd);
	dev_list_quiesce(&r->devs);
	bus_lock(&r->bus);
	assert_int_equal(dev_list_load(&r->devs, &b, &pos), 0);
	bus_unlock(&r->bus);
	for (unsigned i = 0; i < 3; i++) {
		struct nvme_result res = nd_take(&d, 1, 2000);

		assert_true(res.came);
		assert_int_equal(res.status, 0);
	}
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(word(BUF + 0x1000 * i), 100 + i);
	state_buf_free(&b);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(registers_read_as_the_specification_says), T(identify_tells_the_disk), T(transfers_follow_prp_entries), T(wrong_prp_entries_are_errors),
		T(writes_flushes_and_zeroes_reach_the_file), T(commands_beyond_the_end_or_unknown_fail), T(queues_are_checked), T(features_and_logs),
		T(a_full_completion_queue_holds_commands_back),
		cmocka_unit_test_setup_teardown(a_read_only_disk_refuses_writes, setup_read_only, teardown),
		T(a_reset_in_mid_flight_forgets_commands), T(shutdown_flushes_and_says_so), T(a_controller_set_up_wrongly_reports_a_fatal_status),
		T(without_msix_the_pin_follows_the_queues),
		cmocka_unit_test_setup_teardown(held_commands_are_part_of_the_state, setup_pausing, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
