/* ICH9 power management. */
#include "dev/ich9_pm.h"
#include "base/log.h"
#include <stdlib.h>

STATE_DESC(ich9_pm_regs, ICH9_PM_STATE);

enum { PM1_STS = 0x00, PM1_EN = 0x02, PM1_CNT = 0x04, PM_TMR = 0x08, GPE0_STS = 0x20, GPE0_EN = 0x28, SMI_EN = 0x30 };
enum {
	TMROF = BIT(0), PWRBTN = BIT(8), STS_CLEARABLE = 0x8f31, EN_WRITABLE = 0x4721, SCI_SOURCES = 0x0721,
	SCI_EN = BIT(0), SLP_TYP_SHIFT = 10, SLP_EN = BIT(13), CNT_WRITABLE = 0x1c02,
	/* Firmware that sees APMC_EN set takes SMM as installed and leaves it alone; there is none here. */
	SMI_EN_RESET = BIT(5),
};

static u64 timer_ticks(const struct ich9_pm *p)
{
	return clock_mul_div(clock_now(p->bus->clock), PM_TMR_HZ, NSEC_PER_SEC);
}

/* TMROF is set whenever bit 23 of the timer has toggled since it was last cleared. */
static u16 pm1_status(const struct ich9_pm *p)
{
	return p->regs.pm1_sts | (timer_ticks(p) >> 23 != p->regs.tmrof_base >> 23 ? TMROF : 0);
}

static void pm_update(struct ich9_pm *p)
{
	struct ich9_pm_regs *r = &p->regs;
	u16 sts = pm1_status(p);
	u64 deadline = CLOCK_NEVER;

	if ((r->pm1_en & TMROF) && !(sts & TMROF))
		deadline = clock_mul_div(((timer_ticks(p) >> 23) + 1) << 23, NSEC_PER_SEC, PM_TMR_HZ) + 1;
	clock_arm(p->bus->clock, &p->overflow, deadline);
	irq_line_set(p->cfg.sci, (sts & r->pm1_en & SCI_SOURCES) || (r->gpe_sts & r->gpe_en));
}

static u8 pm_read8(void *dev, u64 off)
{
	const struct ich9_pm *p = dev;
	const struct ich9_pm_regs *r = &p->regs;

	switch (off & ~(u64)1) {
	case PM1_STS: return (u8)(pm1_status(p) >> (8 * (off & 1)));
	case PM1_EN: return (u8)(r->pm1_en >> (8 * (off & 1)));
	case PM1_CNT: return (u8)((r->pm1_cnt | SCI_EN) >> (8 * (off & 1)));
	}
	switch (off & ~(u64)7) {
	case GPE0_STS: return (u8)(r->gpe_sts >> (8 * (off & 7)));
	case GPE0_EN: return (u8)(r->gpe_en >> (8 * (off & 7)));
	case SMI_EN: return off < SMI_EN + 4 ? (u8)(r->smi_en >> (8 * (off & 3))) : 0;
	}
	return 0;
}

static u64 pm_read(void *dev, u64 off, unsigned size)
{
	if (off >= PM_TMR && off + size <= PM_TMR + 4)
		return (timer_ticks(dev) & 0xffffff) >> (8 * (off - PM_TMR)) & low_mask(8 * size);
	return dev_read_bytes(dev, off, size, pm_read8);
}

static void clear_status(struct ich9_pm *p, u16 ones)
{
	p->regs.pm1_sts &= ~(ones & STS_CLEARABLE);
	if (ones & TMROF)
		p->regs.tmrof_base = timer_ticks(p);
}

static void set_byte16(u16 *reg, u64 off, u8 v, u16 writable)
{
	unsigned shift = 8 * (off & 1);
	u16 w = writable & (0xff << shift);

	*reg = (*reg & ~w) | (u16)((v << shift) & w);
}

static void pm_write8(void *dev, u64 off, u8 v)
{
	struct ich9_pm *p = dev;
	struct ich9_pm_regs *r = &p->regs;

	switch (off & ~(u64)1) {
	case PM1_STS: clear_status(p, (u16)(v << (8 * (off & 1)))); return;
	case PM1_EN: set_byte16(&r->pm1_en, off, v, EN_WRITABLE); return;
	case PM1_CNT: set_byte16(&r->pm1_cnt, off, v, CNT_WRITABLE | SLP_EN); return;
	}
	switch (off & ~(u64)7) {
	case GPE0_STS: r->gpe_sts &= ~((u64)v << (8 * (off & 7))); return;
	case GPE0_EN: store_le((u8 *)&r->gpe_en + (off & 7), v, 1); return;
	case SMI_EN:
		if (off < SMI_EN + 4)
			store_le((u8 *)&r->smi_en + (off & 3), v, 1);
		return;
	}
}

static void enter_sleep(struct ich9_pm *p)
{
	unsigned type = bits(p->regs.pm1_cnt, 12, SLP_TYP_SHIFT);

	p->regs.pm1_cnt &= ~SLP_EN; /* write-only */
	if (type != p->cfg.slp_typ_s5) {
		todo("sleep states other than S5");
		return;
	}
	if (p->bus->power)
		p->bus->power(p->bus->power_opaque, BUS_POWER_OFF, 0);
}

static void pm_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct ich9_pm *p = dev;

	dev_write_bytes(dev, off, value, size, pm_write8);
	if (p->regs.pm1_cnt & SLP_EN)
		enter_sleep(p);
	pm_update(p);
}

static const struct bus_ops pm_ops = { pm_read, pm_write };

void ich9_pm_place(struct ich9_pm *p, u16 base, bool enabled)
{
	bus_move_port(p->bus, p->window, base, enabled);
}

void ich9_pm_power_button(struct ich9_pm *p)
{
	pthread_mutex_lock(&p->bus->lock);
	p->regs.pm1_sts |= PWRBTN;
	pm_update(p);
	pthread_mutex_unlock(&p->bus->lock);
}

static void overflow_fire(void *opaque)
{
	pm_update(opaque);
}

static void pm_reset(void *dev)
{
	struct ich9_pm *p = dev;

	p->regs = (struct ich9_pm_regs){ .smi_en = SMI_EN_RESET, .pm1_cnt = SCI_EN, .tmrof_base = timer_ticks(p) };
	pm_update(p);
}

static void pm_loaded(void *dev)
{
	pm_update(dev);
}

static void pm_destroy(void *dev)
{
	struct ich9_pm *p = dev;

	clock_del_timer(p->bus->clock, &p->overflow);
	free(p);
}

struct ich9_pm *ich9_pm_create(struct bus *bus, struct dev_list *devs, const struct ich9_pm_config *cfg)
{
	struct ich9_pm *p = dev_alloc(sizeof(*p));

	p->bus = bus;
	p->cfg = *cfg;
	p->overflow = (struct clock_timer){ .deadline = CLOCK_NEVER, .fire = overflow_fire, .opaque = p,
		.name = "pm-timer", .locked = true };
	clock_add_timer(bus->clock, &p->overflow);
	p->window = bus_add_port(bus, ICH9_PM_DEFAULT_BASE, ICH9_PM_SIZE, &pm_ops, p, "ich9-pm");
	ich9_pm_place(p, 0, false);
	dev_list_add(devs, &(struct dev_instance){ .name = "ich9-pm", .desc = &ich9_pm_regs_state, .regs = &p->regs, .dev = p,
		.reset = pm_reset, .loaded = pm_loaded, .destroy = pm_destroy });
	pm_reset(p);
	return p;
}
