/* i8042 keyboard controller, with or without a PS/2 keyboard and mouse plugged in (ps2.c). Surprises: A20 is always on, its bit only reads back; with
 * nothing plugged in, bytes for a device answer with a timeout, as with no cable. */
#ifndef NB_DEV_I8042_H
#define NB_DEV_I8042_H

#include "bus/bus.h"
#include "dev/dev.h"

enum { PS2_QUEUE = 64 };

/* One PS/2 device: what it still has to say, and its settings. */
#define PS2_STATE(F, A) \
	A(u8, queue, PS2_QUEUE) F(u8, head) F(u8, count) \
	F(u8, expect)     /* command whose argument comes next, or 0 */ \
	F(u8, enabled)    /* scanning, or reporting movements */ \
	F(u8, last)       /* last byte sent, for RESEND */ \
	F(u8, rate) F(u8, setting) /* keyboard: scan code set; mouse: resolution */ F(u8, leds) /* mouse: scaling and mode bits */ \
	F(u8, id) A(u8, knock, 3)  /* mouse: 0, or 3 with a wheel; the last three sample rates */ \
	F(u8, buttons) F(u8, code_break) /* keyboard: F0h was taken by the translation */ A(u8, pad_, 2)
STATE_STRUCT(ps2_regs, PS2_STATE);

#define I8042_STATE(F, A) F(struct ps2_regs, kbd) F(struct ps2_regs, aux) \
	F(u8, status) F(u8, control) F(u8, output_port) F(u8, command) F(u8, data) A(u8, pad_, 3)
STATE_STRUCT(i8042_regs, I8042_STATE);

struct i8042 {
	struct bus *bus;
	struct irq_line irq_kbd, irq_aux;
	bool plugged;            /* keyboard and mouse; fixed before the vCPUs start */
	struct i8042_regs regs;  /* bus->lock */
	bool line_kbd, line_aux; /* last given out */
};

/* Ports 60h and 64h. */
struct i8042 *i8042_create(struct bus *bus, struct dev_list *devs, struct irq_line kbd, struct irq_line aux);
void i8042_plug(struct i8042 *k);

/* A key goes down or up. code: as in scan code set 1, 01h..7Fh, plus E000h for the extended ones. Lost when the guest does not listen. Takes bus->lock. */
void i8042_key(struct i8042 *k, u16 code, bool down);
/* The mouse moves by dx, dy (right and up positive), its wheel by dz, its buttons are as given: bits left, right, middle. Takes bus->lock. */
void i8042_mouse(struct i8042 *k, int dx, int dy, int dz, u8 buttons);

/* ---- ps2.c ---- */
void ps2_reset(struct i8042_regs *r);
void ps2_loaded(struct i8042_regs *r);
/* A byte from the guest to the device. */
void ps2_kbd_write(struct ps2_regs *p, u8 v);
void ps2_aux_write(struct ps2_regs *p, u8 v);
/* The device's next byte. False: it has none. */
bool ps2_next(struct ps2_regs *p, u8 *byte);
/* Scan code set 2 to set 1, as the controller translates; false: the byte is swallowed. */
bool ps2_translate(struct ps2_regs *p, u8 *byte);
void ps2_kbd_key(struct ps2_regs *p, u16 code, bool down);
void ps2_aux_move(struct ps2_regs *p, int dx, int dy, int dz, u8 buttons);

#endif
