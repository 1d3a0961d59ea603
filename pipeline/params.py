"""`params.yaml`, checked as a whole before any stage works.

The variants' sections are checked against the arguments of their constructors, everything else against the models
below. Each problem becomes one sentence: key, value, what is allowed. Only the variants need torch: without them
a stage starts in a third of the time.
"""

import difflib
import inspect
import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError, create_model
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from autoencoders.budget import Budget, BudgetOverrides, Mode, Precision
from autoencoders.corruption import KINDS
from autoencoders.data import DATASETS
from autoencoders.errors import UserError

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


Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**32)]
Level: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Kind: TypeAlias = Annotated[str, one_of(KINDS)]


class Section(BaseModel):
    """A mapping in `params.yaml`: no unknown keys, no conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DatasetParams(Section):
    """`dataset`."""

    name: Annotated[str, one_of(DATASETS)]
    validation: Annotated[float, Field(ge=0.01, le=0.5)]
    seed: Seed


class TrainCorruption(Section):
    """`corruption.train`."""

    kind: Kind
    level: Level
    copies: Annotated[int, Field(ge=1, le=100)]

    @property
    def name(self) -> str:
        """What the corruption is called in files and metrics."""
        return f"{self.kind}-{self.level}"


class CorruptionParams(Section):
    """`corruption`."""

    seed: Seed
    train: TrainCorruption
    test: Annotated[dict[Kind, Annotated[list[Level], Field(min_length=1)]], Field(min_length=1)]


class TrainingParams(Budget):
    """`training`: the budget that variants may override, and how every training runs."""

    device: Literal["auto", "cpu", "cuda"]
    precision: Precision
    mode: Mode
    threads: PositiveInt


class VariantParams(Section):
    """One entry of `variants`: the keys of every variant; the constructor's arguments are added per variant."""

    inputs: Literal["clean", "corrupted"]
    training: BudgetOverrides = Field(default_factory=BudgetOverrides)

    def arguments(self) -> dict[str, Any]:
        """The arguments of the variant's constructor."""
        return self.model_dump(exclude=set(VariantParams.model_fields))


class EvaluationParams(Section):
    """`evaluation`."""

    batch_size: PositiveInt
    images: Annotated[int, Field(ge=2, le=50)]
    seed: Seed


class Params(Section):
    """The whole of `params.yaml`."""

    dataset: DatasetParams
    corruption: CorruptionParams
    seeds: Annotated[list[Seed], Field(min_length=1)]
    training: TrainingParams
    variants: Annotated[dict[str, Any], Field(min_length=1)]
    evaluation: EvaluationParams

    def variant(self, name: str) -> VariantParams:
        """The section of variant `name`."""
        if name not in self.variants:
            msg = f"there is no variant {name!r} in params.yaml; there are {', '.join(self.variants)}"
            raise UserError(msg)
        return cast("VariantParams", self.variants[name])

    def budget(self, *overrides: typing.Mapping[str, Any]) -> Budget:
        """The training budget after `overrides`, the last one counting most."""
        values = {key: getattr(self.training, key) for key in Budget.model_fields}
        for override in overrides:
            values |= override
        return Budget(**values)


def load(path: Path = PARAMS, *, variants: bool = True) -> Params:
    """The checked parameters; without `variants`, their sections are left as they are, unchecked.

    Raises:
        UserError: one sentence for each thing that is wrong.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise UserError(msg) from error
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-13-01, or no UTF-8
        msg = f"{path} is not valid YAML: {' '.join(str(error).split())}"
        raise UserError(msg) from error
    return check(content, str(path), variants=variants)


def check(content: object, source: str = "params.yaml", *, variants: bool = True) -> Params:
    """`content` as checked parameters; raises `UserError` as `load` does."""
    problems: list[str] = []
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        problems += _sentences(error, Params)
    sections = content.get("variants") if isinstance(content, dict) and variants else None
    checked = {
        name: _check_variant(name, section, problems)
        for name, section in (sections if isinstance(sections, dict) else {}).items()
    }
    if variants and not problems:
        params = params.model_copy(update={"variants": checked})
        problems += _contradictions(params)
    if problems:
        raise UserError("\n".join(f"{source}: {problem}" for problem in problems))
    return params


def _check_variant(name: object, section: object, problems: list[str]) -> VariantParams | None:
    """One variant's section against its constructor; what is wrong with it is added to `problems`."""
    from autoencoders import variants  # noqa: PLC0415 - imports torch

    try:
        variant = variants.find(str(name))
    except LookupError as error:
        problems.append(f"variants.{name}: {error}")
        return None
    except Exception as error:  # noqa: BLE001 - a variant's file may fail in any way when it is imported
        problems.append(f"variants.{name}: src/autoencoders/variants/{name}.py cannot be imported: {error}")
        return None
    hints = typing.get_type_hints(variant.__init__, include_extras=True)
    arguments = [p for p in inspect.signature(variant).parameters.values() if p.name != "image"]
    if bare := [p.name for p in arguments if p.name not in hints]:
        problems.append(f"variants.{name}: give the constructor's arguments a type: {', '.join(bare)}")
        return None
    fields: dict[str, Any] = {
        p.name: (hints[p.name], ... if p.default is inspect.Parameter.empty else p.default) for p in arguments
    }
    model = create_model(f"{variant.__name__}Params", __base__=VariantParams, **fields)
    try:
        checked = model.model_validate(section)
    except ValidationError as error:
        problems += _sentences(error, model, ("variants", name))
        return None
    if variant.inputs not in {None, checked.inputs}:
        problems.append(
            f'variants.{name}.inputs is "{checked.inputs}": this variant has to see {variant.inputs} images'
        )
    return checked


def _contradictions(params: Params) -> list[str]:
    """What is wrong only in combination: with each other, or with this machine."""
    import torch  # noqa: PLC0415 - slow

    from autoencoders import devices  # noqa: PLC0415
    from autoencoders.checkpoint import build  # noqa: PLC0415

    problems = []
    if len(set(params.seeds)) < len(params.seeds):
        problems.append(f"seeds is {params.seeds}: each seed may stand there only once")
    if params.training.device == "cuda" and not torch.cuda.is_available():
        problems.append('training.device is "cuda", but this machine has no usable GPU: take "auto" or "cpu"')
    elif params.training.precision == "bfloat16" and not devices.fast_at_bfloat16(params.training.device):
        problems.append('training.precision is "bfloat16", but this machine can only emulate it: take "float32"')
    image = DATASETS[params.dataset.name].image
    for name in params.variants:
        try:
            build(name, image, params.variant(name).arguments())
        except (ValueError, TypeError, AssertionError, RuntimeError) as error:
            problems.append(f"variants.{name} cannot be built for images of shape {image}: {error}")
    return problems


def _sentences(error: ValidationError, model: type[BaseModel], prefix: tuple[object, ...] = ()) -> list[str]:
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
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"  # noqa: PLR2004 - what fits on a line


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
