/* What --cpu says: "MODEL[,+feature][,-feature][,phys-bits=N]". Parsing only; model.c builds CPUID from the result. */
#include "cpu/model.h"
#include "base/log.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

const struct feature_row cpu_feature_rows[] = {
#define R(name, feature, leaf, sub, reg, bitno, how, models) { #name, feature, leaf, sub, reg, bitno, how, models },
#include "cpu/features.def"
#undef R
};
#define ROWS array_len(cpu_feature_rows)
_Static_assert(ROWS <= FEATURE_ROWS_MAX, "struct model_spec has a place per row");
const unsigned cpu_feature_row_count = ROWS;

/* Other spellings: Linux's /proc/cpuinfo, QEMU, the manual. '-' and '.' count as '_'. */
static const struct { const char *alias, *name; } aliases[] = {
	{ "pni", "sse3" }, { "tsc_deadline_timer", "tsc_deadline" }, { "pclmuldq", "pclmulqdq" }, { "lzcnt", "abm" }, { "3dnowprefetch", "prefetchw" },
	{ "constant_tsc", "invariant_tsc" }, { "nonstop_tsc", "invariant_tsc" }, { "invtsc", "invariant_tsc" }, { "sse41", "sse4_1" },
	{ "sse42", "sse4_2" }, { "clfsh", "clflush" }, { "sha", "sha_ni" }, { "lahf", "lahf_lm" }, { "ibrs", "spec_ctrl" }, { "cmpxchg16b", "cx16" },
	{ "cmpxchg8b", "cx8" }, { "bhi_dis_s", "bhi_ctrl" }, { "sysenter", "sep" }, { "page1gb", "pdpe1gb" },
};

/* The first makes no sense without the second. PCID and INVPCID are independent. */
static const struct { const char *name, *needs; } needs[] = {
	{ "sse", "fxsr" }, { "sse2", "sse" }, { "sse3", "sse2" }, { "ssse3", "sse3" }, { "sse4_1", "ssse3" }, { "sse4_2", "sse4_1" },
	{ "aes", "sse2" }, { "pclmulqdq", "sse2" }, { "sha_ni", "sse2" }, { "avx", "xsave" }, { "avx2", "avx" }, { "fma", "avx" }, { "f16c", "avx" },
	{ "xsaveopt", "xsave" }, { "xsavec", "xsave" }, { "xgetbv1", "xsave" }, { "xsaves", "xsavec" },
	{ "stibp", "spec_ctrl" }, { "ssbd", "spec_ctrl" }, { "bhi_ctrl", "spec_ctrl" }, { "tsc_deadline", "apic" }, { "x2apic", "apic" },
};

bool cpu_feature_possible(const struct feature_row *f)
{
	u32 r[4];
	if (f->how == OURS)
		return true;
	if (!__get_cpuid_count(f->leaf, f->sub, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) || !(r[f->reg] >> f->bitno & 1))
		return false;
	return f->how == HOST || __builtin_cpu_supports("avx"); /* includes the OS's XCR0 */
}

static bool same_name(const char *row, const char *text, size_t len)
{
	if (strlen(row) != len)
		return false;
	for (size_t i = 0; i < len; i++)
		if (row[i] != (text[i] == '-' || text[i] == '.' ? '_' : text[i]))
			return false;
	return true;
}

/* Row number, or -1. */
static int find_feature(const char *text, size_t len)
{
	for (unsigned i = 0; i < array_len(aliases); i++)
		if (same_name(aliases[i].alias, text, len))
			return find_feature(aliases[i].name, strlen(aliases[i].name));
	for (unsigned i = 0; i < ROWS; i++)
		if (same_name(cpu_feature_rows[i].name, text, len))
			return (int)i;
	return -1;
}

