"""Which result files the figures and tables of the documentation come from. Nothing else is shown there as measured."""
import pathlib

import files

BENCH = pathlib.Path(__file__).resolve().parents[1]
ROOT = BENCH.parent
RESULTS = BENCH / "results"

# ./run bench --quick
QUICK = "2026-11-23-amd-epyc-quick-6.json"
# ./run bench --filter 'forward/1x16x\d+x64/|1048576'
LENGTH = "2026-11-23-amd-epyc-length.json"
# ./run bench --filter '^forward/2x8x2048|^forward/(1x1x65536|1x4x16384|4x4x4096|16x4x1024|16x16x256|256x16x16)x64|
#                       ^forward_backward/2x8x2048x\d+/causal|^step|packed|^prefill|memory/forward/heads:16'
SHAPES = "2026-11-23-amd-epyc-shapes.json"
# ./run bench --preset authors --filter '(forward|forward_backward)/(1x16x(128|1024)x(64|1024)|32x16x512)'
AUTHORS = "2026-11-23-amd-epyc-authors.json"
# Runs beside a current PyTorch, one file a machine, in the order of the tables: ./run bench, whole or with a filter
PEERS = ("2026-11-30-amd-epyc-standard-partial.json",)
# Older ones have no scaled_dot_product_attention and no torch.compile, and take up to twice as long as those of today.
OLDEST_TORCH = 2
# examples/python/gpt.py and bert.py
GPT, BERT = "2026-11-30-python-gpt.json", "2026-11-30-python-bert.json"
# ./run python calls
CALLS = "2026-11-30-python-calls.json"
# The files that these wrote, once there are any: ./run gpu, ./run gpu bench peers --preset sweep, and --preset authors
GPU = GPU_SWEEP = GPU_AUTHORS = None
# build/nvcc/tests/ptx/test_ptx_instructions
INSTRUCTIONS = "2026-11-30-ptx-instructions.txt"
# cmake --build build/nvcc --target budget
BUDGET = "2026-12-01-budget.json"


def load(name):
    """A result file, without what an old PyTorch took: that is shown nowhere."""
    results = files.load(RESULTS / name)
    torch = results.get("torch", {})
    if "torch" in torch and int(torch["torch"].split(".")[0]) < OLDEST_TORCH:
        results["torch"], results["peers"] = {"missing": "an old one"}, {}
        for row in results["rows"].values():
            row.pop("ratios", None)
    return results


def link(name, page):
    """Markdown's link to a result file, from the page's folder."""
    up = "" if page == "README.md" else "../"
    return f"[{pathlib.Path(name).stem}]({up}bench/results/{name})"
