"""Default parameters, and variations that differ in one key and are valid or invalid."""

import copy
import math
from typing import Any

from ruamel.yaml import YAML

from tests.support.project import REPOSITORY

DEFAULT: dict[str, Any] = YAML(typ="safe", pure=True).load(REPOSITORY / "params.yaml")


def parts(package: str) -> str:
    """Names of all parts of a package, as a message lists them."""
    return ", ".join(sorted(path.stem for path in (REPOSITORY / "src/aelab" / package).glob("[a-z]*.py")))


def with_value(key: str, value: object) -> dict[str, Any]:
    """Default parameters with another value at a dotted key."""
    content = copy.deepcopy(DEFAULT)
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        section = section[parent]
    section[last] = value
    return content


def without(key: str) -> dict[str, Any]:
    content = with_value(key, None)
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        section = section[parent]
    del section[last]
    return content


MASKED = {"noise": {"masking": [0.5]}, "copies": 1}


def nested(depth: int) -> Any:
    """Section of a prior with `depth` nested priors."""
    section: Any = "standard"
    for _ in range(depth):
        section = {"name": "layer", "code": 2, "hidden": [4], "prior": section}
    return section


BROKEN = [  # invalid parameters, the start of the message, and a later part of the message
    (with_value("training.step", 5), "training.step is an unknown key; known here: steps,", "did you mean steps?"),
    (with_value("variants.vae.betta", 1), "variants.vae.betta is an unknown key; known here:", "did you mean beta?"),
    (
        with_value("variants.vqvae.prior.depth", 2),
        "variants.vqvae.prior.depth is an unknown key; known here: width,",
        "",
    ),
    (
        with_value("variants.vqvae.prior.training.step", 2),
        "variants.vqvae.prior.training.step is an unknown key; known here: steps, batch_size,",
        "did you mean steps?",
    ),
    (
        with_value("corruption.train.mixed.copy", 2),
        "corruption.train.mixed.copy is an unknown key; known here: noise, copies",
        "did you mean copies?",
    ),
    (without("training") | {"trainng": {}}, "training is missing", "did you mean trainng?"),
    (without("seeds") | {"seed": [0]}, "seeds is missing", "did you mean seed?"),
    (with_value("training.steps", "many"), 'training.steps is "many": must be a valid integer', ""),
    (
        with_value("training.learning_rate", "1e-3"),
        'training.learning_rate is "1e-3": must be a valid number',
        "without quotes",
    ),
    (with_value("variants.ae.code", True), "variants.ae.code is True: must be a valid integer", ""),
    (with_value("variants.ae.code", 0), "variants.ae.code is 0: must be greater than 0", ""),
    (with_value("variants.vae.beta", -1.0), "variants.vae.beta is -1.0: must be greater than or equal to 0", ""),
    (with_value("variants.vae.beta", math.nan), "variants.vae.beta is nan: must be", ""),
    (with_value("training.learning_rate", math.inf), "training.learning_rate is inf: must be", ""),
    (
        with_value("corruption.reference.level", 1.5),
        "corruption.reference.level is 1.5: must be less than or equal",
        "",
    ),
    (
        with_value("corruption.reference.kind", "blur"),
        'corruption.reference.kind is "blur": must be one of masking, gaussian',
        "",
    ),
    (with_value("corruption.train.mixed.noise.blur", [0.5]), "corruption.train.mixed.noise.blur is", "must be one of"),
    (with_value("corruption.train.mixed.noise.masking", 0.5), "corruption.train.mixed.noise.masking is 0.5:", "list"),
    (with_value("corruption.train.mixed.noise", {}), "corruption.train.mixed.noise is {}:", "at least 1 item"),
    (without("corruption.train.mixed.copies"), "corruption.train.mixed.copies is missing", ""),
    *(
        (
            with_value(f"corruption.train.{name}", MASKED),
            f"corruption.train.{name} is",
            f"data/{name} holds other images",
        )
        for name in ("clean", "noisy", "raw", "Raw")
    ),
    (with_value("corruption.train.$(ls)", MASKED), "corruption.train.$(ls) is", "letters, digits, - and _"),
    (without("corruption.train.mixed"), 'variants.dae-mixed.inputs is "mixed": must be clean', "clean, masked"),
    (with_value("corruption.test.blur", [0.5]), "corruption.test.blur is", "must be one of masking"),
    (with_value("dataset.name", "imagenet"), 'dataset.name is "imagenet": must be one of mnist, fashion-mnist,', ""),
    (with_value("dataset.validation", 0), "dataset.validation is 0: must be greater than or equal to 0.01", ""),
    (
        with_value("variants.gan", {"model": "gan", "inputs": "clean"}),
        f"variants.gan.model: unknown model 'gan'; there are {parts('variants')}",
        "",
    ),
    (
        with_value("variants.new", {"inputs": "clean"}),
        f"variants.new.model is missing; there are {parts('variants')}",
        "",
    ),
    (with_value("variants.vae beta", DEFAULT["variants"]["vae"]), "variants.vae beta is", "letters, digits, - and _"),
    (with_value("variants.$(ls)", DEFAULT["variants"]["vae"]), "variants.$(ls) is", "letters, digits, - and _"),
    (without("variants.vae.network"), "variants.vae.network is missing", ""),
    (
        without("variants.vae.network.name"),
        f"variants.vae.network.name is missing; there are {parts('networks')}",
        "",
    ),
    (
        with_value("variants.vae.network", 3),
        "variants.vae.network is 3: must be the name of a network or a mapping",
        "",
    ),
    (
        with_value("variants.vae.network", {"name": "unet"}),
        f"variants.vae.network.name: unknown network 'unet'; there are {parts('networks')}",
        "",
    ),
    (
        with_value("variants.vae.network.wdith", 3),
        "variants.vae.network.wdith is an unknown key; known here: name, width, downsampling",
        "did you mean width?",
    ),
    (with_value("variants.vae.network.width", 1), "variants.vae.network.width is 1: must be greater than or equal", ""),
    (
        with_value("variants.vae.network.downsampling", 5),
        "variants.vae cannot be built for images of shape (1, 28, 28): both sides must be multiples of downsampling, 5",
        "",
    ),
    (
        with_value("variants.vqvae.network", {"name": "mlp", "hidden": [10]}),
        "variants.vqvae cannot be built for images of shape (1, 28, 28): the network mlp has no grid to put codes on",
        "",
    ),
    (
        with_value("variants.vae.network", {"name": "mlp", "hidden": []}),
        "variants.vae.network.hidden is []:",
        "at least 1 item",
    ),
    (
        with_value("variants.vqvae.quantizer.codes", 0),
        "variants.vqvae.quantizer.codes is 0: must be greater than 0",
        "",
    ),
    (with_value("variants.vae.warm_up", 2), "variants.vae.warm_up is 2: must be less than or equal to 1", ""),
    (with_value("training.points", 0), "training.points is 0: must be greater than or equal to 1", ""),
    *(
        (with_value("dataset.folders", {"photos": {"path": "images"} | wrong}), f"dataset.folders.photos.{said}", "")
        for wrong, said in (
            ({"fit": "squeeze"}, "fit is \"squeeze\": must be 'crop', 'pad' or"),
            ({"channels": 2}, "channels is 2: must be 1 or 3"),
            ({"bits": 17}, "bits is 17: must be less than or equal to 16"),
            ({"path": ""}, 'path is ""'),
            ({"path": None}, "path is None: must be a valid string"),
            ({"path": "s3://bucket/photos"}, 'path is "s3://bucket/photos": must be a folder of this machine'),
            ({"path": "https://example.org/photos"}, "path is"),
            ({"path": "data"}, 'path is "data": stages write to data: name another folder'),
            ({"path": "./data/photos"}, 'path is "./data/photos": stages write to data'),
            ({"path": "reports/../models"}, 'path is "reports/../models": stages write to models'),
            ({"path": "."}, 'path is ".": stages write to data'),
            ({"path": "/"}, 'path is "/": stages write to data'),
            ({"path": "~somebody-unknown/x"}, 'path is "~somebody-unknown/x": cannot be a path here'),
            ({"path": "a\0b"}, "path is"),
        )
    ),
    (without("dataset.folders"), "dataset.folders is missing", ""),
    (with_value("dataset.folders", {"photos": {}}), "dataset.folders.photos.path is missing", ""),
    (with_value("dataset.folders", {"mnist": {"path": "images"}}), "dataset.folders.mnist is", "take another name"),
    (with_value("dataset.folders", {"my photos": {"path": "images"}}), "dataset.folders.my photos is", "is made of"),
    (with_value("dataset.folders", ["images"]), "dataset.folders is ['images']: must be a valid dictionary", ""),
    (with_value("dataset.name", "photos"), 'dataset.name is "photos": must be one of mnist, fashion', "of a folder in"),
    (with_value("variants", {}), "variants is {}:", "at least 1 item"),
    (with_value("variants", ["vae"]), "variants is ['vae']: must be a valid dictionary", ""),
    (with_value("variants.vae", None), "variants.vae is None: must be a mapping of keys to values", ""),
    (
        with_value("variants.vae.inputs", "noisy"),
        'variants.vae.inputs is "noisy": must be clean or the name of a corruption in corruption.train',
        "known here: clean, masked, mixed",
    ),
    (with_value("variants.ae.inputs", "mixed"), 'variants.ae.inputs is "mixed": the model ae has to see clean', ""),
    (with_value("variants.vae.inputs", 3), "variants.vae.inputs is 3: must be a valid string", ""),
    (
        with_value("variants.vae.likelihood", "poisson"),
        f"variants.vae.likelihood.name: unknown likelihood 'poisson'; there are {parts('likelihoods')}",
        "",
    ),
    (
        with_value("variants.ae.training", {"steps": -1}),
        "variants.ae.training.steps is -1: must be greater than or equal to 1",
        "",
    ),
    (
        with_value("variants.ae.training", {"learning_rate": 5}),
        "variants.ae.training.learning_rate is 5: must be less",
        "",
    ),
    (
        with_value("variants.dae.inputs", "clean"),
        'variants.dae.inputs is "clean": the model dae has to see',
        "corrupted",
    ),
    (
        with_value("variants.vqvae.prior.training", {"learning_rate": 0}),
        "variants.vqvae.prior.training.learning_rate",
        "",
    ),
    (with_value("seeds", []), "seeds is []:", "at least 1 item"),
    (with_value("seeds", 0), "seeds is 0: must be a valid list", ""),
    (with_value("seeds", [0, 0]), "seeds is [0, 0]: each seed may occur only once", ""),
    (with_value("seeds", [-1]), "seeds.0 is -1: must be greater than or equal to 0", ""),
    (
        with_value("training.precision", "float16"),
        "training.precision is \"float16\": must be 'float32' or 'bfloat16'",
        "",
    ),
    (with_value("training.mode", "fast"), "training.mode is \"fast\": must be 'graph' or 'eager'", ""),
    (with_value("training.threads", 0), "training.threads is 0: must be greater than or equal to 1", ""),
    (with_value("variants.vqvae.prior.heads", 3), "variants.vqvae cannot be built", "multiple of heads"),
    (without("evaluation"), "evaluation is missing", ""),
    (with_value("corruption.test.masking", [1e-5]), "corruption.test.masking.0 is 1e-05: must be greater", "0.001"),
    (
        with_value("evaluation.importance.samples", 10**40),
        "evaluation.importance.samples is 1000",
        "less than or equal",
    ),
    (with_value("dataset.train_images", 1), "dataset.train_images is 1: must be", "greater than or equal to 2"),
    (with_value("dataset.train_images", "all"), 'dataset.train_images is "all": must be', "integer"),
    (with_value("dataset.train_images", 0.5), "dataset.train_images is 0.5: must be", "integer"),
    (with_value("dataset.anomalies", "clothes"), 'dataset.anomalies is "clothes": must be a list of classes', "mnist"),
    (
        with_value("dataset.anomalies", "cifar10"),
        'dataset.anomalies is "cifar10": must be',
        "with images of the same",
    ),
    (with_value("dataset.anomalies", []), "dataset.anomalies is []: must be a list of classes (numbers from 0", "null"),
    (with_value("dataset.anomalies", [-1]), "dataset.anomalies is [-1]: must be a list of classes", "or names"),
    (with_value("dataset.anomalies", [True]), "dataset.anomalies is [True]: must be a list of classes", "or names"),
    (with_value("dataset.binarize", "yes"), 'dataset.binarize is "yes": must be', "'dynamic'"),
    (with_value("variants." + "a" * 200, DEFAULT["variants"]["vae"]), "variants.aaaa", "letters, digits"),
    (
        with_value("variants.vae.prior", nested(600)),
        "variants.vae.prior.prior.prior",
        "prior has parts within parts: at most 12 levels",
    ),
    (without("variants.vae.code"), "variants.vae.code is missing", ""),
    ([], "the file is []:", "must be a valid dictionary"),
    (None, "the file is None:", "must be a valid dictionary"),
]
