#!/usr/bin/env python3
"""nestbox exec and nestbox cp with Debian's qemu-guest-agent in a guest that boots Debian's cloud kernel.

usage: exec.py NESTBOX      Exit status: 0 passed, 1 failed, 77 skipped (no guest image; make it with tools/guest-images).
"""
import base64
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGES = os.path.join(os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache")), "images")
# The agent starts when a file says so, so that there is a time without it.
GUEST = """
load virtio_pci; load virtio_console
mkdir -p /dev/virtio-ports /run /var/run /dev/pts; mount -t devpts devpts /dev/pts
n=0; while ! cat /sys/class/virtio-ports/*/name 2>/dev/null | grep -q exec.3 && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done
for p in /sys/class/virtio-ports/*; do [ -e $p/name ] && ln -s ../${p##*/} /dev/virtio-ports/$(cat $p/name); done
# As Debian mounts it: nothing there can be run.
mount -t tmpfs -o noexec,nosuid,nodev run /run; mkdir -p /var/lib
mark ports
read -r line
/usr/sbin/qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run
"""
failures = 0


def check(sentence, ok, detail=""):
    global failures
    print(f"{'ok  ' if ok else 'FAIL'} {sentence}{'' if ok else ': ' + str(detail)[:600]}", flush=True)
    failures += not ok


def main():
    nestbox = sys.argv[1]
    if not os.path.exists(f"{IMAGES}/agent.cpio"):
        print(f"skipped: no {IMAGES}/agent.cpio; run tools/guest-images")
        return 77
    with tempfile.TemporaryDirectory(prefix="nestbox-exec-") as work:
        base = [nestbox, "--state", f"{work}/state"]

        def run(*args, stdin=b"", timeout=120):
            r = subprocess.run(base + list(args), input=stdin, capture_output=True, timeout=timeout)
            return r.returncode, r.stdout, r.stderr.decode("utf-8", "replace")

        def in_guest(*cmd, **kw):
            return run("exec", "vm", "--", *cmd, **kw)

        append = "console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests nb.mode=poweroff nb.cmd64=" + base64.b64encode(GUEST.encode()).decode()
        vm = subprocess.Popen(base + ["run", "--name", "vm", "--kernel", f"{IMAGES}/vmlinuz", "--initrd", f"{IMAGES}/agent.cpio", "--append", append,
                                      "--memory", "512M", "--engine", os.environ.get("NESTBOX_TEST_ENGINE", "jit"), "--timeout", "600"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            for line in vm.stdout:
                print(line.decode("utf-8", "replace").rstrip(), flush=True)
                if b"event=ports" in line:
                    break
            tests(work, run, in_guest, vm, base)
        finally:
            vm.kill()
            vm.wait()
    return 1 if failures else 0


def tests(work, run, in_guest, vm, base):
    status, out, err = in_guest("true")
    check("a guest without an agent: status 125 and a line that says how to install one", status == 125 and "apt-get install qemu-guest-agent" in err
          and len(err.splitlines()) == 1, (status, err))
    vm.stdin.write(b"go\n")
    vm.stdin.flush()
    status, out, err = run("exec", "vm", "--wait", "120", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    check("output, errors and status are the command's", (status, out, err) == (7, b"out\n", "err\n"), (status, out, err))
    blob = os.urandom(3 << 20)
    status, out, err = in_guest("cat", stdin=blob)
    check("3 MiB of random bytes through cat come back the same", status == 0 and out == blob, (status, len(out), err))
    status, out, err = in_guest("sh", "-c", "cat >/dev/null; echo end")
    check("empty input ends", (status, out) == (0, b"end\n"), (status, out, err))
    status, out, err = in_guest("head", "-c", "5", stdin=b"hello world" * 100000)
    check("a command that reads only the beginning of its input ends well", (status, out) == (0, b"hello"), (status, out, err))
    status, out, err = in_guest("printf", "%s|", "a b", "", "c'\"$d")
    check("arguments arrive as they are", out == b"a b||c'\"$d|", out)
    status, out, err = in_guest("nosuch")
    check("a command that is not there: 127", status == 127 and "nosuch" in err, (status, err))
    status, out, err = in_guest("/etc")
    check("one that cannot run: 126", status == 126, (status, err))
    status, out, err = in_guest("sh", "-c", "kill -9 $$")
    check("one that a signal kills: 128 + signal", status == 137, (status, err))
    p = subprocess.Popen(base + ["exec", "vm", "--", "sh", "-c", "trap 'echo got; exit 9' INT; echo up; while :; do sleep 0.1; done"], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE)
    p.stdout.readline()
    p.send_signal(signal.SIGINT)
    out = p.communicate(timeout=60)[0]
    check("signals are passed on", (p.returncode, out) == (9, b"got\n"), (p.returncode, out))
    p = subprocess.Popen(base + ["exec", "vm", "--", "sh", "-c", "echo up; exec sleep 4242"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    p.stdout.readline()
    p.kill()
    p.wait()
    for _ in range(100):
        status, out, err = in_guest("ps")
        if b"sleep 4242" not in out:
            break
        time.sleep(0.1)
    check("when nestbox exec is killed, its command in the guest ends", status == 0 and b"sleep 4242" not in out, out[-300:])
    ps = [subprocess.Popen(base + ["exec", "vm", "--", "sh", "-c", f"sleep 0.5; echo {i}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) for i in range(6)]
    outs = [p.communicate(timeout=120)[0] for p in ps]
    check("six at once on four ports all run", outs == [f"{i}\n".encode() for i in range(6)], outs)
    copy(work, run, in_guest, blob)
    status, out, err = run("exec", "vm", "--plain", "--", "/bin/sh", "-c", "cat; exit 3", stdin=b"plain\n")
    check("--plain uses the agent alone", (status, out) == (3, b"plain\n"), (status, out, err))
    status, out, err = run("exec", "nosuch", "--", "true")
    check("a machine that does not run: status 2", status == 2 and "nosuch" in err, (status, err))
    status, out, err = run("exec", "vm")
    check("no command: status 2", status == 2 and "missing" in err, (status, err))


def copy(work, run, in_guest, blob):
    with open(f"{work}/f", "wb") as f:
        f.write(blob)
    os.chmod(f"{work}/f", 0o751)
    status, out, err = run("cp", f"{work}/f", "vm:/tmp/")
    check("cp into a folder of the guest", status == 0, err)
    status, out, err = in_guest("sh", "-c", "md5sum </tmp/f; stat -c %a /tmp/f")
    check("content and mode are there", out.decode().split() == [hashlib.md5(blob).hexdigest(), "-", "751"], out)
    status, out, err = run("cp", "vm:/tmp/f", f"{work}/g")
    check("and come back", status == 0 and open(f"{work}/g", "rb").read() == blob and os.stat(f"{work}/g").st_mode & 0o777 == 0o751, err)
    status, out, err = run("cp", "vm:/tmp/nosuch", f"{work}/h")
    check("a file that is not there leaves nothing behind", status != 0 and "nosuch" in err and sorted(os.listdir(work)) == ["f", "g", "state"],
          (status, err, os.listdir(work)))
    status, out, err = run("cp", "--plain", f"{work}/g", "vm:/tmp/p")
    status2, out, err2 = run("cp", "--plain", "vm:/tmp/p", f"{work}/h")
    check("cp --plain both ways", status == status2 == 0 and open(f"{work}/h", "rb").read() == blob, (err, err2))
    status, out, err = run("cp", f"{work}/f", f"{work}/g")
    check("cp without a machine: status 2", status == 2 and "NAME:PATH" in err, (status, err))


sys.exit(main())