static bool parse_feature(const char *text, size_t len, bool nested, struct model_spec *s)
{
	bool on = *text == '+';
	int n = find_feature(text + 1, len - 1);
	const char *why = NULL;
	if (n < 0)
		why = "there is no feature of that name here; --cpu help lists them";
	else if (on && cpu_feature_rows[n].models == ABSENT)
		why = "not implemented";
	else if (on && cpu_feature_rows[n].models == NESTED && !nested)
		why = "say --nested on";
	else if (on && !cpu_feature_possible(&cpu_feature_rows[n]))
		why = "this host's CPU cannot execute it";
	if (why) {
		log_error("--cpu \"%.*s\": %s", (int)len, text, why);
		return false;
	}
	s->want[n] = on ? WANT_ON : WANT_OFF;
	return true;
}

static bool parse_phys_bits(const char *text, size_t len, struct model_spec *s)
{
	static const char prefix[] = "phys-bits=";
	const size_t skip = sizeof prefix - 1;
	char *end;
	if (len <= skip || memcmp(text, prefix, skip))
		return log_error("--cpu \"%.*s\": say +FEATURE, -FEATURE or phys-bits=N", (int)len, text), false;
	unsigned long n = strtoul(text + skip, &end, 10);
	if (end != text + len || text[skip] < '0' || text[skip] > '9' || n < PHYS_BITS_MIN || n > PHYS_BITS_MAX)
		return log_error("--cpu \"%.*s\": must be a number from %u to %u", (int)len, text, PHYS_BITS_MIN, PHYS_BITS_MAX), false;
	s->phys_bits = (unsigned)n;
	return true;
}

/* "+avx2,-avx" contradicts itself; "-avx" alone takes AVX2 along. */
static bool add_consequences(struct model_spec *s)
{
	for (unsigned i = 0; i < array_len(needs); i++) {
		int n = find_feature(needs[i].name, strlen(needs[i].name)), m = find_feature(needs[i].needs, strlen(needs[i].needs));
		bug_if(n < 0 || m < 0);
		if (s->want[m] != WANT_OFF && (s->want[m] == WANT_ON || cpu_feature_possible(&cpu_feature_rows[m])))
			continue;
		if (s->want[n] == WANT_ON)
			return log_error("--cpu \"+%s\": needs %s", needs[i].name, needs[i].needs), false;
		s->want[n] = WANT_OFF;
	}
	return true;
}

bool model_spec_parse(const char *text, bool nested, struct model_spec *s)
{
	size_t len = strcspn(text, ",");
	*s = (struct model_spec){ .name = text, .name_len = len };
	for (text += len; *text; text += len) {
		text++;
		len = strcspn(text, ",");
		bool feature = *text == '+' || *text == '-';
		if (!(feature ? parse_feature(text, len, nested, s) : parse_phys_bits(text, len, s)))
			return false;
	}
	return add_consequences(s);
}

static void print_rows(FILE *f, const char *title, bool (*belongs)(const struct feature_row *))
{
	size_t column = 0;
	for (unsigned i = 0; i < ROWS; i++) {
		if (!belongs(&cpu_feature_rows[i]))
			continue;
		size_t len = strlen(cpu_feature_rows[i].name) + 1;
		column = column && column + len <= 100 ? column + len : len;
		if (title)
			fprintf(f, "\n%s:", title);
		fprintf(f, "%s%s", title || column == len ? "\n  " : " ", cpu_feature_rows[i].name);
		title = NULL;
	}
	if (!title)
		fprintf(f, "\n");
}

static bool here(const struct feature_row *f) { return f->models != ABSENT && cpu_feature_possible(f); }
static bool elsewhere(const struct feature_row *f) { return f->models != ABSENT && !cpu_feature_possible(f); }

void model_spec_print_help(void *file)
{
	fprintf(file, "\nMODEL may be followed by ,+FEATURE and ,-FEATURE (shown to the guest, hidden from it) and ,phys-bits=N (%u to %u).\n",
		PHYS_BITS_MIN, PHYS_BITS_MAX);
	print_rows(file, "Features", here);
	print_rows(file, "Features that need a host CPU with them", elsewhere);
}
