"""What the variants share whose code is a point: everything but the loss."""

from torch import Tensor

from aelab.models.base import Autoencoder, CodeSize, Shape
from aelab.models.layers import mean_colour
from aelab.models.network import NETWORKS, NetworkSection


class Deterministic(Autoencoder):
    """z = g_φ(x), x′ = f_θ(z), with a code of `code` numbers."""

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
        """Start with the mean colour of x as the output."""
        self.decoder.start_at(mean_colour(x).logit())

    def encode(self, x: Tensor) -> Tensor:
        """z, shape (B, code)."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """x′, shape (B, C, H, W)."""
        return self.decoder(z).sigmoid()


def squared_error(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """1/n · Σ ‖x_i − y_i‖² as "loss", and the same per image dimension as "mse": (B, C, H, W) both → ()."""
    error = (x - y).square().flatten(1)
    return {"loss": error.sum(1).mean(), "mse": error.mean()}
