"""Every metric: what it is called, its unit, which way is better, what it measures and where it is defined.

The report, MLflow and the documentation read it from here; whoever trains or evaluates imports `metric_names.py` alone.
How each is computed stands in `measures.py` and in the variants.
"""

from dataclasses import dataclass
from typing import Literal

from autoencoders.metric_names import RECONSTRUCTION, readable


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
    "neg_elbo_error": Metric(
        "± of −ELBO", "standard error of −ELBO from the sampling of z, the images being given", 3, unit="nats"
    ),
    "nll": Metric(
        "−log p(x)",
        "importance-weighted upper bound on −log p(x) with k samples of q(z|x), `evaluation.importance` says how many; "
        "mean over the images: from as many of them as stand there, as −ELBO of all minus the mean gap of those",
        2,
        "lower",
        unit="nats",
        source="Burda et al. 2016, equation 8",
        likelihood=True,
    ),
    "nll_error": Metric(
        "± of −log p(x)",
        "standard error of that from the sampling of z, and of the images where they are not all; too small where few "
        "samples are effective",
        3,
        unit="nats",
    ),
    "effective_samples": Metric(
        "effective samples", "of the k samples of z, (Σw)²/Σw² of their importance weights w; median over the images", 0
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
        "latent dimensions whose mean varies: Var_x(E_q[z]) > 0.01; of a ladder's lower layers that of (μ_q − μ_p)/σ_p",
        1,
        source="Burda et al. 2016, section 5.2",
    ),
    "latent_units": Metric("latent dimensions", "of all layers together: as many units could be active", 0),
    "perplexity": Metric(
        "perplexity", "exp of the entropy of how often each code is used over the whole split; at most K", 1
    ),
    "codes_used": Metric("codes used", "codes of the codebook that are used at least once over the whole split", 1),
    "code_distance": Metric(
        "‖z_e − e‖² / ‖z_e‖²", "mean squared distance of encoder outputs to their codes ÷ their mean squared norm", 4
    ),
    "jump": Metric(
        "jump",
        "largest ÷ mean of the steps ‖x′_{t+1} − x′_t‖, decoded along the straight line between the codes of two test "
        "images; 256 steps, mean over 16 lines: 1 is an even dial, 256 an on/off switch",
        2,
        "lower",
    ),
    "midpoint": Metric(
        "midpoint",
        "squared distance of the midpoints of 64 such lines, decoded, to the nearest of 5,000 training images ÷ that "
        "of the reconstructions at their ends, means: 1 is as near to the data; blur brings nearer",
        3,
    ),
    "dial": Metric(
        "dial",
        "a latent dimension is turned over ±2 standard deviations, decoded and encoded again: its share of the squared "
        "change of the code, each dimension in its own standard deviations, mean over 32 test images and the 8 "
        "dimensions that vary most; 1 is that dimension alone, 1/d is all d alike (of those with a tenth of the "
        "largest standard deviation at least)",
        3,
        "higher",
    ),
    "denoising_mse": Metric(
        "denoising MSE",
        "squared error of what the model makes of a corrupted image, to the clean one; under the reference corruption, "
        "the same for all entries",
        5,
        "lower",
        source="Vincent et al. 2010",
    ),
    "copying_mse": Metric("copying MSE", "the same output's squared error to the corrupted image itself", 5),
    "identity_noise": Metric(
        "copied of noise",
        "correlation of reconstruction and image over the values of an image of uniform noise, mean over 500 of them; "
        "1 for the identity, 0 where nothing of it is given back",
        3,
        "lower",
    ),
    "identity_photographs": Metric(
        "copied of photographs",
        "the same on crops of two photographs that are part of no data set, resized to the images' size",
        3,
        "lower",
    ),
    "unlike_noise_mse": Metric("MSE, noise", "MSE on the images of uniform noise", 4),
    "unlike_photographs_mse": Metric("MSE, photographs", "MSE on the crops of photographs", 4),
    "train_mse": Metric("training MSE", "MSE on as many training images as the test split has", 5),
    "generalisation": Metric("test ÷ training MSE", "the ratio of both; 1 where nothing is memorised", 3),
    "probe_accuracy": Metric(
        "linear probe",
        "test images whose class a logistic regression finds from their codes as the decoder is given them, without "
        "noise (a VQ-VAE's are its code vectors), all numbers of a code in a row; it learns from the codes of at most "
        "10,000 training images, evenly spread, each dimension standardised; its L2 penalty is the one of three that "
        "finds most on the validation split",
        2,
        "higher",
        unit="%",
        source="Alain & Bengio 2017",
    ),
    "knn_accuracy": Metric(
        "5 nearest neighbours",
        "test images whose class is that of most of the 5 nearest codes: those of the linear probe, not standardised, "
        "at their Euclidean distance; of classes with equal votes the first",
        2,
        "higher",
        unit="%",
        source="Cover & Hart 1967",
    ),
    "frechet": Metric(
        "Fréchet distance of features",
        "squared Fréchet distance between normal distributions fitted to the features of samples and of equally many "
        "test images. A feature is one of the 64 values before the last layer of a small classifier that learned this "
        "data set's training split: the distance compares entries of one report, and is no FID, whose features are "
        "those of Inception. Samples go in as the model draws them (means of pixels; on binarised images black and "
        "white ones drawn by them)",
        2,
        "lower",
        source="Dowson & Landau 1982; Heusel et al. 2017",
    ),
    "sample_precision": Metric(
        "precision of samples",
        "share of the samples whose features lie no farther from those of some test image than the 3rd nearest other "
        "test image does; features, samples and images as for the Fréchet distance",
        3,
        "higher",
        source="Kynkäänniemi et al. 2019, equation 2",
    ),
    "sample_recall": Metric(
        "recall of samples",
        "share of the test images whose features lie no farther from those of some sample than the 3rd nearest other "
        "sample does",
        3,
        "higher",
        source="Kynkäänniemi et al. 2019, equation 2",
    ),
    "classifier_accuracy": Metric(
        "classifier", "test images that the classifier whose features these are puts into their class", 2, "higher",
        unit="%",
    ),
    "frechet_floor": Metric(
        "Fréchet distance of training images",
        "the same distance between as many training images, evenly spread, and the test images: what samples could "
        "reach that are as good as images",
        2,
    ),
    "parameters": Metric("parameters", "trainable parameters of the whole model, its prior included", 0),
    "train_seconds": Metric("training", "time of the training steps of all phases, without validation", 1, unit="s"),
    "images_per_second": Metric("images/s", "images seen in the first phase per second of training", 0),
    "peak_memory_mib": Metric(
        "peak memory", "most memory held while training: on the GPU where one is used, else by the process", 0,
        unit="MiB",
    ),
}  # fmt: skip
LIKELIHOOD = (
    "neg_elbo", "neg_elbo_error", "nll", "nll_error", "effective_samples", "rate", "distortion", "bits_per_dim",
    "neg_elbo_uniform", "rate_uniform",
)  # fmt: skip
CODES = ("active_units", "latent_units", "perplexity", "codes_used", "code_distance")
COST = ("parameters", "train_seconds", "images_per_second", "peak_memory_mib")
HEADLINE = (*RECONSTRUCTION, "neg_elbo", "perplexity", "denoising_mse")
PLOTTED = ("mse", "denoising_mse", "ssim", "neg_elbo", "frechet", "probe_accuracy", "perplexity", "train_seconds")
DECIDING = ("mse", "denoising_mse", "neg_elbo")  # what `dvc metrics` shows


def metric(name: str) -> Metric:
    """The metric `name`; "denoising_<corruption>" is the denoising error under that corruption."""
    if name in METRICS:
        return METRICS[name]
    corruption = readable(name.removeprefix("denoising_"))
    definition = f"denoising MSE under {corruption}, on `evaluation.noisy_images` of the test images"
    return Metric(corruption, definition, 5, "lower")


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
