/* Ways into a running machine's guest, for exec and cp: through the helper where it can run, else through the guest agent alone. */
#ifndef NB_CLI_GUEST_H
#define NB_CLI_GUEST_H

#include "agent/qga.h"
#include "agent/session.h"
#include "cli/cli.h"

/* There was no way to run the command. */
enum { STATUS_NO_WAY = 125 };

/* A socket on which the guest's helper waits (already there, or started through the agent), trying for wait_s seconds. Descriptor, or minus the exit
 * status after one error line. */
int cli_guest_session(const struct cli_call *call, const char *name, unsigned wait_s);
/* A conversation with the guest agent. 0, or minus the exit status after one error line. Ends with cli_guest_agent_close. */
int cli_guest_agent(const struct cli_call *call, const char *name, unsigned wait_s, struct qga *q);
void cli_guest_agent_close(struct qga *q);

#endif
