"""Names of the metrics that the evaluation computes. `report/metrics.toml` has the titles and definitions.

Training and evaluation import this module, but no titles. After a change of a title, only the report runs again.
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
SAMPLES = ("frechet", "sample_precision", "sample_recall")  # Need a model that can sample, and a classifier.
CLASSIFIED = ("class_kept",)  # Needs a classifier.
FITTED = ("frechet_fitted", "precision_fitted", "recall_fitted")  # Need a code that is a vector, and a classifier.
UNIFORM = ("frechet_uniform", "precision_uniform", "recall_uniform")  # Need a codebook, and a classifier.
CLASSIFIER = ("classifier_accuracy", "frechet_floor")  # Metrics of the data set, equal for all models.
ANOMALY = {  # Anomaly scores. For each score, the capability that a model must have (`models.base`).
    "mse": "reconstruction", "neg_elbo": "bound", "rate": "bound", "codebook_distance": "codebook",
}  # fmt: skip
NEAREST = "nearest"  # Anomaly score that compares an image with training images.
PIXELS = ("intensity", "png")  # Anomaly scores of the pixels, which need no model.
MEASURES = ("auroc", "ap")  # Measures of how well a score separates anomalies from test images.
ANOMALIES = tuple(f"{measure}_{score}" for measure in MEASURES for score in (*ANOMALY, NEAREST, *PIXELS))
CHANGED = (  # Metrics and figures that are undefined if the model returns each image unchanged.
    "psnr", "ssim", "train_mse", "generalisation", *CLASSIFIED, "reconstructions", "denoising", "interpolation",
)  # fmt: skip

# For each capability of a model, the metrics and figures that a model without this capability does not define.
METRICS_OF: dict[str, tuple[str, ...]] = {
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
    """A corruption's name in words: "salt_and_pepper-0.2" becomes "salt and pepper 0.2"."""
    return corruption.replace("_", " ").replace("-", " ")
