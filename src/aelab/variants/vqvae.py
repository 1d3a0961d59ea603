"""VQ-VAE: an autoencoder whose code is a grid of codebook vectors, with a learned prior over the grid.

    posterior      one-hot at k = argmin_j ‖z_e(x) − e_j‖
    decoder input  z_q(x) = e_k, whose gradient is copied straight through to z_e(x)
    loss           −log p(x|z_q) + ‖sg[z_e(x)] − e‖² + β‖z_e(x) − sg[e]‖²

van den Oord et al. 2017, equations 1 to 3. sg[…] stops the gradient. The posterior is deterministic, so the rate is
−log p(k). The autoencoder is trained with a uniform prior over the codes. For a grid of L places and K codes, this
prior's rate is the constant L·log K. The prior that is learned afterwards has a lower rate.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from typing_extensions import TypedDict

from aelab.core.settings import BudgetOverrides
from aelab.models.base import Batch, Losses, Phase, Shape
from aelab.models.discrete import DiscreteAutoencoder
from aelab.models.layers import mean_colour
from aelab.models.likelihood import LIKELIHOODS, LikelihoodSection, bits_per_dim, bound_by_image
from aelab.models.network import NETWORKS, NetworkSection
from aelab.models.quantizer import QUANTIZERS, QuantizerSection
from aelab.models.statistics import Mean, Measured, perplexity
from aelab.variants._code_transformer import CausalPrior

COLLAPSED = 0.05  # the codebook has collapsed if its perplexity is below this share of the number of codes


class PriorParams(TypedDict):
    """Keys of the model's section `prior` in `params.yaml`: the size of the transformer and its training budget."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    width: Annotated[int, Field(gt=0, description="features of each place of the grid")]
    layers: Annotated[int, Field(ge=1, le=100, description="blocks, each of attention and a perceptron")]
    heads: Annotated[int, Field(gt=0, description="attention heads; `width` must be a multiple of their number")]
    training: Annotated[BudgetOverrides, Field(description="overrides of `training`")]


