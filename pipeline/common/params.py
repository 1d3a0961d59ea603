"""Reads `params.yaml`, and checks the whole file before a stage begins its work.

An entry is a section of `variants`: the configuration of one model. The constructors of the model and of its parts,
such as the network, check the entry. The classes below check all other sections.

Each problem becomes one sentence with the key, the value and the allowed values. Only the check of the entries needs
torch, so a stage that skips this check starts three times as fast.
"""

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from aelab.core.disk import conflict
from aelab.core.errors import UserError
from aelab.core.sections import Section, in_sentences
from aelab.core.settings import COPIES, Budget, TrainingOptions
from aelab.data.corruption import KINDS
from aelab.data.datasets import DATASETS, FEWEST, Shape
from pipeline.common import paths
from pipeline.common.sections import Entry, entries_type

PARAMS = Path("params.yaml")


def one_of(allowed: typing.Iterable[str]) -> BeforeValidator:
    """Return a validator that accepts only the values in `allowed`."""
    names = list(allowed)

    def check(value: object) -> object:
        if value not in names:
            msg = f"must be one of {', '.join(names)}"
            raise ValueError(msg)
        return value

    return BeforeValidator(check)


def entry_name(value: object, whose: str = "an entry") -> object:
    """Check that a name of an entry, a corruption or a folder is also a valid name for files, stages and MLflow's runs.

    Args:
        value: the name.
        whose: kind of the named thing in the message, such as "a folder".
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{,99}", str(value)):
        msg = f"{whose}'s name is made of letters, digits, - and _"
        raise ValueError(msg)
    return value


def corruption_name(value: object) -> object:
    """Check that a corruption's name differs from the other folders in `data`, where each corruption gets a folder."""
    if str(value).lower() in TAKEN:
        msg = f"data/{value} holds other images: take another name than {', '.join(TAKEN)}"
        raise ValueError(msg)
    return entry_name(value, "a corruption")


def folder_name(value: object) -> object:
    """Check that the name of the user's image folder differs from the names of the published data sets."""
    if value in DATASETS:
        msg = f"{value} is a published data set: take another name for the folder"
        raise ValueError(msg)
    return entry_name(value, "a folder")


def anomalies(value: object) -> object:
    """Check that the value of `dataset.anomalies` is a list of classes, the name of a data set, or null.

    Without this function, pydantic would report one problem for each of the three types.
    """
    classes = isinstance(value, list) and value
    if value is None or isinstance(value, str) or (classes and all(map(_is_class, classes))):
        return value
    msg = "must be a list of classes (numbers from 0, or names), the name of a data set, or null"
    raise ValueError(msg)


def _is_class(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def local_path(value: str) -> str:
    """Check that a path is on this machine and does not overlap a folder to which a stage writes."""
    if re.match(r"[a-z][a-z0-9+.-]+://", value, re.IGNORECASE):
        msg = "must be a folder of this machine: copy or mount a remote folder first"
        raise ValueError(msg)
    try:
        place = paths.own(value).resolve()
    except (OSError, RuntimeError) as error:  # the path is too long, or ~ names an unknown user
        msg = f"cannot be a path here: {error}"
        raise ValueError(msg) from error
    for each in paths.WRITTEN:
        written = (paths.root() / each).resolve()
        if place.is_relative_to(written) or written.is_relative_to(place):
            msg = f"stages write to {each}: name another folder"
            raise ValueError(msg)
    return value


# Names of keys that DVC's run cache ignores at any depth: after a change of their values, DVC restores old results.
UNCOMPARED = {"size", "nfiles"}
CLEAN = "clean"  # value of the key `inputs` in an entry that trains on clean images
TAKEN = (CLEAN, "noisy", "raw")  # folders in `data` that hold no training corruption
EntryName: TypeAlias = Annotated[str, BeforeValidator(entry_name)]
CorruptionName: TypeAlias = Annotated[str, BeforeValidator(corruption_name)]
Anomalies: TypeAlias = Annotated[
    str | Annotated[list[Annotated[int, Field(ge=0)] | str], Field(min_length=1)] | None, BeforeValidator(anomalies)
]
FolderName: TypeAlias = Annotated[str, BeforeValidator(folder_name)]
Share: TypeAlias = Annotated[float, Field(ge=0.01, le=0.5)]
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**32)]
Level: TypeAlias = Annotated[float, Field(ge=0.001, le=1)]
CorruptionKind: TypeAlias = Annotated[str, one_of(KINDS), Field(json_schema_extra={"enum": list(KINDS)})]
Noise: TypeAlias = Annotated[dict[CorruptionKind, Annotated[list[Level], Field(min_length=1)]], Field(min_length=1)]


