"""The output of a run: one line for each event, and the stages' output with the stage's name on each line."""

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.common import paths


def log_file(name: str) -> Path:
    """Return the file of a stage's last output, and create its folder."""
    file = paths.LOGS / f"{name}.log"
    file.parent.mkdir(parents=True, exist_ok=True)  # the stage of a .dvc file has a path as its name
    return file


def show(line: str) -> None:
    """Print a line in one piece, because several threads print."""
    print(line, end="", flush=True)


class ConsoleLog:
    """Prints events with the time since the run began."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def say(self, event: str, name: str, remark: str) -> None:
        """Print an event of a stage."""
        show(f"{self._time()}  {event:9}  {name}  ({remark})\n")

    def sum_up(self, remark: str) -> None:
        """Print the total time of a run, and a remark."""
        show(f"{self._time()}    total  ({remark})\n")

    def _time(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60:3d}:{seconds % 60:02d}"


@dataclass
class StageOutput:
    """Prints the output of a stage's command, and reads the stage's outcome from DVC's own lines."""

    name: str
    outcome: str = "unchanged"  # unchanged, cached, done
    running: bool = False  # whether the command writes the next lines

    def read(self, line: str) -> None:
        """Read a line, and print the line if the command wrote it."""
        if line.startswith("Running stage"):
            self.outcome, self.running = "done", True
        elif "is cached - skipping run" in line:
            self.outcome = "cached"
        elif line.startswith("To track the changes"):
            self.running = False  # the next lines are DVC's advice
        elif self.running and line.strip() and not line.startswith(("> ", "Updating lock")):
            show(f"{self.name} | {line}")
