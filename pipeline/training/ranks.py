"""One training by several processes: torchrun starts them, here or on several machines, and anew when one has died."""

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

TORCHRUN = "AELAB_TORCHRUN"  # more arguments for torchrun: the other machines
PROBLEMS = "AELAB_PROBLEMS"  # the folder in which a process says what it could not go on for
RESTARTS = 3  # of all processes when one of them dies, unless TORCHRUN says otherwise


def here(processes: int) -> int:
    """How many of the `processes` of a training are to run on this machine.

    Raises:
        UserError: torchrun is told of a number of machines that does not go with it.
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
    """See that each process has a GPU of its own, if they are to work on GPUs.

    Raises:
        UserError: there are too few.
    """
    import torch  # noqa: PLC0415 - torchrun itself needs it later

    from aelab.core import devices  # noqa: PLC0415

    options = checked.training
    needed, there = here(options.processes), torch.cuda.device_count()
    if there < needed and devices.prepare(options.device, options.threads).type == "cuda":
        msg = f"training.processes wants {needed} GPUs of this machine, which has {there}: take as many, or device: cpu"
        raise UserError(msg)


def run(command: Sequence[str], processes: int, threads: int) -> None:
    """Run a module's `command` as the `processes` of one training, and wait until all have done their part.

    Raises:
        UserError: what one of them could not go on for; or they died again and again.
        Stopped: this process was asked to stop, and they have left.
    """
    more = shlex.split(os.environ.get(TORCHRUN, "")) or ["--standalone"]
    arguments = [f"--nproc-per-node={here(processes)}", f"--max-restarts={RESTARTS}", *more, "-m", *command]
    with tempfile.TemporaryDirectory() as problems:
        # DVC's outputs are for this process to bring back.
        environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
        environment |= {PROBLEMS: problems, "OMP_NUM_THREADS": str(threads)}
        # Else processes that begin anew would find in the store what the dead ones had left there, and look for them.
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
            f"a process of the training was killed or failed {RESTARTS + 1} times, or another machine is away; the "
            "next run goes on from the last checkpoint"
        )
        raise UserError(msg)


@contextmanager
def _torchrun(arguments: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun, in a session of its own as its processes are: Ctrl-C is for the stage to pass on. Nothing of it is left
    behind.
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
    try:
        yield
    except psutil.NoSuchProcess:
        return


def take_part(work: Callable[[params.Params], None]) -> None:
    """Do `work` as one of the processes that torchrun has started, and leave in order: when it is asked to, when
    torchrun is gone, when another process is.
    """
    from aelab.core import devices, process_group  # noqa: PLC0415 - torch; torchrun itself needs it later

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
            print("another process of the training is gone: all go on from the last checkpoint", flush=True)
            os._exit(1)  # what is left of the group would wait for the others
        sentence = stage.what_to_mend(error)
        if sentence is None:
            raise
        Path(os.environ[PROBLEMS], os.environ["RANK"]).write_text(sentence, encoding="utf-8")
        os.kill(os.getppid(), signal.SIGTERM)  # torchrun would try again
        sys.exit(1)


def torchrun() -> None:
    """Be torchrun, for as long as the stage is there that started it."""

    def watch() -> None:
        while os.getppid() == PARENT:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    logging.disable(logging.WARNING)  # that it passes a signal on
    from torch.distributed import run as elastic  # noqa: PLC0415 - slow to import
    from torch.distributed.elastic.multiprocessing.api import SignalException  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415

    try:
        elastic.run(elastic.parse_args(sys.argv[1:]))
    except (ChildFailedError, SignalException) as error:
        sys.exit(128 + error.sigval if isinstance(error, SignalException) else 1)
