"""same_rows.py PROGRAM PRESET [LEFT_OUT]: whether cottention_bench_gpu and the peers' runner have the same rows in a preset.

Those that match the regular expression LEFT_OUT the program was built without.
"""
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "bench" / "peers" / "gpu"))
import rows  # noqa: E402

program, preset, *left_out = sys.argv[1:]
listed = subprocess.run([program, f"--preset={preset}", "--list"], check=True, capture_output=True, text=True).stdout.split()
ours = [line.removesuffix("/default") for line in listed]
theirs = [row for row in rows.rows_of(preset) if not any(re.match(pattern, row) for pattern in left_out)]
for row in sorted(set(ours) ^ set(theirs)):
    print(f"only {'in the benchmark' if row in ours else 'among the peers'}: {row}")
for row in theirs:
    if not rows.variants_of(row):
        print(f"no peer for {row}")
        theirs = None
sys.exit(not ours or theirs is None or set(ours) != set(theirs))
