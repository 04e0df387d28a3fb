#!/usr/bin/env python3
"""Compares two result files, of runs on CPUs or on GPUs, and names what became slower or less accurate beyond noise.

    bench/report/compare.py OLD NEW
    bench/report/compare.py OLD NEW --all       rows that did not change too
    bench/report/compare.py OLD NEW --filter R  only rows whose name contains a match

A row has changed where the two runs' times lie apart: the lower quartile of one above the upper quartile of the other, and
the medians more than --threshold apart. Of GPU rows, whose files hold median and extremes, the quartiles are taken to
lie as far from the median as the fastest sample does. A row's accuracy has changed where its error more than doubled.
Where the machines' own speeds differ, which were measured beside the rows, that is said; times are compared as they are.
Exit status: 0, or 1 where a row became slower, less accurate or fails now. What peers do changes nothing in that.
"""
import argparse
import re
import statistics
import sys

import files


class Sample:
    """Seconds of a row: lower quartile, median, upper quartile; and its error, where it has one."""

    def __init__(self, low, median, high, error=None):
        self.low, self.median, self.high, self.error = low, median, high, error


def of_times(seconds, error=None):
    if len(seconds) < 2:
        return Sample(seconds[0], seconds[0], seconds[0], error)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Sample(low, median, high, error)


def samples_of(results):
    """({name: Sample}, {name: reason}) of what was measured and of what failed."""
    measured, failed = {}, {}
    if "machine" in results:
        for part, prefix in (("bench", ""), ("peers", "peer ")):
            for row in (results.get(part) or {}).get("rows", []):
                name = f"{prefix}{row['row']}/{row['variant']}"
                if "microseconds" in row:
                    middle, fastest = 1e-6 * row["microseconds"], 1e-6 * row["fastest"]
                    measured[name] = Sample(fastest, middle, 2 * middle - fastest, row.get("error"))
                elif "failed" in row:
                    failed[name] = row["failed"]
        return measured, failed
    for name, row in results["rows"].items():
        if "failed" in row:
            failed[name] = row["failed"]
        elif not name.startswith(("machine/", "memory/")):
            measured[name] = of_times([s for one in row["passes"] for s in one], row["counters"].get("error"))
    for name, peer in results["peers"].items():
        if "failed" in peer:
            failed[f"PyTorch {name}"] = peer["failed"]
        elif "seconds" in peer:
            measured[f"PyTorch {name}"] = of_times(peer["seconds"], peer.get("error"))
    return measured, failed


def machine_of(results):
    """(name, {what: rate}) of the machine: its ceilings as measured in the run."""
    if "machine" in results:
        copies = (results.get("bench") or {}).get("copy_bytes_per_second") or {}
        return results["machine"]["name"], {"copies": max(copies.values(), default=0)}
    rates = {}
    for name, row in results["rows"].items():
        if name.startswith("machine/") and row.get("passes"):
            counter = "flop" if "/fma/" in name else "bytes"
            rates[name] = row["counters"][counter] / min(statistics.median(one) for one in row["passes"])
    return results["cpu"]["name"], rates


def machine_differences(old, new, threshold):
    (old_name, old_rates), (new_name, new_rates) = machine_of(old), machine_of(new)
    lines = [] if old_name == new_name else [f"the machines differ: {old_name}, {new_name}"]
    for what, rate in old_rates.items():
        if rate and new_rates.get(what) and abs(new_rates[what] / rate - 1) > threshold:
            lines.append(f"{what} of the machine: {new_rates[what] / rate:.2f} times as fast as before")
    return lines


def verdict_on(old, new, threshold):
    """'slower', 'faster', 'less accurate' or 'same'; accuracy goes first."""
    if old.error and new.error and new.error > 2 * old.error:
        return "less accurate"
    if new.low > old.high and new.median > old.median * (1 + threshold):
        return "slower"
    if new.high < old.low and new.median * (1 + threshold) < old.median:
        return "faster"
    return "same"


def compare(old, new, threshold=0.03, pattern=""):
    """{verdict: [line]}; the verdicts of verdict_on, 'failed', 'missing' and 'added'."""
    (before, failed_before), (after, failed_after) = samples_of(old), samples_of(new)
    found = {}
    for name in dict.fromkeys([*before, *failed_before, *after, *failed_after]):
        if not re.search(pattern, name):
            continue
        if name in failed_after:
            if name not in failed_before:
                found.setdefault("failed", []).append(f"{name}: {failed_after[name]}")
        elif name not in after:
            found.setdefault("missing", []).append(name)
        elif name not in before:
            found.setdefault("added", []).append(name)
        else:
            a, b = before[name], after[name]
            verdict = ("peer " if name.startswith(("peer ", "PyTorch ")) else "") + verdict_on(a, b, threshold)
            line = f"{name}: {b.median / a.median:.3f} times as long, {1e3 * a.median:.4g} ms -> {1e3 * b.median:.4g} ms"
            if verdict.endswith("less accurate"):
                line = f"{name}: error {a.error:.1e} -> {b.error:.1e}"
            found.setdefault(verdict, []).append(line)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--threshold", type=float, default=0.03, help="of medians, as a fraction; default 0.03")
    parser.add_argument("--filter", default="", metavar="REGEX")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    old, new = files.load(options.old), files.load(options.new)
    if ("machine" in old) != ("machine" in new):
        sys.exit("compare: one file is of a CPU and one of a GPU")
    for line in machine_differences(old, new, options.threshold):
        print(f"note: {line}")
    found = compare(old, new, options.threshold, options.filter)
    verdicts = ["slower", "less accurate", "failed", "missing", "faster", "added"] + (["same"] if options.all else [])
    shown = verdicts + [f"peer {verdict}" for verdict in verdicts]
    for verdict in shown:
        for line in found.get(verdict, []):
            # Of rows that only one run has, the reader wants to know how many; --all names them.
            if verdict not in ("missing", "added") or options.all:
                print(f"{verdict:18} {line}")
    print(", ".join(f"{len(lines)} {verdict}" for verdict, lines in found.items()) or "no row is in both files")
    return 1 if any(found.get(verdict) for verdict in ("slower", "less accurate", "failed")) or not found else 0


if __name__ == "__main__":
    sys.exit(main())
