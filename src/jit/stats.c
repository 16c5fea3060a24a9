/* --stats: what the translator did, and which instructions kept host code from running on: the list to work down when a workload is slow. */
#include "jit/jit.h"
#include <stdio.h>

#define TOP 12

/* The TOP most frequent mnemonics, one line. */
static void print_top(const struct cpu *c, FILE *out, const char *what, const u32 *count)
{
	u32 below = ~(u32)0;
	unsigned left = TOP;
	fprintf(out, "stats: jit vcpu=%u %s", c->index, what);
	while (left && below) {
		u32 most = 0;
		for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
			if (count[m] < below && count[m] > most)
				most = count[m];
		for (unsigned m = 0; most && m <= ZYDIS_MNEMONIC_MAX_VALUE && left; m++)
			if (count[m] == most) {
				fprintf(out, " %s=%u", ZydisMnemonicGetString((ZydisMnemonic)m), most);
				left--;
			}
		below = most;
	}
	fprintf(out, "\n");
}

/* The most frequent, most first: WHAT/BESIDE=COUNT, where 0 is left out. */
static void print_often(const struct cpu *c, FILE *out, const char *name, const struct often *o)
{
	u32 below = ~(u32)0;
	fprintf(out, "stats: jit vcpu=%u %s", c->index, name);
	for (unsigned left = TOP; left && below;) {
		u32 most = 0;
		for (unsigned k = 0; k < OFTEN_PLACES; k++)
			if (o->place[k].n < below && o->place[k].n > most)
				most = o->place[k].n;
		for (unsigned k = 0; most && k < OFTEN_PLACES && left; k++)
			if (o->place[k].n == most) {
				fprintf(out, " %llx", (unsigned long long)o->place[k].what);
				if (o->place[k].beside)
					fprintf(out, "/%llx", (unsigned long long)o->place[k].beside);
				fprintf(out, "=%u", most);
				left--;
			}
		below = most;
	}
	fprintf(out, "\n");
}

void jit_print_stats(const struct cpu *c, void *file)
{
	const struct jit *j = jit_of(c);
	const struct jit_stats *s = &j->stats;
	FILE *out = file;
	fprintf(out, "stats: jit vcpu=%u blocks=%llu joined=%llu insns=%llu handlers=%llu code_kib=%llu arena_kib=%llu flushes=%llu killed=%llu translate_ms=%llu.%llu\n", c->index,
		(unsigned long long)s->blocks, (unsigned long long)s->joined, (unsigned long long)s->insns, (unsigned long long)s->helpers_built, (unsigned long long)s->bytes / 1024,
		(unsigned long long)((j->next - j->first) + (j->arena_end - j->sites)) / 1024, (unsigned long long)s->flushes,
		(unsigned long long)s->killed, (unsigned long long)(s->ns / 1000000), (unsigned long long)(s->ns / 100000 % 10));
	fprintf(out, "stats: jit vcpu=%u entries=%llu stays=%llu cold=%llu misses=%llu slow=%llu splits=%llu faults=%llu jumps=%llu jump_fills=%llu handler_calls=%llu links=%llu\n", c->index,
		(unsigned long long)s->entries, (unsigned long long)s->stays, (unsigned long long)s->cold, (unsigned long long)s->misses, (unsigned long long)s->slow, (unsigned long long)s->splits,
		(unsigned long long)s->faults, (unsigned long long)s->jumps, (unsigned long long)s->jump_fills, (unsigned long long)s->helper_calls,
		(unsigned long long)s->links);
	fprintf(out, "stats: jit vcpu=%u regions=%llu region_insns=%llu samples=%llu guess_asks=%llu scattered=%llu borders=%llu stores=%llu strings=%llu windows=%llu\n", c->index, (unsigned long long)s->regions, (unsigned long long)s->region_insns,
		(unsigned long long)s->samples, (unsigned long long)s->asks, (unsigned long long)s->scattered, (unsigned long long)jit_of(c)->hot->borders, (unsigned long long)s->stores, (unsigned long long)s->strings,
		(unsigned long long)s->windows);
	fprintf(out, "stats: jit vcpu=%u jump_tables_emptied by_page=%llu by_flush=%llu of_local=%llu\n", c->index, (unsigned long long)c->tlb->emptied.by_page,
		(unsigned long long)c->tlb->emptied.by_flush, (unsigned long long)c->tlb->emptied.of_local);
	print_often(c, out, "split_at", &j->split_at);
	print_often(c, out, "left_often", &j->left_often);
	print_often(c, out, "missed_beside", &j->miss_beside);
	print_often(c, out, "jumped_beside", &j->jump_beside);
	print_top(c, out, "called_handlers", j->prof_helper);
	print_top(c, out, "left_at", j->prof_left);
}
