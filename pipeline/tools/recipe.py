"""recipe: run the settings of a publication as a DVC experiment, and compare the results with published numbers.

    python -m pipeline.tools.recipe                       # list the recipes with published numbers and durations
    python -m pipeline.tools.recipe iwae-short            # run a recipe and write recipes/results/iwae-short.json
    python -m pipeline.tools.recipe iwae-short --quick    # try the recipe in a minute

A recipe is a YAML file in `recipes/`. Its section `params` changes single keys of params.yaml, but replaces lists, such
as `seeds`, and the section `variants` as a whole. An entry is a model with its settings in `variants`. In this file, a
figure is a metric of an entry, with the published value if there is one.

The experiment runs in a copy of the repository, so params.yaml, dvc.lock and the reports stay unchanged. The experiment
starts from the params.yaml of the last commit, so uncommitted changes of this file have no effect.
"""

import csv
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import typer
from jinja2 import Template
from pydantic import AfterValidator, Field, PositiveFloat, ValidationError, model_validator
from ruamel.yaml import YAML

from aelab.core import disk
from aelab.core.errors import UserError
from aelab.core.sections import Section, in_sentences
from aelab.report.claims import TABLE as CLAIMS
from aelab.report.intervals import interval
from aelab.report.metrics import METRICS, Metric
from pipeline import RUNNER
from pipeline.common import git, params, paths, stage
from pipeline.common.params import PARAMS, one_of
from pipeline.tools.templates import template

RECIPES = Path("recipes")
RESULTS = RECIPES / "results"
TABLE = RECIPES / "results.md"
PAGE = Path("docs/quantisers.md")
STUDY = ("codebook-mnist", "codebook-fashion", "codebook-photographs")
SHARE, MEAN_PSNR = "codes_active", "psnr_of_mse"  # names of two metrics that only recipes have
KNOWN = METRICS | {  # the metrics of the report and of recipes
    SHARE: Metric("codes active", "codes used, in percent of the codebook", 1, "higher", unit="%"),
    MEAN_PSNR: Metric("PSNR of the mean MSE", "−10·log₁₀ of the MSE over all images", 2, "higher", unit="dB"),
}
TRIAL = {"steps": 4, "batch_size": 64, "samples": 64, "images": 16}  # largest values of these keys in a trial
TRIAL_PARAMS = {
    "dataset": {"name": "digits"},
    "training": {"precision": "float32", "validations": 2, "validation_images": 64},
}
# Columns of the report's table that become keys of a recipe's result.
SAME = ("started", "commit", "data", "device", "hardware", "precision", "mode", "python", *stage.PACKAGES)


def main(
    name: Annotated[str | None, typer.Argument(help="A recipe; without a name, list all recipes.")] = None,
    *,
    quick: Annotated[bool, typer.Option(help="Run a few steps on the digits to try the command; no verdict.")] = False,
) -> None:
    """Run the recipe NAME and compare the results with published numbers."""
    try:
        if name is None:
            _list()
        else:
            _run(name, quick=quick)
    except UserError as error:
        sys.exit(f"\n{error}\n")


def _list() -> None:
    base = committed()
    for name in available():
        recipe, _ = load(name, base)
        targets = [f"{each.entry}: {each.target}" for each in recipe.expected]
        figures = ", ".join([*targets, *map(_heading, recipe.shown)])
        source = f"{recipe.paper}, {recipe.table}"
        print(f"{name}: {recipe.title}", source, figures, recipe.time, sep="\n    ", end="\n\n")
    print("Run one with: make recipe NAME=…")


def _run(name: str, *, quick: bool) -> None:
    recipe, wanted = load(name, committed())
    print(f"{recipe.title}\n{recipe.paper}, {recipe.table}\nabout {recipe.time}")
    print(*(f"differs: {each}" for each in recipe.differs), sep="\n")
    if quick:
        wanted = trial(next(iter(settings(name, recipe, wanted).values())))
        figures(recipe, wanted, experiment(f"{name}-quick", wanted))
        print("No stage failed. This trial on the digits gives no verdict.")
        return
    rows = [row for each, of in settings(name, recipe, wanted).items() for row in experiment(each, of)]
    result = outcome(name, recipe, wanted, rows) | {"claims": claims(name, recipe.claims), "kept": recipe.kept}
    for file in recipe.kept:
        disk.write_atomically(RESULTS / name / Path(file).name, _kept(name, file).encode())
    disk.write_json(RESULTS / f"{name}.json", result)
    TABLE.write_text(page(), encoding="utf-8")
    if name in STUDY:
        PAGE.write_text(study(), encoding="utf-8")
    macros: Any = _template().make_module({"results": [], "waiting": []})
    print("", macros.section(result), f"Written to {RESULTS / name}.json and {TABLE}", sep="\n")


