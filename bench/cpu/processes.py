"""What a run starts: our benchmark and PyTorch's process; and the line that tells how far it is."""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

BENCH = pathlib.Path(__file__).resolve().parents[1]
ROOT = BENCH.parent
sys.path.insert(0, str(BENCH / "report"))
import report  # noqa: E402

PEERS = BENCH / "peers" / "pytorch_peers.py"
PACKAGES = "Debian and Ubuntu: apt-get install cmake g++ libbenchmark-dev"


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

    def __init__(self, executable, preset, threads, repetitions, min_time):
        self.command = [str(executable), f"--preset={preset}", f"--threads={threads}", f"--benchmark_repetitions={repetitions}",
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
    """bench/peers/pytorch_peers.py, kept running so that PyTorch is loaded once; started anew after it has died."""

    def __init__(self, python, environment, threads, compiling):
        self.python = python
        self.errors = tempfile.TemporaryFile("w+")
        command = [python, str(PEERS), "--serve", "--threads", str(threads)] + (["--compile"] if compiling else [])
        self.start = lambda: Child(command, stdin=subprocess.PIPE, stderr=self.errors, env=environment)
        self.child = self.start()
        first = self.child.process.stdout.readline()
        if not first:
            raise SystemExit(f"bench: {PEERS.name} does not start: {self.why_ended()}")
        self.information = json.loads(first)

    def why_ended(self):
        self.child.process.wait()
        self.errors.seek(0)
        return f"status {self.child.process.returncode}: {self.errors.read()[-500:].strip()}"

    def ask(self, request):
        if self.child.process.poll() is not None:
            self.child = self.start()
            self.child.process.stdout.readline()
        process = self.child.process
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            return {"failed": f"PyTorch's process ended, {self.why_ended()}"}

    def end(self):
        self.child.end()


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
    executable = folder / "bench" / "cpu" / "cottention_bench"
    if not executable.exists():
        raise SystemExit(f"bench: cottention_bench was not built, since Google Benchmark is missing. {PACKAGES}")
    return executable
