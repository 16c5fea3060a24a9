/* cmocka, and a rig made and freed around each test. */
#ifndef NB_TEST_H
#define NB_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"

static inline int rig_setup(void **state) { *state = rig_create(); return 0; }
static inline int rig_teardown(void **state) { rig_free(*state); return 0; }

#define TEST(name) static void name(struct rig *r); static void name##_run(void **state) { name(*state); } static void name(struct rig *r)
#define ROW(name) { #name, name##_run, rig_setup, rig_teardown, NULL }

#endif
