/* From display memory to pixels. Text: IBM "VGA/XGA Technical Reference", attribute controller and CRT controller. Every memory access is masked, so
 * registers may hold anything. */
#include "dev/vga.h"
#include <stdlib.h>

enum { CELL_MASK = 0xffff };
enum { SEQ_CLOCKING = 1, SEQ_FONT = 3, CRTC_H_DISPLAY = 1, CRTC_OVERFLOW = 7, CRTC_MAX_SCAN = 9, CRTC_CURSOR_START = 10, CRTC_CURSOR_END = 11,
	CRTC_START_HI = 12, CRTC_START_LO = 13, CRTC_CURSOR_HI = 14, CRTC_CURSOR_LO = 15, CRTC_V_DISPLAY = 18, CRTC_OFFSET = 19, CRTC_UNDERLINE = 20,
	CRTC_MODE = 23 };
enum { ATTR_MODE = 16, ATTR_PLANES = 18, ATTR_SELECT = 20, ATTR_BLINK = 8, ATTR_8BIT = 0x40, ATTR_LINE_GRAPHICS = 4 };

static u32 byte_step(const struct vga_regs *r) /* plane bytes per CRTC address: byte, word or doubleword mode */
{
	return r->crtc[CRTC_UNDERLINE] & 0x40 ? 4 : r->crtc[CRTC_MODE] & 0x40 ? 1 : 2;
}

void vga_mode_of(const struct vga *v, struct vga_mode *m)
{
	const struct vga_regs *r = &v->regs;
	u32 lines = 1 + r->crtc[CRTC_V_DISPLAY] + (r->crtc[CRTC_OVERFLOW] & 2 ? 256 : 0) + (r->crtc[CRTC_OVERFLOW] & 0x40 ? 512 : 0);

	*m = (struct vga_mode){ .dispi = r->dispi[DISPI_ENABLE] & DISPI_ON };
	m->graphics = m->dispi || (r->gfx[6] & 1);
	m->blank = !m->dispi && (!(r->attr_index & 0x20) || (r->seq[SEQ_CLOCKING] & 0x20) || !(r->crtc[CRTC_MODE] & 0x80));
	m->char_height = 1 + (r->crtc[CRTC_MAX_SCAN] & 0x1f);
	m->char_width = r->seq[SEQ_CLOCKING] & 1 ? 8 : 9;
	m->columns = 1 + r->crtc[CRTC_H_DISPLAY];
	m->rows = lines / m->char_height;
	m->start = (u32)r->crtc[CRTC_START_HI] << 8 | r->crtc[CRTC_START_LO];
	m->pitch = r->crtc[CRTC_OFFSET] * 2u; /* in CRTC addresses: of words with OFFSET counting words twice */
	if (r->crtc[CRTC_MAX_SCAN] & 0x80 && m->graphics)
		m->char_height *= 2;
	if (m->graphics)
		m->rows = lines;
}

static u32 colour6(const u8 *p, bool eight)
{
	unsigned up = eight ? 0 : 2;

	return eight ? (u32)p[0] << 16 | p[1] << 8 | p[2]
		     : (u32)(p[0] << up | p[0] >> 4) << 16 | (u32)(p[1] << up | p[1] >> 4) << 8 | (u32)(p[2] << up | p[2] >> 4);
}

static u32 dac(const struct vga_regs *r, u8 index) { return colour6(r->palette + 3u * (index & r->dac_mask), r->dispi[DISPI_ENABLE] & DISPI_8BIT_DAC); }

/* Four attribute bits through the palette registers and the colour select register. */
static u32 attr_colour(const struct vga_regs *r, u8 four)
{
	u8 p = r->attr[four & 15] & 0x3f, select = r->attr[ATTR_SELECT];

	if (r->attr[ATTR_MODE] & 0x80)
		p = (p & 0x0f) | (select & 3) << 4;
	return dac(r, p | (select & 0x0c) << 4);
}

