"""track: project the results on disk to MLflow. A problem with it is a warning: the results on disk are the truth."""

import os
from pathlib import Path

import typer

from autoencoders import tracking
from autoencoders.comparison import flattened
from autoencoders.metrics import METRICS
from pipeline import results, stage
from pipeline.params import Params

DESCRIPTION = """One run for each entry of `variants` in `params.yaml` and each seed. `test/…` was measured on the test
split, `validation/…` on the one that weights and settings are picked by, `cost/…` is what the training took.
`autoencoder/…` and `prior/…` are the losses of the training's phases by step.

"""


def work(params: Params, _: stage.Provenance) -> None:
    """Write every result that MLflow does not hold yet."""
    # DVC runs queued experiments in a folder of their own and names the repository's root here.
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    runs = [_run(result, params) for result in results.collect(params)]
    try:
        written = tracking.project(runs, uri, root / "mlruns", description=DESCRIPTION + METRICS_TABLE)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong there, no training was in vain
        sentence = " ".join(str(error).split())
        print(f"warning: the runs could not be written to MLflow at {uri}: {sentence}")
        print("The results on disk are complete; `python -m pipeline.track` writes them later.")
    else:
        print(f"MLflow at {uri}: {written} runs written, {len(runs) - written} were there already")
        print(f"The runs: {tracking.page(uri)}" + (" (`make ui` serves them)" if uri.startswith("sqlite:") else ""))


# Okabe & Ito 2008: told apart by colour-blind eyes too; the seeds of an entry share one.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
METRICS_TABLE = "| metric | unit | what it is |\n|---|---|---|\n" + "\n".join(
    f"| `{name}` | {each.unit or '–'} | {each.definition.replace('|', '∣')} |" for name, each in METRICS.items()
)


def _run(result: results.Result, params: Params) -> tracking.Run:
    training = result.training
    parameters = dict(flattened(result.parameters))
    name = str(parameters["dataset.name"])
    changed = training["uncommitted_changes"]
    metrics = {f"{split}/{key}": value for split, values in result.metrics.items() for key, value in values.items()}
    costs = {f"cost/{key}": value for key, value in results.costs(result).items()}
    return tracking.Run(
        name=f"{result.entry}-seed{result.seed}",
        about=f"{result.about} Entry `{result.entry}`, seed {result.seed}: {result.status}.",
        fingerprint=result.fingerprint,
        started=result.cost["started"],
        ended=result.cost["ended"],
        diverged=result.status != "finished",
        parameters={key.replace("seeds", "seed"): value for key, value in parameters.items()},
        tags={
            "entry": result.entry,
            "model": str(parameters[f"variants.{result.entry}.model"]),
            "status": result.status,
            "mlflow.source.name": "dvc repro",  # without a source MLflow hides the commit
            "mlflow.source.type": "PROJECT",
            "mlflow.source.git.commit": training["commit"],
            "mlflow.runColor": COLOURS[list(params.variants).index(result.entry) % len(COLOURS)],
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
        history=result.curve,
        metrics=metrics | costs,
        figures=sorted(result.folder.glob("*.png")),
        weights=result.weights,
        data=name,
        data_digest=result.data_digest,
        image=params.dataset.image,
    )


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, None, variants=False))
