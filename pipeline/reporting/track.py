"""track: copy the results on disk to MLflow. If MLflow fails, this command only warns, since all results are on disk.

python -m pipeline.reporting.track             # copy all results once
python -m pipeline.reporting.track --follow    # copy the curves of running trainings until the command is stopped
"""

import os
import time
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from filelock import FileLock, Timeout

from aelab.core import disk
from aelab.core.errors import UserError
from aelab.evaluation import per_image
from aelab.inference import mlflow_store
from aelab.inference.mlflow_store import said
from aelab.report.champions import Candidate, Champion, elect
from aelab.report.metrics import DECIDING, METRICS, OVERVIEW
from aelab.report.mlflow_writer import FAILED, FINISHED, GROUP, KILLED, RUNNING, Evaluated, Projector, Run, page
from aelab.report.tables import flattened
from pipeline.common import paths, resources, signals, stage
from pipeline.common.params import Params
from pipeline.reporting import results

POLL = 4.0  # seconds between updates of the curves
GLANCE = (  # columns of MLflow's table of runs: the metrics of the report's first table
    *(f"test/{name}" for name in OVERVIEW), *(f"validation/{name}" for name in DECIDING), "cost/train_seconds",
)  # fmt: skip
PATIENCE = {"sqlite": 60.0, "other": 15.0}  # how many seconds to wait for a locked database or a server
DESCRIPTION = """One run for each entry of `variants` in `params.yaml` and each seed. `test/…` was measured on the test
split, `validation/…` on the split that selects weights and settings. `cost/…` is the cost of the training.
`autoencoder/…` and `prior/…` are the losses of the training's phases by step, `system/…` the training process's CPU use
and memory. The seeds of an entry share the tag `group`, which groups the table of runs.

| metric | unit | definition |
|---|---|---|
""" + "\n".join(
    f"| `{name}` | {each.unit or '–'} | {each.definition.replace('|', '∣')} |" for name, each in METRICS.items()
)
# The palette of Okabe and Ito (2008), for colour-blind readers. All seeds of an entry have the same colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
PROGRESS = {
    RUNNING: "in training",
    KILLED: "interrupted; `make repro` continues from its last checkpoint",
    FINISHED: "trained, not evaluated yet",
}


def main(
    entries: Annotated[list[str] | None, typer.Argument(help="Entries for --follow; the default is all.")] = None,
    *,
    follow: Annotated[bool, typer.Option(help="Update the curves of running trainings until interrupted.")] = False,
) -> None:
    """Copy the results on disk to MLflow: the server at $MLFLOW_TRACKING_URI, or mlflow.db."""
    work = partial(_follow, entries) if follow else _write
    stage.run(work, None, variants=False, polls=follow)


def _projector() -> Projector:
    root = paths.root()
    uri = mlflow_store.address(root)
    database = mlflow_store.file_of(uri)
    lock = Path(f"{database}.lock") if database else root / ".dvc/tmp/mlflow.lock"
    return Projector(uri, root / "mlruns", lock)


def _write(params: Params, _: stage.Provenance) -> None:
    """Write all results on disk to MLflow, and print what was written."""
    projector = _projector()
    at = mlflow_store.public(projector.uri)
    collected, lacking = results.available(params)
    for sentence in lacking:
        print(sentence)
    runs = [_result(result, params) for result in collected]
    # Finished trainings are left out, because `collected` has them, or will have them after the evaluation.
    runs += [run for run in _trainings(params) if run.status != FINISHED]
    saved = max((result.cost["ended"] for result in collected), default=0.0)
    champions = _champions(collected)
    written, promoted = set[str](), set[str]()
    until = time.monotonic() + PATIENCE["sqlite" if projector.uri.startswith("sqlite") else "other"]
    while True:
        try:
            projector.open(DESCRIPTION)
            # `written` grows with each run, so that a failure at a later run does not lose the count.
            written.update(run.training for run in runs if projector.project(run))
            projector.show(GLANCE, saved)
            promoted.update(projector.promote(champion) for champion in champions)
            break
        except UserError as error:
            print(f"warning: MLflow lacks some results, which are all on disk: {error}")
            return
        except Exception as error:  # noqa: BLE001 - no problem of MLflow may fail the run
            if time.monotonic() > until:
                print(f"warning: the runs could not be written to MLflow at {at}: {said(error)}")
                print("The results on disk are complete; `make track` writes them later.")
                return
        time.sleep(1)
    print(f"MLflow at {at}: {len(written)} runs written, {len(runs) - len(written)} were there already")
    for sentence in sorted(promoted - {""}):
        print(sentence)
    print(f"The runs: {page(projector.uri)}" + (" (`make ui` serves them)" if "sqlite:" in projector.uri else ""))


def _follow(entries: Collection[str] | None, params: Params, _: stage.Provenance) -> None:
    """Copy the curves of running trainings to MLflow every few seconds, until this process is asked to stop.

    A last update follows. With `entries`, only the trainings of these entries are copied.
    """
    os.nice(resources.BEHIND)
    projector = _projector()
    at = mlflow_store.public(projector.uri)
    before = {run.training for run in _trainings(params) if run.status == FINISHED}
    shown: dict[str, tuple[str, int]] = {}  # for each training: the status and the number of points in MLflow
    announced = ""
    last = False
    while not last:
        last = signals.asked_to_stop()
        problem = ""
        try:
            if not projector.experiment_id:
                projector.open(DESCRIPTION)
            for run in _trainings(params, entries):
                now = run.status, len(run.history)
                if run.training not in before and shown.get(run.training) != now:
                    projector.project(run)
                    shown[run.training] = now
        except UserError:  # a second attempt would fail too
            raise
        except Exception as error:  # noqa: BLE001 - the next update tries again
            problem = said(error)
            if problem != announced:
                print(f"MLflow at {at} does not answer, trying again: {problem}", flush=True)
        announced = problem
        until = time.monotonic() + POLL
        while time.monotonic() < until and not signals.asked_to_stop():
            time.sleep(0.2)


