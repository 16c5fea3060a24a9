/* System instructions: identification, time, MSRs, halting, interrupt flag, caches and TLB, segment bases, extended control registers, system calls. */
#include "interp/sys.h"
#include "base/log.h"
#include <sys/random.h>

static u64 edx_eax(const struct cpu *c) { return (u64)rd_u32(c, GPR_RDX) << 32 | rd_u32(c, GPR_RAX); }
static void set_edx_eax(struct cpu *c, u64 v)
{
	wr_u32(c, GPR_RAX, (u32)v);
	wr_u32(c, GPR_RDX, (u32)(v >> 32));
}

/* ---- identification, time ---- */
hot_path enum step sys_cpuid(struct cpu *c, const struct insn *i)
{
	u32 r[4];
	if (cpu_icept(c, ICEPT_CPUID, i, 0, 0))
		return STEP_STOP;
	cpu_cpuid(c, rd_u32(c, GPR_RAX), rd_u32(c, GPR_RCX), r);
	wr_u32(c, GPR_RAX, r[0]);
	wr_u32(c, GPR_RBX, r[1]);
	wr_u32(c, GPR_RCX, r[2]);
	wr_u32(c, GPR_RDX, r[3]);
	return STEP_END;
}

static u64 guest_tsc(struct cpu *c)
{
	u64 t = cpu_tsc(c);
	return c->arch.guest_mode ? c->virt->tsc(c, t) : t;
}

static bool tsc_denied(const struct cpu *c) { return (c->arch.cr4 & CR4_TSD) && c->arch.cpl; }

enum step sys_rdtsc(struct cpu *c, const struct insn *i)
{
	if (tsc_denied(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_RDTSC, i, 0, 0))
		return STEP_STOP;
	set_edx_eax(c, guest_tsc(c));
	return STEP_END;
}

enum step sys_rdtscp(struct cpu *c, const struct insn *i)
{
	if (tsc_denied(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_RDTSCP, i, 0, 0))
		return STEP_STOP;
	set_edx_eax(c, guest_tsc(c));
	wr_u32(c, GPR_RCX, (u32)c->arch.tsc_aux);
	return STEP_END;
}

enum step sys_rdpid(struct cpu *c, const struct insn *i)
{
	if (cpu_icept(c, ICEPT_RDPID, i, 0, 0))
		return STEP_STOP;
	wr_u64(c, i->dst, (u32)c->arch.tsc_aux);
	return STEP_END;
}

/* No performance counters are shown (CPUID leaf 0Ah version 0): every index is out of range. */
enum step sys_rdpmc(struct cpu *c, const struct insn *i)
{
	if (c->arch.cpl && (c->arch.cr0 & CR0_PE) && !(c->arch.cr4 & CR4_PCE))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_RDPMC, i, 0, 0))
		return STEP_STOP;
	return cpu_gp(c, 0);
}

/* ---- MSRs ---- */
static enum step msr_failed(struct cpu *c) { return c->fault.kind == EVENT_VIRT ? STEP_FAULT : cpu_gp(c, 0); }

enum step sys_rdmsr(struct cpu *c, const struct insn *i)
{
	u32 msr = rd_u32(c, GPR_RCX);
	u64 v = 0;
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_RDMSR, i, msr, 0))
		return STEP_STOP;
	c->fault.kind = EVENT_NONE;
	bool ok = cpu_rdmsr(c, msr, &v);
	if (trace_on(TRACE_MSR))
		trace_line(TRACE_MSR, "cpu%u rdmsr %x -> %llx%s at %llx", c->index, msr, (unsigned long long)v, ok ? "" : " #GP", (unsigned long long)c->arch.rip);
	if (!ok)
		return msr_failed(c);
	set_edx_eax(c, v);
	return STEP_END;
}

