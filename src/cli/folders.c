/* The folder STATE/vms/ID of each VM: what is in it goes with the VM. A file `.making` in it, locked by the command that makes the VM, keeps reg_tidy away. */
#include "cli/registry.h"
#include "cli/registry_priv.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void reg_new_id(char id[REG_ID_LEN + 1])
{
	u8 raw[REG_ID_LEN / 2];
	bug_if(getrandom(raw, sizeof raw, 0) != sizeof raw);
	for (unsigned i = 0; i < sizeof raw; i++)
		snprintf(id + 2 * i, 3, "%02x", raw[i]);
}

int reg_path(const char *state_dir, const char *id, const char *file, char *to, size_t size)
{
	int n = snprintf(to, size, "%s/vms/%s%s%s", state_dir, id, file ? "/" : "", file ? file : "");
	return n >= (int)size ? -ENAMETOOLONG : 0;
}

static bool is_id(const char *name) { return strlen(name) == REG_ID_LEN && strspn(name, "0123456789abcdef") == REG_ID_LEN; }

static int making_lock(int fd)
{
	struct flock f = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	return fcntl(fd, F_OFD_SETLK, &f) ? -errno : 0;
}

int reg_make_folder(const char *state_dir, const char *id)
{
	char path[PATH_MAX];
	int fd = -1, err = reg_path(state_dir, id, NULL, path, sizeof path);
	if (!err)
		err = rundir_make_folders(path);
	if (!err)
		err = reg_path(state_dir, id, ".making", path, sizeof path);
	if (!err) {
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		err = fd < 0 ? -errno : making_lock(fd);
	}
	if (!err)
		return fd;
	if (fd >= 0)
		close(fd);
	log_error("folder %s: %s", path, strerror(-err));
	return err;
}

/* Never follows a link, never leaves the folder. */
static void remove_tree(int parent, const char *name, int depth)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;
	if (!d && fd >= 0)
		close(fd);
	while (d && (e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (unlinkat(dirfd(d), e->d_name, 0) && (errno == EISDIR || errno == EPERM) && depth < 16)
			remove_tree(dirfd(d), e->d_name, depth + 1);
	}
	if (d)
		closedir(d);
	unlinkat(parent, name, AT_REMOVEDIR);
}

static int open_vms(const char *state_dir)
{
	char path[PATH_MAX];
	if (snprintf(path, sizeof path, "%s/vms", state_dir) >= (int)sizeof path)
		return -1;
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

void reg_remove_folder(const char *state_dir, const char *id)
{
	int fd = is_id(id) ? open_vms(state_dir) : -1;
	if (fd < 0)
		return;
	remove_tree(fd, id, 0);
	close(fd);
}

/* Its maker is gone, or never came as far as the lock (it makes the folder first, so a young folder without the file gets the benefit of the doubt). */
static bool abandoned(int vms, const char *id)
{
	char path[64];
	struct stat st;
	snprintf(path, sizeof path, "%s/.making", id);
	int fd = openat(vms, path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return !fstatat(vms, id, &st, AT_SYMLINK_NOFOLLOW) && st.st_mtime + 60 < time(NULL);
	bool free_now = !making_lock(fd);
	close(fd);
	return free_now;
}

void reg_tidy(struct registry *reg)
{
	int fd = open_vms(reg_state_dir(reg));
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;
	while (d && (e = readdir(d)))
		if (is_id(e->d_name) && !reg_owns(reg, e->d_name) && abandoned(fd, e->d_name) && !reg_owns(reg, e->d_name))
			remove_tree(fd, e->d_name, 0);
	if (d)
		closedir(d);
}
