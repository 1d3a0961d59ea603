"""A learned prior over the codes of a VQ-VAE: p(k) = Π_i p(k_i | k_1 … k_{i−1}) in raster order.

The autoencoder's uniform prior is replaced after training (van den Oord et al. 2017, section 3.3), here by a causal
transformer (Vaswani et al. 2017, pre-norm) instead of the paper's PixelCNN.

Dimensions: B batch, (h, w) latent grid, L = h·w positions, K codes, d width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoders.base import Learner, Losses


class CausalPrior(Learner):
    """A distribution over grids of codes that is normalised at every position and never looks ahead."""

    def __init__(self, grid: tuple[int, int], codes: int, *, width: int, layers: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            msg = f"the prior's width {width} must be a multiple of heads, {heads}"
            raise ValueError(msg)
        self.grid = grid
        self.start = codes  # the index that stands before the first code
        self.embedding = nn.Embedding(codes + 1, width)
        self.position = nn.Parameter(torch.empty(grid[0] * grid[1], width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codes)
        for table in (self.embedding.weight, self.position):
            nn.init.normal_(table, std=0.02)

    def forward(self, codes: Tensor) -> Tensor:
        """Logits of every code given those before it: (B, L) → (B, L, K)."""
        before = F.pad(codes[:, :-1], (1, 0), value=self.start)
        hidden = self.embedding(before) + self.position[: codes.shape[1]]
        return self.head(self.norm(self.blocks(hidden))).float()

    def nll(self, indices: Tensor) -> Tensor:
        """−log p(k) in nats per image: (B, h, w) → (B,)."""
        codes = indices.flatten(1)
        # A row per position, not (B, K, L): a softmax over neighbours in memory is several times faster.
        return F.cross_entropy(self(codes).flatten(0, 1), codes.flatten(), reduction="none").view_as(codes).sum(1)

    def loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Losses:  # noqa: ARG002
        """The rate of the codes `targets`, which are also the inputs."""
        return {"loss": self.nll(targets).mean()}

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` grids drawn code by code: (count, h, w)."""
        length = len(self.position)
        codes = torch.zeros(count, length, dtype=torch.int64, device=self.position.device)
        for i in range(length):
            probabilities = self(codes[:, : i + 1])[:, i].softmax(1)
            codes[:, i] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        return codes.view(count, *self.grid)


class Block(nn.Module):
    """Causal self-attention, then a two-layer perceptron, each added to its input: (B, L, d) → (B, L, d)."""

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
        """(B, L, d) → (B, L, d)."""
        qkv = self.qkv(self.attention_norm(x))  # (B, L, 3·d)
        query, key, value = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, d/heads) each
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x)
