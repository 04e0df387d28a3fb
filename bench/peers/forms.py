"""The forms that PyTorch is timed in, their inputs, and the definition that each is held against."""
import math

import torch
import torch.nn.functional as F

SEEDS = {"q": 1, "k": 2, "v": 3, "dout": 4, "scale": 5, "state": 6}
DEVICE = torch.device("cpu")  # of everything that is made here; bench/peers/gpu/worker.py sets another


# Inputs: the numbers of random_value() in bench/cpu/support.hpp.


def random_values(seed, count):
    mask = 0xFFFFFFFF
    x = (torch.arange(count, dtype=torch.int64, device=DEVICE) + seed * 0x9E3779B9) & mask
    x ^= x >> 16
    x = (x * 0x85EBCA6B) & mask
    x ^= x >> 13
    x = (x * 0xC2B2AE35) & mask
    x ^= x >> 16
    return (x >> 8).to(torch.float32) * 2.0**-23 - 1.0


def make_inputs(shape, dtype=torch.float32):
    """q, k, v, dL/do as [batch, heads, seq, dim] and m as [heads, 1, 1], which is fp32 always."""
    batch, heads, seq, dim = shape
    rows = [random_values(SEEDS[name], batch * seq * heads * dim).view(batch, seq, heads, dim)
            .permute(0, 2, 1, 3).to(dtype).contiguous() for name in ("q", "k", "v", "dout")]
    m = 0.5 + 0.1 * random_values(SEEDS["scale"], heads)
    return rows[0], rows[1], rows[2], rows[3], m.view(heads, 1, 1)


# The forms. Each takes q, k, v, m and returns o.


def counts(seq, dtype):
    return torch.arange(1, seq + 1, dtype=dtype, device=DEVICE).view(seq, 1)


def quadratic(q, k, v, m, n, visible):
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    v = (v / n ** torch.sigmoid(m)).to(q.dtype)
    scores = torch.where(visible, q @ k.transpose(-1, -2), torch.zeros((), dtype=q.dtype, device=DEVICE))
    return scores @ v


def bidirectional(q, k, v, m):
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    v = (v / float(q.shape[-2]) ** torch.sigmoid(m)).to(q.dtype)
    return q @ (k.transpose(-1, -2) @ v)


def recurrent(q, k, v, m):
    batch, heads, seq, dim = q.shape
    q, k = F.normalize(q, dim=-1).double(), F.normalize(k, dim=-1).double()
    v = (v / counts(seq, m.dtype) ** torch.sigmoid(m)).double()
    state = torch.zeros(batch, heads, v.shape[-1], dim, dtype=torch.float64, device=DEVICE)  # [dim_v, dim_qk], as theirs
    o = torch.empty(batch, heads, seq, v.shape[-1], dtype=m.dtype, device=DEVICE)
    for t in range(seq):
        state += v[:, :, t, :, None] * k[:, :, t, None, :]
        o[:, :, t] = (state @ q[:, :, t, :, None])[..., 0]
    return o