class VQVAE(DiscreteAutoencoder):
    """An autoencoder with one code of the quantiser at every place of the network's grid, and a learned prior."""

    undefined = {
        "importance": "q(z|x) is a single code, so all its samples are equal",
        **dict.fromkeys(("units", "kl_per_dimension"), "a discrete code has no mean E_q[z] that could vary"),
        "direction": "a discrete code has no direction to move along",
    }

    def __init__(
        self,
        image: Shape,
        *,
        network: NetworkSection,
        quantizer: QuantizerSection,
        beta: Annotated[float, Field(ge=0, description="weight of the commitment loss")],
        likelihood: LikelihoodSection,
        prior: Annotated[
            PriorParams, Field(description="causal transformer that learns p(codes) after the autoencoder")
        ],
    ) -> None:
        super().__init__(image)
        self.beta = beta
        built, p_x, codes = NETWORKS.build(network, image), LIKELIHOODS.build(likelihood), QUANTIZERS.build(quantizer)
        grid = codes.grid(built.grid)
        self.encoder = built.grid_encoder(codes.dimensions)
        self.quantizer = codes
        self.decoder = built.grid_decoder(codes.dimensions, p_x.channels)
        self.likelihood = p_x
        self.pixels = p_x.pixels
        self.undefined = {**type(self).undefined, **p_x.undefined}
        size = {"width": prior["width"], "layers": prior["layers"], "heads": prior["heads"]}
        self.prior = CausalPrior(grid, codes.codes, **size)
        self.prior_training = prior["training"]

    def start_from(self, x: Tensor) -> None:
        """Set the decoder's bias so that the initial output is the mean colour of x."""
        self.decoder.start_at(self.likelihood.output_for(mean_colour(x)))

    def encode(self, x: Tensor) -> Tensor:
        """Return z_e, the encoder's output before quantisation, (B, D, h, w)."""
        return self.quantizer.bound(self.encoder(x).float())

    def decode(self, z: Tensor) -> Tensor:
        """Quantise z and return E[x|z_q], (B, C, H, W)."""
        return self.decode_indices(self.quantizer.quantise(z))

    def code_of(self, x: Tensor) -> Tensor:
        """Return z_q, the vectors of the codes, (B, D, h, w)."""
        return self.quantizer.look_up(self.indices(x))

    def indices(self, x: Tensor) -> Tensor:
        """Return the indices k, (B, h, w) on the quantiser's grid."""
        return self.quantizer.quantise(self.encode(x))

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Return E[x|z_q] for indices (B, h, w), (B, C, H, W)."""
        return self.likelihood.mean(self.decoder(self.quantizer.look_up(indices)))

    def loss(self, batch: Batch) -> Losses:
        """Compute the loss of equation 3. Each term is a sum over the image, averaged over the batch."""
        quantized = self.quantizer(self.encode(batch.inputs), batch.generator)
        distortion = -self.likelihood.log_prob(self.decoder(quantized.z_q), batch.targets).mean()
        return {
            "loss": distortion + quantized.codebook_loss + self.beta * quantized.commitment_loss,
            "distortion": distortion,
            "commitment": quantized.commitment_loss,
        }

    def phases(self) -> list[Phase]:
        """Return two phases: the training of the autoencoder, then the training of the prior on its codes."""
        return [*super().phases(), Phase("prior", self.prior, self.indices, self.prior_training)]

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw codes from the learned prior and decode them into images (count, C, H, W)."""
        return self.decode_indices(self.prior.sample(count, generator))

    def code_counts(self, batches: Iterable[Tensor]) -> Tensor:
        """Count how often each code is used, (K,), or (K·depth,) for the `depth` codebooks of `residual`."""
        counts = torch.zeros(self.quantizer.entries, device=self.prior.position.device)
        for x in batches:
            counts += self.quantizer.counts(self.indices(x))
        return counts

    def symptoms(self, values: Mapping[str, float]) -> list[str]:
        """Report codebook collapse, in which (almost) all images use the same few codes."""
        perplexity, used, codes = values["perplexity"], values["codes_used"], self.quantizer.entries
        if perplexity >= COLLAPSED * codes:
            return []
        return [f"the codebook has collapsed: {used:.0f} of {codes} codes in use, perplexity {perplexity:.1f}"]

    def measure(self, batches: Iterable[Tensor], generator: torch.Generator) -> Measured:  # noqa: ARG002
        """Measure −ELBO in nats per image, the use of the codebook, and the distance ‖z_e − e‖²/‖z_e‖².

        −ELBO and the rate are measured under the learned prior and under the uniform prior.
        """
        distortion, rate, distance, norm = Mean(), Mean(), Mean(), Mean()
        usage = torch.zeros(self.quantizer.entries, device=self.prior.position.device)
        for x in batches:
            z_e = self.encode(x)
            indices = self.quantizer.quantise(z_e)
            e = self.quantizer.look_up(indices)
            distortion.add(-self.likelihood.log_prob(self.decoder(e), x))
            rate.add(self.prior.nll(indices))
            usage += self.quantizer.counts(indices)
            distance.add((z_e - e).square().sum((1, 2, 3)))
            norm.add(z_e.square().sum((1, 2, 3)))
        neg_elbo = distortion.value + rate.value
        rate_uniform = math.prod(self.prior.grid) * math.log(self.quantizer.codes)
        values = {
            "neg_elbo": neg_elbo,
            "neg_elbo_error": 0.0,  # the posterior is deterministic, so −ELBO is exact
            "rate": rate.value,
            "distortion": distortion.value,
            "bits_per_dim": bits_per_dim(neg_elbo, self.image),
            "neg_elbo_uniform": distortion.value + rate_uniform,
            "rate_uniform": rate_uniform,
            "perplexity": perplexity(usage),
            "codes_used": float((usage > 0).sum()),
            "code_distance": distance.value / norm.value if norm.value else math.nan,
        }
        images = bound_by_image(distortion.each, rate.each, self.image)
        uniform = torch.full_like(distortion.each, rate_uniform)
        return Measured(values, images | {"rate_uniform": uniform, "neg_elbo_uniform": distortion.each + uniform})
