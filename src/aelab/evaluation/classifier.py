"""A small convolutional classifier, in whose features samples are compared with images.

    f(x) = ReLU(W₁·convolutions(x)),  p(y|x) = softmax(W₂·f(x)),  loss = −log p(y|x)

The features f(x) are what its last layer sees. It learns from the images and labels of the data set itself, so a
distance between features says something about this data set and this classifier, and nothing beyond.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aelab.core import tensor_file
from aelab.core.errors import UserError
from aelab.core.tensors import BATCH, as_float, device_of
from aelab.data.pairs import Pairs
from aelab.models.base import Batch, Learner, Losses, Shape
from aelab.models.layers import LARGEST
from aelab.models.statistics import Mean

FEATURES = 64  # numbers in f(x)
MAPS = 16  # of the first convolution, half as many as of the others
HALVINGS = 2  # of an image's sides, at least


class Classifier(Learner):
    """5×5 convolutions of stride 2 until a fully connected layer can see the grid; then features, then classes."""

    def __init__(self, image: Shape, classes: int) -> None:
        super().__init__()
        self.configuration: dict[str, Any] = {"image": list(image), "classes": classes}
        channels, height, width = image
        layers: list[nn.Module] = []
        while len(layers) < 2 * HALVINGS or max(height, width) > LARGEST:
            outputs = 2 * MAPS if layers else MAPS
            layers += [nn.Conv2d(channels, outputs, 5, stride=2, padding=2), nn.ReLU()]
            channels, height, width = outputs, (height + 1) // 2, (width + 1) // 2
        self.convolutions = nn.Sequential(*layers)
        self.embedding = nn.Linear(channels * height * width, FEATURES)
        self.head = nn.Linear(FEATURES, classes)
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> Tensor:
        """f(x): (B, C, H, W) → (B, FEATURES)."""
        return self.embedding(self.convolutions(x).permute(0, 2, 3, 1).flatten(1)).relu()

    def forward(self, x: Tensor) -> Tensor:
        """log p(y|x) up to a constant: (B, C, H, W) → (B, classes)."""
        return self.head(self.features(x))

    def loss(self, batch: Batch) -> Losses:
        """The cross-entropy; the batch's targets are classes, (B,) int64."""
        return {"loss": F.cross_entropy(self(batch.inputs).float(), batch.targets)}


@torch.no_grad()
def accuracy(model: Classifier, images: Pairs) -> float:
    """The share of images whose most probable class is their own, in percent."""
    device, hits = device_of(model), Mean()
    for x, y in images.split(BATCH):
        hits.add(100.0 * (model(as_float(x.to(device))).argmax(1) == y.to(device)))
    return hits.value


@torch.no_grad()
def class_kept(model: Classifier, output: Tensor, image: Tensor) -> Tensor:
    """100 where the classifier puts an image's reconstruction into the class that it puts the image into, else 0; both
    (B, C, H, W) with values in [0, 1] → (B,).
    """
    return 100.0 * (model(output).argmax(1) == model(image).argmax(1))


@torch.no_grad()
def features(model: Classifier, batches: Iterable[Tensor]) -> Tensor:
    """f(x) of `batches` of images (B, C, H, W) with values in [0, 1]: (N, FEATURES) float64, on the CPU."""
    return torch.cat([model.features(x).cpu().double() for x in batches])


def save(model: Classifier, path: Path) -> None:
    """Write a classifier as one sealed file."""
    tensor_file.write(path, model.state_dict(), model.configuration)


def load(path: Path, device: torch.device) -> Classifier:
    """The classifier in `path`, in evaluation mode.

    Raises:
        UserError: the file is not a classifier, or not as it was written.
    """
    try:
        tensors, configuration = tensor_file.read(path)
        channels, height, width = configuration["image"]
        model = Classifier((channels, height, width), configuration["classes"])
        model.load_state_dict(tensors)
    except (UserError, LookupError, TypeError, ValueError, RuntimeError) as error:
        msg = f"{path} is not a classifier of this project: {error}"
        raise UserError(msg) from error
    return model.to(device).eval()
