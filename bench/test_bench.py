#!/usr/bin/env python3
"""Tests of the benchmark's own arithmetic: consoles in, figures out."""
import math
import os
import pathlib
import sys
import tempfile
import unittest
import xml.dom.minidom

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from bench.lib import chart, console, guests, report, results, sides # noqa: E402


def marks(level, name, units, start, took, checksum="00ff"):
    return [(start - 1, 0, f"@S {level} {name} {units}"), (start, start, "?"), (start + took, start + took, "!"),
            (start + took + 1, 0, f"@E {level} {name} {units} {checksum}")]


def finished(lines, failure=None):
    r = console.Result()
    r.lines, r.failure, r.cpu_s, r.peak_mib = lines, failure, 1.0, 100.0
    return r


def example():
    """native 1 ms a unit, one side twice and three times that in L1 and L2."""
    runs = [("native", finished(marks(0, "sort", 100, 1, 0.1) + marks(0, "pipe", 10, 2, 0.1)))]
    for side, factor, pipe in (("nestbox-jit", 2, 0.4), ("qemu-tcg", 8, 1.7)):
        for _ in range(3):
            runs.append((side, finished(marks(1, "sort", 100, 1, 0.1 * factor) + marks(1, "pipe", 10, 3, pipe) +
                                        marks(2, "sort", 100, 5, 0.15 * factor))))
    return results.collect(runs, {"sort": "compute", "pipe": "system"})


class Consoles(unittest.TestCase):
    def test_the_measurement_with_most_units_counts_less_the_marks_own_time(self):
        lines = marks(1, "nothing", 1, 0, 0.01) + marks(1, "sort", 1, 1, 0.5) + marks(1, "sort", 10, 2, 0.21)
        figures, _ = results.take_workloads(lines)
        self.assertAlmostEqual(figures[1, "sort"][0], 20000)

    def test_the_median_of_several_measurements_counts(self):
        lines = marks(1, "sort", 10, 2, 0.1) + marks(1, "sort", 10, 3, 0.3) + marks(1, "sort", 10, 4, 0.2)
        self.assertAlmostEqual(results.take_workloads(lines)[0][1, "sort"][0], 20000)

    def test_two_against_one_are_compared_with_their_neighbours_in_time(self):
        lines = marks(1, "nothing", 1, 0, 0.01) + marks(1, "sort", 5, 1, 0.06) + marks(1, "sort", 10, 2, 0.11) + marks(2, "sort", 10, 3, 0.11)
        lines += marks(1, "sort", 10, 4, 0.21) + marks(2, "sort", 10, 5, 0.41) + marks(2, "hash", 10, 6, 0.11)
        ratios = results.take_pairs(lines)
        self.assertEqual(list(ratios), ["sort"])
        self.assertEqual([round(r, 6) for r in ratios["sort"]], [2.0, 1.0])

    def test_a_mark_is_found_behind_other_text(self):
        lines = [(1, 1, "[    1.0] kernel talks @S 2 sort 10"), (2, 2, "[    1.1] more ?"), (4, 4, "!"), (5, 5, "@E 2 sort 10 00ff")]
        self.assertAlmostEqual(results.take_workloads(lines)[0][2, "sort"][0], 200000)

    def test_an_end_without_its_beginning_is_no_measurement(self):
        lines = [(1, 1, "@S 2 sort 10"), (2, 2, "@S 2 hash 10"), (2, 2, "?"), (3, 3, "!"), (3, 3, "@E 2 sort 10 00ff")]
        self.assertEqual(results.take_workloads(lines)[0], {})
        lines = [(1, 1, "?"), (2, 2, "@S 2 sort 10"), (3, 3, "!"), (3, 3, "@E 2 sort 10 00ff")]
        self.assertEqual(results.take_workloads(lines)[0], {})

    def test_a_measurement_that_is_too_short_is_refused(self):
        figures, refused = results.take_workloads(marks(1, "sort", 10, 1, 0.001))
        self.assertEqual(figures, {})
        self.assertIn("1.0 ms", refused[1, "sort"])

    def test_boot_times_are_from_power_on_and_from_the_levels_start(self):
        lines = [(3, 3, "NESTBOX: level=1 event=userland up=2.0"), (4, 4, "NESTBOX: level=1 event=start child=2"),
                 (9, 8, "NESTBOX: level=2 event=userland up=2.0")]
        self.assertEqual(results.take_boot(lines), {"power-on to L1": (1, 3, 3), "power-on to L2": (2, 9, 8), "L2 start to L2": (2, 5, 4)})

    def test_stats_give_instructions_and_exits(self):
        lines = [(1, None, "stats: wall_s=10.860 virtual_s=4.144 insns=2071890600 mips=190.8"),
                 (1, None, "stats: vmexits total=17 entries=0 failed_entries=0")]
        self.assertEqual(results.take_stats(lines), ((2071890600, 10.86), 17))
        self.assertIsNone(results.translation_ms(lines))

    def test_translation_times_of_all_vcpus_add_up(self):
        lines = [(1, None, f"stats: jit vcpu={n} blocks=1 translate_ms={ms}") for n, ms in enumerate((37.5, 61.9))]
        self.assertAlmostEqual(results.translation_ms(lines), 99.4)


