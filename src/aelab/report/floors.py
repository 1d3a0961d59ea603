"""Floors of metrics: baselines that need no model, only the data set. The stage `classify` measures them."""

from collections.abc import Mapping

FILES = {"png": "PNG", "webp": "WebP"}


def likelihood(measured: Mapping[str, float], pixels: str) -> dict[str, float]:
    """Return the floors of −ELBO, in nats, by name.

    If gray values are the probabilities of white pixels, the floor is the entropy of the binarisation. No −ELBO can be
    lower. For other discrete pixels, the floors are the sizes of lossless files. Continuous pixels have no floor.

    Args:
        measured: results of `evaluation.lossless.floors`; may be empty.
        pixels: how the likelihood models a pixel, and how images are binarised.
    """
    if not measured or pixels.startswith("continuous"):
        return {}
    if pixels.startswith("Bernoulli") and (entropy := measured["binarisation_nats"]):
        return {"entropy of the binarisation": entropy}
    return {title: measured[f"{name}_nats"] for name, title in FILES.items()}


def of_data(classified: Mapping[str, Mapping[str, float]], name: str, pixels: str | None) -> dict[str, float]:
    """Return, by name, those floors of a metric that need no model, only the data set.

    Args:
        classified: results of the stage `classify`: `metrics` and `floors`.
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
