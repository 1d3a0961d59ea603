"""DAE: an autoencoder that sees a corrupted image and must reproduce the clean image.

    x̃ ~ C(x̃|x),  z = g_φ(x̃),  x′ = f_θ(z),  loss = 1/n · Σ ‖x_i − f_θ(g_φ(x̃_i))‖²

Vincent et al. 2008. The stage `corrupt` applies the corruption C before training. An entry's `inputs` in `params.yaml`
names the corruption. Copying the input does not minimise this loss.
"""

from aelab.models.base import Batch, Losses
from aelab.variants._deterministic import Deterministic, squared_error


class DAE(Deterministic):
    """A denoising autoencoder."""

    inputs = "corrupted"

    def loss(self, batch: Batch) -> Losses:
        """Compute the squared error between the output for x̃, the batch's inputs, and x, its targets."""
        return squared_error(batch.targets, self.reconstruct(batch.inputs))