def _champions(collected: list[results.Result]) -> list[Champion]:
    """Return the champion of each task, which is the best model by its validation metrics."""
    if os.environ.get("DVC_EXP_NAME"):  # an experiment must not replace the workspace's champions
        return []
    return elect(
        Candidate(
            result.entry,
            result.metrics.get("validation", {}),
            result.pixels,
            result.fingerprint,
            _dataset(result.parameters),
            result.symptoms,
        )
        for result in collected
        if not result.floor
    )


def _trainings(params: Params, entries: Collection[str] | None = None) -> Iterator[Run]:
    """Yield a run for each training that has a folder of checkpoints. With `entries`, skip all other entries."""
    for folder in sorted(paths.checkpoints().glob("*-seed*")):
        finished = (folder / "finished.json").exists()
        try:
            about = disk.read_json(folder / "about.json")
            curve = disk.read_lines(folder / "curve.jsonl")
        except (OSError, ValueError):  # the training is just starting, or its folder is being deleted
            continue
        entry, seed = about["entry"], about["seed"]
        if entries and entry not in entries:
            continue
        status = FINISHED if finished else RUNNING if _locked(FileLock(folder / "lock")) else KILLED
        yield Run(
            name=_name(about["parameters"], entry, seed),
            about=f"Entry `{entry}`, seed {seed}: {PROGRESS[status]}",
            training=about["fingerprint"],
            status=status,
            started=about["begun"][0],
            parameters=_parameters(entry, about["parameters"] | {"seeds": seed}),
            tags={**_tags(entry, seed, about, about["parameters"], params), "status": PROGRESS[status]},
            history=curve,
        )


def _locked(lock: FileLock) -> bool:
    """Whether a process holds the lock."""
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _dataset(sections: dict[str, Any]) -> str:
    """Return the name of a training's data set from the training's own parameters, because params.yaml may be newer."""
    return str(sections["dataset"]["name"])


def _name(sections: dict[str, Any], entry: str, seed: int) -> str:
    return f"{_dataset(sections)}-{entry}-seed{seed}"


def _parameters(entry: str, sections: dict[str, Any]) -> dict[str, Any]:
    """Return an entry's parameters under names that are equal for all entries, so that MLflow can compare entries."""
    names = {"seeds": "seed", f"variants.{entry}": "entry"}
    return dict(flattened({names.get(key, key): section for key, section in sections.items()}))


def _tags(
    entry: str, seed: int, training: dict[str, Any], parameters: dict[str, Any], params: Params
) -> dict[str, str]:
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(params.variants)}
    return {
        "entry": entry,
        "seed": str(seed),
        GROUP: f"{_dataset(parameters)}-{entry}",
        "model": str(parameters[f"variants.{entry}"]["model"]),
        "mlflow.source.name": "dvc repro",  # without a source, MLflow hides the commit
        "mlflow.source.type": "PROJECT",
        "mlflow.runColor": colours.get(entry, COLOURS[-1]),
        **{key: training[key] for key in ("device", "hardware", "precision", "mode")},
    }


def _about(result: results.Result) -> str:
    """The run's description in Markdown: the model, and the undefined metrics with the reasons."""
    reasons = dict[str, list[str]]()
    for name, reason in result.undefined.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    lines = [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    undefined = "\n".join(["", "", "Undefined for this model:", "", *lines]) if lines else ""
    return f"{result.about} Entry `{result.entry}`, seed {result.seed}: {result.status}.{undefined}"


def _result(result: results.Result, params: Params) -> Run:
    training = result.training
    metrics = {f"{split}/{key}": value for split, values in result.metrics.items() for key, value in values.items()}
    costs = {f"cost/{key}": value for key, value in results.costs(result).items()}
    diverged = result.status != "finished"
    return Run(
        name=_name(result.parameters, result.entry, result.seed),
        about=_about(result),
        training=result.cost["fingerprint"],
        status=FAILED if diverged else FINISHED,
        started=result.cost["started"],
        parameters=_parameters(result.entry, result.parameters),
        tags={
            **_tags(result.entry, result.seed, training, result.parameters, params),
            "status": result.status,
            "symptoms": "; ".join(result.symptoms) or "none",
            "mlflow.source.git.commit": training["commit"],
            "uncommitted_changes": ", ".join(training["uncommitted_changes"]) or "none",
            "dvc_experiment": training["experiment"] or "none",
            "data_digest": result.data_digest,
            **{f"version.{name}": number for name, number in training["packages"].items()},
        },
        history=result.curve,
        evaluated=Evaluated(
            fingerprint=result.fingerprint,
            ended=result.cost["ended"],
            metrics=metrics | costs,
            figures=sorted(result.folder.glob("*.png")),
            weights=None if diverged else result.weights,
            data=_dataset(result.parameters),
            digests=result.digests,
            image=params.dataset.image,
            scores=scores if (scores := result.folder / per_image.VALIDATION).exists() else None,
        ),
    )


if __name__ == "__main__":
    typer.run(main)
