"""WAE-MMD: an autoencoder whose codes together follow a prior, from which new codes can be drawn.

    z = g_φ(x),  x′ = f_θ(z),  loss = 1/n · Σ ‖x_i − f_θ(z_i)‖² + λ·MMD²(q(z), p(z)),  p(z) = N(0, I)
    MMD²  1/(n(n−1)) · Σ_{i≠j} (k(z_i, z_j) + k(p_i, p_j)) − 2/n² · Σ_{i,j} k(z_i, p_j),  p_i ~ N(0, I)
    k     Σ_s C_s/(C_s + ‖a − b‖²) with C_s = 2·d·s, d the size of the code

Tolstikhin et al. 2018, algorithm 2 and section 4. The kernel k is a sum of inverse multiquadratic kernels with the
scales s of the authors' program. The estimate of MMD² is unbiased and may be negative. A VAE pulls the distribution
q(z|x) of each image towards p(z). A WAE pulls only q(z), the distribution of the codes of all images, towards p(z).
"""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from aelab.core.process_group import gather
from aelab.models.base import Batch, CodeSize, Losses, Shape
from aelab.models.network import NetworkSection
from aelab.variants._deterministic import Deterministic, squared_error

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # the scales s of the kernel


class WAE(Deterministic):
    """A Wasserstein autoencoder; `penalty` is the weight λ of the MMD."""

    undefined = {
        **dict.fromkeys(
            ("bound", "kl_per_dimension"),
            "the code is a point and the decoder has no likelihood: there is no bound on log p(x)",
        ),
        "codebook": "there is no codebook",
    }

    def __init__(self, image: Shape, *, network: NetworkSection, code: CodeSize, penalty: NonNegativeFloat) -> None:
        super().__init__(image, network=network, code=code)
        self.code, self.penalty = code, penalty

    def loss(self, batch: Batch) -> Losses:
        """Compute the squared error plus λ·MMD². MMD² compares the batch's codes with as many draws from the prior."""
        z = self.encode(batch.inputs)
        losses = squared_error(batch.targets, self.decode(z))
        codes = gather(z)
        discrepancy = mmd(codes, torch.randn(codes.shape, generator=batch.generator, device=z.device))
        return losses | {"loss": losses["loss"] + self.penalty * discrepancy, "mmd": discrepancy}

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Decode codes z ~ N(0, I) into images (count, C, H, W)."""
        return self.decode(torch.randn(count, self.code, generator=generator, device=generator.device))


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """Estimate MMD² between the distributions of the rows of a and b without bias: (B, d) both → ().

    With B = 1, the sum over i ≠ j is empty and counts as 0.
    """
    pairs = max(len(a) * (len(a) - 1), 1)
    # k(z, z) = len(SCALES), because each of its terms is 1.
    within = sum((kernel(each, each).sum() - len(SCALES) * len(each)) / pairs for each in (a, b))
    return within - 2 * kernel(a, b).mean()


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Compute k for each pair of a row of a, (n, d), and a row of b, (m, d): (n, m)."""
    squared = (a.unsqueeze(1) - b).square().sum(2)
    scales = [2 * a.shape[1] * scale for scale in SCALES]
    return torch.stack([scale / (scale + squared) for scale in scales]).sum(0)
