"""Prepares the sides and measures them, one boot after the other. bench/run is made of this."""
import os
import subprocess
import time

from . import console, guests, results, sides

OUT = guests.ROOT / "bench" / "out"
SMP_WORKLOADS = ("hash", "syscall", "fault") # arithmetic, the kernel, the MMU
SMP_ARGUMENTS = "--target 20 --beside 40"           # what other programs and machines do changes within seconds: so short ones, in turn
EXITS_FEW, EXITS_MANY = 200, 5200            # units of 20 CPUIDs


def say(text):
    print(text, flush=True)


def step(text, command):
    """Runs a command whose output is of interest only when it fails."""
    started = time.monotonic()
    child = subprocess.Popen(command, cwd=guests.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while True:
        try:
            out, _ = child.communicate(timeout=2 if time.monotonic() - started < 2 else 5)
            break
        except subprocess.TimeoutExpired:
            say(f"  ... {text}: {time.monotonic() - started:.0f} s")
    if child.returncode:
        raise guests.Missing(f"{text} failed:\n" + "\n".join(out.splitlines()[-12:]))


def prepare_nestbox(binary):
    """Path of the binary: the one given, or built in build/."""
    if binary:
        return os.path.abspath(binary)
    step("dependencies", ["tools/install-deps"])
    if not (guests.ROOT / "build" / "build.ninja").exists():
        step("configuring the build", ["meson", "setup", "build"])
    step("building nestbox", ["ninja", "-C", "build", "nestbox"])
    return str(guests.ROOT / "build" / "nestbox")


def prepare_sides(o, program, arguments):
    """(the sides to measure, [(name, reason)] of those that cannot be). o: bench/run's options."""
    wanted = o.sides.split(",") if o.sides else None
    chosen, absent = [sides.Native(program, arguments)], []
    if not wanted or any(name.startswith("nestbox") for name in wanted):
        nestbox = prepare_nestbox(o.nestbox)
        known = sides.engines(nestbox)
        for engine in o.engines.split(",") if o.engines else known:
            if engine in known:
                chosen.append(sides.Nestbox(nestbox, engine))
            else:
                absent.append((f"nestbox-{engine}", f"this nestbox has no such engine, only {', '.join(known)}"))
    for side, packages in ((sides.Qemu(), sides.QEMU_PACKAGES), (sides.Bochs(guests.cache() / "bench"), sides.BOCHS_PACKAGES)):
        if side.name == "bochs" and not o.bochs or wanted and side.name not in wanted:
            continue
        try:
            sides.install(packages, say)
            chosen.append(side)
        except guests.Missing as e:
            absent.append((side.name, str(e)))
    chosen = [s for s in chosen if not wanted or s.name == "native" or s.name in wanted]
    absent += [(name, "no such side") for name in wanted or () if name not in [s.name for s in chosen] + [n for n, _ in absent]]
    return chosen, absent


class Gauge:
    """How long a fixed native loop takes: on a quiet machine always the same time."""
    def __init__(self, program):
        self.command = [program, "--only", "hash", "--count", "100", "--repeat", "5", "--tag", "0"]
        self.values = []

    def read(self):
        r = console.Machine(self.command, 60, os.devnull, lambda text: None).run()
        figures, _ = results.take_workloads(r.lines)
        if (0, "hash") in figures:
            self.values.append(figures[0, "hash"][0])


def calibrate(program, arguments):
    """Units of each workload that take the target's time natively: more than these no side does, whatever its clock says."""
    say("calibrating natively")
    r = console.Machine([program, "--pin", "--tag", "0", *arguments.split(), "--repeat", "1"], 300, OUT / "calibration.log", say).run()
    units = results.most_units(r.lines)
    if r.failure or not units:
        raise guests.Missing(f"the workload program does not run here: {r.failure}; see bench/out/calibration.log")
    # CPUID is slower here than in a software CPU when this host is a guest itself.
    return ",".join(f"{name}={n}" for (_, name), n in units.items() if name not in ("nothing", "cpuid"))


def boot(side, title, initrd, append, depth, timeout_s, levels, cpus=1):
    """One run of a side; its Result says if it failed. levels: those whose workloads have to end."""
    log = OUT / f"{side.name}.log"
    say(title)
    try:
        command = [str(word) for word in side.command(guests.cache() / "images" / "vmlinuz", initrd, append, depth, cpus)]
        result = console.Machine(command, timeout_s * side.timeout_factor, log, lambda text: say(f"{title}: {text}"),
                                 side.console, side.ends_with).run()
    except (OSError, subprocess.SubprocessError) as e:
        result = console.Result()
        result.failure = f"could not start: {e}"
    missing = sorted(set(levels) - results.ended(result.lines))
    if missing and not result.failure:
        result.failure = f"the workloads of L{missing[0]} did not end"
    if result.failure:
        kept = log.with_suffix(".failed.log")
        if log.exists():
            log.replace(kept)
        say(f"{title}: {result.failure}; its console is in {kept.relative_to(guests.ROOT)}")
    else:
        say(f"{title}: done in {result.wall_s:.0f} s")
    return result


def measure(o, chosen, program, arguments, gauge):
    """[(side name, Result)] of all runs, the sides in turn; a side that fails leaves what it said until then."""
    levels = range(1, o.levels + 1)
    initrd = guests.make_initrd(program, guests.chain_scripts(o.levels, levels, arguments), "chain")
    append, done = guests.command_line(o.levels, o.timeout), []
    for run in range(1, o.runs + 1):
        for side in chosen:
            if side.name == "bochs" and run > o.bochs_runs:
                continue
            gauge.read()
            ends = (0,) if side.name == "native" else levels
            done.append((side.name, boot(side, f"[{run}/{o.runs}] {side.name}", initrd, append, o.levels, o.timeout, ends)))
    gauge.read()
    return done


def instructions_per_exit(o, chosen, program, table):
    """Two boots of each engine that differ only in the number of CPUIDs in L2: what nestbox counted in between, for each of them."""
    initrds = [guests.make_initrd(program, guests.chain_scripts(2, (2,), f"--only cpuid --repeat 1 --count {n}"), f"exits-{n}")
               for n in (EXITS_FEW, EXITS_MANY)]
    for side in (s for s in chosen if isinstance(s, sides.Nestbox)):
        found = []
        for initrd in initrds:
            r = boot(side, f"[exits] {side.name}", initrd, guests.command_line(2, o.timeout), 2, o.timeout, (2,))
            found.append(results.take_stats(r.lines))
        (few, few_exits), (many, many_exits) = found
        cpuids = (EXITS_MANY - EXITS_FEW) * 20
        if few and many:
            table.add(side.name, 2, "instructions per L2 CPUID exit", "speed", "", [(many[0] - few[0]) / cpuids])
        if few_exits is not None and many_exits is not None:
            table.add(side.name, 2, "VM exits per L2 CPUID", "speed", "", [(many_exits - few_exits) / cpuids])


def booting(o, chosen, program, table):
    """A boot of each engine that ends at L1's userland: how fast it is, and how much of it goes to translation."""
    initrd = guests.make_initrd(program, guests.chain_scripts(1, (), ""), "boot")
    for side in (s for s in chosen if isinstance(s, sides.Nestbox)):
        r = boot(side, f"[boot] {side.name}", initrd, guests.command_line(1, o.timeout), 1, o.timeout, ())
        counted, _ = results.take_stats(r.lines)
        translating = results.translation_ms(r.lines)
        if counted and r.cpu_s:
            table.add(side.name, 1, "MIPS booting L1", "speed", "MIPS", [counted[0] / r.cpu_s / 1e6])
        if translating is not None and r.cpu_s:
            table.add(side.name, 1, "translating, booting L1", "speed", "%", [translating / r.cpu_s / 10])


def two_cpus(o, chosen, program, table):
    """Throughput of two busy vCPUs against one: the time of a workload alone and beside its like. Also of two native processes, which tells what there is to get."""
    names = ",".join(SMP_WORKLOADS)
    command = [program, "--tag", "1", *SMP_ARGUMENTS.split(), "--only", names]
    native = console.Machine(command, 300, OUT / "native.log", say).run()
    initrd = guests.make_initrd(program, guests.smp_scripts(SMP_WORKLOADS, SMP_ARGUMENTS), "smp")
    done = [("native", native)]
    for side in (s for s in chosen if s.name != "native"):
        r = boot(side, f"[2 CPUs] {side.name}", initrd, guests.command_line(1, o.timeout), 1, o.timeout, (1,), cpus=2)
        done.append((side.name, r))
        if r.failure:
            table.add(side.name, 1, "two vCPUs", "about", "", (), note=r.failure)
    for side, r in done:
        for name, ratios in results.take_pairs(r.lines).items():
            if side == "native":
                table.add("host", 0, f"two processes: {name}", "noise", "times", ratios)
            elif name in SMP_WORKLOADS:
                table.add(side, 1, f"two vCPUs: {name}", "smp", "times", ratios)


def add_notes(table, chosen, absent, gauge, done):
    for side in chosen:
        table.add(side.name, 0, "version", "about", "", (), note=side.version())
    for name, reason in absent:
        table.add(name, 0, "not measured", "about", "", (), note=reason)
    table.add("host", 0, "gauge", "noise", "us", gauge.values)
    table.add("host", 0, "others", "noise", "%", (100 * r.others for _, r in done))
    table.add("host", 0, "stolen", "noise", "%", (100 * r.stolen for _, r in done))
