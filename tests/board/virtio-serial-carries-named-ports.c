/* The multiport console: control messages, data both ways, and a backend that takes only a part. */
#include "virtio_driver.h"
#include "virtio/virtio_serial.h"

enum { SLOT = 6, BUF = 0x100000, CRX = 2, CTX = 3, RX1 = 4, TX1 = 5, READY = 0, ADD = 1, PORT_READY = 3, OPEN = 6, NAME = 7 };

static struct rig *r;
static struct vdrv d;
static struct virtio_serial *s;
static char out[100000];
static size_t nout, room;
static int opened;

static size_t output(void *opaque, const u8 *data, size_t len)
{
	size_t n = len < room ? len : room;

	memcpy(out + nout, data, n);
	nout += n;
	room -= n;
	return n;
}

static void guest_opened(void *opaque, bool open) { opened = open; }

static int setup(void **state)
{
	const struct virtio_serial_port ports[2] = { { "org.qemu.guest_agent.0", output }, { "org.nestbox.exec.0", output, guest_opened } };

	r = rig_create();
	s = virtio_serial_create(r->pci, SLOT, ports, 2);
	nout = 0;
	room = sizeof out;
	opened = -1;
	vdrv_start(&d, r, SLOT, BIT(1), 6);
	return 0;
}

static int teardown(void **state)
{
	rig_check_save_load(r);
	rig_free(r);
	return 0;
}

static void say(u32 port, u16 event, u16 value)
{
	u32 head, len;

	mem_write_le(&r->mem, gpa(BUF), port, 4);
	mem_write_le(&r->mem, gpa(BUF + 4), event, 2);
	mem_write_le(&r->mem, gpa(BUF + 6), value, 2);
	vdrv_add(&d, CTX, &(struct vbuf){ BUF, 8, 0 }, 1);
	vdrv_kick(&d, CTX);
	assert_true(vdrv_used(&d, CTX, &head, &len));
}

/* Gives a control buffer and expects this message in it. */
static void expect(u32 port, u16 event, u16 value, const char *name)
{
	u32 head, len;

	vdrv_add(&d, CRX, &(struct vbuf){ BUF + 0x1000, 128, VD_WRITE }, 1);
	vdrv_kick(&d, CRX);
	assert_true(vdrv_used(&d, CRX, &head, &len));
	assert_int_equal(len, 8 + strlen(name));
	assert_int_equal(mem_read_le(&r->mem, gpa(BUF + 0x1000), 4), port);
	assert_int_equal(mem_read_le(&r->mem, gpa(BUF + 0x1004), 2), event);
	assert_int_equal(mem_read_le(&r->mem, gpa(BUF + 0x1006), 2), value);
	assert_memory_equal(mem_ptr(&r->mem, gpa(BUF + 0x1008), 64), name, strlen(name));
}

static void meet(void)
{
	say(0, READY, 1);
	expect(0, ADD, 1, "");
	expect(1, ADD, 1, "");
	say(1, PORT_READY, 1);
	expect(1, NAME, 1, "org.nestbox.exec.0");
	assert_true(virtio_serial_port_known(s, 1));
}

static void ports_are_announced_by_name(void **state)
{
	assert_int_equal(bus_mmio_read(&r->bus, d.device + 4, 4), 2);
	meet();
	say(0, PORT_READY, 1);
	expect(0, NAME, 1, "org.qemu.guest_agent.0");
}

static void both_sides_hear_of_open_and_close(void **state)
{
	meet();
	virtio_serial_host_open(s, 1, true);
	expect(1, OPEN, 1, "");
	assert_false(virtio_serial_guest_open(s, 1));
	say(1, OPEN, 1);
	assert_int_equal(opened, 1);
	assert_true(virtio_serial_guest_open(s, 1));
	virtio_serial_host_open(s, 1, false);
	expect(1, OPEN, 0, "");
	say(1, OPEN, 0);
	assert_int_equal(opened, 0);
}

static void a_host_that_came_first_is_announced_after_the_name(void **state)
{
	virtio_serial_host_open(s, 1, true);
	meet();
	expect(1, OPEN, 1, "");
}

static void input_arrives_on_its_port(void **state)
{
	u32 head, len;

	vdrv_add(&d, RX1, &(struct vbuf){ BUF, 4, VD_WRITE }, 1);
	assert_int_equal(virtio_serial_receive(s, 1, (const u8 *)"abcdef", 6), 6);
	assert_true(vdrv_used(&d, RX1, &head, &len));
	assert_int_equal(len, 4);
	vdrv_add(&d, RX1, &(struct vbuf){ BUF + 4, 4, VD_WRITE }, 1);
	vdrv_kick(&d, RX1);
	assert_true(vdrv_used(&d, RX1, &head, &len));
	assert_int_equal(len, 2);
	assert_memory_equal(mem_ptr(&r->mem, gpa(BUF), 6), "abcdef", 6);
}

static void output_that_is_taken_in_parts_arrives_once_and_in_order(void **state)
{
	u32 head, len;
	u8 *p = mem_ptr(&r->mem, gpa(BUF), 30000);

	for (unsigned i = 0; i < 30000; i++)
		p[i] = (u8)(i * 7 + i / 256);
	room = 0;
	vdrv_add(&d, TX1, (struct vbuf[]){ { BUF, 10000, 0 }, { BUF + 10000, 10000, 0 } }, 2);
	vdrv_add(&d, TX1, &(struct vbuf){ BUF + 20000, 10000, 0 }, 1);
	vdrv_kick(&d, TX1);
	assert_false(vdrv_used(&d, TX1, &head, &len));
	for (unsigned i = 0; i < 30; i++) {
		rig_check_save_load(r);
		room = 1000;
		virtio_serial_output_space(s, 1);
		assert_int_equal(nout, 1000 * (i + 1));
	}
	assert_true(vdrv_used(&d, TX1, &head, &len));
	room = 1000;
	virtio_serial_output_space(s, 1);
	assert_true(vdrv_used(&d, TX1, &head, &len));
	assert_int_equal(nout, 30000);
	assert_memory_equal(out, p, 30000);
}

static void a_host_that_goes_leaves_no_input_behind(void **state)
{
	u32 head, len;

	meet();
	virtio_serial_host_open(s, 1, true);
	virtio_serial_receive(s, 1, (const u8 *)"old", 3);
	virtio_serial_host_open(s, 1, false);
	vdrv_add(&d, RX1, &(struct vbuf){ BUF, 4, VD_WRITE }, 1);
	vdrv_kick(&d, RX1);
	assert_false(vdrv_used(&d, RX1, &head, &len));
}

static void messages_for_ports_that_are_not_there_change_nothing(void **state)
{
	say(7, OPEN, 1);
	say(0xffffffff, PORT_READY, 1);
	say(0, 99, 1);
	assert_int_equal(opened, -1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(ports_are_announced_by_name), T(both_sides_hear_of_open_and_close), T(a_host_that_came_first_is_announced_after_the_name),
		T(input_arrives_on_its_port), T(output_that_is_taken_in_parts_arrives_once_and_in_order),
		T(a_host_that_goes_leaves_no_input_behind), T(messages_for_ports_that_are_not_there_change_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
