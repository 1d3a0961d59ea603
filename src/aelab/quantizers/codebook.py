"""Codebook learned by gradient descent on the codebook loss (van den Oord et al. 2017, sections 3.1 and 3.2)."""

import torch
from pydantic import PositiveInt
from torch import nn

from aelab.models.quantizer import Gradient, Restarts
from aelab.quantizers._vectors import VectorQuantizer


class Codebook(VectorQuantizer):
    """K = `codes` learned vectors of D = `dimensions` numbers.

    Without `restarts`, the vectors start at random near 0, and only gradient descent moves them.
    """

    def __init__(
        self,
        *,
        codes: PositiveInt,
        dimensions: PositiveInt,
        restarts: Restarts = True,
        gradient: Gradient = "straight_through",
    ) -> None:
        super().__init__(codes, dimensions, restarts=restarts, gradient=gradient)
        self.vectors = nn.Parameter(torch.zeros(codes, dimensions))
        if not restarts:
            nn.init.uniform_(self.vectors, -1 / codes, 1 / codes)
            self.usage.fill_(1.0)
