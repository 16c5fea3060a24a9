/* The parent of a VM's process in the background: it waits, and when the VM's process has gone without a word it writes down why, as far as an exit status tells. It does nothing
 * else and holds nothing: the VM outlives it. Surprise: who ran out of memory is not in the status; the kernel's counters are compared. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/state.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static u64 counter(const char *path, const char *key)
{
	char line[256];
	u64 value = 0;
	size_t len = strlen(key);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, key, len) && line[len] == ' ')
			value = strtoull(line + len, NULL, 10);
	if (f)
		fclose(f);
	return value;
}

/* Processes that were killed for want of memory: on the host, and in our control group (version 2). */
static u64 oom_kills(void)
{
	char line[512] = "", path[600];
	FILE *f = fopen("/proc/self/cgroup", "re");
	while (f && fgets(line, sizeof line, f) && strncmp(line, "0::", 3))
		line[0] = 0;
	if (f)
		fclose(f);
	line[strcspn(line, "\n")] = 0;
	snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.events", strlen(line) > 3 ? line + 3 : "");
	return counter("/proc/vmstat", "oom_kill") + counter(path, "oom_kill");
}

static const char *reason(int status, bool oom)
{
	static char text[96];
	int sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	if (sig == SIGKILL && oom)
		return "its process was killed (SIGKILL), and meanwhile the kernel has killed for want of memory: the host or its container had too little";
	if (sig == SIGKILL)
		return "its process was killed (SIGKILL)";
	if (sig == SIGSYS)
		return "its process was stopped by its own sandbox (SIGSYS): a bug in nestbox, or somebody got hold of it";
	snprintf(text, sizeof text, sig ? "its process was ended by signal %d" : "its process ended by itself with status %d", sig ? sig : WEXITSTATUS(status));
	return text;
}

void cli_watch(const char *state_dir, const char *name, int ready_fd)
{
	static const int ignored[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGTSTP };
	u64 before = oom_kills();
	int status = 0;
	pid_t pid = fork();
	if (!pid)
		return;
	if (pid < 0) { /* it does without */
		log_warn("nobody will know how VM \"%s\" ends: %s", name, strerror(errno));
		return;
	}
	close(ready_fd);
	prctl(PR_SET_NAME, "nestbox-watch");
	for (unsigned i = 0; i < array_len(ignored); i++)
		signal(ignored[i], SIG_IGN); /* whoever ends the VM ends its process */
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	rundir_note_end(state_dir, name, pid, json_pack("{ss ss}", "end", "crashed", "reason", reason(status, oom_kills() > before)));
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}
