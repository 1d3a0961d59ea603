"""`params.yaml`, checked as a whole before any stage works.

The entries of `variants` are checked against the constructors of the models and parts that they name, everything else
against the classes below. Each problem becomes one sentence: key, value, what is allowed. Only the entries need torch:
without them a stage starts in a third of the time.
"""

import difflib
import inspect
import re
import reprlib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError, create_model
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from autoencoders.budget import Budget, BudgetOverrides, How
from autoencoders.corruption import KINDS
from autoencoders.datasets import DATASETS, Shape
from autoencoders.errors import UserError
from autoencoders.parts import Kind, keys_of, kind_of

PARAMS = Path("params.yaml")
SHORT = reprlib.Repr()  # what of a value is shown
SHORT.maxother, SHORT.maxlevel = 60, 3
DEEPEST = 12  # level of a part within parts
COPIES = 5  # of the weights in training: themselves, the best ones, gradients, two moments


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


CLEAN = "clean"  # the `inputs` of an entry that sees the images as they are
TAKEN = (CLEAN, "noisy", "raw")
FOLDER = "folder"  # the data set that is a user's own images
EntryName: TypeAlias = Annotated[str, BeforeValidator(entry_name)]
CorruptionName: TypeAlias = Annotated[str, BeforeValidator(corruption_name)]
Share: TypeAlias = Annotated[float, Field(ge=0.01, le=0.5)]
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**32)]
Level: TypeAlias = Annotated[float, Field(ge=0.001, le=1)]
CorruptionKind: TypeAlias = Annotated[str, one_of(KINDS)]
Noise: TypeAlias = Annotated[dict[CorruptionKind, Annotated[list[Level], Field(min_length=1)]], Field(min_length=1)]


class Section(BaseModel):
    """A mapping in `params.yaml`: no unknown keys, no conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class FolderParams(Section):
    """`dataset.folder`."""

    path: Annotated[str, Field(min_length=1)]
    size: Annotated[int, Field(ge=8, le=1024)]
    channels: Literal[1, 3]
    fit: Literal["crop", "pad", "stretch"]
    test: Share
    broken: Annotated[float, Field(ge=0, le=1)]


class DatasetParams(Section):
    """`dataset`."""

    name: Annotated[str, one_of([*DATASETS, FOLDER])]
    validation: Share
    seed: Seed
    binarize: Literal["none", "static", "dynamic"]
    folder: FolderParams

    @property
    def binarised(self) -> tuple[str, ...]:
        """The splits that are written in black and white; the training's images are `dynamic`ally so in each step."""
        return {"none": (), "static": ("train", "validation", "test"), "dynamic": ("validation", "test")}[self.binarize]

    @property
    def binarisation(self) -> Literal["none", "static", "dynamic"]:
        """How the images have become black and white, be it here or before."""
        ready = self.name != FOLDER and DATASETS[self.name].binarised
        return "static" if ready else self.binarize

    @property
    def image(self) -> Shape:
        """(C, H, W) of the images."""
        if self.name == FOLDER:
            return self.folder.channels, self.folder.size, self.folder.size
        return DATASETS[self.name].image


class ReferenceCorruption(Section):
    """`corruption.reference`."""

    kind: CorruptionKind
    level: Level

    @property
    def name(self) -> str:
        """What the corruption is called in files and metrics."""
        return f"{self.kind}-{self.level}"


class TrainCorruption(Section):
    """One of `corruption.train`."""

    noise: Noise
    copies: Annotated[int, Field(ge=1, le=100)]

    @property
    def mixed(self) -> list[tuple[str, float]]:
        """The kinds and levels that each copy is a mixture of; in an order of their own, since DVC knows none."""
        return sorted({(kind, level) for kind, levels in self.noise.items() for level in levels})


class CorruptionParams(Section):
    """`corruption`."""

    seed: Seed
    reference: ReferenceCorruption
    train: dict[CorruptionName, TrainCorruption]
    test: Noise

    @property
    def tested(self) -> set[tuple[str, float]]:
        """The kinds and levels that all entries are tested on, the reference included."""
        return {(self.reference.kind, self.reference.level)} | {
            (kind, level) for kind, levels in self.test.items() for level in levels
        }


class TrainingParams(How, Budget):
    """`training`: the budget that entries may override, and how every training runs."""

    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1, le=1024)]
    processes: Annotated[int, Field(ge=1, le=4096)] = 1


class Entry(Section):
    """One entry of `variants`: the keys of every entry; the constructor's arguments are added per model."""

    model: str
    inputs: str
    training: BudgetOverrides = Field(default_factory=BudgetOverrides)

    def arguments(self) -> dict[str, Any]:
        """The arguments of the model's constructor."""
        return self.model_dump(exclude=set(Entry.model_fields))


