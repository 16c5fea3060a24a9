/* `nestbox nested status|enable|disable NAME` and `nestbox doctor`. Rows in checks.def say what is looked at and what helps. Surprise: nothing is changed
 * before everything has been asked; after changing, all is looked at again, and that is what is printed. */
#include "base/log.h"
#include "cli/checks.h"
#include "cli/table.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

struct finding { bool holds; char detail[512]; };

/* A VM as it is now, with what the checks say of it. */
struct review {
	struct reg_vm vm;
	struct vm_now now;
	struct check_subject subject;
	struct finding findings[64];
	bool ready;
	unsigned warnings;
};

static bool applies(const struct check_row *row, const struct check_subject *s) { return row->scope & (s->vm ? SCOPE_VM : SCOPE_HOST); }

static void look(struct review *r)
{
	bug_if(check_row_count > array_len(r->findings));
	r->ready = true;
	r->warnings = 0;
	for (unsigned i = 0; i < check_row_count; i++) {
		const struct check_row *row = &check_rows[i];
		struct finding *f = &r->findings[i];
		if (!applies(row, &r->subject))
			continue;
		f->holds = row->check(&r->subject, f->detail, sizeof f->detail);
		if (!f->holds && row->level == LEVEL_MUST)
			r->ready = false;
		r->warnings += !f->holds && row->level == LEVEL_SHOULD;
	}
}

static void review_free(struct review *r)
{
	vm_now_free(&r->now);
	reg_vm_free(&r->vm);
	free(r);
}

/* NULL after one error line. */
static struct review *review_vm(const struct cli_call *call, const char *name)
{
	struct review *r = calloc(1, sizeof *r);
	if (!r || cli_get_vm(call, name, &r->vm)) {
		free(r);
		return NULL;
	}
	if (cli_vm_config(r->vm.name, &r->vm.options, &r->subject.cfg) >= 0) {
		review_free(r);
		return NULL;
	}
	vm_now(call->state_dir, name, r->vm.id, &r->now);
	r->subject.state_dir = call->state_dir;
	r->subject.vm = &r->vm;
	r->subject.now = &r->now;
	look(r);
	return r;
}

/* ---- printing ---- */
static const char *mark(const struct check_row *row, const struct finding *f)
{
	return f->holds ? row->level == LEVEL_NOTE ? "--" : "ok" : row->level == LEVEL_MUST ? "NO" : "warn";
}

static json_t *findings_json(const struct review *r)
{
	static const char *const levels[] = { "must", "should", "note" };
	json_t *list = json_array();
	for (unsigned i = 0; i < check_row_count; i++) {
		const struct check_row *row = &check_rows[i];
		if (applies(row, &r->subject))
			json_array_append_new(list, json_pack("{ss sb ss ss ss ss sb}", "code", row->code, "ok", (int)r->findings[i].holds, "level",
							      levels[row->level], "check", row->what, "detail", r->findings[i].detail, "fix", row->remedy,
							      "automatic", row->fix != NULL));
	}
	return list;
}

static void print_findings(const struct review *r, const char *subject)
{
	for (unsigned i = 0; i < check_row_count; i++) {
		const struct check_row *row = &check_rows[i];
		if (!applies(row, &r->subject))
			continue;
		printf("%-4s %-17s %s: %s\n", mark(row, &r->findings[i]), row->code, row->what, r->findings[i].detail);
		if (!r->findings[i].holds)
			printf("%-22s fix: %s%s\n", "", row->remedy, row->fix ? "" : " (by hand)");
	}
	printf("%s: %sready", subject, r->ready ? "" : "not ");
	printf(r->warnings ? ", %u warning%s\n" : "\n", r->warnings, r->warnings == 1 ? "" : "s");
}

static int finish(const struct cli_call *call, const struct review *r, const char *subject, int declined)
{
	int status = declined ? STATUS_DECLINED : r->ready ? STATUS_OK : STATUS_NOT_READY;
	if (call->json)
		cli_print_json(json_pack("{sb sb so}", "ready", (int)r->ready, "declined", declined, "checks", findings_json(r)));
	else
		print_findings(r, subject);
	return status;
}

/* ---- asking ---- */
/* Only y or yes means yes; the end of input means no. */
static bool ask(const char *question)
{
	char answer[64];
	fprintf(stderr, "%s [y/N] ", question);
	if (!fgets(answer, sizeof answer, stdin)) {
		fputc('\n', stderr);
		return false;
	}
	answer[strcspn(answer, "\r\n")] = 0;
	return !strcasecmp(answer, "y") || !strcasecmp(answer, "yes");
}

