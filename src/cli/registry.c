#include "cli/registry.h"
#include "cli/registry_priv.h"
#include "base/log.h"

#include <errno.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SCHEMA_VERSION 1
#define BUSY_MS 10000

struct registry {
	sqlite3 *db; /* NULL: there is no file, so it is empty */
	char state_dir[PATH_MAX];
};

static const char schema[] =
	"CREATE TABLE vm (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL);"
	"CREATE TABLE option (vm TEXT NOT NULL REFERENCES vm(id) ON DELETE CASCADE, seq INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,"
	" PRIMARY KEY (vm, seq));"
	"PRAGMA user_version = 1;";

/* One log line about the last SQLite call; -errno. */
static int fail(struct registry *reg, int rc)
{
	int err = rc == SQLITE_FULL ? -ENOSPC : rc == SQLITE_BUSY || rc == SQLITE_LOCKED ? -EBUSY : rc == SQLITE_NOMEM ? -ENOMEM : -EIO;
	const char *hint = rc == SQLITE_NOTADB || rc == SQLITE_CORRUPT ? "; move it away to start with an empty one" :
			   rc == SQLITE_FULL			       ? "; free some space and try again" :
									 "";
	log_error("registry %s/registry.db: %s%s", reg->state_dir, reg->db ? sqlite3_errmsg(reg->db) : sqlite3_errstr(rc), hint);
	return err;
}

static int exec(struct registry *reg, const char *sql)
{
	int rc = sqlite3_exec(reg->db, sql, NULL, NULL, NULL);
	return rc == SQLITE_OK ? 0 : fail(reg, rc);
}

/* A statement with its text parameters (NULL-terminated). NULL after a log line. */
static sqlite3_stmt *prepare(struct registry *reg, const char *sql, const char *a, const char *b)
{
	sqlite3_stmt *s = NULL;
	int rc = sqlite3_prepare_v2(reg->db, sql, -1, &s, NULL);
	if (rc == SQLITE_OK && a)
		rc = sqlite3_bind_text(s, 1, a, -1, SQLITE_TRANSIENT);
	if (rc == SQLITE_OK && b)
		rc = sqlite3_bind_text(s, 2, b, -1, SQLITE_TRANSIENT);
	if (rc == SQLITE_OK)
		return s;
	fail(reg, rc);
	sqlite3_finalize(s);
	return NULL;
}

/* Runs a statement without rows and frees it. */
static int finish(struct registry *reg, sqlite3_stmt *s)
{
	int rc = s ? sqlite3_step(s) : SQLITE_DONE;
	int err = !s ? -EIO : rc == SQLITE_DONE ? 0 : (rc & 0xff) == SQLITE_CONSTRAINT ? -EEXIST : fail(reg, rc);
	sqlite3_finalize(s);
	return err;
}

/* ---- opening ---- */
static int user_version(struct registry *reg, int *version)
{
	sqlite3_stmt *s = prepare(reg, "PRAGMA user_version", NULL, NULL);
	int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
	*version = rc == SQLITE_ROW ? sqlite3_column_int(s, 0) : -1;
	int err = !s ? -EIO : rc == SQLITE_ROW ? 0 : fail(reg, rc);
	sqlite3_finalize(s);
	return err;
}

static int make_schema(struct registry *reg)
{
	int version, err = reg_begin(reg); /* of two that make it at once, the second finds it made */
	if (err)
		return err;
	err = user_version(reg, &version);
	if (!err && !version)
		err = exec(reg, schema);
	if (!err && version > SCHEMA_VERSION) {
		log_error("registry %s/registry.db was made by a newer nestbox (format %d, this one knows %d)", reg->state_dir, version, SCHEMA_VERSION);
		err = -EPROTO;
	}
	if (!err)
		return reg_commit(reg);
	reg_rollback(reg);
	return err;
}

static int open_db(struct registry *reg, const char *path, bool create)
{
	int version;
	int rc = sqlite3_open_v2(path, &reg->db, SQLITE_OPEN_READWRITE | (create ? SQLITE_OPEN_CREATE : 0), NULL);
	if (rc != SQLITE_OK)
		return fail(reg, rc);
	sqlite3_busy_timeout(reg->db, BUSY_MS);
	int err = exec(reg, "PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL;");
	if (!err)
		err = user_version(reg, &version);
	return err ? err : version == SCHEMA_VERSION ? 0 : make_schema(reg);
}

int reg_open(const char *state_dir, bool create, struct registry **out)
{
	char path[PATH_MAX];
	struct registry *reg = calloc(1, sizeof *reg);
	int err = !reg ? -ENOMEM : 0;
	if (!err && (snprintf(path, sizeof path, "%s/registry.db", state_dir) >= (int)sizeof path || strlen(state_dir) > PATH_MAX - 512))
		err = -ENAMETOOLONG;
	if (!err && create)
		err = rundir_make_folders(state_dir);
	if (err) {
		log_error("state folder \"%s\": %s", state_dir, strerror(-err));
		free(reg);
		return err;
	}
	snprintf(reg->state_dir, sizeof reg->state_dir, "%s", state_dir);
	if (create || !access(path, F_OK))
		err = open_db(reg, path, create);
	if (err) {
		reg_close(reg);
		return err;
	}
	*out = reg;
	return 0;
}

