/* VGA registers and the legacy memory window. */
#include "dev/vga.h"
#include <stdlib.h>

STATE_DESC(vga_regs, VGA_STATE);

enum { PORT_FIRST = 0x3b0, PORT_LAST = 0x3df, PORT_DISPI = 0x1ce, WINDOW_BASE = 0xa0000, WINDOW_SIZE = 0x20000, PLANE_MASK = 0xffff };
enum { DISPI_VERSION = 0xb0c5, MMIO_VGA = 0x400, MMIO_DISPI = 0x500, MMIO_SIZE = 0x1000 };
enum { SEQ_MAP_MASK = 2, SEQ_MODE = 4, SEQ_CHAIN4 = 8, SEQ_SEQUENTIAL = 4 };
enum { GFX_SET_RESET, GFX_ENABLE_SET_RESET, GFX_COMPARE, GFX_ROTATE, GFX_READ_MAP, GFX_MODE, GFX_MISC, GFX_DONT_CARE, GFX_BIT_MASK };
enum { FRAME_NS = 16666667, BLANK_NS = 1500000, LINE_NS = 31778, HBLANK_NS = 6356 };

/* ---- DISPI ---- */

static u32 dispi_row_bytes(const struct vga_regs *r, u32 width) { return width * (r->dispi[DISPI_BPP] == 15 ? 2 : (r->dispi[DISPI_BPP] + 7) / 8); }

/* A mode that the memory cannot hold stays off. */
static bool dispi_mode_ok(const struct vga *v)
{
	const u16 *d = v->regs.dispi;

	switch (d[DISPI_BPP]) {
	case 8: case 15: case 16: case 24: case 32: break;
	default: return false;
	}
	return d[DISPI_XRES] && d[DISPI_YRES] && d[DISPI_XRES] <= VGA_MAX_WIDTH && d[DISPI_YRES] <= VGA_MAX_HEIGHT &&
	       (u64)dispi_row_bytes(&v->regs, d[DISPI_XRES]) * d[DISPI_YRES] <= v->mem_size;
}

static void set_virtual(struct vga *v, u32 width)
{
	u16 *d = v->regs.dispi;
	u32 row;

	if (width < d[DISPI_XRES])
		width = d[DISPI_XRES];
	row = dispi_row_bytes(&v->regs, width);
	d[DISPI_VIRT_WIDTH] = (u16)width;
	d[DISPI_VIRT_HEIGHT] = (u16)min_u64(row ? v->mem_size / row : 0, 0xffff);
}

static void dispi_enable(struct vga *v, u16 value)
{
	u16 *d = v->regs.dispi;
	bool was = d[DISPI_ENABLE] & DISPI_ON;

	if ((value & DISPI_ON) && !dispi_mode_ok(v))
		value &= (u16)~DISPI_ON;
	d[DISPI_ENABLE] = value & (DISPI_ON | DISPI_GETCAPS | DISPI_8BIT_DAC | DISPI_LFB | DISPI_KEEP);
	d[DISPI_BANK] = 0;
	if (!(value & DISPI_ON) || was)
		return;
	d[DISPI_X_OFFSET] = d[DISPI_Y_OFFSET] = 0;
	set_virtual(v, d[DISPI_XRES]);
	if (value & DISPI_KEEP)
		return;
	u64 bytes = (u64)dispi_row_bytes(&v->regs, d[DISPI_XRES]) * d[DISPI_YRES];

	mem_will_write_bytes(v->bus->mem, v->frame, 0, bytes);
	memset(v->mem, 0, bytes);
	mem_note_write_bytes(v->bus->mem, v->frame, 0, bytes);
}

static void dispi_write(struct vga *v, unsigned i, u16 value)
{
	u16 *d = v->regs.dispi;
	bool on = d[DISPI_ENABLE] & DISPI_ON;

	switch (i) {
	case DISPI_ID:
		if (value >= 0xb0c0 && value <= DISPI_VERSION)
			d[i] = value;
		break;
	case DISPI_XRES: case DISPI_YRES: case DISPI_BPP:
		if (!on)
			d[i] = i == DISPI_XRES ? value & ~7u : value ? value : 8;
		break;
	case DISPI_ENABLE: dispi_enable(v, value); break;
	case DISPI_BANK: d[i] = value & (v->mem_size / 0x10000 - 1); break;
	case DISPI_VIRT_WIDTH: set_virtual(v, value); break;
	case DISPI_X_OFFSET: case DISPI_Y_OFFSET: d[i] = value; break;
	}
}

