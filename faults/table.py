"""Rows of the fault suite's table. A promise is the outcome that the pipeline must have after a fault."""

from dataclasses import dataclass, field


@dataclass
class Counts:
    """A row of the table: how often a promise was kept."""

    fault: str  # the injected fault
    promise: str  # the outcome that must follow
    full: int  # planned number of trials
    kept: int = 0  # number of trials so far that had the promised outcome
    tried: int = 0  # number of trials so far
    broken: list[str] = field(default_factory=list)  # descriptions of the outcomes that broke the promise
    remark: str = ""

    def add(self, kept: object, otherwise: str = "") -> None:
        """Count one trial. If the promise was not `kept`, `otherwise` describes the outcome."""
        self.tried += 1
        self.kept += bool(kept)
        if not kept:
            self.broken.append(otherwise)
            print(f"{self.fault}: {otherwise}", flush=True)
