/* Processes beside the VM's: user-mode networking and the switch run in their own, each confined to what it needs, so that their code shares
 * neither memory nor files with the machine. A helper is this program started again with a verb; descriptor 3 is its line to who started it. */
#ifndef NB_NET_HELPER_H
#define NB_NET_HELPER_H

#include "base/base.h"

enum { NET_HELPER_FD = 3, NET_HELPER_DIR_FD = 4 };

/* Starts `nestbox VERB NAME TEXT` with fd as descriptor 3 and dir_fd (or -1) as 4. 0 or -errno with one log line. */
int net_helper_spawn(const char *verb, const char *name, const char *text, int fd, int dir_fd);
/* Waits up to five seconds for one byte. 0, or -errno (-EPIPE: the other side went instead; it has said why). */
int net_helper_wait(int fd, u8 *answer);

/* A helper's own start: leaves the terminal's session, forgets stdin and stdout. */
void net_helper_detach(bool keep_stderr);
/* Only these system calls, and files are only read, below these folders. A call that is not in the list ends the process. 0 or -errno. */
int net_helper_confine(const int *calls, unsigned n, const char *const *readable);

/* The verbs' main functions. */
int net_user_main(int argc, char **argv);
int net_switch_main(int argc, char **argv);

#endif
