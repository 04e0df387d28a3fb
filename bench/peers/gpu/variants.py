"""What peers compute, and with what: each of peers.py's variants as a function of q, k, v and m."""
import importlib
import importlib.metadata
import pathlib
import sys

import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).resolve().parent
# Carried along in the package; else where it comes from.
sys.path.insert(0, str(HERE if (HERE / "forms.py").exists() else HERE.parent))
if (HERE / "site").is_dir():
    sys.path.insert(0, str(HERE / "site"))  # flash-linear-attention, in the package
import forms  # noqa: E402

SCALE_LOGIT = 0.5  # m of every head, as in cottention_bench_gpu


def version_of(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def weighted(q, k, v, m, offsets=None):
    """Rows of unit length and values times their weights, which leaves linear attention; [batch, length, heads, dim]. offsets:
    where the sequences of a packed batch begin, each of which counts its own tokens."""
    starts = offsets or [0, q.shape[1]]
    n = torch.cat([torch.arange(1, b - a + 1, dtype=torch.float32, device=q.device) for a, b in zip(starts, starts[1:])])
    n = n.view(-1, 1, 1)
    return F.normalize(q, dim=-1), F.normalize(k, dim=-1), (v / n ** torch.sigmoid(m.view(-1, 1))).to(v.dtype)


def uneven_offsets(sequences, tokens):
    """Those of cottention_bench_gpu's packed batches."""
    lengths = [1.0 + 0.66 * x for x in forms.random_values(6, sequences).double().tolist()]
    total, at, offsets = sum(lengths), 0.0, []
    for length in lengths:
        offsets.append(int(at / total * tokens))
        at += length
    return [*offsets, tokens]


class Peer:
    """function(q, k, v, m) -> o. axes: the order of its tensors' axes. prepared: its inputs have gone through weighted().
    definition: the form of forms.definition() that its outputs are held against."""

    def __init__(self, function, axes, definition, prepared=False, scores=0, tokens=None):
        self.function, self.axes, self.definition, self.prepared = function, axes, definition, prepared
        self.scores, self.tokens = scores, tokens

    def refusal(self, call, shape, free):
        """Why it is not begun; None where it is."""
        needed = self.scores * (3 if call in ("forward", "prefill") else 6)
        if needed > 0.8 * free:
            return f"needs about {needed / 2**30:.0f} GiB for its scores, and {free / 2**30:.0f} are free"
        if self.tokens is not None and shape[2] > self.tokens:
            return f"a loop in Python, timed to {self.tokens} tokens"
        if self.tokens is not None and call != "forward":
            return "a loop in Python for inference"
        return None


def fla(name, row):
    """Also of packed batches, and of a sequence in pieces: the outputs of the pieces, then."""
    module = importlib.import_module("fla.ops.simple_gla" if "simple_gla" in name else "fla.ops.linear_attn")
    function = getattr(module, name)
    batch, heads, seq, _ = row["shape"]
    options = {"scale": 1.0}
    if "simple_gla" in name:
        # log of 1: no decay
        options["g"] = torch.zeros(1 if row["packed"] else batch, seq, heads, dtype=torch.float32, device=forms.DEVICE)
    else:
        options["normalize"] = False
    if row["packed"]:
        options["cu_seqlens"] = torch.tensor(uneven_offsets(batch, seq), dtype=torch.int64, device=forms.DEVICE)
    if not row["piece"]:
        return lambda q, k, v, m: function(q, k, v, **options)[0]
    gate = options.pop("g", None)

    def in_pieces(q, k, v, m):
        state, outputs = None, []
        for first in range(0, seq, row["piece"]):
            part = slice(first, first + row["piece"])
            gated = {} if gate is None else {"g": gate[:, part]}
            o, state = function(q[:, part], k[:, part], v[:, part], initial_state=state, output_final_state=True, **gated, **options)
            outputs.append(o)
        return outputs
    return in_pieces


def each_of(function, offsets):
    """A call for each sequence of a packed batch, [1, heads, tokens, dim]."""
    spans = list(zip(offsets, offsets[1:]))
    return lambda q, k, v, m: torch.cat([function(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], m) for a, b in spans if b > a], dim=2)