static bool make_room(struct vga_picture *p, u32 width, u32 height)
{
	size_t need = (size_t)width * height;

	if (need > p->room) {
		u32 *more = realloc(p->pixel, need * sizeof(*more));

		if (!more)
			return false;
		p->pixel = more;
		p->room = need;
	}
	p->width = width;
	p->height = height;
	return true;
}

static u32 cell_offset(const struct vga_regs *r, u32 address) { return 4 * ((address * byte_step(r)) & CELL_MASK); }

/* Plane 2 holds eight fonts of 256 characters, 32 bytes each; the attribute's bit 3 chooses between two of them. */
static u32 font_base(const struct vga_regs *r, bool second)
{
	u8 s = r->seq[SEQ_FONT];
	u32 map = second ? (s >> 2 & 3) | (s >> 3 & 4) : (s & 3) | (s >> 2 & 4);

	return (map & 3) * 0x4000 + (map & 4 ? 0x2000 : 0);
}

static void draw_char(const struct vga *v, const struct vga_mode *m, u32 *to, u32 stride, u32 cell, bool cursor)
{
	const struct vga_regs *r = &v->regs;
	u8 c = v->mem[cell], a = v->mem[cell + 1];
	u32 base = font_base(r, a & 8) + c * 32u;
	bool blink = r->attr[ATTR_MODE] & ATTR_BLINK;
	u32 fg = attr_colour(r, a & 15), bg = attr_colour(r, (a >> 4) & (blink ? 7 : 15));
	u8 first = r->crtc[CRTC_CURSOR_START] & 0x1f, last = r->crtc[CRTC_CURSOR_END] & 0x1f;

	for (u32 y = 0; y < m->char_height; y++, to += stride) {
		u8 dots = v->mem[4 * ((base + y) & CELL_MASK) + 2];

		if (cursor && y >= first && y <= last)
			dots = 0xff;
		for (u32 x = 0; x < 8; x++)
			to[x] = dots & (0x80 >> x) ? fg : bg;
		if (m->char_width == 9)
			to[8] = (dots & 1) && (c & 0xe0) == 0xc0 && (r->attr[ATTR_MODE] & ATTR_LINE_GRAPHICS) ? fg : cursor && dots == 0xff ? fg : bg;
	}
}

static bool draw_text(const struct vga *v, const struct vga_mode *m, struct vga_picture *p)
{
	const struct vga_regs *r = &v->regs;
	u32 cursor = (u32)r->crtc[CRTC_CURSOR_HI] << 8 | r->crtc[CRTC_CURSOR_LO];
	bool cursor_on = !(r->crtc[CRTC_CURSOR_START] & 0x20);
	u32 width = m->columns * m->char_width, height = m->rows * m->char_height;

	if (!m->rows || width > VGA_MAX_WIDTH || height > VGA_MAX_HEIGHT || !make_room(p, width, height))
		return false;
	for (u32 row = 0; row < m->rows; row++)
		for (u32 col = 0; col < m->columns; col++) {
			u32 address = m->start + row * m->pitch + col;

			draw_char(v, m, p->pixel + (size_t)row * m->char_height * width + col * m->char_width, width, cell_offset(r, address),
				  cursor_on && address == cursor);
		}
	return true;
}

