"""track: project what is on disk to MLflow. A problem with it is a warning: what is on disk is the truth.

python -m pipeline.track             # everything, once
python -m pipeline.track --follow    # the curves of trainings while they grow, until it is ended
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import typer
from filelock import FileLock, Timeout

from autoencoders import disk, tracking
from autoencoders.champions import ALIAS, Candidate, elect
from autoencoders.metrics import HEADLINE, METRICS
from autoencoders.tables import flattened
from pipeline import paths, resources, results, signals, stage
from pipeline.params import Params

POLL = 4.0  # seconds between two looks at the curves
GLANCE = ("cost/train_seconds", *(f"{split}/{name}" for split in ("test", "validation") for name in HEADLINE))
PATIENCE = {"sqlite": 60.0, "other": 15.0}  # seconds that a locked database or a server is given to answer
DESCRIPTION = """One run for each entry of `variants` in `params.yaml` and each seed. `test/…` was measured on the test
split, `validation/…` on the one that weights and settings are picked by, `cost/…` is what the training took.
`autoencoder/…` and `prior/…` are the losses of the training's phases by step.

"""


def main(
    *, follow: Annotated[bool, typer.Option(help="Show the curves of trainings while they grow, until ended.")] = False
) -> None:
    """Have MLflow show what is on disk: at $MLFLOW_TRACKING_URI, or in mlflow.db."""
    stage.run(_follow if follow else _once, None, variants=False, polls=follow)


def _once(params: Params, _: stage.Provenance) -> None:
    projector = tracking.Projector(_uri(), paths.root() / "mlruns")
    collected, lacking = results.available(params)
    print("\n".join(lacking), end="\n" * bool(lacking))
    runs = [_result(result, params) for result in collected] + [run for _, run in _trainings(params)]
    there = {name for run in runs if run.result for name in run.result.metrics}
    shown = [name for name in GLANCE if name in there]
    saved = max((result.cost["ended"] for result in collected), default=0.0)
    until = time.monotonic() + PATIENCE["sqlite" if projector.uri.startswith("sqlite") else "other"]
    # An experiment's results are compared with each other, not with what the workspace has.
    champions = [] if os.environ.get("DVC_EXP_NAME") else elect([_candidate(result) for result in collected])
    todo: dict[str, Callable[[], bool | None]] = {run.training: partial(projector.project, run) for run in runs}
    todo |= {champion.task: partial(projector.crown, champion) for champion in champions}
    done: dict[str, bool] = {}
    while True:
        problem = None
        try:
            projector.open(DESCRIPTION + METRICS_TABLE, shown, saved)
            for name, do in todo.items():
                if name not in done and (new := do()) is not None:
                    done[name] = new
        except Exception as error:  # noqa: BLE001 - whatever goes wrong there, no training was in vain
            problem = " ".join(str(error).split())
        if (problem is None and len(done) == len(todo)) or time.monotonic() > until:
            break
        time.sleep(1)
    if problem is not None:
        print(f"warning: the runs could not be written to MLflow at {projector.uri}: {problem}")
        print("The results on disk are complete; `make track` writes them later.")
        return
    written = [done[run.training] for run in runs if run.training in done]
    others = f", {left} are being written by another process" if (left := len(runs) - len(written)) else ""
    print(f"MLflow at {projector.uri}: {sum(written)} runs written, {written.count(False)} were there already{others}")
    for champion in champions:
        if done.get(champion.task):
            print(f"models:/{champion.task}@{ALIAS} is now a model of {champion.candidate.entry}")
    print(f"The runs: {tracking.page(projector.uri)}" + (" (`make ui` serves them)" if "sqlite:" in _uri() else ""))


def _follow(params: Params, _: stage.Provenance) -> None:
    os.nice(resources.BEHIND)
    projector = tracking.Projector(_uri(), paths.root() / "mlruns")
    before = {folder for folder, run in _trainings(params, finished=True) if run.status == tracking.FINISHED}
    shown: dict[str, tuple[str, int]] = {}  # of each training: its status, how many points
    told = ""
    while True:
        last = signals.asked_to_stop()
        try:
            _show(projector, params, before, shown)
            told = ""
        except Exception as error:  # noqa: BLE001 - it is tried again
            problem = " ".join(str(error).split())
            if problem != told:
                print(f"MLflow at {projector.uri} does not answer, it is tried again: {problem}", flush=True)
            told = problem
        if last:
            break
        until = time.monotonic() + POLL
        while time.monotonic() < until and not signals.asked_to_stop():
            time.sleep(0.2)
    for training in list(projector.held):
        projector.leave(training)


def _show(projector: tracking.Projector, params: Params, before: set[str], shown: dict[str, tuple[str, int]]) -> None:
    """Have MLflow show the trainings as they are now, but those that were over `before`."""
    if not projector.number:
        projector.open(DESCRIPTION + METRICS_TABLE, [])
    for folder, run in _trainings(params, finished=True):
        now = run.status, len(run.history)
        if folder not in before and shown.get(folder) != now and projector.project(run) is not None:
            shown[folder] = now


def _uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.root() / 'mlflow.db'}"


# Okabe & Ito 2008: told apart by colour-blind eyes too; the seeds of an entry share one.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
METRICS_TABLE = "| metric | unit | what it is |\n|---|---|---|\n" + "\n".join(
    f"| `{name}` | {each.unit or '–'} | {each.definition.replace('|', '∣')} |" for name, each in METRICS.items()
)


def _trainings(params: Params, *, finished: bool = False) -> Iterator[tuple[str, tracking.Run]]:
    """The trainings in the store, by their folders: those that run or were broken off, and those that are `finished`,
    which may not be evaluated yet.
    """
    for folder in sorted(paths.checkpoints().glob("*-seed*")):
        over = (folder / "finished.json").exists()
        try:
            about = disk.read_json(folder / "about.json")
            curve = disk.read_lines(folder / "curve.jsonl")
        except (OSError, ValueError):  # it begins or goes just now
            continue
        if over and not finished:
            continue
        status = tracking.FINISHED if over else tracking.RUNNING if _locked(FileLock(folder / "lock")) else "KILLED"
        entry, seed = about["entry"], about["seed"]
        how = {key: about[key] for key in ("device", "hardware", "precision", "mode")}
        yield (
            folder.name,
            tracking.Run(
                name=f"{entry}-seed{seed}",
                about=f"Entry `{entry}`, seed {seed}: " + PROGRESS[status],
                training=about["fingerprint"],
                status=status,
                started=about["begun"][0],
                parameters=_parameters(about["parameters"] | {"seeds": seed}),
                tags={**_tags(entry, about["parameters"], params), **how, "status": PROGRESS[status]},
                history=curve,
            ),
        )


PROGRESS = {
    tracking.RUNNING: "in training",
    tracking.KILLED: "broken off; `make repro` goes on from its last checkpoint",
    tracking.FINISHED: "trained, not evaluated yet",
}


def _locked(lock: FileLock) -> bool:
    """Whether a process holds the lock."""
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _candidate(result: results.Result) -> Candidate[str]:
    return Candidate(result.entry, result.metrics.get("validation", {}), result.pixels, result.fingerprint)


def _parameters(sections: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("seeds", "seed"): value for key, value in flattened(sections)}


def _tags(entry: str, parameters: dict[str, Any], params: Params) -> dict[str, str]:
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(params.variants)}
    return {
        "entry": entry,
        "model": str(parameters[f"variants.{entry}"]["model"]),
        "mlflow.source.name": "dvc repro",  # without a source MLflow hides the commit
        "mlflow.source.type": "PROJECT",
        "mlflow.runColor": colours.get(entry, COLOURS[-1]),
    }


def _result(result: results.Result, params: Params) -> tracking.Run:
    training = result.training
    metrics = {f"{split}/{key}": value for split, values in result.metrics.items() for key, value in values.items()}
    costs = {f"cost/{key}": value for key, value in results.costs(result).items()}
    diverged = result.status != "finished"
    return tracking.Run(
        name=f"{result.entry}-seed{result.seed}",
        about=f"{result.about} Entry `{result.entry}`, seed {result.seed}: {result.status}.",
        training=result.cost["fingerprint"],
        status=tracking.FAILED if diverged else tracking.FINISHED,
        started=result.cost["started"],
        parameters=_parameters(result.parameters),
        tags={
            **_tags(result.entry, result.parameters, params),
            "status": result.status,
            "symptoms": "; ".join(result.symptoms) or "none",
            "mlflow.source.git.commit": training["commit"],
            "uncommitted_changes": ", ".join(training["uncommitted_changes"]) or "none",
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
        result=tracking.Result(
            fingerprint=result.fingerprint,
            ended=result.cost["ended"],
            metrics=metrics | costs,
            figures=sorted(result.folder.glob("*.png")),
            weights=None if diverged else result.weights,
            data=str(result.parameters["dataset"]["name"]),
            data_digest=result.data_digest,
            image=params.dataset.image,
        ),
    )


if __name__ == "__main__":
    typer.run(main)
