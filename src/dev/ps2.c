/* PS/2 keyboard (scan code sets 1 and 2) and mouse, three buttons and wheel (IBM PS/2 Technical Reference "Keyboard", "Mouse"; "Intellimouse" wheel
 * protocol). Not here: the controller between them and the guest (i8042.c). */
#include "dev/i8042.h"

enum { ACK = 0xfa, RESEND = 0xfe, SELF_TEST_OK = 0xaa, BREAK = 0xf0, EXTENDED = 0xe0 };
enum { AUX_SCALE2 = 1, AUX_REMOTE = 2, AUX_WRAP = 4 };

/* The controller's translation, by set-2 code; from 85h on codes stay as they are. */
static const u8 translation[0x85] = {
	0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
	0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
	0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
	0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
	0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
	0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
	0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
	0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
	0x80, 0x81, 0x82, 0x41, 0x54,
};

/* ---- queue ---- */

static bool room(const struct ps2_regs *p, unsigned n) { return p->count + n <= PS2_QUEUE; }

static void say(struct ps2_regs *p, u8 byte)
{
	if (!room(p, 1))
		return;
	p->queue[(p->head + p->count) % PS2_QUEUE] = byte;
	p->count++;
}

static void flush(struct ps2_regs *p) { p->head = p->count = 0; }

bool ps2_next(struct ps2_regs *p, u8 *byte)
{
	if (!p->count)
		return false;
	*byte = p->last = p->queue[p->head];
	p->head = (p->head + 1) % PS2_QUEUE;
	p->count--;
	return true;
}

bool ps2_translate(struct ps2_regs *p, u8 *byte)
{
	if (*byte == BREAK) {
		p->code_break = 1;
		return false;
	}
	u8 v = *byte < sizeof(translation) ? translation[*byte] : *byte;

	*byte = p->code_break ? v | 0x80 : v;
	p->code_break = 0;
	return true;
}

/* ---- keyboard ---- */

static void kbd_defaults(struct ps2_regs *p)
{
	p->setting = 2;
	p->rate = 0x2b;
	p->code_break = 0;
}

static void kbd_argument(struct ps2_regs *p, u8 command, u8 v)
{
	say(p, ACK);
	switch (command) {
	case 0xed: p->leds = v & 7; break;
	case 0xf3: p->rate = v & 0x7f; break;
	case 0xf0:
		if (v == 0)
			say(p, p->setting);
		else if (v <= 2)
			p->setting = v;
		break;
	}
}

void ps2_kbd_write(struct ps2_regs *p, u8 v)
{
	u8 command = p->expect;

	p->expect = 0;
	if (command && v < 0xed) {
		kbd_argument(p, command, v);
		return;
	}
	switch (v) {
	case 0xed: case 0xf0: case 0xf3:
		p->expect = v;
		say(p, ACK);
		break;
	case 0xee: say(p, 0xee); break;
	case 0xf2:
		say(p, ACK);
		say(p, 0xab);
		say(p, 0x83);
		break;
	case 0xf4: case 0xf5: case 0xf6:
		flush(p);
		if (v != 0xf4)
			kbd_defaults(p);
		p->enabled = v != 0xf5;
		say(p, ACK);
		break;
	case 0xfe: say(p, p->last); break;
	case 0xff:
		flush(p);
		kbd_defaults(p);
		p->enabled = 1;
		p->leds = 0;
		say(p, ACK);
		say(p, SELF_TEST_OK);
		break;
	default: say(p, RESEND); break;
	}
}

/* From the end, because F7 and SysRq have two entries and keyboards send the later one. */
static u8 set2_of(u8 set1)
{
	for (unsigned i = sizeof(translation); i-- > 0;)
		if (translation[i] == set1)
			return (u8)i;
	return 0;
}

void ps2_kbd_key(struct ps2_regs *p, u16 code, bool down)
{
	u8 set1 = code & 0x7f, set2 = set2_of(set1);

	if (!p->enabled || !set1 || !set2 || !room(p, 8)) /* room for answers to commands stays */
		return;
	if (code & 0xff00)
		say(p, EXTENDED);
	if (p->setting == 1) {
		say(p, set1 | (down ? 0 : 0x80));
		return;
	}
	if (!down)
		say(p, BREAK);
	say(p, set2);
}

/* ---- mouse ---- */

