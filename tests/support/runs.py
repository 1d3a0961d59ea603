"""Toy runs, and helpers that write them to MLflow and read them back."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow import MlflowClient

from aelab.inference.mlflow_store import EXPERIMENT
from aelab.models import checkpoint
from aelab.report.champions import Candidate, Champion
from aelab.report.mlflow_writer import FINISHED, RUNNING, Evaluated, Projector, Run
from tests.support.toys import IMAGE, PARAMETERS


def toy_run(folder: Path) -> Run:
    """Run whose model and figure are files in `folder`."""
    torch.manual_seed(0)
    weights, figure = folder / "seed0.safetensors", folder / "figure.png"
    checkpoint.save(checkpoint.build("ae", IMAGE, PARAMETERS["ae"]), weights)
    figure.write_bytes(b"png")
    return Run(
        name="ae_wide-beta4-seed0",
        about="The **plain** one.",
        training="t",
        status=FINISHED,
        started=1000.0,
        parameters={"ae.code": 4},
        tags={"device": "cpu", "group": "toy-ae_wide"},
        history=[
            {"phase": "autoencoder", "step": 50, "time": 1010.5, "seconds": 0.5, "train_loss": 3.0, "train_rate": None},
            {"phase": "autoencoder", "step": 50, "time": 1011.0, "seconds": 1.0, "validation_loss": 4.0},
            {"phase": "autoencoder", "step": 100, "time": 1020.0, "seconds": 10.0, "train_loss": 2.0},
            {"phase": "autoencoder", "step": 150, "time": 1030.0, "seconds": 20.0, "train_loss": math.nan},
        ],
        evaluated=Evaluated(
            fingerprint="f",
            ended=1060.0,
            metrics={"test/mse": 0.5, "test/neg_elbo": math.nan, "test/psnr": math.inf, "cost/train_seconds": 60.0},
            figures=[figure],
            weights=weights,
            data="toy",
            digests={"train": "0123456789abcdef0123456789abcdef", "test": "f" * 32},
            image=IMAGE,
        ),
    )


def runs_at(uri: str, name: str = EXPERIMENT) -> list[mlflow.entities.Run]:
    return list(MlflowClient(uri).search_runs([experiment_at(uri, name).experiment_id]))


def experiment_at(uri: str, name: str = EXPERIMENT) -> mlflow.entities.Experiment:
    experiment = MlflowClient(uri).get_experiment_by_name(name)
    assert experiment is not None
    return experiment


def other(run: Run, **changes: Any) -> Run:
    """Copy of a run, with changes of its evaluation."""
    assert run.evaluated is not None
    return replace(run, evaluated=replace(run.evaluated, **changes))


def unfinished(run: Run, points: int = 2, status: str = RUNNING) -> Run:
    """Copy of a run that is still in training, with its first `points` points."""
    return replace(run, status=status, history=run.history[:points], evaluated=None)


def projector_at(uri: str, tmp_path: Path) -> Projector:
    projector = Projector(uri, tmp_path / "mlruns", tmp_path / "lock")
    projector.open("about all runs")
    return projector


def champion(fingerprint: str = "f") -> Champion:
    return Champion("denoising", 0.25, 0.5, Candidate("ae", {"denoising_mse": 0.25}, None, fingerprint, "toy"))


def registered(uri: str) -> list[tuple[str, list[str]]]:
    """Fingerprint of the run and aliases, for each registered model version."""
    client = MlflowClient(uri)
    versions = [client.get_model_version(found.name, found.version) for found in client.search_model_versions()]
    return sorted((version.tags["fingerprint"], version.aliases) for version in versions)


def history(uri: str, key: str) -> list[tuple[int, float]]:
    """Steps and values of a metric of the only run."""
    (found,) = runs_at(uri)
    return [(point.step, point.value) for point in MlflowClient(uri).get_metric_history(found.info.run_id, key)]
