#!/usr/bin/env python3
"""Benchmarks of cottention on this machine's CPU, with PyTorch beside it: one run, one table, one JSON file.

    bench/cpu/run.py                  the named shapes, decoding, memory; then length, head dimension and heads swept
    bench/cpu/run.py --quick          some of each, in minutes on two idle cores
    bench/cpu/run.py --preset authors the sizes that the authors of the paper time
    bench/cpu/run.py --filter REGEX   only rows whose name contains a match
    bench/cpu/run.py --check          a row in which a peer is faster fails the run; of an earlier run: --check --show FILE
    bench/cpu/run.py --no-peers       without PyTorch

For each shape our rows are measured, then the peers, then our rows again, so that a machine that changes its speed
meanwhile shows. Times are medians over the repetitions of both passes. The peaks that results are fractions of are
measured in the same run, before every pass; the highest one counts. Results are written after every row, so a run that
is interrupted or killed leaves those it has. Exit status: 0, or 1 when a row failed or an output disagrees with a
peer's, and with --check when a peer is faster in a row or nothing was compared; goals that are missed are reported, and
change nothing.
"""
import argparse
import datetime
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys

from processes import BENCH, ROOT, Ours, Progress, build
from pytorch import measure_memory, memory_requests, peer_requests, start_peers
import files  # of bench/report, which processes adds to the path
import report

QUICK = "|".join((
    r"forward(_backward)?/[ABC]/causal/fp32/threads:N", r"forward/[ABC]/bidirectional/fp32/threads:N",
    r"forward(_backward)?/C/causal/bf16/threads:N", r"forward_bhsd/C/causal/(fp32|bf16)/threads:N", r"forward/long/.*",
    r"forward(_backward)?/C/bidirectional/bf16/threads:N", r"forward(_backward)?/1x16x128x1024/causal/(fp32|bf16)/threads:N",
    r"forward/(4x16x128x256|64x16x32x64)/causal/fp32/threads:N",
    r"forward/2x8x2048x(32|128|256)/causal/(fp32|bf16)/threads:N", r"forward_packed/.*/causal/fp32/threads:N",
    r"prefill_512/D/causal/fp32/threads:N", r"step/\d+/fp32/threads:N", r"memory/.*heads:1/.*threads:N"))


def cpu_information():
    fields = {}
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine()
    return {"name": name, "cores": os.cpu_count(), "family": fields.get("cpu family"), "model": fields.get("model"),
            "flags": fields.get("flags") or fields.get("Features") or ""}


def git(*arguments):
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True,
                              check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def block_of(name):
    return name.split("/")[0] if name.startswith(("memory/", "step/")) else name.split("/")[1]


def peaks_for(block, ours, options):
    """The rows of machine.cpp to measure before a pass over a block."""
    wanted = {"step": "machine/(triad|update)/", "memory": "^$", "C": "machine/fma/"}.get(
        block, "machine/fma/fp32/" if block in report.SHAPES else f"machine/fma/fp32/threads:{options.main_threads}$")
    return [name for name in ours.full_names if re.match(wanted, name)]


def selected(ours, options):
    names = [name for name in ours.full_names if not name.startswith("machine/")]
    suffix = f"threads:{options.main_threads}"
    if options.quick:
        names = [name for name in names if re.fullmatch(QUICK.replace("threads:N", suffix), name)]
    if options.filter:
        names = [name for name in names if re.search(options.filter, name)]
    # Sweeps and memory: with all threads, and what is seen of the backward pass is both passes together.
    return [name for name in names if name.endswith(suffix) or
            not (name.startswith("memory/") or report.is_spelled(block_of(name)))]


def blocks_of(names):
    """{block: rows}: a shape's rows together, decoding and memory last."""
    blocks = {}
    for name in names:
        blocks.setdefault(block_of(name), []).append(name)
    return dict(sorted(blocks.items(), key=lambda item: {"step": 1, "memory": 2}.get(item[0], 0)))


def record(results, name, measured):
    row = results["rows"].setdefault(name, {"passes": []})
    if "failed" in measured:
        row["failed"] = measured["failed"]
    else:
        row.setdefault("cpu_share", []).append(measured["counters"].pop("cpu_share"))  # of the main thread
        row["passes"].append(measured["seconds"])
        row["counters"] = measured["counters"]


