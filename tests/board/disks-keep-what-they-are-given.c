/* Every kind of disk against a plain array: random requests, checkpoints, reopening. And what is refused. */
#include "dev_rig.h"
#include "host/disk_layer.h"
#include "rig_disk.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BYTES = 1 << 20, SECTORS = BYTES / 512 };

static char folder[64], image[128];
static u8 model[BYTES], got[BYTES];
static u64 seed;

static u32 rnd(u32 n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (u32)(seed >> 33) % n;
}

static int setup(void **state)
{
	strcpy(folder, "/tmp/nestbox-disks-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(image, sizeof(image), "%s/a,b.img", folder); /* a name with a comma */
	int fd = open(image, O_RDWR | O_CREAT, 0600);

	for (unsigned i = 0; i < BYTES; i++)
		model[i] = (u8)(i / 512 + i);
	assert_int_equal(pwrite(fd, model, BYTES, 0), BYTES);
	close(fd);
	seed = 1;
	return 0;
}

static int teardown(void **state)
{
	char cmd[100];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", folder);
	return system(cmd);
}

static const char *in_folder(const char *name)
{
	static char path[4][128];
	static unsigned n;

	n = (n + 1) % 4;
	snprintf(path[n], sizeof(path[n]), "%s/%s", folder, name);
	return path[n];
}

static struct disk *open_with(const char *words)
{
	char twice[160];
	struct disk *d;

	snprintf(twice, sizeof(twice), "%s/a,,b.img", folder);
	d = rig_disk(twice, words);
	assert_int_equal(disk_size(d), BYTES);
	return d;
}

static void check_all(struct disk *d)
{
	memset(got, 0xa5, BYTES);
	assert_int_equal(rig_disk_do(d, DISK_READ, 0, got, BYTES), 0);
	assert_memory_equal(got, model, BYTES);
}

/* As a device does it, or always by a worker. */
static void transfer(struct disk *d, enum disk_op op, u32 at, u8 *buf, u32 len)
{
	if (rnd(2) && rig_disk_at_once(d, op, at, buf, len))
		return;
	assert_int_equal(rig_disk_do(d, op, at, buf, len), 0);
}

static void one_random(struct disk *d)
{
	static u8 buf[64 * 512];
	u32 sectors = 1 + rnd(rnd(4) ? 16 : 64), at = rnd(SECTORS - sectors + 1) * 512, len = sectors * 512;

	switch (rnd(6)) {
	case 0:
	case 1:
	case 2:
		for (u32 i = 0; i < len; i++)
			buf[i] = (u8)rnd(256);
		transfer(d, DISK_WRITE, at, buf, len);
		memcpy(model + at, buf, len);
		break;
	case 3:
		transfer(d, DISK_READ, at, buf, len);
		assert_memory_equal(buf, model + at, len);
		break;
	case 4:
		assert_int_equal(rig_disk_do(d, DISK_WRITE_ZEROES, at, NULL, len), 0);
		memset(model + at, 0, len);
		break;
	case 5:
		assert_int_equal(rig_disk_do(d, DISK_FLUSH, 0, NULL, 0), 0);
		break;
	}
}

static void run_random(struct disk *d, unsigned n)
{
	while (n--)
		one_random(d);
	check_all(d);
}

static void a_raw_disk_keeps_its_data(void **state)
{
	struct disk *d = open_with("format=auto");

	check_all(d);
	run_random(d, 500);
	disk_close(d);
	d = open_with("ro");
	check_all(d);
	assert_int_equal(rig_disk_do(d, DISK_WRITE, 0, got, 512), -EROFS);
	disk_close(d);
}

static void small_writes_need_no_worker(void **state)
{
	static u8 buf[128 << 10];
	struct disk_counters c;
	struct disk *d = open_with("format=raw");

	memset(buf, 0x5a, sizeof(buf));
	assert_true(rig_disk_at_once(d, DISK_WRITE, 4096, buf, 4096));
	memcpy(model + 4096, buf, 4096);
	assert_false(rig_disk_at_once(d, DISK_WRITE, 0, buf, sizeof(buf)));
	assert_false(rig_disk_at_once(d, DISK_WRITE, BYTES - 512, buf, 1024));
	assert_false(rig_disk_at_once(d, DISK_WRITE, 1, buf, 512));
	assert_false(rig_disk_at_once(d, DISK_FLUSH, 0, NULL, 0));
	disk_get_counters(d, &c);
	assert_int_equal(c.writes, 1);
	assert_int_equal(c.write_bytes, 4096);
	check_all(d);
	disk_close(d);
	d = open_with("ro");
	assert_false(rig_disk_at_once(d, DISK_WRITE, 0, buf, 512));
	check_all(d);
	disk_close(d);
}

static void requests_that_make_no_sense_fail(void **state)
{
	struct disk *d = open_with("format=raw");

	assert_int_equal(rig_disk_do(d, DISK_READ, BYTES, got, 512), -EINVAL);
	assert_int_equal(rig_disk_do(d, DISK_READ, BYTES - 512, got, 1024), -EINVAL);
	assert_int_equal(rig_disk_do(d, DISK_WRITE, 1, got, 512), -EINVAL);
	assert_int_equal(rig_disk_do(d, DISK_WRITE, 0, got, 511), -EINVAL);
	assert_int_equal(rig_disk_do(d, DISK_DISCARD, ~(u64)511, NULL, 1024), -EINVAL);
	disk_close(d);
}

static void snapshot_throws_writes_away(void **state)
{
	static u8 before[BYTES];
	struct disk *d = open_with("snapshot=on");

	memcpy(before, model, BYTES);
	assert_false(disk_read_only(d));
	run_random(d, 300);
	assert_true(memcmp(before, model, BYTES) != 0);
	disk_close(d);
	memcpy(model, before, BYTES);
	d = open_with("ro");
	check_all(d);
	disk_close(d);
}

static void overlays_stack_and_come_back(void **state)
{
	static u8 at_start[BYTES], at_freeze[BYTES];
	char words[400];
	struct disk *d;

	memcpy(at_start, model, BYTES);
	snprintf(words, sizeof(words), "overlay=%s", in_folder("one"));
	d = open_with(words);
	run_random(d, 200);
	memcpy(at_freeze, model, BYTES);
	assert_int_equal(disk_freeze(d, open(in_folder("two"), O_RDWR | O_CREAT, 0600)), 0);
	assert_int_equal(disk_overlays(d), 2);
	check_all(d);
	run_random(d, 200);
	disk_close(d);
	snprintf(words, sizeof(words), "overlay=%s,overlay=%s", in_folder("one"), in_folder("two"));
	d = open_with(words);
	check_all(d);
	run_random(d, 100);
	/* back to the checkpoint, on a new branch */
	int fd[2] = { open(in_folder("one"), O_RDWR), -1 };

	assert_int_equal(disk_set_overlays(d, fd, 1), 0);
	memcpy(model, at_freeze, BYTES);
	check_all(d);
	assert_int_equal(disk_freeze(d, open(in_folder("three"), O_RDWR | O_CREAT, 0600)), 0);
	run_random(d, 100);
	disk_close(d);
	memcpy(model, at_start, BYTES);
	d = open_with("ro");
	check_all(d);
	disk_close(d);
	memcpy(model, at_freeze, BYTES);
	snprintf(words, sizeof(words), "overlay=%s", in_folder("one"));
	d = open_with(words);
	check_all(d);
	disk_close(d);
}

static int open_error(const char *words)
{
	char text[600];
	struct disk *d = NULL;
	int err;

	snprintf(text, sizeof(text), "%s/a,,b.img,%s", folder, words);
	err = rig_disk_open(&d, text);
	disk_close(d);
	return err;
}

static void overlays_that_do_not_belong_are_refused(void **state)
{
	char words[400];
	struct disk *d;

	snprintf(words, sizeof(words), "overlay=%s", in_folder("one"));
	disk_close(open_with(words));
	snprintf(words, sizeof(words), "overlay=%s,overlay=%s", in_folder("one"), in_folder("two"));
	disk_close(open_with(words));
	/* the second without the first */
	snprintf(words, sizeof(words), "overlay=%s", in_folder("two"));
	assert_int_equal(open_error(words), -EINVAL);
	snprintf(words, sizeof(words), "overlay=%s,overlay=%s", in_folder("two"), in_folder("one"));
	assert_int_equal(open_error(words), -EINVAL);
	/* something else */
	snprintf(words, sizeof(words), "overlay=%s", "/bin/true");
	assert_true(open_error(words) < 0);
	/* a flipped bit in every byte of the header, and a truncated file */
	snprintf(words, sizeof(words), "overlay=%s", in_folder("one"));
	for (unsigned i = 0; i < 88; i++) {
		int fd = open(in_folder("one"), O_RDWR);
		u8 c;

		assert_int_equal(pread(fd, &c, 1, i), 1);
		c ^= 0x10;
		assert_int_equal(pwrite(fd, &c, 1, i), 1);
		assert_int_equal(open_error(words), -EINVAL);
		c ^= 0x10;
		assert_int_equal(pwrite(fd, &c, 1, i), 1);
		close(fd);
	}
	d = open_with(words);
	int bad = open("/bin/true", O_RDONLY);

	assert_int_equal(disk_set_overlays(d, &bad, 1), -EINVAL);
	check_all(d);
	disk_close(d);
	assert_int_equal(truncate(in_folder("one"), 100000), 0);
	assert_int_equal(open_error(words), -EINVAL);
	assert_int_equal(open_error("overlay=x,ro"), -EINVAL);
}

static void *absorb_number_2(void *opaque)
{
	static const bool never;

	return (void *)(intptr_t)disk_absorb(disk_overlay_number(opaque, 2), open(in_folder("three"), O_RDWR | O_CLOEXEC), &never);
}

static void freeze_as(struct disk *d, const char *name) { assert_int_equal(disk_freeze(d, open(in_folder(name), O_RDWR | O_CREAT, 0600)), 0); }

/* Four overlays with random contents. */
static struct disk *four_overlays(void)
{
	char words[200];

	snprintf(words, sizeof(words), "overlay=%s", in_folder("one"));
	struct disk *d = open_with(words);

	run_random(d, 150);
	freeze_as(d, "two");
	run_random(d, 150);
	freeze_as(d, "three");
	run_random(d, 50);
	freeze_as(d, "four");
	run_random(d, 30);
	return d;
}

static struct disk *open_list(const char *const *list)
{
	char words[600] = "";

	for (; *list; list++)
		snprintf(words + strlen(words), sizeof(words) - strlen(words), "%soverlay=%s", *words ? "," : "", in_folder(*list));
	return open_with(words);
}

static void overlays_absorb_those_below(void **state)
{
	const char *const all[] = { "one", "two", "three", "four", NULL }, *const less[] = { "one", "three", "four", NULL };
	struct disk *d = four_overlays();
	pthread_t t;
	void *err;

	/* beside requests, in a disk that stands on it */
	assert_int_equal(pthread_create(&t, NULL, absorb_number_2, d), 0);
	for (unsigned i = 0; i < 200; i++)
		one_random(d);
	pthread_join(t, &err);
	assert_ptr_equal(err, NULL);
	check_all(d);
	disk_skip(d, 2);
	assert_int_equal(disk_overlays(d), 3);
	run_random(d, 100);
	disk_close(d);
	d = open_list(all); /* killed before the lists were written: both still fit */
	check_all(d);
	disk_close(d);
	assert_int_equal(unlink(in_folder("two")), 0);
	d = open_list(less);
	run_random(d, 50);
	/* again, into the one that is being written, as a disk that was opened with it */
	int fd = open(in_folder("four"), O_RDWR | O_CLOEXEC);
	static const bool never;

	assert_int_equal(disk_absorb(disk_overlay_number(d, 2), fd, &never), 0);
	disk_skip(d, 2);
	run_random(d, 100);
	disk_close(d);
	const char *const two_left[] = { "one", "four", NULL }, *const wrong[] = { "four", NULL };

	d = open_list(two_left);
	check_all(d);
	disk_close(d);
	char words[200];

	snprintf(words, sizeof(words), "overlay=%s", in_folder(wrong[0]));
	assert_int_equal(open_error(words), -EINVAL);
	/* as files, with the lowest */
	int below = open(in_folder("one"), O_RDONLY), upper = open(in_folder("four"), O_RDWR);

	assert_int_equal(disk_overlay_absorb_files(-1, below, upper, &never), 0);
	close(below);
	close(upper);
	d = open_list(two_left);
	check_all(d);
	disk_close(d);
	d = open_list(wrong);
	check_all(d);
	disk_close(d);
	/* a flipped bit in what version 2 adds */
	for (unsigned i = 88; i < 112; i++) {
		int file = open(in_folder("four"), O_RDWR);
		u8 c;

		assert_int_equal(pread(file, &c, 1, i), 1);
		c ^= 0x10;
		assert_int_equal(pwrite(file, &c, 1, i), 1);
		assert_int_equal(open_error(words), -EINVAL);
		c ^= 0x10;
		assert_int_equal(pwrite(file, &c, 1, i), 1);
		close(file);
	}
}

/* kill -9 at some moment of it, again and again, until one comes through. */
static void absorbing_may_end_anywhere(void **state)
{
	const char *const all[] = { "one", "two", "three", "four", NULL }, *const less[] = { "one", "three", "four", NULL };
	static const bool never;
	int status = -1;

	disk_close(four_overlays());
	for (unsigned round = 0; round < 60 && status; round++) {
		pid_t pid = fork();

		if (!pid) {
			int base = open(in_folder("one"), O_RDONLY), below = open(in_folder("two"), O_RDONLY), upper = open(in_folder("three"), O_RDWR);
			_exit(disk_overlay_absorb_files(base, below, upper, &never) ? 1 : 0);
		}
		usleep(round * round * 20);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		assert_true(!WIFEXITED(status) || !WEXITSTATUS(status));
		struct disk *d = open_list(all);

		check_all(d);
		disk_close(d);
	}
	assert_int_equal(status, 0);
	struct disk *d = open_list(less);

	check_all(d);
	disk_close(d);
}

/* What only a flush makes sure of must be in the file after it, also for another reader that opens the file as it is now. */
static void a_flush_puts_the_bitmap_into_the_file(void **state)
{
	char words[200];
	struct disk *d;
	u8 buf[512];

	snprintf(words, sizeof(words), "overlay=%s", in_folder("one"));
	d = open_with(words);
	memset(buf, 0x77, sizeof(buf));
	assert_int_equal(rig_disk_do(d, DISK_WRITE, 5 * 4096, buf, 512), 0);
	int fd = open(in_folder("one"), O_RDONLY);
	u8 map = 0;

	assert_int_equal(pread(fd, &map, 1, 4096), 1);
	assert_int_equal(map, 0);
	assert_int_equal(rig_disk_do(d, DISK_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(pread(fd, &map, 1, 4096), 1);
	assert_int_equal(map, 1 << 5);
	close(fd);
	disk_close(d);
}

static void other_formats_go_through_the_storage_daemon(void **state)
{
	static const char *const format[] = { "qcow2", "vhdx", "vmdk", "vdi", "qed" };
	char cmd[600], text[200], name[16];
	struct disk *d;

	for (unsigned i = 0; i < array_len(format); i++) {
		snprintf(name, sizeof(name), "x.%s", format[i]);
		snprintf(cmd, sizeof(cmd), "qemu-img create -q -f %s %s %u", format[i], in_folder(name), BYTES);
		assert_int_equal(system(cmd), 0);
		assert_int_equal(rig_disk_open(&d, in_folder(name)), 0);
		assert_int_equal(disk_size(d), BYTES);
		assert_true(disk_needs_server(d));
		memset(model, 0, BYTES);
		check_all(d);
		run_random(d, 60);
		/* in use: by us, and by the server as other programs see it */
		struct disk *e = NULL;

		assert_int_equal(rig_disk_open(&e, in_folder(name)), -EAGAIN);
		snprintf(cmd, sizeof(cmd), "qemu-img info %s >/dev/null 2>&1", in_folder(name));
		assert_int_not_equal(system(cmd), 0);
		disk_close(d);
		snprintf(text, sizeof(text), "%s,ro,format=%s", in_folder(name), format[i]);
		assert_int_equal(rig_disk_open(&d, text), 0);
		check_all(d);
		assert_int_equal(rig_disk_do(d, DISK_WRITE, 0, got, 512), -EROFS);
		disk_close(d);
		snprintf(cmd, sizeof(cmd), "qemu-img convert -f %s -O raw %s %s", format[i], in_folder(name), in_folder("flat"));
		assert_int_equal(system(cmd), 0);
		int fd = open(in_folder("flat"), O_RDONLY);

		assert_int_equal(read(fd, got, BYTES), BYTES);
		close(fd);
		assert_memory_equal(got, model, BYTES);
	}
}

static void overlays_stand_on_qcow2_too(void **state)
{
	char cmd[400], text[400];
	struct disk *d;

	snprintf(cmd, sizeof(cmd), "qemu-img create -q -f qcow2 %s %u", in_folder("x.qcow2"), BYTES);
	assert_int_equal(system(cmd), 0);
	memset(model, 0, BYTES);
	snprintf(text, sizeof(text), "%s,overlay=%s", in_folder("x.qcow2"), in_folder("top"));
	assert_int_equal(rig_disk_open(&d, text), 0);
	run_random(d, 100);
	disk_close(d);
	assert_int_equal(rig_disk_open(&d, text), 0);
	check_all(d);
	disk_close(d);
}

static void wrong_formats_are_refused(void **state)
{
	char text[300];
	struct disk *d = NULL;

	assert_int_equal(open_error("format=qcow2"), -EINVAL);
	assert_int_equal(open_error("format=vhdx"), -EINVAL);
	assert_int_equal(open_error("format=tar"), -EINVAL);
	assert_int_equal(open_error("bus=scsi"), -EINVAL);
	assert_int_equal(open_error("on-error=explode"), -EINVAL);
	assert_int_equal(open_error("snapshot=maybe"), -EINVAL);
	assert_int_equal(open_error("serial="), -EINVAL);
	assert_int_equal(open_error("serial=123456789012345678901"), -EINVAL);
	assert_int_equal(open_error("color=red"), -EINVAL);
	assert_int_equal(open_error("ro,snapshot=on"), -EINVAL);
	assert_int_equal(open_error(""), -EINVAL);
	assert_int_equal(rig_disk_open(&d, ""), -EINVAL);
	assert_int_equal(rig_disk_open(&d, ",ro"), -EINVAL);
	/* a qcow2 image whose header is cut */
	int fd = open(in_folder("cut"), O_RDWR | O_CREAT, 0600);

	assert_int_equal(pwrite(fd, "QFI\xfb\0\0\0\3", 8, 0), 8);
	assert_int_equal(ftruncate(fd, 65536), 0);
	close(fd);
	snprintf(text, sizeof(text), "%s", in_folder("cut"));
	assert_int_equal(rig_disk_open(&d, text), -EINVAL);
}

static void a_guest_cannot_turn_a_raw_disk_into_another_format(void **state)
{
	struct disk *d = open_with("ro,format=raw");
	u8 first[1024] = "QFI\xfb";

	disk_close(d);
	d = open_with("format=auto");
	assert_false(rig_disk_at_once(d, DISK_WRITE, 0, first, sizeof(first)));
	assert_int_equal(rig_disk_do(d, DISK_WRITE, 0, first, sizeof(first)), -EPERM);
	assert_int_equal(rig_disk_do(d, DISK_WRITE, 512, first, 512), 0);
	memcpy(model + 512, first, 512);
	check_all(d);
	disk_close(d);
	d = open_with("format=raw");
	assert_int_equal(rig_disk_do(d, DISK_WRITE, 0, first, sizeof(first)), 0);
	disk_close(d);
}

static void images_in_use_by_qemu_are_refused(void **state)
{
	char cmd[500], text[160];
	struct disk *d = NULL;

	/* qemu-io keeps the image open while it waits for its next command; what the first one prints says that it has it open */
	snprintf(cmd, sizeof(cmd), "exec qemu-io -f raw %s/plain >%s/said 2>&1", folder, folder);
	int fd = open(in_folder("plain"), O_RDWR | O_CREAT, 0600);

	assert_int_equal(ftruncate(fd, BYTES), 0);
	close(fd);
	FILE *f = popen(cmd, "w");
	struct stat st = { 0 };

	assert_non_null(f);
	fputs("read 0 512\n", f);
	fflush(f);
	for (unsigned i = 0; i < 3000 && (stat(in_folder("said"), &st) < 0 || !st.st_size); i++)
		usleep(10000);
	snprintf(text, sizeof(text), "%s", in_folder("plain"));
	assert_int_equal(rig_disk_open(&d, text), -EAGAIN);
	pclose(f);
	assert_int_equal(rig_disk_open(&d, text), 0);
	snprintf(cmd, sizeof(cmd), "qemu-io -f raw -c 'write 0 512' %s/plain >/dev/null 2>&1", folder);
	assert_int_not_equal(system(cmd), 0);
	disk_close(d);
}

/* ---- errors of the host ---- */
static unsigned pauses;
static char pause_text[300];
static void on_pause(void *opaque, struct disk *d, const char *text)
{
	snprintf(pause_text, sizeof(pause_text), "%s", text);
	__atomic_fetch_add(&pauses, 1, __ATOMIC_SEQ_CST);
}

static int async_err;
static unsigned async_done;
static void on_done(struct disk_request *r, int err)
{
	async_err = err;
	__atomic_fetch_add(&async_done, 1, __ATOMIC_SEQ_CST);
}

static void wait_for(unsigned *what, unsigned n)
{
	for (unsigned i = 0; i < 60000 && __atomic_load_n(what, __ATOMIC_SEQ_CST) < n; i++)
		usleep(1000);
	assert_int_equal(__atomic_load_n(what, __ATOMIC_SEQ_CST), n);
}

/* The image shrinks behind our back, so reading fails; then it grows again. */
static void on_error_pause_holds_requests_until_retry(void **state)
{
	struct iovec iov = { got, 4096 };
	struct disk_request r = { .op = DISK_READ, .at = BYTES - 4096, .len = 4096, .iov = &iov, .niov = 1, .done = on_done, .owner = &r };
	struct disk *d = open_with("on-error=pause");

	pauses = async_done = 0;
	disk_set_pause(d, on_pause, NULL);
	assert_int_equal(truncate(image, 4096), 0);
	disk_submit(d, &r);
	wait_for(&pauses, 1);
	assert_non_null(strstr(pause_text, "a,b.img"));
	assert_int_equal(disk_held(d, &r), 1);
	disk_retry(d);
	wait_for(&pauses, 2);
	assert_int_equal(async_done, 0);
	assert_int_equal(truncate(image, BYTES), 0);
	disk_retry(d);
	wait_for(&async_done, 1);
	assert_int_equal(async_err, 0);
	assert_int_equal(disk_held(d, &r), 0);
	/* nonsense is the guest's own fault: no pause */
	assert_int_equal(rig_disk_do(d, DISK_READ, BYTES, got, 512), -EINVAL);
	/* and a held request can be taken back */
	assert_int_equal(truncate(image, 4096), 0);
	disk_submit(d, &r);
	wait_for(&pauses, 3);
	while (!disk_held(d, &r))
		usleep(100);
	assert_ptr_equal(disk_cancel(d, &r), &r);
	assert_null(disk_cancel(d, &r));
	disk_close(d);
	assert_int_equal(async_done, 1);
}

static void a_dead_server_gives_errors_not_hangs(void **state)
{
	char cmd[300];
	struct disk *d;

	snprintf(cmd, sizeof(cmd), "qemu-img create -q -f qcow2 %s %u", in_folder("x.qcow2"), BYTES);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(rig_disk_open(&d, in_folder("x.qcow2")), 0);
	memset(got, 0x5a, 65536);
	assert_int_equal(rig_disk_do(d, DISK_WRITE, 0, got, 65536), 0);
	assert_int_equal(rig_disk_do(d, DISK_FLUSH, 0, NULL, 0), 0);
	snprintf(cmd, sizeof(cmd), "pkill -9 -P %d qemu-storage-d", getpid());
	assert_int_equal(system(cmd), 0);
	usleep(100000);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(rig_disk_do(d, DISK_WRITE, i * 4096, got, 4096), -EIO);
	assert_int_equal(rig_disk_do(d, DISK_FLUSH, 0, NULL, 0), -EIO);
	disk_close(d);
	snprintf(cmd, sizeof(cmd), "qemu-io -f qcow2 -r -c 'read -P 0x5a 0 65536' %s | grep -q 'read 65536'", in_folder("x.qcow2"));
	assert_int_equal(system(cmd), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_raw_disk_keeps_its_data), T(small_writes_need_no_worker), T(requests_that_make_no_sense_fail), T(snapshot_throws_writes_away),
		T(overlays_stack_and_come_back),
		T(overlays_that_do_not_belong_are_refused), T(a_flush_puts_the_bitmap_into_the_file), T(other_formats_go_through_the_storage_daemon),
		T(overlays_absorb_those_below), T(a_flush_puts_the_bitmap_into_the_file), T(other_formats_go_through_the_storage_daemon),
		T(absorbing_may_end_anywhere), T(a_flush_puts_the_bitmap_into_the_file), T(other_formats_go_through_the_storage_daemon),
		T(overlays_stand_on_qcow2_too), T(wrong_formats_are_refused), T(a_guest_cannot_turn_a_raw_disk_into_another_format),
		T(images_in_use_by_qemu_are_refused), T(on_error_pause_holds_requests_until_retry), T(a_dead_server_gives_errors_not_hangs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
