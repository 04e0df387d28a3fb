#!/usr/bin/env python3
"""Benchmarks of cottention on this machine's CPU, with PyTorch beside it: one run, one table, one JSON file.

    bench/run.py                  everything
    bench/run.py --quick          shapes A, B, C and decoding, in under two minutes on two idle cores
    bench/run.py --filter REGEX   only rows whose name contains a match
    bench/run.py --no-peers       without PyTorch

For each shape our rows are measured, then the peers, then our rows again, so that a machine that changes its speed
meanwhile shows. Times are medians over the repetitions of both passes. The peaks that results are fractions of are
measured in the same run, before every pass; the highest one counts. An interrupted run (Ctrl-C, SIGTERM) reports the
rows it has. Exit status: 0, or 1 when a row failed or an output disagrees with a peer's; goals that are missed are
reported, and change nothing.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import report

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
PEERS = BENCH / "peers" / "pytorch_peers.py"
SHAPES = {"A": (1, 12, 512, 64), "B": (1, 16, 1024, 64), "C": (1, 16, 4096, 64), "D": (1, 16, 16384, 64),
          "E": (2, 8, 2048, 128)}
STEP_HEADS, STEP_DIM = 16, 64
FORMS = {"causal": ("quadratic", "recurrent", "chunked", "softmax"), "bidirectional": ("bidirectional",)}
TRAINABLE = ("quadratic", "chunked", "softmax", "bidirectional")
BLOCKS = ("A", "B", "C", "D", "E", "long", "step", "memory")
QUICK = (r"forward(_backward)?/[ABC]/causal/fp32/threads:N|forward/[ABC]/bidirectional/fp32/threads:N|"
         r"forward/C/causal/bf16/threads:N|forward_bhsd/C/causal/(fp32|bf16)/threads:N|forward/long/.*|step/\d+/fp32/threads:N|memory/.*heads:1/.*threads:N")
PACKAGES = "Debian and Ubuntu: apt-get install cmake g++ libbenchmark-dev"
PEER_PACKAGES = "Debian and Ubuntu: apt-get install python3-torch libopenblas0-openmp; elsewhere: pip install torch"


class Progress:
    """A line that rewrites itself on a terminal; one line per row elsewhere."""

    def __init__(self, total):
        self.total, self.done, self.start, self.live = total, 0, time.monotonic(), sys.stderr.isatty()

    def show(self, what):
        self.done += 1
        elapsed = int(time.monotonic() - self.start)
        line = f"[{self.done}/{self.total}] {elapsed // 60}:{elapsed % 60:02d} {what}"
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\033[K{line[:width]}" if self.live else line + "\n")
        sys.stderr.flush()

    def clear(self):
        if self.live:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


class Child:
    """A process in a session of its own, so that Ctrl-C reaches it through us."""

    def __init__(self, command, **keywords):
        self.process = subprocess.Popen(command, start_new_session=True, text=True, stdout=subprocess.PIPE, **keywords)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def output(self):
        try:
            return self.process.communicate()[0]
        finally:
            self.end()


class Ours:
    """cottention_bench, one row a call."""

    def __init__(self, executable, threads, repetitions, min_time):
        self.command = [str(executable), f"--threads={threads}", f"--benchmark_repetitions={repetitions}",
                        f"--benchmark_min_time={min_time}", "--benchmark_display_aggregates_only=false"]
        self.context = {}
        listing = Child(self.command + ["--benchmark_list_tests"]).output().split()
        self.full_names = {re.sub(r"/(real_time|iterations:\d+)", "", name): name for name in listing}

    def measure(self, name):
        """Times in seconds and counters of each repetition; {'failed': why} otherwise."""
        # Rows of memory tell the same every time.
        extra = ["--benchmark_repetitions=1"] if name.startswith("memory/") else []
        child = Child(self.command + extra + [f"--benchmark_filter=^{self.full_names[name]}$", "--benchmark_format=json"],
                      stderr=subprocess.PIPE)
        try:
            text, errors = child.process.communicate()
        finally:
            child.end()
        if child.process.returncode != 0:
            return {"failed": f"exit status {child.process.returncode}: {errors.strip()[-500:]}"}
        data = json.loads(text)
        self.context = data["context"]
        runs = [run for run in data["benchmarks"] if run.get("run_type") == "iteration"]
        for run in runs:
            if run.get("error_occurred"):
                return {"failed": run["error_message"]}
        known = {"name", "run_name", "run_type", "time_unit", "label"}
        counters = {key: value for key, value in runs[0].items()
                    if isinstance(value, (int, float)) and key not in known and not key.endswith(("_index", "_time"))
                    and key not in ("repetitions", "threads", "iterations")}
        seconds = [run["real_time"] * 1e-3 for run in runs]  # rows are in milliseconds
        counters["cpu_share"] = sum(run["cpu_time"] for run in runs) / sum(run["real_time"] for run in runs)
        for key in report.RATES:  # per second -> per call
            if key in counters:
                counters[key] *= seconds[0]
        return {"seconds": seconds, "counters": counters}


class Peers:
    """peers/pytorch_peers.py, kept running so that PyTorch is loaded once."""

    def __init__(self, python, environment, threads):
        self.errors = tempfile.TemporaryFile("w+")
        self.child = Child([python, str(PEERS), "--serve", "--threads", str(threads)], stdin=subprocess.PIPE,
                           stderr=self.errors, env=environment)
        first = self.child.process.stdout.readline()
        if not first:
            raise SystemExit(f"bench: {PEERS.name} does not start: {self.why_ended()}")
        self.information = json.loads(first)

    def why_ended(self):
        self.child.process.wait()
        self.errors.seek(0)
        return f"status {self.child.process.returncode}: {self.errors.read()[-500:].strip()}"

    def ask(self, request):
        process = self.child.process
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            return {"failed": f"PyTorch's process ended, {self.why_ended()}"}

    def end(self):
        self.child.end()


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


def build():
    """Builds cottention_bench in build/bench and returns its path."""
    folder = ROOT / "build" / "bench"
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release", "-DCOTTENTION_BUILD_BENCH=ON",
                 "-DCOTTENTION_BUILD_TESTS=OFF", "-DCOTTENTION_BUILD_EXAMPLES=OFF"]
    if shutil.which("ninja") and not (folder / "CMakeCache.txt").exists():
        configure += ["-G", "Ninja"]
    try:
        for command in (configure, ["cmake", "--build", str(folder), "--target", "cottention_bench", "--parallel"]):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode != 0:
                raise SystemExit(f"{done.stdout[-3000:]}\nbench: cannot build cottention_bench. {PACKAGES}")
    except OSError as error:
        raise SystemExit(f"bench: cannot build cottention_bench: {error}. {PACKAGES}")
    executable = folder / "bench" / "cottention_bench"
    if not executable.exists():
        raise SystemExit(f"bench: cottention_bench was not built, since Google Benchmark is missing. {PACKAGES}")
    return executable


def find_torch(wanted):
    """A Python that imports torch, or None."""
    for python in [wanted] if wanted else [sys.executable, "/usr/bin/python3"]:
        try:
            if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0:
                return python
        except OSError:
            continue
    return None


def peer_environment(python, threads, flags):
    """The environment in which PyTorch is fastest here. OpenBLAS picks its kernels by the processor's model, and older
    ones take new processors for old; its own variable corrects that. PyTorch uses AVX-512 only when asked. The C
    library gives large blocks back to the system, so that every call would pay for fresh pages: told to keep them, it
    makes the forms with large scores up to three times as fast."""
    base = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    keep = {**{key: value for key, value in base.items() if key not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")},
            "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000000:glibc.malloc.arena_max=1"}
    candidates = {"as it is": base, "blocks kept": keep}
    wide = [core for core, flag in (("SkylakeX", "avx512vl"), ("Cooperlake", "avx512_bf16")) if flag in flags.split()]
    for core in wide:
        candidates[f"blocks kept, OPENBLAS_CORETYPE={core}"] = {**keep, "OPENBLAS_CORETYPE": core}
    if wide:
        candidates[f"blocks kept, OPENBLAS_CORETYPE={wide[-1]} ATEN_CPU_CAPABILITY=avx512"] = {
            **keep, "OPENBLAS_CORETYPE": wide[-1], "ATEN_CPU_CAPABILITY": "avx512"}
    trials = {}
    for name, environment in candidates.items():
        text = Child([python, str(PEERS), "--probe", "--threads", str(threads)], env=environment,
                     stderr=subprocess.DEVNULL).output()
        try:
            trials[name] = json.loads(text)
        except json.JSONDecodeError:
            trials[name] = {"failed": "crashed or computed wrong results"}  # as some kernels do on some processors
            continue
        if not trials[name]["blas_usable"]:
            return None, trials
        if trials[name]["blas"] != "OpenBLAS" and environment is keep:
            break  # the other settings are OpenBLAS's
    right = {name: trial["seconds"] for name, trial in trials.items() if "seconds" in trial}
    return (candidates[min(right, key=right.get)] if right else None), trials


def start_peers(options, results):
    """The peers' process; None, with the reason in results, where there is none to be had."""
    python = find_torch(options.python)
    if python is None:
        results["torch"] = {"missing": f"no PyTorch found. {PEER_PACKAGES}"}
    else:
        environment, trials = peer_environment(python, options.main_threads, results["cpu"]["flags"])
        if environment is None:
            names = sorted({trial["blas"] for trial in trials.values() if "blas" in trial})
            results["torch"] = {"missing": "PyTorch multiplies matrices here with an untuned BLAS "
                                f"({', '.join(names)}), so ratios to it would mean nothing. {PEER_PACKAGES}",
                                "trials": trials}
        else:
            peers = Peers(python, environment, options.main_threads)
            changed = {key: environment.get(key) for key in ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "GLIBC_TUNABLES",
                                                             "OMP_NUM_THREADS")}
            results["torch"] = {**peers.information, "environment": changed, "trials": trials}
            return peers
    sys.stderr.write(f"bench: no peers: {results['torch']['missing']}\n")
    return None


