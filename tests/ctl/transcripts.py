#!/usr/bin/env python3
"""What each command prints, word for word.

usage: transcripts.py NESTBOX FILE...     each FILE in a state folder of its own
       transcripts.py NESTBOX --update FILE...

A transcript's lines are commands ("$ nestbox ..." or "$ sh ..."), what they print on both outputs, and "[N]" for an exit status other than 0. In it stand
W for the test's folder, and <pid>, <id>, <time>, <n>, <engine> for what differs from run to run or host to host. await NAME
STATE, greeted NAME and entered NAME (its guest has run) wait for what takes its time. Kernels W/wait, W/deaf, W/off, W/die, W/count, W/nest: tinykernel.py.
"""
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tinykernel

PLAIN = [(r'"(entries|exits|exits_per_s|per_s|instructions|handling_s|idle_s|uptime_s|events|lost|serial)": ?[0-9.e+-]+', r'"\1": <n>'),
         (r'"rip": ?"0x1003[a-f][0-9a-f]"', '"rip": <rip>'), (r'"running": ?(true|false)', '"running": <bool>'),
         (r"stood still for \d+ ms", "stood still for <n> ms"), (r'"(pause_ms|write_ms|apply_ms|guest_s|bytes|pages)": [0-9.e+-]+', r'"\1": <n>'),
         (r"process \d+", "process <pid>"), (r'"pid": \d+', '"pid": <pid>'), (r"\b[0-9a-f]{16}\b", "<id>"),
         (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>"), (r'"created": \d+', '"created": <time>'), (r'"uptime_s": [0-9.e+-]+', '"uptime_s": <n>'),
         (r"(engine|engine_reason)(\": |: )\"?(interp|jit|auto|kvm|engine)\b.*", r"\1\2<engine>"), (r"on engine .*", "on engine <engine>"),
         (r"the host has [0-9.]+ [GM]iB", "the host has <n>"), (r"engine (interp|jit|kvm):", "engine <engine>:"),
         (r"(open-files.*:|address-space.*:|memory-lock.*:|\"detail\": \"(?=limit|unlimited|\d+ allowed)) ?.*", r"\1 <n>"),
         (r", \d+ VM exits, \d+/s", ", <n> VM exits, <n>/s"), (r"(active at rip) 0x[0-9a-f]+(, runs now|, last ran .*)?", r"\1 <rip>"),
         (r"^(L\d +[A-Z]+) +\d.*", r"\1 <n>"), (r"\d+ VM entries and exits", "<n> VM entries and exits"),
         (r"^(\S+ +running +\d+ +\d+ MiB +\S+ +)\S+ +\d+ s +\d+ *$", r"\1<engine> <n> <pid>")]


# await NAME STATE: until that is what it is doing.
AWAIT = r"""
await() { for i in $(seq 300); do nestbox show "$1" | sed -n 2p | grep -q " $2" && return; sleep 0.1; done; echo "$1 never was $2"; }
entered() { for i in $(seq 300); do nestbox exits "$1" | grep -q CPUID && return; sleep 0.1; done; echo "no guest of $1 ran"; }
greeted() { for i in $(seq 300); do nestbox console "$1" --dump | grep -q hello && return; sleep 0.1; done; echo "$1 never spoke"; }
"""


def plain(text, work):
    text = text.replace(work, "W")
    for pattern, to in PLAIN:
        text = re.sub(pattern, to, text, flags=re.M)
    lines = [re.sub(" +", " ", line) if re.match(r"NAME +STATE|LEVEL +REASON|\S+ +running +\d", line) else line for line in text.splitlines()]
    return "".join(line.rstrip() + "\n" for line in lines)


def run(nestbox, line, work):
    """One command line of a transcript, by the shell; nestbox is the one under test in this test's state folder."""
    shell = f'nestbox() {{ "{nestbox}" --state "{work}/state" "$@"; }}\n{AWAIT}cd "{work}"\n{line.replace("W/", work + "/")}\n'
    r = subprocess.run(["bash", "-c", shell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=120)
    out = plain(r.stdout.decode("utf-8", "replace"), work)
    return out + (f"[{r.returncode}]\n" if r.returncode else "")


def kill_all(nestbox, work):
    names = subprocess.run([nestbox, "--state", f"{work}/state", "_names"], capture_output=True).stdout.decode().split()
    for name in names:
        subprocess.run([nestbox, "--state", f"{work}/state", "stop", "--force", name], capture_output=True)


def play(nestbox, path, update):
    work = tempfile.mkdtemp(prefix="nestbox-transcript-")
    for what in ("wait", "deaf", "off", "die", "count", "nest"):
        with open(f"{work}/{what}", "wb") as f:
            f.write(tinykernel.kernel(what))
    with open(path) as f:
        wanted = f.read()
    got = ""
    try:
        for line in wanted.splitlines():
            if line.startswith("#"):
                got += line + "\n"
            if line.startswith("$ "):
                got += line + "\n" + run(nestbox, line[2:], work)
    finally:
        kill_all(nestbox, work)
        shutil.rmtree(work, ignore_errors=True)
    if update:
        with open(path, "w") as f:
            f.write(got)
        return True
    if got == wanted:
        print(f"ok   {os.path.basename(path)}: {got.count(chr(10) + '$ ') + got.startswith('$ ')} commands")
        return True
    print(f"FAIL {os.path.basename(path)}")
    sys.stdout.writelines(difflib.unified_diff(wanted.splitlines(True), got.splitlines(True), "wanted", "got"))
    return False


def main():
    nestbox = os.path.abspath(sys.argv[1])
    update = sys.argv[2] == "--update"
    files = sys.argv[3 if update else 2:]
    results = [play(nestbox, path, update) for path in files]
    sys.exit(not all(results) or not files)


main()
