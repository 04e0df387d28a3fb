"""bench/cpu/run.py with a program in place of cottention_bench that answers at once: what is recorded, and what is left of a run that
is ended."""
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "report"))
import files  # noqa: E402
import report  # noqa: E402

# Rows named as ours; an operation a nanosecond at the peak, a byte a nanosecond in memory. With WAIT, a row takes so many seconds.
PROGRAM = """#!{python}
import json, os, re, sys, time
names = ["machine/fma/fp32/threads:1", "machine/fma/fp64/threads:1", "machine/triad/threads:1", "machine/update/threads:1",
         "forward/A/causal/fp32/threads:1", "forward/1x16x128x64/causal/fp32/threads:1", "forward_packed/2x16x128x64/causal/fp32/threads:1",
         "prefill_512/D/causal/fp32/threads:1", "step/256/fp32/threads:1"]
wanted = [a.split("=", 1)[1] for a in sys.argv if a.startswith("--benchmark_filter")]
if "--benchmark_list_tests" in sys.argv:
    print("\\n".join(name + "/real_time" for name in names))
    sys.exit(0)
time.sleep(float(os.environ.get("WAIT", "0")))
name = re.sub("/real_time", "", wanted[0].strip("^$"))
if name == os.environ.get("FAILS"):
    sys.exit(3)
rates = {{"flop": 1e9, "bytes": 1e9}} if name.startswith("machine/") else {{
    "useful_flop": 4e8, "chunk_free_flop": 3e8, "tokens": 1e5, "bytes": 1e8, "error": 3e-7, "pools": 3}}
run = {{"name": wanted[0], "run_type": "iteration", "real_time": 2.0, "cpu_time": 2.0, "time_unit": "ms", **rates}}
print(json.dumps({{"context": {{"compiler": "none"}}, "benchmarks": [run, run]}}))
"""


class CpuRunner(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.program = self.folder / "program"
        self.program.write_text(PROGRAM.format(python=sys.executable))
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)
        self.json = self.folder / "results.json"

    def start(self, *arguments, **environment):
        return subprocess.Popen([sys.executable, ROOT / "bench" / "cpu" / "run.py", "--executable", self.program, "--threads", "1",
                                 "--no-peers", "--json", self.json, *arguments], env={**os.environ, **environment},
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run_all(self, *arguments, **environment):
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=100)
        return process.returncode, output, errors

    def test_every_row_has_time_floor_fraction_and_error(self):
        status, output, errors = self.run_all()
        self.assertEqual(status, 0, errors)
        results = files.load(self.json)
        self.assertEqual(files.faults_of(results), [])
        self.assertTrue(results["complete"])
        rows = {name: row for name, row in results["rows"].items() if report.split(name)}
        self.assertEqual(len(rows), 5)
        for name, row in rows.items():
            self.assertAlmostEqual(row["median"], 2e-3)
            # In 2 ms, 4e8 operations a second: at the peak of 1e9 they would take 0.8 ms, and the bytes 0.2 ms.
            self.assertEqual(row["bound"], "FMA")
            self.assertAlmostEqual(row["floor_seconds"], 8e-4)
            self.assertAlmostEqual(row["fraction_of_floor"], 0.4)
            self.assertEqual(row["counters"]["error"], 3e-7)
            self.assertIn(name, output)

    def test_a_line_tells_how_far_the_run_is(self):
        _, _, errors = self.run_all("--filter", "forward/A")
        lines = [line for line in errors.splitlines() if line.startswith("[")]
        self.assertTrue(lines[-1].startswith(f"[{len(lines)}/{len(lines)}]"))

    def test_a_row_that_fails_is_told_and_the_others_are_measured(self):
        status, output, _ = self.run_all(FAILS="forward/A/causal/fp32/threads:1")
        self.assertEqual(status, 1)
        self.assertIn("FAILED forward/A/causal/fp32/threads:1: exit status 3", output)
        self.assertIn("median", files.load(self.json)["rows"]["forward/1x16x128x64/causal/fp32/threads:1"])

    def test_a_run_that_is_interrupted_reports_the_rows_it_has(self):
        process = self.start(WAIT="0.2")
        self.wait_for_rows(3)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        self.assertIn("Interrupted: rows are missing.", output)
        self.assertFalse(files.load(self.json)["complete"])

    def test_a_run_that_is_killed_leaves_the_rows_it_had(self):
        process = self.start(WAIT="0.2")
        self.wait_for_rows(3)
        process.kill()
        process.communicate(timeout=60)
        results = files.load(self.json)
        self.assertGreaterEqual(len(results["rows"]), 3)
        self.assertEqual(files.faults_of(results), [])

    def wait_for_rows(self, count):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.json.exists() and len(json.loads(self.json.read_text())["rows"]) >= count:
                return
            time.sleep(0.05)
        self.fail("no rows were written")

    def test_ratios_are_of_peers_in_the_same_precision(self):
        names = [f"forward/C/causal/{element}/threads:2" for element in ("fp32", "bf16", "fp64")]
        results = {"threads": 2, "peers": {"chunked/forward/C": {"seconds": [1.0]}, "quadratic/forward/C": {"seconds": [1.0]},
                                           "chunked/forward/C/bf16": {"seconds": [2.0]}}}
        found = [sorted(report.peers_of(results, name)) for name in names]
        self.assertEqual(found, [["chunked", "quadratic"], ["chunked"], []])
        self.assertEqual(report.peers_of(results, names[1])["chunked"]["seconds"], [2.0])
        self.assertEqual(report.peers_of({**results, "threads": 4}, names[0]), {})

    def test_states_that_stay_in_the_cache_have_no_floor(self):
        results = {"threads": 1, "rows": {f"machine/{what}/threads:1": {"passes": [[1.0]], "counters": {"flop": 1e9, "bytes": 1e9}}
                                          for what in ("fma/fp32", "triad", "update")}}
        row = {"counters": {"useful_flop": 1.0, "bytes": 1e9, "pools": 1}, "median": 2.0}
        self.assertEqual(report.floor(results, "step/16/fp32/threads:1", row), (None, None))
        row["counters"]["pools"] = 3
        self.assertEqual(report.floor(results, "step/16/fp32/threads:1", row), (1.0, "memory"))


if __name__ == "__main__":
    unittest.main()
