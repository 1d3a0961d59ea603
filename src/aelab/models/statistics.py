"""Statistics over mini-batches, summed in float64."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from aelab.core.tensors import in_float64


def perplexity(counts: Tensor) -> float:
    """Perplexity of the codes: exp(entropy of their relative frequencies), a value from 1 to K.

    Args:
        counts: how often each code occurs in a whole data set, (K,).
    """
    counts = in_float64(counts)
    p = counts / counts.sum()
    return torch.special.entr(p).sum().exp().item()


class Mean:
    """Mean of numbers over mini-batches."""

    def __init__(self) -> None:
        self.sum, self.count = torch.zeros((), dtype=torch.float64), 0
        self.batches: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """Add `values`, (B,), to the mean."""
        self.batches.append(values.float())
        values = in_float64(values)
        self.sum = self.sum.to(values.device) + values.sum()
        self.count += len(values)

    @property
    def value(self) -> float:
        """Mean of all values."""
        return self.sum.item() / self.count

    @property
    def each(self) -> Tensor:
        """All values as float32 in the order of `add`, (N,)."""
        return torch.cat(self.batches)


class Measured(dict[str, float]):
    """Metrics by name. For a metric that is a mean over images, the object also has the value of each image.

    Attributes:
        images: the value of each image, (N,), by metric. If a metric uses only some of the images, they are evenly
            spread (`data.datasets.evenly`).
    """

    def __init__(self, values: Mapping[str, float], images: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(values)
        self.images = dict(images or {})

    @classmethod
    def of(cls, means: Mapping[str, Mean]) -> "Measured":
        """Build the metrics from means, and keep the value of each image."""
        return cls(
            {name: mean.value for name, mean in means.items()}, {name: mean.each for name, mean in means.items()}
        )

    def __ior__(self, other: Mapping[str, float]) -> Self:  # type: ignore[override, misc]
        """Add the metrics of `other`, with their values of single images."""
        self.update(other)
        self.images |= getattr(other, "images", {})
        return self

    def renamed(self, names: Mapping[str, str | None]) -> "Measured":
        """Return the metrics under the new `names`, without the metrics whose new name is None."""
        new = {name: names.get(name, name) for name in {**self, **self.images}}
        kept = {name: other for name, other in new.items() if other is not None}
        return Measured(
            {kept[name]: value for name, value in self.items() if name in kept},
            {kept[name]: values for name, values in self.images.items() if name in kept},
        )


class Variance:
    """Mean and variance of each dimension of vectors over mini-batches."""

    def __init__(self) -> None:
        self.sum = self.square = torch.zeros((), dtype=torch.float64)
        self.count = 0

    def add(self, vectors: Tensor) -> None:
        """Add `vectors`, (B, d)."""
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
