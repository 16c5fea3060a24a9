/* A CPU model: who the vCPUs say they are. Private to cpu/. Read-only after cpu_model_make. */
#ifndef NB_CPU_MODEL_H
#define NB_CPU_MODEL_H

#include "cpu/core.h"

struct cpuid_row {
	u32 leaf, sub; /* sub CPUID_ANY_SUB: the leaf has none */
	u32 r[4];      /* EAX EBX ECX EDX */
};
#define CPUID_ANY_SUB (~0u)
enum { EAX, EBX, ECX, EDX };

#define CPUID_MAX_BASIC 0x1fu
#define CPUID_MAX_EXT 0x80000008u
#define CPUID_MAX_ROWS 48

struct cpu_model {
	const char *name;
	u32 signature;  /* CPUID.1:EAX */
	u32 microcode;
	u64 arch_cap;   /* IA32_ARCH_CAPABILITIES */
	unsigned maxphyaddr;
	unsigned ncpus;
	bool has[FEAT_COUNT];
	struct cpuid_row rows[CPUID_MAX_ROWS];
	unsigned nrows;
};

u32 model_signature(const struct cpu_model *m);
u64 model_microcode(const struct cpu_model *m); /* as IA32_BIOS_SIGN_ID */
u64 model_xcr0(const struct cpu_model *m);      /* settable bits */

#endif
