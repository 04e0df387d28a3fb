#!/usr/bin/env python3
"""PyTorch as a peer: what the same attention costs there on the CPU, in fp32 and bf16, eager and compiled.

    pytorch_peers.py                       time every form at shapes A to C and print a table
    pytorch_peers.py --shapes A,4x16x128x256 --forms quadratic,chunked --passes forward --elements bf16 --compile
    pytorch_peers.py --check               only compare every form with the definition
    pytorch_peers.py --serve               answer requests, one JSON object a line (bench/cpu/run.py asks)

Forms:
    quadratic      cosine attention as the authors write it for causal models: normalise, Q K^T, mask, times V n^-sigmoid(m)
    bidirectional  as the authors write it for encoders: Q (K^T V); for short sequences also (Q K^T) V
    recurrent      the authors' inference: token by token, with the state in fp64
    chunked        linear attention in chunks of 64 or 128 tokens, from torch's matrix products
    softmax        torch's own attention (scaled_dot_product_attention where there is one), causal, and bidirectional_softmax:
                   another function, softmax(Q K^T / sqrt(dim)) V, which is here because it is what most use
    step           one decoding step of many sequences

A form with several ways to write it is timed in each, in bf16 also with its arithmetic in fp32. With --compile the fastest
of those without loops is timed as torch.compile makes it for the shape, too; compiling is timed apart. The fastest one
counts. Tensors are contiguous [batch, heads, seq, dim], which torch likes best, and masks and counts are prepared outside
the timed part. No form is timed before its output, and its gradients where it has any, agree with the definition in fp64;
gradients of softmax do so at 256 tokens, and compiled they are held against the eager ones.
"""
import argparse
import ctypes
import functools
import gc
import itertools
import json
import math
import os
import statistics
import sys

import torch

import compilation
from compilation import COMPILED
from forms import (BOUND, FORMS, IN_FP32, TRAINABLE, check_definition, check_gradient_rows, check_gradients,
                   check_output, compilable, make_inputs, relative_error, variants, variants_of_element)
from libraries import information
from step import time_step
from timing import SLOW_SECONDS, measure, timed, try_calls

SHAPES = {  # batch, heads, length, dim
    "A": (1, 12, 512, 64),
    "B": (1, 16, 1024, 64),
    "C": (1, 16, 4096, 64),
    "D": (1, 16, 16384, 64),
    "E": (2, 8, 2048, 128),
}
TOO_SLOW_SECONDS = 30.0  # one that would be slower than this is not begun
ELEMENTS = {"fp32": torch.float32, "bf16": torch.bfloat16}


# Timing.


def available_bytes():
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def train(function, q, k, v, m, dout, form):
    """Forward and backward; heads that are computed one by one are also differentiated one by one."""
    single = getattr(function, "single_head", None)
    pieces = [slice(h, h + 1) for h in range(q.shape[1])] if single else [slice(None)]
    gradients = []
    for piece in pieces:
        leaves = [x[:, piece].detach().requires_grad_() for x in (q, k, v)] + [m[piece].detach().requires_grad_()]
        o = (single or function)(*leaves)
        gradients.append(torch.autograd.grad(o, leaves[:3] if form.endswith("softmax") else leaves, dout[:, piece]))
    return [torch.cat(parts, dim=1) for parts in list(zip(*gradients))[:3]]


