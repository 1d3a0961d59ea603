"""Corruption of images: noise that a denoising autoencoder learns to remove. Every model is tested on corrupted images.

Each kind of noise draws one 16-bit integer for each value of an image. The integer is compared with a threshold, or is
the index into a table of noise values. So the same parameters give the same bytes on every machine.

A mixture draws one of the corruptions C_1 … C_K for each image, with equal probability: C(x̃|x) = 1/K · Σ C_k(x̃|x).
"""

import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from aelab.core import arrays
from aelab.core.errors import UserError, did_you_mean
from aelab.data.checks import check_stored
from aelab.data.datasets import Bytes

DRAWS = 2**16  # the random integers are below this number


def corrupt(images: Bytes, kind: str, level: float, *, seed: int, name: str) -> Bytes:
    """Return a corrupted copy of `images`.

    Args:
        images: Clean images, uint8 (N, C, H, W), which stay unchanged.
        kind: Kind of the noise: "masking" (black pixels), "gaussian", or "salt_and_pepper" (black and white pixels).
        level: Strength of the noise, above 0 and at most 1. For "gaussian", the level is the standard deviation, in
            units of the pixel range. For the other kinds, the level is the probability that noise replaces a value.
        seed: Seed of the noise, at least 0.
        name: Name of the copy. Copies with different names have independent noise.

    Returns:
        The corrupted images, uint8 (N, C, H, W). The same arguments give the same bytes on every machine.

    Raises:
        UserError: `images` are not a uint8 array (N, C, H, W), `kind` is unknown, or `level` is out of range.

    Source:
        Vincent et al. 2010, section 3.3, for masking noise.
    """
    check_stored(images, what="images to corrupt")
    if not isinstance(kind, str) or kind not in KINDS:
        msg = f"there is no corruption {kind!r}; there are {', '.join(KINDS)}{did_you_mean(str(kind), KINDS)}"
        raise UserError(msg)
    if not isinstance(level, int | float) or not 0 < level <= 1:
        msg = f"the level of a corruption is {level!r}: must be a number above 0, and at most 1"
        raise UserError(msg)
    return np.concatenate(list(mixture(images, [(kind, level)], seed=seed, name=name)))


def mixture(images: Bytes, corruptions: Sequence[tuple[str, float]], *, seed: int, name: str) -> Iterator[Bytes]:
    """Yield a corrupted copy of `images` in pieces. Each image gets one of the `corruptions`, with equal probability.

    Args:
        images: Clean images, uint8 (N, …), which stay unchanged.
        corruptions: Kind and level of each corruption, as in `corrupt`.
        seed: Seed of the noise. The noise depends only on `seed`, `corruptions` and `name`.
        name: Name of the copy. Copies with different names have independent noise.
    """
    key = zlib.crc32("/".join([*(f"{kind}/{level}" for kind, level in corruptions), name]).encode())
    rng = np.random.default_rng([seed, key])
    which = np.random.default_rng([seed, key, 1]).integers(0, len(corruptions), len(images), dtype=np.uint16)
    # NumPy draws 16-bit numbers in pairs. Every piece has an even number of rows, so each pair belongs to one piece.
    # Therefore, the size of the pieces does not change the noise.
    for piece in arrays.pieces(len(images), 8 * images[:1].nbytes):
        clean = images[piece]
        draws = rng.integers(0, DRAWS, clean.shape, dtype=np.uint16)
        noisy = np.empty_like(clean)
        for k, (kind, level) in enumerate(corruptions):
            hit = which[piece] == k
            noisy[hit] = KINDS[kind](clean[hit], draws[hit], level)
        yield noisy
        arrays.release(images)


def masking(images: Bytes, draws: NDArray[np.uint16], level: float) -> Bytes:
    """Set each value to 0 with probability `level` (Vincent et al. 2010, section 3.3)."""
    return np.where(draws < round(level * DRAWS), np.uint8(0), images)


def gaussian(images: Bytes, draws: NDArray[np.uint16], level: float) -> Bytes:
    """Add normal noise with standard deviation `level`, in units of the pixel range, and clip to the range."""
    from scipy.special import ndtri  # noqa: PLC0415 - every stage imports this module; few of them need scipy

    quantiles = ndtri((np.arange(DRAWS) + 0.5) / DRAWS)
    noise = np.rint(255 * level * quantiles).astype(np.int16)
    return np.clip(images + noise[draws], 0, 255).astype(np.uint8)


def salt_and_pepper(images: Bytes, draws: NDArray[np.uint16], level: float) -> Bytes:
    """Replace each value with probability `level`. The new value is black or white, with equal probability."""
    half = round(level / 2 * DRAWS)
    return np.where(draws < half, np.uint8(0), np.where(draws >= DRAWS - half, np.uint8(255), images))


KINDS: dict[str, Callable[[Bytes, NDArray[np.uint16], float], Bytes]] = {
    "masking": masking,
    "gaussian": gaussian,
    "salt_and_pepper": salt_and_pepper,
}
