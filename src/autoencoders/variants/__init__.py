"""The variants, one file each: an entry of `params.yaml` names the file as its `model`."""

from autoencoders.base import Autoencoder
from autoencoders.registry import Registry

VARIANTS: Registry[Autoencoder] = Registry(__name__, Autoencoder, "model")  # type: ignore[type-abstract]
