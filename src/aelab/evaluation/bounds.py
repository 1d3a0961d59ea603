"""Importance-weighted bounds on −log p(x) (Burda et al. 2016, section 3).

    −log p(x) ≤ −E[log 1/k · Σ_i w_i],  log w_i = log p(x|z_i) + log p(z_i) − log q(z_i|x),  z_i ~ q(z|x)

The sum is over k samples z_1 … z_k. The bound falls towards −log p(x) as k grows. With k = 1 the bound is −ELBO.
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
    """Result of importance sampling with k samples z for each of n images. Each tensor is float64 of shape (n,)."""

    nll: Tensor  # Importance-weighted bound on −log p(x), in nats.
    variance: Tensor  # Monte Carlo variance of `nll` (delta method); too low if few samples dominate the sum.
    effective: Tensor  # Effective sample size (Σw)²/Σw²; low if q(z|x) is far from the true posterior.
    gap: Tensor  # Difference in nats: −ELBO, estimated from the same k samples, minus `nll`.

    @property
    def error(self) -> float:
        """Monte Carlo standard error of the mean of `nll` over the n images, in nats."""
        return self.variance.sum().sqrt().item() / len(self.variance)

    def of_all(self, neg_elbo: float, neg_elbo_error: float, count: int) -> tuple[float, float]:
        """Estimate the mean bound over `count` images. This object has the results for n of these images.

        The mean −ELBO over all `count` images is known. So only the mean gap between −ELBO and the bound is estimated
        from the n images. Between images, the gap varies far less than the bound (a control variate, coefficient 1).

        Args:
            neg_elbo: mean −ELBO over all `count` images, in nats.
            neg_elbo_error: standard error of `neg_elbo`, in nats.
            count: number of images, at least n.

        Returns:
            The mean bound and its standard error, in nats.
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
    """Compute the importance-weighted bound for every image.

    Args:
        model: a model that defines `log_weights`, in evaluation mode.
        batches: images (B, C, H, W) on the model's device, floats in [0, 1].
        samples: k, the number of samples z for each image.
        generator: random generator for the samples z.
        rows: maximum number of samples z that are decoded at once, over all images together. With this limit, the
            memory does not depend on k.
    """
    together = [x for batch in batches for x in batch.split(max(1, rows // samples))]
    turns = [(x, max(1, rows // len(x))) for x in together]  # images, and the number of samples per image in one step
    steps = iter(counted(range(sum(math.ceil(samples / chunk) for _, chunk in turns))))
    parts = [_of(model, x, samples, generator, chunk, steps) for x, chunk in turns]
    return Bound(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _of(
    model: Autoencoder, x: Tensor, samples: int, generator: torch.Generator, chunk: int, steps: Iterator[int]
) -> tuple[Tensor, ...]:
    """Compute the fields of `Bound` for the images x. Each step draws at most `chunk` samples z for each image.

    `steps` counts the steps for the progress lines.
    """
    first = second = torch.full_like(in_float64(x.flatten(1)[:, 0]), -math.inf)
    total = torch.zeros_like(first)
    for done, _ in zip(range(0, samples, chunk), steps, strict=False):
        log_weights = in_float64(model.log_weights(x, x, min(chunk, samples - done), generator))
        first = torch.logaddexp(first, log_weights.logsumexp(1))  # log Σ w
        second = torch.logaddexp(second, (2 * log_weights).logsumexp(1))  # log Σ w²
        total += log_weights.sum(1)
    nll = math.log(samples) - first
    variance = ((second - 2 * first).exp() - 1 / samples).clamp(min=0)  # Var(w̄)/w̄², the variance of log w̄
    effective = (2 * first - second).exp()
    return nll.cpu(), variance.cpu(), effective.cpu(), (-total / samples - nll).cpu()
