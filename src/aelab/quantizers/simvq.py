"""SimVQ: a frozen random codebook times one learned matrix (Zhu et al. 2024, section 4).

    e_k = c_k W        c_k ~ N(0, I/D), drawn once and then fixed; W (D, D), learned by the loss ‖sg[z_e] − c_k W‖²

The operator sg stops the gradient. A gradient step on W moves all vectors e_k, including unused vectors that are far
from every encoder output. Therefore unused codes need no restart.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from aelab.models.quantizer import Gradient
from aelab.quantizers._vectors import NearestVector


class SimVQ(NearestVector):
    """K = `codes` random vectors of D = `dimensions` numbers, all multiplied by one learned matrix."""

    frozen: Tensor

    def __init__(self, *, codes: PositiveInt, dimensions: PositiveInt, gradient: Gradient = "straight_through") -> None:
        super().__init__(codes, dimensions, gradient=gradient)
        self.register_buffer("frozen", nn.init.normal_(torch.empty(codes, dimensions), std=dimensions**-0.5))
        self.matrix = nn.Linear(dimensions, dimensions, bias=False)

    @property
    def vectors(self) -> Tensor:  # type: ignore[override]
        """Vectors c_k W of all codes, (K, D)."""
        with torch.autocast(self.frozen.device.type, enabled=False):  # always in float32
            return self.matrix(self.frozen)
