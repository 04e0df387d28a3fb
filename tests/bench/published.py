"""That the documentation says what the committed result files hold. Needs no matplotlib."""
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "report"))
import figures  # noqa: E402
import files  # noqa: E402
import gpu_tables  # noqa: E402
import sources  # noqa: E402
import tables  # noqa: E402

RESULTS = sorted((ROOT / "bench" / "results").glob("*.json"))


class Published(unittest.TestCase):
    def test_tables_and_numbers_agree_with_the_result_files(self):
        done = subprocess.run([sys.executable, ROOT / "bench" / "report" / "tables.py", "--check"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_a_number_that_was_changed_by_hand_is_found(self):
        page = "docs/performance.md"
        text = (ROOT / page).read_text(encoding="utf-8")
        self.assertEqual(tables.rewritten(text, page), text)
        for name in ("cpu-authors", "time-per-token"):
            begin = text.index(f"<!-- {name} -->")
            digit = re.compile(r"[0-9](?=[^>]*<)").search(text, begin + len(name) + 9)
            changed = text[:digit.start()] + str((int(digit[0]) + 1) % 10) + text[digit.end():]
            self.assertNotEqual(changed, text)
            self.assertEqual(tables.rewritten(changed, page), text)

    def test_a_block_that_nothing_fills_is_refused(self):
        with self.assertRaises(SystemExit):
            tables.rewritten("<!-- nothing -->1<!-- /nothing -->", "README.md")

    def test_no_line_of_a_sentence_begins_with_a_comment(self):
        for page in tables.PAGES:  # Markdown would show such a line as it is
            self.assertEqual(re.findall(r"^<!-- [\w-]+ -->.+", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE), [], page)

    def test_every_plot_was_drawn_from_the_result_files_as_they_are(self):
        for name, figure in figures.figures().items():
            drawing = (ROOT / "docs" / "figures" / f"{name}.svg").read_text(encoding="utf-8")
            self.assertIn(figures.digest(figure), drawing, f"docs/figures/{name}.svg is not of these results; ./run plots")

    def test_no_plot_is_empty(self):
        for name, figure in figures.figures().items():
            for panel in figure["panels"]:
                lines = panel["bars"] if name == "gpu" else panel["series"]
                self.assertTrue(lines, f"{name}: {panel['title']}")
                for label, points in lines.items():
                    self.assertGreater(len(points), 1, f"{name}: {panel['title']}: {label}")

    def test_plots_are_shown_and_those_shown_are_there(self):
        shown = set()
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
            for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
                self.assertTrue((page.parent / path).exists(), f"{page.name} shows {path}")
                shown.add((page.parent / path).resolve())
        self.assertLessEqual(set((ROOT / "docs" / "figures").glob("*.svg")), shown)

    def test_every_committed_result_file_is_sound(self):
        self.assertTrue(RESULTS)
        for path in RESULTS:
            self.assertEqual(files.faults_of(files.load(path)), [], path.name)

    def test_result_files_tell_of_no_folder_of_the_machine(self):
        for path in RESULTS:
            text = path.read_text(encoding="utf-8")
            self.assertEqual(re.findall(r'"/(?:home|root|tmp|work|usr|mnt)[^"]*"', text), [], path.name)

    def gpu_text(self, results, block=gpu_tables.measured):
        original = sources.load
        sources.load = lambda name: results
        try:
            return block("docs/performance.md", "made-up.json")
        finally:
            sources.load = original

    def test_a_gpu_table_has_ours_and_the_best_of_each_family_and_names_the_absent(self):
        def row(variant, microseconds=None, **more):
            base = {"row": "forward_causal/bf16/8x16x2048x64", "variant": variant, **more}
            return base if microseconds is None else {**base, "microseconds": microseconds, "fastest": microseconds,
                                                      "slowest": microseconds}
        results = {"machine": {"name": "a device"}, "driver": "1.2",
                   "bench": {"copy_bytes_per_second": {"before": 3e12, "after": 2.9e12},
                             "rows": [row("default", 50.0, floor=44.7, fraction_of_floor=0.894, tokens_per_second=3.2768e8,
                                      bytes_per_second=2.6844e12, flop_per_second=8.59e13, peak_bytes=33 << 20)]},
                   "peers": {"rows": [row("fla.chunk_linear_attn", 120.0, error=2e-3), row("fla.fused_chunk_linear_attn", 110.0, error=3e-3, peak_bytes=96 << 20),
                                      row("torch.sdpa.flash", 200.0, error=1e-3), row("torch.chunked.64", 900.0, error=4e-3),
                                      row("torch.sdpa.cudnn", skipped="no kernel")]}}
        text = self.gpu_text(results)
        self.assertIn("a device, driver 1.2, copies 3.00 TB/s", text)
        self.assertIn("| 50.0 | 44.7 | 89% | 327.68 | 2.68 | 85.90 | 33.0 | 110.0 (fused_chunk_linear_attn) | 3.0e-03 | 96.0 | "
                      "200.0 (flash) | 1.0e-03 |  | 900.0 (chunked.64) | 4.0e-03 |  |", text)
        self.assertIn("- `torch.sdpa.cudnn` did not run at 1 rows: no kernel", text)
        for block in (gpu_tables.swept, gpu_tables.authors):
            self.assertEqual(self.gpu_text(results, block), text)
        panel = figures.gpu_fractions(results)
        self.assertEqual(panel["rows"], ["forward_causal/bf16/8x16x2048x64"])
        for family, share in (("cottention", 89.4), ("flash-linear-attention", 100 * 44.7 / 110),
                              ("torch, softmax", 100 * 44.7 / 200), ("authors' formulas", 100 * 44.7 / 900)):
            self.assertEqual(len(panel["bars"][family]), 1)
            self.assertAlmostEqual(panel["bars"][family][0][1], share)

    def test_a_dry_run_on_a_machine_without_a_gpu_goes_through_the_tables(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "peers.json")
            subprocess.run([sys.executable, ROOT / "bench" / "peers" / "gpu" / "peers.py", "--dry-run", "--json", path],
                           check=True, stdout=subprocess.DEVNULL)
            results = {"date": "2026-01-01", "machine": {"name": "no device"}, "driver": "none", "tests": [], "sanitizer": [],
                       "bench": None, "peers": files.load(path)}
        self.assertEqual(files.faults_of(results), [])
        asked = sum(row["variant"] == "fla.chunk_linear_attn" for row in results["peers"]["rows"])
        self.assertGreater(asked, 30)
        self.assertIn(f"`fla.chunk_linear_attn` did not run at {asked} rows: a dry run", self.gpu_text(results))
        self.assertEqual(figures.gpu_fractions(results)["rows"], [])


if __name__ == "__main__":
    unittest.main()
