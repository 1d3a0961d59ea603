"""Kills of processes at random moments. The next run must end with the same bits as a run without a kill."""

import functools
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.rig import ENTRIES, LEAVES_WITHIN, Rig, moments
from faults.table import Counts

EARLY, IMPORTS = 0.1, 2.0  # fraction of the kills that come during a training's imports; seconds of the imports
LONGEST = {"ae": 1.5, "dae": 1.5, "vae": 1.5, "vqvae": 3.0}  # entry → approximate seconds of 600 steps
TRAINS = tuple(f"train@{entry}" for entry in ENTRIES)


def trainers(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Kill the training of every model `count` times.

    Each round kills the training of each model once, runs the pipeline, and compares all results with the results of
    an undisturbed run.
    """
    rig = Rig(folder)
    rounds = moments((seed, "trainers"), 1.0)
    counts = {entry: Counts(f"SIGKILL of the trainer: {entry}", "same weights, metrics and report", count)
              for entry in ENTRIES}  # fmt: skip
    for _ in range(count):
        rig.forget(*TRAINS)
        hits = {entry: _kill_training(rig, entry, next(rounds)) for entry in ENTRIES}
        rig.must(rig.start("dvc", "repro"))
        wrong = rig.differs()
        for entry, hit in hits.items():
            mine = [name for name in wrong if entry in name or name == "comparison.csv"]
            counts[entry].add(hit and not mine, f"{mine or 'never hit'}")
    yield from counts.values()


def _kill_training(rig: Rig, entry: str, moment: float) -> bool:
    """Kill the training of an entry; return whether the kill hit the training and no process survived.

    Args:
        rig: the finished project.
        entry: the model configuration to train.
        moment: random number from 0 to 1. Below `EARLY`, the kill comes during the imports, otherwise later.
    """
    stage = f"train@{entry}"
    command, early = ("dvc", "repro", "--single-item", stage), moment < EARLY
    delay = moment / EARLY * IMPORTS if early else moment * LONGEST[entry]
    when = (lambda: rig.of("pipeline.stages.train", stage)) if early else (lambda: rig.training(entry))
    return rig.hit(command, (stage,), when, delay, lambda: rig.of("pipeline.stages.train")) and not rig.left_over()


def _counted(
    rig: Rig,
    what: str,
    rounds: Iterator[float],
    arguments: tuple[Any, ...],
    again: tuple[str, ...] = ("dvc", "repro"),
) -> Counts:
    """Kill a command once for each delay in `rounds`. Run the command in `again` after each kill, and compare results.

    Args:
        rig: the finished project.
        what: the fault's name in the table, without "SIGKILL" at the start.
        rounds: delays before the kills, as fractions of the longest delay.
        arguments: arguments of `Rig.hit`, with the longest delay in seconds as `delay`.
        again: command that finishes the pipeline after a kill.
    """
    counts = Counts(f"SIGKILL {what}", "same weights, metrics and report; no process is left", 0)
    command, forgotten, when, longest, whom = arguments
    for moment in rounds:
        hit = rig.hit(command, forgotten, when, moment * longest, whom)
        left = rig.left_over()
        rig.must(rig.start(*again))
        wrong = rig.differs()
        counts.full += 1
        counts.add(hit and not wrong and not left, f"{wrong or left or 'never hit'}")
    return counts


def stages(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Kill stages other than trainings, and the VQ-VAE's training between its autoencoder and its prior."""
    rig, rounds = Rig(folder), moments((seed, "stages"), 1.0)
    longest_of = {
        "download": 3.0, "corrupt@masked": 2.0, "noise": 2.0, "classify": 3.0, "evaluate@vqvae": 5.0, "report": 5.0,
    }  # fmt: skip
    for stage, longest in longest_of.items():
        module = f"pipeline.stages.{stage.partition('@')[0]}"
        here = functools.partial(rig.of, module)
        single: Any = ("dvc", "repro", "--single-item", stage), (stage,), here, longest, here
        yield _counted(rig, f"during {stage}", itertools.islice(rounds, count), single)
    command, trainer = (
        ("dvc", "repro", "--single-item", "train@vqvae"),
        functools.partial(rig.of, "pipeline.stages.train"),
    )
    between = command, ("train@vqvae",), rig.in_prior, 0.05, trainer
    yield _counted(rig, "between autoencoder and prior", itertools.islice(rounds, count), between)


def runners(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Kill `dvc repro`, the runner of `make repro`, or the runner with its trainings. No training may survive."""
    rig, rounds = Rig(folder), moments((seed, "runners"), 1.0)
    trainer, trains = functools.partial(rig.of, "pipeline.stages.train"), ("train@vae", "train@ae")
    dvc = functools.partial(rig.of, "dvc", "repro")
    yield _counted(rig, "of DVC alone", itertools.islice(rounds, count), (("dvc", "repro"), trains, trainer, 4.0, dvc))
    side_by_side = ("python", "-m", "pipeline.runner.repro", "--jobs", "2")
    runner = functools.partial(rig.of, "pipeline.runner.repro")
    alone = side_by_side, trains, trainer, 4.0, runner
    yield _counted(rig, "of the runner alone", itertools.islice(rounds, count), alone, again=side_by_side)
    whenever = side_by_side, trains, runner, 12.0, runner
    yield _counted(rig, "of the runner at any moment", itertools.islice(rounds, count), whenever, again=side_by_side)
    both = side_by_side, trains, trainer, 4.0, lambda: runner() + trainer()
    yield _counted(rig, "of the runner and its trainers", itertools.islice(rounds, count), both, again=side_by_side)


def stops(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Send SIGTERM to trainings in one process and in two. Each training must end within `LEAVES_WITHIN` seconds."""
    rounds, stage = moments((seed, "stops"), LONGEST["ae"]), "train@ae"
    for processes in (1, 2):
        rig = Rig(folder / f"processes{processes}", processes=processes)
        what = f"SIGTERM to a training in {processes} process{'es' * (processes > 1)}"
        counts = Counts(what, f"ends within {LEAVES_WITHIN:.0f} s; same weights, metrics and report", count)
        whom = functools.partial(rig.of, "pipeline.stages.train", stage)
        for moment in itertools.islice(rounds, count):
            rig.forget(stage)
            command = ("dvc", "repro", "--single-item", stage)
            hit = rig.break_off(command, lambda: rig.training("ae"), moment, whom, signal.SIGTERM)  # noqa: B023
            late, left = rig.took > LEAVES_WITHIN, rig.left_over()
            rig.must(rig.start("dvc", "repro"))
            wrong = rig.differs()
            counts.add(hit and not (late or left or wrong), f"{wrong or left or f'hit: {hit}, {rig.took:.1f} s'}")
        yield counts
