#!/usr/bin/env python3
"""nestbox kvm: commands of this host with a /dev/kvm that works, up to a guest of QEMU's.

usage: kvm.py NESTBOX      Exit status: 0 passed, 1 failed, 77 skipped (no guest images; make them with tools/guest-images).
"""
import glob
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache"))
ENGINE = os.environ.get("NESTBOX_TEST_ENGINE", "jit")
failures = 0


def check(sentence, ok, detail=""):
    global failures
    print(f"{'ok  ' if ok else 'FAIL'} {sentence}{'' if ok else ': ' + str(detail)[-1500:]}", flush=True)
    failures += not ok


def main():
    nestbox = os.path.abspath(sys.argv[1])
    if not os.path.exists(f"{CACHE}/images/kvm.cpio"):
        print(f"skipped: no {CACHE}/images/kvm.cpio; run tools/guest-images")
        return 77
    with tempfile.TemporaryDirectory(prefix="nestbox-kvm-") as work:
        env = dict(os.environ, NESTBOX_CACHE=os.path.abspath(CACHE), PROBE="a b'c")

        def run(*args, stdin=b"", options=(), timeout=300):
            r = subprocess.run([nestbox, "--state", f"{work}/state", "kvm", "--engine", ENGINE, *options, "--", *args], input=stdin, capture_output=True, cwd=f"{work}/cwd", env=env,
                               timeout=timeout)
            return r.returncode, r.stdout, r.stderr.decode("utf-8", "replace")

        os.mkdir(f"{work}/cwd")
        tests(work, run)
    return 1 if failures else 0


def tests(work, run):
    cwd = f"{work}/cwd"
    status, out, err = run("sh", "-c", 'echo "$PROBE|$(pwd)|$(id -u)|$(cat)"; echo err >&2; exit 7', stdin=b"input")
    check("environment, folder, user, streams and status are the caller's",
          (status, out.decode(), err) == (7, f"a b'c|{cwd}|{os.getuid()}|input\n", "err\n"), (status, out, err))
    outside = f"{work}/outside"
    blob = os.urandom(2 << 20)
    with open(f"{cwd}/in", "wb") as f:
        f.write(blob)
    status, out, err = run("sh", "-c", f"cp in out && mkdir d && mv out d/ && ln -s d/out s && chmod 700 d && echo x >{outside} && cat {outside} /dev/null && "
                                       "dd if=/dev/null of=/dev/kvm 2>/dev/null; ls -l /dev/kvm && rm in", options=("--stats", "--cpus", "2"))
    check("the current folder is written to", not os.path.exists(f"{cwd}/in") and open(f"{cwd}/s", "rb").read() == blob
          and os.stat(f"{cwd}/d").st_mode & 0o777 == 0o700, (status, out, err))
    check("everything else is seen, and changed only in there", b"x\n" in out and not os.path.exists(outside), (out, err))
    check("/dev/kvm is there for everybody", b"crw-rw-rw-" in out, out)
    check("--stats says how long it took to start", "stats: kvm start_s=" in err, err)
    status, out, err = run("nosuch")
    check("a command that is not there: 127", status == 127 and "nosuch" in err, (status, err))
    nested(cwd, run)


def nested(cwd, run):
    """Debian's QEMU from the cache, as anybody would call it."""
    u = f"{os.path.abspath(CACHE)}/unpacked"
    libs = ":".join(glob.glob(f"{u}/*/usr/lib/x86_64-linux-gnu") + glob.glob(f"{u}/*/lib/x86_64-linux-gnu"))
    script = f"""export LD_LIBRARY_PATH={libs}
exec {u}/qemu-system-x86/usr/bin/qemu-system-x86_64 -L {u}/qemu-system-data/usr/share/qemu -L {u}/seabios/usr/share/seabios -nodefaults -no-user-config \
-display none -accel kvm -M microvm,pit=off,pic=off,rtc=on,isa-serial=on,acpi=on,auto-kernel-cmdline=off -cpu host,migratable=off -m 128 \
-kernel {u}/../images/vmlinuz -initrd {u}/../images/leaf.cpio -serial stdio -no-reboot \
-append "pci=off console=ttyS0,115200 8250.nr_uarts=1 reboot=t panic=-1 quiet random.trust_cpu=on cryptomgr.notests nb.level=2 nb.depth=2"
"""
    with open(f"{cwd}/l2.sh", "w") as f:
        f.write(script)
    status, out, err = run("bash", "l2.sh", timeout=600)
    check("qemu-system-x86_64 -accel kvm boots a guest", status == 0 and b"level=2 event=userland" in out and b"hypervisor=KVM" in out, (status, out, err))


sys.exit(main())
