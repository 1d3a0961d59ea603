"""Statistics of what comes in batches, summed in float64."""

from collections.abc import Mapping
from typing import Self

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
        self.batches: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """Count `values`, shape (B,)."""
        self.batches.append(values.float())
        values = in_float64(values)
        self.sum = self.sum.to(values.device) + values.sum()
        self.count += len(values)

    @property
    def value(self) -> float:
        """The mean of all."""
        return self.sum.item() / self.count

    @property
    def each(self) -> Tensor:
        """All of them in the order in which they came, shape (N,), float32."""
        return torch.cat(self.batches)


class Measured(dict[str, float]):
    """Metrics by name; `images` has the value of each image, shape (N,), of those that are means over images.

    Where it has fewer values than there are images, they are those of evenly spread ones (`data.pairs.spread`).
    """

    def __init__(self, values: Mapping[str, float], images: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(values)
        self.images = dict(images or {})

    @classmethod
    def of(cls, means: Mapping[str, Mean]) -> "Measured":
        """Means, and what they are the means of."""
        return cls(
            {name: mean.value for name, mean in means.items()}, {name: mean.each for name, mean in means.items()}
        )

    def __ior__(self, other: Mapping[str, float]) -> Self:  # type: ignore[override, misc]
        """Add what else was measured."""
        self.update(other)
        self.images |= getattr(other, "images", {})
        return self

    def renamed(self, names: Mapping[str, str | None]) -> "Measured":
        """The same under other names; without those whose other name is None."""
        new = {name: names.get(name, name) for name in {**self, **self.images}}
        kept = {name: other for name, other in new.items() if other is not None}
        return Measured(
            {kept[name]: value for name, value in self.items() if name in kept},
            {kept[name]: values for name, values in self.images.items() if name in kept},
        )


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