# --- the recipes -------------------------------------------------------------------------------------------------


def known(metric: str) -> str:
    """Check that `metric` is a metric of the report or of recipes, and return this name."""
    if metric in KNOWN:
        return metric
    msg = f"must be {SHARE} or a metric of docs/metrics.md"
    raise ValueError(msg)


class Expected(Section):
    """A published number that the recipe should reach."""

    entry: str
    metric: Annotated[str, AfterValidator(known)]
    value: float
    better: Literal["lower", "higher"] | None = None  # required if neither direction is generally better

    @model_validator(mode="after")
    def _direction(self) -> "Expected":
        if not self.direction:
            msg = f"set better to lower or higher for {self.metric}"
            raise ValueError(msg)
        return self

    @property
    def direction(self) -> Literal["lower", "higher"] | None:
        """Whether a lower or a higher value is better."""
        return self.better or KNOWN[self.metric].better

    @property
    def target(self) -> str:
        """The metric and its expected value, as in "NLL (nats) ≤ 86.76"."""
        return f"{_heading(self.metric)} {'≤' if self.direction == 'lower' else '≥'} {self.value:g}"


class Recipe(Section):
    """A recipe: the content of a file in `recipes/`."""

    extends: str | None = None  # name of a recipe that this recipe repeats with changed keys
    title: str
    paper: str
    table: str  # table and row of the paper, or another source
    setting: str
    expected: list[Expected] = []
    shown: list[Annotated[str, AfterValidator(known)]] = []  # Metrics of each entry, without published values.
    claims: list[Annotated[str, one_of(CLAIMS)]] = []  # Claims of docs/report.md that the recipe's entries test.
    kept: list[str] = []  # Files of the report to keep, such as figures/rate_distortion.svg
    sweep: dict[str, Annotated[list[Any], Field(min_length=2)]] = {}  # A parameter, by dotted key, and its values.
    minutes: dict[Literal["cpu", "gpu"], PositiveFloat]  # For all seeds, one after the other; empty if unknown.
    differs: list[str]  # Differences from the paper's setting.
    params: dict[str, Any]

    @model_validator(mode="after")
    def _figures(self) -> "Recipe":
        if self.expected or self.shown:
            return self
        msg = "expected or shown must name a metric"
        raise ValueError(msg)

    @model_validator(mode="after")
    def _alone(self) -> "Recipe":
        if not self.sweep or (len(self.sweep) == 1 and not (self.claims or self.kept)):
            return self
        msg = "sweep must name one parameter, and a recipe with sweep must have neither claims nor kept"
        raise ValueError(msg)

    @property
    def time(self) -> str:
        """Approximate duration of the recipe, as text."""
        times = [f"{minutes / 60:.1f} hours on a {where.upper()}" for where, minutes in self.minutes.items()]
        return ", ".join(times) or "time not measured"


