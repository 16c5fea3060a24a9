/* The console's two queues. */
#include "virtio_driver.h"
#include "virtio/virtio_console.h"

enum { SLOT = 6, BUF = 0x100000 };

static struct rig *r;
static struct vdrv d;
static struct virtio_console *c;
static char out[8192];
static size_t nout;
static unsigned spaces;

static void output(void *opaque, const u8 *data, size_t len)
{
	assert_true(nout + len <= sizeof(out));
	memcpy(out + nout, data, len);
	nout += len;
}

static void space(void *opaque) { spaces++; }

static int setup(void **state)
{
	r = rig_create();
	c = virtio_console_create(r->pci, SLOT, &(struct virtio_console_config){ output, space, NULL });
	nout = spaces = 0;
	vdrv_start(&d, r, SLOT, BIT(2), 2);
	return 0;
}

static int teardown(void **state)
{
	rig_check_save_load(r);
	rig_free(r);
	return 0;
}

static void output_of_any_shape_arrives_in_order(void **state)
{
	u32 head, len;

	mem_write(&r->mem, gpa(BUF), "hello, world", 12);
	vdrv_add(&d, 1, (struct vbuf[]){ { BUF, 5, 0 }, { BUF + 5, 7, 0 } }, 2);
	vdrv_kick(&d, 1);
	assert_true(vdrv_used(&d, 1, &head, &len));
	assert_int_equal(len, 0);
	assert_int_equal(nout, 12);
	assert_memory_equal(out, "hello, world", 12);
	for (unsigned i = 0; i < 3000; i++)
		mem_write_le(&r->mem, gpa(BUF + i), i & 0xff, 1);
	vdrv_add(&d, 1, &(struct vbuf){ BUF, 3000, 0 }, 1);
	vdrv_kick(&d, 1);
	assert_int_equal(nout, 3012);
	assert_int_equal((u8)out[3011], 2999 & 0xff);
}

static void input_fills_waiting_buffers(void **state)
{
	u32 head, len;

	vdrv_add(&d, 0, (struct vbuf[]){ { BUF, 2, VD_WRITE }, { BUF + 16, 100, VD_WRITE } }, 2);
	vdrv_kick(&d, 0);
	assert_false(vdrv_used(&d, 0, &head, &len));
	assert_int_equal(virtio_console_receive(c, (const u8 *)"abcdef", 6), 6);
	assert_true(vdrv_used(&d, 0, &head, &len));
	assert_int_equal(len, 6);
	assert_int_equal(mem_read_le(&r->mem, gpa(BUF), 2), load_le("ab", 2));
	assert_int_equal(mem_read_le(&r->mem, gpa(BUF + 16), 4), load_le("cdef", 4));
	assert_int_equal(r->msi_data[r->msis % 16], 0x40);
}

static void input_without_buffers_waits(void **state)
{
	u8 text[5000];
	size_t taken, got = 0;
	u32 head, len;

	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = (u8)(i * 11);
	taken = virtio_console_receive(c, text, sizeof(text));
	assert_int_equal(taken, VIRTIO_CONSOLE_BACKLOG);
	while (got < taken) {
		vdrv_add(&d, 0, &(struct vbuf){ BUF, 1000, VD_WRITE }, 1);
		vdrv_kick(&d, 0);
		assert_true(vdrv_used(&d, 0, &head, &len));
		assert_memory_equal(mem_ptr(&r->mem, gpa(BUF), 1000), text + got, len);
		got += len;
	}
	assert_true(spaces >= 5);
}

static void emergency_write_works_without_queues(void **state)
{
	vdrv_set_common(&d, 0x14, 0, 1);
	bus_mmio_write(&r->bus, d.device + 8, '!', 4);
	assert_int_equal(nout, 1);
	assert_int_equal(out[0], '!');
}

static void readable_buffers_in_the_input_queue_get_nothing(void **state)
{
	u32 head, len;

	vdrv_add(&d, 0, &(struct vbuf){ BUF, 8, 0 }, 1);
	virtio_console_receive(c, (const u8 *)"z", 1);
	assert_true(vdrv_used(&d, 0, &head, &len));
	assert_int_equal(len, 0);
	assert_int_equal(c->count, 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(output_of_any_shape_arrives_in_order), T(input_fills_waiting_buffers), T(input_without_buffers_waits),
		T(emergency_write_works_without_queues), T(readable_buffers_in_the_input_queue_get_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