static bool yes(const struct cli_call *call) { return cli_option(call, "yes"); }

/* Saved state is never discarded on a general yes. */
static bool agrees(const struct cli_call *call, const struct check_row *row, const struct finding *f)
{
	char question[1024];
	if (!strcmp(row->code, "no-saved-state") && cli_option(call, "discard-saved-state"))
		return true;
	if (yes(call) && strcmp(row->code, "no-saved-state"))
		return true;
	if (yes(call)) {
		log_warn("%s: saved state is not discarded by --yes; add --discard-saved-state if it may be lost", row->code);
		return false;
	}
	snprintf(question, sizeof question, "%s: %s. %c%s?", row->code, f->detail, row->remedy[0] - 32, row->remedy + 1);
	return ask(question);
}

static void show_plan(const struct cli_call *call, const struct review *r)
{
	FILE *out = call->json ? stderr : stdout;
	unsigned n = 0;
	for (unsigned i = 0; i < check_row_count; i++) {
		const struct check_row *row = &check_rows[i];
		if (!applies(row, &r->subject) || r->findings[i].holds)
			continue;
		if (!n++)
			fprintf(out, "What is in the way, and what would be done:\n");
		fprintf(out, "  %-17s %s -> %s%s%s\n", row->code, r->findings[i].detail, row->remedy, row->fix ? "" : " (by hand)",
			row->level == LEVEL_SHOULD ? " (may be declined)" : "");
	}
	if (!n)
		fprintf(out, "Nothing is in the way.\n");
}

/* What was agreed to. *declined: something that must be was not. */
static int make_plan(const struct cli_call *call, const struct review *r, struct check_plan *plan, bool *declined)
{
	*declined = false;
	int err = option_list_copy(&plan->options, &r->vm.options);
	for (unsigned i = 0; !err && !*declined && i < check_row_count; i++) {
		const struct check_row *row = &check_rows[i];
		if (!applies(row, &r->subject) || r->findings[i].holds || !row->fix)
			continue;
		if (agrees(call, row, &r->findings[i]))
			err = row->fix(&r->subject, plan);
		else
			*declined = row->level == LEVEL_MUST;
	}
	return err;
}

/* ---- doing ---- */
static bool same(const struct option_list *a, const struct option_list *b)
{
	if (a->n != b->n)
		return false;
	for (unsigned i = 0; i < a->n; i++)
		if (strcmp(a->at[i].key, b->at[i].key) || strcmp(a->at[i].value, b->at[i].value))
			return false;
	return true;
}

/* The options as planned, if they still are what the plan was made from. */
static int apply_options(struct cli_call *call, const struct reg_vm *seen, const struct option_list *planned)
{
	struct reg_vm vm = { 0 };
	struct registry *reg = cli_registry(call, true);
	if (!reg)
		return STATUS_USAGE;
	int status = reg_begin(reg) || reg_get(reg, seen->name, &vm) ? STATUS_USAGE : 0;
	if (!status && !same(&vm.options, &seen->options))
		status = cli_fail(call, "changed", "VM \"%s\" was changed meanwhile: look again", seen->name);
	option_list_free(&vm.options);
	vm.options = *planned;
	if (!status && (status = cli_check_options("nested", seen->name, planned)) < 0)
		status = reg_set_options(reg, &vm) || reg_commit(reg) ? STATUS_USAGE : 0;
	vm.options = (struct option_list){ 0 };
	if (status)
		reg_rollback(reg);
	reg_vm_free(&vm);
	reg_close(reg);
	return status;
}

static int discard(struct cli_call *call, const struct reg_vm *vm)
{
	char path[PATH_MAX];
	if (reg_path(call->state_dir, vm->id, REG_SAVED_STATE, path, sizeof path) || (unlink(path) && errno != ENOENT))
		return cli_fail(call, "host", "saved state \"%s\": %s", path, strerror(errno));
	return 0;
}