def peer_requests(block, names, repetitions, main_threads):
    """What to ask of the peers at a block: (name of the result, request)."""
    wanted = []
    if block in SHAPES:
        base = {"operation": "time", "shape": SHAPES[block], "repetitions": repetitions}
        for mask, forms in FORMS.items():
            for which in ("forward", "forward_backward"):
                if f"{which}/{block}/{mask}/fp32/threads:{main_threads}" not in names:
                    continue
                wanted += [(f"{form}/{which}/{block}", {**base, "form": form, "pass": which}) for form in forms
                           if which == "forward" or form in TRAINABLE]
    if block == "step":
        for batch in sorted({int(name.split("/")[1]) for name in names}):
            wanted.append((f"step/{batch}", {"operation": "step", "batch": batch, "heads": STEP_HEADS, "dim": STEP_DIM,
                                             "repetitions": repetitions}))
    return wanted


def block_of(name):
    return "memory" if name.startswith("memory/") else "step" if name.startswith("step/") else name.split("/")[1]


def peaks_for(block, ours):
    """The rows of machine.cpp to measure before a pass over a block."""
    wanted = {"step": "machine/(triad|update)/", "memory": "^$"}.get(block, "machine/fma/fp32/")
    if block == "C":
        wanted = "machine/fma/"
    return [name for name in ours.full_names if re.match(wanted, name)]


