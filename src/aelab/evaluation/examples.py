"""Examples: what there is to draw of a trained model. `evaluate` writes them as safetensors, the report reads them.

In the file an image of a figure has the key "figure/row/label", everything else its own name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Array: TypeAlias = NDArray[Any]
Rows: TypeAlias = Sequence[tuple[str, Array]]  # labels, and images (n, C, H, W)

STATISTICS = ("kl_per_dimension", "code_usage", "code_map")


@dataclass(frozen=True)
class Examples:
    """Images (n, C, H, W), floats in [0, 1] as a model gives them, or uint8 as they are stored, and statistics."""

    images: dict[str, Array]  # "original", "reconstruction", "corrupted", "restored": the same ones
    figures: dict[str, Rows]
    # Where they are defined: "kl_per_dimension" (d,) in nats, "code_usage" (K,) as counts, "code_map" (n, 3) of `tsne`.
    statistics: dict[str, Array]

    def write(self, path: Path) -> None:
        """Write the images, which are floats, as uint8."""
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
    """The examples in `path`, their images as uint8."""
    examples = Examples({}, {}, {})
    for key, array in sorted(load_file(path).items()):
        if "/" in key:
            figure, _, label = key.split("/", 2)
            examples.figures[figure] = [*examples.figures.get(figure, []), (label, array)]
        else:
            (examples.statistics if key in STATISTICS else examples.images)[key] = array
    return examples
