"""The stages' results on disk, collected for the report and for MLflow.

An entry is the configuration of a model in the section `variants` of `params.yaml`.
"""

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

MEASURED = [name for name in METRICS if name not in (*CLASSIFIER, *COST, *ANOMALIES)]  # columns of the report's CSV


@dataclass(frozen=True)
class Result:
    """Result of one seed of one entry.

    Attributes:
        entry: Name of the entry.
        seed: Random seed of the training.
        status: "finished", or a sentence that says which phase diverged.
        about: One sentence that describes the model.
        pixels: Likelihood of a pixel, such as "Bernoulli, not binarised"; None if the model has no likelihood.
        metrics: Metrics by name, for the splits "validation" and "test". Empty if the training diverged.
        undefined: Names of the undefined metrics and figures, each with the reason.
        symptoms: Warnings about the finished model.
        outcome: For each phase of the training, the `best_step`, the step `diverged_at_step`, and the `cause` of the
            divergence.
        training: Provenance of the entry's training: time, commit, hardware, versions.
        cost: Cost of this seed's training: start, end, seconds of each phase, peak memory.
        parameters: Sections of `params.yaml` on which the result depends, with the values in `dvc.lock`.
        digests: DVC's hashes of the clean images, by split.
        fingerprint: Hash of code, data, parameters and results.
        gave: Hash of the weights and metrics only.
        folder: Folder with the figures of this seed.
        weights: File with the weights of this seed.
        curve: Learning curve. Each point has the phase, step, time and losses.
        floor: Whether the entry is a floor: a baseline that needs no training and has no rank.
        code: Size of an image's code: {"numbers": 32}, or {"codes": 49, "of": 512} for 49 indices of 512 codes.
        training_images: Number of training images.
    """

    entry: str
    seed: int
    status: str
    about: str
    pixels: str | None
    metrics: dict[str, dict[str, float]]
    undefined: dict[str, str]
    symptoms: list[str]
    outcome: dict[str, dict[str, int]]
    training: dict[str, Any]
    cost: dict[str, Any]
    parameters: dict[str, Any]
    digests: dict[str, str]
    fingerprint: str
    gave: str
    folder: Path
    weights: Path
    curve: list[dict[str, Any]]
    floor: bool = False
    code: dict[str, int] | None = None
    training_images: int | None = None

    @property
    def data_digest(self) -> str:
        """DVC's hash of the clean training images."""
        return self.digests["train"]


