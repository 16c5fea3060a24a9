/* High Precision Event Timer (IA-PC HPET Specification 1.0a): 64-bit counter at 100 MHz, three comparators, all periodic and MSI capable.
 * It also holds the legacy-replacement switch: the 8254's and the RTC's lines run through it. Surprise: a comparator never looks back; one that was
 * written too late matches only after the counter has wrapped, and guests find out by reading the counter again. */
#ifndef NB_HPET_H
#define NB_HPET_H

#include "bus/bus.h"
#include "dev/dev.h"

#define HPET_BASE 0xfed00000u
#define HPET_TIMERS 3
#define HPET_TICK_NS 10
#define HPET_LINES 24

#define HPET_STATE(F, A) \
	F(u64, config)                 /* bit 0 counter runs, bit 1 legacy replacement */ \
	F(u64, isr) \
	F(u64, counter) F(u64, counter_v) /* counter value at V = counter_v; when stopped just the value */ \
	A(u64, tn_config, HPET_TIMERS) A(u64, cmp, HPET_TIMERS) A(u64, period, HPET_TIMERS) A(u64, fsb, HPET_TIMERS) \
	A(u64, due, HPET_TIMERS)       /* V of the next match, CLOCK_NEVER if none */ \
	F(u32, lines)                  /* levels that we hold up, by line number */ \
	F(u8, pit_level) F(u8, rtc_level) A(u8, pad_, 2)
STATE_STRUCT(hpet_regs, HPET_STATE);
extern const struct state_desc hpet_regs_state;

struct hpet {
	struct bus *bus;
	struct irq_line lines[HPET_LINES];
	struct clock_timer timer;
	struct hpet_regs regs; /* bus->lock */
};

/* lines: 0 and 8 for legacy replacement, 20-23 for free routing; others are not used. */
struct hpet *hpet_create(struct bus *bus, struct dev_list *devs, const struct irq_line lines[HPET_LINES]);
/* What to hand to the 8254 and to the RTC as their interrupt line. */
struct irq_line hpet_pit_line(struct hpet *h);
struct irq_line hpet_rtc_line(struct hpet *h);

#endif
