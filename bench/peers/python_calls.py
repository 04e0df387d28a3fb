#!/usr/bin/env python3
"""What a call costs through Python (examples/python/cottention), beside the same call from C++ and beside PyTorch's own forms.

    ./run python calls             every shape; the result goes to build/python/calls.json
    ./run python calls --rounds 9  fewer rounds

Variants take turns, a few milliseconds at a time, and the fastest turn of each counts, so that whatever else the machine does
disturbs all of them alike. "C++" is the compiled call itself on tensors that stay where they are, timed by a loop in C. "autograd"
is a torch.autograd.Function of as many tensors that computes nothing: what PyTorch asks for gradients through any such function.
"""
import argparse
import ctypes
import datetime
import pathlib
import shlex
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples" / "python"), str(ROOT / "bench" / "peers"), str(ROOT / "bench" / "report")]

import torch  # noqa: E402

import compilation  # noqa: E402
import files  # noqa: E402
import forms  # noqa: E402
import training  # noqa: E402
from cottention import attention, native  # noqa: E402
from cottention import compile as compiler  # noqa: E402

SHAPES = ((1, 4, 16, 32), (1, 16, 1024, 64))  # batch, heads, length, dim
TURN_SECONDS = 0.01
LOOP = """
#include <time.h>
typedef int (*Call)(const void*);
double seconds(long count, Call first, const void* a, Call second, const void* b) {
  struct timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  for (long i = 0; i < count; ++i) {
    if (first(a) != 0 || (second && second(b) != 0)) return -1;
  }
  clock_gettime(CLOCK_MONOTONIC, &to);
  return (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
}
"""


def loop_in_c():
    with tempfile.TemporaryDirectory() as folder:
        library = pathlib.Path(folder) / "loop.so"
        command = [*shlex.split(compiler.host_compiler()), "-O1", "-fPIC", "-shared", "-x", "c", "-", "-o", library]
        subprocess.run(command, input=LOOP, text=True, check=True)
        loop = ctypes.CDLL(str(library)).seconds
    loop.restype = ctypes.c_double
    loop.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_char_p]
    return loop


class Packed:
    """What Python passes to the library in a call, kept."""

    def __init__(self):
        self.pack, self.calls = native._pack, []

    def __enter__(self):
        native._pack = self
        return self.calls

    def __call__(self, *fields):
        self.calls.append(self.pack(*fields))
        return self.calls[-1]

    def __exit__(self, *_):
        native._pack = self.pack


def cpp(inputs):
    """{pass: function of a count that gives seconds}: forward and backward on tensors that stay."""
    q, k, v, m, dout = inputs
    with Packed() as calls:
        o = attention(q, k, v, m, causal=True)
        torch.autograd.grad(o, (q, k, v, m), dout)
    kept = {name: torch.empty_like(x) for name, x in (("o", o), ("dq", q), ("dk", k), ("dv", v), ("dscale_logit", m))}
    arguments = []
    for call in calls:
        fields = list(struct.unpack(f"{len(call) // 8}q", call))
        for name, x in {**kept, "dout": dout}.items():
            if fields[native.PLACE[name]] != 0:
                fields[native.PLACE[name]] = x.data_ptr()
        arguments.append(struct.pack(f"{len(fields)}q", *fields))
    forward, backward = (ctypes.cast(compiler.library(name, "fp32", "causal", "by_key").cottention_call, ctypes.c_void_p)
                         for name in ("forward", "backward"))
    loop = loop_in_c()

    def timed(*called):
        def run(count):
            seconds = loop(count, *called)
            if seconds < 0:
                raise RuntimeError("the call is refused")
            return seconds

        run.needs = (arguments, kept, inputs)  # alive as long as the addresses are used
        return run

    return {"forward": timed(forward, arguments[0], None, None), "forward_backward": timed(forward, arguments[0], backward, arguments[1])}


class _Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, m):
        ctx.save_for_backward(q, k, v, m)
        return torch.empty_like(q)

    @staticmethod
    def backward(ctx, dout):
        return tuple(map(torch.empty_like, ctx.saved_tensors))


def repeated(call):
    def run(count):
        started = time.perf_counter()
        for _ in range(count):
            call()
        return time.perf_counter() - started

    return run


def variants(shape):
    """{pass: {variant: function of a count that gives seconds}}."""
    q, k, v, dout, m = forms.make_inputs(shape)
    q, k, v, m = (x.requires_grad_() for x in (q, k, v, m))
    o = attention(q, k, v, m, causal=True)
    forms.check_output("quadratic", o.detach(), (q.detach(), k.detach(), v.detach(), dout, m.detach()))
    n, chunk = forms.counts(shape[2], torch.float32), min(64, shape[2])
    functions = {"Python": lambda: attention(q, k, v, m, causal=True),
                 "autograd": lambda: _Nothing.apply(q, k, v, m),
                 "softmax": lambda: forms.softmax_sdpa(q, k, v, m),
                 "chunked": lambda: forms.chunked_at_once(q, k, v, m, n, chunk)}
    if not compilation.why_not():
        chunked = compilation.compiled(lambda q, k, v, m: forms.chunked_at_once(q, k, v, m, n, chunk))
        functions["chunked, compiled"] = lambda: chunked(q, k, v, m)

    def forward(function):
        def call():
            with torch.no_grad():
                return function()
        return call

    def both(name, function):
        leaves = (q, k, v) if name == "softmax" else (q, k, v, m)
        return lambda: torch.autograd.grad(function(), leaves, dout)

    found = {"forward": {}, "forward_backward": {}}
    for name, function in functions.items():
        if name != "autograd":
            found["forward"][name] = repeated(forward(function))
        found["forward_backward"][name] = repeated(both(name, function))
    for which, run in cpp((q, k, v, m, dout)).items():
        found[which]["C++"] = run
    return found


def measure(runs, rounds):
    """{variant: seconds a call of each round}."""
    counts = {}
    for name, run in runs.items():
        run(1)
        counts[name] = max(1, min(2000, int(TURN_SECONDS / max(run(2) / 2, 1e-7))))
    seconds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(run(counts[name]) / counts[name])
    return seconds


def row(shape, which, seconds):
    us = {name: {"fastest": 1e6 * min(times), "median": 1e6 * statistics.median(times)} for name, times in seconds.items()}
    fastest = {name: both["fastest"] for name, both in us.items()}
    beyond = fastest["C++"] + fastest.get("autograd", 0.0)
    return {"row": f"{which}/{'x'.join(map(str, shape))}", "microseconds": us, "us_more": fastest["Python"] - beyond,
            "times": fastest["Python"] / fastest["C++"]}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, metavar="N", help="turns of each variant (60)")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "build" / "python" / "calls.json", metavar="FILE")
    chosen = parser.parse_args(arguments)
    result = {"what": "calls", "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
              "machine": training.machine("cpu"), "rounds": chosen.rounds, "calls": []}
    for shape in SHAPES:
        for which, runs in variants(shape).items():
            found = row(shape, which, measure(runs, chosen.rounds))
            result["calls"].append(found)
            print(f"{found['row']}: " + ", ".join(f"{name} {us['fastest']:,.1f}" for name, us in found["microseconds"].items())
                  + f" us; Python beyond C++{' and autograd' if 'autograd' in found['microseconds'] else ''} {found['us_more']:.1f} us, "
                  f"{found['times']:.2f} times C++", flush=True)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    files.save(chosen.json, result)
    print(f"result {chosen.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
