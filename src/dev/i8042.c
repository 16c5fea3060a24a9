/* i8042 keyboard controller. IBM PS/2 Technical Reference "Keyboard and Auxiliary Device
 * Controller". */
#include "dev/i8042.h"
#include <stdlib.h>

STATE_DESC(i8042_regs, I8042_STATE);

enum { PORT_DATA = 0x60, PORT_COMMAND = 0x64 };
enum { ST_OBF = 0x01, ST_SYS = 0x04, ST_CMD = 0x08, ST_UNLOCKED = 0x10, ST_AUX_OBF = 0x20, ST_TIMEOUT = 0x40 };
enum { CTL_KBD_INT = 0x01, CTL_AUX_INT = 0x02, CTL_SYS = 0x04, CTL_KBD_OFF = 0x10, CTL_AUX_OFF = 0x20, CTL_XLATE = 0x40 };
enum { OUT_RESET = 0x01, OUT_A20 = 0x02, OUT_KBD_FULL = 0x10, OUT_AUX_FULL = 0x20 };
enum { KBD_RESEND = 0xfe, TEST_PASSED = 0x55 };

static void kbc_update(struct i8042 *k)
{
	const struct i8042_regs *r = &k->regs;
	bool full = r->status & ST_OBF, aux = r->status & ST_AUX_OBF;
	bool kbd_line = full && !aux && (r->control & CTL_KBD_INT), aux_line = full && aux && (r->control & CTL_AUX_INT);

	if (kbd_line != k->line_kbd)
		irq_line_set(k->irq_kbd, kbd_line);
	if (aux_line != k->line_aux)
		irq_line_set(k->irq_aux, aux_line);
	k->line_kbd = kbd_line;
	k->line_aux = aux_line;
}

/* The devices' next byte, when the guest has taken the last one and listens to them. */
static void refill(struct i8042 *k)
{
	struct i8042_regs *r = &k->regs;
	u8 byte;

	while (k->plugged && !(r->status & ST_OBF) && !(r->control & CTL_KBD_OFF) && ps2_next(&r->kbd, &byte)) {
		if ((r->control & CTL_XLATE) && !ps2_translate(&r->kbd, &byte))
			continue;
		r->data = byte;
		r->status |= ST_OBF;
	}
	if (k->plugged && !(r->status & ST_OBF) && !(r->control & CTL_AUX_OFF) && ps2_next(&r->aux, &byte)) {
		r->data = byte;
		r->status |= ST_OBF | ST_AUX_OBF;
	}
	kbc_update(k);
}

static void answer(struct i8042 *k, u8 byte, u8 flags)
{
	k->regs.data = byte;
	k->regs.status = (k->regs.status & ~(ST_AUX_OBF | ST_TIMEOUT)) | ST_OBF | flags;
}

static void machine_reset(struct i8042 *k)
{
	if (k->bus->power)
		k->bus->power(k->bus->power_opaque, BUS_RESET, 0);
}

/* Commands that only answer or only change a register: one row each. */
static const struct command_row {
	u8 command;
	i16 reply;            /* -1: none */
	u8 set, clear;        /* bits of the control byte */
	u8 out_set, out_clear;
} command_row[] = {
	{ 0xa7, -1, CTL_AUX_OFF, 0, 0, 0 },
	{ 0xa8, -1, 0, CTL_AUX_OFF, 0, 0 },
	{ 0xa9, 0x02, 0, 0, 0, 0 },       /* auxiliary interface test: clock line stuck high when nobody is there */
	{ 0xaa, TEST_PASSED, 0, 0, 0, 0 },
	{ 0xab, 0x00, 0, 0, 0, 0 },       /* keyboard interface test: the controller's side is fine */
	{ 0xad, -1, CTL_KBD_OFF, 0, 0, 0 },
	{ 0xae, -1, 0, CTL_KBD_OFF, 0, 0 },
	{ 0xc0, 0xa0, 0, 0, 0, 0 },       /* input port: not locked, no manufacturing jumper */
	{ 0xdd, -1, 0, 0, 0, OUT_A20 },
	{ 0xdf, -1, 0, 0, OUT_A20, 0 },
};

static bool simple_command(struct i8042 *k, u8 v)
{
	for (unsigned i = 0; i < array_len(command_row); i++) {
		const struct command_row *c = &command_row[i];

		if (c->command != v)
			continue;
		k->regs.control = (k->regs.control & ~c->clear) | c->set;
		k->regs.output_port = (k->regs.output_port & ~c->out_clear) | c->out_set;
		if (c->reply >= 0)
			answer(k, v == 0xa9 && k->plugged ? 0 : (u8)c->reply, 0);
		if (v == 0xaa)
			k->regs.status |= ST_SYS;
		return true;
	}
	return false;
}

