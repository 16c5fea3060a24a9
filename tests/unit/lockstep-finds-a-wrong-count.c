/* --engine lockstep compares the count of instructions, by which virtual time goes. Host code's count is made wrong here, in the code itself: the LEA that
 * takes a block's instructions from LEFT takes one more. The process must end with both counts printed; untouched, the same block runs. */
#include "interp_rig.h"
#include "jit/jit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK "31c0 ffc0 ffc0" /* xor eax, eax; inc eax; inc eax; and the HLT that interp_do appends */
#define INSNS 4

static struct core r;

/* lea r15, [r15-n] of the block at AT_CODE. */
static u8 *count_in_code(void)
{
	static const u8 lea[] = { 0x4d, 0x8d, 0x7f };
	for (struct code *k = jit_of(r.cpu)->all; k; k = k->next)
		for (u8 *p = k->near; k->block && k->block->off == (AT_CODE & 0xfff) && p < k->near + 64; p++)
			if (!memcmp(p, lea, sizeof lea))
				return p + sizeof lea;
	fail_msg("no count in the block's code");
	return NULL;
}

/* Runs the block in a process of its own. Its exit status, and what it said. */
static int run_apart(int wrong, char *said, size_t size)
{
	int fd[2];
	assert_int_equal(pipe(fd), 0);
	pid_t pid = fork();
	if (!pid) {
		dup2(fd[1], 2);
		signal(SIGABRT, SIG_DFL);
		*count_in_code() -= wrong;
		interp_go(&r, AT_CODE);
		_exit(0);
	}
	close(fd[1]);
	size_t n = 0;
	for (ssize_t got; (got = read(fd[0], said + n, size - 1 - n)) > 0;)
		n += got;
	said[n] = 0;
	close(fd[0]);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void one_instruction_too_many(void **state)
{
	static char said[65536];
	interp_open(&r, CORE_LONG);
	interp_do(&r, BLOCK);
	interp_go(&r, AT_CODE);
	assert_int_equal((u8)-*count_in_code(), INSNS);
	assert_int_equal(run_apart(0, said, sizeof said), 0);
	assert_string_equal(said, "");
	for (int wrong = -1; wrong <= 1; wrong += 2) {
		int status = run_apart(wrong, said, sizeof said);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
		const char *count = strstr(said, "  count ");
		assert_non_null(count);
		assert_non_null(strstr(said, "the engines differ"));
		unsigned long long before, jit, interp;
		assert_int_equal(sscanf(count, "  count %llx -> jit %llx interp %llx <--", &before, &jit, &interp), 3);
		assert_int_equal(interp, before);
		assert_int_equal(jit, before + wrong);
	}
	interp_close(&r);
}

int main(void)
{
	setenv("NESTBOX_TEST_ENGINE", "lockstep", 1);
	const struct CMUnitTest tests[] = { cmocka_unit_test(one_instruction_too_many) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
