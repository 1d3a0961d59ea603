"""Base class of the floors: baselines without training, which show how much the other models gain by training."""

from aelab.models.base import Autoencoder, Batch, Losses, Phase
from aelab.variants._deterministic import Deterministic, squared_error


class Floor(Autoencoder):
    """A baseline that sees clean images, has no training and is the same for every seed."""

    floor = True
    inputs = "clean"
    undefined = Deterministic.undefined

    def phases(self) -> list[Phase]:
        """Return no phases, because a floor is not trained."""
        return []

    def loss(self, batch: Batch) -> Losses:
        """Compute the squared error between reconstructions and targets."""
        return squared_error(batch.targets, self.reconstruct(batch.inputs))