static u16 dispi_read(const struct vga *v, unsigned i)
{
	if (i < DISPI_ENABLE && i > DISPI_ID && (v->regs.dispi[DISPI_ENABLE] & DISPI_GETCAPS))
		return i == DISPI_XRES ? VGA_MAX_WIDTH : i == DISPI_YRES ? VGA_MAX_HEIGHT : 32;
	if (i == DISPI_MEM_64K)
		return (u16)(v->mem_size / 0x10000);
	return i < VGA_DISPI ? v->regs.dispi[i] : 0;
}

static u64 dispi_port_read(void *dev, u64 off, unsigned size)
{
	struct vga *v = dev;

	return off == 0 ? v->regs.dispi_index : dispi_read(v, v->regs.dispi_index);
}

/* 1CEh is the index; data is at 1CFh for PCs, at 1D0h for those that cannot do unaligned ports. */
static void dispi_port_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct vga *v = dev;

	if (off == 0)
		v->regs.dispi_index = (u16)value;
	else
		dispi_write(v, v->regs.dispi_index, (u16)value);
}

static const struct bus_ops dispi_ops = { dispi_port_read, dispi_port_write };

/* ---- registers ---- */

/* Bits that exist, by index. */
static const u8 seq_mask[VGA_SEQ] = { 0x03, 0x3d, 0x0f, 0x3f, 0x0e };
static const u8 gfx_mask[VGA_GFX] = { 0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff };

/* Retraces by virtual time: programs wait for either edge. */
static u8 status1(const struct vga *v)
{
	u64 now = bus_now(v->bus), in_frame = now % FRAME_NS;
	bool vertical = in_frame < BLANK_NS, horizontal = in_frame % LINE_NS < HBLANK_NS;

	return (vertical ? 0x08 : 0) | (vertical || horizontal ? 0x01 : 0);
}

static void attr_write(struct vga_regs *r, u8 value)
{
	if (!r->attr_data_next)
		r->attr_index = value & 0x3f;
	else if ((r->attr_index & 0x1f) < VGA_ATTR && ((r->attr_index & 0x1f) >= 16 || !(r->attr_index & 0x20)))
		r->attr[r->attr_index & 0x1f] = value;
	r->attr_data_next = !r->attr_data_next;
}

static void dac_data_write(struct vga_regs *r, u8 value)
{
	r->palette[r->dac_write * 3u + r->dac_sub] = r->dispi[DISPI_ENABLE] & DISPI_8BIT_DAC ? value : value & 0x3f;
	if (++r->dac_sub == 3) {
		r->dac_sub = 0;
		r->dac_write++;
	}
}

static u8 dac_data_read(struct vga_regs *r)
{
	u8 value = r->palette[r->dac_read * 3u + r->dac_sub];

	if (++r->dac_sub == 3) {
		r->dac_sub = 0;
		r->dac_read++;
	}
	return value;
}

static void crtc_write(struct vga_regs *r, u8 value)
{
	u8 i = r->crtc_index;

	if (i >= VGA_CRTC)
		return;
	if ((r->crtc[0x11] & 0x80) && i <= 7) { /* write protection of the timing registers, but for one bit */
		if (i == 7)
			r->crtc[7] = (r->crtc[7] & ~0x10) | (value & 0x10);
		return;
	}
	r->crtc[i] = value;
}

/* The CRTC and status registers are at 3Bxh or 3Dxh, as MISC's bit 0 says; what answers at the other place is nobody. */
static bool other_half(const struct vga_regs *r, u16 port)
{
	return ((port & 0xff0) == 0x3b0 && (r->misc & 1)) || ((port & 0xff0) == 0x3d0 && !(r->misc & 1));
}

