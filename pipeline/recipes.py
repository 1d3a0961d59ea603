"""Recipes: named settings with the published figures that they are to reach, as `recipes/*.yaml` says it.

A recipe's `params` replaces parts of params.yaml, mapping by mapping; its `variants` and `seeds` replace all of theirs.
What came of a recipe stands in `recipes/results/`; how its mean stands against a published figure, by its interval,

    mean ± t(0.975; n − 1)·s/√n     over n seeds, with s their standard deviation.
"""

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, ValidationError, model_validator

from autoencoders import disk
from autoencoders.errors import UserError
from autoencoders.metrics import METRICS, Metric
from pipeline import params, stage
from pipeline.sections import Section, in_sentences

RECIPES = Path("recipes")
RESULTS = RECIPES / "results"
TABLE = RECIPES / "results.md"
SHARE = "codes_active"  # a metric of recipes alone: codebooks of all sizes side by side
CODES_ACTIVE = Metric("codes active", "codes used, in percent of the codebook", 1, "higher", unit="%")
CONFIDENCE = 0.95
TRIAL = {"steps": 4, "batch_size": 64}  # at most, wherever these keys stand
TRIAL_PARAMS = {
    "dataset": {"name": "digits"},
    "training": {"precision": "float32", "validations": 2, "validation_images": 64},
}
TRIAL_SAMPLES = {"samples": 4, "images": 16}  # of an estimate by importance sampling


def known(metric: str) -> str:
    """The name of a metric that the report has."""
    if metric in METRICS or metric == SHARE:
        return metric
    msg = f"must be {SHARE} or a metric of docs/metrics.md"
    raise ValueError(msg)


class Expected(Section):
    """One figure of a recipe, with what has been published of it, if anything."""

    entry: str
    metric: Annotated[str, AfterValidator(known)]
    value: float | None = None
    better: Literal["lower", "higher"] | None = None  # needed where the metric itself does not say

    @property
    def about(self) -> Metric:
        """The metric."""
        return CODES_ACTIVE if self.metric == SHARE else METRICS[self.metric]

    @model_validator(mode="after")
    def _direction(self) -> "Expected":
        if self.value is not None and not (self.better or self.about.better):
            msg = f"better, lower or higher, has to be said for {self.metric}"
            raise ValueError(msg)
        return self

    @property
    def target(self) -> str:
        """The metric and its expected value, as in "NLL (nats) ≤ 86.76"."""
        if self.value is None:
            return _heading(self.about)
        sign = "≤" if (self.better or self.about.better) == "lower" else "≥"
        return f"{_heading(self.about)} {sign} {self.value:g}"


class Minutes(Section):
    """About how long the trainings of all seeds take, one after the other; none where nobody has measured it."""

    cpu: PositiveFloat | None = None
    gpu: PositiveFloat | None = None

    def __str__(self) -> str:
        known = [f"{duration(each)} on a {name}" for name, each in (("CPU", self.cpu), ("GPU", self.gpu)) if each]
        return ", ".join(known) or "time not measured"


class Recipe(Section):
    """A file in `recipes/`."""

    title: str
    paper: str
    table: str  # which table and row of the paper, or where else the figure stands
    setting: str
    expected: Annotated[list[Expected], Field(min_length=1)]
    minutes: Minutes
    differs: list[str]  # from the paper's setting
    params: dict[str, Any]


def available() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load(name: str, base: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe `name`, and the parameters that it makes of the parameters `base`, both checked.

    Raises:
        UserError: one sentence for each thing that is wrong.
    """
    if name not in available():
        msg = f"there is no recipe {name!r}; there are {', '.join(available())}"
        raise UserError(msg)
    path = RECIPES / f"{name}.yaml"
    try:
        recipe = Recipe.model_validate(params.read(path))
    except ValidationError as error:
        msg = "\n".join(f"{path}: {sentence}" for sentence in in_sentences(error, Recipe))
        raise UserError(msg) from error
    wanted = merged(base, recipe.params)
    entries = params.check(wanted, f"{path}, params").variants
    if missing := [each.entry for each in recipe.expected if each.entry not in entries]:
        msg = f"{path}: expected names {', '.join(missing)}; the entries are {', '.join(entries)}"
        raise UserError(msg)
    return recipe, wanted


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, mapping by mapping; `variants` is replaced as a whole."""
    inner = {
        key: merged(base[key], value)
        for key, value in changes.items()
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping) and key != "variants"
    }
    return {**base, **changes, **inner}


