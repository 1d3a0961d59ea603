"""Importance-weighted bounds on −log p(x) (Burda et al. 2016, section 3).

    −log p(x) ≤ −E[log 1/k · Σ_i w_i],  log w_i = log p(x|z_i) + log p(z_i) − log q(z_i|x),  z_i ~ q(z|x)

The bound falls as k grows, towards −log p(x); k = 1 is −ELBO.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from aelab.core.progress import counted
from aelab.core.tensors import in_float64
from aelab.models.base import Autoencoder


@dataclass(frozen=True)
class Bound:
    """What importance sampling says about each of n images, in nats; each tensor has shape (n,), float64."""

    nll: Tensor  # the bound with k samples
    variance: Tensor  # of that estimate (delta method): too small where few of the samples weigh anything
    effective: Tensor  # samples, (Σw)²/Σw² of the k: few where q(z|x) is far from the true posterior
    gap: Tensor  # the bound with one sample minus that with k

    @property
    def error(self) -> float:
        """The Monte Carlo standard error of the mean bound."""
        return self.variance.sum().sqrt().item() / len(self.variance)

    def of_all(self, neg_elbo: float, neg_elbo_error: float, count: int) -> tuple[float, float]:
        """The mean bound over `count` images of which these n are a sample, and its standard error.

        −ELBO is known for all of them, so only the gap is estimated from the n: images differ far less in it than in
        their likelihoods (a control variate with coefficient 1).
        """
        n = len(self.nll)
        if n == count:
            return self.nll.mean().item(), self.error
        sampling = self.gap.var().item() / n * (1 - n / count)
        error = math.sqrt(neg_elbo_error**2 + sampling + self.error**2)
        return neg_elbo - self.gap.mean().item(), error


@torch.no_grad()
def importance_weighted(
    model: Autoencoder, batches: Iterable[Tensor], samples: int, generator: torch.Generator, rows: int
) -> Bound:
    """The bound with k = `samples` for every image x of `batches` (B, C, H, W).

    Images and samples are decoded together, `rows` at a time; memory does not grow with k.
    """
    together = [x for batch in batches for x in batch.split(max(1, rows // samples))]
    turns = [(x, max(1, rows // len(x))) for x in together]
    steps = iter(counted(range(sum(math.ceil(samples / chunk) for _, chunk in turns))))
    parts = [_of(model, x, samples, generator, chunk, steps) for x, chunk in turns]
    return Bound(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _of(
    model: Autoencoder, x: Tensor, samples: int, generator: torch.Generator, chunk: int, steps: Iterator[int]
) -> tuple[Tensor, ...]:
    """NLL, its variance, effective samples and the gap of images x, from `chunk` samples at a time, one of `steps`."""
    first = second = torch.full_like(in_float64(x.flatten(1)[:, 0]), -math.inf)
    total = torch.zeros_like(first)
    for done, _ in zip(range(0, samples, chunk), steps, strict=False):
        log_weights = in_float64(model.log_weights(x, x, min(chunk, samples - done), generator))
        first = torch.logaddexp(first, log_weights.logsumexp(1))  # log Σ w
        second = torch.logaddexp(second, (2 * log_weights).logsumexp(1))  # log Σ w²
        total += log_weights.sum(1)
    nll = math.log(samples) - first
    variance = ((second - 2 * first).exp() - 1 / samples).clamp(min=0)  # of log 1/k Σ w, since Var(w̄)/w̄² is this
    effective = (2 * first - second).exp()
    return nll.cpu(), variance.cpu(), effective.cpu(), (-total / samples - nll).cpu()