enum step sys_wrmsr(struct cpu *c, const struct insn *i)
{
	u32 msr = rd_u32(c, GPR_RCX);
	u64 v = edx_eax(c);
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_WRMSR, i, msr, 0))
		return STEP_STOP;
	c->fault.kind = EVENT_NONE;
	bool ok = cpu_wrmsr(c, msr, v);
	if (trace_on(TRACE_MSR))
		trace_line(TRACE_MSR, "cpu%u wrmsr %x <- %llx%s at %llx", c->index, msr, (unsigned long long)v, ok ? "" : " #GP", (unsigned long long)c->arch.rip);
	return ok ? stop_next(c, i) : msr_failed(c);
}

/* ---- halting, interrupt flag ---- */
enum step sys_hlt(struct cpu *c, const struct insn *i)
{
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_HLT, i, 0, 0))
		return STEP_STOP;
	c->arch.rip = insn_next_rip(c, i);
	cpu_halt(c, ACT_HLT);
	return STEP_STOP;
}

enum step sys_pause(struct cpu *c, const struct insn *i)
{
	if (cpu_icept(c, ICEPT_PAUSE, i, 0, 0))
		return STEP_STOP;
	if (c->ncpus > 1) {
		__builtin_ia32_pause();
		if (--c->pauses < 0)
			cpu_paused(c);
	}
	return STEP_END;
}

/* SDM "CLI", "STI": without I/O privilege, VIF instead of IF when PVI (ring 3) or VME (virtual-8086 mode) is on. */
static bool if_allowed(const struct cpu *c) { return c->arch.cpl <= (c->arch.rflags & FLAG_IOPL) >> 12; }
static bool vif_instead(const struct cpu *c)
{
	return c->arch.rflags & FLAG_VM ? c->arch.cr4 & CR4_VME : c->arch.cpl == 3 && (c->arch.cr4 & CR4_PVI);
}

enum step sys_cli(struct cpu *c, const struct insn *i)
{
	if (likely(if_allowed(c)))
		c->arch.rflags &= ~FLAG_IF;
	else if (vif_instead(c))
		c->arch.rflags &= ~FLAG_VIF;
	else
		return cpu_gp(c, 0);
	return STEP_END;
}

enum step sys_sti(struct cpu *c, const struct insn *i)
{
	if (unlikely(!if_allowed(c))) {
		if (!vif_instead(c) || (c->arch.rflags & FLAG_VIP))
			return cpu_gp(c, 0);
		c->arch.rflags |= FLAG_VIF;
		return STEP_END;
	}
	if (c->arch.rflags & FLAG_IF)
		return STEP_END;
	c->arch.rflags |= FLAG_IF;
	cpu_unblocked(c);
	cpu_set_shadow(c, SHADOW_STI);
	return stop_next(c, i);
}

enum step sys_monitor(struct cpu *c, const struct insn *i)
{
	u64 la;
	if (not_cpl0(c))
		return cpu_ud(c);
	if (cpu_icept(c, ICEPT_MONITOR, i, 0, 0))
		return STEP_STOP;
	if (rd_u32(c, GPR_RCX))
		return cpu_gp(c, 0);
	if (!seg_la(c, i, i->seg, rd_u64(c, GPR_RAX) & size_mask(i->asize), 1, false, &la) || !mmu_probe_read(c, la, 1))
		return STEP_FAULT;
	return STEP_END;
}

/* Wakes at once: the manual lets MWAIT end for any reason. */
enum step sys_mwait(struct cpu *c, const struct insn *i)
{
	if (not_cpl0(c))
		return cpu_ud(c);
	if (cpu_icept(c, ICEPT_MWAIT, i, 0, 0))
		return STEP_STOP;
	return rd_u32(c, GPR_RCX) > 1 ? cpu_gp(c, 0) : STEP_END;
}

/* ---- caches and TLB ---- */
enum step sys_invlpg(struct cpu *c, const struct insn *i)
{
	u64 la = c->seg_base[i->seg] + ea_masked(c, i);
	if (!(c->mode & MODE_L))
		la = (u32)la;
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if (cpu_icept(c, ICEPT_INVLPG, i, la, 0))
		return STEP_STOP;
	if (cpu_canonical(la))
		mmu_invlpg(c, gva(la));
	return stop_next(c, i);
}

