"""Cosine attention as a module of PyTorch: docs/python.md."""
import torch
from torch import nn

from .functional import SCALES, State, attention, step


class DecodingState(State):
    """The recurrent state of a batch of sequences, as large after a million tokens as after one. attention() and step() take it."""

    __slots__ = ()

    @property
    def batch(self):
        return self.h.shape[0]

    def reset(self, rows=None):
        """Begins all sequences anew, or those that `rows` (indices or a bool mask) names; in place."""
        for x in self:
            if rows is None:
                x.zero_()
            else:
                x[rows] = 0
        return self

    def select(self, rows):
        """The state of the sequences `rows` (int64 indices), each as often as it is named: a beam search's survivors, in a new state."""
        return type(self)(*(x.index_select(0, torch.as_tensor(rows, device=x.device)) for x in self))

    def detach(self):
        """The same numbers, cut off from the gradients of what came before."""
        return type(self)(*(x.detach() for x in self))

    def clone(self):
        return type(self)(*(x.clone() for x in self))

    def to(self, device):
        """On that device. State keeps its type, since sums are in it."""
        if isinstance(device, torch.dtype):
            raise TypeError(f"to({device}): must be a device; a state is float32, or float64 for float64 rows")
        return type(self)(*(x.to(device) for x in self))


torch.serialization.add_safe_globals([State, DecodingState])  # so that torch.load takes them


def hide(mask, *rows):
    """Zeros where the mask is false: rows that add nothing where they are not masked, and count."""
    return [x.masked_fill(~mask, 0) for x in rows]


class CosineAttention(nn.Module):
    """Multi-head attention by cosines: projections, cottention.attention, projection.

    embed_dim     length of a row of the input and of the output
    num_heads     heads of q; each has `head_dim` numbers, embed_dim / num_heads where it is not given
    num_kv_heads  heads of k and v, a divisor of num_heads. None: num_heads
    causal        whether a token sees none of the later ones. step() and states need it
    scale         by_key, by_query or none: what the count of tokens does to a value, docs/math.md. With by_key and by_query
                  the module learns `norm_const`, one number for each head of k and v
    bias          whether the projections have one

    The projections are q_proj, k_proj, v_proj and out_proj.
    """

    def __init__(self, embed_dim, num_heads, *, num_kv_heads=None, head_dim=None, causal=True, scale="by_key", bias=True, norm_const=0.5,
                 device=None, dtype=None):
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1:
            raise ValueError(f"num_heads = {num_heads}: must be at least 1")
        if num_kv_heads < 1 or num_heads % num_kv_heads != 0:
            raise ValueError(f"num_kv_heads = {num_kv_heads}: must divide num_heads, {num_heads}")
        if head_dim is None and embed_dim % num_heads != 0:
            raise ValueError(f"embed_dim = {embed_dim}: must be a multiple of num_heads, {num_heads}, where head_dim is not given")
        head_dim = embed_dim // num_heads if head_dim is None else head_dim
        if scale not in SCALES:
            raise ValueError(f"scale = {scale!r}: must be one of {', '.join(SCALES)}")
        self.embed_dim, self.num_heads, self.num_kv_heads, self.head_dim = embed_dim, num_heads, num_kv_heads, head_dim
        self.causal, self.scale, self.first_norm_const = causal, scale, float(norm_const)
        made = {"bias": bias, "device": device, "dtype": dtype}
        self.q_proj = nn.Linear(embed_dim, num_heads * head_dim, **made)
        self.k_proj = nn.Linear(embed_dim, num_kv_heads * head_dim, **made)
        self.v_proj = nn.Linear(embed_dim, num_kv_heads * head_dim, **made)
        self.out_proj = nn.Linear(num_heads * head_dim, embed_dim, **made)
        if scale == "none":
            self.register_parameter("norm_const", None)
        else:
            self.norm_const = nn.Parameter(torch.empty(num_kv_heads, device=device, dtype=dtype))
            self.reset_parameters()

    def reset_parameters(self):
        """norm_const as it begins; the projections have functions of their own for that."""
        if self.norm_const is not None:
            nn.init.constant_(self.norm_const, self.first_norm_const)

    def extra_repr(self):
        return f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, causal={self.causal}, scale={self.scale}"

    def _heads(self, x):
        return x.unflatten(-1, (-1, self.head_dim))

    def forward(self, x, context=None, *, mask=None, context_mask=None, cu_seqlens=None, state=None, return_state=False,
                count_padding=False):
        """Rows like those of x, or (rows, DecodingState) with `return_state`, which step() goes on from.

        x             [batch, seq, embed_dim], or packed sequences [tokens, embed_dim] with `cu_seqlens` (attention()'s cu_seqlens_q)
        context       [batch, seq_k, embed_dim]: what keys and values are made of, unless causal. None: x
        mask          [batch, seq] or [tokens], bool, true at tokens and false at padding, which neither counts nor is seen;
                      what comes out there is the bias of out_proj
        context_mask  the same of `context`
        state         DecodingState of the tokens before x
        count_padding whether padding, still not seen, counts as tokens do: the authors' recurrent inference, docs/python.md
        """
        if x.dim() != (3 if cu_seqlens is None else 2):
            raise ValueError(f"x.shape = {tuple(x.shape)}: must be [batch, seq, embed_dim], or with cu_seqlens [tokens, embed_dim]")
        if context is None:
            if context_mask is not None:
                raise ValueError("context_mask is for a context, which is not given; mask is that of x")
            context, context_mask = x, mask
        elif self.causal:
            raise ValueError("context is for attention that is not causal")
        q, k, v = self._heads(self.q_proj(x)), self._heads(self.k_proj(context)), self._heads(self.v_proj(context))
        if count_padding and context_mask is not None:
            k, v = hide(context_mask[..., None, None], k, v)
            context_mask = None
        out = attention(q, k, v, self.norm_const, causal=self.causal, scale=self.scale, query_mask=mask, key_mask=context_mask,
                        cu_seqlens_q=cu_seqlens, initial_state=state, return_state=return_state, layout="bshd")
        if not return_state:
            return self.out_proj(out.flatten(-2))
        return self.out_proj(out[0].flatten(-2)), DecodingState(*out[1])

    def state(self, batch):
        """The state before the first token of `batch` sequences."""
        weight = self.k_proj.weight
        return DecodingState.zeros(batch, self.num_kv_heads, self.head_dim, self.head_dim, dtype=weight.dtype, device=weight.device)

    @torch.no_grad()
    def step(self, x, state, *, slot=None, accepted=None):
        """Rows for the next tokens x [batch, new tokens, embed_dim]; `state` takes them up in place. No gradients.

        slot      [batch], int32: which sequence of `state` each row of x continues; negative: none, a row that means nothing. None: its own
        accepted  [batch], int32: how many of the new tokens the state takes up. None: all
        """
        if not self.causal:
            raise ValueError("step() is for causal attention")
        if x.dim() != 3:
            raise ValueError(f"x.shape = {tuple(x.shape)}: must be [batch, new tokens, embed_dim]")
        out = step(self._heads(self.q_proj(x)), self._heads(self.k_proj(x)), self._heads(self.v_proj(x)), self.norm_const, state=state,
                   scale=self.scale, slot=slot, accepted=accepted, layout="bshd")
        return self.out_proj(out.flatten(-2))
