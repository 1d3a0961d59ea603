"""Trains one model with several processes. torchrun starts the processes, and restarts all of them if one dies.

torchrun is a program of PyTorch. The stage `train` starts torchrun, and each process computes a part of every batch.
"""

import argparse
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from aelab.core.errors import UserError
from aelab.training.state import Stopped
from pipeline import PARENT
from pipeline.common import params, signals, stage

TORCHRUN = "AELAB_TORCHRUN"  # environment variable: the user's own arguments for torchrun, such as --nnodes 2
PROBLEMS = "AELAB_PROBLEMS"  # environment variable: folder for the error messages of the processes
RESTARTS = 3  # maximum number of restarts, unless the user's arguments contain --max-restarts


def processes_here(processes: int) -> int:
    """Return how many of a training's `processes` run on this machine.

    Raises:
        UserError: --nnodes or --nproc-per-node in AELAB_TORCHRUN is not a whole number, or `processes` is not a
            multiple of --nnodes.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--nnodes", default="1")
    parser.add_argument("--nproc-per-node", "--nproc_per_node", default="")
    try:
        told, _ = parser.parse_known_args(shlex.split(os.environ.get(TORCHRUN, "")))
        machines = int(told.nnodes)
        if told.nproc_per_node:
            return int(told.nproc_per_node)
    except (ValueError, SystemExit) as error:
        msg = f"{TORCHRUN} is {os.environ[TORCHRUN]!r}: --nnodes and --nproc-per-node must be whole numbers"
        raise UserError(msg) from error
    if machines < 1 or processes % machines:
        msg = f"training.processes is {processes}: it must be a multiple of the {machines} machines in {TORCHRUN}"
        raise UserError(msg)
    return processes // machines


def check_gpus(checked: params.Params) -> None:
    """Check that each process has its own GPU, if the training runs on GPUs.

    Raises:
        UserError: this machine has too few GPUs.
    """
    import torch  # noqa: PLC0415 - slow to import

    from aelab.core import devices  # noqa: PLC0415

    options = checked.training
    needed, there = processes_here(options.processes), torch.cuda.device_count()
    if there < needed and devices.prepare(options.device, options.threads).type == "cuda":
        msg = (
            f"training.processes needs {needed} GPUs on this machine, which has {there}: lower training.processes, or "
            "set training.device to cpu"
        )
        raise UserError(msg)


def run(command: Sequence[str], processes: int, threads: int) -> None:
    """Train one model with several processes, and wait until all processes have ended.

    Args:
        command: name of the module that each process runs, and the module's arguments.
        processes: number of processes on all machines together.
        threads: CPU threads of each process.

    Raises:
        UserError: a process met a problem that the user can correct, or the processes died too often.
        Stopped: this process was asked to stop, and the processes of the training have ended.
    """
    more = shlex.split(os.environ.get(TORCHRUN, "")) or ["--standalone"]
    arguments = [f"--nproc-per-node={processes_here(processes)}", f"--max-restarts={RESTARTS}", *more, "-m", *command]
    with tempfile.TemporaryDirectory() as problems:
        # A process that has the variable DVC_STAGE restores the stage's outputs after a failure. Only the stage itself
        # may do so, not the processes of the training.
        environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
        environment |= {PROBLEMS: problems, "OMP_NUM_THREADS": str(threads)}
        # By default, the processes use torchrun's own key-value store. After a restart, the store would still contain
        # keys of dead processes, and the new processes would wait for these keys.
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        with _torchrun(arguments, environment) as process:
            announced = False
            while process.poll() is None:
                if signals.asked_to_stop() and not announced:
                    process.terminate()
                    announced = True
                time.sleep(0.05)
        if found := sorted(Path(problems).iterdir()):
            raise UserError(found[0].read_text(encoding="utf-8"))
    if signals.asked_to_stop():
        raise Stopped
    if process.returncode != 0:
        msg = (
            "processes of the training were killed or failed too often, or another machine is unreachable; "
            "the next run continues from the last checkpoint"
        )
        raise UserError(msg)


@contextmanager
def _torchrun(arguments: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Context in which torchrun runs. If torchrun still runs at the end, the context kills torchrun and its processes.

    torchrun does not belong to the terminal's session, so Ctrl-C reaches only the stage. The stage then stops torchrun.
    """
    command = [sys.executable, "-c", "from pipeline.training import ranks; ranks.torchrun()", *arguments]
    with subprocess.Popen(command, env=environment, start_new_session=True) as torchrun:  # noqa: S603
        try:
            yield torchrun
        finally:
            if torchrun.poll() is None:
                started = psutil.Process(torchrun.pid).children(recursive=True)
                torchrun.kill()
                for process in started:
                    with _gone_is_fine():
                        process.kill()


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """Context that ignores the error that a process has already ended."""
    try:
        yield
    except psutil.NoSuchProcess:
        return


def take_part(work: Callable[[params.Params], None]) -> None:
    """Join the other processes of the training, and call `work` with the checked parameters.

    Each process that torchrun starts calls this function. The process exits after a signal, after the death of torchrun
    or of another process, and after an error. If the user can correct the error, the process writes a message to a
    file, and the stage reports this message.
    """
    from aelab.core import devices, process_group  # noqa: PLC0415 - slow to import

    try:
        signals.LISTENER.listen(polls=True)
        signals.LISTENER.check(wanted=os.getppid() == PARENT)
        checked = params.load()
        process_group.begin(devices.prepare(checked.training.device, checked.training.threads), signals.asked_to_stop)
        process_group.check(checked.training.processes)
        work(checked)
        process_group.end()
        signals.LISTENER.disarm()
    except BaseException as error:
        asked = signals.LISTENER.asked
        signals.LISTENER.disarm()
        if asked is not None or isinstance(error, Stopped):
            sys.exit(128 + signal.SIGTERM)
        if isinstance(error, process_group.ProcessLost):
            print("another process of the training is gone: all continue from the last checkpoint", flush=True)
            os._exit(1)  # a normal exit would wait for the lost process
        sentence = stage.what_to_mend(error)
        if sentence is None:
            raise
        Path(os.environ[PROBLEMS], os.environ["RANK"]).write_text(sentence, encoding="utf-8")
        os.kill(os.getppid(), signal.SIGTERM)  # end torchrun, which would otherwise restart the processes
        sys.exit(1)


def torchrun() -> None:
    """Run torchrun with the arguments of the command line. End this process if the stage has died."""

    def watch() -> None:
        while os.getppid() == PARENT:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    logging.disable(logging.WARNING)  # hides a warning about each signal that torchrun forwards
    from torch.distributed import run as elastic  # noqa: PLC0415 - slow to import
    from torch.distributed.elastic.multiprocessing.api import SignalException  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415

    try:
        elastic.run(elastic.parse_args(sys.argv[1:]))
    except (ChildFailedError, SignalException) as error:
        sys.exit(128 + error.sigval if isinstance(error, SignalException) else 1)
