"""All benchmarks: `make bench` prints the tables and writes them to benchmarks/results.md and results.json.

    python -m benchmarks peer quality

runs these alone and leaves the tables of the others as they are.
"""

import json
import platform
import time
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from aelab.core import devices
from benchmarks.measure import Table, cores, peak_flops

BENCHMARKS = ("loop", "peer", "dag", "scaling", "quality", "memory", "resume", "codes", "bound", "ranks", "cluster",
              "slopes", "storage", "fill", "runner", "cores")  # fmt: skip
PACKAGES = ("torch", "dvc", "mlflow", "pythae")
RESULTS = Path(__file__).parent / "results.json"


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(BENCHMARKS)}; all by default.")] = None,
) -> None:
    """Run benchmarks one after the other."""
    if unknown := set(names or ()) - set(BENCHMARKS):
        msg = f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}"
        raise typer.BadParameter(msg)
    content: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() and names else {}
    for name in names or BENCHMARKS:
        devices.prepare("cpu", cores())
        machine = _machine()
        started = time.time()
        made = import_module(f"benchmarks.{name}").run()
        tables: list[Table] = made if isinstance(made, list) else [made]
        print("\n".join(table.markdown() for table in tables), flush=True)
        machine["minutes"] = round((time.time() - started) / 60, 1)
        content[name] = {"machine": machine, "tables": [asdict(table) for table in tables]}
    content = {name: content[name] for name in BENCHMARKS if name in content}
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(_markdown(content), encoding="utf-8")


def _machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": devices.describe(torch.device("cpu")),
        "matrix products, GFLOP/s": round(peak_flops() / 1e9),
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name))},
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def _version(name: str) -> str | None:
    """That of a package; None if it is not installed, as the peer that one benchmark needs."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _markdown(content: dict[str, Any]) -> str:
    parts = ["# Benchmarks", "", "By `make bench`. Each part says on what it was measured, and how long it took.", ""]
    for part in content.values():
        parts += [Table(**table).markdown() for table in part["tables"]]
        parts += ["*" + "; ".join(f"{name} {value}" for name, value in part["machine"].items()) + "*", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    typer.run(main)