static void aux_defaults(struct ps2_regs *p)
{
	p->enabled = 0;
	p->rate = 100;
	p->setting = 2;
	p->leds = 0;
}

static void packet(struct ps2_regs *p, int dx, int dy, int dz)
{
	say(p, (u8)(8 | (p->buttons & 7) | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)));
	say(p, (u8)dx);
	say(p, (u8)dy);
	if (p->id == 3)
		say(p, (u8)-dz);
}

static void status(struct ps2_regs *p)
{
	say(p, (u8)((p->leds & AUX_REMOTE ? 0x40 : 0) | (p->enabled ? 0x20 : 0) | (p->leds & AUX_SCALE2 ? 0x10 : 0) | (p->buttons & 7)));
	say(p, p->setting);
	say(p, p->rate);
}

/* Sample rates 200, 100, 80 in a row are the knock that turns the wheel on. */
static void aux_argument(struct ps2_regs *p, u8 command, u8 v)
{
	say(p, ACK);
	if (command == 0xe8) {
		p->setting = v & 3;
		return;
	}
	p->rate = v;
	p->knock[0] = p->knock[1];
	p->knock[1] = p->knock[2];
	p->knock[2] = v;
	if (p->knock[0] == 200 && p->knock[1] == 100 && v == 80)
		p->id = 3;
}

static void aux_command(struct ps2_regs *p, u8 v)
{
	say(p, ACK);
	switch (v) {
	case 0xe6: p->leds &= ~AUX_SCALE2; break;
	case 0xe7: p->leds |= AUX_SCALE2; break;
	case 0xe8: case 0xf3: p->expect = v; break;
	case 0xe9: status(p); break;
	case 0xea: p->leds &= ~AUX_REMOTE; break;
	case 0xeb: packet(p, 0, 0, 0); break;
	case 0xee: p->leds |= AUX_WRAP; break;
	case 0xf0: p->leds |= AUX_REMOTE; break;
	case 0xf2: say(p, p->id); break;
	case 0xf4: p->enabled = 1; break;
	case 0xf5: p->enabled = 0; break;
	case 0xf6: aux_defaults(p); break;
	case 0xff:
		flush(p);
		aux_defaults(p);
		p->id = 0;
		say(p, ACK);
		say(p, SELF_TEST_OK);
		say(p, 0);
		break;
	default: /* the ACK becomes "again" */
		p->queue[(p->head + p->count - 1) % PS2_QUEUE] = RESEND;
		break;
	}
}

void ps2_aux_write(struct ps2_regs *p, u8 v)
{
	u8 command = p->expect;

	p->expect = 0;
	if (!room(p, 4))
		flush(p);
	if (p->leds & AUX_WRAP && v != 0xec && v != 0xff)
		say(p, v);
	else if (v == 0xec) {
		p->leds &= ~AUX_WRAP;
		say(p, ACK);
	} else if (command)
		aux_argument(p, command, v);
	else
		aux_command(p, v);
}

void ps2_aux_move(struct ps2_regs *p, int dx, int dy, int dz, u8 buttons)
{
	p->buttons = buttons & 7;
	do { /* a packet carries 255 counts each way */
		int x = dx < -255 ? -255 : dx > 255 ? 255 : dx, y = dy < -255 ? -255 : dy > 255 ? 255 : dy, z = dz < -7 ? -7 : dz > 7 ? 7 : dz;

		if (!p->enabled || (p->leds & (AUX_REMOTE | AUX_WRAP)) || !room(p, 12))
			return;
		packet(p, x, y, z);
		dx -= x;
		dy -= y;
		dz -= z;
	} while (dx || dy || dz);
}

/* ---- life ---- */

void ps2_reset(struct i8042_regs *r)
{
	memset(&r->kbd, 0, sizeof(r->kbd));
	memset(&r->aux, 0, sizeof(r->aux));
	kbd_defaults(&r->kbd);
	r->kbd.enabled = 1;
	aux_defaults(&r->aux);
}

void ps2_loaded(struct i8042_regs *r)
{
	struct ps2_regs *both[] = { &r->kbd, &r->aux };

	for (unsigned i = 0; i < 2; i++) {
		both[i]->head %= PS2_QUEUE;
		if (both[i]->count > PS2_QUEUE)
			both[i]->count = 0;
	}
}
