"""The variants, one file each: a variant's name in `params.yaml` is its file's, its only subclass the model."""

from autoencoders.base import Autoencoder
from autoencoders.parts import Kind

VARIANTS: Kind[Autoencoder] = Kind(__name__, Autoencoder, "model")  # type: ignore[type-abstract]
