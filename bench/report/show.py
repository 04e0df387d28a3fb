#!/usr/bin/env python3
"""Prints what runs on GPUs have found.

usage: show.py FILE...

One file: what its tests did, and the time and share of the floor of each row, ours and the peers', tokens/s, bandwidth, FLOP/s and
memory. Several: their rows side by
side, and the last one's times as multiples of the first one's.
"""
import json
import pathlib
import sys


def rows_of(result):
    """{name: row} of our rows and of those of peers that ran, a shape's together."""
    rows = [row for part in ("bench", "peers") for row in (result.get(part) or {}).get("rows", []) if "skipped" not in row]
    order = list(dict.fromkeys(row["row"] for row in rows))
    return {f"{row['row']}/{row['variant']}": row for row in sorted(rows, key=lambda row: order.index(row["row"]))}


def print_absent(result):
    """The rows that were not run, by reason."""
    reasons = {}
    for part in ("bench", "peers"):
        for row in (result.get(part) or {}).get("rows", []):
            if "skipped" in row:
                reasons.setdefault((row["variant"], row["skipped"]), []).append(row["row"])
    for (variant, reason), rows in reasons.items():
        print(f"{variant:40} not run at {len(rows)} rows: {reason}")


def print_tests(result):
    for part in ("tests", "sanitizer"):
        for run in result.get(part, []):
            report = run.get("report") or {}
            said = run["ended"] if run.get("ended") else f"status {run['status']}, {run['last_line']}"
            print(f"{part:10} {run['program']:28} {report.get('cases_passed', 0):4} passed {report.get('cases_failed', 0):3} failed"
                  f"  {said}")
            if report.get("running"):
                print(f"{'':10} ended in: {report['running']}")
            for name in report.get("failed", []):
                print(f"{'':10} failed: {name}")


def cell_of(row):
    if row is None:
        return f"{'-':>18}"
    if "failed" in row:
        return f"{'failed':>18}"
    mark = "" if row.get("output_complete", True) else "!"
    return f"{row['microseconds']:10.2f} {100 * row['fraction_of_floor']:5.1f}%{mark:1}"


def more_of(row):
    """What a table of one file has room for: tokens/s, TB/s, TFLOP/s and the memory that a call takes beside its inputs."""
    cells = [f"{row[key] / unit:{width}} {words}" for key, unit, width, words in (
        ("tokens_per_second", 1e6, "9.2f", "M tokens/s"), ("bytes_per_second", 1e12, "6.3f", "TB/s"),
        ("flop_per_second", 1e12, "8.2f", "TFLOP/s"), ("peak_bytes", 2**20, "9.1f", "MiB")) if row.get(key) is not None]
    return " ".join(["", *cells])


def print_rows(results):
    tables = [rows_of(result) for result in results]
    names = list(dict.fromkeys(name for table in tables for name in table))
    width = max((len(name) for name in names), default=0)
    for name in names:
        cells = [table.get(name) for table in tables]
        line = f"{name:{width}} " + " ".join(map(cell_of, cells))
        first, last = cells[0], cells[-1]
        if len(cells) > 1 and all(cell and "microseconds" in cell for cell in (first, last)):
            line += f"  x{last['microseconds'] / first['microseconds']:.3f}"
        if len(cells) == 1 and "microseconds" in first:
            line += more_of(first)
        print(line)


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    results = [json.loads(pathlib.Path(file).read_text(encoding="utf-8")) for file in sys.argv[1:]]
    for file, result in zip(sys.argv[1:], results):
        build, copies = result.get("build") or {}, (result.get("bench") or {}).get("copy_bytes_per_second")
        copied = f", copies {1e-12 * copies['before']:.3f} and {1e-12 * copies['after']:.3f} TB/s" if copies else ""
        print(f"{pathlib.Path(file).name}: {result['machine']['name']}, driver {result['driver']}, commit "
              f"{build.get('commit', 'unknown')[:10]}{' modified' if build.get('modified') else ''}{copied}{', interrupted' if result.get('interrupted') else ''}")
    if len(results) == 1:
        print_tests(results[0])
    print()
    print_rows(results)
    if len(results) == 1:
        print_absent(results[0])


main()
