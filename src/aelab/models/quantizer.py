"""What a quantiser has to give: what turns an encoder's output on a grid into codes, each one of K.

A code e is a constant to the encoder, so its gradient has to be made up. Either function of `GRADIENTS` gives e, to the
bit, and differs in what reaches z_e:

    straight-through   ∂z_q/∂z_e = 1 (Bengio et al. 2013; van den Oord et al. 2017, section 3.2)
    rotation           ∂z_q/∂z_e = λR, held constant, of the rotation R and the scale λ for which e = λR z_e
                       (Fifty et al. 2024, section 4): the gradient keeps its angle to the code on its way to z_e

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
    Field(description="the encoder's gradient: that of the code, copied, or turned and scaled as the code is"),
]
Restarts: TypeAlias = Annotated[
    bool, Field(description="whether a code that is out of use restarts as an output of the encoder")
]

TINY = 1e-12  # a norm that is no longer divided by


@dataclass(frozen=True)
class Quantized:
    """A batch of encoder outputs after quantisation; the two losses are sums per image, averaged over the batch."""

    z_q: Tensor  # (B, D, h, w): the value of the codes, and a gradient of `GRADIENTS`
    indices: Tensor  # (B, h, w), or on the quantiser's own grid
    codebook_loss: Tensor  # ‖sg[z_e] − e‖², or what else brings the codes into use; 0 where nothing is to be descended
    commitment_loss: Tensor  # ‖z_e − sg[e]‖²; 0 where the codes leave z_e nowhere to go


class Quantizer(nn.Module, ABC):
    """What a VQ-VAE asks of its codes.

    Attributes:
        codes: K, the codes that there are for one index.
        dimensions: D, the numbers that the encoder gives for each place.
    """

    codes: int
    dimensions: int

    @property
    def entries(self) -> int:
        """The codes that can be told apart: K, unless the place of an index says which codebook it is from."""
        return self.codes

    def grid(self, places: Grid) -> Grid:
        """The grid of the indices, given the grid of the encoder's outputs."""
        return places

    def bound(self, z: Tensor) -> Tensor:
        """z_e, what is to be quantised, from the encoder's output: (B, D, h, w) both."""
        return z

    @abstractmethod
    def quantise(self, z_e: Tensor) -> Tensor:
        """The codes of every place: (B, D, h, w) → (B, h, w), the latter the grid of the indices."""

    @abstractmethod
    def look_up(self, indices: Tensor) -> Tensor:
        """The vectors of the codes: (B, h, w) → (B, D, h, w)."""

    @abstractmethod
    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:
        """Quantise z_e, shape (B, D, h, w), and in training mode learn from it."""

    def counts(self, indices: Tensor) -> Tensor:
        """How often each code occurs in `indices`: (`entries`,)."""
        flat = indices.flatten()
        # torch.bincount would wait for a GPU. Whole numbers add up to the same in any order.
        return torch.zeros(self.entries, device=flat.device).index_add_(
            0, flat, torch.ones(len(flat), device=flat.device)
        )


QUANTIZERS: Registry[Quantizer] = Registry("aelab.quantizers", Quantizer, "quantiser")  # type: ignore[type-abstract]
QuantizerSection: TypeAlias = Annotated[
    dict[str, Any], QUANTIZERS, Field(description="what makes codes of the encoder's output")
]


def rows(z: Tensor) -> Tensor:
    """A grid's vectors one below the other: (B, D, h, w) → (B·h·w, D)."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def straight_through(z_e: Tensor, e: Tensor) -> Tensor:
    """e with the gradient of z_e; all (B, D, h, w)."""
    return _value_and_gradient(e, z_e)


def rotation(z_e: Tensor, e: Tensor) -> Tensor:
    """e with the gradient of λR z_e; all (B, D, h, w).

    λ = ‖e‖/‖z_e‖ and R = 1 − 2rrᵀ + 2 ê ẑᵀ with r ∝ ê + ẑ, two reflections (section 4.2); 1 where z_e = 0.
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
    """The value of one and the gradient of the other: x − x is 0 exactly."""
    return value.detach() + (gradient - gradient.detach())
