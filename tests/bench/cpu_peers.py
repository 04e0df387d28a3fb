"""The peers on CPUs without PyTorch: what is asked of it, how rows that it wins are told, and where it comes from."""
import contextlib
import io
import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
for folder in ("bench/cpu", "bench/peers", "bench/report", "tests/run"):
    sys.path.insert(0, str(ROOT / folder))
# PyTorch's forms compute nothing in these tests.
for module in ("torch", "torch.nn", "torch.nn.functional"):
    sys.modules[module] = unittest.mock.MagicMock()
import cpu_runner  # noqa: E402
import files  # noqa: E402
import libraries  # noqa: E402
import peer_tables  # noqa: E402
import pypi  # noqa: E402
import pytorch_peers  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
import sources  # noqa: E402

# In place of a Python with PyTorch. Each answer to a request takes PEER_SECONDS; ARGUMENTS is a file that gets the command lines.
PYTHON = """#!{python}
import json, os, sys
with open(os.environ["ARGUMENTS"], "a") as file:
    print(*sys.argv[1:], file=file)
information = {{"torch": "9.8.7", "threads": 1, "blas": "MKL", "blas_core": "", "blas_usable": True, "cpu_capability": "AVX2",
                "libraries": {{"MKL": "6.5", "oneDNN": "4.3"}}}}
if "--probe" in sys.argv:
    print(json.dumps({{**information, "seconds": 1.0}}))
elif "--serve" in sys.argv:
    print(json.dumps({{**information, "compile": "yes"}}), flush=True)
    for line in sys.stdin:
        print(json.dumps({{"variant": "one way, compiled", "seconds": [float(os.environ["PEER_SECONDS"])],
                           "compile_seconds": {{"one way, compiled": 21.0}}}}), flush=True)
"""