class Part(Section):
    """A part that an entry names, such as its network."""

    name: str


class ImportanceParams(Section):
    """`evaluation.importance`."""

    samples: Annotated[int, Field(ge=1, le=1_000_000)]
    images: Annotated[int, Field(ge=2)]


class EvaluationParams(Section):
    """`evaluation`."""

    batch_size: PositiveInt
    images: Annotated[int, Field(ge=2, le=50)]
    samples: Annotated[int, Field(ge=4, le=100_000)]  # the 3rd nearest other one has to be there
    seed: Seed
    noisy_images: PositiveInt
    importance: ImportanceParams
    classifier: Budget


class Params(Section):
    """The whole of `params.yaml`."""

    dataset: DatasetParams
    corruption: CorruptionParams
    seeds: Annotated[list[Seed], Field(min_length=1)]
    training: TrainingParams
    variants: Annotated[dict[EntryName, Any], Field(min_length=1)]
    evaluation: EvaluationParams

    def entry(self, name: str) -> Entry:
        """The entry `name` of `variants`."""
        if name not in self.variants:
            msg = f"there is no entry {name!r} among the variants of params.yaml; there are {', '.join(self.variants)}"
            raise UserError(msg)
        return cast("Entry", self.variants[name])

    def learned(self, name: str) -> TrainCorruption:
        """The corruption `name` of `corruption.train`."""
        if name not in self.corruption.train:
            there = ", ".join(self.corruption.train) or "none"
            msg = f"there is no corruption {name!r} in corruption.train of params.yaml; there are {there}"
            raise UserError(msg)
        return self.corruption.train[name]


def load(path: Path = PARAMS, *, variants: bool = True) -> Params:
    """The checked parameters; without `variants`, their sections are left as they are, unchecked.

    Raises:
        UserError: one sentence for each thing that is wrong.
    """
    return check(read(path), str(path), variants=variants)


