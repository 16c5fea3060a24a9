/* Local APIC of one vCPU, xAPIC and x2APIC (SDM "Advanced Programmable Interrupt Controller (APIC)"). Not here: which APIC a message is for (system.c).
 *
 * Threads: the vCPU's own thread owns everything but irr, tmr, esr_new, lint0, lint1 and extint, which others change with atomics; they then set
 * cpu->pending and kick. id, ldr, dfr, svr, ppr, lvt and arch.apic_base are written by the owner and read by senders, so all go through
 * relaxed atomics. Surprise: the timer's expiry only sets a flag; the owner turns it into an interrupt when it next looks.
 *
 * Choices: 6 LVT entries (no CMCI), no EOI-broadcast suppression (version 00050014h), the xAPIC ID is writable ("model specific"), ExtINT before fixed interrupts. */
#ifndef NB_LAPIC_H
#define NB_LAPIC_H

#include "irq/irq.h"

/* Register numbers: xAPIC offset / 16 = x2APIC MSR - 800h. */
enum lapic_reg {
	LAPIC_ID = 0x02, LAPIC_VERSION = 0x03, LAPIC_TPR = 0x08, LAPIC_APR = 0x09, LAPIC_PPR = 0x0a, LAPIC_EOI = 0x0b, LAPIC_RRD = 0x0c,
	LAPIC_LDR = 0x0d, LAPIC_DFR = 0x0e, LAPIC_SVR = 0x0f, LAPIC_ISR = 0x10, LAPIC_TMR = 0x18, LAPIC_IRR = 0x20, LAPIC_ESR = 0x28,
	LAPIC_ICR = 0x30, LAPIC_ICR2 = 0x31, LAPIC_LVT = 0x32, LAPIC_TIMER_INIT = 0x38, LAPIC_TIMER_COUNT = 0x39, LAPIC_TIMER_DIV = 0x3e,
	LAPIC_SELF_IPI = 0x3f, LAPIC_REGS = 0x40,
};

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define LVT_MASKED      0x10000u
#define LVT_LEVEL       0x8000u
#define LVT_REMOTE      0x4000u
#define LVT_MODE(v)     (((v) >> 8) & 7)
#define LVT_TIMER_MODE(v) (((v) >> 17) & 3)
enum lapic_timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE, TIMER_RESERVED };

#define SVR_ENABLED     0x100u
#define APIC_BASE_BSP   BIT(8)
#define APIC_BASE_X2    BIT(10)
#define APIC_BASE_EN    BIT(11)
#define APIC_BASE_RESET 0xfee00000u

/* SDM "Error Handling": ESR bits. */
#define ESR_SEND_ILLEGAL    (1u << 5)
#define ESR_RECEIVE_ILLEGAL (1u << 6)
#define ESR_BAD_REGISTER    (1u << 7)

#define LAPIC_STATE(F, A) \
	A(u32, irr, 8) A(u32, isr, 8) A(u32, tmr, 8) \
	F(u64, icr) \
	F(u64, tsc_deadline) \
	F(u64, timer_end)       /* V at which the current count reaches 0; 0 = stopped */ \
	A(u32, lvt, LVT_COUNT) \
	F(u32, id)              /* as the xAPIC register shows it */ \
	F(u32, ldr) F(u32, dfr) F(u32, svr) F(u32, tpr) F(u32, ppr) \
	F(u32, esr) F(u32, esr_new) /* errors since the last ESR write */ \
	F(u32, timer_init) F(u32, timer_div) \
	F(u8, lint0) F(u8, lint1) /* pin levels */ \
	F(u8, extint)           /* an ExtINT message came (IOAPIC pin 0) */ \
	A(u8, pad_, 5)
STATE_STRUCT(lapic_regs, LAPIC_STATE);
extern const struct state_desc lapic_regs_state;

struct lapic {
	struct irq_system *sys;
	struct cpu *cpu;
	struct lapic_regs regs;
	struct clock_timer timer;
	u32 timer_due;          /* atomic: the timer fired, the owner has not looked yet */
	char name[16];
};

extern const struct intc_ops lapic_intc_ops;

/* Power-on (also sets arch.apic_base) or INIT state (SDM "Local APIC State After It Receives an INIT Reset", which keeps the APIC ID). */
void lapic_reset(struct lapic *l, bool power_on);

static inline u32 lapic_load(const u32 *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void lapic_store(u32 *p, u32 v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline u64 lapic_base(const struct lapic *l) { return __atomic_load_n(&l->cpu->arch.apic_base, __ATOMIC_RELAXED); }
static inline bool lapic_enabled(const struct lapic *l) { return lapic_base(l) & APIC_BASE_EN; }
static inline bool lapic_x2(const struct lapic *l) { return (lapic_base(l) & (APIC_BASE_EN | APIC_BASE_X2)) == (APIC_BASE_EN | APIC_BASE_X2); }
static inline bool lapic_soft_enabled(const struct lapic *l) { return lapic_load(&l->regs.svr) & SVR_ENABLED; }

/* ---- any thread ---- */
/* The message is for this APIC; false if it refuses (disabled). */
bool lapic_accept(struct lapic *l, unsigned mode, u8 vector, bool level);
bool lapic_matches(const struct lapic *l, const struct irq_msg *m);
void lapic_error(struct lapic *l, u32 bits);
/* Pins. LINT0 is the 8259's INTR. */
void lapic_lint(struct lapic *l, unsigned pin, int level);

/* ---- own thread ---- */
u64 lapic_now(struct lapic *l);
void lapic_local(struct lapic *l, enum lapic_lvt which);       /* a local source fires: do what its LVT entry says */
void lapic_send(struct lapic *l, u32 low, u32 dest, bool wide); /* ICR written */
void lapic_recheck(struct lapic *l);                           /* priorities changed: something may have become deliverable */
bool lapic_reg_read(struct lapic *l, unsigned reg, u64 *v);    /* false: no such register in this mode */
bool lapic_reg_write(struct lapic *l, unsigned reg, u64 v);    /* false: #GP in x2APIC mode */

/* ---- timer (lapic_timer.c), own thread ---- */
void lapic_timer_setup(struct lapic *l);                       /* once, at creation */
void lapic_timer_sync(struct lapic *l);                        /* bring expiry up to date with V */
void lapic_timer_stop(struct lapic *l);
void lapic_timer_rearm(struct lapic *l);
u32 lapic_timer_count(struct lapic *l);
void lapic_timer_set_init(struct lapic *l, u32 v);
void lapic_timer_set_div(struct lapic *l, u32 v);
void lapic_timer_set_lvt(struct lapic *l, u32 v);
void lapic_timer_set_deadline(struct lapic *l, u64 tsc);

#endif
