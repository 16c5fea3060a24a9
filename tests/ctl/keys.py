#!/usr/bin/env python3
"""Every key that --json prints is documented by a row, every documented key's parent is printed, and help, manual and completion know every command and option.

usage: keys.py NESTBOX
"""
import json
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tinykernel

nestbox = os.path.abspath(sys.argv[1])
work = tempfile.mkdtemp(prefix="nestbox-keys-")
failures = 0


def run(*words, **kw):
    return subprocess.run([nestbox, "--state", work + "/state", *words], capture_output=True, stdin=subprocess.DEVNULL, timeout=60, **kw)


def check(sentence, good, seen=""):
    global failures
    if not good:
        print("FAIL", sentence, seen)
    failures += not good


def documented(verb):
    """Rows as "key type" of a command's help."""
    text = run("help", verb).stdout.decode()
    if "Keys of --json:" not in text:
        return set()
    return {line.split()[0] for line in text.split("Keys of --json:")[1].splitlines() if line.startswith("  ")}


def keys_of(value, prefix=""):
    """"a", "b[].c" of a document; arrays of arrays are one key."""
    found = set()
    for key, v in value.items():
        found.add(prefix + key)
        if isinstance(v, dict):
            found |= keys_of(v, prefix + key + ".")
        if isinstance(v, list):
            for item in v:
                if isinstance(item, dict):
                    found |= keys_of(item, prefix + key + "[].")
    return found


def covered(key, rows):
    """By its own row, by rows of what is inside it, or (show, doctor) by a row that refers to another command's."""
    return key in rows or any(r.startswith(key + "[") or r.startswith(key + ".") for r in rows)


def look(verb, *words, more=()):
    r = run(*words, "--json")
    check(f"{' '.join(words)} --json ends well", r.returncode in (0, 3), r)
    rows = documented(verb) | set(more)
    for key in sorted(keys_of(json.loads(r.stdout))):
        check(f"{verb}: key {key} is documented", covered(key, rows))


try:
    kernel = work + "/wait"
    with open(kernel, "wb") as f:
        f.write(tinykernel.kernel("wait"))
    shown = {"reason", "cpus", "memory", "nested", "pid", "engine", "uptime_s"}   # "as in list"
    checks = {"checks[]." + k for k in ("code", "ok", "level", "check", "detail", "fix", "automatic")}
    look("create", "create", "a", "--kernel", kernel, "--memory", "16M")
    look("clone", "clone", "a", "b")
    look("set", "set", "a", "memory=17M")
    look("export", "export", "a")
    look("start", "start", "a")
    look("list", "list")
    look("show", "show", "a", more=shown)
    look("nested", "nested", "status", "a")
    look("doctor", "doctor", more=checks)
    look("checkpoint", "checkpoint", "a", "create", "one", more={"name", "key", "bytes", "pages"})   # as in list
    look("checkpoint", "checkpoint", "a", "list")
    look("checkpoint", "checkpoint", "a", "apply", "one", more={"name", "key"})
    look("pause", "pause", "a")
    look("resume", "resume", "a")
    look("stop", "stop", "a", more=["status"])
    look("list", "list")
    look("version", "version", more=["version"])

    commands = [line.split()[0] for line in run("help").stdout.decode().splitlines() if re.match(r"  [a-z]", line)]
    check("there are commands", len(commands) > 20, commands)
    manual = run("man").stdout.decode().replace("\\-", "-")
    completion = run("completion", "bash").stdout.decode()
    for verb in commands:
        text = run("help", verb).stdout.decode()
        check(f"help {verb}", text.startswith(f"usage: nestbox {verb}"), text[:60])
        check(f"the manual has {verb}", f".SS {verb}" in manual)
        check(f"man {verb}", run("man", verb).stdout.decode().startswith(".TH NESTBOX"))
        for option in re.findall(r"^  (--[a-z-]+)", text, re.M):
            check(f"completion of {verb} has {option}", re.search(rf"^\t{verb}\) opts=.*{option}\b", completion, re.M))
    script = completion + f"""
complete_as() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _nestbox; echo "${{COMPREPLY[*]}}"; }}
complete_as {nestbox} --state {work}/state sto
complete_as {nestbox} --state {work}/state stop ""
complete_as {nestbox} --state {work}/state stop a --fo
complete_as {nestbox} --state {work}/state set a memo
"""
    r = subprocess.run(["bash", "-c", script], capture_output=True, cwd=work)
    check("completion completes commands, names, options and keys", r.stdout.decode().split("\n") == ["stop", "a b", "--force", "memory=", ""], r)
finally:
    run("stop", "a", "--force")
    subprocess.run(["rm", "-rf", work])
print(f"{failures} failures")
sys.exit(bool(failures))