static int carry_out(struct cli_call *call, struct review *r, struct check_plan *plan)
{
	struct rundir run;
	bool changed = !same(&plan->options, &r->vm.options);
	if (changed && !plan->discard && cli_vm_has(call, &r->vm, REG_SAVED_STATE))
		return cli_fail(call, "saved-state", "VM \"%s\" has saved state that only fits the options it was saved with: start it and shut it down first",
				r->vm.name);
	if (r->now.alive && !plan->stop) {
		int err = changed ? apply_options(call, &r->vm, &plan->options) : 0;
		if (!err)
			log_warn("the changes take effect when %s is started next", r->vm.name);
		return err;
	}
	int status = plan->stop ? cli_stop_vm(call, r->vm.name) : 0;
	if (status)
		return status;
	int err = rundir_claim(&run, call->state_dir, r->vm.name); /* nobody starts or resumes it meanwhile */
	if (err)
		return cli_fail(call, "running", "VM \"%s\" cannot be had: %s", r->vm.name, strerror(-err));
	if (plan->discard)
		status = discard(call, &r->vm);
	if (!status && changed)
		status = apply_options(call, &r->vm, &plan->options);
	rundir_close(&run);
	return status;
}

/* ---- the commands ---- */
static int nested_status(struct cli_call *call, const char *name)
{
	struct review *r = review_vm(call, name);
	if (!r)
		return STATUS_USAGE;
	int status = finish(call, r, name, 0);
	review_free(r);
	return status;
}

static int nested_enable(struct cli_call *call, const char *name)
{
	struct review *r = review_vm(call, name);
	struct check_plan plan = { { 0 } };
	bool declined = false;
	if (!r)
		return STATUS_USAGE;
	show_plan(call, r);
	if (cli_option(call, "dry-run")) {
		int would = r->ready ? STATUS_OK : STATUS_NOT_READY;
		if (call->json)
			would = finish(call, r, name, 0);
		review_free(r);
		return would;
	}
	int status = make_plan(call, r, &plan, &declined) ? STATUS_USAGE : 0;
	if (!status && !declined && (plan.stop || plan.discard || !same(&plan.options, &r->vm.options)))
		status = carry_out(call, r, &plan);
	option_list_free(&plan.options);
	review_free(r);
	if (status)
		return status;
	if (declined)
		log_warn("declined: nothing was changed");
	r = review_vm(call, name);
	status = r ? finish(call, r, name, declined) : STATUS_USAGE;
	if (r)
		review_free(r);
	return status;
}

static int nested_disable(struct cli_call *call, const char *name)
{
	struct review *r = review_vm(call, name);
	struct check_plan plan = { { 0 } };
	char detail[256];
	int status = 0;
	if (!r)
		return STATUS_USAGE;
	if (r->now.alive)
		status = cli_fail(call, "running", "VM \"%s\" is %s: stop it first", name, r->now.state);
	else if (!check_saved(&r->subject, detail, sizeof detail))
		status = cli_fail(call, "saved-state", "VM \"%s\" has saved state, which would lose its VT-x: start it and shut it down first", name);
	else if (option_list_copy(&plan.options, &r->vm.options))
		status = STATUS_USAGE;
	for (unsigned i = plan.options.n; i-- > 0;)
		if (!strcmp(plan.options.at[i].key, "nested"))
			option_list_remove(&plan.options, i);
	if (!status && !cli_option(call, "dry-run") && !same(&plan.options, &r->vm.options))
		status = carry_out(call, r, &plan);
	option_list_free(&plan.options);
	review_free(r);
	if (status)
		return status;
	if (call->json)
		return cli_print_json(json_pack("{sb}", "nested", 0));
	printf("%s: VT-x %s\n", name, cli_option(call, "dry-run") ? "would be hidden" : "is hidden");
	return STATUS_OK;
}

int cli_nested_command(struct cli_call *call)
{
	static const struct { const char *word; int (*fn)(struct cli_call *, const char *); } words[] = {
		{ "status", nested_status }, { "enable", nested_enable }, { "disable", nested_disable },
	};
	for (unsigned i = 0; i < array_len(words); i++)
		if (!strcmp(call->argv[0], words[i].word))
			return words[i].fn(call, call->argv[1]);
	return cli_fail(call, "bad-usage", "nested \"%s\": must be status, enable or disable", call->argv[0]);
}

int cli_doctor_command(struct cli_call *call)
{
	struct review *r = calloc(1, sizeof *r);
	if (!r)
		return STATUS_USAGE;
	r->subject.state_dir = call->state_dir;
	r->subject.cfg = (struct vm_config){ .cpus = 1, .engine = "auto", .memory = GiB, .cpu_model = "fast" };
	look(r);
	int status = finish(call, r, "this host", 0);
	free(r);
	return status;
}
