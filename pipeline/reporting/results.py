"""What the stages have left on disk, put together for the report and for MLflow."""

import hashlib
import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from ruamel.yaml import YAML

from aelab.core import disk
from aelab.core.errors import UserError
from aelab.evaluation import examples, per_image, ranking
from aelab.evaluation.examples import Examples
from aelab.evaluation.metric_names import ANOMALIES, CLASSIFIER
from aelab.report.evidence import Entry
from aelab.report.metrics import COST, METRICS
from aelab.report.tables import flattened, spreadsheet
from pipeline.common import paths
from pipeline.common.params import CLEAN, Params

MEASURED = [name for name in METRICS if name not in (*CLASSIFIER, *COST, *ANOMALIES)]  # columns of the CSV


@dataclass(frozen=True)
class Result:
    """One trained seed of one entry."""

    entry: str
    seed: int
    status: str  # "finished", or what went wrong
    about: str  # the model, in a sentence
    pixels: str | None  # what a pixel is to the model's likelihood, if it has one
    metrics: dict[str, dict[str, float]]  # by split, "validation" and "test"; empty if it did not finish
    undefined: dict[str, str]  # metric or figure → why there is none
    symptoms: list[str]  # what is wrong with a model that finished
    outcome: dict[str, dict[str, int]]  # phase → best_step, diverged_at_step
    training: dict[str, Any]  # where and how it was trained
    cost: dict[str, Any]  # of this seed's training: started, ended, phases, peak_memory_mib
    parameters: dict[str, Any]  # that it was made with, as `dvc.lock` holds them: dataset, corruption, training, …
    digests: dict[str, str]  # DVC's hashes of the clean images, by split
    fingerprint: str  # of the code, data and parameters of the training, and of what it and the evaluation gave
    gave: str  # a digest of the latter alone: the weights, and what was measured of them
    folder: Path  # of its figures
    weights: Path
    curve: list[dict[str, Any]]  # phase, step, time and losses of every point
    floor: bool = False  # whether nothing is trained in it: it has no other seeds, and is not ranked
    code: dict[str, int] | None = None  # the `numbers` in one image's code, or how many `codes`, each one `of` K
    training_images: int | None = None  # that there were to learn from

    @property
    def data_digest(self) -> str:
        """DVC's hash of the clean training images."""
        return self.digests["train"]


@dataclass(frozen=True)
class ReportEntry:
    """An entry under the name that the report gives it."""

    name: str
    params: Params
    results: Sequence[Result]

    @property
    def section(self) -> Mapping[str, Any]:
        """Of `variants` in its parameters."""
        section: Mapping[str, Any] = self.params.variants[self.results[0].entry]
        return section

    @property
    def floor(self) -> bool:
        """Whether nothing is trained in it."""
        return self.results[0].floor

    @property
    def finished(self) -> list[Result]:
        """Its seeds that did; the first stands for it in the figures."""
        return [result for result in self.results if result.status == "finished"]

    @property
    def examples(self) -> Examples | None:
        """Those of its first seed that finished, where there is anything to see."""
        path = self.finished[0].folder / "examples.safetensors" if self.finished else None
        return examples.read(path) if path and path.exists() else None

    def entry(self) -> Entry:
        """What the claims are judged by."""
        return Entry(
            self.name,
            pixels=next((result.pixels for result in self.finished), None),
            parameters=dict(flattened(self.section)),
            curves=[result.curve for result in self.finished],
            symptoms=[symptom for result in self.finished for symptom in result.symptoms],
            **(self._images() | self._size() if self.finished else {}),
            floor=self.floor,
            dimensions=math.prod(self.params.dataset.image),
            learned=self._learned(),
        )

    def _learned(self) -> list[str]:
        """The corruptions that its training images are under."""
        inputs = self.section["inputs"]
        return [f"{kind}-{level}" for kind, level in self.params.learned(inputs).mixed] if inputs != CLEAN else []

    def _images(self) -> dict[str, Any]:
        """The metrics of each test image; none where an older evaluation has not kept them."""
        folder = self.finished[0].folder.parent
        images, scores = (
            per_image.read(path) if (path := folder / name).exists() else {}
            for name in (per_image.FILE, per_image.SCORES)
        )
        return {"images": images | _of_each(scores, len(images["mse"].columns))} if images else {}

    def _size(self) -> dict[str, Any]:
        """How large its code is, and how often the first phase has looked at each training image."""
        first, found = self.finished[0], dict[str, Any]()
        if first.code and "numbers" in first.code:
            found["code_size"] = f"{first.code['numbers']:,} numbers"
        elif first.code:
            bits = found["code_bits"] = first.code["codes"] * math.log2(first.code["of"])
            found["code_size"] = f"{first.code['codes']:,} codes of {first.code['of']:,}: {bits:,.0f} bits"
        if first.training_images and first.curve:
            steps = max(point["step"] for point in first.curve if point["phase"] == first.curve[0]["phase"])
            batch = (first.parameters["training"] | self.section.get("training", {}))["batch_size"]
            found["looks"] = steps * batch / first.training_images
        return found


