"""Cosine attention as the authors' modules compute it, in plain PyTorch."""
import torch


def _normal(x):
    return torch.nn.functional.normalize(x, dim=-1)


def attention(q, k, v, norm_const, mask=None, causal=True):
    """Their parallel form. q, k, v [batch, heads, seq, dim]; norm_const has a number for each head; mask [batch, seq], bool."""
    seq = q.shape[-2]
    visible = torch.ones(1, 1, seq, dtype=q.dtype) if mask is None else mask[:, None, :].to(q.dtype)
    counts = (visible * (torch.ones(seq, seq, dtype=q.dtype).tril() if causal else 1)).sum(-1)[:, None, :, None]
    v = v / (counts ** norm_const.sigmoid().reshape(1, -1, 1, 1)).clamp(min=1)
    there = visible.transpose(-1, -2)[:, None] if mask is not None else 1
    weights = (_normal(q) * there) @ (_normal(k) * there).mT
    return (weights.tril() if causal else weights) @ (v * there)


def recurrent(q, k, v, norm_const, mask, past_kv, cur_s):
    """Their inference, token by token: (rows, past_KV [batch, heads, dim_v, dim_qk], cur_s). All tokens count, masked or not."""
    rows = []
    for t in range(q.shape[-2]):
        there = mask[:, None, t, None].to(q.dtype)
        weighted = v[:, :, t] / float(cur_s) ** norm_const.sigmoid().reshape(1, -1, 1)
        past_kv = past_kv + (weighted * there)[..., :, None] * (_normal(k[:, :, t]) * there)[..., None, :]
        rows.append((past_kv @ (_normal(q[:, :, t]) * there)[..., None]).squeeze(-1))
        cur_s += 1
    return torch.stack(rows, -2), past_kv, cur_s


def layer(module, x, mask=None, causal=True):
    """A CosineAttention in float64, by the formulas above. Heads of k and v are repeated where there are fewer."""
    heads = [p(x).unflatten(-1, (-1, module.head_dim)).transpose(1, 2) for p in (module.q_proj, module.k_proj, module.v_proj)]
    times = module.num_heads // module.num_kv_heads
    q, k, v = heads[0], *(rows.repeat_interleave(times, 1) for rows in heads[1:])
    out = attention(q, k, v, module.norm_const.repeat_interleave(times), mask, causal)
    return module.out_proj(out.transpose(1, 2).flatten(-2))
