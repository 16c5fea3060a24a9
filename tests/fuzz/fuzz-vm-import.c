/* Definitions for nestbox import: JSON that is almost right, option values of all kinds. Whatever is accepted comes out of an export as it went in. */
#include "fuzz_input.h"
#include "tokens.h"
#include "base/log.h"
#include "cli/options.h"
#include "cli/registry.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const dict[] = {
	"{", "}", "[", "]", ":", ",", "\"", "\\", "\"nestbox\":1", "\"nestbox\":", "\"name\":\"a\"", "\"name\":", "\"options\":", "\"options\":[]", "1", "-1",
	"{\"nestbox\":1,\"name\":\"a\",\"options\":[", "]}", "[\"kernel\",\"/bin/true\"]", "[\"memory\",\"", "[\"cpus\",\"", "[\"disk\",\"", "[\"net\",\"",
	"[\"nested\",\"on\"]", "[\"cpu\",\"fast,", "+avx", "-vmx", "phys-bits=", "\"]", "16M", "4G", "99999999999999999999", "/dev/null", ":ro", ",snapshot=on",
	"user,hostfwd=tcp::", "file:", "[\"serial\",\"", "[\"append\",\"", "[\"engine\",\"", "null", "..", "/", "\\u0000", "\xc3\xa9", "=", " ",
	"[\"initrd\",\"", "[\"timeout\",\"", "[\"no-reboot\",\"", "on", "off", "[\"trace\",\"", "help", "insn",
};
static const char *const values[] = {
	"", "0", "1", "-1", "16M", "1G", "4096", "1:2:3", "256M:1G:2G", ",", ",,", "=", "on", "off", "/dev/null", "/dev/null:ro", "x,path=y", "file:z", "unix:s", ":", "help",
	"user", "none", "tap,ifname=x", "fast", "fast,-avx,+avx", "\xff", "a", "socket,path=", "switch,name=a", "format=raw", ",bus=nvme", ",serial=", "%s%n",
};

static void round_trip(const struct reg_vm *vm)
{
	struct reg_vm again;
	char why[256];
	json_t *doc = reg_to_json(vm);

	bug_if(!doc || reg_from_json(doc, &again, why, sizeof why));
	bug_if(strcmp(vm->name, again.name) || vm->options.n != again.options.n);
	for (unsigned i = 0; i < vm->options.n; i++)
		bug_if(strcmp(vm->options.at[i].key, again.options.at[i].key) || strcmp(vm->options.at[i].value, again.options.at[i].value));
	reg_vm_free(&again);
	json_decref(doc);
}

/* Every option's own parser, by its row, with values that it may like. */
static void parse_values(struct fuzz_input *in)
{
	struct option_list list = { 0 };
	const char *arg, *text;
	char value[512];
	unsigned rows = 0;

	while (cli_option_row(rows, &arg, &text))
		rows++;
	bug_if(option_list_add(&list, "kernel", "/bin/true"));
	for (unsigned i = 0; i < 3 && fuzz_more(in); i++) {
		const char *key = cli_option_row((unsigned)fuzz_take(in, 1) % rows, &arg, &text);
		size_t n = fuzz_text(in, values, array_len(values), value, sizeof value - 1, 1 + fuzz_take(in, 1) % 6);
		value[n] = 0;
		char *absolute = cli_absolute_value(key, value);
		bug_if(!absolute || option_list_add(&list, key, absolute));
		free(absolute);
	}
	cli_check_options("import", "fuzz", &list);
	option_list_free(&list);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static char text[16384];
	struct fuzz_input in = { data, data + size };
	static bool quiet;
	char why[256];

	if (!quiet) { /* every bad value is told on stderr, and some on stdout; a death too, so repeat it with FUZZ_LOUD=1 */
		int null = open("/dev/null", O_WRONLY);
		if (!getenv("FUZZ_LOUD")) {
			dup2(null, STDOUT_FILENO);
			freopen("/dev/null", "w", stderr);
		}
		close(null);
		quiet = true;
	}
	while (fuzz_more(&in)) {
		struct reg_vm vm = { 0 };
		size_t n = fuzz_text(&in, dict, array_len(dict), text, sizeof text, 1 + fuzz_take(&in, 1) % 40);
		json_t *doc = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);

		if (doc && !reg_from_json(doc, &vm, why, sizeof why)) {
			round_trip(&vm);
			cli_check_options("import", vm.name, &vm.options);
		}
		reg_vm_free(&vm);
		json_decref(doc);
		parse_values(&in);
	}
	return 0;
}
