"""A toy run, and what an MLflow has of runs."""

import math
from pathlib import Path

import mlflow
import torch
from mlflow import MlflowClient

from aelab.models import checkpoint
from aelab.report.mlflow_writer import EXPERIMENT, FINISHED, Evaluated, Run
from tests.support.toys import IMAGE, PARAMETERS


def toy_run(folder: Path) -> Run:
    """A run whose model and figure lie in `folder`."""
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
        tags={"device": "cpu"},
        history=[
            {"phase": "autoencoder", "step": 50, "time": 1010.5, "train_loss": 3.0, "train_rate": None},
            {"phase": "autoencoder", "step": 50, "time": 1011.0, "validation_loss": 4.0},
            {"phase": "autoencoder", "step": 100, "time": 1020.0, "train_loss": 2.0},
            {"phase": "autoencoder", "step": 150, "time": 1030.0, "train_loss": math.nan},
        ],
        evaluated=Evaluated(
            fingerprint="f",
            ended=1060.0,
            metrics={"test/mse": 0.5, "test/neg_elbo": math.nan, "test/psnr": math.inf, "cost/train_seconds": 60.0},
            figures=[figure],
            weights=weights,
            data="toy",
            data_digest="0123456789abcdef0123456789abcdef",
            image=IMAGE,
        ),
    )


def runs_at(uri: str) -> list[mlflow.entities.Run]:
    return list(MlflowClient(uri).search_runs([experiment_at(uri).experiment_id]))


def experiment_at(uri: str) -> mlflow.entities.Experiment:
    experiment = MlflowClient(uri).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return experiment
