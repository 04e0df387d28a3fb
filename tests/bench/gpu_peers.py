"""bench/peers/gpu/peers.py where there is neither a GPU nor PyTorch: its dry run, and what it records of workers that are not
what they should be."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench" / "report"), str(ROOT / "bench" / "peers" / "gpu")]
import files  # noqa: E402
import rows as gpu_rows  # noqa: E402

PROGRAM = ROOT / "bench" / "peers" / "gpu" / "peers.py"
# Answers as worker.py does; at a variant that is named in its reply, does that instead.
WORKER = """
import json, os, sys, time
print(json.dumps({"versions": {"torch": "none"}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["operation"] == "copy":
        reply = {"copy_bytes_per_second": 3e12}
    elif request["variant"] == "torch.sdpa.flash":
        os._exit(9)
    elif request["variant"] == "torch.sdpa.cudnn":
        time.sleep(60)
    elif request["variant"] == "torch.sdpa.math":
        reply = {"skipped": "too large"}
    else:
        reply = {"microseconds": 100.0, "fastest": 99.0, "slowest": 101.0, "error": 1e-3, "peak_bytes": 1 << 20}
    print(json.dumps(reply), flush=True)
"""


def run(folder, *arguments):
    """Its output and the file that it wrote."""
    path = pathlib.Path(folder, "peers.json")
    done = subprocess.run([sys.executable, PROGRAM, "--json", path, *arguments], capture_output=True, text=True, timeout=100)
    return done, json.loads(path.read_text()) if path.exists() else None


class GpuPeers(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def test_a_dry_run_lists_every_peer_of_every_row_and_writes_a_valid_file(self):
        done, results = run(self.folder.name, "--dry-run")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(files.faults_of_peers(results), [])
        self.assertTrue(results["dry_run"])
        listed = done.stdout.split()
        self.assertEqual(listed, [f"{row['row']}/{row['variant']}" for row in results["rows"]])
        for call in ("forward", "backward", "forward_and_backward"):
            for variant in ("fla.chunk_linear_attn", "fla.fused_chunk_linear_attn", "fla.fused_recurrent_linear_attn",
                            "fla.chunk_simple_gla", "torch.sdpa.flash", "torch.sdpa.cudnn", "torch.sdpa.efficient",
                            "torch.sdpa.math", "torch.quadratic"):
                self.assertIn(f"{call}_causal/bf16/8x16x2048x64/{variant}", listed)
            self.assertIn(f"{call}_bidirectional/bf16/8x16x2048x64/torch.bidirectional", listed)
        self.assertIn("step/bf16/256x16x1x64/fla.fused_recurrent_linear_attn", listed)

    def test_a_dry_run_of_every_preset_has_lengths_dims_heads_and_packed_batches(self):
        for preset, wanted in {
                "standard": ("forward_packed_causal/bf16/64x16x131072x64/fla.chunk_simple_gla",
                             "forward_packed_bidirectional/fp32/64x16x131072x64/torch.bidirectional.each",
                             "prefill_4096_causal/bf16/1x16x131072x64/fla.chunk_linear_attn"),
                "sweep": ("forward_causal/bf16/1x16x128x64/torch.sdpa.flash", "forward_causal/fp32/1x16x1048576x64/fla.chunk_simple_gla",
                          "forward_and_backward_causal/fp64/8x16x2048x256/torch.chunked.64", "backward_causal/bf16/256x16x256x64/"
                          "fla.chunk_linear_attn", "step/fp16/256x16x1x32/torch.step"),
                "authors": ("forward_causal/fp32/1x16x16384x1024/torch.quadratic", "backward_causal/bf16/32x16x512x128/torch.sdpa.cudnn"),
        }.items():
            done, results = run(self.folder.name, "--dry-run", "--preset", preset)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertEqual(files.faults_of_peers(results), [])
            self.assertLessEqual(set(wanted), set(done.stdout.split()), preset)

    def test_rows_are_taken_from_what_our_benchmark_lists(self):
        rows = pathlib.Path(self.folder.name, "rows")
        rows.write_text("step/fp32/256x16x1x64/default\nstep/fp32/256x16x1x64/chunk64.warps4\nmachine/copy/default\n")
        done, results = run(self.folder.name, "--dry-run", "--rows-from", rows)
        self.assertEqual(done.stdout.split(), [f"step/fp32/256x16x1x64/{variant}" for variant in gpu_rows.VARIANTS["step"]])

    def test_a_filter_that_matches_nothing_is_an_error(self):
        done, results = run(self.folder.name, "--dry-run", "--rows", "no such row")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("no row matches", done.stderr)

    def test_a_worker_that_does_not_start_is_the_reason_of_every_row(self):
        worker = pathlib.Path(self.folder.name, "worker.py")
        worker.write_text("import no_such_library_at_all")
        done, results = run(self.folder.name, "--rows", "8x8x1024x64", "--worker", f"{sys.executable} {worker}")
        self.assertEqual(done.returncode, 0)
        self.assertEqual(files.faults_of_peers(results), [])
        for row in results["rows"]:
            self.assertIn("no_such_library_at_all", row["skipped"])

    def test_a_row_that_kills_the_worker_or_never_ends_costs_only_itself(self):
        worker = pathlib.Path(self.folder.name, "worker.py")
        worker.write_text(WORKER)
        done, results = run(self.folder.name, "--rows", "^forward_causal/bf16/8x8x1024x64", "--patience", "3", "--worker",
                            f"{sys.executable} {worker}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(files.faults_of_peers(results), [])
        rows = {row["variant"]: row for row in results["rows"]}
        self.assertIn("status 9", rows["torch.sdpa.flash"]["failed"])
        self.assertIn("no answer in 3 s", rows["torch.sdpa.cudnn"]["failed"])
        self.assertEqual(rows["torch.sdpa.math"]["skipped"], "too large")
        measured = rows["torch.quadratic"]
        self.assertAlmostEqual(measured["floor"], 4 * 8 * 8 * 1024 * 64 * 2 / 3e12 * 1e6)
        self.assertAlmostEqual(measured["fraction_of_floor"], measured["floor"] / 100.0)

    def test_an_ended_run_keeps_its_rows_and_ends_its_worker(self):
        worker, said = pathlib.Path(self.folder.name, "worker.py"), pathlib.Path(self.folder.name, "process")
        worker.write_text(WORKER.replace('request["variant"] == "torch.sdpa.cudnn":', f'request["variant"] == "torch.sdpa.cudnn":\n'
                                         f'        open({str(said)!r}, "w").write(str(os.getpid()))'))
        path = pathlib.Path(self.folder.name, "peers.json")
        peers = subprocess.Popen([sys.executable, PROGRAM, "--json", path, "--rows", "^forward_causal/bf16/8x8x1024x64", "--worker",
                                  f"{sys.executable} {worker}"], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not said.exists() or not said.read_text():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        peers.terminate()
        self.assertEqual(peers.wait(30), 143)
        self.assertEqual([row["variant"] for row in files.load(path)["rows"] if "microseconds" in row][0], "fla.chunk_linear_attn")
        with self.assertRaises(ProcessLookupError):
            os.kill(int(said.read_text()), 0)

    def test_bytes_that_must_move_are_those_of_each_tensor_once(self):
        units = 2 * 3 * 5 * 8  # batch, heads, length, dim
        self.assertEqual(gpu_rows.floor_bytes("forward_causal/bf16/2x3x5x8"), 4 * 2 * units)
        self.assertEqual(gpu_rows.floor_bytes("backward_causal/fp32/2x3x5x8"), 7 * 4 * units)
        self.assertEqual(gpu_rows.floor_bytes("forward_and_backward_bidirectional/fp16/2x3x5x8"), 11 * 2 * units)
        self.assertEqual(gpu_rows.floor_bytes("step/bf16/2x3x1x8"), 2 * 3 * (2 * 8 * 8 * 4 + 4 * 8 * 2))
        # of a packed batch all tokens together, of a sequence in pieces what it is in one
        self.assertEqual(gpu_rows.floor_bytes("forward_packed_causal/bf16/2x3x5x8"), 4 * 2 * 3 * 5 * 8)
        self.assertEqual(gpu_rows.floor_bytes("forward_and_backward_packed_causal/bf16/2x3x5x8"), 11 * 2 * 3 * 5 * 8)
        self.assertEqual(gpu_rows.floor_bytes("prefill_5_causal/bf16/2x3x5x8"), gpu_rows.floor_bytes("forward_causal/bf16/2x3x5x8"))


if __name__ == "__main__":
    unittest.main()
