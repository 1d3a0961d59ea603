"""Ladder VAE: a VAE with many stochastic layers. Inference and generation both go from the top layer down.

    p(z) = p(z_0) Π_l p(z_l | z_<l),  q(z|x) = q(z_0|x) Π_l q(z_l | z_<l, x)
    loss = −E_q[log p(x|z)] + β · Σ_l E_q[KL(q(z_l|z_<l, x) ‖ p(z_l|z_<l))]

Sønderby et al. 2016, Kingma et al. 2016 (section 5.1), Child 2021. The top layer z_0 is a vector. Each lower layer z_l
is a set of maps on the network's grid. From the layers above, z_<l, the model computes feature maps h. The prior of z_l
depends on h. The posterior is this prior plus a correction, which depends on h and on the encoder's output for the
image.

Dimensions: B batch, F number of feature maps (`width`), (h, w) grid, D number of maps in a layer (`channels`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from aelab.models.base import Shape
from aelab.models.layers import Convolution, Pointwise, Residual, Width, channels_last, mean_colour
from aelab.models.likelihood import LIKELIHOODS, LikelihoodSection
from aelab.models.network import NETWORKS, Grid, NetworkSection
from aelab.models.prior import log_normal, moments, reparameterise
from aelab.variants._variational import Beta, Variational, WarmUp

Gaussian: TypeAlias = tuple[Tensor, Tensor]  # μ and log σ², both (B, …)


class Ladder(Variational):
    """A ladder VAE: a vector with `code` dimensions, then `layers` stochastic layers with `channels` maps each."""

    def __init__(
        self,
        image: Shape,
        *,
        network: NetworkSection,
        width: Width,
        code: PositiveInt,
        layers: PositiveInt,
        channels: PositiveInt,
        likelihood: LikelihoodSection,
        beta: Beta = 1.0,
        warm_up: WarmUp = 0.0,
    ) -> None:
        built = NETWORKS.build(network, image)
        height, breadth = built.grid
        units = code + layers * channels * height * breadth
        super().__init__(image, LIKELIHOODS.build(likelihood), units, beta, warm_up)
        self.undefined["direction"] = "most of the code is a grid, whose single numbers do not control the whole image"
        self.encoder = nn.Sequential(built.grid_encoder(width), *(Residual(width, width // 2) for _ in range(2)))
        self.top = Top(built.grid, width, code)
        self.evidence = nn.Sequential(nn.ReLU(), Convolution(width, layers * 2 * channels))
        self.layers = nn.ModuleList(Layer(width, channels) for _ in range(layers))
        self.decoder = built.grid_decoder(width, self.likelihood.channels)

    def start_from(self, x: Tensor) -> None:
        """Set the decoder's bias so that the initial output is the mean colour of x."""
        self.decoder.start_at(self.likelihood.output_for(mean_colour(x)))

    def infer(self, e: Tensor, choose: Callable[[Gaussian], Tensor]) -> tuple[Tensor, "list[Inferred]"]:
        """Infer the codes of all layers, from the top layer down.

        Args:
            e: the encoder's output, (B, F, h, w).
            choose: function that returns the code for a posterior, either the posterior's mean or a draw.

        Returns:
            The feature maps h after the last layer, (B, F, h, w), and the code and distributions of every layer.
        """
        q = self.top.posterior(e)
        found = [Inferred(choose(q), q, (torch.zeros_like(q[0]), torch.zeros_like(q[1])))]
        h = self.top(found[0].z)
        for layer, evidence in zip(self._layers(), self.evidence(e).chunk(len(self.layers), 1), strict=True):
            q, p = layer.posterior_and_prior(h, evidence)
            found.append(Inferred(choose(q), q, p))
            h = layer(h, found[-1].z)
        return h, found

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the posterior mean of each layer, given the means of the layers above.

        The top layer has the shape (B, code), each other layer (B, D, h, w).
        """
        return tuple(each.z for each in self.infer(self.encoder(x), lambda q: q[0])[1])

    def kl_terms(self, x: Tensor) -> Tensor:
        """Compute KL(q ‖ p) in nats for each number of each layer, given the means of the layers above: (B, units)."""
        _, found = self.infer(self.encoder(x), lambda q: q[0])
        return torch.cat([kl_terms(each.q, each.p).flatten(1) for each in found], 1)

    def shifts(self, x: Tensor) -> Tensor:
        """Compute (μ_q − μ_p)/σ_p of each number of each layer, given the means of the layers above: (B, units).

        In a layer without information about the image, the posterior equals the prior. The shift is then 0, but μ_q
        still varies with the layers above.
        """
        _, found = self.infer(self.encoder(x), lambda q: q[0])
        return torch.cat([((q[0] - p[0]) * (-p[1] / 2).exp()).flatten(1) for _, q, p in found], 1)

    def decode(self, z: tuple[Tensor, ...]) -> Tensor:
        """Return E[x|z], (B, C, H, W)."""
        h = self.top(z[0])
        for layer, each in zip(self._layers(), z[1:], strict=True):
            h = layer(h, each)
        return self.likelihood.mean(self.decoder(h))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Decode codes z ~ p(z) into images (count, C, H, W)."""
        h = self.top(torch.randn(count, self.top.code, generator=generator, device=generator.device))
        for layer in self._layers():
            h = layer(h, reparameterise(*layer.prior(h), generator))
        return self.likelihood.mean(self.decoder(h))

    def bound(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Compute distortion and rate at one z ~ q(z|inputs) in nats per image, (B,) each.

        The KL divergence of each layer is exact, given the codes of the layers above.
        """
        h, found = self.infer(self.encoder(inputs), lambda q: reparameterise(*q, generator))
        rate = torch.stack([kl(each.q, each.p) for each in found]).sum(0)
        return -self.likelihood.log_prob(self.decoder(h), targets), rate

    def log_weights(self, inputs: Tensor, targets: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """Compute log p(targets|z) + log p(z) − log q(z|inputs) at `samples` draws z ~ q(z|inputs): (B, samples)."""
        e, x = (each.repeat_interleave(samples, 0) for each in (self.encoder(inputs), targets))
        h, found = self.infer(e, lambda q: reparameterise(*q, generator))
        log_p_over_q = [log_prob(each.z, each.p) - log_prob(each.z, each.q) for each in found]
        return (self.likelihood.log_prob(self.decoder(h), x) + torch.stack(log_p_over_q).sum(0)).view(-1, samples)

    def _layers(self) -> list["Layer"]:
        return cast("list[Layer]", list(self.layers))


class Inferred(NamedTuple):
    """A layer's code z, its posterior q and its prior p."""

    z: Tensor
    q: Gaussian
    p: Gaussian


class Top(nn.Module):
    """The top layer: a vector z_0 with the prior N(0, I)."""

    def __init__(self, grid: Grid, width: int, code: int) -> None:
        super().__init__()
        self.code, self.shape = code, (*grid, width)
        self.up = nn.Linear(math.prod(self.shape), 2 * code)
        self.down = nn.Linear(code, math.prod(self.shape))

    def posterior(self, e: Tensor) -> Gaussian:
        """Compute q(z_0|x): (B, F, h, w) → (B, code) each."""
        return moments(self.up(e.permute(0, 2, 3, 1).flatten(1)))

    def forward(self, z: Tensor) -> Tensor:
        """Compute the feature maps for the next layer: (B, code) → (B, F, h, w)."""
        return channels_last(self.down(z).unflatten(1, self.shape))


class Layer(nn.Module):
    """A stochastic layer on the grid. Its input h has the feature maps from the layers above."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        # One convolution for the prior and for h's part of the correction is faster than two.
        self.statistics = nn.Sequential(nn.ReLU(), Convolution(width, 2 * 2 * channels))
        self.merge = Pointwise(channels, width)
        self.transform = Residual(width, width // 2)

    def prior(self, h: Tensor) -> Gaussian:
        """Compute p(z_l|z_<l): (B, F, h, w) → (B, D, h, w) each."""
        prior, _ = self.statistics(h).chunk(2, 1)
        return moments(prior, dim=1)

    def posterior_and_prior(self, h: Tensor, evidence: Tensor) -> tuple[Gaussian, Gaussian]:
        """Compute q(z_l|z_<l, x) and p(z_l|z_<l), (B, D, h, w) for each mean and log variance.

        Args:
            h: feature maps from the layers above, (B, F, h, w).
            evidence: the image's part of the correction, (B, 2·D, h, w).
        """
        prior, correction = self.statistics(h).chunk(2, 1)
        p = moments(prior, dim=1)
        mean, log_variance = moments(correction + evidence, dim=1)
        return (p[0] + mean, p[1] + log_variance), p

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Compute the feature maps for the next layer from h and z, (B, F, h, w)."""
        return self.transform(h + self.merge(z))


def log_prob(z: Tensor, gaussian: Gaussian) -> Tensor:
    """Compute log N(z; μ, diag σ²) in nats: (B, …) → (B,)."""
    return log_normal(*(each.flatten(1) for each in (z, *gaussian)))


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q ‖ p) = ½ Σ ((μ_q − μ_p)² / σ_p² + σ_q²/σ_p² − 1 − log σ_q²/σ_p²) in nats: (B, …) → (B,)."""
    return kl_terms(q, p).flatten(1).sum(1)


def kl_terms(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q ‖ p) of each number in nats: (B, …) → (B, …)."""
    log_ratio = q[1] - p[1]
    square = (q[0] - p[0]).square() * (-p[1]).exp()
    return 0.5 * (square + log_ratio.exp() - 1 - log_ratio)