static u8 vga_port_read8(void *dev, u64 off)
{
	struct vga *v = dev;
	struct vga_regs *r = &v->regs;
	u16 port = (u16)(PORT_FIRST + off);

	if (other_half(r, port))
		return 0xff;
	switch (port) {
	case 0x3c0: return r->attr_data_next ? 0 : r->attr_index;
	case 0x3c1: return (r->attr_index & 0x1f) < VGA_ATTR ? r->attr[r->attr_index & 0x1f] : 0;
	case 0x3c2: return 0x10; /* switch sense: a colour monitor */
	case 0x3c4: return r->seq_index;
	case 0x3c5: return r->seq_index < VGA_SEQ ? r->seq[r->seq_index] : 0;
	case 0x3c6: return r->dac_mask;
	case 0x3c7: return r->dac_reading ? 3 : 0;
	case 0x3c8: return r->dac_write;
	case 0x3c9: return dac_data_read(r);
	case 0x3ca: return r->feature;
	case 0x3cc: return r->misc;
	case 0x3ce: return r->gfx_index;
	case 0x3cf: return r->gfx_index < VGA_GFX ? r->gfx[r->gfx_index] : 0;
	case 0x3b4: case 0x3d4: return r->crtc_index;
	case 0x3b5: case 0x3d5: return r->crtc_index < VGA_CRTC ? r->crtc[r->crtc_index] : 0;
	case 0x3ba: case 0x3da:
		r->attr_data_next = 0;
		return status1(v);
	}
	return 0xff;
}

static void vga_port_write8(void *dev, u64 off, u8 value)
{
	struct vga *v = dev;
	struct vga_regs *r = &v->regs;
	u16 port = (u16)(PORT_FIRST + off);

	if (other_half(r, port))
		return;
	switch (port) {
	case 0x3c0: attr_write(r, value); break;
	case 0x3c2: r->misc = value & ~0x10; break;
	case 0x3c4: r->seq_index = value & 7; break;
	case 0x3c5:
		if (r->seq_index < VGA_SEQ)
			r->seq[r->seq_index] = value & seq_mask[r->seq_index];
		break;
	case 0x3c6: r->dac_mask = value; break;
	case 0x3c7:
		r->dac_read = value;
		r->dac_sub = 0;
		r->dac_reading = 1;
		break;
	case 0x3c8:
		r->dac_write = value;
		r->dac_sub = 0;
		r->dac_reading = 0;
		break;
	case 0x3c9: dac_data_write(r, value); break;
	case 0x3ce: r->gfx_index = value & 15; break;
	case 0x3cf:
		if (r->gfx_index < VGA_GFX)
			r->gfx[r->gfx_index] = value & gfx_mask[r->gfx_index];
		break;
	case 0x3b4: case 0x3d4: r->crtc_index = value & 0x1f; break;
	case 0x3b5: case 0x3d5: crtc_write(r, value); break;
	case 0x3ba: case 0x3da: r->feature = value & 0x10; break;
	}
}

static u64 vga_port_read(void *dev, u64 off, unsigned size) { return dev_read_bytes(dev, off, size, vga_port_read8); }
static void vga_port_write(void *dev, u64 off, u64 value, unsigned size) { dev_write_bytes(dev, off, value, size, vga_port_write8); }
static const struct bus_ops vga_port_ops = { vga_port_read, vga_port_write };

/* ---- BAR 2: the same registers as memory ---- */

static u64 mmio_read(void *dev, u64 off, unsigned size)
{
	if (off >= MMIO_VGA && off + size <= MMIO_VGA + 0x20)
		return vga_port_read(dev, off - MMIO_VGA + 0x10, size);
	if (off >= MMIO_DISPI && off + size <= MMIO_DISPI + 2 * VGA_DISPI && size == 2)
		return dispi_read(dev, (unsigned)(off - MMIO_DISPI) / 2);
	return 0;
}

static void mmio_write(void *dev, u64 off, u64 value, unsigned size)
{
	if (off >= MMIO_VGA && off + size <= MMIO_VGA + 0x20)
		vga_port_write(dev, off - MMIO_VGA + 0x10, value, size);
	else if (off >= MMIO_DISPI && off + size <= MMIO_DISPI + 2 * VGA_DISPI && size == 2)
		dispi_write(dev, (unsigned)(off - MMIO_DISPI) / 2, (u16)value);
}

static const struct bus_ops mmio_ops = { mmio_read, mmio_write };
static const struct bus_ops no_ops = { NULL, NULL };

/* ---- the window at A0000h ---- */

