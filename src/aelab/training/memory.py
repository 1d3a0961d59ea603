"""What a training step takes of the memory, by a look at two images: known before hours of work begin."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from aelab.core.settings import COPIES, Budget, Precision
from aelab.models.base import Autoencoder, Batch, Phase
from aelab.training.step import losses_of

PROBED = 2  # images; of one alone a batch has no variance
# A step's peak over what it keeps for the backward pass. With a CPU it was 1.9 to 2.7 (AE, VAE, VQ-VAE and its prior;
# 64 and 128 pixels): gradients, the scratch memory of convolutions, what malloc holds back. A GPU is asked for what is
# certain alone, since its driver says at once when it has no more.
OVERHEAD = {"cpu": 2.25}


@dataclass(frozen=True)
class Need:
    """Bytes that one phase of a training takes."""

    phase: str
    batch: int  # images in a step, over all processes
    fixed: int  # bytes, however many images
    per_image: int  # bytes

    def bytes(self, images: int) -> int:
        """Of a step with so many images."""
        return self.fixed + images * self.per_image

    def fitting(self, room: int) -> int:
        """How many images a step could have within `room` bytes; 0: not even one."""
        return max(0, (room - self.fixed) // self.per_image)


def needs(model: Autoencoder, budget: Budget, precision: Precision, device: str = "cpu") -> list[Need]:
    """What each phase of a training takes, the images that wait for their turn left out.

    Args:
        model: on the CPU; not to be trained afterwards, since a loss may change its state.
        budget: of every phase that does not override it.
        precision: of the arithmetic.
        device: the kind of device that is to train.
    """
    with model.unchecked():
        return [_need(phase, model, budget.override(phase.training), precision, device) for phase in model.phases()]


def _need(phase: Phase, model: Autoencoder, budget: Budget, precision: Precision, device: str) -> Need:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(PROBED, *model.image, generator=generator)
    with torch.no_grad():
        learned = x if phase.represent is None else phase.represent(x).long()
    batch = Batch(learned, learned, generator, torch.zeros((), dtype=torch.int64), budget.steps, PROBED)
    own = {_storage(each) for each in phase.module.state_dict(keep_vars=True).values()}
    kept = dict[int, Tensor]()  # by storage, which several tensors may share

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
    return tensor.untyped_storage()._cdata  # noqa: SLF001 - its address says nothing where it is empty


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(each.untyped_storage().nbytes() for each in tensors)
