"""What is said of autoencoders, as a table: a row of `CLAIMS` names the tests of a claim, with every threshold.

`verdicts.py` holds the kinds of tests, and reads the verdict off the data: other data, another verdict.
"""

import pandas as pd

from aelab.evaluation.metric_names import GEOMETRY, IDENTITY, REPRESENTATION, SAMPLES
from aelab.report.evidence import Entry, Evidence, Group, loss_ratios
from aelab.report.verdicts import ABOVE, BELOW, Claim, Duel, Threshold, ToldApart, Value

MARGIN = 5  # per cent by which an error has to be larger on images that were not learned from
COPY = 0.5  # the correlation with an input unlike the data from which on it counts as copied
COLLAPSED = 50  # per cent of a code: less is in use
CLOSE = 10  # per cent of the squared norm: a squared distance that is less is small


def value_of(name: str, scale: float = 1) -> Value:
    """A metric, times `scale`."""
    return lambda evidence, entry: scale * evidence.values(entry, name)


def minus(name: str, other: str) -> Value:
    """A metric minus another one, seed by seed."""
    return lambda evidence, entry: (evidence.values(entry, name) - evidence.values(entry, other)).dropna()


def active_share(evidence: Evidence, entry: Entry) -> pd.Series:
    """Active units, in per cent of the latent dimensions."""
    return (100 * evidence.values(entry, "active_units") / evidence.values(entry, "latent_units")).dropna()


def used_share(evidence: Evidence, entry: Entry) -> pd.Series:
    """Codes in use, in per cent of all codes; empty where the parameters do not say how many there are."""
    used = evidence.values(entry, "codes_used")
    return 100 * used / entry.codes if entry.codes else used[:0]


def final_loss_ratio(_: Evidence, entry: Entry) -> pd.Series:
    """Validation loss in per cent of the training loss at the end of the training."""
    curves = [ratios for curve in entry.curves if (ratios := loss_ratios(curve))]
    return pd.Series([100 * ratios[-1][1] for ratios in curves], dtype=float)


