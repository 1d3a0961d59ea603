"""Small convolutional classifier, which also computes features of images.

    f(x) = ReLU(W₁·convolutions(x)),  p(y|x) = softmax(W₂·f(x)),  loss = −log p(y|x)

The features f(x) are the input of the last layer. `fidelity.py` compares generated samples with real images by these
features. Each data set has its own classifier, trained on the data set's images and their classes. Distances between
features can therefore be compared only within one data set.
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
HALVINGS = 2  # Minimum number of convolutions. Each convolution halves height and width.


class Classifier(Learner):
    """Classifier with three parts: 5×5 convolutions of stride 2, a fully connected layer, and an output layer.

    The fully connected layer returns the features. Large images have more convolutions, because the feature maps that
    enter the fully connected layer must have at most `LARGEST`×`LARGEST` pixels.

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
        """Logits, which are log p(y|x) plus a constant for each image: (B, C, H, W) → (B, classes)."""
        return self.head(self.features(x))

    def loss(self, batch: Batch) -> Losses:
        """Mean cross-entropy of a batch. The targets of the batch are the true classes, int64 (B,)."""
        return {"loss": F.cross_entropy(self(batch.inputs).float(), batch.targets)}


@torch.no_grad()
def accuracy(model: Classifier, images: Pairs) -> float:
    """Accuracy: the percentage of images whose predicted class is the true class.

    Args:
        model: in evaluation mode, on any device.
        images: images, uint8 (N, C, H, W), paired with their true classes, int64 (N,).
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
        A value for each image, (B,): 100 if the two predicted classes are equal, else 0. The mean is a percentage.
    """
    return 100.0 * (model(output).argmax(1) == model(image).argmax(1))


@torch.no_grad()
def features(model: Classifier, batches: Iterable[Tensor]) -> Tensor:
    """Features f(x) of the images in all batches.

    Args:
        model: in evaluation mode.
        batches: images (B, C, H, W) on the model's device, floats in [0, 1].

    Returns:
        The features, float64 (N, FEATURES), on the CPU.
    """
    return torch.cat([model.features(x).cpu().double() for x in batches])


def save(model: Classifier, path: Path) -> None:
    """Write the classifier to the file `path`. The file contains its own hash, so `load` detects later changes."""
    tensor_file.write(path, model.state_dict(), model.configuration)


def load(path: Path, device: torch.device) -> Classifier:
    """Load the classifier from the file `path`, in evaluation mode.

    Raises:
        UserError: the file does not contain a classifier, or has changed since `save` wrote it.
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
