"""`params.yaml`, checked as a whole before any stage works.

The entries of `variants` are checked against the constructors of the models and parts that they name, everything else
against the classes below. Each problem becomes one sentence: key, value, what is allowed. Only the entries need torch:
without them a stage starts in a third of the time.
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
    """A validator for a value out of a list that is made at run time."""
    names = list(allowed)

    def check(value: object) -> object:
        if value not in names:
            msg = f"must be one of {', '.join(names)}"
            raise ValueError(msg)
        return value

    return BeforeValidator(check)


def entry_name(value: object, whose: str = "an entry") -> object:
    """A name that files, stages and MLflow can carry."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{,99}", str(value)):
        msg = f"{whose}'s name is made of letters, digits, - and _"
        raise ValueError(msg)
    return value


def corruption_name(value: object) -> object:
    """A name that a folder in `data` can have beside those that are there already."""
    if str(value).lower() in TAKEN:
        msg = f"data/{value} holds other images: take another name than {', '.join(TAKEN)}"
        raise ValueError(msg)
    return entry_name(value, "a corruption")


def folder_name(value: object) -> object:
    """A name that a folder of images can have beside the published data sets."""
    if value in DATASETS:
        msg = f"{value} is a published data set: take another name for the folder"
        raise ValueError(msg)
    return entry_name(value, "a folder")


def anomalies(value: object) -> object:
    """Classes, a data set, or nothing: in one sentence, where pydantic has one for each of the three."""
    classes = isinstance(value, list) and value
    if value is None or isinstance(value, str) or (classes and all(map(_is_class, classes))):
        return value
    msg = "must be a list of classes, numbers from 0 or names, or the name of a data set, or null"
    raise ValueError(msg)


