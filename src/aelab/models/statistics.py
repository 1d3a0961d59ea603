"""Statistics of numbers that are added batch by batch. The sums are computed in float64."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from aelab.core.tensors import in_float64


def perplexity(counts: Tensor) -> float:
    """Perplexity of the codes, a number from 1 to K: exp(H), where H is the entropy of the codes' frequencies in nats.

    Args:
        counts: how often each of the K codes occurs in a whole data set, (K,).
    """
    counts = in_float64(counts)
    p = counts / counts.sum()
    return torch.special.entr(p).sum().exp().item()


class Mean:
    """Mean of numbers that are added batch by batch."""

    def __init__(self) -> None:
        self.sum, self.count = torch.zeros((), dtype=torch.float64), 0
        self.batches: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """Add the numbers of one batch, (B,)."""
        self.batches.append(values.float())
        values = in_float64(values)
        self.sum = self.sum.to(values.device) + values.sum()
        self.count += len(values)

    @property
    def value(self) -> float:
        """Mean of all added numbers."""
        return self.sum.item() / self.count

    @property
    def each(self) -> Tensor:
        """All added numbers in the order in which they were added, float32 (N,)."""
        return torch.cat(self.batches)


class Measured(dict[str, float]):
    """Metrics by name. For a metric that is a mean over images, the object also has the value of each image.

    Attributes:
        images: the values of single images, (N,), by the metric's name. A metric may have values for only some images,
            which are evenly spread over the split (`data.datasets.evenly`).
    """

    def __init__(self, values: Mapping[str, float], images: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(values)
        self.images = dict(images or {})

    @classmethod
    def of(cls, means: Mapping[str, Mean]) -> "Measured":
        """Make metrics from means over images, and keep the value of each image."""
        return cls(
            {name: mean.value for name, mean in means.items()}, {name: mean.each for name, mean in means.items()}
        )

    def __ior__(self, other: Mapping[str, float]) -> Self:  # type: ignore[override, misc]
        """Add the metrics of `other`, with the values of single images if `other` has them."""
        self.update(other)
        self.images |= getattr(other, "images", {})
        return self

    def renamed(self, names: Mapping[str, str | None]) -> "Measured":
        """Return a copy in which the metrics have other names.

        Args:
            names: the new name of a metric, by its old name. A metric whose new name is None is left out. A metric
                without a new name keeps its old name.
        """
        new = {name: names.get(name, name) for name in {**self, **self.images}}
        kept = {name: other for name, other in new.items() if other is not None}
        return Measured(
            {kept[name]: value for name, value in self.items() if name in kept},
            {kept[name]: values for name, values in self.images.items() if name in kept},
        )


class Variance:
    """Mean and variance of each dimension of vectors that are added batch by batch."""

    def __init__(self) -> None:
        self.sum = self.square = torch.zeros((), dtype=torch.float64)
        self.count = 0

    def add(self, vectors: Tensor) -> None:
        """Add the vectors of one batch, (B, d)."""
        values = in_float64(vectors)
        self.sum = self.sum.to(values.device) + values.sum(0)
        self.square = self.square.to(values.device) + values.square().sum(0)
        self.count += len(values)

    @property
    def mean(self) -> Tensor:
        """Mean of each dimension, (d,)."""
        return self.sum / self.count

    @property
    def value(self) -> Tensor:
        """Unbiased variance of each dimension, (d,)."""
        return (self.square - self.sum.square() / self.count).clamp(min=0) / (self.count - 1)