def selected(ours, options):
    names = [name for name in ours.full_names if not name.startswith("machine/")]
    suffix = f"threads:{options.main_threads}"
    if options.quick:
        names = [name for name in names if re.fullmatch(QUICK.replace("threads:N", suffix), name)]
    if options.filter:
        names = [name for name in names if re.search(options.filter, name)]
    return [name for name in names if not name.startswith("memory/") or name.endswith(suffix)]


def record(results, name, measured):
    row = results["rows"].setdefault(name, {"passes": []})
    if "failed" in measured:
        row["failed"] = measured["failed"]
    else:
        row.setdefault("cpu_share", []).append(measured["counters"].pop("cpu_share"))  # of the main thread
        row["passes"].append(measured["seconds"])
        row["counters"] = measured["counters"]


def run(ours, options, results):
    """Fills results as it goes."""
    names = selected(ours, options)
    blocks = {block: [name for name in names if block_of(name) == block] for block in BLOCKS}
    peers = start_peers(options, results) if options.peers else None
    requests = {block: peer_requests(block, rows, options.repetitions, options.main_threads) if peers and rows else []
                for block, rows in blocks.items()}
    machine = [name for name in ours.full_names if name.startswith("machine/")]
    passes = {block: 1 if block == "memory" else 2 for block in BLOCKS}  # memory does not drift
    total = 2 * len(machine) + sum(passes[block] * (len(rows) + len(peaks_for(block, ours))) + len(requests[block])
                                   for block, rows in blocks.items() if rows)
    progress = Progress(total)

    def measure(rows):
        for name in rows:
            progress.show(name)
            record(results, name, ours.measure(name))

    try:
        measure(machine)
        for block, rows in blocks.items():
            if not rows:
                continue
            if block == "memory" and peers:
                peers.end()  # gives its memory back
            measure(peaks_for(block, ours) + rows)
            for name, request in requests[block]:
                progress.show(f"PyTorch {name}")
                results["peers"][name] = peers.ask(request)
            if passes[block] == 2:
                measure(peaks_for(block, ours) + rows)
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
    kind = "-quick" if options.quick else "-partial" if options.filter else ""
    stem = f"{datetime.date.today():%Y-%m-%d}-{slug}{kind}"
    (BENCH / "results").mkdir(exist_ok=True)
    path = BENCH / "results" / f"{stem}.json"
    for number in range(2, 1000):
        if not path.exists():
            break
        path = BENCH / "results" / f"{stem}-{number}.json"
    return path


