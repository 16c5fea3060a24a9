"""Copies a measurement to docs/: the CSV, the chart, and the table between two comments in docs/performance.md."""
import time

from . import chart, guests, report

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def publish(table, say, clock="wall"):
    docs = guests.ROOT / "docs"
    page = docs / "performance.md"
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise guests.Missing(f"{page} has no {BEGIN} and {END}")
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    table.write(docs / "bench.csv")
    (docs / "bench.svg").write_text(chart.draw(table, clock))
    date = time.strftime("%Y-%m-%d")
    page.write_text(f"{head}{BEGIN}\nMeasured {date} by `bench/run` ([rows](bench.csv)).\n\n![Slowdown against native](bench.svg)\n\n"
                    f"```\n{report.text(table, clock)}```\n{END}{tail}")
    say("docs/performance.md, docs/bench.csv, docs/bench.svg")