class FolderParams(Section):
    """A section of `dataset.folders`: one folder with the user's own images."""

    path: Annotated[str, Field(min_length=1), AfterValidator(local_path)] = Field(
        description="folder with PNG, JPEG, WebP, BMP or TIFF files; its subfolders are the classes"
    )
    resolution: int = Field(default=64, ge=8, le=1024, description="height and width in pixels, after resizing")
    channels: Literal[1, 3] = Field(default=3, description="3: colour; 1: gray")
    fit: Literal["crop", "pad", "stretch"] = Field(
        default="crop", description="how an image becomes square: crop to its centre, pad with black, or stretch"
    )
    bits: int = Field(
        default=16,
        ge=8,
        le=16,
        description="number of bits used in 16-bit files; many scanners and microscopes use 12",
    )
    test: Share = Field(default=0.1, description="share of the images in the test split")
    broken: float = Field(default=0.05, ge=0, le=1, description="largest allowed share of unreadable images")


class DatasetParams(Section):
    """The section `dataset`: which images to use, and how to split them."""

    name: str = Field(description=f"{', '.join(DATASETS)}, or one of `folders`; digits and shapes need no download")
    validation: Share = Field(description="share of the training images that the validation split gets")
    seed: Seed = Field(description="random seed of the splits and of the binarisation")
    train_images: Annotated[int, Field(ge=FEWEST)] | None = Field(
        default=None, description="number of training images to use, evenly spread over the training split; null: all"
    )
    anomalies: Anomalies = Field(
        default=None,
        description="a list of classes (numbers, or names of subfolders) to remove from all splits, or the name of "
        "another data set. The evaluation measures how well each model detects these anomalies. null: none",
    )
    binarize: Literal["none", "static", "dynamic"] = Field(
        description="makes each pixel black or white at random, white with probability equal to its value. `static`: "
        "once. `dynamic`: in each training step, but once for validation, test and corrupted copies"
    )
    folders: dict[FolderName, FolderParams] = Field(
        description="your own image folders, each under a name that you choose; see [own images](own-images.md)"
    )

    @property
    def binarised(self) -> tuple[str, ...]:
        """The splits whose files hold binarised images.

        With `dynamic`, the file of the training images holds gray values, which each training step binarises.
        """
        return {"none": (), "static": ("train", "validation", "test"), "dynamic": ("validation", "test")}[self.binarize]

    @property
    def binarisation(self) -> Literal["none", "static", "dynamic"]:
        """How the images became black and white: the value of `binarize`, or `static` for published binary images."""
        ready = self.name in DATASETS and DATASETS[self.name].binarised
        return "static" if ready else self.binarize

    @property
    def folder(self) -> FolderParams | None:
        """The section of `folders` that `name` chooses; None if `name` is a published data set."""
        return self.folders.get(self.name)

    @property
    def image(self) -> Shape:
        """Shape (C, H, W) of the images."""
        if self.folder is not None:
            return self.folder.channels, self.folder.resolution, self.folder.resolution
        return DATASETS[self.name].image


