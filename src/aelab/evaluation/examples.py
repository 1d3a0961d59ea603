"""Examples of a trained model: the images and statistics that the report draws as figures.

The pipeline's stage `evaluate` writes the examples to a safetensors file, and the report reads this file. In the file,
a row of a figure has the key "figure/row/label", such as "denoising/00/original". All other arrays have the keys of
`Examples.images` and `Examples.statistics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Array: TypeAlias = NDArray[Any]
Rows: TypeAlias = Sequence[tuple[str, Array]]  # each row is a label and images (n, C, H, W)

STATISTICS = ("kl_per_dimension", "code_usage", "code_map")


@dataclass(frozen=True)
class Examples:
    """Images (n, C, H, W) and statistics of a model. The images are floats in [0, 1], or uint8 if read from a file."""

    images: dict[str, Array]  # n images in four versions: "original", "reconstruction", "corrupted", "restored"
    figures: dict[str, Rows]  # the rows of each figure, by the figure's name, such as "interpolation"
    # "kl_per_dimension" (d,) in nats, "code_usage" (K,), which counts how often each code is used, and "code_map"
    # (m, 3) from `tsne.code_map`. A statistic that the model does not define is missing.
    statistics: dict[str, Array]

    def write(self, path: Path) -> None:
        """Write the images and statistics to `path`. The images must be floats, and are stored as uint8."""
        rows = {
            f"{figure}/{i:02d}/{label}": images
            for figure, rows in self.figures.items()
            for i, (label, images) in enumerate(rows)
        }
        stored = {
            key: np.rint(255 * images.clip(0, 1)).astype(np.uint8) for key, images in (self.images | rows).items()
        }
        save_file(stored | self.statistics, path)


def read(path: Path) -> Examples:
    """Read examples from the file `path`. The images are uint8."""
    examples = Examples({}, {}, {})
    for key, array in sorted(load_file(path).items()):
        if "/" in key:
            figure, _, label = key.split("/", 2)
            examples.figures[figure] = [*examples.figures.get(figure, []), (label, array)]
        else:
            (examples.statistics if key in STATISTICS else examples.images)[key] = array
    return examples
