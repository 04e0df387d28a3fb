"""A small transformer over characters: with cosine attention, or with softmax attention."""
import torch
import torch.nn.functional as F
from torch import nn

from cottention import CosineAttention

KINDS = ("cosine", "softmax")


class SoftmaxAttention(CosineAttention):
    """The same projections around PyTorch's own attention; there is no norm_const."""

    def __init__(self, embed_dim, num_heads, **options):
        super().__init__(embed_dim, num_heads, scale="none", **options)

    def forward(self, x, *, mask=None):
        q, k, v = (self._heads(project(x)).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj))
        visible = None if mask is None else mask[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=self.causal)
        return self.out_proj(out.transpose(1, 2).flatten(-2))


class ShortConvolution(nn.Module):
    """Each channel's weighted sum over `taps` neighbouring tokens: what tells a token from its neighbours in the order of the text.

    Causal: the token and those before it. Otherwise: as many on either side.
    """

    def __init__(self, dim, taps, causal):
        super().__init__()
        self.before = taps - 1 if causal else taps // 2
        self.after = taps - 1 - self.before
        weight = 0.3 * torch.randn(taps, dim)
        weight[self.before] += 1
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return self.over(F.pad(x, (0, 0, self.before, self.after)))

    def over(self, x):
        """Rows for x [batch, taps - 1 + seq, dim], the neighbours included."""
        seq = x.shape[1] - len(self.weight) + 1
        return sum(x[:, tap:tap + seq] * weight for tap, weight in enumerate(self.weight))


class Block(nn.Module):
    """Norm, convolution, attention and norm, and two layers with GELU; either half is added to its input."""

    def __init__(self, kind, dim, heads, taps, causal):
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.convolution = ShortConvolution(dim, taps, causal)
        self.attention = (CosineAttention if kind == "cosine" else SoftmaxAttention)(dim, heads, causal=causal, bias=False)
        # Sums over many keys grow with their count, averages do not: a norm helps cosine attention and hinders softmax.
        self.output_norm = nn.LayerNorm(dim) if kind == "cosine" else nn.Identity()
        self.hidden_norm = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def hidden(self, x):
        return self.down(F.gelu(self.up(self.hidden_norm(x))))

    def forward(self, x, mask):
        rows = self.attention_norm(x)
        if mask is not None:
            rows = rows * mask[..., None]  # the convolution of a last token finds zeros where the text has ended
        x = x + self.output_norm(self.attention(self.convolution(rows), mask=mask))
        return x + self.hidden(x)

    def step(self, x, state):
        recent, attention = state
        rows = torch.cat([recent, self.attention_norm(x)], dim=1)
        recent.copy_(rows[:, 1:])
        x = x + self.output_norm(self.attention.step(self.convolution.over(rows), attention))
        return x + self.hidden(x)


class LanguageModel(nn.Module):
    """[batch, seq] int64 characters to [batch, seq, vocabulary] logits."""

    def __init__(self, kind, vocabulary, *, dim, heads, layers, causal):
        super().__init__()
        self.taps, self.dim = (4 if causal else 5), dim
        self.embedding = nn.Embedding(vocabulary, dim)
        self.blocks = nn.ModuleList(Block(kind, dim, heads, self.taps, causal) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocabulary)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        with torch.no_grad():  # a block adds little at first, and every character is about as likely
            self.embedding.weight.mul_(0.5)
            self.head.weight.mul_(0.1)
            for block in self.blocks:
                (block.output_norm if kind == "cosine" else block.attention.out_proj).weight.mul_(0.3)
                block.down.weight.mul_(0.3)

    def forward(self, tokens, mask=None):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))

    def state(self, batch):
        """What step() remembers of `batch` sequences: for each block the last rows of its convolution and the state of its attention."""
        recent = self.embedding.weight.new_zeros(batch, self.taps - 1, self.dim)
        return [(recent.clone(), block.attention.state(batch)) for block in self.blocks]

    @torch.no_grad()
    def step(self, tokens, state):
        """[batch, 1] characters to [batch, 1, vocabulary] logits; `state` takes them up in place."""
        x = self.embedding(tokens)
        for block, of_block in zip(self.blocks, state):
            x = block.step(x, of_block)
        return self.head(self.norm(x))