class ReferenceCorruption(Section):
    """The section `corruption.reference`: the noise on the test images for the metric "denoising MSE"."""

    kind: CorruptionKind = Field(description="kind of noise")
    level: Level = Field(description="level of the noise")

    @property
    def name(self) -> str:
        """Name of the corruption in the names of files and metrics."""
        return f"{self.kind}-{self.level}"


class TrainCorruption(Section):
    """A section of `corruption.train`: one corruption of the training images."""

    noise: Noise = Field(description="levels for each kind; each image gets one pair of kind and level, at random")
    copies: int = Field(ge=1, le=100, description="noisy copies of each training image; each epoch uses the next copy")

    @property
    def mixed(self) -> list[tuple[str, float]]:
        """The pairs of kind and level. The pairs are sorted, because DVC does not notice a new order of the keys."""
        return sorted({(kind, level) for kind, levels in self.noise.items() for level in levels})


class CorruptionParams(Section):
    """The section `corruption`: noise on the images for training and for testing."""

    seed: Seed = Field(description="random seed of all noise")
    reference: ReferenceCorruption = Field(description='the corruption of the test images for the "denoising MSE"')
    train: dict[CorruptionName, TrainCorruption] = Field(
        description="corruptions for training; an entry chooses one with `inputs`"
    )
    test: Noise = Field(description="levels for each kind; every entry is tested on all levels")

    @property
    def tested(self) -> set[tuple[str, float]]:
        """All pairs of kind and level on which every entry is tested, including the pair of `reference`."""
        return {(self.reference.kind, self.reference.level)} | {
            (kind, level) for kind, levels in self.test.items() for level in levels
        }


class TrainingParams(TrainingOptions, Budget):
    """The section `training`. An entry may override the keys of `Budget`, but no other key."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        description="auto: a GPU if there is one; cuda: NVIDIA GPU; mps: Apple GPU"
    )
    threads: int = Field(ge=1, le=1024, description="CPU threads of one training; another number changes the rounding")
    processes: int = Field(
        default=1, ge=1, le=4096, description="processes that share each training; see [parallel](parallel.md)"
    )


class ImportanceParams(Section):
    """The section `evaluation.importance`: numbers of samples and images for the importance-weighted bound."""

    samples: int = Field(ge=1, le=1_000_000, description="samples of q(z|x) for each image")
    images: int = Field(ge=2, description="test images for the bound, evenly spread")


class EvaluationParams(Section):
    """The section `evaluation`: how many images and samples the metrics use, and the training of the classifier."""

    batch_size: int = Field(
        gt=0, description="images per batch; a GPU gets ten times as many. Small batches fit into a CPU's cache"
    )
    images: int = Field(ge=2, le=50, description="test images in each figure")
    # At least 4: each sample needs a 3rd nearest neighbour among the other samples.
    samples: int = Field(ge=4, le=100_000, description="number of samples, compared with as many test images")
    seed: Seed = Field(description="random seed of samples, bounds, the classifier and out-of-distribution images")
    noisy_images: int = Field(gt=0, description="number of test images for the errors under `corruption.test`")
    probe_images: int = Field(gt=0, description="number of training images from which the probes learn the classes")
    importance: ImportanceParams = Field(description="importance weighting: a tighter bound on −log p(x) than −ELBO")
    classifier: Budget = Field(description="training of the classifier that compares samples with images")


class Params(Section):
    """The whole of `params.yaml`. Unknown sections are allowed, because a user's own stages may need them."""

    model_config = ConfigDict(extra="ignore")

    dataset: DatasetParams = Field(description="the images, and how they are split")
    corruption: CorruptionParams = Field(
        description="noise on each value (one channel of a pixel, 0 to 1). Kinds and levels: masking (probability of "
        "0), gaussian (standard deviation), salt_and_pepper (probability of black or white)"
    )
    seeds: list[Seed] = Field(min_length=1, description="random seeds; each entry trains once with each seed")
    training: TrainingParams = Field(description="the training; each entry may override the first six keys")
    variants: dict[EntryName, Any] = Field(min_length=1, description="the entries, each under a name that you choose")
    evaluation: EvaluationParams = Field(description="the evaluation of every entry")

    def entry(self, name: str) -> Entry:
        """Return the entry `name` of `variants`."""
        if name not in self.variants:
            msg = f"there is no entry {name!r} among the variants of params.yaml; there are {', '.join(self.variants)}"
            raise UserError(msg)
        return cast("Entry", self.variants[name])

    def seeds_of(self, name: str) -> list[int]:
        """Return the seeds with which the entry `name` is trained.

        A floor (a baseline without random training, such as PCA) has only the first seed, because every seed would give
        the same result.
        """
        from aelab.models.base import VARIANTS  # noqa: PLC0415 - imports torch

        return self.seeds[:1] if VARIANTS.find(self.entry(name).model).floor else self.seeds

    def learned(self, name: str) -> TrainCorruption:
        """Return the section `name` of `corruption.train`: a corruption that models learn to remove."""
        if name not in self.corruption.train:
            there = ", ".join(self.corruption.train) or "none"
            msg = f"there is no corruption {name!r} in corruption.train of params.yaml; there are {there}"
            raise UserError(msg)
        return self.corruption.train[name]


