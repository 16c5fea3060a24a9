/* CPU models: feature rows + identity -> a table of CPUID leaves. Dynamic bits are cpuid.c's. */
#include "cpu/model.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>

/* SDM "IA32_ARCH_CAPABILITIES MSR": what makes Linux leave every mitigation off that costs something per exit (RSBA and RRSBA must stay 0). */
#define COMPAT_ARCH_CAP (BIT(0) /* RDCL_NO */ | BIT(1) /* IBRS_ALL */ | BIT(3) /* SKIP_L1DFL_VMENTRY */ | BIT(4) /* SSB_NO */ | BIT(5) /* MDS_NO */ | \
	BIT(6) /* IF_PSCHANGE_MC_NO */ | BIT(8) /* TAA_NO */ | BIT(13) /* SBDR_SSDP_NO */ | BIT(14) /* FBSDP_NO */ | BIT(15) /* PSDP_NO */ | \
	BIT(24) /* PBRSB_NO */ | BIT(26) /* GDS_NO */ | BIT(27) /* RFDS_NO */ | BIT(62) /* ITS_NO */)

struct identity {
	const char *name, *text, *brand;
	u32 signature;
	u64 arch_cap;
	u8 models;
};
static const struct identity identities[] = {
	{ "fast", "default; a family on which guest kernels need no mitigations", "nestbox fast vCPU", 0x00030661, 0, FAST },
	{ "compat", "a recent server CPU; mitigations answered by ARCH_CAPABILITIES", "nestbox compatible vCPU", 0x000806f8, COMPAT_ARCH_CAP, COMPAT },
};

static bool shown(const struct feature_row *f, enum want want, const struct identity *id, bool nested)
{
	if (want != WANT_DEFAULT)
		return want == WANT_ON;
	return ((f->models & id->models) || ((f->models & NESTED) && nested)) && cpu_feature_possible(f);
}

/* ---- building the table ---- */

static u32 *row(struct cpu_model *m, u32 leaf, u32 sub)
{
	for (unsigned i = 0; i < m->nrows; i++)
		if (m->rows[i].leaf == leaf && m->rows[i].sub == sub)
			return m->rows[i].r;
	bug_if(m->nrows == CPUID_MAX_ROWS);
	m->rows[m->nrows] = (struct cpuid_row){ .leaf = leaf, .sub = sub };
	return m->rows[m->nrows++].r;
}

static void set(struct cpu_model *m, u32 leaf, u32 sub, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
	u32 *r = row(m, leaf, sub);
	r[EAX] |= eax;
	r[EBX] |= ebx;
	r[ECX] |= ecx;
	r[EDX] |= edx;
}

/* Leaves whose rows are told apart by ECX. */
static bool leaf_has_subleaves(u32 leaf) { return leaf == 4 || leaf == 7 || leaf == 0xd; }

static void add_features(struct cpu_model *m, const struct identity *id, const struct model_spec *spec, bool nested)
{
	for (unsigned i = 0; i < cpu_feature_row_count; i++) {
		const struct feature_row *f = &cpu_feature_rows[i];
		if (!shown(f, (enum want)spec->want[i], id, nested))
			continue;
		row(m, f->leaf, leaf_has_subleaves(f->leaf) ? f->sub : CPUID_ANY_SUB)[f->reg] |= 1u << f->bitno;
		if (f->feature != NONE)
			m->has[f->feature] = true;
	}
}

static unsigned ceil_pow2(unsigned n)
{
	unsigned p = 1;
	while (p < n)
		p *= 2;
	return p;
}

struct cache { u8 type, level; u8 ways; u32 sets; bool shared; };

static void add_caches(struct cpu_model *m)
{
	static const struct cache caches[] = {
		{ 1, 1, 8, 64, false }, { 2, 1, 8, 64, false }, { 3, 2, 16, 1024, false }, { 3, 3, 16, 16384, true }, /* 32K 32K 1M 16M */
	};
	u32 ids = ceil_pow2(m->ncpus);
	u32 cores = ids > 64 ? 64 : ids;
	for (u32 i = 0; i < array_len(caches); i++) {
		const struct cache *k = &caches[i];
		set(m, 4, i, k->type | (u32)k->level << 5 | 1u << 8 | (k->shared ? ids - 1 : 0) << 14 | (cores - 1) << 26,
		    63 | (u32)(k->ways - 1) << 22, k->sets - 1, 0);
	}
	set(m, 2, CPUID_ANY_SUB, 0x00feff01, 0, 0, 0); /* "see leaf 4" */
	set(m, 0x80000006, CPUID_ANY_SUB, 0, 0, 1024u << 16 | 8u << 12 | 64, 0);
}

static u64 gcd(u64 a, u64 b)
{
	while (b) {
		u64 t = a % b;
		a = b;
		b = t;
	}
	return a;
}

