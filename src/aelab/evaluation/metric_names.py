"""Names of all metrics. Their titles and meanings are in `report/metrics.py`.

Training and evaluation import only the names, so a new title reruns the report alone.
"""

RECONSTRUCTION = ("mse", "psnr", "ssim")
PROBABILISTIC = (  # Need a model with q(z|x) and p(z).
    "neg_elbo", "neg_elbo_error", "nll", "nll_error", "effective_samples", "rate", "distortion", "bits_per_dim",
    "active_units", "latent_units",
)  # fmt: skip
CODEBOOK = ("neg_elbo_uniform", "rate_uniform", "perplexity", "codes_used", "code_distance")  # Need a codebook.
IDENTITY = ("identity_noise", "identity_photographs", "unlike_noise_mse", "unlike_photographs_mse")
GEOMETRY = ("midpoint",)
FACTORS = ("mig", "dci")  # Need a data set whose factors are known.
REPRESENTATION = ("probe_accuracy", "knn_accuracy")  # Need images of at least two classes.
SAMPLES = ("frechet", "sample_precision", "sample_recall")  # Need a model that can sample, and the classifier.
CLASSIFIED = ("class_kept",)  # Needs the classifier.
FITTED = ("frechet_fitted", "precision_fitted", "recall_fitted")  # Need a code that is a vector, and the classifier.
UNIFORM = ("frechet_uniform", "precision_uniform", "recall_uniform")  # Need a codebook, and the classifier.
CLASSIFIER = ("classifier_accuracy", "frechet_floor")  # Metrics of the data set, equal for all entries.
ANOMALY = {  # Anomaly scores, each with the capability of a model that the score needs.
    "mse": "reconstruction", "neg_elbo": "bound", "rate": "bound", "codebook_distance": "codebook",
}  # fmt: skip
NEAREST = "nearest"  # An anomaly score that needs training images.
PIXELS = ("intensity", "png")  # Anomaly scores of the pixels, which need no model.
MEASURES = ("auroc", "ap")  # Measures of how well a score separates anomalies from test images.
ANOMALIES = tuple(f"{measure}_{score}" for measure in MEASURES for score in (*ANOMALY, NEAREST, *PIXELS))
CHANGED = (  # Undefined if the model returns each image unchanged.
    "psnr", "ssim", "train_mse", "generalisation", *CLASSIFIED, "reconstructions", "denoising", "interpolation",
)  # fmt: skip

METRICS_OF: dict[str, tuple[str, ...]] = {  # Metrics and figures, by the capability that a model needs to define them.
    "bound": PROBABILISTIC,
    "importance": ("nll", "nll_error", "effective_samples"),
    "units": ("active_units", "latent_units"),
    "kl_per_dimension": ("kl_per_dimension",),
    "samples": (*SAMPLES, "samples"),
    "codebook": (*CODEBOOK, *UNIFORM, "code_usage"),
    "reconstruction": CHANGED,
    "direction": (*FACTORS, "traversal"),
    "bits_per_dim": ("bits_per_dim",),
}


def readable(corruption: str) -> str:
    """A corruption's name in words: "salt_and_pepper-0.2" is "salt and pepper 0.2"."""
    return corruption.replace("_", " ").replace("-", " ")
