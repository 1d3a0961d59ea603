"""Floors: baselines that the stage `classify` computes from the data set alone, without an autoencoder."""

from collections.abc import Mapping

FILES = {"png": "PNG", "webp": "WebP"}


def likelihood(measured: Mapping[str, float], pixels: str) -> dict[str, float]:
    """Return the floors of −ELBO, in nats, by name.

    For a Bernoulli likelihood of gray images, the gray value of a pixel is the probability of white. The floor is the
    entropy of these pixels, and no −ELBO can be lower. For other discrete pixels, the floors are the sizes of lossless
    files. For continuous pixels, there is no floor.

    Args:
        measured: the floors that `evaluation.lossless.floors` measured; may be empty.
        pixels: how the likelihood models a pixel, and how images are binarised.
    """
    if not measured or pixels.startswith("continuous"):
        return {}
    if pixels.startswith("Bernoulli") and (entropy := measured["binarisation_nats"]):
        return {"entropy of the binarisation": entropy}
    return {title: measured[f"{name}_nats"] for name, title in FILES.items()}


def of_data(classified: Mapping[str, Mapping[str, float]], name: str, pixels: str | None) -> dict[str, float]:
    """Return, by name, the floors of a metric that were measured on the data set alone.

    Args:
        classified: results of the stage `classify`, with the keys `metrics` and `floors`.
        name: the metric.
        pixels: how the likelihood models a pixel; None for a metric that is no likelihood.
    """
    if name == "frechet" and "frechet_floor" in classified["metrics"]:
        return {"training images": classified["metrics"]["frechet_floor"]}
    return likelihood(classified.get("floors", {}), pixels) if name == "neg_elbo" and pixels else {}


def note(measured: Mapping[str, float], pixels: str) -> str:
    """Return the floors of −ELBO as a sentence."""
    floors = likelihood(measured, pixels)
    if "entropy of the binarisation" in floors:
        entropy = floors["entropy of the binarisation"]
        return f"The entropy of the binarisation is {entropy:,.1f} nats; no −ELBO is lower."
    files = [
        f"{title} {measured[f'{name}_nats']:,.1f} nats, {measured[f'{name}_bits_per_dim']:.2f} bits/dim"
        for name, title in FILES.items()
        if title in floors
    ]
    return f"Mean size of an image as a lossless file, with its header: {'; '.join(files)}." if files else ""
