/* NS16550A serial port (National Semiconductor PC16550D data sheet). Not here: where the bytes go (vm/ gives an
 * output function). Surprise: a byte leaves at once, so the transmitter is always empty; only the interrupt rules
 * remain of the FIFO. */
#ifndef NB_DEV_UART16550_H
#define NB_DEV_UART16550_H

#include "bus/bus.h"
#include "dev/dev.h"

#define UART_FIFO 16
#define UART_BACKLOG 4096

#define UART16550_STATE(F, A) \
	F(u8, ier) F(u8, fcr) F(u8, lcr) F(u8, mcr) \
	F(u8, lsr) F(u8, msr) F(u8, scr) F(u8, dll) \
	F(u8, dlm) F(u8, thre_pending) F(u8, rx_head) F(u8, rx_count) \
	A(u8, rx, UART_FIFO)
STATE_STRUCT(uart16550_regs, UART16550_STATE);

struct uart16550_config {
	const char *name;  /* "com1" */
	u16 port;
	struct irq_line irq;
	void (*output)(void *opaque, u8 byte); /* under bus->lock: must not block for long */
	void (*input_space)(void *opaque);     /* optional: the guest has read; uart_receive() will take more */
	void *opaque;
};

struct uart16550 {
	struct uart16550_config cfg;
	struct bus *bus;
	struct uart16550_regs regs;      /* bus->lock, as all below */
	u8 backlog[UART_BACKLOG];        /* accepted from the host, not yet in the chip: still "on the wire" */
	unsigned backlog_head, backlog_count;
	bool line;                       /* level last given to cfg.irq */
};

struct uart16550 *uart16550_create(struct bus *bus, struct dev_list *devs, const struct uart16550_config *cfg);

/* Bytes arrive from the host. Any thread; takes bus->lock. Returns how many were taken (the rest later, see
 * input_space). */
size_t uart16550_receive(struct uart16550 *u, const u8 *data, size_t len);

#endif
