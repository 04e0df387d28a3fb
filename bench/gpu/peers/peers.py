#!/usr/bin/env python3
"""Times what others compute attention with on a GPU, at the rows of cottention_bench_gpu: flash-linear-attention, torch's
scaled_dot_product_attention with each of its backends, and the authors' formulas in PyTorch.

    peers.py --json FILE           every row
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
ROWS = [f"{call}_{mask}/bf16/{size}" for mask, sizes in (
            ("causal", ("8x16x2048x64", "1x16x131072x64", "32x16x512x128", "4x32x8192x128", "8x8x1024x64")),
            ("bidirectional", ("8x16x2048x64", "1x16x131072x64", "4x32x8192x128")))
        for size in sizes for call in ("forward", "backward", "forward_and_backward")]
ROWS += ["step/bf16/256x16x1x64", "step/bf16/256x32x1x128", "step/bf16/1x32x1x128"]
FLA = ("fla.chunk_linear_attn", "fla.fused_chunk_linear_attn", "fla.fused_recurrent_linear_attn", "fla.chunk_simple_gla",
       "fla.fused_recurrent_simple_gla")
SDPA = tuple(f"torch.sdpa.{backend}" for backend in ("flash", "cudnn", "efficient", "math"))
# What is timed beside each call. The rows of q and k that fla.* gets have unit length already, and those of v their weights;
# with +norms this is done in PyTorch within the timed part.
VARIANTS = {
    "causal": FLA + ("fla.chunk_linear_attn+norms", "fla.fused_chunk_linear_attn+norms") + SDPA
              + ("torch.chunked.64", "torch.chunked.128", "torch.quadratic", "torch.recurrent"),
    "bidirectional": ("torch.bidirectional",) + SDPA,
    "step": ("fla.fused_recurrent_linear_attn", "torch.step"),
}
TENSORS = {"forward": 4, "backward": 7, "forward_and_backward": 11}  # that must move, each of batch x length x heads x dim
BYTES = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2}


def parse(row):
    """call, mask, element, (batch, heads, length, dim) of a row's name; None where it is none of ours."""
    match = re.fullmatch(r"(?:(forward_and_backward|forward|backward)_(causal|bidirectional)|step)/(\w+)/(\d+)x(\d+)x(\d+)x(\d+)", row)
    if match is None or match[3] not in BYTES:
        return None
    return match[1] or "step", match[2] or "step", match[3], tuple(int(match[i]) for i in range(4, 8))


def floor_bytes(row):
    """That the call must move: each tensor once; for a step its states read and written, and the rows of its tokens."""
    call, _, element, (batch, heads, seq, dim) = parse(row)
    if call == "step":
        state = 8 if element == "fp64" else 4
        return batch * heads * (2 * dim * dim * state + 4 * seq * dim * BYTES[element])
    return TENSORS[call] * batch * heads * seq * dim * BYTES[element]


def wanted_rows(options):
    """[(row, variant)], in the order in which they run."""
    names = ROWS
    if options.rows_from:
        # "row/variant" of ours: the library's choice is there for every row
        lines = pathlib.Path(options.rows_from).read_text(encoding="utf-8").split()
        names = list(dict.fromkeys(line.rsplit("/", 1)[0] for line in lines))
    pairs = [(row, variant) for row in names if parse(row) for variant in VARIANTS[parse(row)[1]]]
    # What is asked for first comes first: time may run out.
    order = ("forward", "step", "forward_and_backward", "backward")
    pairs.sort(key=lambda pair: order.index(parse(pair[0])[0]))
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
            results["rows"].append(entry)
            print(f"[{number}/{len(pairs)}] {row}/{variant}  {text_of(entry)}", flush=True)
            save(options.json, results)
    finally:
        worker.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        run(options, pairs, results)
    save(options.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