def sdpa(backend, causal):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    which = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
             "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}[backend]

    def run(q, k, v, m):
        with sdpa_kernel([which]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return run


def chunked(chunk, shape):
    n = forms.counts(shape[2], torch.float32)
    return lambda q, k, v, m: forms.chunked_at_once(q, k, v, m, n, chunk)


def find(variant, row):
    """The peer of that name for a row, as rows.parse() has it; raises where its library is missing."""
    causal = row["mask"] == "causal"
    family, _, rest = variant.partition(".")
    if row["call"] == "step":
        return Peer(fla_step() if family == "fla" else torch_step, "step", "step")
    if family == "fla":
        name, _, norms = rest.partition("+")
        function = fla(name, row)
        if norms:
            return Peer(lambda q, k, v, m: function(*weighted(q, k, v, m), m), "bshd", "quadratic")
        return Peer(function, "bshd", "quadratic", prepared=True)
    if row["packed"]:
        batch, heads, tokens, dim = row["shape"]
        offsets = uneven_offsets(batch, tokens)
        longest = max(b - a for a, b in zip(offsets, offsets[1:]))
        peer = of_torch(rest.removesuffix(".each"), causal, (1, heads, longest, dim))
        peer.function = each_of(peer.function, offsets)
        return peer
    return of_torch(rest, causal, row["shape"])


def of_torch(name, causal, shape):
    batch, heads, seq, _ = shape
    scores = 4 * batch * heads * seq * seq
    if name.startswith("sdpa."):
        backend = name.removeprefix("sdpa.")
        return Peer(sdpa(backend, causal), "bhsd", "softmax" if causal else "bidirectional softmax",
                    scores=scores if backend == "math" else 0)
    if name.startswith("chunked."):
        return Peer(chunked(int(name.split(".")[1]), shape), "bhsd", "quadratic")
    if name == "recurrent":
        return Peer(forms.recurrent, "bhsd", "quadratic", tokens=2048)
    if name == "bidirectional":
        return Peer(forms.bidirectional, "bhsd", "bidirectional")
    function, _ = forms.variants("quadratic", shape)["all heads at once"]
    return Peer(function, "bhsd", "quadratic", scores=scores)


# Decoding: function(q, k, v, m, state, count) -> o, with q, k and v [batch, tokens, heads, dim].


def fla_step():
    from fla.ops.linear_attn import fused_recurrent_linear_attn

    def step(q, k, v, m, state, count):
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        v = (v / count ** torch.sigmoid(m.view(-1, 1))).to(v.dtype)
        return fused_recurrent_linear_attn(q, k, v, scale=1.0, initial_state=state, output_final_state=True, normalize=False)[0]
    return step


def torch_step(q, k, v, m, state, count):
    q, k = F.normalize(q[:, 0], dim=-1).to(state.dtype), F.normalize(k[:, 0], dim=-1).to(state.dtype)
    state += k[..., None] * (v[:, 0] / count[:, 0] ** torch.sigmoid(m.view(-1, 1)))[..., None, :].to(state.dtype)
    return (q[..., None, :] @ state)[..., 0, :].to(v.dtype)[:, None]


class Work:
    """A peer's calls on `sets` sets of inputs: those of cottention_bench_gpu."""

    def __init__(self, peer, row, dtype, sets):
        call, (batch, heads, seq, dim) = row["call"], row["shape"]
        self.peer, self.which = peer, call
        self.shape = (1 if row["packed"] else batch, heads, seq, dim)
        self.offsets = uneven_offsets(batch, seq) if row["packed"] else None
        self.m = torch.full((heads, 1, 1), SCALE_LOGIT, device=forms.DEVICE)
        self.inputs = []
        for i in range(sets):
            self.inputs.append(self.step_inputs(dtype) if call == "step" else self.row_inputs(dtype, 4 * i))
        self.error_of = "dq, dk, dv" if call in ("backward", "forward_and_backward") and not peer.prepared else "o"
        if call == "backward":
            self.outputs = [peer.function(*leaves, m) for leaves, m, _ in self.inputs]

    def row_inputs(self, dtype, seed):
        batch, heads, seq, dim = self.shape
        rows = [forms.random_values(seed + i, batch * seq * heads * dim).view(batch, seq, heads, dim).to(dtype) for i in (1, 2, 3, 4)]
        if self.peer.prepared:
            rows[:3] = weighted(*rows[:3], self.m, self.offsets)
        if self.peer.axes == "bhsd":
            rows = [x.transpose(1, 2).contiguous() for x in rows]
        train = self.which in ("backward", "forward_and_backward")
        return [x.detach().requires_grad_(train) for x in rows[:3]], self.m.clone().requires_grad_(train), rows[3]

    def step_inputs(self, dtype):
        batch, heads, seq, dim = self.shape
        rows = [forms.random_values(i, batch * seq * heads * dim).view(batch, seq, heads, dim).to(dtype) for i in (1, 2, 3)]
        state = forms.random_values(4, batch * heads * dim * dim).view(batch, heads, dim, dim)
        count = torch.full((batch, 1, 1, 1), 1001.0, device=forms.DEVICE)
        return rows, state.to(torch.float64 if dtype == torch.float64 else torch.float32), count

    def call(self, i):
        if self.which == "step":
            rows, state, count = self.inputs[i]
            with torch.no_grad():
                return self.peer.function(*rows, self.m, state, count)
        leaves, m, g = self.inputs[i]
        if self.which in ("forward", "prefill"):
            with torch.no_grad():
                return self.peer.function(*leaves, m)
        o = self.outputs[i] if self.which == "backward" else self.peer.function(*leaves, m)
        # softmax has no m, and prepared inputs have met theirs already
        wanted = leaves if self.peer.prepared or "softmax" in self.peer.definition else [*leaves, m]
        return torch.autograd.grad(o, wanted, g, retain_graph=self.which == "backward")

    def heads_first(self, x):
        return x.transpose(1, 2) if self.peer.axes == "bshd" else x

    def error(self):
        """Of the first set's result; None where nothing says what it should be."""
        if self.which == "step":
            return self.step_error()
        softmax = "softmax" in self.peer.definition
        if softmax and self.error_of != "o":
            return None
        plain = Work.row_inputs(self, self.inputs[0][2].dtype, 0) if not self.peer.prepared else self.unprepared()
        q, k, v = (self.heads_first(x.detach()) for x in plain[0])
        g = self.heads_first(plain[2])
        if self.error_of == "o":
            with torch.no_grad():
                o = self.peer.function(*self.inputs[0][0], self.inputs[0][1])
            results = [self.heads_first(torch.cat(o, dim=1) if isinstance(o, list) else o)]
        else:
            results = [self.heads_first(x) for x in self.call(0)[:3]]
        return max(self.error_within(first, last, (q, k, v, g), results) for first, last in self.compared_sequences())

    def compared_sequences(self):
        """Where they begin and end on the token axis: of a packed batch the first, the middle one and the last."""
        if self.offsets is None:
            return [(0, self.shape[2])]
        count = len(self.offsets) - 1
        return [(self.offsets[i], self.offsets[i + 1]) for i in sorted({0, count // 2, count - 1})]

    def error_within(self, first, last, inputs, results):
        q, k, v, g = (x[:, :, first:last] for x in inputs)
        heads, rows = forms.compared(q)
        q, k, v, g = (x[:, heads] for x in (q, k, v, g))
        if self.error_of == "o":
            exact = [forms.definition(self.peer.definition, q, k, v, self.m[heads], rows)]
        else:
            exact = forms.gradient_rows(self.peer.definition, q, k, v, g, self.m[heads], rows)
        return max(forms.relative_error(x[:, heads, first:last][:, :, rows], y) for x, y in zip(results, exact))

    def unprepared(self):
        """The inputs before weighted()."""
        raw = Peer(self.peer.function, self.peer.axes, self.peer.definition)
        prepared, self.peer = self.peer, raw
        try:
            return self.row_inputs(self.inputs[0][2].dtype, 0)
        finally:
            self.peer = prepared

    def step_error(self):
        rows, state, count = self.inputs[0]
        q, k, v = (x[:, 0].double() for x in rows)
        after = state.double() + (k / k.norm(dim=-1, keepdim=True))[..., None] * (
            v * count[:, 0].double() ** -torch.sigmoid(self.m.double().view(-1, 1)))[..., None, :]
        exact = ((q / q.norm(dim=-1, keepdim=True))[..., None, :] @ after)[..., 0, :]
        return forms.relative_error(self.peer.function(*rows, self.m, state.clone(), count)[:, 0], exact)