def _of_each(scores: Mapping[str, pd.DataFrame], others: int) -> dict[str, pd.DataFrame]:
    """What each image is to the measures of how well a score tells the images after the first `others` from those."""
    found = dict[str, dict[Hashable, NDArray[np.float64]]]()
    for name, table in scores.items():
        for seed, values in table.iterrows():
            each = values.to_numpy()
            if np.isfinite(each).all():
                for measure, of in ranking.of_each({name: each}, np.arange(len(each)) >= others).items():
                    found.setdefault(measure, {})[seed] = of
    return {measure: pd.DataFrame.from_dict(seeds, orient="index") for measure, seeds in found.items()}


def collect(params: Params) -> list[ReportEntry]:
    """Every entry of the parameters with all its seeds, in their order; the floors at the end.

    Raises:
        UserError: there is no result of one.
    """
    found, lacking = available(params)
    if lacking:
        raise UserError(lacking[0])
    entries = [ReportEntry(name, params, [each for each in found if each.entry == name]) for name in params.variants]
    return sorted(entries, key=lambda entry: entry.floor)


def rows(entries: Sequence[ReportEntry]) -> pd.DataFrame:
    """One row for each entry and seed: what was measured, what it cost and where it comes from."""
    return pd.DataFrame([_row(entry.name, result) for entry in entries for result in entry.results])


def _row(name: str, result: Result) -> dict[str, Any]:
    """What was measured, on the test split unless named."""
    training = result.training
    measured = dict.fromkeys(MEASURED, float("nan")) | result.metrics.get("test", {})
    measured |= {f"validation_{name}": value for name, value in result.metrics.get("validation", {}).items()}
    trained = {
        "pixels": result.pixels or "n/a",
        **costs(result),
        "best_steps": "/".join(str(phase["best_step"]) for phase in result.outcome.values()),
        "started": training["started"],
        "commit": training["commit"],
        "uncommitted_changes": " ".join(training["uncommitted_changes"]) or "none",
        "data": result.data_digest,
        "parameters_digest": parameters_digest(result),
        **{key: training[key] for key in ("device", "hardware", "precision", "mode", "python")},
        **training["packages"],
    }
    if taken := measured.keys() & trained.keys():
        msg = f"metrics with the name of another column: {', '.join(sorted(taken))}"
        raise ValueError(msg)
    model = result.parameters[f"variants.{result.entry}"]["model"]
    which = {"entry": name, "model": model, "seed": result.seed, "status": result.status, "floor": result.floor}
    return {name: spreadsheet(value) for name, value in (which | measured | trained).items()}


def available(params: Params) -> tuple[list[Result], list[str]]:
    """The results that there are, and a sentence for each that there is not."""
    found, lacking = list[Result](), list[str]()
    path = Path("dvc.lock")
    if not path.exists():
        return [], ["dvc.lock is not there: `dvc repro` writes it"]
    lock = YAML(typ="safe", pure=True).load(path)["stages"]  # it is up to date when the report begins
    for entry in params.variants:
        for seed in params.seeds:
            try:
                found.append(_read(lock, entry, seed))
            except (KeyError, FileNotFoundError):
                lacking.append(f"there are no results of {entry}, seed {seed}: run `dvc repro` first")
                continue
            if found[-1].floor:
                break  # its first seed stands for all
    return found, lacking


def parameters_digest(result: Result) -> str:
    """A short name for the parameters that a result was made with."""
    return _digest(result.parameters)[:12]


def costs(result: Result) -> dict[str, float]:
    """What the training took: seconds over all phases, images per second of the first phase, peak memory; nothing where
    there was no training.
    """
    phases = list(result.cost["phases"].values())
    if not phases:
        return {}
    return {
        "train_seconds": sum(phase["seconds"] for phase in phases),
        "train_cpu_seconds": result.cost["cpu_seconds"],
        "images_per_second": phases[0]["images_per_second"],
        "peak_memory_mib": float(result.cost["peak_memory_mib"]),
    }


def _read(lock: dict[str, Any], entry: str, seed: int) -> Result:
    train, download, noise = lock[f"train@{entry}"], lock["download"], lock["noise"]
    evaluated = disk.read_json(paths.EVALUATION / entry / "metrics.json")[str(seed)]
    inputs = _params(train)[f"variants.{entry}"]["inputs"]
    learned = {} if inputs == CLEAN else _params(lock[f"corrupt@{inputs}"])
    parameters = _params(download) | _params(noise) | learned | _params(train) | {"seeds": seed}
    training = disk.read_json(paths.training(entry))
    models = paths.MODELS / entry
    weights = hashlib.sha256((models / f"seed{seed}.safetensors").read_bytes()).hexdigest()
    depends_on = [train["deps"], parameters, weights, evaluated]
    return Result(
        entry=entry,
        seed=seed,
        **evaluated,
        outcome=disk.read_json(models / f"seed{seed}.json"),
        training=training,
        cost=training["seeds"][str(seed)],
        parameters=parameters,
        digests={split: _out(download, paths.CLEAN / split) for split in ("train", "validation", "test")},
        fingerprint=_digest(depends_on),
        gave=_digest([weights, evaluated]),
        folder=paths.EVALUATION / entry / f"seed{seed}",
        weights=models / f"seed{seed}.safetensors",
        curve=disk.read_lines(paths.curve(entry, seed)),
    )


def _params(stage_lock: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a stage was last run with."""
    return dict(stage_lock["params"]["params.yaml"])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _out(stage_lock: dict[str, Any], path: Path) -> str:
    """DVC's hash of one output."""
    return str(next(out["md5"] for out in stage_lock["outs"] if out["path"] == str(path)))