void reg_close(struct registry *reg)
{
	if (!reg)
		return;
	sqlite3_close(reg->db);
	free(reg);
}

int reg_begin(struct registry *reg) { return exec(reg, "BEGIN IMMEDIATE"); }
int reg_commit(struct registry *reg) { return exec(reg, "COMMIT"); }
void reg_rollback(struct registry *reg) { sqlite3_exec(reg->db, "ROLLBACK", NULL, NULL, NULL); }

/* ---- rows ---- */
static const char *text(sqlite3_stmt *s, int column)
{
	const unsigned char *t = sqlite3_column_text(s, column);
	return t ? (const char *)t : "";
}

static int read_options(struct registry *reg, struct reg_vm *vm)
{
	sqlite3_stmt *s = prepare(reg, "SELECT key, value FROM option WHERE vm = ?1 ORDER BY seq", vm->id, NULL);
	int rc = SQLITE_DONE, err = s ? 0 : -EIO;
	while (!err && (rc = sqlite3_step(s)) == SQLITE_ROW)
		err = option_list_add(&vm->options, text(s, 0), text(s, 1));
	if (!err && rc != SQLITE_DONE)
		err = fail(reg, rc);
	sqlite3_finalize(s);
	return err;
}

static void fill(struct reg_vm *vm, sqlite3_stmt *s)
{
	*vm = (struct reg_vm){ .created = sqlite3_column_int64(s, 2) };
	snprintf(vm->id, sizeof vm->id, "%s", text(s, 0));
	snprintf(vm->name, sizeof vm->name, "%s", text(s, 1));
}

int reg_get(struct registry *reg, const char *name, struct reg_vm *vm)
{
	*vm = (struct reg_vm){ 0 };
	if (!reg->db)
		return -ENOENT;
	sqlite3_stmt *s = prepare(reg, "SELECT id, name, created FROM vm WHERE name = ?1", name, NULL);
	int rc = s ? sqlite3_step(s) : SQLITE_ERROR, err = 0;
	if (rc == SQLITE_ROW)
		fill(vm, s);
	else
		err = !s ? -EIO : rc == SQLITE_DONE ? -ENOENT : fail(reg, rc);
	sqlite3_finalize(s);
	if (!err && (err = read_options(reg, vm)))
		reg_vm_free(vm);
	return err;
}

int reg_list(struct registry *reg, struct reg_vm **vms, unsigned *n)
{
	int rc = SQLITE_DONE, err = 0;
	*vms = NULL;
	*n = 0;
	if (!reg->db)
		return 0;
	sqlite3_stmt *s = prepare(reg, "SELECT id, name, created FROM vm ORDER BY name", NULL, NULL);
	while (s && !err && (rc = sqlite3_step(s)) == SQLITE_ROW) {
		struct reg_vm *more = realloc(*vms, (*n + 1) * sizeof **vms);
		if (!more) {
			err = -ENOMEM;
			break;
		}
		*vms = more;
		fill(&more[*n], s);
		err = read_options(reg, &more[(*n)++]);
	}
	if (!err)
		err = !s ? -EIO : rc == SQLITE_DONE ? 0 : fail(reg, rc);
	sqlite3_finalize(s);
	return err;
}

int reg_set_options(struct registry *reg, const struct reg_vm *vm)
{
	int err = finish(reg, prepare(reg, "DELETE FROM option WHERE vm = ?1", vm->id, NULL));
	for (unsigned i = 0; !err && i < vm->options.n; i++) {
		sqlite3_stmt *s = prepare(reg, "INSERT INTO option (vm, seq, key, value) VALUES (?1, ?3, ?2, ?4)", vm->id, vm->options.at[i].key);
		if (s) {
			sqlite3_bind_int(s, 3, (int)i);
			sqlite3_bind_text(s, 4, vm->options.at[i].value, -1, SQLITE_TRANSIENT);
		}
		err = finish(reg, s);
	}
	return err;
}

int reg_insert(struct registry *reg, const struct reg_vm *vm)
{
	sqlite3_stmt *s = prepare(reg, "INSERT INTO vm (id, name, created) VALUES (?1, ?2, ?3)", vm->id, vm->name);
	if (s)
		sqlite3_bind_int64(s, 3, vm->created);
	int err = finish(reg, s);
	return err ? err : reg_set_options(reg, vm);
}

int reg_delete(struct registry *reg, const char *id) { return finish(reg, prepare(reg, "DELETE FROM vm WHERE id = ?1", id, NULL)); }

/* ---- which folders are owned ---- */
bool reg_owns(struct registry *reg, const char *id)
{
	sqlite3_stmt *s = reg->db ? prepare(reg, "SELECT 1 FROM vm WHERE id = ?1", id, NULL) : NULL;
	int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
	sqlite3_finalize(s);
	return rc != SQLITE_DONE; /* when in doubt, it is somebody's */
}
const char *reg_state_dir(const struct registry *reg) { return reg->state_dir; }
