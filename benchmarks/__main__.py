"""Benchmarks: `make bench` runs all of them, and writes the tables to results.md and results.json in this folder.

    python -m benchmarks peer quality

runs only the benchmarks `peer` and `quality`, and keeps the earlier tables of all other benchmarks.
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
PACKAGES = ("torch", "dvc", "mlflow", "pythae")  # Pythae is another library of autoencoders, for comparisons
RESULTS = Path(__file__).parent / "results.json"


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(BENCHMARKS)}; the default is all.")] = None,
) -> None:
    """Run the named benchmarks one after the other, or all benchmarks if none is named."""
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
    """Return the processor, its speed at matrix products, the versions of Python and the packages, and the time."""
    return {
        "processor": devices.describe(torch.device("cpu")),
        "matrix products, GFLOP/s": round(peak_flops() / 1e9),
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name))},
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def _version(name: str) -> str | None:
    """Return the version of a package, or None if the package is missing. Most benchmarks run without Pythae."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _markdown(content: dict[str, Any]) -> str:
    parts = [
        "# Benchmarks",
        "",
        "`make bench` generates this page. The last line of each part names the machine, the versions of the packages,",
        "the date and the duration of the measurement.",
        "",
        "- repetition: one round of measurements, in which each of the compared programs is measured once.",
        "- least to greatest: range of a ratio over the repetitions. The column before has the median of this ratio.",
        "- slope: exponent of the time's growth since the row before. A slope of 1 means proportional growth.",
        "",
    ]
    for part in content.values():
        parts += [Table(**table).markdown() for table in part["tables"]]
        parts += ["*" + "; ".join(f"{name} {value}" for name, value in part["machine"].items()) + "*", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    typer.run(main)