def witness(x):
    """Weighted sum over three positions and the sum of magnitudes, as add_witness() in attention.hpp."""
    seq, dim = x.shape[-2:]
    rows = x[:, :, [0, seq // 2, seq - 1]].double() * (1 + torch.arange(dim, dtype=torch.float64) / dim)
    return {"sum": rows.sum().item(), "magnitude": rows.abs().sum().item()}


def expected_seconds(form, which, shape):
    """About how long a form takes, from below: quadratic ones at a good speed for PyTorch on a few cores, loops by their tokens
    or, where states are large, by moving those."""
    batch, heads, seq, dim = shape
    forward = {"quadratic": 4.0 * batch * heads * seq * seq * dim / 1e11, "softmax": 4.0 * batch * heads * seq * seq * dim / 1e11,
               "recurrent": seq * max(6e-5, batch * heads * dim * dim * 16 / 2e10)}.get(form, 0.0)
    return forward * (1 if which == "forward" else 3)


@functools.cache
def emulates_bf16():
    """Whether products of bf16 are many times slower here than those of fp32, as on processors without such arithmetic."""
    seconds = {}
    for element, dtype in ELEMENTS.items():
        x = torch.ones(256, 256, dtype=dtype)
        seconds[element] = min(timed(lambda: x @ x)[0] for _ in range(5))
    return seconds["bf16"] > 4 * seconds["fp32"]


class Form:
    """One form at one shape: its calls, and that they compute what they should. `which` is 'forward' or 'forward_backward'."""

    def __init__(self, form, which, shape, element):
        self.form, self.which, self.inputs = form, which, make_inputs(shape, ELEMENTS[element])
        batch, heads, seq, dim = shape
        self.products = 4 * batch * heads * seq * dim * (seq if form in ("quadratic", "softmax") else dim)  # operations, from below
        self.small = (min(shape[0], 2), 2, 256, shape[3])
        self.variants = variants_of_element(form, shape, ELEMENTS[element])
        self.right = set()  # variants whose gradients agree with the definition's at a small size
        self.errors = {}  # of o, or of dq, dk and dv

    def call_of(self, function):
        q, k, v, dout, m = self.inputs
        if self.which != "forward":
            return lambda: train(function, q, k, v, m, dout, self.form)

        def call():
            with torch.no_grad():
                return function(q, k, v, m)
        return call

    def check(self, name, result):
        """Against the definition in fp64, where there is one of the gradients."""
        if self.which == "forward":
            self.errors[name] = check_output(self.form, result, self.inputs)
        elif not self.form.endswith("softmax"):
            self.errors[name] = check_gradient_rows(self.form, result, self.inputs)

    def eager(self):
        """({name: call}, {name: why it was left out})."""
        needs = 3 if self.which == "forward" else 6  # score matrices alive at the peak, about
        calls, refused = {}, {}
        small = variants(self.form, self.small)
        for name, (function, scores) in self.variants.items():
            if needs * scores > 0.8 * available_bytes():
                refused[name] = f"needs about {needs * scores / 2**30:.0f} GiB, {available_bytes() / 2**30:.0f} GiB are free"
                continue
            if IN_FP32 not in name and self.inputs[0].dtype == torch.bfloat16 and self.products > 2e9 and emulates_bf16():
                refused[name] = "products of bf16 are emulated here, and would take seconds"
                continue
            calls[name] = self.call_of(function)
            written = name.removesuffix(IN_FP32)
            if self.which != "forward" and written not in self.right:
                check_gradients(self.form, small.get(written, self.variants[written])[0], self.small)  # m's too
                self.right.add(written)
            self.check(name, calls[name]())
        return calls, refused

    def compiled(self, name, eager):
        """(seconds of the call that compiles it, call), or (None, why there is none): it fails, or computes something else."""
        call = self.call_of(compilation.compiled(self.variants[name][0]))
        seconds, result = compilation.first_call(call)
        if seconds is None:
            return None, result
        try:
            self.check(name + COMPILED, result)
            if self.which != "forward":
                self.check_against(eager(), result)
        except ArithmeticError as error:
            return None, str(error)
        return seconds, call

    def check_against(self, eager, result):
        error = max(relative_error(x, y.double()) for x, y in zip(result, eager))
        if not error < 3 * BOUND[self.inputs[0].dtype]:
            raise ArithmeticError(f"gradients of '{self.form}', compiled, are off by {error:.1e} from the eager ones")


def time_form(form, which, shape, repetitions, element="fp32", compiling=False):
    """Times one form at one shape, in the fastest way to write it."""
    expected = expected_seconds(form, which, shape)
    if expected > TOO_SLOW_SECONDS:
        return {"skipped": f"would take {expected:.0f} s or more a call"}
    timed_form = Form(form, which, shape, element)
    calls, refused = timed_form.eager()
    if not calls:
        return {"skipped": "; ".join(f"{name}: {why}" for name, why in refused.items()) or f"no variant for length {shape[2]}"}
    trials, seconds_of = try_calls(calls), {}
    candidates = [name for name in calls if compilable(name) and trials[name] < SLOW_SECONDS / 2]
    if compiling and candidates:
        name = min(candidates, key=trials.get)
        seconds, call = timed_form.compiled(name, calls[name])
        name += COMPILED
        if seconds is None:
            refused[name] = call
        else:
            calls[name], seconds_of[name] = call, seconds
            trials.update(try_calls({name: call}))
    best, times = measure(calls, trials, repetitions)
    result = {"variant": best, "seconds": times, "trials": trials, "refused": refused, "compile_seconds": seconds_of}
    if best in timed_form.errors:
        result["error"] = timed_form.errors[best]
    if not form.endswith("softmax"):
        out = calls[best]()
        named = {"o": out} if which == "forward" else dict(zip(("dq", "dk", "dv"), out))
        result["witness"] = {name: witness(x) for name, x in named.items()}
    return result


# Memory.


def resident_bytes(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def forward_memory(form, shape):
    """How far resident memory rises during one forward call beside inputs and output, for the variant that needs least."""
    inputs = make_inputs(shape)
    q, k, v, _, m = inputs
    output = q.numel() * q.element_size()
    grown, refused = {}, {}
    with torch.no_grad():
        for name, (function, _) in variants(form, (1, 2, 256, shape[3])).items():
            function(q[:, :2, :256], k[:, :2, :256], v[:, :2, :256], m[:2])  # starts threads and touches the code
        for name, (function, scores) in variants(form, shape).items():
            if 3 * scores > 0.8 * available_bytes() or expected_seconds(form, "forward", shape) > TOO_SLOW_SECONDS:
                refused[name] = "too large or too slow"
                continue
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # what others have freed would not count as growth
            with open("/proc/self/clear_refs", "w") as peak:
                peak.write("5")
            before = resident_bytes("VmRSS")
            function(q, k, v, m)
            grown[name] = max(0, resident_bytes("VmHWM") - before - output)
    if not grown:
        return {"skipped": "; ".join(f"{name}: {why}" for name, why in refused.items())}
    best = min(grown, key=grown.get)
    return {"shape": list(shape), "variant": best, "peak_growth_bytes": grown[best], "trials": grown, "refused": refused}


def probe():
    """Seconds of a short mix, for choosing between settings of the environment."""
    with torch.no_grad():
        inputs = make_inputs(SHAPES["B"])
        q, k, v, _, m = inputs
        times = []
        for form, name in (("quadratic", "all heads at once"), ("chunked", "chunk 64, all at once")):
            function = variants(form, SHAPES["B"])[name][0]
            check_output(form, function(q, k, v, m), inputs)
            times.append(min(timed(lambda: function(q, k, v, m))[0] for _ in range(5)))
    return {**information(), "seconds": math.sqrt(times[0] * times[1])}


def answer(request, compiling):
    operation = request["operation"]
    if operation == "step":
        return time_step(request["batch"], request["heads"], request["dim"], request["repetitions"], compiling)
    if operation == "time":
        return time_form(request["form"], request["pass"], tuple(request["shape"]), request["repetitions"],
                         request.get("element", "fp32"), compiling)
    raise ValueError(f"unknown operation '{operation}'")


def serve(compiling):
    """One JSON request a line on standard input, one JSON answer a line on standard output."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print does not mix with the answers
    why_not = compilation.why_not() if compiling else "not asked for"  # one reason for all of the run
    print(json.dumps({**information(), "compile": why_not or "yes"}), file=out, flush=True)
    for line in sys.stdin:
        gc.collect()
        try:
            reply = answer(json.loads(line), not why_not)
        except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
            reply = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=out, flush=True)


def check_all():
    for form in FORMS:
        for shape in ((1, 3, 256, 64), (2, 2, 384, 128)):
            inputs = make_inputs(shape)
            q, k, v, _, m = inputs
            for name, (function, _) in variants(form, shape).items():
                error = check_output(form, function(q, k, v, m), inputs)
                print(f"{form:14} {name:30} {shape}  output {error:.1e}", end="")
                print(f"  gradients {check_gradients(form, function, shape):.1e}" if form in TRAINABLE else "")


def sizes(text):
    return tuple(int(n) for n in text.split("x"))


def in_words(result):
    """What time_form() found. Gradients of softmax are compared at 256 tokens alone, so they have no error of their own."""
    if "skipped" in result:
        return result["skipped"]
    error = f"error {result['error']:.0e}" if "error" in result else "gradients right at 256 tokens"
    compiling = "".join(f", {seconds:.0f} s to compile" for seconds in result["compile_seconds"].values())
    return f"{1e3 * statistics.median(result['seconds']):10.2f} ms  {result['variant']:32} {error}{compiling}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="A,B,C", help="of A to E, or as 4x16x128x256")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--passes", default="forward,forward_backward")
    parser.add_argument("--elements", default="fp32", help="of fp32 and bf16")
    parser.add_argument("--compile", action="store_true", help="torch.compile'd forms too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--memory", metavar="FORM", help="only tell what a forward call of FORM takes beside inputs and output")
    parser.add_argument("--shape", default="1x16x4096x64", help="for --memory")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    check_definition()
    if options.probe:
        return print(json.dumps(probe()))
    if options.memory:
        return print(json.dumps(forward_memory(options.memory, sizes(options.shape))))
    if options.serve:
        return serve(options.compile)
    if options.check:
        return check_all()
    why_not = compilation.why_not() if options.compile else "not asked for"
    print({**information(), "compile": why_not or "yes"})
    for shape, form, which, element in itertools.product(*(getattr(options, name).split(",") for name in (
            "shapes", "forms", "passes", "elements"))):
        if which == "forward" or form in TRAINABLE:
            size = SHAPES.get(shape) or sizes(shape)
            result = time_form(form, which, size, options.repetitions, element, not why_not)
            print(f"{shape} {form:21} {which:17} {element} {in_words(result)}", flush=True)


if __name__ == "__main__":
    main()
