"""What the floors share: models that learn nothing step by step, so that others show what their learning gives."""

from aelab.models.base import Autoencoder, Batch, Losses, Phase
from aelab.variants._deterministic import Deterministic, squared_error


class Floor(Autoencoder):
    """A floor sees clean images, has no training, and is the same for every seed."""

    floor = True
    inputs = "clean"
    undefined = Deterministic.undefined

    def phases(self) -> list[Phase]:
        """None."""
        return []

    def loss(self, batch: Batch) -> Losses:
        """The squared error, which no training brings down."""
        return squared_error(batch.targets, self.reconstruct(batch.inputs))
