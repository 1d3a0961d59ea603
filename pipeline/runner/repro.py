"""Runs all stages of `dvc.yaml` that are out of date, as `dvc repro` does, but several stages at a time.

    python -m pipeline.runner.repro --jobs 2                           # on this machine, at most two stages at a time
    python -m pipeline.runner.repro --scheduler tls://scheduler:8786   # on the workers of a Dask cluster

The results equal the results of `dvc repro`, since stages that run at the same time do not affect each other. After the
first minute, `pipeline.reporting.track --follow` shows the learning curves of running trainings in MLflow.
"""

import concurrent.futures
import gc
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from aelab.core.errors import UserError
from pipeline.common import params, paths
from pipeline.common.params import Params
from pipeline.runner import changes, locks
from pipeline.runner.console import ConsoleLog, log_file
from pipeline.runner.dvc_stages import DvcStages
from pipeline.runner.local import Executor, LocalExecutor, end_stages_on_signals, following
from pipeline.runner.plan import Plan, plan_run

POLL = 1.0  # seconds between two attempts to start more stages


def main(
    *,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of stages at a time; the default is one per GPU, CPU or worker.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(envvar="AELAB_SCHEDULER", help="Dask scheduler whose workers run the stages: tcp://… or tls://…"),
    ] = None,
    trust_network: Annotated[
        bool,
        typer.Option(help="Allow a remote scheduler without TLS. Anyone who reaches the scheduler can run code."),
    ] = False,
) -> None:
    """Run every stage whose results are out of date, several at a time, and print each outcome."""
    _use_this_python()
    end_stages_on_signals()
    try:
        with locks.turn() as turn:
            locks.mend()
            checked, dvc, plan = _plan(elsewhere=bool(scheduler))
            if not plan.waiting:
                print("Data and pipelines are up to date.")
                return
            reports = "report" in plan.waiting
            if reports:
                print(f"the report will be in {paths.REPORTS / 'comparison.html'}", flush=True)
            local = LocalExecutor(checked, jobs, ConsoleLog(), dvc, keeps=(turn,))
            with _executor(plan, local, jobs, scheduler, trusted=trust_network) as executor:
                failed = run(plan, executor)
            if reports and not failed:
                changes.print_changes()
    except UserError as problem:
        sys.exit(f"\n{problem}\n")
    _report(failed, plan.waiting)


def run(plan: Plan, executor: Executor) -> list[str]:
    """Run the stages of the plan, each after the stages on which it depends.

    A stage does not run if a stage on which it depends has failed.

    Returns:
        The names of the failed stages.
    """
    failed: list[str] = []
    running: dict[Future[bool], str] = {}
    while True:
        begun = executor.begin(plan.ready())
        plan.waiting -= set(begun.values())
        running |= begun
        if not running:
            return failed
        done, _ = concurrent.futures.wait(running, POLL, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            name, well = running.pop(future), future.result()
            executor.end(name)
            if well:
                plan.unfinished.discard(name)
            else:
                failed.append(name)


def _use_this_python() -> None:
    """Put this Python's folder first on PATH, so that stages use this Python even if its environment is not active."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _plan(*, elsewhere: bool) -> tuple[Params, DvcStages, Plan]:
    """Return the parameters, the stages and the plan.

    The section `variants` of the parameters stays unchecked, because its check needs the slow import of torch.
    """
    try:
        checked, dvc = params.load(variants=False), DvcStages()
        gc.freeze()  # without this call, the garbage collection at exit takes 0.2 s
    except UserError:
        params.load()  # an error in `variants` is the likely cause: report all such errors
        raise
    return checked, dvc, plan_run(dvc, checked, elsewhere=elsewhere)


@contextmanager
def _executor(
    plan: Plan, local: LocalExecutor, jobs: int | None, scheduler: str | None, *, trusted: bool
) -> Iterator[Executor]:
    """Yield the executor for the plan: `local`, or an executor on the cluster of `scheduler`."""
    if not scheduler:
        with following(plan.waiting), local:
            yield local
        return
    try:
        from pipeline.runner.cluster.executor import on_cluster  # noqa: PLC0415 - needs an optional package
    except ImportError as error:
        msg = f"stages on a cluster need the extra `cluster` of requirements.lock: {error}"
        raise UserError(msg) from None
    with on_cluster(scheduler, plan, local, jobs, trusted=trusted) as cluster:
        yield cluster


def _report(failed: list[str], skipped: set[str]) -> None:
    """Print the output of each failed stage, and the names of the stages that could not run. Exit if a stage failed."""
    for name in failed:
        log = log_file(name)
        print(f"\n{name} failed. Its output, from {log}:\n\n{log.read_text(encoding='utf-8')}", file=sys.stderr)
    if failed:
        rest = f"; not run because of that: {', '.join(sorted(skipped))}" if skipped else ""
        print(f"failed: {', '.join(failed)}{rest}; the other results are kept", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
