/* What the VM process may still ask of the kernel once guest code runs. */
#ifndef NB_HOST_SANDBOX_H
#define NB_HOST_SANDBOX_H

/* Confines this process (all threads started later inherit it): only the system calls in sandbox.c's table, each with its reason. A forbidden
 * call kills the process and leaves its number in the core's audit record. Returns 0 or -errno with one log line; a kernel without
 * seccomp gives -ENOSYS. Call after every file is open and before the first guest instruction. */
int host_sandbox_enter(void);

#endif
