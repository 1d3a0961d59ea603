"""The floors of a likelihood that are of the data set, as the stage `classify` has measured them, by kind of pixels."""

from collections.abc import Mapping

FILES = {"png": "PNG", "webp": "WebP"}


def likelihood(measured: Mapping[str, float], pixels: str) -> dict[str, float]:
    """Nats by what has them: the entropy where gray values stand for black and white pixels, since no −ELBO falls below
    it; else lossless files, where a pixel has a probability.

    Args:
        measured: by `evaluation.lossless.floors`; empty where nothing was.
        pixels: what a pixel is to the likelihood, and how it was binarised.
    """
    if not measured or pixels.startswith("continuous"):
        return {}
    if pixels.startswith("Bernoulli") and (entropy := measured["binarisation_nats"]):
        return {"entropy of the binarisation": entropy}
    return {title: measured[f"{name}_nats"] for name, title in FILES.items()}


def of_data(classified: Mapping[str, Mapping[str, float]], name: str, pixels: str | None) -> dict[str, float]:
    """The floors of a metric that are of the data set, each by its name.

    Args:
        classified: what the stage `classify` has written, its "metrics" and "floors".
        name: of the metric.
        pixels: of a likelihood, as above.
    """
    if name == "frechet" and "frechet_floor" in classified["metrics"]:
        return {"training images": classified["metrics"]["frechet_floor"]}
    return likelihood(classified.get("floors", {}), pixels) if name == "neg_elbo" and pixels else {}


def note(measured: Mapping[str, float], pixels: str) -> str:
    """The same as a sentence."""
    floors = likelihood(measured, pixels)
    if "entropy of the binarisation" in floors:
        entropy = floors["entropy of the binarisation"]
        return f"{entropy:,.1f} nats of −ELBO are the entropy of the binarisation itself: no model has less."
    files = [
        f"{title} {measured[f'{name}_nats']:,.1f} nats, {measured[f'{name}_bits_per_dim']:.2f} bits/dim"
        for name, title in FILES.items()
        if title in floors
    ]
    return f"A lossless file of an image takes, its header included: {'; '.join(files)}." if files else ""