enum step sys_invpcid(struct cpu *c, const struct insn *i)
{
	u64 la, desc[2];
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	if (c->arch.guest_mode && cpu_icept(c, ICEPT_INVPCID, i, c->seg_base[i->seg] + ea_masked(c, i), 0))
		return STEP_STOP;
	if (!mem_la(c, i, 0, 16, false, &la))
		return STEP_FAULT;
	if (!mmu_read_bytes(c, la, desc, 16)) {
		interp_fix_fault(c, i->seg, la);
		return STEP_FAULT;
	}
	u64 type = c->mode & MODE_L ? rd_u64(c, i->dst) : rd_u32(c, i->dst);
	enum step s = cpu_invpcid(c, type, desc[0], desc[1]);
	return s == STEP_FAULT ? s : stop_next(c, i);
}

enum step sys_invd(struct cpu *c, const struct insn *i)
{
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	return cpu_icept(c, ICEPT_INVD, i, 0, 0) ? STEP_STOP : STEP_END;
}

enum step sys_wbinvd(struct cpu *c, const struct insn *i)
{
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	return cpu_icept(c, ICEPT_WBINVD, i, 0, 0) ? STEP_STOP : STEP_END;
}

/* Memory is always coherent; what remains is that they fault like a read of one byte. */
enum step sys_clflush(struct cpu *c, const struct insn *i)
{
	u64 la;
	if (!mem_la(c, i, 0, 1, false, &la))
		return STEP_FAULT;
	if (mmu_probe_read(c, la, 1))
		return STEP_END;
	interp_fix_fault(c, i->seg, la);
	return STEP_FAULT;
}

enum step sys_fence(struct cpu *c, const struct insn *i)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return STEP_END;
}

enum step sys_serialize(struct cpu *c, const struct insn *i)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return stop_next(c, i);
}

/* ---- RFLAGS.AC, segment bases, protection keys ---- */
static enum step set_ac(struct cpu *c, u64 ac)
{
	if (c->arch.cpl)
		return cpu_ud(c);
	c->arch.rflags = (c->arch.rflags & ~FLAG_AC) | ac;
	c->acc_class = mmu_access_class(c);
	return STEP_END;
}
enum step sys_clac(struct cpu *c, const struct insn *i) { return set_ac(c, 0); }
enum step sys_stac(struct cpu *c, const struct insn *i) { return set_ac(c, FLAG_AC); }

static void set_base(struct cpu *c, unsigned seg, u64 base)
{
	c->arch.seg[seg].base = base;
	c->seg_base[seg] = base;
}

enum step sys_swapgs(struct cpu *c, const struct insn *i)
{
	u64 old = c->arch.seg[SEG_GS].base;
	if (not_cpl0(c))
		return cpu_gp(c, 0);
	set_base(c, SEG_GS, c->arch.kernel_gs_base);
	c->arch.kernel_gs_base = old;
	return STEP_END;
}

enum step sys_rdbase(struct cpu *c, const struct insn *i)
{
	unsigned seg = i->op == ZYDIS_MNEMONIC_RDFSBASE ? SEG_FS : SEG_GS;
	if (!(c->arch.cr4 & CR4_FSGSBASE))
		return cpu_ud(c);
	wr_size(c, i->dst, i->opsize, c->arch.seg[seg].base);
	return STEP_END;
}

enum step sys_wrbase(struct cpu *c, const struct insn *i)
{
	unsigned seg = i->op == ZYDIS_MNEMONIC_WRFSBASE ? SEG_FS : SEG_GS;
	u64 base = rd_size(c, i->dst, i->opsize);
	if (!(c->arch.cr4 & CR4_FSGSBASE))
		return cpu_ud(c);
	if (!cpu_canonical(base))
		return cpu_gp(c, 0);
	set_base(c, seg, base);
	return STEP_END;
}

