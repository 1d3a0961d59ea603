"""Base class of the variants whose code is a point, not a distribution. A subclass defines the loss."""

from torch import Tensor

from aelab.models.base import Autoencoder, CodeSize, Shape
from aelab.models.layers import mean_colour
from aelab.models.network import NETWORKS, NetworkSection


class Deterministic(Autoencoder):
    """An autoencoder with the encoder z = g_φ(x), the decoder x′ = f_θ(z), and a code z of `code` numbers."""

    undefined = {
        **dict.fromkeys(
            ("bound", "samples", "kl_per_dimension"), "the code is a point: there is no q(z|x) and no prior p(z)"
        ),
        "codebook": "there is no codebook",
    }

    def __init__(self, image: Shape, *, network: NetworkSection, code: CodeSize) -> None:
        super().__init__(image)
        built = NETWORKS.build(network, image)
        self.encoder = built.encoder(code)
        self.decoder = built.decoder(code)

    def start_from(self, x: Tensor) -> None:
        """Set the decoder's bias so that the initial output is the mean colour of x."""
        self.decoder.start_at(mean_colour(x).logit())

    def encode(self, x: Tensor) -> Tensor:
        """Return z = g_φ(x), (B, code)."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Return x′ = f_θ(z), (B, C, H, W)."""
        return self.decoder(z).sigmoid()


def squared_error(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Compute "loss", 1/n · Σ ‖x_i − y_i‖², and "mse", the mean squared error of a pixel value, both ().

    The images x and y are (B, C, H, W).
    """
    error = (x - y).square().flatten(1)
    return {"loss": error.sum(1).mean(), "mse": error.mean()}
