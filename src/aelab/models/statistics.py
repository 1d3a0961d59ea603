"""Statistics of what comes in batches, summed in float64."""

import torch
from torch import Tensor

from aelab.core.tensors import in_float64


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of how often each code is used, between 1 and K: `counts` (K,) over a whole data set."""
    counts = in_float64(counts)
    p = counts / counts.sum()
    return torch.special.entr(p).sum().exp().item()


class Mean:
    """The mean of numbers that come in batches, summed in float64."""

    def __init__(self) -> None:
        self.sum, self.count = torch.zeros((), dtype=torch.float64), 0

    def add(self, values: Tensor) -> None:
        """Count `values`, shape (B,)."""
        values = in_float64(values)
        self.sum = self.sum.to(values.device) + values.sum()
        self.count += len(values)

    @property
    def value(self) -> float:
        """The mean of all."""
        return self.sum.item() / self.count


class Variance:
    """The variance of each dimension of vectors that come in batches, summed in float64."""

    def __init__(self) -> None:
        self.sum = self.square = torch.zeros((), dtype=torch.float64)
        self.count = 0

    def add(self, vectors: Tensor) -> None:
        """Count `vectors`, shape (B, d)."""
        values = in_float64(vectors)
        self.sum = self.sum.to(values.device) + values.sum(0)
        self.square = self.square.to(values.device) + values.square().sum(0)
        self.count += len(values)

    @property
    def mean(self) -> Tensor:
        """The mean, shape (d,)."""
        return self.sum / self.count

    @property
    def value(self) -> Tensor:
        """The unbiased variance, shape (d,)."""
        return (self.square - self.sum.square() / self.count).clamp(min=0) / (self.count - 1)
