#!/usr/bin/env python3
"""Times what others compute attention with on a GPU, at the rows of cottention_bench_gpu: flash-linear-attention, torch's
scaled_dot_product_attention with each of its backends, and the authors' formulas in PyTorch.

    peers.py --json FILE           every row of the preset "standard"
    peers.py --preset NAME         those of another: sweep, authors, all
    peers.py --rows REGEX          only rows whose name, call/element/shape/variant, contains a match
    peers.py --rows-from FILE      the rows that are named there, as `cottention_bench_gpu --list` prints them
    peers.py --dry-run --json FILE lists what would run, and writes it; needs neither a GPU nor PyTorch

A row's work is done in a process of its own, worker.py, which is started anew after it has died or has not answered in
time. A peer that cannot run is a row too, with its reason. Results have the keys of cottention_bench_gpu's rows, and
error: relative RMS of some rows against the peer's own definition in fp64 (of dq, dk and dv where there are), and
peak_bytes: memory taken during one call beside its inputs.
"""
import argparse
import json
import os
import pathlib
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from rows import PRESETS, floor_bytes, parse, rows_of, tokens, variants_of  # noqa: E402


def wanted_rows(options):
    """[(row, variant)], in the order in which they run."""
    names = rows_of(options.preset)
    if options.rows_from:
        # "row/variant" of ours: the library's choice is there for every row
        lines = pathlib.Path(options.rows_from).read_text(encoding="utf-8").split()
        names = list(dict.fromkeys(line.rsplit("/", 1)[0] for line in lines))
    pairs = [(row, variant) for row in names for variant in variants_of(row)]
    # What is asked for first comes first: time may run out.
    order = ("forward", "prefill", "step", "forward_and_backward", "backward")
    pairs.sort(key=lambda pair: order.index(parse(pair[0])["call"]))
    return [pair for pair in pairs if re.search(options.rows, "/".join(pair))]


class Worker:
    """worker.py, which answers one JSON object a line with another."""

    def __init__(self, command, seconds):
        self.command, self.seconds, self.process = command, seconds, None

    def start(self):
        """Why it does not start; None where it does."""
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        text=True, start_new_session=True)
        answer = self.answer(max(self.seconds, 120))
        self.information = answer
        return answer.get("failed")

    def answer(self, seconds):
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            if not ready.select(seconds):
                self.end()
                return {"failed": f"no answer in {seconds:.0f} s"}
        line = self.process.stdout.readline()
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines()
            return {"failed": f"ended with status {self.process.returncode}: {' '.join(said[-1:])[-300:]}"}

    def ask(self, request):
        if self.process is None or self.process.poll() is not None:
            reason = self.start()
            if reason:
                return {"failed": reason}
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"failed": "the worker has ended"}
        return self.answer(self.seconds)

    def end(self):
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def text_of(row):
    if "microseconds" not in row:
        return f"failed: {row['failed']}" if "failed" in row else f"skipped: {row['skipped']}"
    error = f"{row['error']:.1e}" if row.get("error") is not None else "-"
    part = f"{100 * row['fraction_of_floor']:6.1f}%" if row.get("fraction_of_floor") else ""
    return f"{row['microseconds']:11.2f} {part} error {error} {(row.get('peak_bytes') or 0) / 2**20:9.1f} MiB"


def save(path, results):
    if not path:
        return
    new = pathlib.Path(f"{path}.new")
    rows = ",\n  ".join(json.dumps(row) for row in results["rows"])
    head = json.dumps({key: value for key, value in results.items() if key != "rows"})
    new.write_text(f"{head[:-1]}, \"rows\": [\n  {rows}\n ]}}\n", encoding="utf-8")
    os.replace(new, path)


def run(options, pairs, results):
    worker = Worker(options.worker.split() if options.worker else [sys.executable, str(HERE / "worker.py")], options.patience)
    started = time.monotonic()
    try:
        first = worker.ask({"operation": "copy"})
        results["versions"] = getattr(worker, "information", {}).get("versions", {})
        results["copy_bytes_per_second"] = first.get("copy_bytes_per_second")
        for number, (row, variant) in enumerate(pairs, 1):
            entry = {"row": row, "variant": variant, "bytes": floor_bytes(row)}
            if "failed" in first:  # no PyTorch, no GPU: nothing will run
                entry["skipped"] = first["failed"]
            elif time.monotonic() - started > options.limit:
                entry["skipped"] = "out of time"
            else:
                entry.update(worker.ask({"operation": "time", "row": parse(row), "variant": variant, "seconds": options.seconds}))
            if "microseconds" in entry:
                entry["floor"] = 1e6 * entry["bytes"] / results["copy_bytes_per_second"]
                entry["fraction_of_floor"] = entry["floor"] / entry["microseconds"]
                entry["tokens_per_second"] = 1e6 * tokens(row) / entry["microseconds"]
                entry["bytes_per_second"] = 1e6 * entry["bytes"] / entry["microseconds"]
            results["rows"].append(entry)
            print(f"[{number}/{len(pairs)}] {row}/{variant}  {text_of(entry)}", flush=True)
            save(options.json, results)
    finally:
        worker.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="standard")
    parser.add_argument("--rows", default="", metavar="REGEX")
    parser.add_argument("--rows-from", metavar="FILE")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=0.25, help="of measuring, for each row")
    parser.add_argument("--limit", type=float, default=1e9, metavar="S", help="seconds after which no row is begun")
    parser.add_argument("--patience", type=float, default=60, metavar="S", help="that a row may take before it is ended")
    parser.add_argument("--worker", metavar="COMMAND", help="in place of worker.py")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    pairs = wanted_rows(options)
    if not pairs:
        sys.exit(f"peers: no row matches {options.rows}")
    results = {"dry_run": options.dry_run, "versions": {}, "copy_bytes_per_second": None, "rows": []}
    if options.dry_run:
        for row, variant in pairs:
            results["rows"].append({"row": row, "variant": variant, "bytes": floor_bytes(row), "skipped": "a dry run"})
            print(f"{row}/{variant}")
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # run.sh's; the worker is to end too
        run(options, pairs, results)
    save(options.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
