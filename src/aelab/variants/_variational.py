"""What the variants share whose code is a distribution: the bound, how it is measured, and its symptoms."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from aelab.models.base import Autoencoder, Batch, Capability, Losses, Shape
from aelab.models.likelihood import Likelihood, bits_per_dim, bound_by_image
from aelab.models.statistics import Mean, Measured, Variance

ACTIVE = 0.01  # a latent dimension is active when the variance over x of its shift exceeds this
COLLAPSED = 0.1  # the share of dimensions that are active is less than this

Beta: TypeAlias = Annotated[float, Field(ge=0, description="weight of KL(q‖p); 1 is the bound on log p(x)")]
WarmUp: TypeAlias = Annotated[
    float, Field(ge=0, le=1, description="share of the training over which that weight grows from 0")
]


class Variational(Autoencoder):
    """An autoencoder with q(z|x), p(z) and p(x|z), trained on −ELBO with the rate weighted by β.

    β grows from 0 over the share `warm_up` of the steps. The code has `units` dimensions in all.
    """

    def __init__(self, image: Shape, likelihood: Likelihood, units: int, beta: float, warm_up: float) -> None:
        super().__init__(image)
        self.units = units
        self.beta, self.warm_up = beta, warm_up
        self.likelihood = likelihood
        self.pixels = likelihood.pixels
        self.undefined: dict[Capability, str] = {"codebook": "there is no codebook", **likelihood.undefined}

    @abstractmethod
    def bound(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Distortion −log p(targets|z) at one z ~ q(z|inputs), and rate KL(q ‖ p), in nats per image: (B,) each."""

    def kl_terms(self, x: Tensor) -> Tensor:
        """KL(q(z_j|x) ‖ p(z_j)) of each latent dimension in nats, given the layers above: (B, units)."""
        raise NotImplementedError

    def kl_per_dimension(self, batches: Iterable[Tensor]) -> Tensor:
        """The mean of `kl_terms` over all images, (units,)."""
        terms = Variance()
        for x in batches:
            terms.add(self.kl_terms(x))
        return terms.mean

    @abstractmethod
    def shifts(self, x: Tensor) -> Tensor:
        """How far x moves the mean of each latent dimension from what the prior expects: (B, units)."""

    def loss(self, batch: Batch) -> Losses:
        """−ELBO in nats per image, its rate weighted by β."""
        distortion, rate = (term.mean() for term in self.bound(batch.inputs, batch.targets, batch.generator))
        beta = self.beta * batch.ramp(self.warm_up)
        return {"loss": distortion + beta * rate, "distortion": distortion, "rate": rate}

    def measure(self, batches: Iterable[Tensor], generator: torch.Generator) -> Measured:
        """−ELBO (β = 1 whatever the training's) and its parts in nats per image, at two z each; active units."""
        distortion, rate, spread, means = Mean(), Mean(), Mean(), Variance()
        again = torch.Generator(generator.device).manual_seed(generator.initial_seed() + 1)
        for x in batches:
            first, second = self.bound(x, x, generator), self.bound(x, x, again)
            distortion.add((first[0] + second[0]) / 2)
            rate.add((first[1] + second[1]) / 2)
            # Half the difference of two draws, squared, estimates the variance of their mean.
            spread.add((first[0] + first[1] - second[0] - second[1]).square() / 4)
            means.add(self.shifts(x))
        neg_elbo = distortion.value + rate.value
        values = {
            "neg_elbo": neg_elbo,
            "neg_elbo_error": (spread.value / spread.count) ** 0.5,
            "rate": rate.value,
            "distortion": distortion.value,
            "bits_per_dim": bits_per_dim(neg_elbo, self.image),
            "active_units": float((means.value > ACTIVE).sum()),
            "latent_units": float(self.units),
        }
        return Measured(values, bound_by_image(distortion.each, rate.each, self.image))

    def symptoms(self, values: Mapping[str, float]) -> list[str]:
        """Posterior collapse: q(z|x) is the prior for every x, and the code says (almost) nothing."""
        active = values["active_units"]
        if active >= COLLAPSED * self.units:
            return []
        return [f"the posterior has collapsed: {active:.0f} of {self.units} latent dimensions are active"]
