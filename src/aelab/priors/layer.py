"""Prior with a second stochastic layer, u, above the code z: p(z) = ∫ p(z|u) p(u) du (Burda et al. 2016, section 5).

    p(z|u) = N(μ_θ(u), diag σ_θ²(u)),  p(u) is another prior, such as N(0, I),  q(u|z) = N(μ_φ(z), diag σ_φ²(z))

The integral is intractable. For one draw u ~ q(u|z), the ratio p(z|u) p(u) / q(u|z) is an unbiased estimate of p(z). So
the training of a VAE with this prior maximises the ELBO of a model with two stochastic layers, z and u. Also, the VAE's
importance weights with this estimate are the importance weights of the model with two layers.
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from aelab.models.layers import ACTIVATIONS, Activation, perceptron
from aelab.models.prior import PRIORS, Prior, PriorSection, log_normal, moments, reparameterise


class Layer(Prior):
    """Prior with an upper code u of `code` dimensions. Perceptrons with the sizes `hidden` map z to u and u to z."""

    def __init__(
        self,
        below: PositiveInt,
        *,
        code: PositiveInt,
        hidden: Annotated[list[PositiveInt], Field(min_length=1)],
        activation: Activation = "relu",
        prior: PriorSection = "standard",  # type: ignore[assignment]
    ) -> None:
        super().__init__()
        self.up = perceptron([below, *hidden, 2 * code], ACTIVATIONS[activation])
        self.down = perceptron([code, *hidden[::-1], 2 * below], ACTIVATIONS[activation])
        self.prior = PRIORS.build(prior, code)

    def log_prob(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Compute log p(z|u) + log p(u) − log q(u|z) for one draw u ~ q(u|z), in nats: (…, d) → (…)."""
        q = moments(self.up(z))
        u = reparameterise(*q, generator)
        return log_normal(z, *moments(self.down(u))) + self.prior.log_prob(u, generator) - log_normal(u, *q)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw u ~ p(u), then z ~ p(z|u), (count, d)."""
        return reparameterise(*moments(self.down(self.prior.sample(count, generator))), generator)
