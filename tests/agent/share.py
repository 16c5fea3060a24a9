#!/usr/bin/env python3
"""--share: folders of the host in a guest that boots Debian's cloud kernel, by its virtiofs driver.

usage: share.py NESTBOX      Exit status: 0 passed, 1 failed, 77 skipped (no guest image; make it with tools/guest-images).
"""
import base64
import hashlib
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGES = os.path.join(os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache")), "images")
GUEST = r"""
load virtio_pci; load virtiofs
mkdir /rw /ro; mount -t virtiofs share0 /rw && mount -t virtiofs docs /ro || mark mountfailed
mark sum "sum=$(md5sum </ro/big | cut -d' ' -f1)"
cp /ro/big /rw/copy && sync && mark copied "sum=$(md5sum </rw/copy | cut -d' ' -f1)"
touch /ro/new 2>/dev/null && mark wrote || mark refused
cat /rw/link >/dev/null 2>&1 && mark escaped || mark held
cat /rw/up/secret >/dev/null 2>&1 && mark escaped2 || mark held2
n=0; while [ $n -lt 400 ]; do echo $n >/rw/many/$n; n=$((n+1)); done
mark many "count=$(ls /rw/many | wc -l) sum=$(cat /rw/many/* | wc -c)"
mv /rw/many/7 /rw/seven; rm /rw/many/8; mkdir -p /rw/a/b/c; ln -s ../seven /rw/a/s; truncate -s 5000 /rw/seven 2>/dev/null || dd if=/dev/null of=/rw/seven bs=1 seek=5000 2>/dev/null
echo more >>/rw/log; echo more >>/rw/log; chmod 640 /rw/log
mark statfs "$(df /rw | tail -n 1 | awk '{ print "blocks=" $2 }')"
umount /rw && mount -t virtiofs share0 /rw && mark again "log=$(cat /rw/log | tr '\n' '+')"
"""
failures = 0


def check(sentence, ok, detail=""):
    global failures
    print(f"{'ok  ' if ok else 'FAIL'} {sentence}{'' if ok else ': ' + str(detail)[-1500:]}", flush=True)
    failures += not ok


def main():
    if not os.path.exists(f"{IMAGES}/agent.cpio"):
        print(f"skipped: no {IMAGES}/agent.cpio; run tools/guest-images")
        return 77
    with tempfile.TemporaryDirectory(prefix="nestbox-share-") as work:
        rw, ro, blob = f"{work}/rw", f"{work}/ro", os.urandom(8 << 20)
        for d in (rw, ro, f"{rw}/many"):
            os.mkdir(d)
        for name, data in ((f"{ro}/big", blob), (f"{work}/secret", b"secret")):
            with open(name, "wb") as f:
                f.write(data)
        os.symlink("../secret", f"{rw}/link")
        os.symlink("..", f"{rw}/up")
        append = "console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests nb.mode=poweroff nb.cmd64=" + base64.b64encode(GUEST.encode()).decode()
        r = subprocess.run([sys.argv[1], "run", "--kernel", f"{IMAGES}/vmlinuz", "--initrd", f"{IMAGES}/agent.cpio", "--append", append, "--engine",
                            os.environ.get("NESTBOX_TEST_ENGINE", "jit"), "--timeout", "280", "--share", rw, "--share", f"{ro}:ro,tag=docs"],
                           stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
        out = r.stdout.decode("utf-8", "replace")
        print(out, r.stderr.decode("utf-8", "replace"))
        judge(rw, out, blob, r.returncode)
    return 1 if failures else 0


def judge(rw, out, blob, status):
    sum_ = hashlib.md5(blob).hexdigest()
    check("the guest ends well", status == 0, status)
    check("a file of 8 MiB reads right", f"event=sum" in out and f"sum={sum_}" in out)
    check("and a copy of it is on the host", open(f"{rw}/copy", "rb").read() == blob if os.path.exists(f"{rw}/copy") else False)
    check("a read-only share refuses writing", "event=refused" in out)
    check("symbolic links lead nowhere outside", "event=held " in out and "event=held2" in out and "escaped" not in out)
    check("400 files are made and listed", "count=400" in out and len(os.listdir(f"{rw}/many")) == 398, len(os.listdir(f"{rw}/many")))
    check("moved, truncated, linked", os.path.getsize(f"{rw}/seven") == 5000 and os.path.isdir(f"{rw}/a/b/c") and os.readlink(f"{rw}/a/s") == "../seven")
    check("appended to, and its mode set", open(f"{rw}/log").read() == "more\nmore\n" and os.stat(f"{rw}/log").st_mode & 0o777 == 0o640)
    check("mounted a second time", "log=more+more+" in out)


sys.exit(main())
