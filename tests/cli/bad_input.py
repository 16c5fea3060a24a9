#!/usr/bin/env python3
"""Bad input gets one clear line naming the thing, its value and what to do, and exit status 2.

usage: bad_input.py NESTBOX
"""
import fcntl
import os
import socket
import subprocess
import sys
import tempfile

nestbox = sys.argv[1]
work = tempfile.mkdtemp(prefix="nestbox-cli-")
failures = 0


def path(name, data=None):
    p = os.path.join(work, name)
    if data is not None:
        with open(p, "wb") as f:
            f.write(data)
    return p


def case(sentence, argv, status, words, lines=2):
    """Runs nestbox; checks the status, that every word is in stderr, and that stderr is short."""
    global failures
    r = subprocess.run([nestbox] + argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    err = r.stderr.decode("utf-8", "replace")
    problems = []
    if r.returncode != status:
        problems.append(f"status {r.returncode}, expected {status}")
    problems += [f"no {w!r} in stderr" for w in words if w not in err]
    if len(err.splitlines()) > lines:
        problems.append(f"{len(err.splitlines())} lines on stderr, expected at most {lines}")
    if problems:
        failures += 1
        print(f"FAIL {sentence}: {'; '.join(problems)}\n     stderr: {err!r}")
    else:
        print(f"ok   {sentence}")


empty = path("empty", b"")
text = path("text", b"this is no kernel\n" * 100)
elf32 = path("elf", b"\x7fELF\x01\x01\x01" + b"\0" * 200)
odd = path("odd.img", b"x" * 513)
zeros = path("zeros", b"\0" * 65536)
gz = path("kernel.gz", b"\x1f\x8b" + b"\0" * 4096)

K = ["run", "--serial", "null", "--kernel"]
case("no kernel given", ["run"], 2, ["--kernel"])
case("kernel file is missing", K + [path("nosuch")], 2, ["nosuch", "No such file"])
case("kernel is a folder", K + [work], 2, ["directory"])
case("kernel is empty", K + [empty], 2, ["empty"])
case("kernel is text", K + [text], 2, ["text", "kernel"])
case("kernel is zeros", K + [zeros], 2, ["zeros", "not a kernel"])
case("kernel is a broken ELF file", K + [elf32], 2, ["elf"])
case("kernel is gzipped", K + [gz], 2, ["gzip"])
case("initrd is missing", K + [text, "--initrd", path("noinitrd")], 2, ["kernel"])
case("memory is zero", K + [text, "--memory", "0"], 2, ["--memory", "\"0\""])
case("memory is negative", K + [text, "--memory", "-5"], 2, ["--memory", "\"-5\""])
case("memory is a word", K + [text, "--memory", "much"], 2, ["--memory", "much"])
case("memory is more than the host has", K + [text, "--memory", "900000G"], 2, ["--memory", "900000G"])
case("memory is too little", K + [text, "--memory", "1M"], 2, ["--memory"])
case("zero vCPUs", K + [text, "--cpus", "0"], 2, ["--cpus", "\"0\""])
case("too many vCPUs", K + [text, "--cpus", "1000"], 2, ["--cpus", "\"1000\""])
case("vCPUs as a word", K + [text, "--cpus", "two"], 2, ["--cpus", "two"])
case("nested is maybe", K + [text, "--nested", "maybe"], 2, ["--nested", "maybe"])
case("unknown CPU model", K + [text, "--cpu", "pentium9"], 2, ["pentium9"])
case("unknown CPU feature", K + [text, "--cpu", "fast,-x2apic,+warp"], 2, ["--cpu", "\"+warp\"", "--cpu help"])
case("CPU feature that is not implemented", K + [text, "--cpu", "fast,+vme"], 2, ["\"+vme\"", "not implemented"])
case("CPU feature that contradicts another", K + [text, "--cpu", "fast,+avx2,-avx"], 2, ["\"+avx2\"", "avx"])
case("VT-x is not a plain CPU feature", K + [text, "--cpu", "fast,+vmx"], 2, ["\"+vmx\"", "--nested on"])
case("CPU address width out of range", K + [text, "--cpu", "fast,phys-bits=60"], 2, ["\"phys-bits=60\"", "52"])
case("CPU item that is nothing", K + [text, "--cpu", "fast,avx"], 2, ["\"avx\"", "+FEATURE"])
case("unknown engine", K + [text, "--engine", "warp"], 2, ["--engine", "warp"])
case("unknown serial", K + [text, "--serial", "pigeon"], 2, ["--serial", "pigeon"])
case("serial file cannot be made", K + [text, "--serial", "file:" + path("no/such/folder/log")], 2, ["no/such/folder/log"])
case("unknown trace name", K + [text, "--trace", "insn,nonsense"], 2, ["nonsense"])
case("timeout is a word", K + [text, "--timeout", "soon"], 2, ["--timeout", "soon"])
case("disk is missing", K + [text, "--disk", path("nodisk.img")], 2, ["nodisk.img"])
case("disk size is odd", K + [text, "--disk", odd], 2, ["odd.img", "513"])
case("disk of another format than it is said to be", K + [text, "--disk", zeros + ",format=qcow2"], 2, ["zeros", "qcow2"])
case("disk with an unknown word", K + [text, "--disk", zeros + ",colour=red"], 2, ["colour", "format="])
case("disk on a bus that there is not", K + [text, "--disk", zeros + ",bus=scsi"], 2, ["bus=scsi", "virtio"])
case("disk that is both read-only and a snapshot", K + [text, "--disk", zeros + ",ro,snapshot=on"], 2, ["snapshot"])
case("overlay that is no overlay", K + [text, "--disk", zeros + ",overlay=" + text], 2, ["text", "overlay"])
with open(zeros, "rb") as other_vm:
    fcntl.flock(other_vm, fcntl.LOCK_SH)
    case("disk that another VM reads, for writing", K + [text, "--disk", zeros], 2, ["zeros", "in use"])
case("too many disks", K + [text] + ["--disk", zeros] * 9, 2, ["--disk"])
import socket
def net(sentence, value, words):
    case("network: " + sentence, K + [text, "--net", value], 2, ["--net", value[:40]] + words)
net("unknown kind", "carrier-pigeon", ["carrier-pigeon", "user, tap, socket and switch"])
net("unknown option", "user,speed=9", ["\"speed\""])
net("option of another kind", "tap,hostfwd=tcp::1-:2", ["\"hostfwd\"", "tap"])
net("option without a value", "user,restrict", ["\"restrict\""])
net("TAP without a name", "tap", ["ifname"])
net("TAP name that is too long", "tap,ifname=abcdefghijklmnop", ["15 bytes"])
net("socket without a path", "socket", ["path"])
net("socket path that is too long", "socket,path=/tmp/" + "x" * 110, ["107 bytes"])
net("socket that nobody listens on", "socket,path=" + path("nosocket"), ["nosocket", "No such file", "server=on"])
net("listening socket in a missing folder", "socket,server=on,path=" + path("no/folder/s"), ["no/folder/s", "No such file"])
net("listening socket where a file is", "socket,server=on,path=" + text, ["already in use"])
net("switch without a name", "switch", ["name"])
net("switch name with a slash", "switch,name=a/b", ["a/b", "letters"])
net("switch in a missing folder", "switch,path=" + path("no/folder/s"), ["folder", "No such file"])
net("MAC that is none", "user,mac=12:34", ["mac=12:34"])
net("MAC of a group", "user,mac=01:00:00:00:00:01", ["even"])
net("forward without ports", "user,hostfwd=tcp:here", ["hostfwd=tcp:here", "tcp::2222-:22"])
net("forward to port 0", "user,hostfwd=tcp::0-:22", ["hostfwd"])
net("mac-spoofing is maybe", "user,mac-spoofing=maybe", ["mac-spoofing=maybe", "on or off"])
with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    net("host port that is taken", f"user,hostfwd=tcp::{port}-:22", [str(port), "in use"])
case("too many network cards", K + [text] + ["--net", "user"] * 9, 2, ["--net", "at most 8"])

case("share folder is missing", K + [text, "--share", path("noshare")], 2, ["noshare", "No such file"])
case("share is a file", K + [text, "--share", text], 2, ["text", "Not a directory"])
case("share tag is too long", K + [text, "--share", work + ",tag=" + "x" * 37], 2, ["--share", "36"])
case("too many shares", K + [text] + ["--share", work] * 5, 2, ["--share", "at most 4"])
case("vsock without a socket", K + [text, "--vsock", "5"], 2, ["--vsock", "path=FILE"])
case("vsock CID of the host", K + [text, "--vsock", "2,path=" + path("v")], 2, ["--vsock", "from 3"])
case("vsock socket in no folder", K + [text, "--vsock", "5,path=" + path("no/v")], 2, ["no/v"])
case("kvm without a command", ["kvm"], 2, ["missing"])
case("kvm with no CPU", ["kvm", "--cpus", "0", "--", "true"], 2, ["--cpus", "\"0\""])
case("cp without a machine", ["cp", "a", "b"], 2, ["NAME:PATH"])
case("exec in a machine that does not run", ["--state", work, "exec", "nobody", "--", "true"], 2, ["nobody"])
F = ["run", "--serial", "null", "--timeout", "20", "--memory", "64M"]
case("unknown firmware", F + ["--firmware", "coreboot"], 2, ["--firmware", "\"coreboot\"", "file:PATH"])
case("firmware file is missing", F + ["--firmware", "file:" + path("norom")], 2, ["norom", "No such file"])
case("firmware file is empty", F + ["--firmware", "file:" + empty], 2, ["empty"])
case("firmware file has an odd size", F + ["--firmware", "file:" + odd], 2, ["odd.img", "513", "4096"])
case("a kernel and firmware", K + [text, "--firmware", "uefi"], 2, ["--kernel", "--firmware uefi", "leave one"])
case("no firmware and no kernel", F + ["--firmware", "none", "--disk", zeros], 2, ["nothing to boot"])
case("variables for a BIOS", F + ["--firmware", "bios", "--firmware-vars", path("vars")], 2, ["vars", "--firmware uefi"])
case("variables of the wrong size", F + ["--firmware", "uefi", "--firmware-vars", zeros], 2, ["zeros", "65536", "540672"])
case("variables are a folder", F + ["--firmware", "uefi", "--firmware-vars", work], 2, ["--firmware-vars"])
case("variables in a folder that is not there", F + ["--firmware", "uefi", "--firmware-vars", path("no/vars")], 2, ["no/vars", "No such file"])
case("CD-ROM image is missing", F + ["--cdrom", path("nocd.iso")], 2, ["nocd.iso"])
case("two CD-ROMs", F + ["--cdrom", zeros, "--cdrom", text], 2, ["--cdrom", "one drive"])
case("a screenshot without a display", K + [text, "--screenshot-at-exit", path("s.png")], 2, ["--screenshot-at-exit", "no display"])
case("a screenshot that cannot be written", F + ["--firmware", "bios", "--screenshot-at-exit", path("no/s.png")], 2, ["no/s.png", "No such file"])
case("a viewer's address that is none", F + ["--firmware", "bios", "--vnc", "somewhere"], 2, ["--vnc", "somewhere", "HOST:PORT"])
case("a viewer's port that is none", F + ["--firmware", "bios", "--vnc", "127.0.0.1:99999"], 2, ["--vnc", "65535"])
case("a viewer's socket that is a file", F + ["--firmware", "bios", "--vnc", "unix:" + text], 2, ["--vnc", "exists already"])
with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    case("a viewer's port in use", F + ["--firmware", "bios", "--vnc", "127.0.0.1:%d" % taken.getsockname()[1]], 2, ["--vnc", "in use"])
case("viewers without a display", K + [text, "--vnc", "unix:" + path("vnc")], 2, ["--vnc", "no display"])
case("unknown option", ["run", "--frobnicate"], 2, ["--frobnicate"])
case("option without its argument", ["run", "--kernel"], 2, ["--kernel"])
case("stray argument", K + [text, "stray"], 2, ["stray"])
case("unknown command", ["fly"], 2, ["fly"])

help_text = subprocess.run([nestbox, "run", "--help"], capture_output=True).stdout.decode()
man_text = subprocess.run([nestbox, "man"], capture_output=True).stdout.decode().replace("\\-", "-")
for option in [w for w in help_text.split() if w.startswith("--") and w[2:3].isalpha()]:
    if f".B {option}" not in man_text and option != "--no-reboot),":
        print(f"FAIL the manual page lacks {option}")
        failures += 1

print(f"{'FAILED' if failures else 'passed'}: {failures} failures")
sys.exit(failures > 0)
