"""Rows of the fault suite's table. A promise is the outcome that the pipeline must have after a fault."""

from dataclasses import dataclass, field


@dataclass
class Counts:
    """A row of the table: how often a promise was kept."""

    fault: str  # the injected fault
    promise: str  # the outcome that must follow
    full: int  # planned number of trials
    kept: int = 0
    tried: int = 0
    broken: list[str] = field(default_factory=list)  # descriptions of the other outcomes
    remark: str = ""

    def add(self, kept: object, otherwise: str = "") -> None:
        """Count one trial; `otherwise` describes the outcome if the promise was not kept."""
        self.tried += 1
        self.kept += bool(kept)
        if not kept:
            self.broken.append(otherwise)
            print(f"{self.fault}: {otherwise}", flush=True)
