/* Standard display adapter 1234:1111: VGA registers (IBM "VGA/XGA Technical Reference"), text and planar memory, and the Bochs DISPI interface to a
 * linear frame buffer (as Linux's bochs-drm and SeaBIOS's vgabios use it). Not here: turning memory into a picture (vga_render.c), the display BIOS
 * (SeaBIOS). Surprise: the frame buffer is guest memory, mapped where BAR 0 says, so that drawing costs no exit; the legacy window at A0000h is
 * trapped. A byte at offset a of plane p lies at 4a + p. */
#ifndef NB_DEV_VGA_H
#define NB_DEV_VGA_H

#include "dev/pci.h"

enum { VGA_SEQ = 5, VGA_CRTC = 25, VGA_GFX = 9, VGA_ATTR = 21, VGA_DISPI = 16 };

#define VGA_STATE(F, A) \
	F(u32, latch) \
	A(u16, dispi, VGA_DISPI) F(u16, dispi_index) \
	A(u8, seq, VGA_SEQ) A(u8, crtc, VGA_CRTC) A(u8, gfx, VGA_GFX) A(u8, attr, VGA_ATTR) \
	A(u8, palette, 768)                /* 6 bits per colour, or 8 with DISPI's 8BIT_DAC */ \
	F(u8, seq_index) F(u8, crtc_index) F(u8, gfx_index) F(u8, attr_index) F(u8, attr_data_next) \
	F(u8, misc) F(u8, feature) F(u8, dac_mask) F(u8, dac_read) F(u8, dac_write) F(u8, dac_sub) F(u8, dac_reading) A(u8, pad_, 2)
STATE_STRUCT(vga_regs, VGA_STATE);

struct vga {
	struct pci_function pci;
	struct bus *bus;
	struct vga_regs regs;  /* bus->lock */
	u8 *mem;               /* the guest draws here at any time */
	u32 mem_size;
	u64 frame;             /* first page in the memfd */
};

/* slot "vga" of the bus's memory must exist; frame and size (a power of two) say what it shows. */
struct vga *vga_create(struct pci_host *h, unsigned slot, u64 frame, u32 size);

/* Pixels as 00RRGGBBh, rows without gaps. */
struct vga_picture { u32 width, height; u32 *pixel; size_t room; /* pixels allocated */ };
#define VGA_MAX_WIDTH 2560
#define VGA_MAX_HEIGHT 1600
/* What a monitor would show now; grows p->pixel as needed. Takes bus->lock. False: blank (p is then 640x480 black). */
bool vga_render(struct vga *v, struct vga_picture *p);
/* Text mode only: the characters, rows ended by newlines, CP437's line drawing as '#', '-' and '|'. Length, 0 when in a graphics mode. */
size_t vga_text(struct vga *v, char *out, size_t cap);

/* For vga_render.c: geometry. */
struct vga_mode { bool graphics, blank, dispi; u32 columns, rows, char_width, char_height, start, pitch; };
void vga_mode_of(const struct vga *v, struct vga_mode *m);

enum { DISPI_ID, DISPI_XRES, DISPI_YRES, DISPI_BPP, DISPI_ENABLE, DISPI_BANK, DISPI_VIRT_WIDTH, DISPI_VIRT_HEIGHT, DISPI_X_OFFSET, DISPI_Y_OFFSET,
	DISPI_MEM_64K };
enum { DISPI_ON = 1, DISPI_GETCAPS = 2, DISPI_8BIT_DAC = 0x20, DISPI_LFB = 0x40, DISPI_KEEP = 0x80 };

#endif
