/* `nestbox net`: a machine's network cards, and their cables. */
#include "cli/cli.h"
#include "cli/table.h"

#include <stdlib.h>

static json_int_t int_of(json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }

static void card_row(struct table *t, json_t *n)
{
	static const char *const numbers[] = { "out_frames", "out_bytes", "in_frames", "in_bytes", "spoofed_dropped" };
	char text[8][32];
	const char *row[8];

	snprintf(text[0], sizeof text[0], "%lld", (long long)int_of(n, "card"));
	snprintf(text[1], sizeof text[1], "%s", json_string_value(json_object_get(n, "mac")));
	snprintf(text[2], sizeof text[2], "%s", !json_is_true(json_object_get(n, "cable")) ? "pulled out" : json_is_true(json_object_get(n, "link")) ? "up" : "down");
	for (unsigned i = 0; i < array_len(numbers); i++)
		snprintf(text[3 + i], sizeof text[3 + i], "%lld", (long long)int_of(n, numbers[i]));
	for (unsigned i = 0; i < array_len(row); i++)
		row[i] = text[i];
	const char *all[] = { row[0], json_string_value(json_object_get(n, "option")), row[1], row[2], row[3], row[4], row[5], row[6], row[7] };

	table_row(t, all);
}

static int show(struct cli_call *call)
{
	static const char *const columns[] = { "CARD", "NETWORK", "MAC", "LINK", ">OUT", ">BYTES", ">IN", ">BYTES", ">SPOOFED, DROPPED", NULL };
	json_t *r = cli_ask(call, call->argv[0], "nets", NULL), *n;
	size_t i;

	if (!r)
		return STATUS_USAGE;
	if (call->json)
		return cli_print_json(r);
	struct table *t = table_create(columns);

	json_array_foreach(json_object_get(r, "nets"), i, n)
		card_row(t, n);
	table_print(t);
	json_decref(r);
	return STATUS_OK;
}

int cli_net_command(struct cli_call *call)
{
	char *end;
	long card;
	bool in;

	if (call->argc == 1)
		return show(call);
	card = strtol(call->argv[1], &end, 10);
	if (*end || end == call->argv[1])
		return cli_fail(call, "bad-usage", "card \"%s\": must be a number; nestbox net %s lists them", call->argv[1], call->argv[0]);
	in = call->argc == 3 && !strcmp(call->argv[2], "in");
	if (!in && (call->argc != 3 || strcmp(call->argv[2], "out")))
		return cli_fail(call, "bad-usage", "say in or out for the cable of card %ld", card);
	json_t *r = cli_ask(call, call->argv[0], "net-cable", json_pack("{sI sb}", "card", (json_int_t)card, "in", (int)in));

	if (!r)
		return STATUS_USAGE;
	return call->json ? cli_print_json(r) : (json_decref(r), STATUS_OK);
}