def read(path: Path) -> Any:
    """What a YAML file holds, unchecked; raises `UserError` where it cannot be read."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise UserError(msg) from error
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-13-01, or no UTF-8
        msg = f"{path} is not valid YAML: {' '.join(str(error).split())}"
        raise UserError(msg) from error


def check(content: object, source: str = "params.yaml", *, variants: bool = True) -> Params:
    """`content` as checked parameters; raises `UserError` as `load` does."""
    problems: list[str] = []
    try:
        params = Params.model_validate(content)
        problems += _unknown_inputs(params)
    except ValidationError as error:
        problems += in_sentences(error, Params)
    sections = content.get("variants") if isinstance(content, dict) and variants else None
    checked = {
        name: _check_entry(name, section, problems)
        for name, section in (sections if isinstance(sections, dict) else {}).items()
    }
    if variants and not problems:
        params = params.model_copy(update={"variants": checked})
        problems += _contradictions(params)
    if problems:
        raise UserError("\n".join(f"{source}: {_printable(problem)}" for problem in problems))
    return params


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


def _check_entry(name: object, section: object, problems: list[str]) -> Entry | None:
    """One entry against the constructor of its model; what is wrong with it is added to `problems`."""
    from autoencoders.base import VARIANTS  # noqa: PLC0415 - imports torch

    location = ("variants", name)
    if not isinstance(section, dict):
        problems.append(f"variants.{name} is {_shown(section)}: must be a mapping of keys to values")
        return None
    if isinstance(section.get("network"), str):
        problems.append(
            f'variants.{name}.network is "{section["network"]}": write {{name: {section["network"]}}}, since dvc.yaml '
            "reads the name there"
        )
        return None
    variant = _find(VARIANTS, section, "model", location, problems)
    if variant is None:
        return None
    checked = cast("Entry | None", _check_keys(variant, section, Entry, location, problems))
    seen = CLEAN if checked is None or checked.inputs == CLEAN else "corrupted"
    if checked is not None and variant.inputs not in {None, seen}:
        problems.append(
            f'variants.{name}.inputs is "{checked.inputs}": the model {checked.model} has to see '
            f"{variant.inputs} images"
        )
    return checked


def _find(kind: Kind[Any], section: dict[str, Any], key: str, location: tuple[object, ...], problems: list[str]) -> Any:
    """The class of the part that `section` names under `key`."""
    where = ".".join(map(str, (*location, key)))
    if key not in section:
        problems.append(f"{where} is missing; there are {', '.join(kind.available())}")
        return None
    try:
        return kind.find(str(section[key]))
    except LookupError as error:
        problems.append(f"{where}: {error}")
    except Exception as error:  # noqa: BLE001 - a part's file may fail in any way when it is imported
        folder = f"src/{kind.package.replace('.', '/')}"
        problems.append(f"{where}: {folder}/{section[key]}.py cannot be imported: {error}")
    return None


def _check_keys(
    part: type, section: dict[str, Any], base: type[Section], location: tuple[object, ...], problems: list[str]
) -> Section | None:
    """A section against the constructor of the part that it names, the parts inside it included."""
    keys = list(keys_of(part))
    if bare := [key.name for key in keys if key.annotation is inspect.Parameter.empty]:
        problems.append(f"{'.'.join(map(str, location))}: give the constructor's arguments a type: {', '.join(bare)}")
        return None
    before, inner = len(problems), {}
    for key in keys:
        kind, given = kind_of(key.annotation), section.get(key.name, key.default)
        if kind is not None and given is not inspect.Parameter.empty:
            inner[key.name] = _check_part(kind, given, (*location, key.name), problems)
    fields: dict[str, Any] = {
        key.name: (key.annotation, ... if key.default is inspect.Parameter.empty else key.default) for key in keys
    }
    model = create_model(f"{part.__name__}Keys", __base__=base, **fields)
    try:
        checked = model.model_validate(section | {name: {} for name in inner})
    except ValidationError as error:
        problems += in_sentences(error, model, location)
        return None
    return checked.model_copy(update=inner) if len(problems) == before else None


def _check_part(kind: Kind[Any], section: object, location: tuple[object, ...], problems: list[str]) -> Any:
    """A part as a mapping of its name and all its keys."""
    named = {"name": section} if isinstance(section, str) else section
    if not isinstance(named, dict):
        problems.append(
            f"{'.'.join(map(str, location))} is {_shown(section)}: must be the name of a {kind.title} or a mapping "
            f"with its name; there are {', '.join(kind.available())}"
        )
        return None
    if len(location) > DEEPEST:
        problems.append(
            f"{'.'.join(map(str, location[:4]))}… has parts within parts: at most {DEEPEST} levels are allowed"
        )
        return None
    part = _find(kind, named, "name", location, problems)
    checked = None if part is None else _check_keys(part, named, Part, location, problems)
    return None if checked is None else checked.model_dump()


def _contradictions(params: Params) -> list[str]:
    """What is wrong only in combination: with each other, or with this machine."""
    import torch  # noqa: PLC0415 - slow

    from autoencoders import devices  # noqa: PLC0415
    from autoencoders.checkpoint import build  # noqa: PLC0415

    free, problems = devices.free_memory(), []
    if len(set(params.seeds)) < len(params.seeds):
        problems.append(f"seeds is {params.seeds}: each seed may stand there only once")
    if params.training.device == "cuda" and not torch.cuda.is_available():
        problems.append('training.device is "cuda", but this machine has no usable GPU: take "auto" or "cpu"')
    elif params.training.precision == "bfloat16" and not devices.fast_at_bfloat16(params.training.device):
        problems.append('training.precision is "bfloat16", but this machine can only emulate it: take "float32"')
    image = params.dataset.image
    for name in params.variants:
        entry = params.entry(name)
        try:
            with torch.device("meta"):  # shapes alone: arithmetic on real tensors would start threads before a fork
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


def in_sentences(error: ValidationError, model: type[BaseModel], prefix: tuple[object, ...] = ()) -> list[str]:
    """One sentence per problem: key, value, what is allowed."""
    sentences = []
    for problem in error.errors():
        key = ".".join(str(part) for part in (*prefix, *problem["loc"]) if part != "[key]")
        value = problem["input"]
        kind = problem["type"]
        if kind == "extra_forbidden":
            known = _known_keys(model, problem["loc"][:-1])
            close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            sentences.append(f"{key} is an unknown key; known here: {', '.join(known)}{hint}")
        elif kind == "missing":
            sentences.append(f"{key} is missing")
        else:
            sentences.append(f"{key or 'the file'} is {_shown(value)}: {_allowed(problem)}{_hint(value)}")
    return sentences


def _allowed(problem: typing.Mapping[str, Any]) -> str:
    message: str = problem["msg"].removeprefix("Value error, ")
    return re.sub(r" or instance of \w+| after validation", "", message.replace("Input should be", "must be"))


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return SHORT.repr(value)  # a few lines of YAML can stand for more than a memory holds
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= SHORT.maxother else text[: SHORT.maxother - 3] + "…"


def _printable(text: str) -> str:
    """On one line, with nothing that a terminal would obey."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _hint(value: object) -> str:
    """What to do about a number that was read as text."""
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return ""
    return "" if number is None else "; it was read as text, so write the number without quotes, as in 0.001"


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed at `location` inside `model`."""
    annotation: Any = model
    for part in location:
        annotation = _fields(annotation).get(str(part), Any)
    return list(_fields(annotation))


def _fields(annotation: Any) -> dict[str, Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    return dict(getattr(annotation, "__annotations__", {}))


if __name__ == "__main__":
    from pipeline import stage

    stage.run(lambda *_: None, None)
