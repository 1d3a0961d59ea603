"""β-TC-VAE: a VAE with separate weights for the three parts of the rate. A large β lowers the total correlation.

    mutual information  I = E log q(z|x)/q(z)
    total correlation  TC = E log q(z)/Π_j q(z_j)
    dimension-wise KL  KL = E log Π_j q(z_j)/p(z);  I + TC + KL = E_x KL(q(z|x) ‖ p(z)), the rate
    loss                    −E_q[log p_θ(x|z)] + α·I + β·TC + γ·KL

Chen et al. 2018, equations 2 and 4. With α = β = γ = 1, the model is the VAE. q(z) = 1/N · Σ_n q(z|x_n) is the mean
over all N training images. For z_i ~ q(z|x_i), a batch of B images gives an unbiased estimate of q(z_i):

    q(z_i) ≈ 1/N · q(z_i|x_i) + (N − 1)/(N·(B − 1)) · Σ_{k≠i} q(z_i|x_k)

The estimate is the minibatch stratified sampling of appendix C.2 with one change. In the paper, the images x_k with
k ≠ i have unequal weights. Here, each of these images has the mean of the paper's weights. The logarithm of the
estimate is biased, but less in a larger batch.
"""

import math

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from aelab.core.process_group import gather
from aelab.models.base import Batch, CodeSize, Losses, Shape
from aelab.models.likelihood import LikelihoodSection
from aelab.models.network import NetworkSection
from aelab.models.prior import reparameterise
from aelab.variants._variational import WarmUp
from aelab.variants.vae import VAE


class TCVAE(VAE):
    """A VAE with separate weights for the parts of the rate.

    `alpha` weighs the mutual information, `beta` the total correlation and `gamma` the dimension-wise KL. All three
    weights grow from 0 over the share `warm_up` of the steps.
    """

    def __init__(
        self,
        image: Shape,
        *,
        network: NetworkSection,
        code: CodeSize,
        beta: NonNegativeFloat,
        likelihood: LikelihoodSection,
        alpha: NonNegativeFloat = 1.0,
        gamma: NonNegativeFloat = 1.0,
        warm_up: WarmUp = 0.0,
    ) -> None:
        super().__init__(image, network=network, code=code, beta=beta, likelihood=likelihood, warm_up=warm_up)
        self.alpha, self.gamma = alpha, gamma

    def loss(self, batch: Batch) -> Losses:
        """Compute equation 4 in nats per image, all terms at one z ~ q(z|x)."""
        mean, log_variance = self.posterior(batch.inputs)
        z = reparameterise(mean, log_variance, batch.generator)
        distortion = -self.likelihood.log_prob(self.decoder(z), batch.targets).mean()
        information, correlation, dimensions = (
            term.mean() for term in decomposition(gather(z), gather(mean), gather(log_variance), batch.samples)
        )
        rate = self.alpha * information + self.beta * correlation + self.gamma * dimensions
        return {
            "loss": distortion + batch.ramp(self.warm_up) * rate,
            "distortion": distortion,
            "mutual_information": information,
            "total_correlation": correlation,
            "dimension_wise_kl": dimensions,
        }


def decomposition(z: Tensor, mean: Tensor, log_variance: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate mutual information, total correlation and dimension-wise KL at z ~ N(μ, diag σ²), in nats: (B,) each.

    z, μ and log σ² are (B, d). `samples` is N, the number of training images. The sum of the three results is
    log q(z|x) − log p(z).
    """
    log_q = log_normal(z.unsqueeze(1), mean, log_variance)  # log q(z_ij|x_k), (B, B, d) for i, k, j
    log_weight = log_weights(len(z), samples, z.device)
    log_q_z = (log_q.sum(2) + log_weight).logsumexp(1)
    log_product = (log_q + log_weight.unsqueeze(2)).logsumexp(1).sum(1)
    log_q_zx = log_q.sum(2).diagonal()
    log_p = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
    return log_q_zx - log_q_z, log_q_z - log_product, log_product - log_p


def log_weights(size: int, samples: int, device: torch.device) -> Tensor:
    """Return the logarithm of the weight of q(z_i|x_k) in the estimate of q(z_i), (B, B), in row i and column k.

    If B > 1, the weights in a row sum to 1.
    """
    own = torch.eye(size, dtype=torch.bool, device=device)
    other = math.log((samples - 1) / (samples * (size - 1))) if min(size, samples) > 1 else -math.inf
    return torch.full((size, size), other, device=device).masked_fill(own, -math.log(samples))


def log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute log N(z; μ, σ²) of each dimension. torch broadcasts the arguments to a common shape."""
    return -0.5 * (math.log(2 * math.pi) + log_variance + (z - mean).square() * (-log_variance).exp())