class Tables(unittest.TestCase):
    def test_ratios_and_means_are_against_native(self):
        table = example()
        self.assertAlmostEqual(table.ratio("sort", ("nestbox-jit", 1), ("native", 0)), 2)
        self.assertAlmostEqual(table.mean(report.ALL, ("nestbox-jit", 1), ("native", 0))[0], math.sqrt(2 * 4))
        self.assertEqual(table.mean(report.ALL, ("nestbox-jit", 2), ("native", 0))[1:], (1, 2))

    def test_targets_say_met_missed_or_not_measured(self):
        found = {figure: met for figure, _, _, met in report.targets(example(), "wall")}
        self.assertTrue(found["compute, L1 against native"])
        self.assertFalse(found["compute, L2 / L1"])
        self.assertTrue(found["all, L1, times faster than QEMU"])
        self.assertIsNone(found["compute, L3 / L1"])

    def test_a_wrong_checksum_is_shown_and_counts_nowhere(self):
        runs = [("native", finished(marks(0, "sort", 10, 1, 0.1))), ("qemu-tcg", finished(marks(1, "sort", 10, 1, 0.1, "bad0")))]
        table = results.collect(runs, {"sort": "compute"})
        self.assertIn("WRONG", report.text(table))
        self.assertEqual(table.mean(report.ALL, ("qemu-tcg", 1), ("native", 0))[1], 0)

    def test_a_failed_side_is_named_and_the_others_stay(self):
        runs = [("native", finished(marks(0, "sort", 10, 1, 0.1))), ("bochs", finished([], "no end after 3 s"))]
        text = report.text(results.collect(runs, {"sort": "compute"}))
        self.assertIn("bochs: failure: 1 of 1 runs: no end after 3 s", text)
        self.assertIn("sort", text)

    def test_a_csv_gives_the_same_report(self):
        table = example()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "rows.csv")
            table.write(path)
            again = results.read(path)
        self.assertEqual(report.text(again), report.text(table))
        self.assertEqual(chart.draw(again), chart.draw(table))

    def test_the_chart_is_xml_with_a_bar_for_every_figure(self):
        document = xml.dom.minidom.parseString(chart.draw(example()))
        bars = [r for r in document.getElementsByTagName("rect") if "L1 sort" in r.toxml() or "L2 sort" in r.toxml()]
        self.assertEqual(len(bars), 4)

    def test_an_empty_table_has_a_report_and_a_chart(self):
        report.text(results.Table())
        chart.draw(results.Table())


class Machines(unittest.TestCase):
    def run_machine(self, script, timeout_s=20, **options):
        return console.Machine(["sh", "-c", script], timeout_s, os.devnull, lambda text: None, **options).run()

    def test_lines_have_rising_times_and_the_cpu_time_of_the_process(self):
        r = self.run_machine("echo @S 1 sort 1; echo ?; sleep 0.2; echo !")
        _, (start, cpu, _), (end, _, _) = r.lines
        self.assertGreater(end - start, 0.15)
        self.assertIsNotNone(cpu)
        self.assertIsNone(r.failure)

    def test_a_bad_exit_status_is_a_failure(self):
        self.assertIn("status 3", self.run_machine("exit 3").failure)
        self.assertIsNone(self.run_machine("exit 1", ends_with=1).failure)

    def test_a_machine_that_does_not_end_is_ended(self):
        r = self.run_machine("echo NESTBOX: level=1 event=userland; sleep 60", timeout_s=0.6)
        self.assertIn("no end after", r.failure)
        self.assertIn("L1 userland", r.failure)

    def test_a_side_that_cannot_start_is_an_error_of_the_system(self):
        with self.assertRaises(OSError):
            console.Machine(["/nonexistent"], 1, os.devnull, lambda text: None).run()


class Guests(unittest.TestCase):
    def test_an_archive_holds_its_files_at_multiples_of_four(self):
        archive, at, found = guests.cpio({"a": (0o100644, b"hello"), "b/c": (0o100755, b"")}), 0, {}
        while at < len(archive):
            self.assertEqual(archive[at:at + 6], b"070701")
            size, length = int(archive[at + 54:at + 62], 16), int(archive[at + 94:at + 102], 16)
            name = archive[at + 110:at + 109 + length].decode()
            data = at + (110 + length + 3) // 4 * 4
            found[name] = archive[data:data + size]
            at = (data + size + 3) // 4 * 4
        self.assertEqual(found, {"a": b"hello", "b/c": b"", "TRAILER!!!": b""})

    def test_the_kernel_command_line_fits(self):
        self.assertLess(len(guests.command_line(3, 100000)), 1024)

    def test_every_workload_ends_in_the_same_checksum_for_any_number_of_units(self):
        program = guests.workload_program()
        names = [name for name, _ in guests.workloads(program)]
        self.assertGreaterEqual(len(names), 16)
        sums = [{}, {}]
        for found, units in zip(sums, ("1", "2")):
            r = console.Machine([program, "--count", units, "--repeat", "1"], 60, os.devnull, lambda text: None).run()
            self.assertIsNone(r.failure)
            for _, _, text in r.lines:
                mark = console.MARK.search(text)
                if mark and mark[1] == "E" and mark[3] != "nothing":
                    found[mark[3]] = mark[4].split()[1]
        self.assertEqual(sums[0], sums[1])
        self.assertGreaterEqual(len(sums[0]), len(names) - 1) # this host may lack AVX2

    def test_the_engines_are_those_of_the_help_without_auto_and_lockstep(self):
        with tempfile.TemporaryDirectory() as folder:
            fake = pathlib.Path(folder) / "nestbox"
            fake.write_text("#!/bin/sh\necho '  --engine auto|interp|jit|lockstep   How'\n")
            fake.chmod(0o755)
            self.assertEqual(sides.engines(fake), ["interp", "jit"])


if __name__ == "__main__":
    unittest.main()