def load(path: Path = PARAMS, *, variants: bool = True, aliases: bool = False) -> Params:
    """Read and check the parameters.

    Args:
        path: the file with the parameters.
        variants: whether to check the entries, which needs the slow import of torch.
        aliases: whether the file may contain YAML aliases.

    Raises:
        UserError: the file has problems. The message has one sentence for each problem.
    """
    return check(read(path, aliases=aliases), str(path), variants=variants)


def read(path: Path, *, aliases: bool = True) -> Any:
    """Return the unchecked content of a YAML file. Raise a `UserError` for a broken file or for forbidden aliases."""
    try:
        text = path.read_text(encoding="utf-8")
        if line := conflict(text):
            msg = f"{path} has an unresolved merge conflict in line {line}: resolve it and remove the markers"
            raise UserError(msg)
        if "*" in text and not aliases:
            _check_aliases(text, path)
        return YAML(typ="safe", pure=True).load(text)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise UserError(msg) from error
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date, or not UTF-8
        msg = f"{path} is not valid YAML: {' '.join(str(error).split())}"
        raise UserError(msg) from error


def _check_aliases(text: str, path: Path) -> None:
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, AliasEvent):
            msg = (
                f"{path}, line {event.start_mark.line + 1}: the alias *{event.anchor} repeats keys of another place; "
                "`dvc exp run -S` silently loses changes to such keys: write the keys out"
            )
            raise UserError(msg)


def check(content: object, source: str = "params.yaml", *, variants: bool = True) -> Params:
    """Check the content of a file of parameters, and return the parameters. Messages name the file `source`.

    Raises:
        UserError: the content has problems. The message has one sentence for each problem.
    """
    problems: list[str] = []
    entries: dict[str, Entry] = {}
    try:
        params = Params.model_validate(content)
        problems += [*_unknown_dataset(params), *_unknown_anomalies(params), *_unknown_inputs(params)]
    except ValidationError as error:
        problems += in_sentences(error, Params)
    sections = content.get("variants") if isinstance(content, dict) and variants else None
    if isinstance(sections, dict):
        try:
            entries = TypeAdapter(entries_type()).validate_python(sections)
        except ValidationError as error:
            problems += in_sentences(error, Params, ("variants",))
    if variants and not problems:
        params = params.model_copy(update={"variants": entries})
        problems += [*_uncompared(content), *_contradictions(params)]
    if problems:
        raise UserError("\n".join(f"{source}: {_printable(problem)}" for problem in dict.fromkeys(problems)))
    return params