def options_from(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shapes A, B, C and decoding")
    parser.add_argument("--filter", metavar="REGEX", help="only rows whose name contains a match, e.g. 'forward/C'")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="do not time PyTorch")
    parser.add_argument("--json", metavar="FILE", help="where results go; default: bench/results/<date>-<cpu>.json")
    parser.add_argument("--threads", default="1,2", metavar="N[,N]", help="thread counts of our rows; peers get the largest")
    parser.add_argument("--repetitions", type=int, help="of each measurement; default 5, quick 3")
    parser.add_argument("--min-time", type=float, help="seconds of each repetition; default 0.1, quick 0.05")
    parser.add_argument("--executable", metavar="PATH", help="a built cottention_bench; default: build one in build/bench")
    parser.add_argument("--python", metavar="PATH", help="a Python with PyTorch; default: this one, then /usr/bin/python3")
    parser.add_argument("--show", metavar="FILE", help="print the table of an earlier run and stop")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", options.threads):
        parser.error("--threads wants numbers, as in 1,2")
    options.main_threads = max(int(n) for n in options.threads.split(","))
    options.repetitions = options.repetitions or (3 if options.quick else 5)
    options.min_time = options.min_time or (0.05 if options.quick else 0.1)
    return options


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    options = options_from(sys.argv[1:])
    if options.show:
        return report.show(json.loads(pathlib.Path(options.show).read_text()))
    signal.signal(signal.SIGTERM, interrupt)
    executable = pathlib.Path(options.executable) if options.executable else build()
    ours = Ours(executable, options.threads, options.repetitions, options.min_time)
    if not selected(ours, options):
        raise SystemExit("bench: no row is selected; cottention_bench --benchmark_list_tests lists them")
    cpu = cpu_information()
    results = {
        "complete": False, "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "arguments": sys.argv[1:], "threads": options.main_threads, "repetitions": options.repetitions,
        "cpu": cpu, "system": platform.platform(), "load_before": os.getloadavg(),
        "git": {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "--untracked-files=no"))},
        "rows": {}, "peers": {},
    }
    try:
        run(ours, options, results)
    except KeyboardInterrupt:
        print("bench: interrupted; what follows is what was measured until then", file=sys.stderr)
    results["build"] = {key: ours.context.get(key) for key in
                        ("compiler", "compiler_flags", "build_type", "openmp", "library_build_type", "caches")}
    results["finished"] = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    results["load_after"] = os.getloadavg()
    report.summarise(results)
    path = results_path(options, cpu)
    path.write_text(json.dumps(results, indent=1) + "\n")
    status = report.show(results)
    print(f"\nResults: {os.path.relpath(path)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
