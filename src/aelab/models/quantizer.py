"""Base class of quantisers. A quantiser replaces each vector on the encoder's grid by the vector of one of K codes.

The code's vector e is a piecewise constant function of the encoder's output z_e, so the true gradient of e is 0. The
functions in `GRADIENTS` return z_q, which is exactly e but has another gradient:

    straight-through   ∂z_q/∂z_e = 1 (Bengio et al. 2013; van den Oord et al. 2017, section 3.2)
    rotation           ∂z_q/∂z_e = λR, where the rotation R and the scale λ satisfy e = λR z_e, and count as constants
                       (Fifty et al. 2024, section 4). The angle between z_e and the loss's gradient at z_e then equals
                       the angle between e and the loss's gradient at e.

Dimensions: B batch, (h, w) latent grid, D size of a code vector, K codes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from aelab.core.registry import Registry

Grid: TypeAlias = tuple[int, int]
Gradient: TypeAlias = Annotated[
    Literal["straight_through", "rotation"],
    Field(description="gradient of the encoder: the code's gradient, copied or rotated"),
]
Restarts: TypeAlias = Annotated[bool, Field(description="whether an unused code restarts as an output of the encoder")]

TINY = 1e-12  # lower limit of norms in denominators


@dataclass(frozen=True)
class Quantized:
    """Result of the quantisation of a mini-batch. Both losses are sums over an image, averaged over the batch.

    Attributes:
        z_q: the codes' vectors, with a gradient from `GRADIENTS`, (B, D, h, w).
        indices: the codes' indices, on the grid that `Quantizer.grid` returns.
        codebook_loss: a loss that makes the codes useful, for example ‖sg[z_e] − e‖², where sg stops the gradient. The
            loss is 0 for quantisers that define none.
        commitment_loss: ‖z_e − sg[e]‖²; 0 for quantisers whose method `bound` keeps z_e near the codes.
    """

    z_q: Tensor
    indices: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class Quantizer(nn.Module, ABC):
    """Base class of the quantisers of a VQ-VAE.

    Attributes:
        codes: K, the number of values of an index.
        dimensions: D, the size of the encoder's vector at each place.
    """

    codes: int
    dimensions: int

    @property
    def entries(self) -> int:
        """Total number of codes in all codebooks. With one codebook, the number is K."""
        return self.codes

    def grid(self, places: Grid) -> Grid:
        """Return the size of the grid of indices.

        Args:
            places: (h, w) of the encoder's output.

        Returns:
            Height and width of the grid of indices. The base class returns `places`.
        """
        return places

    def bound(self, z: Tensor) -> Tensor:
        """Map the encoder's output into the range of the codes, before quantisation.

        Args:
            z: the encoder's output, (B, D, h, w).

        Returns:
            z_e, (B, D, h, w). The base class returns `z`.
        """
        return z

    @abstractmethod
    def quantise(self, z_e: Tensor) -> Tensor:
        """Find the code for the vector at each place of the grid.

        Args:
            z_e: the output of `bound`, (B, D, h, w).

        Returns:
            Indices from 0 to K − 1, int64, on the grid that `grid` returns.
        """

    @abstractmethod
    def look_up(self, indices: Tensor) -> Tensor:
        """Return the vectors of codes.

        Args:
            indices: indices as `quantise` returns them.

        Returns:
            Vectors (B, D, h, w).
        """

    @abstractmethod
    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:
        """Quantise a mini-batch. In training mode, a quantiser may also update its codes.

        Args:
            z_e: the output of `bound`, (B, D, h, w).
            generator: the random generator, on the device of `z_e`.

        Returns:
            The quantised vectors, their indices and the two losses.
        """

    def counts(self, indices: Tensor) -> Tensor:
        """Count how often each code occurs in `indices`.

        Args:
            indices: indices as `quantise` returns them.

        Returns:
            The counts as float32, (`entries`,).
        """
        flat = indices.flatten()
        # `torch.bincount` would wait for the GPU. `index_add_` on a GPU adds in any order, but a sum of whole numbers
        # is the same in any order.
        return torch.zeros(self.entries, device=flat.device).index_add_(
            0, flat, torch.ones(len(flat), device=flat.device)
        )


QUANTIZERS: Registry[Quantizer] = Registry("aelab.quantizers", Quantizer, "quantiser")  # type: ignore[type-abstract]
QuantizerSection: TypeAlias = Annotated[
    dict[str, Any], QUANTIZERS, Field(description="quantiser, which maps the encoder's output to codes")
]


def rows(z: Tensor) -> Tensor:
    """Return the vectors of a grid as the rows of a matrix: (B, D, h, w) → (B·h·w, D)."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def straight_through(z_e: Tensor, e: Tensor) -> Tensor:
    """Return the values of e with the gradient of z_e. All tensors are (B, D, h, w)."""
    return _value_and_gradient(e, z_e)


def rotation(z_e: Tensor, e: Tensor) -> Tensor:
    """Return the values of e with the gradient of λR z_e. All tensors are (B, D, h, w).

    λ = ‖e‖/‖z_e‖, or 1 where z_e = 0. The rotation R = 1 − 2rrᵀ + 2 ê ẑᵀ consists of two reflections. ê and ẑ are e and
    z_e, scaled to length 1. r ∝ ê + ẑ has length 1, too. The formula is from Fifty et al. 2024, section 4.2.
    """
    norm = z_e.detach().norm(dim=1, keepdim=True)
    scale = torch.where(norm > 0, e.detach().norm(dim=1, keepdim=True) / norm.clamp(min=TINY), 1.0)
    e_unit, z_unit = F.normalize(e.detach(), dim=1, eps=TINY), F.normalize(z_e.detach(), dim=1, eps=TINY)
    r = F.normalize(e_unit + z_unit, dim=1, eps=TINY)
    reflected = 2 * r * (r * z_e).sum(1, keepdim=True)
    rotated = z_e - reflected + 2 * e_unit * (z_unit * z_e).sum(1, keepdim=True)
    return _value_and_gradient(e, scale * rotated)


GRADIENTS: Mapping[Gradient, Callable[[Tensor, Tensor], Tensor]] = {
    "straight_through": straight_through,
    "rotation": rotation,
}


def _value_and_gradient(value: Tensor, gradient: Tensor) -> Tensor:
    """Return `value` with the gradient of `gradient`. The value is exact, because x − x is exactly 0."""
    return value.detach() + (gradient - gradient.detach())
