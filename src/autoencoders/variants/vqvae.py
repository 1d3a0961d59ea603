"""VQ-VAE: an autoencoder whose code is a grid of entries from a learned codebook, and a prior learned over them.

    posterior      one-hot at k = argmin_j ‖z_e(x) − e_j‖
    decoder input  z_q(x) = e_k, whose gradient is copied straight through to z_e(x)
    loss           −log p(x|z_q) + ‖sg[z_e(x)] − e‖² + β‖z_e(x) − sg[e]‖²

van den Oord et al. 2017, equations 1 to 3. The posterior is deterministic, so the rate is −log p(k) alone: L·log K
under the uniform prior of the training, less under the prior that is learned afterwards.
"""

import math
from collections.abc import Iterable

import torch
from pydantic import ConfigDict, NonNegativeFloat, PositiveInt
from torch import Tensor
from typing_extensions import TypedDict

from autoencoders.base import Autoencoder, Losses, Phase, Shape
from autoencoders.budget import BudgetOverrides
from autoencoders.metrics import perplexity
from autoencoders.modules.likelihoods import LIKELIHOODS, Likelihood, bits_per_dim
from autoencoders.modules.networks import GridDecoder, GridEncoder, Width, grid_of
from autoencoders.modules.prior import CausalPrior
from autoencoders.modules.quantizer import Codebook


class PriorParams(TypedDict):
    """The keys of `prior`: the transformer's size and its own training budget."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    training: BudgetOverrides


class VQVAE(Autoencoder):
    """`codes` vectors of size `code_size`, one for every 4×4 pixels of the image; `width` feature maps."""

    undefined = {
        "active_units": "a discrete code has no E_q[z] to vary",
        "traversal": "a discrete code has no direction to move along",
    }

    def __init__(
        self,
        image: Shape,
        *,
        codes: PositiveInt,
        code_size: PositiveInt,
        width: Width,
        beta: NonNegativeFloat,
        likelihood: Likelihood,
        prior: PriorParams,
    ) -> None:
        super().__init__(image)
        self.beta = beta
        self.encoder = GridEncoder(image, width, code_size)
        self.codebook = Codebook(codes, code_size)
        self.decoder = GridDecoder(image, width, code_size)
        self.likelihood = LIKELIHOODS[likelihood]()
        size = {"width": prior["width"], "layers": prior["layers"], "heads": prior["heads"]}
        self.prior = CausalPrior(grid_of(image), codes, **size)
        self.prior_training = prior["training"]

    def start_from(self, x: Tensor) -> None:
        """Start with the mean colour of x as the output."""
        self.decoder.output.start_at(x)

    def encode(self, x: Tensor) -> Tensor:
        """z_e, shape (B, code_size, h, w)."""
        return self.encoder(x).float()

    def decode(self, z: Tensor) -> Tensor:
        """E[x|z_q] of the codes nearest to z, shape (B, C, H, W)."""
        return self.decode_indices(self.codebook.nearest(z))

    def indices(self, x: Tensor) -> Tensor:
        """k, shape (B, h, w)."""
        return self.codebook.nearest(self.encode(x))

    def decode_indices(self, indices: Tensor) -> Tensor:
        """E[x|z_q] of codes (B, h, w): images, shape (B, C, H, W)."""
        return self.likelihood.mean(self.decoder(self.codebook.lookup(indices)))

    def loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Losses:
        """Equation 3, each term summed over the image."""
        quantized = self.codebook(self.encode(inputs), generator)
        distortion = self.likelihood.nll(self.decoder(quantized.z_q), targets).mean()
        return {
            "loss": distortion + quantized.codebook_loss + self.beta * quantized.commitment_loss,
            "distortion": distortion,
            "commitment": quantized.commitment_loss,
        }

    def phases(self) -> list[Phase]:
        """The autoencoder, then the prior over its codes."""
        return [*super().phases(), Phase("prior", self.prior, self.indices, self.prior_training)]

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Images decoded from codes that the learned prior draws."""
        return self.decode_indices(self.prior.sample(count, generator))

    def code_counts(self, batches: Iterable[Tensor]) -> Tensor:
        """How often each code is used, shape (codes,)."""
        return torch.stack([self.codebook.counts(self.indices(x)) for x in batches]).sum(0)

    def measure(self, batches: Iterable[Tensor], generator: torch.Generator) -> dict[str, float]:  # noqa: ARG002
        """−ELBO in nats per image under the learned and the uniform prior; use of the codebook; ‖z_e − e‖²/‖z_e‖²."""
        distortions, rates, counts, distances, norms = [], [], [], [], []
        for x in batches:
            z_e = self.encode(x)
            indices = self.codebook.nearest(z_e)
            e = self.codebook.lookup(indices)
            distortions.append(self.likelihood.nll(self.decoder(e), x))
            rates.append(self.prior.nll(indices))
            counts.append(self.codebook.counts(indices))
            distances.append((z_e - e).square().sum())
            norms.append(z_e.square().sum())
        distortion, rate = (torch.cat(parts).double().mean().item() for parts in (distortions, rates))
        usage = torch.stack(counts).sum(0)
        rate_uniform = math.prod(self.prior.grid) * math.log(len(usage))
        return {
            "neg_elbo": distortion + rate,
            "rate": rate,
            "distortion": distortion,
            "bits_per_dim": bits_per_dim(distortion + rate, self.image),
            "neg_elbo_uniform": distortion + rate_uniform,
            "rate_uniform": rate_uniform,
            "perplexity": perplexity(usage),
            "codes_used": float((usage > 0).sum()),
            "code_distance": (torch.stack(distances).sum() / torch.stack(norms).sum()).item(),
        }
