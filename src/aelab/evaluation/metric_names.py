"""Which metrics there are, by name; `metrics.py` says what each is called and what it means.

Whoever trains or evaluates imports these alone: a new title of a metric reruns the report and nothing else.
"""

RECONSTRUCTION = ("mse", "psnr", "ssim")
PROBABILISTIC = (  # need q(z|x) and p(z)
    "neg_elbo", "neg_elbo_error", "nll", "nll_error", "effective_samples", "rate", "distortion", "bits_per_dim",
    "active_units", "latent_units",
)  # fmt: skip
CODEBOOK = ("neg_elbo_uniform", "rate_uniform", "perplexity", "codes_used", "code_distance")  # need a codebook
IDENTITY = ("identity_noise", "identity_photographs", "unlike_noise_mse", "unlike_photographs_mse")
GEOMETRY = ("midpoint",)
FACTORS = ("mig", "dci")  # need a data set whose factors are known
REPRESENTATION = ("probe_accuracy", "knn_accuracy")  # need images of two classes
SAMPLES = ("frechet", "sample_precision", "sample_recall")  # need a model that can sample, and the classifier
CLASSIFIED = ("class_kept",)  # needs the classifier
FITTED = ("frechet_fitted", "precision_fitted", "recall_fitted")  # need a code that is a vector, and the classifier
UNIFORM = ("frechet_uniform", "precision_uniform", "recall_uniform")  # need a codebook, and the classifier
CLASSIFIER = ("classifier_accuracy", "frechet_floor")  # of the data set, the same for all entries
ANOMALY = {  # scores of an image, the higher the stranger, by the capability of a model that they need
    "mse": "reconstruction", "neg_elbo": "bound", "rate": "bound", "codebook_distance": "codebook",
}  # fmt: skip
NEAREST = "nearest"  # one more, which needs training images
PIXELS = ("intensity", "png")  # of the pixels alone, beside no model
MEASURES = ("auroc", "ap")  # of how well a score tells strange images from others
ANOMALIES = tuple(f"{measure}_{score}" for measure in MEASURES for score in (*ANOMALY, NEAREST, *PIXELS))
CHANGED = (  # of images that come back as they were given, nothing is to be said
    "psnr", "ssim", "train_mse", "generalisation", *CLASSIFIED, "reconstructions", "denoising", "interpolation",
)  # fmt: skip

METRICS_OF: dict[str, tuple[str, ...]] = {  # metrics and figures by the capability of a model that they need
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