/* TSC / crystal = EBX / EAX. The crystal is 1 GHz: the local APIC's timer ticks at its rate, and OVMF assumes 1 GHz. */
static void add_frequencies(struct cpu_model *m, u64 tsc_khz)
{
	u64 g = gcd(tsc_khz, 1000000);
	if (!g)
		return;
	set(m, 0x15, CPUID_ANY_SUB, (u32)(1000000 / g), (u32)(tsc_khz / g), 1000000000, 0);
	set(m, 0x16, CPUID_ANY_SUB, (u32)(tsc_khz / 1000), (u32)(tsc_khz / 1000), 100, 0);
}

static void add_text(struct cpu_model *m, u32 leaf, const char *text)
{
	char padded[48] = "";
	u32 w[12];
	snprintf(padded, sizeof padded, "%s", text);
	memcpy(w, padded, sizeof w);
	for (u32 i = 0; i < 3; i++)
		set(m, leaf + i, CPUID_ANY_SUB, w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]);
}

static void add_xsave(struct cpu_model *m)
{
	u64 xcr0 = model_xcr0(m);
	if (!m->has[FEAT_XSAVE])
		return;
	set(m, 0xd, 0, (u32)xcr0, 0, cpu_xsave_size(xcr0, 0, false), (u32)(xcr0 >> 32)); /* EBX: cpuid.c */
	row(m, 0xd, 1);
	if (xcr0 & 4)
		set(m, 0xd, 2, 256, 576, 0, 0);
	if (xcr0 & BIT(9))
		set(m, 0xd, 9, 8, cpu_xsave_size(1 | BIT(9), 0, false) - 8, 0, 0);
}

static void add_identity(struct cpu_model *m, const struct identity *id)
{
	/* "GenuineIntel" */
	set(m, 0, CPUID_ANY_SUB, CPUID_MAX_BASIC, 0x756e6547, 0x6c65746e, 0x49656e69);
	set(m, 1, CPUID_ANY_SUB, id->signature, 8u << 8, 0, 0);
	set(m, 7, 0, m->has[FEAT_ARCH_CAP] ? 2 : 0, 0, 0, 0);
	set(m, 0x80000000, CPUID_ANY_SUB, CPUID_MAX_EXT, 0, 0, 0);
	set(m, 0x80000008, CPUID_ANY_SUB, m->maxphyaddr | 48u << 8, 0, 0, 0);
	add_text(m, 0x80000002, id->brand);
}

static const struct identity *find_identity(const struct model_spec *spec)
{
	for (unsigned i = 0; i < array_len(identities); i++)
		if (strlen(identities[i].name) == spec->name_len && !memcmp(identities[i].name, spec->name, spec->name_len))
			return &identities[i];
	log_error("--cpu \"%.*s\": unknown CPU model; --cpu help lists them", (int)spec->name_len, spec->name);
	return NULL;
}

struct cpu_model *cpu_model_make(const char *text, bool nested, unsigned ncpus, u64 tsc_khz)
{
	struct model_spec spec;
	if (!model_spec_parse(text ? text : identities[0].name, nested, &spec))
		return NULL;
	const struct identity *id = find_identity(&spec);
	struct cpu_model *m = id ? calloc(1, sizeof *m) : NULL;
	if (!m)
		return NULL;
	*m = (struct cpu_model){ .name = id->name, .signature = id->signature, .microcode = 0x01000000, .arch_cap = id->arch_cap,
				 .maxphyaddr = spec.phys_bits ? spec.phys_bits : PHYS_BITS_DEFAULT, .ncpus = ncpus ? ncpus : 1 };
	add_features(m, id, &spec, nested);
	add_identity(m, id);
	add_caches(m);
	add_frequencies(m, tsc_khz);
	add_xsave(m);
	if (m->has[FEAT_MONITOR])
		set(m, 5, CPUID_ANY_SUB, 64, 64, 0, 0); /* smallest and largest monitored line */
	return m;
}

void cpu_model_free(struct cpu_model *m) { free(m); }

void cpu_model_print_names(void *file)
{
	for (unsigned i = 0; i < array_len(identities); i++)
		fprintf(file, "%-8s %s\n", identities[i].name, identities[i].text);
	model_spec_print_help(file);
}

/* ---- queries ---- */

bool cpu_has(const struct cpu *c, enum cpu_feature f) { return c->model && c->model->has[f]; }
unsigned cpu_maxphyaddr(const struct cpu *c) { return c->model ? c->model->maxphyaddr : PHYS_BITS_DEFAULT; }
u32 model_signature(const struct cpu_model *m) { return m ? m->signature : identities[0].signature; }
u64 model_microcode(const struct cpu_model *m) { return (u64)(m ? m->microcode : 0) << 32; }

u64 model_xcr0(const struct cpu_model *m)
{
	if (!m || !m->has[FEAT_XSAVE])
		return 0;
	return 3 | (m->has[FEAT_AVX] ? BIT(2) : 0) | (m->has[FEAT_PKU] ? BIT(9) : 0);
}