@dataclass(frozen=True)
class ReportEntry:
    """An entry with its name in the report, all parameters, and the results of its seeds."""

    name: str
    params: Params
    results: Sequence[Result]

    @property
    def section(self) -> Mapping[str, Any]:
        """The entry's keys and values in the section `variants`."""
        section: Mapping[str, Any] = self.params.variants[self.results[0].entry]
        return section

    @property
    def floor(self) -> bool:
        """Whether the entry is a floor: a baseline that needs no training, such as PCA."""
        return self.results[0].floor

    @property
    def finished(self) -> list[Result]:
        """Results of the finished seeds. The report's figures show the first finished seed."""
        return [result for result in self.results if result.status == "finished"]

    @property
    def examples(self) -> Examples | None:
        """Example images and statistics of the first finished seed; None without such a seed or without the file."""
        path = self.finished[0].folder / "examples.safetensors" if self.finished else None
        return examples.read(path) if path and path.exists() else None

    def entry(self) -> Entry:
        """Return the entry in the form that the report's tables and the verdicts on claims need."""
        return Entry(
            self.name,
            pixels=next((result.pixels for result in self.finished), None),
            parameters=dict(flattened(self.section)),
            curves=[result.curve for result in self.finished],
            symptoms=[symptom for result in self.finished for symptom in result.symptoms],
            **(self._images() | self._size() if self.finished else {}),
            floor=self.floor,
            dimensions=math.prod(self.params.dataset.image),
            learned=self._training_corruptions(),
        )

    def _training_corruptions(self) -> list[str]:
        """Return the names of the corruptions on which the entry was trained, such as masking-0.5."""
        inputs = self.section["inputs"]
        return [f"{kind}-{level}" for kind, level in self.params.learned(inputs).mixed] if inputs != CLEAN else []

    def _images(self) -> dict[str, Any]:
        """Return the metrics of each test image. Results of an older version have no such metrics."""
        folder = self.finished[0].folder.parent
        images, scores = (
            per_image.read(path) if (path := folder / name).exists() else {}
            for name in (per_image.FILE, per_image.SCORES)
        )
        return {"images": images | _of_each(scores, len(images["mse"].columns))} if images else {}

    def _size(self) -> dict[str, Any]:
        """Return the size of the code, and the number of times that the first training phase saw each image."""
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
    """Return each image's contribution to the AUROC and the average precision of each score.

    Args:
        scores: a table for each score, with a row for each seed and a column for each image.
        others: number of test images, which come first. All further images are anomalies.

    Returns:
        A table for each metric, such as auroc_mse, with a row for each seed and a column for each image.
    """
    found = dict[str, dict[Hashable, NDArray[np.float64]]]()
    for name, table in scores.items():
        for seed, values in table.iterrows():
            each = values.to_numpy()
            if np.isfinite(each).all():
                for measure, of in ranking.of_each({name: each}, np.arange(len(each)) >= others).items():
                    found.setdefault(measure, {})[seed] = of
    return {measure: pd.DataFrame.from_dict(seeds, orient="index") for measure, seeds in found.items()}


def collect(params: Params) -> list[ReportEntry]:
    """Return every entry with its results for all seeds. Floors come last.

    Raises:
        UserError: a result is missing.
    """
    found, lacking = available(params)
    if lacking:
        raise UserError(lacking[0])
    entries = [ReportEntry(name, params, [each for each in found if each.entry == name]) for name in params.variants]
    return sorted(entries, key=lambda entry: entry.floor)


def rows(entries: Sequence[ReportEntry]) -> pd.DataFrame:
    """Return a table with a row for each entry and seed. The columns are metrics, cost and provenance."""
    return pd.DataFrame([_row(entry.name, result) for entry in entries for result in entry.results])


def _row(name: str, result: Result) -> dict[str, Any]:
    """Return the row of one result. The names of metrics on the validation split begin with `validation_`."""
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
    """Return the results on disk, and a sentence for each missing result."""
    found, lacking = list[Result](), list[str]()
    path = Path("dvc.lock")
    if not path.exists():
        return [], ["dvc.lock is missing: `dvc repro` writes it"]
    lock = YAML(typ="safe", pure=True).load(path)["stages"]  # up to date: each stage is recorded before the report
    for entry in params.variants:
        for seed in params.seeds:
            try:
                found.append(_read(lock, entry, seed))
            except (KeyError, FileNotFoundError):
                lacking.append(f"there are no results of {entry}, seed {seed}: run `dvc repro` first")
                continue
            if found[-1].floor:
                break  # a floor has one seed
    return found, lacking


def parameters_digest(result: Result) -> str:
    """Return a short hash of a result's parameters."""
    return _digest(result.parameters)[:12]


def costs(result: Result) -> dict[str, float]:
    """Return the cost of one seed's training; empty for a floor.

    Seconds and CPU seconds are sums over the phases. Images per second are from the first phase.
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
    """Return the parameters of a stage's last run, from the stage's section in `dvc.lock`."""
    return dict(stage_lock["params"]["params.yaml"])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _out(stage_lock: dict[str, Any], path: Path) -> str:
    """Return DVC's hash of the output `path`. `stage_lock` is the section of the output's stage in `dvc.lock`."""
    return str(next(out["md5"] for out in stage_lock["outs"] if out["path"] == str(path)))
