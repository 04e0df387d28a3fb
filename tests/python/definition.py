"""Cosine attention as docs/math.md defines it, in plain PyTorch, quadratic: what results are compared with."""
import torch

# Relative error of o, of the state, and of gradients: the accuracy that docs/math.md promises.
BOUNDS = {torch.float64: (1e-14, 1e-14, 1e-13), torch.float32: (1e-6, 1e-6, 3e-6), torch.float16: (4e-4, 2e-4, 1e-3),
          torch.bfloat16: (3e-3, 1.5e-3, 6e-3)}


def error(x, exact):
    """||x - exact|| / ||exact||; NaN stays NaN."""
    difference = (x.double() - exact.double()).norm()
    return (difference / exact.double().norm()).item() if exact.double().norm() > 0 else difference.item()


def norm(x):
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def attention(q, k, v, m=None, *, causal, scale="by_key", query_mask=None, key_mask=None, initial_state=None):
    """o and the final state, in the arithmetic of the tensors, [batch, heads, seq, dim]. m is [kv_heads], or terms_of() that."""
    batch, heads, seq_q, _ = q.shape
    kv_heads, seq_k = k.shape[1:3]
    present = torch.ones(batch, seq_k, dtype=torch.bool) if key_mask is None else key_mask.bool()
    h, before = (0, torch.zeros(batch, dtype=torch.int64)) if initial_state is None else initial_state
    counts = before[:, None] + (present.cumsum(1) if causal else present.sum(1, keepdim=True).expand(batch, seq_k))
    if not causal and seq_q != seq_k:
        query_counts = before[:, None] + present.sum(1, keepdim=True).expand(batch, seq_q)
    else:
        query_counts = counts
    if scale == "none" or m is None:
        key_weights = torch.ones(batch, kv_heads, seq_k, dtype=q.dtype)
        query_weights = torch.ones(batch, heads, seq_q, dtype=q.dtype)
    else:
        exponent = -torch.sigmoid(m.to(q.dtype)).reshape((1, kv_heads, 1) if m.dim() == 1 else m.shape)
        by = lambda n, e: n.clamp_min(1)[:, None, :].to(q.dtype) ** e
        ones = torch.ones((), dtype=q.dtype)
        key_weights = by(counts, exponent) if scale == "by_key" else ones.expand(batch, kv_heads, seq_k)
        query_weights = (by(query_counts, exponent.repeat_interleave(heads // kv_heads, 1)) if scale == "by_query"
                         else ones.expand(batch, heads, seq_q))
    values = v * key_weights[..., None]
    keys = norm(k)
    keys = torch.where(present[:, None, :, None], keys, torch.zeros((), dtype=q.dtype))
    values = torch.where(present[:, None, :, None], values, torch.zeros((), dtype=q.dtype))
    state = h + keys.mT @ values
    repeat = heads // kv_heads
    scores = norm(q) @ keys.repeat_interleave(repeat, 1).mT
    if causal:
        scores = scores.tril()
    o = scores @ values.repeat_interleave(repeat, 1)
    if initial_state is not None:
        o = o + norm(q) @ h.repeat_interleave(repeat, 1)
    o = o * query_weights[..., None]
    if query_mask is not None:
        o = torch.where(query_mask.bool()[:, None, :, None], o, torch.zeros((), dtype=q.dtype))
    return o, (state, before + present.sum(1))


def terms_of(m, k):
    """m in fp64 once for each position of k, [batch, kv_heads, seq_k]: gradients are then the terms that sum to that of m."""
    return m.detach().double()[None, :, None].expand(k.shape[:3]).clone().requires_grad_()


def doubles(*tensors):
    """In fp64, as leaves of their own."""
    return [None if x is None else x.detach().double().requires_grad_(x.requires_grad) for x in tensors]
