"""A decoding step in PyTorch."""
import torch
import torch.nn.functional as F

import compilation
from compilation import COMPILED
from forms import SEEDS, make_inputs, random_values, relative_error
from timing import measure, try_calls


class Step:
    """One token for each of `batch` sequences: the authors' update with an fp64 state, the same in fp32 in place, and compiled."""

    def __init__(self, batch, heads, dim):
        self.shape, self.errors = (batch, heads, dim), {}
        self.q, self.k, self.v, _, self.m = make_inputs((batch, heads, 1, dim))
        self.start = random_values(SEEDS["state"], batch * heads * dim * dim).view(batch, heads, dim, dim)
        self.n = torch.arange(1001, 1001 + batch, dtype=torch.float32).view(batch, 1, 1, 1)
        q, k, v, n, m = (x.double() for x in (self.q, self.k, self.v, self.n, self.m))
        after = self.start.double() + (v * n ** -torch.sigmoid(m))[..., 0, :, None] * (k / k.norm(dim=-1, keepdim=True))
        self.reference = torch.einsum("bhed,bhd->bhe", after, q[:, :, 0] / q.norm(dim=-1)[:, :, :1])

    def rows(self, dtype):
        q, k = F.normalize(self.q, dim=-1).to(dtype), F.normalize(self.k, dim=-1).to(dtype)
        return q, k, (self.v / self.n ** torch.sigmoid(self.m)).to(dtype)

    def update(self, state):
        q, k, v = self.rows(state.dtype)
        state += v[..., 0, :, None] * k
        return (state @ q.transpose(-1, -2))[..., 0].float()

    def update_in_place(self, state):
        batch, heads, dim = self.shape
        q, k, v = self.rows(state.dtype)
        flat = state.view(-1, dim, dim)
        flat.baddbmm_(v.view(-1, dim, 1), k.view(-1, 1, dim))
        return torch.bmm(flat, q.view(-1, dim, 1)).view(batch, heads, dim)

    def call_of(self, name, function, dtype):
        """(seconds of the first call, call on a state of its own), or (None, why it failed)."""
        def call(state):
            with torch.no_grad():
                return function(state)
        seconds, result = compilation.first_call(lambda: call(self.start.to(dtype, copy=True)))
        if seconds is None:
            return None, result
        self.errors[name] = relative_error(result, self.reference)
        if not self.errors[name] < 1e-5:
            raise ArithmeticError(f"step, {name}, is off by {self.errors[name]:.1e} from the definition in fp64")
        state = self.start.to(dtype, copy=True)
        return seconds, lambda: call(state)


def time_step(batch, heads, dim, repetitions, compiling=False):
    step = Step(batch, heads, dim)
    wanted = {"fp64 state": (step.update, torch.float64), "fp32 state in place": (step.update_in_place, torch.float32)}
    if compiling:
        wanted["fp32 state" + COMPILED] = (compilation.compiled(step.update), torch.float32)
    calls, refused, seconds_of = {}, {}, {}
    for name, (function, dtype) in wanted.items():
        seconds, call = step.call_of(name, function, dtype)
        if seconds is None:
            refused[name] = call
            continue
        calls[name] = call
        if name.endswith(COMPILED):
            seconds_of[name] = seconds
    trials = try_calls(calls)
    best, times = measure(calls, trials, repetitions)
    return {"variant": best, "seconds": times, "trials": trials, "refused": refused, "compile_seconds": seconds_of,
            "error": step.errors[best]}