static void write_command(void *dev, u64 off, u64 value, unsigned size)
{
	struct i8042 *k = dev;
	struct i8042_regs *r = &k->regs;
	u8 v = (u8)value;

	r->status |= ST_CMD;
	r->command = 0;
	if (v >= 0xf0) {                                  /* pulse output lines; bit 0 low is the reset line */
		if (!(v & OUT_RESET))
			machine_reset(k);
	} else if (v == 0x20) {
		answer(k, r->control, 0);
	} else if (v == 0xd0) {
		answer(k, r->output_port | (r->status & ST_OBF ? OUT_KBD_FULL : 0), 0);
	} else if (v == 0x60 || (v >= 0xd1 && v <= 0xd4)) {
		r->command = v;                           /* its byte follows on port 60h */
	} else {
		simple_command(k, v);
	}
	refill(k);
}

static void write_output_port(struct i8042 *k, u8 v)
{
	k->regs.output_port = v & ~(OUT_KBD_FULL | OUT_AUX_FULL);
	if (!(v & OUT_RESET))
		machine_reset(k);
}

static void write_data(void *dev, u64 off, u64 value, unsigned size)
{
	struct i8042 *k = dev;
	u8 v = (u8)value, command = k->regs.command;

	k->regs.status &= ~ST_CMD;
	k->regs.command = 0;
	switch (command) {
	case 0x60:
		k->regs.control = v & 0x77;
		k->regs.status = (k->regs.status & ~ST_SYS) | (v & CTL_SYS);
		break;
	case 0xd1: write_output_port(k, v); break;
	case 0xd2: answer(k, v, 0); break;
	case 0xd3: answer(k, v, ST_AUX_OBF); break;
	case 0xd4:
		if (k->plugged)
			ps2_aux_write(&k->regs.aux, v);
		else
			answer(k, KBD_RESEND, ST_AUX_OBF | ST_TIMEOUT);
		break;
	default:
		if (k->plugged) {
			k->regs.control &= ~CTL_KBD_OFF; /* sending to the keyboard enables its interface */
			ps2_kbd_write(&k->regs.kbd, v);
		} else {
			answer(k, KBD_RESEND, ST_TIMEOUT);
		}
		break;
	}
	refill(k);
}

static u64 read_data(void *dev, u64 off, unsigned size)
{
	struct i8042 *k = dev;

	u8 v = k->regs.data;

	k->regs.status &= ~(ST_OBF | ST_AUX_OBF | ST_TIMEOUT);
	kbc_update(k); /* the line falls between two bytes */
	refill(k);
	return v;
}

static u64 read_status(void *dev, u64 off, unsigned size)
{
	return ((struct i8042 *)dev)->regs.status;
}

static const struct bus_ops data_ops = { read_data, write_data };
static const struct bus_ops command_ops = { read_status, write_command };

static void kbc_reset(void *dev)
{
	struct i8042 *k = dev;

	k->regs = (struct i8042_regs){ .status = ST_UNLOCKED, .control = CTL_KBD_OFF | CTL_AUX_OFF | CTL_XLATE,
		.output_port = OUT_RESET | OUT_A20 };
	ps2_reset(&k->regs);
	kbc_update(k);
}

static void kbc_loaded(void *dev)
{
	struct i8042 *k = dev;

	ps2_loaded(&k->regs);
	kbc_update(k);
	irq_line_set(k->irq_kbd, k->line_kbd);
	irq_line_set(k->irq_aux, k->line_aux);
}

void i8042_plug(struct i8042 *k) { k->plugged = true; }

void i8042_key(struct i8042 *k, u16 code, bool down)
{
	bus_lock(k->bus);
	ps2_kbd_key(&k->regs.kbd, code, down);
	refill(k);
	bus_unlock(k->bus);
}

void i8042_mouse(struct i8042 *k, int dx, int dy, int dz, u8 buttons)
{
	bus_lock(k->bus);
	ps2_aux_move(&k->regs.aux, dx, dy, dz, buttons);
	refill(k);
	bus_unlock(k->bus);
}

struct i8042 *i8042_create(struct bus *bus, struct dev_list *devs, struct irq_line kbd, struct irq_line aux)
{
	struct i8042 *k = dev_alloc(sizeof(*k));

	k->bus = bus;
	k->irq_kbd = kbd;
	k->irq_aux = aux;
	bus_add_port(bus, PORT_DATA, 1, &data_ops, k, "i8042-data");
	bus_add_port(bus, PORT_COMMAND, 1, &command_ops, k, "i8042-command");
	dev_list_add(devs, &(struct dev_instance){ .name = "i8042", .desc = &i8042_regs_state, .regs = &k->regs, .dev = k,
		.reset = kbc_reset, .loaded = kbc_loaded, .destroy = free });
	kbc_reset(k);
	return k;
}
