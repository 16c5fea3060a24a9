/* The guest's helper as bytes: built from src/agent/guest with musl, so that it needs nothing of the guest. */
#include "agent/session.h"

const u8 session_helper[] = {
#include "helper_bytes.h"
};
const size_t session_helper_len = sizeof session_helper;