/* One byte per pixel through the DAC (mode 13h), or one bit of each plane. Doubled lines and pixels are drawn doubled. */
static bool draw_planar(const struct vga *v, const struct vga_mode *m, struct vga_picture *p)
{
	const struct vga_regs *r = &v->regs;
	bool bytes = r->gfx[5] & 0x40;
	u32 width = m->columns * 8, height = m->rows;

	if (!height || width > VGA_MAX_WIDTH || height > VGA_MAX_HEIGHT || !make_room(p, width, height))
		return false;
	for (u32 y = 0; y < height; y++) {
		u32 line = m->start + (y / m->char_height) * m->pitch;

		for (u32 x = 0; x < width; x++) {
			u32 *to = &p->pixel[(size_t)y * width + x];

			if (bytes) {
				u32 pixel = x / 2;

				*to = dac(r, v->mem[cell_offset(r, line + pixel / 4) + pixel % 4]);
				continue;
			}
			u32 cell = (u32)load_le(v->mem + cell_offset(r, line + x / 8), 4), bit_ = 7 - x % 8, four = 0;

			for (unsigned plane = 0; plane < 4; plane++)
				four |= (cell >> (8 * plane + bit_) & 1) << plane;
			*to = attr_colour(r, (u8)(four & r->attr[ATTR_PLANES]));
		}
	}
	return true;
}

static u32 pixel_at(const struct vga *v, u32 at, u16 bpp)
{
	u32 mask = v->mem_size - 1, p;
	const u8 *m = v->mem;

	switch (bpp) {
	case 8: return dac(&v->regs, m[at & mask]);
	case 15:
		p = m[at & mask] | (u32)m[(at + 1) & mask] << 8;
		return (p & 0x7c00) << 9 | (p & 0x3e0) << 6 | (p & 0x1f) << 3;
	case 16:
		p = m[at & mask] | (u32)m[(at + 1) & mask] << 8;
		return (p & 0xf800) << 8 | (p & 0x7e0) << 5 | (p & 0x1f) << 3;
	}
	return m[at & mask] | (u32)m[(at + 1) & mask] << 8 | (u32)m[(at + 2) & mask] << 16;
}

static bool draw_dispi(const struct vga *v, struct vga_picture *p)
{
	const u16 *d = v->regs.dispi;
	u32 bytes = d[DISPI_BPP] == 15 ? 2 : (d[DISPI_BPP] + 7u) / 8, row = d[DISPI_VIRT_WIDTH] * bytes;

	if (!make_room(p, d[DISPI_XRES], d[DISPI_YRES]))
		return false;
	for (u32 y = 0; y < p->height; y++)
		for (u32 x = 0; x < p->width; x++)
			p->pixel[(size_t)y * p->width + x] = pixel_at(v, (y + d[DISPI_Y_OFFSET]) * row + (x + d[DISPI_X_OFFSET]) * bytes, d[DISPI_BPP]);
	return true;
}

bool vga_render(struct vga *v, struct vga_picture *p)
{
	struct vga_mode m;
	bool shown;

	bus_lock(v->bus);
	vga_mode_of(v, &m);
	shown = !m.blank && (m.dispi ? draw_dispi(v, p) : m.graphics ? draw_planar(v, &m, p) : draw_text(v, &m, p));
	bus_unlock(v->bus);
	if (!shown && make_room(p, 640, 480))
		memset(p->pixel, 0, p->room < 640 * 480 ? 0 : (size_t)640 * 480 * sizeof(*p->pixel));
	return shown;
}

static char plain(u8 c)
{
	if (c >= ' ' && c < 0x7f)
		return (char)c;
	return c == 0xb3 || c == 0xba ? '|' : c == 0xc4 || c == 0xcd ? '-' : c == 0 || c == 0xff ? ' ' : '#';
}

size_t vga_text(struct vga *v, char *out, size_t cap)
{
	struct vga_mode m;
	size_t n = 0;

	bus_lock(v->bus);
	vga_mode_of(v, &m);
	if (!m.graphics && !m.blank)
		for (u32 row = 0; row < m.rows; row++) {
			size_t end = n;

			for (u32 col = 0; col < m.columns && n + 1 < cap; col++) {
				char c = plain(v->mem[cell_offset(&v->regs, m.start + row * m.pitch + col)]);

				out[n++] = c;
				if (c != ' ')
					end = n;
			}
			n = end;
			if (n + 1 < cap)
				out[n++] = '\n';
		}
	bus_unlock(v->bus);
	return n;
}
