"""Every metric: what it is called, its unit, which way is better, what it measures and where it is defined.

The report, MLflow and the documentation read it from here. How each is computed stands in `measures.py` and in the
variants. Imports no torch, since the report does without.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One metric."""

    title: str
    definition: str
    digits: int  # after the decimal point, where it is shown
    better: Literal["lower", "higher"] | None = None  # None: no value of it is best
    unit: str = ""
    source: str = ""
    likelihood: bool = False  # comparable only between entries with the same kind of pixels

    @property
    def arrow(self) -> str:
        """Which way is better, as a sign behind the title."""
        return {"lower": " ↓", "higher": " ↑", None: ""}[self.better]


METRICS = {
    "mse": Metric(
        "MSE", "squared error of the reconstruction, mean over all dimensions of an image and all images", 5, "lower"
    ),
    "psnr": Metric(
        "PSNR", "−10·log₁₀ MSE of each image, mean over the images; the pixel range is 1", 2, "higher", unit="dB"
    ),
    "ssim": Metric(
        "SSIM",
        "structural similarity of image and reconstruction in windows of 7×7 pixels, mean over windows and images",
        4,
        "higher",
        source="Wang et al. 2004, equation 13",
    ),
    "neg_elbo": Metric(
        "−ELBO",
        "upper bound on −log p(x): rate + distortion, mean over the images; for a VQ-VAE under its learned prior",
        2,
        "lower",
        unit="nats",
        source="Kingma & Welling 2014, equation 3",
        likelihood=True,
    ),
    "rate": Metric(
        "rate", "KL(q(z|x) ‖ p(z)); for discrete codes −log p(k) under the learned prior", 2, unit="nats"
    ),
    "distortion": Metric("distortion", "−log p(x|z), at one z drawn from q(z|x)", 2, unit="nats", likelihood=True),
    "bits_per_dim": Metric(
        "bits/dim", "−ELBO in bits, divided by the dimensions of an image", 4, "lower", likelihood=True
    ),
    "neg_elbo_uniform": Metric(
        "−ELBO, uniform prior", "−ELBO if all codes were equally likely", 2, unit="nats", likelihood=True
    ),
    "rate_uniform": Metric("rate, uniform prior", "number of positions · log K", 2, unit="nats"),
    "active_units": Metric(
        "active units",
        "latent dimensions whose mean varies: Var_x(E_q[z]) > 0.01",
        1,
        source="Burda et al. 2016, section 5.2",
    ),
    "perplexity": Metric(
        "perplexity", "exp of the entropy of how often each code is used over the whole split; at most K", 1
    ),
    "codes_used": Metric("codes used", "codes of the codebook that are used at least once over the whole split", 1),
    "code_distance": Metric(
        "‖z_e − e‖² / ‖z_e‖²", "mean squared distance of encoder outputs to their codes ÷ their mean squared norm", 4
    ),
    "denoising_mse": Metric(
        "denoising MSE",
        "squared error of what the model makes of a corrupted image, to the clean one; the corruption is the one that "
        "denoising entries learn from",
        5,
        "lower",
        source="Vincent et al. 2010",
    ),
    "copying_mse": Metric("copying MSE", "the same output's squared error to the corrupted image itself", 5),
    "train_mse": Metric("training MSE", "MSE on as many training images as the test split has", 5),
    "generalisation": Metric("test ÷ training MSE", "the ratio of both; 1 where nothing is memorised", 3),
    "parameters": Metric("parameters", "trainable parameters of the whole model, its prior included", 0),
    "train_seconds": Metric("training", "time of the training steps of all phases, without validation", 1, unit="s"),
    "images_per_second": Metric("images/s", "images seen in the first phase per second of training", 0),
    "peak_memory_mib": Metric(
        "peak memory", "most memory held while training: on the GPU where one is used, else by the process", 0,
        unit="MiB",
    ),
}  # fmt: skip
RECONSTRUCTION = ("mse", "psnr", "ssim")
LIKELIHOOD = ("neg_elbo", "rate", "distortion", "bits_per_dim", "neg_elbo_uniform", "rate_uniform")
CODES = ("active_units", "perplexity", "codes_used", "code_distance")
IDENTITY: tuple[str, ...] = ()  # how much of inputs unlike the data is copied: 1 all, 0 none
GEOMETRY: tuple[str, ...] = ()  # of the code: how evenly and independently it turns
REPRESENTATION: tuple[str, ...] = ()  # what the code tells a simple classifier
SAMPLES: tuple[str, ...] = ()  # how near images from the prior are to the data
COST = ("parameters", "train_seconds", "images_per_second", "peak_memory_mib")
HEADLINE = (*RECONSTRUCTION, "neg_elbo", "perplexity", "denoising_mse")
DECIDING = ("mse", "denoising_mse", "neg_elbo")  # what `dvc metrics` shows
PROBABILISTIC = ("neg_elbo", "rate", "distortion", "bits_per_dim", "active_units")  # need q(z|x) and p(z)
CODEBOOK = ("neg_elbo_uniform", "rate_uniform", "perplexity", "codes_used", "code_distance")  # need a codebook


def metric(name: str) -> Metric:
    """The metric `name`; "denoising_<corruption>" is the denoising error under that corruption."""
    if name in METRICS:
        return METRICS[name]
    corruption = readable(name.removeprefix("denoising_"))
    return Metric(corruption, f"denoising MSE under {corruption}", 5, "lower")


def readable(corruption: str) -> str:
    """A corruption's name in words: "salt_and_pepper-0.2" is "salt and pepper 0.2"."""
    return corruption.replace("_", " ").replace("-", " ")


def page() -> str:
    """The page of the documentation about metrics, as Markdown."""
    rows = [
        f"| `{name}` | {each.title}{each.arrow} | {each.unit or '–'} | {each.definition.replace('|', '∣')} "
        f"| {each.source or '–'} |"
        for name, each in METRICS.items()
    ]
    head = ["| name | shown as | unit | what it is | source |", "|---|---|---|---|---|"]
    return "\n".join([
        "# Metrics", "",
        "Made by `python -m autoencoders.metrics` from `src/autoencoders/metrics.py`, which the report",
        "and MLflow read too. An arrow says which way is better; without one no value is best.", "", *head, *rows, "",
    ])  # fmt: skip


if __name__ == "__main__":
    print(page(), end="")
