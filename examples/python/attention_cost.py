"""Peak memory and speed of attention by itself, forward and backward, against length: a process of its own, which prints JSON."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import cottention

SCORES = "softmax, scores stored"
MOST_SCORES = 2**28  # bytes of one matrix of scores for which SCORES is measured


def _forms(causal, m):
    def cosine(q, k, v, mask):
        return cottention.attention(q, k, v, m, causal=causal, query_mask=mask, key_mask=mask)

    def softmax(q, k, v, mask):
        visible = None if mask is None else mask[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=causal)

    def scores(q, k, v, mask):
        with sdpa_kernel(SDPBackend.MATH):
            return softmax(q, k, v, mask)

    return {"cosine": cosine, "softmax": softmax, SCORES: scores}


class _Peak:
    """Bytes beyond those held when it was made; None where the system does not tell."""

    def __init__(self, device):
        self.device = device
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        try:
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is held
            self.before = self._status("VmRSS")
        except OSError:
            self.before = None

    @staticmethod
    def _status(name):
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

    def grown(self):
        if self.before is None:
            return None
        return (torch.cuda.max_memory_allocated(self.device) if self.device != "cpu" else self._status("VmHWM")) - self.before


def _row(form, call, heads, head_dim, causal, length, device):
    torch.manual_seed(length)
    q, k, v = (torch.randn(1, heads, length, head_dim, device=device, requires_grad=True) for _ in range(3))
    mask = None
    if not causal:
        mask = torch.ones(1, length, dtype=torch.bool, device=device)
        mask[:, length - length // 8:] = False  # padding
    dout = torch.randn_like(q)
    peak = _Peak(device)
    seconds = []
    while len(seconds) < 2 or (sum(seconds) < 0.3 and len(seconds) < 20):
        started = time.monotonic()
        torch.autograd.grad(call(q, k, v, mask), (q, k, v), dout)
        if device != "cpu":
            torch.cuda.synchronize(device)
        seconds.append(time.monotonic() - started)
    return {"form": form, "length": length, "peak_bytes": peak.grown(), "tokens_per_second": round(length / min(seconds))}


def measure(heads, head_dim, causal, lengths, device):
    forms = _forms(causal, torch.full((heads,), 0.5, device=device, requires_grad=True))
    rows = []
    for form, call in forms.items():
        _row(form, call, heads, head_dim, causal, 64, device)  # what is loaded once does not count
        for length in lengths:
            if form != SCORES or 4 * heads * length * length <= MOST_SCORES:
                rows.append(_row(form, call, heads, head_dim, causal, length, device))
    return rows


def in_child(heads, head_dim, causal, lengths, device):
    """measure() in a process that has held nothing else, with a C library that gives freed blocks back."""
    arguments = [heads, head_dim, int(causal), device, *lengths]
    environment = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "16384"}
    child = subprocess.run([sys.executable, __file__, *map(str, arguments)], env={**os.environ, **environment}, capture_output=True,
                           text=True)
    if child.returncode != 0:
        raise RuntimeError(f"the measurement of attention failed:\n{child.stderr[-2000:]}")
    return json.loads(child.stdout)


def show(rows):
    """A table: a line for each length, the forms side by side."""
    forms = list(dict.fromkeys(row["form"] for row in rows))
    cell = {(row["form"], row["length"]): row for row in rows}
    print("attention alone, forward and backward of one sequence: peak memory beside q, k, v, and characters per second")
    print(f"{'length':>8}" + "".join(f"{form:>26}" for form in forms))
    for length in dict.fromkeys(row["length"] for row in rows):
        line = f"{length:8,}"
        for form in forms:
            row = cell.get((form, length))
            memory = "" if row is None or row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.1f} MiB"
            line += f"{'-':>26}" if row is None else f"{memory:>13}{row['tokens_per_second']:>11,}/s"
        print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("heads", "head_dim", "causal"):
        parser.add_argument(name, type=int)
    parser.add_argument("device")
    parser.add_argument("lengths", type=int, nargs="+")
    chosen = parser.parse_args()
    json.dump(measure(chosen.heads, chosen.head_dim, bool(chosen.causal), chosen.lengths, chosen.device), sys.stdout)


if __name__ == "__main__":
    main()
