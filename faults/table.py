"""What came of the faults, counted."""

from dataclasses import dataclass, field


@dataclass
class Counts:
    """One row: how often a promise was kept."""

    fault: str
    promise: str
    full: int  # times
    kept: int = 0
    tried: int = 0
    broken: list[str] = field(default_factory=list)  # what happened instead
    remark: str = ""

    def add(self, kept: object, otherwise: str = "") -> None:
        """Count one more."""
        self.tried += 1
        self.kept += bool(kept)
        if not kept:
            self.broken.append(otherwise)
            print(f"{self.fault}: {otherwise}", flush=True)