/* Graphics register 6, "Memory Map". */
static bool window_offset(const struct vga_regs *r, u64 off, u32 *at)
{
	static const struct { u32 base, size; } map[4] = { { 0, 0x20000 }, { 0, 0x10000 }, { 0x10000, 0x8000 }, { 0x18000, 0x8000 } };
	u32 i = r->gfx[GFX_MISC] >> 2 & 3;

	if (off < map[i].base || off - map[i].base >= map[i].size || !(r->misc & 2))
		return false;
	*at = (u32)(off - map[i].base);
	return true;
}

static bool dispi_linear(const struct vga_regs *r) { return r->dispi[DISPI_ENABLE] & DISPI_ON; }

static u32 bank_offset(const struct vga *v, u32 at) { return (v->regs.dispi[DISPI_BANK] * 0x10000u + at) & (v->mem_size - 1); }

static u8 window_read8(void *dev, u64 off)
{
	struct vga *v = dev;
	struct vga_regs *r = &v->regs;
	u32 at, plane = r->gfx[GFX_READ_MAP];

	if (!window_offset(r, off, &at))
		return 0xff;
	if (dispi_linear(r))
		return v->mem[bank_offset(v, at)];
	if (r->seq[SEQ_MODE] & SEQ_CHAIN4) {
		plane = at & 3;
		at &= ~3u;
	} else if (r->gfx[GFX_MODE] & 0x10) {
		plane = (plane & 2) | (at & 1);
		at &= ~1u;
	}
	const u8 *cell = v->mem + 4 * (at & PLANE_MASK);

	r->latch = (u32)load_le(cell, 4);
	if (!(r->gfx[GFX_MODE] & 8))
		return cell[plane];
	u8 differs = 0; /* read mode 1: which pixels have the compare colour */

	for (unsigned p = 0; p < 4; p++)
		if (r->gfx[GFX_DONT_CARE] & (1u << p))
			differs |= (u8)(r->latch >> (8 * p)) ^ (r->gfx[GFX_COMPARE] & (1u << p) ? 0xff : 0);
	return (u8)~differs;
}

static u32 spread(u8 b) { return b * 0x01010101u; }
/* 4 bits to 4 bytes of all ones or zeros. */
static u32 expand(u8 bits4)
{
	u32 m = 0;

	for (unsigned p = 0; p < 4; p++)
		if (bits4 & (1u << p))
			m |= 0xffu << (8 * p);
	return m;
}

static u32 logical(u8 function, u32 data, u32 latch)
{
	switch (function & 3) {
	case 1: return data & latch;
	case 2: return data | latch;
	case 3: return data ^ latch;
	}
	return data;
}

/* "Write Mode" 0 to 3: what goes to the four planes. */
static u32 write_data(const struct vga_regs *r, u8 value)
{
	u8 rotate = r->gfx[GFX_ROTATE] & 7, rotated = (u8)(value >> rotate | value << (8 - rotate));
	u32 mask = spread(r->gfx[GFX_BIT_MASK]), set = expand(r->gfx[GFX_SET_RESET]), enable = expand(r->gfx[GFX_ENABLE_SET_RESET]), data;

	switch (r->gfx[GFX_MODE] & 3) {
	case 1: return r->latch;
	case 2: data = expand(value); break;
	case 3:
		mask &= spread(rotated);
		return (set & mask) | (r->latch & ~mask);
	default: data = (spread(rotated) & ~enable) | (set & enable); break;
	}
	data = logical(r->gfx[GFX_ROTATE] >> 3, data, r->latch);
	return (data & mask) | (r->latch & ~mask);
}

static void window_write8(void *dev, u64 off, u8 value)
{
	struct vga *v = dev;
	const struct vga_regs *r = &v->regs;
	u32 at;
	u8 planes = r->seq[SEQ_MAP_MASK];

	if (!window_offset(r, off, &at))
		return;
	if (dispi_linear(r)) {
		u32 byte = bank_offset(v, at);

		mem_will_write_bytes(v->bus->mem, v->frame, byte, 1);
		v->mem[byte] = value;
		mem_note_write_bytes(v->bus->mem, v->frame, byte, 1);
		return;
	}
	if (r->seq[SEQ_MODE] & SEQ_CHAIN4) {
		planes &= (u8)(1u << (at & 3));
		at &= ~3u;
	} else if (!(r->seq[SEQ_MODE] & SEQ_SEQUENTIAL)) { /* odd/even */
		planes &= at & 1 ? 0x0a : 0x05;
		at &= ~1u;
	}
	u8 *cell = v->mem + 4 * (at & PLANE_MASK);
	u32 keep = ~expand(planes), data = write_data(r, value);

	mem_will_write_bytes(v->bus->mem, v->frame, 4 * (at & PLANE_MASK), 4);
	store_le(cell, ((u32)load_le(cell, 4) & keep) | (data & ~keep), 4);
	mem_note_write_bytes(v->bus->mem, v->frame, 4 * (at & PLANE_MASK), 4);
}

