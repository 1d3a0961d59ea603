"""track: project the results on disk to MLflow. A problem with it is a warning: the results on disk are the truth."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from autoencoders import tracking
from autoencoders.data import DATASETS
from pipeline import results, stage
from pipeline.params import Params


def work(params: Params, _: stage.Provenance) -> None:
    """Write every result that MLflow does not hold yet."""
    # DVC runs queued experiments in a folder of their own and names the repository's root here.
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    runs = [_run(result) for result in results.collect(params)]
    try:
        written = tracking.project(runs, uri, root / "mlruns")
    except Exception as error:  # noqa: BLE001 - whatever goes wrong there, no training was in vain
        sentence = " ".join(str(error).split())
        print(f"warning: the runs could not be written to MLflow at {uri}: {sentence}")
        print("The results on disk are complete; `python -m pipeline.track` writes them later.")
    else:
        print(f"MLflow at {uri}: {written} runs written, {len(runs) - written} were there already")


def _run(result: results.Result) -> tracking.Run:
    training = result.training
    parameters = dict(_flat(result.parameters))
    name = str(parameters["dataset.name"])
    changed = training["uncommitted_changes"]
    return tracking.Run(
        name=f"{result.variant}-seed{result.seed}",
        fingerprint=result.fingerprint,
        started=result.cost["started"],
        ended=result.cost["ended"],
        diverged=result.status != "finished",
        parameters={key.replace("seeds", "seed"): value for key, value in parameters.items()},
        tags={
            "variant": result.variant,
            "status": result.status,
            "mlflow.source.git.commit": training["commit"],
            "commit": training["commit"],  # MLflow shows its own tag only beside a source
            "uncommitted_changes": ", ".join(changed) or "none",
            "dvc_experiment": training["experiment"] or "none",
            "device": training["device"],
            "hardware": training["hardware"],
            "precision": training["precision"],
            "mode": training["mode"],
            "data_digest": result.data_digest,
            **{f"undefined.{name}": reason for name, reason in result.undefined.items()},
            **{f"version.{name}": number for name, number in training["packages"].items()},
        },
        history=stage.read_history(result.history),
        metrics=result.metrics | results.costs(result),
        figures=sorted(result.folder.glob("*.png")),
        weights=result.weights,
        data=name,
        data_digest=result.data_digest,
        image=DATASETS[name].image,
    )


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted keys."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, None, variants=False))
