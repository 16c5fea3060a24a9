/* NS16550A serial port. Register names and bits: PC16550D data sheet, "Registers". */
#include "dev/uart16550.h"
#include <stdlib.h>

STATE_DESC(uart16550_regs, UART16550_STATE);

enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR, UART_PORTS };

enum {
	IER_RDA = 1, IER_THRE = 2, IER_RLS = 4, IER_MSR = 8,
	IIR_NONE = 0x01, IIR_MSR = 0x00, IIR_THRE = 0x02, IIR_RDA = 0x04, IIR_RLS = 0x06, IIR_TIMEOUT = 0x0c, IIR_FIFOS = 0xc0,
	FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4, FCR_TRIGGER = 0xc0,
	LCR_DLAB = 0x80,
	MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10,
	LSR_DR = 1, LSR_OE = 2, LSR_ERRORS = 0x1e, LSR_THRE = 0x20, LSR_TEMT = 0x40,
	MSR_DELTAS = 0x0f, MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80,
};

static unsigned rx_capacity(const struct uart16550_regs *r)
{
	return r->fcr & FCR_ENABLE ? UART_FIFO : 1;
}

static unsigned rx_trigger(const struct uart16550_regs *r)
{
	static const u8 level[4] = { 1, 4, 8, 14 };

	return r->fcr & FCR_ENABLE ? level[r->fcr >> 6] : 1;
}

static void rx_clear(struct uart16550_regs *r)
{
	r->rx_head = r->rx_count = 0;
	r->lsr &= ~LSR_DR;
}

static void rx_put(struct uart16550_regs *r, u8 byte)
{
	if (r->rx_count >= rx_capacity(r)) {
		r->lsr |= LSR_OE;
		return;
	}
	r->rx[(r->rx_head + r->rx_count++) % UART_FIFO] = byte;
	r->lsr |= LSR_DR;
}

/* Data sheet table "Interrupt Control Functions": highest priority first. A FIFO below its trigger level reports the
 * character timeout at once instead of after four character times: nothing is gained by waiting for a line that has
 * no speed. */
static u8 interrupt_id(const struct uart16550_regs *r)
{
	if ((r->ier & IER_RLS) && (r->lsr & LSR_ERRORS))
		return IIR_RLS;
	if ((r->ier & IER_RDA) && r->rx_count > 0)
		return r->rx_count >= rx_trigger(r) ? IIR_RDA : IIR_TIMEOUT;
	if ((r->ier & IER_THRE) && r->thre_pending)
		return IIR_THRE;
	if ((r->ier & IER_MSR) && (r->msr & MSR_DELTAS))
		return IIR_MSR;
	return IIR_NONE;
}

/* OUT2 gates the interrupt on PC boards. */
static void uart_update(struct uart16550 *u)
{
	bool line = interrupt_id(&u->regs) != IIR_NONE && (u->regs.mcr & MCR_OUT2);

	if (line != u->line) {
		u->line = line;
		irq_line_set(u->cfg.irq, line);
	}
}

/* Moves bytes from the wire into the chip; in loopback the receiver is cut off. */
static void rx_refill(struct uart16550 *u)
{
	struct uart16550_regs *r = &u->regs;

	while (u->backlog_count > 0 && r->rx_count < rx_capacity(r) && !(r->mcr & MCR_LOOP)) {
		rx_put(r, u->backlog[u->backlog_head]);
		u->backlog_head = (u->backlog_head + 1) % UART_BACKLOG;
		u->backlog_count--;
	}
}

static u8 rx_take(struct uart16550 *u)
{
	struct uart16550_regs *r = &u->regs;
	u8 byte = r->rx[r->rx_head];

	if (r->rx_count == 0)
		return 0;
	r->rx_head = (r->rx_head + 1) % UART_FIFO;
	if (--r->rx_count == 0)
		r->lsr &= ~LSR_DR;
	if (u->backlog_count > 0) {
		rx_refill(u);
		if (u->cfg.input_space)
			u->cfg.input_space(u->cfg.opaque);
	}
	return byte;
}

static void modem_update(struct uart16550_regs *r)
{
	u8 old = r->msr, lines = MSR_CTS | MSR_DSR | MSR_DCD;

	if (r->mcr & MCR_LOOP)
		lines = (r->mcr & MCR_DTR ? MSR_DSR : 0) | (r->mcr & MCR_RTS ? MSR_CTS : 0) |
			(r->mcr & MCR_OUT1 ? MSR_RI : 0) | (r->mcr & MCR_OUT2 ? MSR_DCD : 0);
	u8 changed = (old ^ lines) & 0xf0;

	/* TERI reports only the trailing edge of RI. */
	if ((changed & MSR_RI) && (lines & MSR_RI))
		changed &= ~MSR_RI;
	r->msr = lines | (old & MSR_DELTAS) | changed >> 4;
}