def _is_class(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def local_path(value: str) -> str:
    """A path of this machine where no stage writes."""
    if re.match(r"[a-z][a-z0-9+.-]+://", value, re.IGNORECASE):
        msg = "must be a folder of this machine: copy or mount what lies elsewhere"
        raise ValueError(msg)
    try:
        place = paths.own(value).resolve()
    except (OSError, RuntimeError) as error:  # too long, or ~ of somebody who is not known here
        msg = f"cannot be a path here: {error}"
        raise ValueError(msg) from error
    for each in paths.WRITTEN:
        written = (paths.root() / each).resolve()
        if place.is_relative_to(written) or written.is_relative_to(place):
            msg = f"stages write to {each}: name another folder"
            raise ValueError(msg)
    return value


UNCOMPARED = {
    "size",
    "nfiles",
}  # keys that DVC's run cache leaves out, wherever they stand, when it compares parameters
CLEAN = "clean"  # the `inputs` of an entry that sees the images as they are
TAKEN = (CLEAN, "noisy", "raw")
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
    """One of `dataset.folders`."""

    path: Annotated[str, Field(min_length=1), AfterValidator(local_path)] = Field(
        description="all PNG, JPEG, WebP, BMP and TIFF files in it; its subfolders are the classes"
    )
    resolution: int = Field(default=64, ge=8, le=1024, description="pixels along both sides, after resizing")
    channels: Literal[1, 3] = Field(default=3, description="3 colour, 1 gray")
    fit: Literal["crop", "pad", "stretch"] = Field(
        default="crop", description="crop: the longer side's middle; pad: with black"
    )
    bits: int = Field(
        default=16,
        ge=8,
        le=16,
        description="that the values of 16-bit files fill: 12 of many scanners, microscopes",
    )
    test: Share = Field(default=0.1, description="share of the images held out for the test")
    broken: float = Field(
        default=0.05, ge=0, le=1, description="share of the images that may be unreadable; they are listed"
    )


class DatasetParams(Section):
    """`dataset`."""

    name: str = Field(
        description=f"{', '.join(DATASETS)}, or one of `folders`; digits (8×8) and shapes need no download"
    )
    validation: Share = Field(description="share of the training images held out to pick weights and settings by")
    seed: Seed = Field(description="of that split")
    train_images: Annotated[int, Field(ge=FEWEST)] | None = Field(
        default=None, description="left to learn from, evenly spread over the training split; null: all"
    )
    anomalies: Anomalies = Field(
        default=None,
        description="to be told from the test images: a list of classes (numbers; of a folder also names), which no "
        "split has then, or the name of a published data set; null: none",
    )
    binarize: Literal["none", "static", "dynamic"] = Field(
        description="pixels drawn black or white, their value being the probability of white; static: once; dynamic: "
        "in each training step, but once for validation, test and corrupted copies"
    )
    folders: dict[FolderName, FolderParams] = Field(
        description="your own images, by names of yours, or {}: docs/own-images.md"
    )

    @property
    def binarised(self) -> tuple[str, ...]:
        """The splits that are written in black and white; the training's images are `dynamic`ally so in each step."""
        return {"none": (), "static": ("train", "validation", "test"), "dynamic": ("validation", "test")}[self.binarize]

    @property
    def binarisation(self) -> Literal["none", "static", "dynamic"]:
        """How the images have become black and white, be it here or before."""
        ready = self.name in DATASETS and DATASETS[self.name].binarised
        return "static" if ready else self.binarize

    @property
    def folder(self) -> FolderParams | None:
        """The folder that `name` chooses, if it chooses one."""
        return self.folders.get(self.name)

    @property
    def image(self) -> Shape:
        """(C, H, W) of the images."""
        if self.folder is not None:
            return self.folder.channels, self.folder.resolution, self.folder.resolution
        return DATASETS[self.name].image


class ReferenceCorruption(Section):
    """`corruption.reference`."""

    kind: CorruptionKind = Field(description='of the noise that "denoising MSE" is measured under, for every entry')
    level: Level = Field(description="of that noise")

    @property
    def name(self) -> str:
        """What the corruption is called in files and metrics."""
        return f"{self.kind}-{self.level}"


class TrainCorruption(Section):
    """One of `corruption.train`."""

    noise: Noise = Field(description="levels by kind; each image of a copy gets one of them all, drawn at equal odds")
    copies: int = Field(ge=1, le=100, description="of each training image; one is seen in each epoch, in turns")

    @property
    def mixed(self) -> list[tuple[str, float]]:
        """The kinds and levels that each copy is a mixture of; in an order of their own, since DVC knows none."""
        return sorted({(kind, level) for kind, levels in self.noise.items() for level in levels})


class CorruptionParams(Section):
    """`corruption`."""

    seed: Seed = Field(description="of all noise")
    reference: ReferenceCorruption = Field(description='what "denoising MSE" is measured under, for every entry')
    train: dict[CorruptionName, TrainCorruption] = Field(description="what entries may name as their `inputs`")
    test: Noise = Field(description="the levels that every entry is tested on")

    @property
    def tested(self) -> set[tuple[str, float]]:
        """The kinds and levels that all entries are tested on, the reference included."""
        return {(self.reference.kind, self.reference.level)} | {
            (kind, level) for kind, levels in self.test.items() for level in levels
        }


class TrainingParams(TrainingOptions, Budget):
    """`training`: the budget that entries may override, and how every training runs."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        description="auto: a GPU if there is one; cuda: NVIDIA's; mps: Apple's"
    )
    threads: int = Field(ge=1, le=1024, description="of a training on a CPU; another number gives other rounding")
    processes: int = Field(default=1, ge=1, le=4096, description="that share each training: docs/parallel.md")


class ImportanceParams(Section):
    """`evaluation.importance`."""

    samples: int = Field(ge=1, le=1_000_000, description="of q(z|x) for each image")
    images: int = Field(ge=2, description="of the test split, evenly spread")


class EvaluationParams(Section):
    """`evaluation`."""

    batch_size: int = Field(
        gt=0, description="images per batch, on a GPU ten times as many; small ones stay in a CPU's cache"
    )
    images: int = Field(ge=2, le=50, description="test images shown in each figure")
    # At least 4 samples: the 3rd nearest other one has to be there.
    samples: int = Field(ge=4, le=100_000, description="drawn to be compared with as many test images, or with all")
    seed: Seed = Field(description="of samples, the noise in the VAE's bound, the classifier, images unlike the data")
    noisy_images: int = Field(gt=0, description="of the test split, evenly spread, for `corruption.test`")
    probe_images: int = Field(gt=0, description="of the training split, whose codes the probes learn classes from")
    importance: ImportanceParams = Field(description="weighting, for a tighter bound on −log p(x) than −ELBO")
    classifier: Budget = Field(description="in its features samples are compared with images")


class Params(Section):
    """The whole of `params.yaml`; sections that nothing here knows belong to stages of the user's own."""

    model_config = ConfigDict(extra="ignore")

    dataset: DatasetParams = Field(description="the images, and how they are split")
    corruption: CorruptionParams = Field(
        description="noise of each value (one channel of a pixel). Kinds: masking (level: probability of 0), gaussian "
        "(standard deviation, the range being 1), salt_and_pepper (probability of black or white)"
    )
    seeds: list[Seed] = Field(min_length=1, description="each entry is trained once with each")
    training: TrainingParams = Field(description="each entry may override the first five in its own section")
    variants: dict[EntryName, Any] = Field(min_length=1, description="what is trained, evaluated and compared, by name")
    evaluation: EvaluationParams = Field(description="what is measured of every entry, and on how much")

    def entry(self, name: str) -> Entry:
        """The entry `name` of `variants`."""
        if name not in self.variants:
            msg = f"there is no entry {name!r} among the variants of params.yaml; there are {', '.join(self.variants)}"
            raise UserError(msg)
        return cast("Entry", self.variants[name])

    def seeds_of(self, name: str) -> list[int]:
        """The seeds that the entry `name` is trained with: a floor, the same for all of them, has the first alone."""
        from aelab.models.base import VARIANTS  # noqa: PLC0415 - imports torch

        return self.seeds[:1] if VARIANTS.find(self.entry(name).model).floor else self.seeds

    def learned(self, name: str) -> TrainCorruption:
        """The corruption `name` of `corruption.train`."""
        if name not in self.corruption.train:
            there = ", ".join(self.corruption.train) or "none"
            msg = f"there is no corruption {name!r} in corruption.train of params.yaml; there are {there}"
            raise UserError(msg)
        return self.corruption.train[name]


def load(path: Path = PARAMS, *, variants: bool = True, aliases: bool = False) -> Params:
    """The checked parameters; without `variants`, their sections are left unchecked; `aliases` are refused.

    Raises:
        UserError: one sentence for each thing that is wrong.
    """
    return check(read(path, aliases=aliases), str(path), variants=variants)


def read(path: Path, *, aliases: bool = True) -> Any:
    """What a YAML file holds, unchecked; raises `UserError` where it cannot be read, or has aliases that it may not."""
    try:
        text = path.read_text(encoding="utf-8")
        if line := conflict(text):
            msg = f"{path} holds the conflict of a merge, in line {line}: keep what is to be kept, remove the marks"
            raise UserError(msg)
        if "*" in text and not aliases:
            _check_aliases(text, path)
        return YAML(typ="safe", pure=True).load(text)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise UserError(msg) from error
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-13-01, or no UTF-8
        msg = f"{path} is not valid YAML: {' '.join(str(error).split())}"
        raise UserError(msg) from error


def _check_aliases(text: str, path: Path) -> None:
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, AliasEvent):
            msg = (
                f"{path}, line {event.start_mark.line + 1}: *{event.anchor} stands for keys of another place, and "
                "`dvc exp run -S` loses changes to such keys without a word: write the keys out"
            )
            raise UserError(msg)