static u64 window_read(void *dev, u64 off, unsigned size) { return dev_read_bytes(dev, off, size, window_read8); }
static void window_write(void *dev, u64 off, u64 value, unsigned size) { dev_write_bytes(dev, off, value, size, window_write8); }
static const struct bus_ops window_ops = { window_read, window_write };

/* ---- life ---- */

static void bar_moved(void *dev, unsigned n, u64 base, bool on)
{
	struct vga *v = dev;

	if (n != 0)
		return;
	on = on && base % PAGE_SIZE == 0; /* a loaded register may hold anything */
	mem_remap(v->bus->mem, "vga", on ? base : 0, on ? v->mem_size : 0, v->frame, MEM_RAM);
	mem_remap_done(v->bus->mem);
}

static void vga_reset(void *dev)
{
	struct vga *v = dev;

	v->regs = (struct vga_regs){ .dac_mask = 0xff };
	v->regs.dispi[DISPI_ID] = DISPI_VERSION;
	v->regs.dispi[DISPI_BPP] = 8;
}

/* Indexes and modes that no guest could have set would lead out of our arrays. */
static void vga_loaded(void *dev)
{
	struct vga *v = dev;
	struct vga_regs *r = &v->regs;

	mem_fetch_bytes(v->bus->mem, v->frame, 0, v->mem_size); /* the display is drawn from it at any time */
	r->dac_sub %= 3;
	r->attr_data_next = !!r->attr_data_next;
	if ((r->dispi[DISPI_ENABLE] & DISPI_ON) && !dispi_mode_ok(v))
		r->dispi[DISPI_ENABLE] &= (u16)~DISPI_ON;
	r->gfx[GFX_READ_MAP] &= gfx_mask[GFX_READ_MAP];
	r->dispi[DISPI_BANK] &= v->mem_size / 0x10000 - 1;
	for (unsigned i = 0; i < VGA_SEQ; i++)
		r->seq[i] &= seq_mask[i];
}

struct vga *vga_create(struct pci_host *h, unsigned slot, u64 frame, u32 size)
{
	static const struct pci_ident id = { .vendor = 0x1234, .device = 0x1111, .class_code = 0x030000, .revision = 2, .subvendor = 0x1af4,
		.subdevice = 0x1100 };
	struct vga *v = dev_alloc(sizeof(*v));

	v->bus = h->bus;
	v->frame = frame;
	v->mem_size = size;
	v->mem = h->bus->mem->base + frame * PAGE_SIZE;
	pci_function_init(&v->pci, h, "vga", slot, 0, &id, v);
	v->pci.bar_moved = bar_moved;
	pci_add_bar(&v->pci, 0, PCI_BAR_MEM32, size, &no_ops, v);
	pci_config_init(&v->pci, PCI_BAR0, 8, ~(size - 1), 4); /* prefetchable */
	pci_add_bar(&v->pci, 2, PCI_BAR_MEM32, MMIO_SIZE, &mmio_ops, v);
	bus_add_port(h->bus, PORT_FIRST, PORT_LAST - PORT_FIRST + 1, &vga_port_ops, v, "vga");
	bus_add_port(h->bus, PORT_DISPI, 4, &dispi_ops, v, "vga-dispi");
	bus_add_mmio(h->bus, WINDOW_BASE, WINDOW_SIZE, &window_ops, v, "vga-window");
	dev_list_add(h->devs, &(struct dev_instance){ .name = "vga", .desc = &vga_regs_state, .regs = &v->regs, .dev = v,
		.reset = vga_reset, .loaded = vga_loaded, .destroy = free });
	vga_reset(v);
	return v;
}
