/* What the VM process may still ask of the kernel once guest code runs. */
#ifndef NB_HOST_SANDBOX_H
#define NB_HOST_SANDBOX_H

/* What a back-end that needs more than the files that are open already asks for. */
#define SANDBOX_SERVE 1u   /* accept on sockets that listen already; messages, also with descriptors, on connected ones */
#define SANDBOX_CONNECT 2u /* make, bind and connect sockets: user-mode networking */
#define SANDBOX_FILES 4u   /* open, make, rename and remove files */
#define SANDBOX_SHARE 16u  /* change names and attributes of files: a share's server, which is a process of its own */
#define SANDBOX_DISK_SERVER 8u /* talk with a program that serves disk images, and end it */

/* Confines this process (all threads, also later ones): only the system calls in sandbox.c's table whose promise is in `promises`. A forbidden
 * call kills the process and leaves its number in the core's audit record. Returns 0 or -errno with one log line; a kernel without
 * seccomp gives -ENOSYS. Call after every file is open and before the first guest instruction. */
int host_sandbox_enter(unsigned promises);

/* From now on this thread, and those that it starts, open files only in the folder `path` and below it; what is open already stays open. A kernel without
 * landlock lets everything pass. 0 or -errno with one log line. */
int host_sandbox_folder(const char *path);

#endif