COPIES_NOISE = (
    "{entry}: the output for a corrupted test image has MSE {denoising_mse} to the clean image, {copying_mse} to the "
    "corrupted one; difference {value}"
)
CLAIMS = (
    Claim(
        "identity",
        "A plain autoencoder drifts to the identity.",
        "It does where the output for a corrupted image is nearer to the corrupted image than to the clean one, and "
        f"where the output for inputs unlike the data correlates with these by more than {COPY:g} (1: a perfect copy).",
        [
            Threshold(
                minus("denoising_mse", "copying_mse"), Group.PLAIN, ABOVE, 0, COPIES_NOISE, like="copying_mse"
            ),
            Threshold(
                value_of("identity_noise"), Group.PLAIN, ABOVE, COPY,
                "{entry}: correlation of output and input {value} on uniform noise", like="identity_noise",
            ),
            Threshold(
                value_of("identity_photographs"), Group.PLAIN, ABOVE, COPY,
                "{entry}: correlation of output and input {value} on photographs", like="identity_photographs",
            ),
        ],
        ("denoising_mse", "copying_mse", *IDENTITY),
    ),
    Claim(
        "memory",
        "A plain autoencoder memorises what it was trained on.",
        f"It does where an error is larger on images that were not learned from by more than {MARGIN:g} %.",
        [
            Threshold(
                value_of("generalisation", 100), Group.PLAIN, ABOVE, 100 + MARGIN,
                "{entry}: the error on test images is {value} of the error on training images",
            ),
            Threshold(
                final_loss_ratio, Group.PLAIN, ABOVE, 100 + MARGIN,
                "{entry}: at the end of the training the validation loss is {value} of the training loss",
            ),
        ],
        ("mse", "train_mse", "generalisation"),
    ),
    Claim(
        "denoising",
        "Denoising cures it: a clean image is retrieved from what is left of it.",
        "It does where, at every level of noise, the best entry that learned from corrupted images has a smaller error "
        "to the clean images than the best that learned from clean ones, where its output is nearer to the clean image "
        "than to the corrupted one, and where it copies less of inputs unlike the data than the best plain one.",
        [
            Duel((), Group.CORRUPTED, Group.CLEAN),
            Threshold(
                minus("denoising_mse", "copying_mse"), Group.CORRUPTED, BELOW, 0, COPIES_NOISE, like="copying_mse"
            ),
            Duel(("identity_noise", "identity_photographs"), Group.DENOISING, Group.PLAIN, each=True),
        ],
        ("mse", "denoising_mse", "copying_mse", *IDENTITY),
    ),
    Claim(
        "representation",
        "Denoising learns the better representation.",
        "It does where simple classifiers on the codes of every denoising autoencoder are more often right than on "
        "those of the best plain one.",
        [Duel(REPRESENTATION, Group.DENOISING, Group.PLAIN, each=True)],
        REPRESENTATION,
    ),
    Claim(
        "dial",
        "A distribution for each attribute makes it a dial: it turns smoothly, and turns nothing else.",
        "It does where the code of the best variational autoencoder is smoother than that of the best plain one, and "
        "its dimensions move less of each other.",
        [Duel(("jump", "dial"), Group.VARIATIONAL, Group.PLAIN)],
        GEOMETRY,
    ),
    Claim(
        "bound",
        "A variational autoencoder minimises an upper bound on −log p(x), not −log p(x) itself.",
        "It does where −ELBO lies above a tighter bound on the same quantity. Their difference is at most the gap, "
        "KL(q(z|x) ‖ p(z|x)).",
        [
            Threshold(
                minus("neg_elbo", "nll"), Group.ALL, ABOVE, 0,
                "{entry}: −ELBO {neg_elbo}, importance-weighted bound {nll}; −ELBO minus bound is {value}, Monte Carlo "
                "error included",
                like="nll", errors=("neg_elbo_error", "nll_error"),
            )
        ],
    ),
    Claim(
        "collapse",
        "Discrete codes avoid posterior collapse.",
        f"They do where a continuous code has collapsed, less than {COLLAPSED:g} % of its dimensions being active, "
        f"while the discrete ones have not: more than {COLLAPSED:g} % of their codes are in use.",
        [
            Threshold(
                used_share, Group.DISCRETE, ABOVE, COLLAPSED, "{entry}: {codes_used} codes are in use, {value} of all"
            )
        ],
        ("active_units", "codes_used", "perplexity", "rate"),
        premise=Threshold(
            active_share, Group.ALL, BELOW, COLLAPSED,
            "{entry}: {active_units} of {latent_units} latent dimensions are active, {value}",
        ),
        otherwise="No continuous code is known to have collapsed: there was nothing to avoid",
    ),
    Claim(
        "closeness",
        "The encoder's output stays close to the codebook.",
        f"It does where its squared distance to its code is less than {CLOSE:g} % of its squared norm.",
        [
            Threshold(
                value_of("code_distance", 100), Group.ALL, BELOW, CLOSE,
                "{entry}: the squared distance is {value} of the squared norm",
            )
        ],
    ),
    Claim(
        "prior",
        "The learned prior makes discrete codes generative.",
        "It does where it needs fewer nats for a code than the uniform prior, and where its samples are better than "
        "those of the best variational autoencoder.",
        [
            Threshold(
                minus("rate_uniform", "rate"), Group.ALL, ABOVE, 0,
                "{entry}: a code costs {rate} under the learned prior, {rate_uniform} under the uniform one; "
                "difference {value}",
                like="rate",
            ),
            Duel(SAMPLES, Group.DISCRETE, Group.VARIATIONAL),
        ],
        ("rate", "rate_uniform", *SAMPLES),
    ),
    Claim(
        "quantisers",
        "How the codebook learns matters: straight-through gradients, moving averages, rotation.",
        "It does where entries that differ in their quantiser alone, with codebooks of one size, can be told apart.",
        [
            ToldApart(
                ("codes_used", "perplexity", "psnr"), "quantizer",
                "No two entries differ in their quantiser alone; `make recipe NAME=fashion-codes` trains such",
            )
        ],
        ("codes_used", "perplexity", "code_distance", "psnr", "rate"),
        Group.DISCRETE,
    ),
)  # fmt: skip
