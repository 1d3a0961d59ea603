"""The variants, one file each: an entry of `params.yaml` names the file as its `model`."""

from autoencoders.base import Autoencoder
from autoencoders.parts import Kind

VARIANTS: Kind[Autoencoder] = Kind(__name__, Autoencoder, "model")  # type: ignore[type-abstract]