static u8 uart_read8(void *dev, u64 off)
{
	struct uart16550 *u = dev;
	struct uart16550_regs *r = &u->regs;
	u8 v = 0;

	switch (off) {
	case RBR_THR: v = r->lcr & LCR_DLAB ? r->dll : rx_take(u); break;
	case IER: return r->lcr & LCR_DLAB ? r->dlm : r->ier;
	case IIR_FCR:
		v = interrupt_id(r);
		if (v == IIR_THRE)
			r->thre_pending = 0;
		v |= r->fcr & FCR_ENABLE ? IIR_FIFOS : 0;
		break;
	case LCR: return r->lcr;
	case MCR: return r->mcr;
	case LSR:
		v = r->lsr;
		if (!(v & LSR_ERRORS))
			return v; /* the hot path of polled output */
		r->lsr &= ~LSR_ERRORS;
		break;
	case MSR:
		v = r->msr;
		r->msr &= ~MSR_DELTAS;
		break;
	case SCR: return r->scr;
	}
	uart_update(u);
	return v;
}

static void transmit(struct uart16550 *u, u8 byte)
{
	if (u->regs.mcr & MCR_LOOP)
		rx_put(&u->regs, byte);
	else if (u->cfg.output)
		u->cfg.output(u->cfg.opaque, byte);
	u->regs.thre_pending = 1;
}

static void write_ier(struct uart16550_regs *r, u8 v)
{
	v &= 0x0f;
	/* Enabling the interrupt while the holding register is empty raises it (Linux tests for that). */
	if ((v & IER_THRE) && !(r->ier & IER_THRE))
		r->thre_pending = 1;
	r->ier = v;
}

static void write_fcr(struct uart16550_regs *r, u8 v)
{
	if ((v ^ r->fcr) & FCR_ENABLE)
		v |= FCR_CLEAR_RX | FCR_CLEAR_TX;
	if (v & FCR_CLEAR_RX)
		rx_clear(r);
	/* The other bits are written only while bit 0 is. */
	r->fcr = v & FCR_ENABLE ? v & (FCR_ENABLE | FCR_TRIGGER) : 0;
}

static void uart_write8(void *dev, u64 off, u8 v)
{
	struct uart16550 *u = dev;
	struct uart16550_regs *r = &u->regs;

	switch (off) {
	case RBR_THR:
		if (r->lcr & LCR_DLAB)
			r->dll = v;
		else
			transmit(u, v);
		break;
	case IER:
		if (r->lcr & LCR_DLAB)
			r->dlm = v;
		else
			write_ier(r, v);
		break;
	case IIR_FCR: write_fcr(r, v); break;
	case LCR: r->lcr = v; return;
	case MCR:
		r->mcr = v & 0x1f;
		modem_update(r);
		break;
	case LSR: case MSR: return; /* read-only */
	case SCR: r->scr = v; return;
	}
	rx_refill(u);
	uart_update(u);
}

static u64 uart_read(void *dev, u64 off, unsigned size)
{
	return dev_read_bytes(dev, off, size, uart_read8);
}

static void uart_write(void *dev, u64 off, u64 value, unsigned size)
{
	dev_write_bytes(dev, off, value, size, uart_write8);
}

static const struct bus_ops uart_ops = { uart_read, uart_write };

size_t uart16550_receive(struct uart16550 *u, const u8 *data, size_t len)
{
	size_t n = 0;

	pthread_mutex_lock(&u->bus->lock);
	for (; n < len && u->backlog_count < UART_BACKLOG; n++)
		u->backlog[(u->backlog_head + u->backlog_count++) % UART_BACKLOG] = data[n];
	rx_refill(u);
	uart_update(u);
	pthread_mutex_unlock(&u->bus->lock);
	return n;
}

static void uart_reset(void *dev)
{
	struct uart16550 *u = dev;

	u->regs = (struct uart16550_regs){ .lsr = LSR_THRE | LSR_TEMT, .msr = MSR_CTS | MSR_DSR | MSR_DCD, .dll = 1 };
	uart_update(u);
}

static void uart_loaded(void *dev)
{
	struct uart16550 *u = dev;

	u->regs.rx_head %= UART_FIFO;
	u->regs.rx_count = min_u64(u->regs.rx_count, UART_FIFO);
	uart_update(u);
	irq_line_set(u->cfg.irq, u->line); /* say it again: the interrupt controllers were loaded too */
}

struct uart16550 *uart16550_create(struct bus *bus, struct dev_list *devs, const struct uart16550_config *cfg)
{
	struct uart16550 *u = dev_alloc(sizeof(*u));
	struct dev_instance inst = { .desc = &uart16550_regs_state, .regs = &u->regs, .dev = u, .reset = uart_reset,
		.loaded = uart_loaded, .destroy = free };

	u->cfg = *cfg;
	u->bus = bus;
	dev_list_unique_name(devs, cfg->name, inst.name, sizeof(inst.name));
	dev_list_add(devs, &inst);
	bus_add_port(bus, cfg->port, UART_PORTS, &uart_ops, u, cfg->name);
	uart_reset(u);
	return u;
}
