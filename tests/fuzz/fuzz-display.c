/* Display adapter, flash chip and keyboard: registers and windows with rubbish; the picture is drawn from whatever comes of it. */
#include "fuzz_input.h"
#include "dev_rig.h"
#include "base/log.h"
#include "dev/i8042.h"
#include "dev/pflash.h"
#include "dev/vga.h"

enum { VGA_FRAME = 0x200, VGA_BYTES = 0x40000, FLASH_FRAME = 0x300, FLASH_BYTES = 0x10000, FLASH = 0x80000000 };

static struct rig *r;
static struct vga *vga;
static struct i8042 *kbc;
static struct vga_picture picture;

static void create(void)
{
	r = rig_create();
	bug_if(mem_add_view(&r->mem, gpa(0), 0, VGA_FRAME, MEM_RAM, "vga"));
	bug_if(mem_add_view(&r->mem, gpa(FLASH), FLASH_BYTES, FLASH_FRAME, MEM_ROM, "flash"));
	vga = vga_create(r->pci, 3, VGA_FRAME, VGA_BYTES);
	pflash_create(&r->bus, &r->devs, &(struct pflash_config){ "flash", FLASH, FLASH_BYTES, FLASH_FRAME, NULL, NULL });
	kbc = i8042_create(&r->bus, &r->devs, rig_line(r, 1), rig_line(r, 12));
	i8042_plug(kbc);
	log_set_level(LOG_ERROR);
}

static void op_index(struct fuzz_input *in)
{
	static const u16 port[4] = { 0x3c4, 0x3ce, 0x3d4, 0x3c0 };
	u16 p = port[fuzz_take(in, 1) & 3];

	bus_port_write(&r->bus, p, fuzz_take(in, 1) & 0x3f, 1);
	bus_port_write(&r->bus, p == 0x3c0 ? p : p + 1, fuzz_take(in, 1), 1);
}

static void op_port(struct fuzz_input *in)
{
	u16 port = 0x3b0 + (fuzz_take(in, 1) & 0x2f);
	unsigned size = 1u << (fuzz_take(in, 1) & 1);

	bus_port_write(&r->bus, port, fuzz_take(in, size), size);
	bus_port_read(&r->bus, port, size);
}

static void op_dispi(struct fuzz_input *in)
{
	static const u16 values[8] = { 8, 16, 32, 320, 200, 0x41, 1, 15 };
	u8 how = (u8)fuzz_take(in, 1);

	bus_port_write(&r->bus, 0x1ce, fuzz_take(in, 1) & 15, 2);
	bus_port_write(&r->bus, 0x1cf, how & 1 ? fuzz_take(in, 2) : values[how >> 1 & 7], 2);
	bus_port_read(&r->bus, 0x1cf, 2);
}

static void op_window(struct fuzz_input *in)
{
	unsigned size = fuzz_size(in);
	u64 at = 0xa0000 + (fuzz_take(in, 3) & 0x1ffff & ~(u64)(size - 1));

	bus_mmio_write(&r->bus, at, fuzz_take(in, size), size);
	bus_mmio_read(&r->bus, at, size);
}

static void op_draw(struct fuzz_input *in)
{
	char text[4096];

	vga_render(vga, &picture);
	vga_text(vga, text, sizeof(text));
}

static void op_flash(struct fuzz_input *in)
{
	static const u8 commands[8] = { 0x10, 0x20, 0xd0, 0x50, 0x70, 0x90, 0xff, 0x98 };
	unsigned size = fuzz_size(in);
	u64 at = FLASH + (fuzz_take(in, 2) & ~(u64)(size - 1));

	bus_mmio_write(&r->bus, at, fuzz_take(in, 1) & 1 ? commands[fuzz_take(in, 1) & 7] : fuzz_take(in, size), size);
	bus_mmio_read(&r->bus, at, size);
}

static void op_keyboard(struct fuzz_input *in)
{
	u16 port = fuzz_take(in, 1) & 1 ? 0x64 : 0x60;

	bus_port_write(&r->bus, port, fuzz_take(in, 1), 1);
	i8042_key(kbc, (u16)fuzz_take(in, 2), fuzz_take(in, 1) & 1);
	i8042_mouse(kbc, (i16)fuzz_take(in, 2), (i16)fuzz_take(in, 2), 1, (u8)fuzz_take(in, 1));
	bus_port_read(&r->bus, 0x60, 1);
}

static void op_config(struct fuzz_input *in)
{
	cfg_set(r, 3, fuzz_take(in, 1) & 0x3c, (u32)fuzz_take(in, 4), 4);
}

static void (*const op[16])(struct fuzz_input *in) = { op_index, op_port, op_dispi, op_window, op_draw, op_flash, op_keyboard, op_config,
	op_index, op_dispi, op_dispi, op_window, op_flash, op_index, op_port, op_keyboard };

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };

	if (!r)
		create();
	dev_list_reset(&r->devs);
	rig_assign(r);
	while (fuzz_more(&in))
		op[fuzz_take(&in, 1) & 15](&in);
	op_draw(&in);
	rig_check_save_load(r);
	return 0;
}