def _uncompared(content: object, place: str = "") -> Iterator[str]:
    """Yield a problem for each key whose changes DVC's run cache does not notice."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        where = f"{place}{key}"
        if key in UNCOMPARED:
            yield f"{where}: DVC's run cache does not compare keys called {key}: take another name"
        yield from _uncompared(value, f"{where}.")


def _unknown_dataset(params: Params) -> list[str]:
    name, known = params.dataset.name, [*DATASETS, *params.dataset.folders]
    if name in known:
        return []
    return [f'dataset.name is "{name}": must be one of {", ".join(known)}, or the name of a folder in dataset.folders']


def _unknown_anomalies(params: Params) -> list[str]:
    """Return a problem if `dataset.anomalies` names a data set that is unknown or has images of another shape."""
    name, dataset = params.dataset.anomalies, params.dataset
    if not isinstance(name, str) or _unknown_dataset(params):
        return []
    alike = [each for each in DATASETS if DATASETS[each].image == dataset.image]
    if name in alike:
        return []
    others = f", or the name of a data set with images of the same shape: {', '.join(alike)}" if alike else ""
    return [f'dataset.anomalies is "{name}": must be a list of classes of {dataset.name}{others}']


def _unknown_inputs(params: Params) -> list[str]:
    """Return a problem for each entry whose key `inputs` is neither "clean" nor the name of a corruption."""
    known = [CLEAN, *params.corruption.train]
    inputs = {name: section.get("inputs") for name, section in params.variants.items() if isinstance(section, dict)}
    return [
        f'variants.{name}.inputs is "{each}": must be {CLEAN} or the name of a corruption in corruption.train; known '
        f"here: {', '.join(known)}"
        for name, each in inputs.items()
        if isinstance(each, str) and each not in known
    ]


def _contradictions(params: Params) -> list[str]:
    """Return the problems of values that are valid alone, but not together or not on this machine."""
    import torch  # noqa: PLC0415 - slow

    from aelab.core import devices  # noqa: PLC0415
    from aelab.core.tensors import Uninitialised  # noqa: PLC0415
    from aelab.models.checkpoint import build  # noqa: PLC0415

    free, problems = devices.free_memory(), []
    if len(set(params.seeds)) < len(params.seeds):
        problems.append(f"seeds is {params.seeds}: each seed may occur only once")
    wanted = params.training.device
    device = devices.chosen() if wanted == "auto" else wanted
    if wanted != "auto" and (why := devices.unusable(device)):
        problems.append(f'training.device is "{wanted}", but {why}: take "auto" or "cpu"')
    elif params.training.precision == "bfloat16" and not devices.fast_at_bfloat16(device):
        problems.append('training.precision is "bfloat16", but this machine can only emulate it: take "float32"')
    if device == "mps" and (params.training.precision == "bfloat16" or params.training.processes > 1):
        problems.append("Apple's GPUs train in float32, in one process: see training.precision and training.processes")
    image = params.dataset.image
    for name in params.variants:
        entry = params.entry(name)
        try:
            # On the meta device, tensors have shapes but no values. Arithmetic on values would start threads, and a
            # process with threads must not fork later.
            with torch.device("meta"), Uninitialised():
                model = build(entry.model, image, entry.arguments())
        except (ValueError, TypeError, AssertionError, RuntimeError, ArithmeticError, MemoryError) as error:
            problems.append(f"variants.{name} cannot be built for images of shape {image}: {_first(error)}")
            continue
        needed = COPIES * sum(each.numel() * each.element_size() for each in model.state_dict().values())
        if needed > free:
            problems.append(
                f"variants.{name} is too large: training takes {needed / 2**30:,.0f} GiB for the weights alone, and "
                f"{free / 2**30:,.1f} GiB are free"
            )
    return problems


def _first(error: BaseException) -> str:
    """Return the first line of an error's message, because torch's messages are long."""
    return str(error).split("\n", 1)[0]


def _printable(text: str) -> str:
    """Return the text with line breaks and control characters escaped, so that a terminal shows one line."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