def trial(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The same entries for a few steps of one seed on the embedded digits: whether all of it runs, and no more."""
    small = merged(_few(wanted), TRIAL_PARAMS | {"seeds": wanted["seeds"][:1]})
    if "importance" in small["evaluation"]:
        small["evaluation"] = small["evaluation"] | {"importance": TRIAL_SAMPLES}
    return small


def _few(section: Any) -> Any:
    if not isinstance(section, Mapping):
        return section
    return {key: min(value, TRIAL[key]) if key in TRIAL else _few(value) for key, value in section.items()}


def overrides(base: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What turns the parameters `base` into `wanted`, section by section, in Hydra's grammar: what is there is deleted
    and put anew, since Hydra would merge a mapping.
    """
    changed = [key for key in {**base, **wanted} if base.get(key) != wanted.get(key)]
    return [
        *(f"~{key}" for key in changed if key in base),
        *(f"+{key}={literal(wanted[key])}" for key in changed if key in wanted),
    ]


def literal(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(literal, value)) + "]"
    if isinstance(value, str):
        # Escaped are quotes, and backslashes just before one, the closing one included; others stand for themselves.
        return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"
    return json.dumps(value)


def figures(recipe: Recipe, wanted: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Each expected figure with what was measured.

    Args:
        recipe: what is expected.
        wanted: the parameters that were run.
        rows: of the report's table, one for each entry and seed.
    """
    return [_figure(each, wanted["variants"][each.entry], rows) for each in recipe.expected]


def _figure(expected: Expected, section: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    mine = [row for row in rows if row["entry"] == expected.entry]
    finished = [row for row in mine if row["status"] == "finished"]
    values = {row["seed"]: _value(row, expected.metric, section) for row in finished}
    measured = [value for value in values.values() if value is not None]
    whole = len(measured) == len(mine)  # else a mean would leave out the worst
    return {
        **expected.model_dump(),
        "better": expected.better or expected.about.better,
        "values": values,
        "mean": statistics.fmean(measured) if whole else None,
        "interval": interval(measured) if whole else None,
        "train_seconds": round(statistics.fmean(float(row["train_seconds"]) for row in mine), 1),
        "problems": [f"{row['entry']}, seed {row['seed']}: {row['status']}" for row in mine if row not in finished],
    }


def _value(row: Mapping[str, str], metric: str, section: Mapping[str, Any]) -> float | None:
    """A metric of one seed; None where it is undefined."""
    text = row.get("codes_used" if metric == SHARE else metric, "n/a")
    if text in {"", "n/a"}:
        return None
    return 100 * float(text) / _codes(section) if metric == SHARE else float(text)


def _codes(section: Mapping[str, Any]) -> int:
    from autoencoders.quantizer import QUANTIZERS  # noqa: PLC0415 - imports torch

    return QUANTIZERS.build(section["quantizer"]).entries


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % confidence interval of the mean; None with one value."""
    if len(values) < 2:  # noqa: PLR2004
        return None
    from scipy.stats import t  # noqa: PLC0415 - slow

    return float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def verdict(figure: Mapping[str, Any]) -> str:
    """How a figure stands against what is expected of it."""
    if figure["mean"] is None:
        return "; ".join(figure["problems"]) or "undefined for this entry"
    if figure["value"] is None:
        return "nothing to compare with"
    ahead = figure["mean"] - figure["value"] if figure["better"] == "higher" else figure["value"] - figure["mean"]
    by = f"{abs(ahead):.{_metric(figure).digits}f}"
    if ahead >= 0:
        return f"reached, {by} better"
    if ahead + (figure["interval"] or 0) >= 0:
        return f"within the interval, {by} short"
    return f"not reached, {by} short"


def write(name: str, recipe: Recipe, wanted: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Put down what came of a recipe, where it can be committed, and make the table of all results anew."""
    result = outcome(name, recipe, wanted, rows)
    disk.write_json(RESULTS / f"{name}.json", result)
    TABLE.write_text(page(), encoding="utf-8")
    return result


def outcome(name: str, recipe: Recipe, wanted: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What came of a recipe, with all that its figures depend on."""
    first = rows[0]
    same = ("started", "commit", "data", "device", "hardware", "precision", "mode", "python", *stage.PACKAGES)
    changed = [path for path in first["uncommitted_changes"].split() if path not in {"none", "params.yaml"}]
    return {
        "recipe": name,
        **recipe.model_dump(include={"title", "paper", "table"}),
        "figures": figures(recipe, wanted, rows),
        **{key: first[key] for key in same},
        "uncommitted_changes": changed,  # the parameters are all below
        "parameters": dict(wanted),
    }


def cells(result: Mapping[str, Any]) -> list[list[str]]:
    """A row of text for each figure: entry, metric, seeds, mean ± interval, expected, verdict, seconds of a seed."""
    return [
        [
            each["entry"],
            _heading(_metric(each)),
            str(len(each["values"])),
            _mean(each),
            "–" if each["value"] is None else f"{each['value']:g}",
            verdict(each),
            f"{each['train_seconds']:,.0f}",
        ]
        for each in result["figures"]
    ]


HEADER = ["entry", "metric", "seeds", "mean ± 95 %", "expected", "", "s/seed"]


def origin(result: Mapping[str, Any]) -> str:
    """Where a result comes from, in a line."""
    changed = result["uncommitted_changes"]
    with_changes = f" with changes in {', '.join(changed)}" if changed else ""
    return (
        f"commit {result['commit'][:12]}{with_changes}; {result['hardware']}, {result['precision']}, {result['mode']}; "
        f"Python {result['python']}, torch {result['torch']}; {result['started']}"
    )


def page() -> str:
    """The table of all results, as Markdown."""
    results = [disk.read_json(path) for path in sorted(RESULTS.glob("*.json"))]
    lines = [
        "# What the recipes gave", "",
        "Made by `python -m pipeline.recipe --table` from `recipes/results/`, which `make recipe NAME=…` writes. All",
        "figures are of the test split: means over the seeds ± their 95 % confidence interval (Student's t). Reached:",
        "the mean is as good as the expected figure; within the interval: it is worse by less than the interval.",
        "Seconds are those of one seed's training steps.", "",
    ]  # fmt: skip
    for result in results:
        lines += [
            f"## {result['recipe']}",
            "",
            f"{result['title']}. Expected: {result['paper']}, {result['table']}.",
            "",
        ]
        lines += [_row(HEADER), "|---|---|---:|---:|---:|---|---:|", *map(_row, cells(result)), "", origin(result), ""]
    waiting = sorted(set(available()) - {result["recipe"] for result in results})
    return "\n".join(lines + [f"No results yet: {', '.join(waiting)}.", ""] * bool(waiting))


def _row(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"


def _mean(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return "n/a"
    digits = _metric(figure).digits
    return f"{figure['mean']:,.{digits}f}" + (f" ± {figure['interval']:.{digits}f}" if figure["interval"] else "")


def _metric(figure: Mapping[str, Any]) -> Metric:
    return CODES_ACTIVE if figure["metric"] == SHARE else METRICS[figure["metric"]]


def _heading(metric: Metric) -> str:
    return metric.title + (f" ({metric.unit})" if metric.unit else "")


def duration(minutes: float) -> str:
    """Minutes in words, hours from two hours on."""
    return f"{minutes / 60:,.0f} hours" if minutes >= 120 else f"{minutes:,.0f} min"  # noqa: PLR2004