enum step sys_rdpkru(struct cpu *c, const struct insn *i)
{
	if (!(c->arch.cr4 & CR4_PKE))
		return cpu_ud(c);
	if (rd_u32(c, GPR_RCX))
		return cpu_gp(c, 0);
	set_edx_eax(c, c->arch.pkru);
	return STEP_END;
}

enum step sys_wrpkru(struct cpu *c, const struct insn *i)
{
	if (!(c->arch.cr4 & CR4_PKE))
		return cpu_ud(c);
	if (rd_u32(c, GPR_RCX) || rd_u32(c, GPR_RDX))
		return cpu_gp(c, 0);
	if (c->arch.pkru == rd_u32(c, GPR_RAX))
		return STEP_END;
	c->arch.pkru = rd_u32(c, GPR_RAX);
	mmu_flush_pkeys(c);
	return STEP_END;
}

/* ---- XCR0 ---- */
/* Index 1 would tell which components are in their initial state; saying that all may be in use is allowed. */
enum step sys_xgetbv(struct cpu *c, const struct insn *i)
{
	u32 n = rd_u32(c, GPR_RCX);
	if (!(c->arch.cr4 & CR4_OSXSAVE))
		return cpu_ud(c);
	if (n > 1 || (n == 1 && !cpu_has(c, FEAT_XGETBV1)))
		return cpu_gp(c, 0);
	set_edx_eax(c, c->arch.xcr0);
	return STEP_END;
}

enum step sys_xsetbv(struct cpu *c, const struct insn *i)
{
	if (!(c->arch.cr4 & CR4_OSXSAVE))
		return cpu_ud(c);
	if (cpu_icept(c, ICEPT_XSETBV, i, 0, 0))
		return STEP_STOP;
	if (not_cpl0(c) || rd_u32(c, GPR_RCX))
		return cpu_gp(c, 0);
	enum step s = cpu_set_xcr0(c, edx_eax(c));
	return s == STEP_FAULT ? s : stop_next(c, i);
}

/* ---- random numbers ---- */
/* Always succeeds: CF = 1, the other five flags 0. */
enum step sys_rdrand(struct cpu *c, const struct insn *i)
{
	static _Thread_local struct { u64 v[32]; unsigned left; } pool;
	if (cpu_icept(c, i->op == ZYDIS_MNEMONIC_RDRAND ? ICEPT_RDRAND : ICEPT_RDSEED, i, 0, 0))
		return STEP_STOP;
	if (!pool.left) {
		if (getrandom(pool.v, sizeof pool.v, 0) != sizeof pool.v) {
			wr_size(c, i->dst, i->opsize, 0); /* the host has none: CF = 0 tells the guest to try again */
			c->arch.cc = 0x200;
			return STEP_END;
		}
		pool.left = array_len(pool.v);
	}
	wr_size(c, i->dst, i->opsize, pool.v[--pool.left]);
	c->arch.cc = CC_CF | 0x200;
	return STEP_END;
}

/* ---- system calls: the core sets rip ---- */
enum step sys_syscall(struct cpu *c, const struct insn *i) { return cpu_syscall(c, i->len); }
enum step sys_sysret(struct cpu *c, const struct insn *i) { return cpu_sysret(c, i->opsize); }
enum step sys_sysenter(struct cpu *c, const struct insn *i) { return cpu_sysenter(c); }
enum step sys_sysexit(struct cpu *c, const struct insn *i) { return cpu_sysexit(c, i->opsize); }

/* ---- the vendors' own instructions; they advance rip themselves ---- */
enum step sys_virt(struct cpu *c, const struct insn *i) { return c->virt ? c->virt->insn(c, i) : cpu_ud(c); }
enum step sys_ud(struct cpu *c, const struct insn *i) { return cpu_ud(c); }
