"""bench/report/compare.py and bench/report/files.py on results made up for the purpose."""
import copy
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "report"))
import compare  # noqa: E402
import files  # noqa: E402

ROW = "forward/C/causal/fp32/threads:2"


def cpu_results(scale=1.0, noise=0.01, error=3e-7, seed=1):
    """A run of one row, ten times of about 5 ms, and of what the machine can do."""
    chance = random.Random(seed)
    times = [5e-3 * scale * (1 + noise * chance.uniform(-1, 1)) for _ in range(10)]
    return {"complete": True, "started": "2026-01-01T00:00:00", "threads": 2, "cpu": {"name": "a processor"}, "git": {},
            "rows": {ROW: {"passes": [times[:5], times[5:]], "counters": {"error": error}},
                     "machine/fma/fp32/threads:2": {"passes": [[0.01, 0.01]], "counters": {"flop": 4e9}}},
            "peers": {"chunked/forward/C": {"seconds": [0.02, 0.021], "error": 4e-7}}}


def gpu_results(microseconds, fastest, peer=None):
    rows = [{"row": "forward_causal/bf16/8x16x2048x64", "variant": "default", "microseconds": microseconds, "fastest": fastest,
             "slowest": 2 * microseconds}]
    return {"date": "2026-01-01", "machine": {"name": "a device"}, "driver": "1", "tests": [], "sanitizer": [],
            "bench": {"copy_bytes_per_second": {"before": 3e12, "after": 3e12}, "rows": rows},
            "peers": peer or {"dry_run": True, "versions": {}, "rows": []}}


class Comparison(unittest.TestCase):
    def test_a_row_slower_by_ten_percent_is_named(self):
        found = compare.compare(cpu_results(), cpu_results(1.1, seed=2))
        self.assertEqual(len(found["slower"]), 1)
        self.assertIn(ROW, found["slower"][0])

    def test_a_row_faster_by_ten_percent_is_named_as_that(self):
        found = compare.compare(cpu_results(1.1), cpu_results(seed=2))
        self.assertIn(ROW, found["faster"][0])
        self.assertNotIn("slower", found)

    def test_a_difference_within_the_noise_is_none(self):
        found = compare.compare(cpu_results(noise=0.2), cpu_results(1.05, noise=0.2, seed=2))
        self.assertEqual({key: len(lines) for key, lines in found.items()}, {"same": 1, "peer same": 1})

    def test_a_difference_beyond_the_noise_but_below_the_threshold_is_none(self):
        old, new = cpu_results(noise=0.001), cpu_results(1.02, noise=0.001, seed=2)
        self.assertNotIn("slower", compare.compare(old, new))
        self.assertIn("slower", compare.compare(old, new, threshold=0.01))

    def test_one_outlier_hides_no_regression(self):
        old = cpu_results()
        old["rows"][ROW]["passes"][0][0] = 1.0
        self.assertIn("slower", compare.compare(old, cpu_results(1.1, seed=2)))

    def test_a_row_whose_error_more_than_doubled_is_named(self):
        found = compare.compare(cpu_results(), cpu_results(error=7e-7, seed=2))
        self.assertIn(ROW, found["less accurate"][0])

    def test_a_row_that_fails_now_is_named_with_its_reason(self):
        new = cpu_results()
        new["rows"][ROW] = {"passes": [], "failed": "the output is not finite"}
        self.assertEqual(compare.compare(cpu_results(), new)["failed"], [f"{ROW}: the output is not finite"])

    def test_what_peers_do_is_told_apart(self):
        new = cpu_results()
        new["peers"]["chunked/forward/C"]["seconds"] = [0.03, 0.031]
        found = compare.compare(cpu_results(), new)
        self.assertIn("PyTorch chunked/forward/C", found["peer slower"][0])
        self.assertNotIn("slower", found)

    def test_rows_of_gpus_are_compared_by_median_and_fastest(self):
        self.assertIn("slower", compare.compare(gpu_results(50, 49.5), gpu_results(54, 53)))
        self.assertIn("same", compare.compare(gpu_results(50, 45), gpu_results(54, 50)))

    def test_a_machine_of_another_speed_is_told(self):
        new = cpu_results()
        new["rows"]["machine/fma/fp32/threads:2"]["passes"] = [[0.02]]
        lines = compare.machine_differences(cpu_results(), new, 0.03)
        self.assertEqual(lines, ["machine/fma/fp32/threads:2 of the machine: 0.50 times as fast as before"])

    def test_the_exit_status_tells_of_a_regression(self):
        with tempfile.TemporaryDirectory() as folder:
            old, new = pathlib.Path(folder, "old.json"), pathlib.Path(folder, "new.json")
            files.save(old, cpu_results())
            files.save(new, cpu_results(1.5, seed=2))
            command = [sys.executable, str(ROOT / "bench" / "report" / "compare.py")]
            self.assertEqual(subprocess.run([*command, old, new], stdout=subprocess.DEVNULL).returncode, 1)
            self.assertEqual(subprocess.run([*command, old, old], stdout=subprocess.DEVNULL).returncode, 0)
            self.assertEqual(subprocess.run([*command, new, old], stdout=subprocess.DEVNULL).returncode, 0)

    def test_what_is_saved_is_loaded_again(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "file.json")
            files.save(path, files.rounded(cpu_results()))
            self.assertEqual(files.load(path), files.rounded(cpu_results()))
            self.assertEqual([entry.name for entry in path.parent.iterdir()], ["file.json"])

    def test_faults_of_result_files_are_found(self):
        self.assertEqual(files.faults_of(cpu_results()), [])
        self.assertEqual(files.faults_of(gpu_results(50, 49)), [])
        for fault in (lambda r: r.pop("rows"), lambda r: r["rows"][ROW].pop("counters"),
                      lambda r: r["rows"][ROW].update(passes=[[0.0]]), lambda r: r["peers"].update(p={})):
            broken = copy.deepcopy(cpu_results())
            fault(broken)
            self.assertNotEqual(files.faults_of(broken), [])
        for row in ({"row": "r", "variant": "v"}, {"row": "r", "variant": "v", "skipped": ""}, {"row": "r", "skipped": "s"},
                    {"row": "r", "variant": "v", "skipped": "s", "failed": "f"},
                    {"row": "r", "variant": "v", "microseconds": 1.0}):
            broken = gpu_results(50, 49, {"dry_run": True, "versions": {}, "rows": [row]})
            self.assertEqual(len(files.faults_of(broken)) > 0, True, row)


if __name__ == "__main__":
    unittest.main()
