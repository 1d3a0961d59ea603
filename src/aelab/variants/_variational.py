"""Base class of the variants whose code is a distribution: the loss −ELBO, its measurement, and posterior collapse."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from aelab.models.base import Autoencoder, Batch, Capability, Losses, Shape
from aelab.models.likelihood import Likelihood, bits_per_dim, bound_by_image
from aelab.models.statistics import Mean, Measured, Variance

ACTIVE = 0.01  # A latent dimension is active if its shift (method `shifts`) has a larger variance over all images.
COLLAPSED = 0.1  # The posterior has collapsed if the share of active dimensions is below this value.

Beta: TypeAlias = Annotated[float, Field(ge=0, description="weight of KL(q‖p); 1 gives the bound on log p(x)")]
WarmUp: TypeAlias = Annotated[
    float, Field(ge=0, le=1, description="share of the training during which the weight of the rate grows from 0")
]


class Variational(Autoencoder):
    """An autoencoder with q(z|x), p(z) and p(x|z). The loss is −ELBO with the weight β for the rate.

    In the first part of the training, the weight grows from 0 to β. `warm_up` is the length of this part as a share of
    the training. `units` is the number of latent dimensions of all stochastic layers together.
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
        """Compute the two parts of −ELBO at one z ~ q(z|inputs), in nats per image, (B,) each.

        The first part is the distortion −log p(targets|z), the second part the rate KL(q ‖ p).
        """

    def kl_terms(self, x: Tensor) -> Tensor:
        """Compute KL(q(z_j|x) ‖ p(z_j)) of each latent dimension z_j in nats: (B, units).

        If the model has several stochastic layers, q and p of a layer are conditional on the layers above.
        """
        raise NotImplementedError

    def kl_per_dimension(self, batches: Iterable[Tensor]) -> Tensor:
        """Compute the mean of `kl_terms` over all images, (units,)."""
        terms = Variance()
        for x in batches:
            terms.add(self.kl_terms(x))
        return terms.mean

    @abstractmethod
    def shifts(self, x: Tensor) -> Tensor:
        """Compute how far the image x shifts the mean of each latent dimension away from the prior, (B, units).

        A dimension whose shift is (almost) the same for all images has no information about the image.
        """

    def loss(self, batch: Batch) -> Losses:
        """Compute −ELBO in nats per image, with the weight β (during the warm-up, a smaller weight) for the rate."""
        distortion, rate = (term.mean() for term in self.bound(batch.inputs, batch.targets, batch.generator))
        beta = self.beta * batch.ramp(self.warm_up)
        return {"loss": distortion + beta * rate, "distortion": distortion, "rate": rate}

    def measure(self, batches: Iterable[Tensor], generator: torch.Generator) -> Measured:
        """Measure the number of active latent dimensions, and −ELBO with its two parts in nats per image.

        The estimate of −ELBO uses two draws of z for each image. The rate has the weight 1, not β.
        """
        distortion, rate, spread, means = Mean(), Mean(), Mean(), Variance()
        again = torch.Generator(generator.device).manual_seed(generator.initial_seed() + 1)
        for x in batches:
            first, second = self.bound(x, x, generator), self.bound(x, x, again)
            distortion.add((first[0] + second[0]) / 2)
            rate.add((first[1] + second[1]) / 2)
            # The square of half the difference between two values of −ELBO estimates the variance of their mean.
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
        """Report posterior collapse: q(z|x) equals the prior for every x, so the code has (almost) no information."""
        active = values["active_units"]
        if active >= COLLAPSED * self.units:
            return []
        return [f"the posterior has collapsed: {active:.0f} of {self.units} latent dimensions are active"]
