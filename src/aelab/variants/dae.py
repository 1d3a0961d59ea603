"""DAE: an autoencoder that sees a corrupted image and must reproduce the clean image.

    x̃ ~ C(x̃|x),  z = g_φ(x̃),  x′ = f_θ(z),  loss = 1/n · Σ ‖x_i − f_θ(g_φ(x̃_i))‖²

Vincent et al. 2008. In `params.yaml`, the key `inputs` of a model names the corruption C. The pipeline's stage
`corrupt` applies C to the images before the training. A model that copies its input does not minimise this loss.
"""

from aelab.models.base import Batch, Losses
from aelab.variants._deterministic import Deterministic, squared_error


class DAE(Deterministic):
    """A denoising autoencoder."""

    inputs = "corrupted"

    def loss(self, batch: Batch) -> Losses:
        """Compute the squared error. The batch's inputs are the corrupted images x̃, its targets the clean images x."""
        return squared_error(batch.targets, self.reconstruct(batch.inputs))