def chunked_at_once(q, k, v, m, n, chunk):
    """Every chunk in one batch of products; the states before each chunk by a running sum, in fp32."""
    batch, heads, seq, dim = q.shape
    q = F.normalize(q, dim=-1).view(batch, heads, seq // chunk, chunk, dim)
    k = F.normalize(k, dim=-1).view(batch, heads, seq // chunk, chunk, dim)
    v = (v / n ** torch.sigmoid(m)).to(q.dtype).view(batch, heads, seq // chunk, chunk, -1)
    states = (k.transpose(-1, -2) @ v).float().cumsum(dim=2).to(q.dtype)
    states = F.pad(states[:, :, :-1], (0, 0, 0, 0, 1, 0))
    o = (q @ k.transpose(-1, -2)).tril() @ v + q @ states
    return o.view(batch, heads, seq, -1)


def chunked_in_turn(q, k, v, m, n, chunk):
    """Chunk after chunk, carrying the state, in fp32."""
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    v = (v / n ** torch.sigmoid(m)).to(q.dtype)
    state, pieces = 0.0, []
    for a, b, c in zip(*(x.split(chunk, dim=2) for x in (q, k, v))):  # the gradient of a slice would be a whole tensor
        inside = (a @ b.transpose(-1, -2)).tril() @ c
        pieces.append(inside + a @ state.to(q.dtype) if pieces else inside)
        state = state + (b.transpose(-1, -2) @ c).float()
    return torch.cat(pieces, dim=2)


def bidirectional_quadratic(q, k, v, m):
    """The same function as `bidirectional`, by scores: less work where sequences are shorter than heads are wide."""
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    v = (v / float(q.shape[-2]) ** torch.sigmoid(m)).to(q.dtype)
    return (q @ k.transpose(-1, -2)) @ v


def softmax_sdpa(q, k, v, m):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def bidirectional_sdpa(q, k, v, m):
    return F.scaled_dot_product_attention(q, k, v)


def softmax_plain(q, k, v, m, hidden):
    scores = (q @ k.transpose(-1, -2)) * (1.0 / math.sqrt(q.shape[-1])) + hidden
    return torch.softmax(scores, dim=-1).to(v.dtype) @ v


def head_by_head(function):
    """One head at a time, so that its scores stay small."""
    def run(q, k, v, m):
        return torch.cat([function(q[:, h:h + 1], k[:, h:h + 1], v[:, h:h + 1], m[h:h + 1])
                          for h in range(q.shape[1])], dim=1)
    run.single_head = function
    return run


def with_mask(make_mask, form):
    """The form with a mask of [seq, seq], made when a length first comes: where the form is refused, it would not fit."""
    made = {}

    def run(q, k, v, m):
        length = q.shape[-2]
        if length not in made:
            made[length] = make_mask(length)
        return form(q, k, v, m, made[length])
    return run


def variants(form, shape):
    """{name: function} of the ways to write a form, and the score matrices each holds at once: forward, training."""
    batch, heads, seq, dim = shape
    n = counts(seq, torch.float32)
    scores = batch * heads * seq * seq * 4
    if form.endswith("softmax") and hasattr(F, "scaled_dot_product_attention"):
        return {"scaled_dot_product_attention": (softmax_sdpa if form == "softmax" else bidirectional_sdpa, 0)}
    if form == "bidirectional":
        by_scores = {"(Q K^T) V": (bidirectional_quadratic, scores)}
        return {"K^T V": (bidirectional, 0), **(by_scores if seq <= 4 * dim else {})}
    if form == "recurrent":
        return {"fp64 state": (recurrent, 0)}
    if form == "chunked":
        return {f"chunk {c}, {how}": (lambda q, k, v, m, f=function, c=c: f(q, k, v, m, n, c), 0)
                for c in (64, 128) if seq % c == 0
                for how, function in (("all at once", chunked_at_once), ("in turn", chunked_in_turn))}
    if form == "quadratic":
        whole = with_mask(lambda length: torch.ones(length, length, dtype=torch.bool, device=DEVICE).tril(),
                          lambda q, k, v, m, visible: quadratic(q, k, v, m, n[:q.shape[-2]], visible))
    elif form == "softmax":
        whole = with_mask(lambda length: torch.full((length, length), -math.inf, device=DEVICE).triu(1), softmax_plain)
    else:
        whole = with_mask(lambda length: torch.zeros((), device=DEVICE), softmax_plain)
    mask = seq * seq * 4 // 3  # beside the scores, of which `needs` counts three or more
    return {"all heads at once": (whole, scores + mask), "head by head": (head_by_head(whole), scores // heads + mask)}


IN_FP32 = ", in fp32"


def in_fp32(function):
    """The form on rows of 16 bits that are converted first: faster where a processor has no such arithmetic."""
    def run(q, k, v, m):
        return function(q.float(), k.float(), v.float(), m).to(q.dtype)
    if hasattr(function, "single_head"):
        run.single_head = in_fp32(function.single_head)
    return run


def variants_of_element(form, shape, dtype):
    """variants(), and where rows are of 16 bits each of them in fp32 too."""
    found = variants(form, shape)
    if dtype == torch.float32:
        return found
    return {**{name + IN_FP32: (in_fp32(function), scores) for name, (function, scores) in found.items()}, **found}


def compilable(name):
    """Whether torch.compile is tried on a variant: not on loops over tokens, chunks or heads, which it would unroll."""
    return not any(loop in name for loop in (" state", "in turn", "head by head"))


FORMS = ("quadratic", "bidirectional", "recurrent", "chunked", "softmax", "bidirectional_softmax")
TRAINABLE = ("quadratic", "bidirectional", "chunked", "softmax", "bidirectional_softmax")


# The definition in fp64, by explicit sums, and what is compared with it.


def definition(form, q, k, v, m, rows=None):
    """Output rows `rows` (all when None) in fp64: o_i = sum over visible j of (norm q_i . norm k_j) n_j^-sigmoid(m) v_j."""
    q, k, v, m = (x.double() for x in (q, k, v, m))
    seq = q.shape[-2]
    at = torch.arange(seq, device=q.device)
    rows = at if rows is None else rows
    visible = at[None, :] <= rows[:, None]
    if form.endswith("softmax"):
        scores = torch.einsum("bhid,bhjd->bhij", q[:, :, rows], k) / math.sqrt(q.shape[-1])
        if form == "softmax":  # the other one is bidirectional
            scores = torch.where(visible, scores, torch.full_like(scores, -math.inf))
        return torch.einsum("bhij,bhje->bhie", scores.softmax(dim=-1), v)
    cosines = torch.einsum("bhid,bhjd->bhij", q[:, :, rows] / q[:, :, rows].norm(dim=-1, keepdim=True),
                           k / k.norm(dim=-1, keepdim=True))
    if form == "bidirectional":
        weight = torch.full_like(at, seq, dtype=torch.float64) ** -torch.sigmoid(m[..., 0])
    else:
        weight = (at + 1).double() ** -torch.sigmoid(m[..., 0])  # [heads, seq]
        cosines = cosines * visible
    return torch.einsum("bhij,hj,bhje->bhie", cosines, weight, v)


def check_definition():
    """Three tokens of one dimension, by hand: every cosine is a sign, token j weighs j^-1/2 when m = 0 (so sigmoid = 1/2)."""
    q = torch.tensor([2.0, -3.0, 0.5]).view(1, 1, 3, 1)
    k = torch.tensor([1.0, 4.0, -2.0]).view(1, 1, 3, 1)
    v = torch.tensor([10.0, 20.0, 30.0]).view(1, 1, 3, 1)
    m = torch.zeros(1, 1, 1)
    w = [1.0, 2.0**-0.5, 3.0**-0.5]
    causal = [10 * w[0], -(10 * w[0] + 20 * w[1]), 10 * w[0] + 20 * w[1] - 30 * w[2]]
    everything = (10 + 20 - 30) * w[2]
    expect = {"quadratic": causal, "bidirectional": [everything, -everything, everything]}
    for form, values in expect.items():
        error = (definition(form, q, k, v, m).flatten() - torch.tensor(values, dtype=torch.float64)).abs().max().item()
        if not error < 1e-12:
            raise SystemExit(f"the definition of '{form}' disagrees with the values computed by hand by {error:.1e}")


def through_norm(gradient, x):
    """The gradient with respect to x, from the one with respect to x / |x|."""
    length = x.norm(dim=-1, keepdim=True)
    unit = x / length
    return (gradient - (gradient * unit).sum(dim=-1, keepdim=True) * unit) / length


def gradient_rows(form, q, k, v, g, m, rows):
    """Rows `rows` of dq, dk and dv in fp64, by explicit sums; g is dL/do."""
    q, k, v, g, m = (x.double() for x in (q, k, v, g, m))
    at = torch.arange(q.shape[-2], device=q.device)
    n = torch.full_like(at, q.shape[-2]) if form == "bidirectional" else at + 1
    weight = n.double() ** -torch.sigmoid(m[..., 0])  # [heads, seq]
    before = (at[None, :] <= rows[:, None]) | (form == "bidirectional")
    after = (at[None, :] >= rows[:, None]) | (form == "bidirectional")
    unit_q, unit_k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)

    def sums(a, b, visible, c):
        return ((a[:, :, rows] @ b.transpose(-1, -2)) * visible) @ c
    own = weight[:, rows, None]
    return (through_norm(sums(g, v, before, weight[..., None] * unit_k), q[:, :, rows]),
            through_norm(own * sums(v, g, after, unit_q), k[:, :, rows]), own * sums(unit_k, unit_q, after, g))


def relative_error(x, reference):
    """Relative RMS error; infinite where anything is not a number."""
    error = ((x.double() - reference).norm() / reference.norm()).item()
    return error if math.isfinite(error) else math.inf


BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of a peer's error; what is further off computes something else


def compared(q):
    """Heads and rows that are compared with the definition, those of bench/cpu/definition.hpp."""
    heads, seq = q.shape[1], q.shape[-2]
    return (sorted({0, min(1, heads - 1), heads - 1}),
            torch.tensor(sorted({i for i in (0, 1, seq // 3, seq // 2, seq - 2, seq - 1) if 0 <= i < seq}), device=q.device))


def check_output(form, o, inputs):
    """Some rows of the first, second and last head against the definition."""
    q, k, v, _, m = inputs
    heads, rows = compared(q)
    reference = definition(form, q[:, heads], k[:, heads], v[:, heads], m[heads], rows)
    error = relative_error(o[:, heads][:, :, rows], reference)
    if not error < BOUND[q.dtype]:
        raise ArithmeticError(f"'{form}' is off by {error:.1e} from the definition in fp64")
    return error


def check_gradient_rows(form, gradients, inputs):
    """Likewise for dq, dk and dv: the largest of the three errors."""
    q, k, v, g, m = inputs
    heads, rows = compared(q)
    references = gradient_rows(form, *(x[:, heads] for x in (q, k, v, g)), m[heads], rows)
    error = max(relative_error(x[:, heads][:, :, rows], y) for x, y in zip(gradients, references))
    if not error < 3 * BOUND[q.dtype]:
        raise ArithmeticError(f"gradients of '{form}' are off by {error:.1e} from the definition in fp64")
    return error


def check_gradients(form, function, shape):
    """All gradients at a small size, against fp64 autograd through the definition."""
    inputs = make_inputs(shape)
    leaves = [x.clone().requires_grad_() for x in (*inputs[:3], inputs[4])]
    exact = [x.double().requires_grad_() for x in (*inputs[:3], inputs[4])]
    used = 3 if form.endswith("softmax") else 4
    got = torch.autograd.grad(function(*leaves), leaves[:used], inputs[3])
    want = torch.autograd.grad(definition(form, *exact), exact[:used], inputs[3].double())
    error = max(relative_error(x, y) for x, y in zip(got, want))
    if not error < 3e-5:
        raise ArithmeticError(f"gradients of '{form}' are off by {error:.1e} from the definition in fp64")
    return error