def settings(name: str, recipe: Recipe, wanted: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameters of a recipe's experiments, by the name of the experiment.

    A recipe with a `sweep` has one experiment for each value of the sweep. Any other recipe has one experiment.
    """
    found = {name: dict(wanted)}
    for key, values in recipe.sweep.items():
        found = {f"{name}-{i}": merged(wanted, nested(key, value)) for i, value in enumerate(values)}
    return found


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return a mapping that holds the value under a dotted key."""
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


def available() -> list[str]:
    """Return the names of all recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load(name: str, base: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe `name`, and the parameters `base` with the recipe's changes. Check both.

    Raises:
        UserError: one sentence for each problem.
    """
    if name not in available():
        msg = f"there is no recipe {name!r}; there are {', '.join(available())}"
        raise UserError(msg)
    recipe, path = _read(name), RECIPES / f"{name}.yaml"
    wanted = merged(base, recipe.params)
    for each in settings(name, recipe, wanted).values():
        entries = params.check(each, f"{path}, params").variants
    if missing := [each.entry for each in recipe.expected if each.entry not in entries]:
        msg = f"{path}: `expected` names {', '.join(missing)}; the entries are {', '.join(entries)}"
        raise UserError(msg)
    return recipe, wanted


def _read(name: str) -> Recipe:
    """Read a recipe. If the recipe extends another recipe, merge the two."""
    path = RECIPES / f"{name}.yaml"
    content = params.read(path)
    if isinstance(content, Mapping) and "extends" in content:
        other = RECIPES / f"{content['extends']}.yaml"
        if not other.exists():
            msg = f"{path}: extends names {other.stem!r}, which is no recipe; there are {', '.join(available())}"
            raise UserError(msg)
        content = merged(params.read(other), content)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        msg = "\n".join(f"{path}: {sentence}" for sentence in in_sentences(error, Recipe))
        raise UserError(msg) from error


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values in `changes`. Nested mappings are merged, but `variants` is replaced as a whole."""
    inner = {
        key: merged(base[key], value)
        for key, value in changes.items()
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping) and key != "variants"
    }
    return {**base, **changes, **inner}


def trial(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters `wanted`, shortened for a trial: one seed and a few steps on the data set digits."""
    digits = merged(shortened(wanted, TRIAL), TRIAL_PARAMS | {"seeds": wanted["seeds"][:1]})
    other = isinstance(wanted["dataset"].get("anomalies"), str)  # a data set, whose images differ in size from digits
    return merged(digits, {"dataset": {"anomalies": "digits"}}) if other else digits


def shortened(section: Any, limits: Mapping[str, int]) -> Any:
    """Return a copy of the section in which no value, at any depth, exceeds the limit of its key in `limits`."""
    if not isinstance(section, Mapping):
        return section
    return {
        key: min(value, limits[key]) if key in limits else shortened(value, limits) for key, value in section.items()
    }


# --- the experiment ---------------------------------------------------------------------------------------------------


def committed(revision: str = "HEAD") -> dict[str, Any]:
    """Return the parameters in the params.yaml of a commit, unchecked."""
    text = git.output("show", f"{revision}:./{PARAMS}")
    if text is None:
        msg = f"git has no {PARAMS} at {revision}: commit the file, since the run starts from a commit"
        raise UserError(msg)
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return content


def experiment(name: str, wanted: Mapping[str, Any]) -> list[dict[str, str]]:
    """Run all stages with the parameters `wanted`, as the DVC experiment `name` in a copy of the repository.

    An earlier experiment with this name, on the same commit, is replaced. Finished trainings are not repeated.

    Returns:
        The rows of the table comparison.csv in the experiment's report.
    """
    git.output("update-ref", "-d", _reference(name))
    changes = [word for each in overrides(params.read(PARAMS), wanted) for word in ("--set-param", each)]
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
        RUNNER: str(os.getpid()),  # the stages end if this process ends
    }
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp", "--name", name, *changes]
    with subprocess.Popen(command, env=os.environ | environment) as process:  # noqa: S603
        try:
            process.wait()
        except KeyboardInterrupt:  # DVC and the stages receive Ctrl-C too
            process.wait()
            sys.exit(130)
    text = _reported(name, "comparison.csv")
    if process.returncode or text is None:
        msg = f"{name} failed for the reason above; finished trainings are kept for the next run"
        raise UserError(msg)
    return list(csv.DictReader(text.splitlines()))


def claims(name: str, keys: Sequence[str]) -> dict[str, Any]:
    """Return the verdicts on the claims `keys`, from the report of the experiment `name`."""
    judged = json.loads(_reported(name, "claims.json") or "{}")
    return {key: judged[key] for key in keys}


def _kept(name: str, file: str) -> str:
    text = _reported(name, file)
    if text is None:
        msg = f"recipes/{name}.yaml: `kept` names {file}, which the experiment's report lacks"
        raise UserError(msg)
    return text


def _reference(name: str) -> str:
    """Return the git reference of the experiment `name` on the current commit."""
    head = (git.output("rev-parse", "HEAD") or "").strip()
    return f"refs/exps/{head[:2]}/{head[2:]}/{name}"


