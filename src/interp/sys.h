/* System instructions share one handler, which sets rip and calls the body in insn.aux. Private to interp/. */
#ifndef NB_INTERP_SYS_H
#define NB_INTERP_SYS_H

#include "interp/select.h"

typedef enum step sys_fn(struct cpu *c, const struct insn *i);

/* system.c, sysreg.c, systab.c */
sys_fn sys_cpuid, sys_rdtsc, sys_rdtscp, sys_rdpid, sys_rdpmc, sys_rdmsr, sys_wrmsr, sys_hlt, sys_pause, sys_cli, sys_sti, sys_monitor, sys_mwait,
	sys_invlpg, sys_invpcid, sys_invd, sys_wbinvd, sys_clac, sys_stac, sys_swapgs, sys_rdbase, sys_wrbase, sys_rdpkru, sys_wrpkru, sys_xgetbv, sys_xsetbv,
	sys_clflush, sys_fence, sys_serialize, sys_rdrand, sys_syscall, sys_sysret, sys_sysenter, sys_sysexit, sys_virt, sys_ud,
	sys_mov_from_cr, sys_mov_to_cr, sys_mov_from_dr, sys_mov_to_dr, sys_clts, sys_lmsw, sys_smsw,
	sys_sgdt, sys_lgdt, sys_sldt, sys_lldt, sys_ltr, sys_lar, sys_verr, sys_arpl, sys_lseg, sys_bound, sys_int, sys_int3, sys_int1, sys_into;

static inline bool not_cpl0(const struct cpu *c) { return c->arch.cpl != 0; }
/* SDM "UMIP": SGDT SIDT SLDT SMSW STR fault outside ring 0. */
static inline bool umip_denied(const struct cpu *c) { return c->arch.cpl && (c->arch.cr4 & CR4_UMIP); }

#endif
