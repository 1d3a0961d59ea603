"""Memory need of a training step, estimated from two images before the training starts."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from aelab.core.settings import COPIES, Budget, Precision
from aelab.models.base import Autoencoder, Batch, Phase
from aelab.training.step import losses_of

PROBED = 2  # number of images in the estimate; with one image, a variance over the batch would be undefined
# Peak memory of a step, divided by the memory of the tensors that the step keeps for the backward pass. On a CPU, the
# measured ratio was 1.9 to 2.7 (AE, VAE, VQ-VAE and its prior; images of 64×64 and 128×128 pixels). The rest of the
# peak is gradients, scratch memory of convolutions, and memory that malloc keeps. For a GPU, the estimate uses the
# ratio 1. On a GPU, a low estimate does no harm, because a GPU reports at once when its memory is full.
OVERHEAD = {"cpu": 2.25}


@dataclass(frozen=True)
class Need:
    """Memory need of one phase of a training. A phase trains one module of the model.

    Attributes:
        phase: name of the phase.
        batch: number of images in a step, of all processes together.
        fixed: bytes that do not depend on the number of images.
        per_image: further bytes for each image of a step.
    """

    phase: str
    batch: int
    fixed: int
    per_image: int

    def bytes(self, images: int) -> int:
        """Return the memory need of a step on `images` images, in bytes."""
        return self.fixed + images * self.per_image

    def fitting(self, room: int) -> int:
        """Return the largest number of images in a step within `room` bytes; 0 if no image fits."""
        return max(0, (room - self.fixed) // self.per_image)


def needs(model: Autoencoder, budget: Budget, precision: Precision, device: str = "cpu") -> list[Need]:
    """Estimate the memory need of each phase of a model's training. The estimate uses random images, not the data set.

    Args:
        model: a model on the CPU. Do not train the model afterwards, because the estimate may change its state.
        budget: steps and batch size of every phase that does not override them.
        precision: precision of the arithmetic.
        device: kind of the device of the training, such as "cpu" or "cuda".

    Returns:
        The need of each phase, in order.
    """
    with model.unchecked():
        return [_need(phase, model, budget.override(phase.training), precision, device) for phase in model.phases()]


def _need(phase: Phase, model: Autoencoder, budget: Budget, precision: Precision, device: str) -> Need:
    """Estimate the memory need of one phase.

    The function computes the phase's loss on two random images, and measures the tensors that torch keeps for the
    backward pass.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(PROBED, *model.image, generator=generator)
    with torch.no_grad():
        learned = x if phase.represent is None else phase.represent(x).long()
    batch = Batch(learned, learned, generator, torch.zeros((), dtype=torch.int64), budget.steps, PROBED)
    own = {_storage(each) for each in phase.module.state_dict(keep_vars=True).values()}
    kept = dict[int, Tensor]()  # by storage, so that a storage counts only once if several tensors share it

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept.setdefault(_storage(tensor), tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses_of(phase.module.train(), batch, precision)
    weights, values = map(_bytes, (phase.module.state_dict().values(), kept.values()))
    per_image = max(1, round(OVERHEAD.get(device, 1.0) * values / PROBED))
    return Need(phase.name, budget.batch_size, COPIES * weights, per_image)


def _storage(tensor: Tensor) -> int:
    """Number that identifies the memory of a tensor."""
    return tensor.untyped_storage()._cdata  # noqa: SLF001 - data_ptr() is equal for all empty storages


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(each.untyped_storage().nbytes() for each in tensors)
