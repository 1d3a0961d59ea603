"""Prints the progress of a run of the stages in `dvc.yaml`.

The runner prints a line when a stage starts or ends. A line from a stage's command begins with the stage's name.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.common import paths


def log_file(name: str) -> Path:
    """Return the path of the file for a stage's output, and create the folder of this file."""
    file = paths.LOGS / f"{name}.log"
    file.parent.mkdir(parents=True, exist_ok=True)  # a stage from a .dvc file has the file's path as its name
    return file


def show(line: str) -> None:
    """Print a line in one piece, so that the lines of several threads do not mix."""
    print(line, end="", flush=True)


class ConsoleLog:
    """Prints the events of a run, such as the start of a stage, with the time since the run began."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def say(self, event: str, name: str, remark: str) -> None:
        """Print an event of the stage `name`, such as "start" or "failed", and a remark."""
        show(f"{self._time()}  {event:9}  {name}  ({remark})\n")

    def sum_up(self, remark: str) -> None:
        """Print the total time of the run, and a remark."""
        show(f"{self._time()}    total  ({remark})\n")

    def _time(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60:3d}:{seconds % 60:02d}"


@dataclass
class StageOutput:
    """Separates the lines that DVC prints during a stage from the lines that the stage's command prints.

    DVC's lines say how the stage ended. Only the command's lines go to the terminal.
    """

    name: str
    outcome: str = "unchanged"  # unchanged, cached (restored from DVC's cache) or done
    running: bool = False  # whether the next lines are from the command

    def read(self, line: str) -> None:
        """Read a line of DVC or of the command, and print the line if the command wrote it."""
        if line.startswith("Running stage"):
            self.outcome, self.running = "done", True
        elif "is cached - skipping run" in line:
            self.outcome = "cached"
        elif line.startswith("To track the changes"):
            self.running = False  # the next lines are advice from DVC
        elif self.running and line.strip() and not line.startswith(("> ", "Updating lock")):
            show(f"{self.name} | {line}")