def run(ours, options, results, save):
    """Fills results as it goes, and saves them after every row."""
    blocks = blocks_of(selected(ours, options))
    peers = start_peers(options, results) if options.peers else None
    requests = {block: peer_requests(block, rows, options.repetitions, options.main_threads)
                if peers and block != "memory" else [] for block, rows in blocks.items()}
    memory = memory_requests(blocks.get("memory", [])) if peers else []
    machine = [name for name in ours.full_names if name.startswith("machine/")]
    passes = {block: 1 if block == "memory" or options.preset == "authors" else 2 for block in blocks}
    total = 2 * len(machine) + len(memory) + sum(
        passes[block] * (len(rows) + len(peaks_for(block, ours, options))) + len(requests[block])
        for block, rows in blocks.items())
    progress = Progress(total)

    def measure(rows):
        for name in rows:
            progress.show(name)
            record(results, name, ours.measure(name))
            save()

    try:
        measure(machine)
        for block, rows in blocks.items():
            if block == "memory" and peers:
                peers.end()  # gives its memory back
            measure(peaks_for(block, ours, options) + rows)
            for name, request in requests[block]:
                progress.show(f"PyTorch {name}")
                results["peers"][name] = {"shape": request.get("shape"), **peers.ask(request)}
                save()
            if passes[block] == 2:
                measure(peaks_for(block, ours, options) + rows)
        for name, form, shape in memory:
            progress.show(f"PyTorch {name}")
            results["peers"][name] = measure_memory(peers.python, options.main_threads, form, shape)
            save()
        measure(machine)
        results["complete"] = True
    finally:
        progress.clear()
        if peers:
            peers.end()


def results_path(options, cpu):
    if options.json:
        return pathlib.Path(options.json)
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(r\)|\(tm\)|processor|@.*", "", cpu["name"].lower())).strip("-") or "cpu"
    kind = ("" if options.preset == "all" else f"-{options.preset}") + ("-quick" if options.quick else "-partial" if options.filter else "")
    (BENCH / "results").mkdir(exist_ok=True)
    return files.unused(BENCH / "results" / f"{datetime.date.today():%Y-%m-%d}-{slug}{kind}.json")


def options_from(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some of every kind of row")
    parser.add_argument("--preset", choices=("all", "standard", "sweep", "authors"), default="all",
                        help="standard: the named shapes, decoding, memory; sweep: length, head dimension, heads; all: both; "
                        "authors: 16 heads, length 128 to 16,384, width 1,024 to 16,384")
    parser.add_argument("--filter", metavar="REGEX", help="only rows whose name contains a match, e.g. 'forward/C'")
    parser.add_argument("--check", action="store_true", help="exit status 1 where a peer is faster in a row, softmax included")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None,
                        help="time PyTorch's forms as torch.compile makes them, too; default: yes, quick no")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="do not time PyTorch")
    parser.add_argument("--json", metavar="FILE", help="where results go; default: bench/results/<date>-<cpu>.json")
    parser.add_argument("--threads", default="1,2", metavar="N[,N]", help="thread counts of our rows; peers get the largest")
    parser.add_argument("--repetitions", type=int, help="of each measurement; default 5, quick 3")
    parser.add_argument("--min-time", type=float, help="seconds of each repetition; default 0.1, quick 0.05")
    parser.add_argument("--executable", metavar="PATH", help="a built cottention_bench; default: build one in build/bench")
    parser.add_argument("--python", metavar="PATH", help="a Python with PyTorch; default: that of build/torch, this one, /usr/bin/python3")
    parser.add_argument("--show", metavar="FILE", help="print the table of an earlier run and stop")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", options.threads):
        parser.error("--threads wants numbers, as in 1,2")
    options.main_threads = max(int(n) for n in options.threads.split(","))
    options.compile = not options.quick if options.compile is None else options.compile
    options.repetitions = options.repetitions or (3 if options.quick else 5)
    options.min_time = options.min_time or (0.05 if options.quick else 0.1)
    return options


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    options = options_from(sys.argv[1:])
    if options.show:
        results = files.load(options.show)
        return max(report.show(results), report.check(results) if options.check else 0)
    signal.signal(signal.SIGTERM, interrupt)
    executable = pathlib.Path(options.executable) if options.executable else build()
    ours = Ours(executable, options.preset, options.threads, options.repetitions, options.min_time)
    if not selected(ours, options):
        raise SystemExit("bench: no row is selected; cottention_bench --benchmark_list_tests lists them")
    cpu = cpu_information()
    results = {
        "complete": False, "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        # Of paths, the names: where things lie is nobody's business.
        "arguments": [pathlib.Path(argument).name if argument.startswith("/") else argument for argument in sys.argv[1:]],
        "preset": options.preset, "threads": options.main_threads, "repetitions": options.repetitions,
        "cpu": cpu, "system": platform.platform(), "load_before": os.getloadavg(),
        "git": {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "--untracked-files=no"))},
        "rows": {}, "peers": {},
    }
    path = results_path(options, cpu)

    def save():
        results["build"] = {key: ours.context.get(key) for key in
                            ("compiler", "compiler_flags", "build_type", "openmp", "library_build_type", "caches")}
        results["finished"] = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        results["load_after"] = os.getloadavg()
        report.summarise(results)
        files.save(path, results)

    try:
        run(ours, options, results, save)
    except KeyboardInterrupt:
        print("bench: interrupted; what follows is what was measured until then", file=sys.stderr)
    save()
    status = report.show(results)
    if options.check:
        status = max(status, report.check(results))
    print(f"\nResults: {os.path.relpath(path)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
