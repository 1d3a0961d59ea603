"""Small convolutional classifier. Its features are used to compare generated samples with real images.

    f(x) = ReLU(W₁·convolutions(x)),  p(y|x) = softmax(W₂·f(x)),  loss = −log p(y|x)

The features f(x) are the input of the last layer. Each data set has its own classifier, trained on its images and
labels. Distances between features are therefore comparable only within one data set.
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

FEATURES = 64  # Dimension of the feature vector f(x).
MAPS = 16  # Output channels of the first convolution. The other convolutions have twice as many.
HALVINGS = 2  # Minimum number of convolutions. Each halves the sides of the image.


class Classifier(Learner):
    """Classifier of 5×5 convolutions with stride 2, a fully connected layer of features, and an output layer.

    Convolutions are added until the grid is small enough for a fully connected layer.

    Args:
        image: shape (C, H, W) of an image.
        classes: number of classes.
    """

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
        """Features f(x) of images: (B, C, H, W) → (B, FEATURES)."""
        return self.embedding(self.convolutions(x).permute(0, 2, 3, 1).flatten(1)).relu()

    def forward(self, x: Tensor) -> Tensor:
        """Logits, log p(y|x) up to a constant: (B, C, H, W) → (B, classes)."""
        return self.head(self.features(x))

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy of a batch whose targets are classes, int64 (B,)."""
        return {"loss": F.cross_entropy(self(batch.inputs).float(), batch.targets)}


@torch.no_grad()
def accuracy(model: Classifier, images: Pairs) -> float:
    """Accuracy in percent: the share of images whose predicted class is their true class.

    Args:
        model: in evaluation mode, on any device.
        images: uint8 (N, C, H, W) with their true classes, int64 (N,).
    """
    device, hits = device_of(model), Mean()
    for x, y in images.split(BATCH):
        hits.add(100.0 * (model(as_float(x.to(device))).argmax(1) == y.to(device)))
    return hits.value


@torch.no_grad()
def class_kept(model: Classifier, output: Tensor, image: Tensor) -> Tensor:
    """Check for each reconstruction whether the classifier predicts the same class as for the original image.

    Args:
        model: in evaluation mode.
        output: reconstructions (B, C, H, W), floats in [0, 1].
        image: the original images, of the same shape and range.

    Returns:
        Percentages (B,), 100 where the two classes are equal, else 0.
    """
    return 100.0 * (model(output).argmax(1) == model(image).argmax(1))


@torch.no_grad()
def features(model: Classifier, batches: Iterable[Tensor]) -> Tensor:
    """Features f(x) of all images.

    Args:
        model: in evaluation mode.
        batches: images (B, C, H, W) on the model's device, floats in [0, 1].

    Returns:
        Float64 (N, FEATURES), on the CPU.
    """
    return torch.cat([model.features(x).cpu().double() for x in batches])


def save(model: Classifier, path: Path) -> None:
    """Write the classifier to `path`, as a file that contains its own hash."""
    tensor_file.write(path, model.state_dict(), model.configuration)


def load(path: Path, device: torch.device) -> Classifier:
    """Load the classifier in `path`, in evaluation mode.

    Raises:
        UserError: the file is no classifier, or its content has changed since `save` wrote it.
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
