"""track: project what is on disk to MLflow. A problem with it is a warning: what is on disk is the truth.

python -m pipeline.reporting.track             # everything, once
python -m pipeline.reporting.track --follow    # the curves of trainings while they grow, until ended
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

POLL = 4.0  # seconds between two looks at the curves
GLANCE = (  # as the first table of the report
    *(f"test/{name}" for name in OVERVIEW), *(f"validation/{name}" for name in DECIDING), "cost/train_seconds",
)  # fmt: skip
PATIENCE = {"sqlite": 60.0, "other": 15.0}  # seconds that a locked database or a server is given to answer
DESCRIPTION = """One run for each entry of `variants` in `params.yaml` and each seed. `test/…` was measured on the test
split, `validation/…` on the one that weights and settings are picked by, `cost/…` is what the training took.
`autoencoder/…` and `prior/…` are the losses of the training's phases by step, `system/…` what the process took that
trained. The seeds of an entry share the tag `group`, by which the table of runs is grouped.

| metric | unit | what it is |
|---|---|---|
""" + "\n".join(
    f"| `{name}` | {each.unit or '–'} | {each.definition.replace('|', '∣')} |" for name, each in METRICS.items()
)
# Okabe & Ito 2008: told apart by colour-blind eyes too; the seeds of an entry share one.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
PROGRESS = {
    RUNNING: "in training",
    KILLED: "broken off; `make repro` goes on from its last checkpoint",
    FINISHED: "trained, not evaluated yet",
}


def main(
    entries: Annotated[list[str] | None, typer.Argument(help="Entries to follow; all by default.")] = None,
    *,
    follow: Annotated[bool, typer.Option(help="Show the curves of trainings while they grow, until ended.")] = False,
) -> None:
    """Have MLflow show what is on disk: at $MLFLOW_TRACKING_URI, or in mlflow.db."""
    work = partial(_follow, entries) if follow else _write
    stage.run(work, None, variants=False, polls=follow)


def _projector() -> Projector:
    root = paths.root()
    uri = mlflow_store.address(root)
    database = mlflow_store.file_of(uri)
    lock = Path(f"{database}.lock") if database else root / ".dvc/tmp/mlflow.lock"
    return Projector(uri, root / "mlruns", lock)


def _write(params: Params, _: stage.Provenance) -> None:
    """Write all that is on disk, and say what was written."""
    projector = _projector()
    at = mlflow_store.public(projector.uri)
    collected, lacking = results.available(params)
    for sentence in lacking:
        print(sentence)
    runs = [_result(result, params) for result in collected]
    runs += [run for run in _trainings(params) if run.status != FINISHED]  # what is finished has a result, or soon will
    saved = max((result.cost["ended"] for result in collected), default=0.0)
    champions = _champions(collected)
    written, promoted = set[str](), set[str]()
    until = time.monotonic() + PATIENCE["sqlite" if projector.uri.startswith("sqlite") else "other"]
    while True:
        try:
            projector.open(DESCRIPTION)
            # Each is added as soon as it is written, so that those before a failure count.
            written.update(run.training for run in runs if projector.project(run))
            projector.show(GLANCE, saved)
            promoted.update(projector.promote(champion) for champion in champions)
            break
        except UserError as error:
            print(f"warning: MLflow does not have all that is on disk, which is complete: {error}")
            return
        except Exception as error:  # noqa: BLE001 - whatever goes wrong there, no training was in vain
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
    """Show the trainings of `entries` while they run, until this process is asked to stop; then look once more."""
    os.nice(resources.BEHIND)
    projector = _projector()
    at = mlflow_store.public(projector.uri)
    before = {run.training for run in _trainings(params) if run.status == FINISHED}
    shown: dict[str, tuple[str, int]] = {}  # by training: its status, how many points
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
        except UserError:  # another look would not help
            raise
        except Exception as error:  # noqa: BLE001 - the next look tries again
            problem = said(error)
            if problem != announced:
                print(f"MLflow at {at} does not answer, it is tried again: {problem}", flush=True)
        announced = problem
        until = time.monotonic() + POLL
        while time.monotonic() < until and not signals.asked_to_stop():
            time.sleep(0.2)


def _champions(collected: list[results.Result]) -> list[Champion]:
    if os.environ.get("DVC_EXP_NAME"):  # its results are compared with each other, not with what the workspace has
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
    """The trainings, of `entries` or of all, that have a folder of checkpoints."""
    for folder in sorted(paths.checkpoints().glob("*-seed*")):
        finished = (folder / "finished.json").exists()
        try:
            about = disk.read_json(folder / "about.json")
            curve = disk.read_lines(folder / "curve.jsonl")
        except (OSError, ValueError):  # the training begins or its folder goes just now
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
    """The name of a training's data set; params.yaml may name another one by now."""
    return str(sections["dataset"]["name"])


def _name(sections: dict[str, Any], entry: str, seed: int) -> str:
    return f"{_dataset(sections)}-{entry}-seed{seed}"


def _parameters(entry: str, sections: dict[str, Any]) -> dict[str, Any]:
    """By names that all entries share, so that MLflow can set one's parameters beside another's."""
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
        "mlflow.source.name": "dvc repro",  # without a source MLflow hides the commit
        "mlflow.source.type": "PROJECT",
        "mlflow.runColor": colours.get(entry, COLOURS[-1]),
        **{key: training[key] for key in ("device", "hardware", "precision", "mode")},
    }


def _about(result: results.Result) -> str:
    """The run's description in Markdown: its model, and the metrics that the model does not define, by reason."""
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