def _reported(name: str, file: str) -> str | None:
    """Return the text of a file in the experiment's report; None if the file does not exist."""
    return git.output("show", f"{_reference(name)}:./{paths.REPORTS}/{file}")


def overrides(base: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the overrides that turn the parameters `base` into `wanted`, in the syntax of Hydra, which DVC uses.

    The overrides delete each changed section and add the new section, because Hydra would merge the two.
    """
    changed = [key for key in {**base, **wanted} if base.get(key) != wanted.get(key)]
    return [
        *(f"~{key}" for key in changed if key in base),
        *(f"+{key}={literal(wanted[key])}" for key in changed if key in wanted),
    ]


def literal(value: Any) -> str:
    """Return a value in Hydra's syntax."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(literal, value)) + "]"
    if isinstance(value, str):
        # Hydra's syntax puts a backslash before a quote, and doubles the backslashes directly before any quote.
        return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"
    return json.dumps(value)


# --- the results -----------------------------------------------------------------------------------------------


def outcome(name: str, recipe: Recipe, wanted: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the result of a recipe: its figures, and the versions, hardware and parameters on which they depend."""
    changed = rows[0]["uncommitted_changes"].split()
    return {
        "recipe": name,
        **recipe.model_dump(include={"title", "paper", "table", *(["sweep"] if recipe.sweep else [])}),
        "figures": figures(recipe, wanted, rows),
        **{key: rows[0][key] for key in SAME},
        # params.yaml is left out, because the key "parameters" has its content.
        "uncommitted_changes": [path for path in changed if path not in {"none", "params.yaml"}],
        "parameters": dict(wanted),
    }


def figures(recipe: Recipe, wanted: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return the recipe's figures: the published numbers and the metrics in `shown`, with the measured values.

    Args:
        recipe: the recipe.
        wanted: the parameters of the experiment.
        rows: the rows of comparison.csv, one for each entry and seed.
    """
    published = [each.model_dump() | {"better": each.direction} for each in recipe.expected]
    shown = [{"entry": entry, "metric": name, "value": None} for name in recipe.shown for entry in wanted["variants"]]
    return [each | _measured(each, wanted["variants"][each["entry"]], rows) for each in published + shown]


def _measured(
    figure: Mapping[str, Any], section: Mapping[str, Any], rows: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """Return the measured values of a figure: one for each seed of its entry, their mean and its interval."""
    mine = [row for row in rows if row["entry"] == figure["entry"]]
    finished = [row for row in mine if row["status"] == "finished"]
    values = {
        seed: _together([_value(row, figure["metric"], section) for row in finished if row["seed"] == seed])
        for seed in dict.fromkeys(row["seed"] for row in finished)
    }
    measured = [value for value in values.values() if value is not None]
    # A mean needs all seeds, because the seeds that failed may be the worst.
    whole = bool(measured) and len(measured) == len(values) and len(finished) == len(mine)
    spread = interval(measured)
    clock = "train_cpu_seconds" if mine[0]["device"] == "cpu" else "train_seconds"
    seconds = [float(row[clock]) for row in mine if row.get(clock, "n/a") not in {"", "n/a"}]
    return {
        "values": values,
        "mean": spread.mean if whole else None,
        "interval": spread.half if whole and spread.known else None,
        clock: round(fmean(seconds), 1) if seconds else None,  # None without training
        "problems": [f"{row['entry']}, seed {row['seed']}: {row['status']}" for row in mine if row not in finished],
    }


def _together(values: Sequence[float | None]) -> float | None:
    """Return the mean of a seed's values over the experiments of a sweep; None if a value is undefined."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _value(row: Mapping[str, str], metric: str, section: Mapping[str, Any]) -> float | None:
    """Return the value of a metric in a row of the report's table; None if the metric is undefined."""
    text = row.get({SHARE: "codes_used", MEAN_PSNR: "mse"}.get(metric, metric), "n/a")
    if text in {"", "n/a"}:
        return None
    if metric == MEAN_PSNR:
        return -10 * math.log10(float(text))
    if metric != SHARE:
        return float(text)
    from aelab.models.quantizer import QUANTIZERS  # noqa: PLC0415 - imports torch

    return 100 * float(text) / QUANTIZERS.build(section["quantizer"]).entries


def verdict(figure: Mapping[str, Any]) -> str:
    """Return the verdict on a figure, with the difference between the mean and the published value.

    "Reached" needs a difference to the better side that is at least as large as the half-width of the 95 % interval.
    "Not reached" needs such a difference to the worse side. A smaller difference is "undecided". With one
    seed, the verdict is only the difference.
    """
    if figure["mean"] is None:
        return "; ".join(figure["problems"]) or "undefined for this entry"
    ahead = figure["mean"] - figure["value"] if figure["better"] == "higher" else figure["value"] - figure["mean"]
    by = f"{abs(ahead):.{KNOWN[figure['metric']].digits}f} {'better' if ahead >= 0 else 'worse'}"
    if figure["interval"] is None:
        return f"one seed: {by}"
    if abs(ahead) < figure["interval"]:
        return f"undecided, {by}"
    return f"reached, {by}" if ahead >= 0 else f"not reached, {by}"


def page() -> str:
    """Return the page recipes/results.md with the results of all recipes, as Markdown."""
    results = [disk.read_json(path) for path in sorted(RESULTS.glob("*.json"))]
    waiting = {name: _read(name) for name in available() if name not in {result["recipe"] for result in results}}
    return _template().render(results=results, waiting=waiting)


def study() -> str:
    """Return the page docs/quantisers.md, as Markdown, from the results of the recipes in `STUDY`."""
    found = {name: disk.read_json(path) for name in STUDY if (path := RESULTS / f"{name}.json").exists()}

    means = [
        {(each["metric"], each["entry"]): each["mean"] for each in result["figures"] if each["value"] is None}
        for result in found.values()
    ]

    def span(metric: str, entry: str, other: str | None = None) -> str:
        """Return the range, over the data sets, of an entry's mean.

        With `other`, return the range of the difference between the means of the two entries.
        """
        values = sorted(each[metric, entry] - (each[metric, other] if other else 0) for each in means)
        return f"{values[0]:.1f} to {values[-1]:.1f}"

    complete = len(found) == len(STUDY)  # without all results, the page omits the findings
    return _template("quantisers.md.j2").render(results=found.values(), span=span, complete=complete)


def _template(name: str = "recipe_results.md.j2") -> Template:
    page = template(name)
    page.globals.update(published=_published, shown=_shown)
    return page


def _published(figures: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a table row for each figure that has a published value."""
    return [
        [figure["entry"], _heading(figure["metric"]), _seeds(figure), _mean(figure), f"{figure['value']:g}",
         verdict(figure), _seconds(figure)]
        for figure in figures
        if figure["value"] is not None
    ]  # fmt: skip


def _shown(figures: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a table of the metrics without a published value: the header, and a row for each entry."""
    cells = {(figure["entry"], figure["metric"]): figure for figure in figures if figure["value"] is None}
    entries, metrics = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True)) if cells else ([], [])
    rows = []
    for entry in entries:
        mine = [cells.get((entry, metric)) for metric in metrics]
        first = next(filter(None, mine))
        means = ["–" if figure is None else _mean(figure) for figure in mine]
        rows.append([entry, *means, _seeds(first), _seconds(first)])
    return [["entry", *map(_heading, metrics), "seeds", "CPU s/seed"], *rows] if rows else []


def _mean(figure: Mapping[str, Any]) -> str:
    digits = KNOWN[figure["metric"]].digits
    half = f" ± {figure['interval']:.{digits}f}" if figure["interval"] else ""
    return "; ".join(figure["problems"]) or "n/a" if figure["mean"] is None else f"{figure['mean']:,.{digits}f}{half}"


def _seeds(figure: Mapping[str, Any]) -> str:
    return str(len(figure["values"]))


def _seconds(figure: Mapping[str, Any]) -> str:
    clock = "train_cpu_seconds" if "train_cpu_seconds" in figure else "train_seconds"
    return "–" if figure[clock] is None else f"{figure[clock]:,.0f}{' (wall)' * (clock == 'train_seconds')}"


def _heading(metric: str) -> str:
    title, unit = KNOWN[metric].title, KNOWN[metric].unit
    return f"{title} ({unit})" if unit else title


if __name__ == "__main__":
    typer.run(main)