class Peers(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.program = self.executable("program", cpu_runner.PROGRAM.format(python=sys.executable).replace(
            '"forward/A/causal/fp32/threads:1"', '"forward/A/causal/fp32/threads:1", "forward_backward/A/causal/bf16/threads:1", '
            '"forward/A/bidirectional/bf16/threads:1"'))
        self.python = self.executable("python", PYTHON.format(python=sys.executable))
        self.json, self.arguments = self.folder / "results.json", self.folder / "arguments"

    def executable(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def bench(self, *arguments, seconds=4e-3):
        """A run of bench/cpu/run.py whose own rows take 2 ms."""
        done = subprocess.run([sys.executable, ROOT / "bench" / "cpu" / "run.py", "--executable", self.program, "--python", self.python,
                               "--threads", "1", "--json", self.json, "--filter", "/A/", *arguments], capture_output=True, text=True,
                              env={**os.environ, "PEER_SECONDS": str(seconds), "ARGUMENTS": str(self.arguments)}, timeout=100)
        return done.returncode, done.stdout + done.stderr

    def test_every_form_is_asked_for_in_the_precision_of_our_row(self):
        status, output = self.bench("--check")
        self.assertEqual(status, 0, output)
        results = files.load(self.json)
        self.assertEqual(set(results["peers"]), {
            "quadratic/forward/A", "recurrent/forward/A", "chunked/forward/A", "softmax/forward/A", "quadratic/forward_backward/A/bf16",
            "chunked/forward_backward/A/bf16", "softmax/forward_backward/A/bf16", "bidirectional/forward/A/bf16",
            "bidirectional_softmax/forward/A/bf16"})
        self.assertEqual(set(results["rows"]["forward/A/bidirectional/bf16/threads:1"]["ratios"]), {"bidirectional", "softmax"})
        self.assertIn("Of 9 comparisons with a peer's time, the peer is faster in 0.", output)
        self.assertIn("MKL 6.5, oneDNN 4.3; torch.compile: 9 forms in 189 s", output)
        self.assertIn("--serve --threads 1 --compile", self.arguments.read_text())

    def test_a_row_in_which_a_peer_is_faster_is_named_and_fails_a_check(self):
        status, output = self.bench(seconds=1e-3)
        self.assertEqual(status, 0, output)
        self.assertIn("  forward/A/bidirectional/bf16/threads:1: softmax is 2.00 times as fast", output)
        show = [sys.executable, ROOT / "bench" / "cpu" / "run.py", "--check", "--show", self.json]
        done = subprocess.run(show, capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("CHECK FAILED: a peer is faster in forward/A/causal/fp32/threads:1, forward_backward/A/causal/bf16/threads:1",
                      done.stdout)

    def test_a_check_that_compared_nothing_fails(self):
        status, output = self.bench("--check", "--no-peers")
        self.assertEqual(status, 1)
        self.assertIn("CHECK FAILED: no row was compared with a peer", output)

    def test_the_quick_form_compiles_nothing_unless_told(self):
        self.assertEqual([run.options_from(arguments).compile for arguments in ([], ["--quick"], ["--quick", "--compile"],
                                                                                ["--no-compile"])], [True, False, True, False])


class Forms(unittest.TestCase):
    """bench/peers/pytorch_peers.py."""

    def printed(self, *arguments):
        output = io.StringIO()
        with unittest.mock.patch.object(sys, "argv", ["pytorch_peers.py", *arguments]), contextlib.redirect_stdout(output):
            pytorch_peers.main()
        return output.getvalue().splitlines()

    @unittest.mock.patch.multiple(
        pytorch_peers, check_definition=lambda: None, information=dict, make_inputs=lambda *_: [unittest.mock.MagicMock()] * 5,
        variants=lambda *_: {"one way": (None, 0)}, variants_of_element=lambda *_: {"one way": (lambda *_: None, 0)},
        train=lambda *_: [None] * 3, check_output=lambda *_: 2e-7, check_gradients=lambda *_: 1e-6,
        check_gradient_rows=lambda *_: 4e-7, witness=lambda _: {})
    def test_run_by_itself_every_form_has_a_line_for_each_pass_and_element(self):
        lines = self.printed("--shapes", "A,1x2x3x4", "--elements", "fp32,bf16", "--repetitions", "2")[1:]
        passes = {form: 2 if form in pytorch_peers.TRAINABLE else 1 for form in pytorch_peers.FORMS}
        self.assertEqual(len(lines), 2 * 2 * sum(passes.values()))
        for line in lines:
            self.assertRegex(line, r"^(A|1x2x3x4) +\w+ +forward(_backward)? +(fp32|bf16) +0\.\d\d ms  one way")
            error = ("gradients right at 256 tokens" if "softmax" in line and "backward" in line
                     else "error 4e-07" if "backward" in line else "error 2e-07")
            self.assertTrue(line.endswith(error), line)

    @unittest.mock.patch.multiple(pytorch_peers, check_definition=lambda: None, information=dict, make_inputs=lambda *_: None,
                                  variants=lambda *_: {}, variants_of_element=lambda *_: {})
    def test_what_is_not_timed_has_a_line_with_the_reason(self):
        self.assertRegex(self.printed("--shapes", "D", "--forms", "quadratic", "--passes", "forward")[1],
                         "^D quadratic +forward +fp32 no variant for length 16384$")

    def timed(self, compiled, compiling=True):
        class Form:
            errors = {"chunk 64, in turn": 1e-7, "chunk 64, all at once": 2e-7, "chunk 64, all at once, compiled": 3e-7}
            eager = staticmethod(lambda: ({"chunk 64, in turn": lambda: time.sleep(1e-3), "chunk 64, all at once":
                                           lambda: time.sleep(3e-3), "chunk 128, all at once": lambda: time.sleep(9e-3)}, {}))

            def __init__(self, *_):
                pass

            def compiled(self, name, eager):
                return compiled(name)
        with unittest.mock.patch.object(pytorch_peers, "Form", Form):
            return pytorch_peers.time_form("softmax", "forward", (1, 1, 64, 8), 2, "fp32", compiling)

    def test_the_fastest_form_without_a_loop_is_compiled_and_compiling_is_timed_apart(self):
        result = self.timed(lambda name: (7.0, lambda: None))
        self.assertEqual(result["variant"], "chunk 64, all at once, compiled")
        self.assertEqual(result["compile_seconds"], {"chunk 64, all at once, compiled": 7.0})
        self.assertLess(max(result["seconds"]), 1e-3)
        self.assertEqual(result["error"], 3e-7)

    def test_where_nothing_compiles_the_eager_forms_count_and_the_reason_is_told(self):
        result = self.timed(lambda name: (None, "no compiler"))
        self.assertEqual(result["variant"], "chunk 64, in turn")
        self.assertEqual(result["refused"], {"chunk 64, all at once, compiled": "no compiler"})
        self.assertEqual(self.timed(None, compiling=False)["refused"], {})

    def test_versions_of_libraries_are_read_from_what_pytorch_says(self):
        shown = ("  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605 for Intel(R) 64\n"
                 "  - Intel(R) MKL-DNN v3.13.3 (Git Hash b38f97)\n  - OpenMP 201511 (a.k.a. OpenMP 4.5)\n")
        self.assertEqual(libraries.versions_in(shown), {"MKL": "2024.2", "oneDNN": "3.13.3", "OpenMP": "201511"})
        self.assertEqual(libraries.versions_in("nothing"), {})


class Installed(unittest.TestCase):
    """tests/run/pypi.py torch, with a pip that fails."""

    def install(self, words):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as errors:
            pip = pathlib.Path(folder, "pip")
            pip.mkdir()
            (pip / "__init__.py").touch()
            (pip / "__main__.py").write_text(f"import sys\nprint({words!r})\nsys.exit(1)\n")
            with unittest.mock.patch.object(pypi, "BUILD", pathlib.Path(folder, "build")), \
                    unittest.mock.patch.dict(os.environ, {"PYTHONPATH": folder}), \
                    unittest.mock.patch.object(sys, "argv", ["pypi.py", "torch"]), self.assertRaises(SystemExit) as ended:
                pypi.main()
        return ended.exception.code, errors.getvalue().splitlines()

    def test_without_a_network_one_sentence_says_so(self):
        status, lines = self.install("WARNING: Retrying (Retry(total=1)) after connection broken\nERROR: No matching distribution")
        self.assertEqual(status, 3)
        self.assertEqual(lines, ["==> installing torch from PyPI", "PyPI is not reached from here, so there is no current PyTorch "
                                 "(build/torch.log)."])

    def test_where_pypi_has_none_pip_is_quoted(self):
        self.assertEqual(self.install("ERROR: No matching distribution found for torch")[0],
                         "ERROR: No matching distribution found for torch")


class Tables(unittest.TestCase):
    """bench/report/peer_tables.py, of two machines."""

    def machine(self, flags, chunked, torch="2.15.0"):
        def peer(seconds, variant="one way"):
            return {"seconds": [seconds], "variant": variant}
        results = {"cpu": {"name": "a processor", "flags": flags}, "threads": 2, "build": {"compiler": "GNU 12"},
                   "torch": {"torch": torch, "blas": "MKL", "cpu_capability": "AVX2", "libraries": {"MKL": "2024.2"}},
                   "rows": {f"forward/B/causal/{element}/threads:2": {"passes": [[2e-3]], "counters": {}} for element in ("fp32", "bf16")},
                   "peers": {"chunked/forward/B": peer(chunked, "chunk 64, all at once, compiled"), "softmax/forward/B": peer(8e-3),
                             "softmax/forward/B/bf16": peer(1e-3)}}
        report.summarise(results)
        return results

    def written(self, block, **machines):
        with unittest.mock.patch.object(sources, "PEERS", tuple(machines)), \
                unittest.mock.patch.object(files, "load", lambda path: machines[path.name]):
            return block("docs/performance.md")

    def test_machines_stand_side_by_side_and_rows_that_are_lost_in_bold(self):
        text = self.written(peer_tables.side_by_side, one=self.machine("avx2", 6e-3), other=self.machine("avx2 avx512f", 4e-3))
        self.assertIn("1. a processor, AVX2, 2 threads; GNU 12; PyTorch 2.15.0 (MKL 2024.2; AVX2)", text)
        self.assertIn("| `forward/B/causal/fp32` | 2.0 | 6.0 (chunked, compiled) | 3.0x | 2.0 | 4.0 (chunked, compiled) | 2.0x |", text)
        self.assertIn("| `forward/B/causal/bf16` | 2.0 | 1.0 (softmax) | **0.50x** |", text)
        self.assertIn("Of 3 comparisons, softmax included, a peer is faster in 1:", self.written(
            peer_tables.faster, one=self.machine("avx2", 6e-3)))

    def test_the_first_table_has_softmax_chunked_and_quadratic_of_every_machine(self):
        text = self.written(peer_tables.readme, one=self.machine("avx2", 6e-3), other=self.machine("avx512f", 4e-3))
        self.assertIn("| a processor, AVX2, 2 threads; 1,024; fp32 | 2.0 | 8.0 | 6.0 |  |", text)
        self.assertIn("| a processor, AVX-512, 2 threads; 1,024; bf16 | 2.0 | 1.0 |  |  |", text)

    def test_nothing_of_an_old_pytorch_is_shown(self):
        for block in (peer_tables.readme, peer_tables.side_by_side, peer_tables.faster):
            self.assertNotIn("8.0", self.written(block, one=self.machine("avx2", 6e-3, torch="1.13.0a0")))
        self.assertEqual(self.written(peer_tables.faster, one=self.machine("avx2", 6e-3, torch="1.13.0a0")), peer_tables.NONE)


if __name__ == "__main__":
    unittest.main()