def check(content: object, source: str = "params.yaml", *, variants: bool = True) -> Params:
    """`content` as checked parameters; raises `UserError` as `load` does."""
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
    """The keys whose change alone would bring an earlier result back in the place of a new one."""
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
    """A data set of anomalies that there is not, or whose images have another shape than those of the data set."""
    name, dataset = params.dataset.anomalies, params.dataset
    if not isinstance(name, str) or _unknown_dataset(params):
        return []
    alike = [each for each in DATASETS if DATASETS[each].image == dataset.image]
    if name in alike:
        return []
    others = f", or of {', '.join(alike)}, whose images have the same shape" if alike else ""
    return [f'dataset.anomalies is "{name}": must be a list of classes of {dataset.name}{others}']


def _unknown_inputs(params: Params) -> list[str]:
    """What entries, not checked yet, want to see that nothing writes."""
    known = [CLEAN, *params.corruption.train]
    inputs = {name: section.get("inputs") for name, section in params.variants.items() if isinstance(section, dict)}
    return [
        f'variants.{name}.inputs is "{each}": must be {CLEAN} or the name of a corruption in corruption.train; known '
        f"here: {', '.join(known)}"
        for name, each in inputs.items()
        if isinstance(each, str) and each not in known
    ]


def _contradictions(params: Params) -> list[str]:
    """What is wrong only in combination: with each other, or with this machine."""
    import torch  # noqa: PLC0415 - slow

    from aelab.core import devices  # noqa: PLC0415
    from aelab.core.tensors import Uninitialised  # noqa: PLC0415
    from aelab.models.checkpoint import build  # noqa: PLC0415

    free, problems = devices.free_memory(), []
    if len(set(params.seeds)) < len(params.seeds):
        problems.append(f"seeds is {params.seeds}: each seed may stand there only once")
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
            # Shapes alone: arithmetic on real tensors would start threads before a fork.
            with torch.device("meta"), Uninitialised():
                model = build(entry.model, image, entry.arguments())
        except (ValueError, TypeError, AssertionError, RuntimeError, ArithmeticError, MemoryError) as error:
            problems.append(f"variants.{name} cannot be built for images of shape {image}: {_first(error)}")
            continue
        needed = COPIES * sum(each.numel() * each.element_size() for each in model.state_dict().values())
        if needed > free:
            problems.append(
                f"variants.{name} is too large: to train it takes {needed / 2**30:,.0f} GiB for its weights alone, and "
                f"{free / 2**30:,.1f} GiB are free"
            )
    return problems


def _first(error: BaseException) -> str:
    """The first line of what torch says."""
    return str(error).split("\n", 1)[0]


def _printable(text: str) -> str:
    """On one line, with nothing that a terminal would obey."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
