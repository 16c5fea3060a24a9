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

#define PHYS_BITS_MIN 36u
#define PHYS_BITS_MAX 52u
#define PHYS_BITS_DEFAULT 46u

/* features.def */
#define NONE (-1)
enum how { OURS, HOST, VEX };
enum { HIDDEN = 0, FAST = 1, COMPAT = 2, BOTH = FAST | COMPAT, NESTED = 4, ABSENT = 8 };
struct feature_row {
	const char *name;
	i32 feature;
	u32 leaf, sub;
	u8 reg, bitno, how;
	u8 models;
};
extern const struct feature_row cpu_feature_rows[];
extern const unsigned cpu_feature_row_count;
#define FEATURE_ROWS_MAX 160
/* Can it be shown on this host? */
bool cpu_feature_possible(const struct feature_row *f);

/* --cpu MODEL[,+feature][,-feature][,phys-bits=N], parsed. */
enum want { WANT_DEFAULT, WANT_ON, WANT_OFF };
struct model_spec {
	const char *name; /* not terminated */
	size_t name_len;
	unsigned phys_bits; /* 0: not said */
	u8 want[FEATURE_ROWS_MAX];
};
/* False: one line in the log says what is wrong. */
bool model_spec_parse(const char *text, bool nested, struct model_spec *s);
void model_spec_print_help(void *file);

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
