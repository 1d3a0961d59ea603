"""IWAE: a VAE trained on a tighter bound, from k samples of the posterior.

    loss = −E[log 1/k · Σ_i p_θ(x|z_i) p(z_i) / q_φ(z_i|x)],  z_1 … z_k ~ q_φ(z|x)

Burda et al. 2016, equation 8. With k = 1 the model is the VAE. As k grows, the loss falls towards −log p(x).
"""

import math

from pydantic import PositiveInt

from aelab.models.base import Batch, CodeSize, Losses, Shape
from aelab.models.likelihood import LikelihoodSection
from aelab.models.network import NetworkSection
from aelab.models.prior import PriorSection
from aelab.variants.vae import VAE


class IWAE(VAE):
    """An importance-weighted autoencoder, trained with k = `samples` draws for each image."""

    def __init__(
        self,
        image: Shape,
        *,
        network: NetworkSection,
        code: CodeSize,
        samples: PositiveInt,
        likelihood: LikelihoodSection,
        prior: PriorSection = "standard",  # type: ignore[assignment]
    ) -> None:
        super().__init__(image, network=network, code=code, beta=1.0, likelihood=likelihood, prior=prior)
        self.samples = samples

    def loss(self, batch: Batch) -> Losses:
        """Compute minus the bound from k samples as "loss", and −ELBO as "neg_elbo", in nats per image."""
        weights = self.log_weights(batch.inputs, batch.targets, self.samples, batch.generator)
        bound = weights.logsumexp(1) - math.log(self.samples)
        return {"loss": -bound.mean(), "neg_elbo": -weights.mean()}
