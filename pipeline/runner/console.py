"""What a run shows: one line for each event, and the output of the stages, each line under its stage's name."""

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.common import paths


def log_file(name: str) -> Path:
    """The file that keeps a stage's last output; its folder exists."""
    file = paths.LOGS / f"{name}.log"
    file.parent.mkdir(parents=True, exist_ok=True)  # DVC names a stage of its own by the path of its file
    return file


def show(line: str) -> None:
    """Print a line in one piece: other threads print, too."""
    print(line, end="", flush=True)


class ConsoleLog:
    """Shows events with the time since the run began."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def say(self, event: str, name: str, remark: str) -> None:
        """Show one event of a stage."""
        show(f"{self._time()}  {event:9}  {name}  ({remark})\n")

    def sum_up(self, remark: str) -> None:
        """Show that a run is over, and something about it."""
        show(f"{self._time()}  in all  ({remark})\n")

    def _time(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60:3d}:{seconds % 60:02d}"


@dataclass
class StageOutput:
    """Shows the output of a stage's command, and reads from DVC's lines around it what DVC did with the stage."""

    name: str
    outcome: str = "unchanged"  # unchanged, cached, done
    running: bool = False  # whether the next lines are those of the command

    def read(self, line: str) -> None:
        """Take one more line."""
        if line.startswith("Running stage"):
            self.outcome, self.running = "done", True
        elif "is cached - skipping run" in line:
            self.outcome = "cached"
        elif line.startswith("To track the changes"):
            self.running = False  # DVC's advice follows
        elif self.running and line.strip() and not line.startswith(("> ", "Updating lock")):
            show(f"{self.name} | {line}")
