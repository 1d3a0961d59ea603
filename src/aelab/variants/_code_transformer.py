"""Learned prior over the codes of a VQ-VAE: p(k) = Π_i p(k_i | k_1 … k_{i−1}) in raster order.

The prior is trained after the autoencoder and then replaces the uniform prior (van den Oord et al. 2017, section 3.3).
The paper uses a PixelCNN. Here the prior is a causal transformer (Vaswani et al. 2017) with pre-norm.

Dimensions: B batch, (h, w) latent grid, L = h·w positions, K codes, d width.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aelab.core.progress import counted
from aelab.models.base import Batch, Learner, Losses


class CausalPrior(Learner):
    """A distribution over grids of codes: at each position a softmax over all codes, given only the earlier codes."""

    def __init__(self, grid: tuple[int, int], codes: int, *, width: int, layers: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            msg = f"the prior's width {width} must be a multiple of heads, {heads}"
            raise ValueError(msg)
        self.grid = grid
        self.start = codes  # index of the start symbol before the first code
        self.embedding = nn.Embedding(codes + 1, width)
        self.position = nn.Parameter(torch.empty(grid[0] * grid[1], width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codes)
        for table in (self.embedding.weight, self.position):
            nn.init.normal_(table, std=0.02)

    def forward(self, codes: Tensor) -> Tensor:
        """Compute the logits of the code at each position, given all earlier codes: (B, L) → (B, L, K)."""
        before = F.pad(codes[:, :-1], (1, 0), value=self.start)
        hidden = self.embedding(before) + self.position[: codes.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden)).float()

    def nll(self, indices: Tensor) -> Tensor:
        """Compute −log p(k) in nats per image: (B, h, w) → (B,)."""
        codes = indices.flatten(1)
        # The logits are (B·L, K) and not (B, K, L), because a softmax over contiguous memory is several times faster.
        return F.cross_entropy(self(codes).flatten(0, 1), codes.flatten(), reduction="none").view_as(codes).sum(1)

    def loss(self, batch: Batch) -> Losses:
        """Compute the mean of −log p(k) in nats per image. The batch's targets are the codes k."""
        return {"loss": self.nll(batch.targets).mean()}

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` grids code by code, (count, h, w). The keys and values of the earlier codes are stored."""
        length = len(self.position)
        codes = torch.full((count, length + 1), self.start, device=self.position.device)
        blocks = cast("list[Block]", list(self.blocks))
        memories = [block.memory(count, length) for block in blocks]
        for i in counted(range(length)):
            hidden = self.embedding(codes[:, i : i + 1]) + self.position[i]
            for block, memory in zip(blocks, memories, strict=True):
                hidden = block.next(hidden, memory, i)
            codes[:, i + 1] = draw(self.head(self.norm(hidden)).float()[:, 0], generator)
        return codes[:, 1:].reshape(count, *self.grid)


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one index for each row of `logits`, (B, K) → (B,).

    The index is the first whose cumulative probability exceeds a uniform number. `torch.multinomial` would draw K
    random numbers for each row and take a third of the sampling time.
    """
    cumulative = logits.softmax(1).cumsum(1)
    uniform = torch.rand(len(logits), 1, generator=generator, device=logits.device)
    chosen = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return chosen[:, 0].clamp(max=logits.shape[1] - 1)


class Block(nn.Module):
    """Causal self-attention, then a two-layer perceptron, each with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, d) → (B, L, d)."""
        query, key, value = self._query_key_value(x)
        return self._add(x, F.scaled_dot_product_attention(query, key, value, is_causal=True))

    def memory(self, batch: int, length: int) -> Tensor:
        """Allocate memory for the keys and values of `length` positions, (2, B, heads, L, d/heads)."""
        width = self.out.in_features
        return self.out.weight.new_zeros(2, batch, self.heads, length, width // self.heads)

    def next(self, x: Tensor, memory: Tensor, i: int) -> Tensor:
        """Map only position i, (B, 1, d) → (B, 1, d), and store its key and value in `memory`.

        `memory` must have the keys and values of all earlier positions.
        """
        query, key, value = self._query_key_value(x)
        memory[0, :, :, i], memory[1, :, :, i] = key[:, :, 0], value[:, :, 0]
        keys, values = memory[:, :, :, : i + 1]
        return self._add(x, F.scaled_dot_product_attention(query, keys, values, is_causal=False))

    def _query_key_value(self, x: Tensor) -> Tensor:
        """Compute queries, keys and values: (B, L, d) → (3, B, heads, L, d/heads)."""
        qkv = self.qkv(self.attention_norm(x))  # (B, L, 3·d)
        return qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def _add(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's output, (B, heads, L, d/heads), to x, (B, L, d), and then add the perceptron's output."""
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x)
