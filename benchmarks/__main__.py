"""All benchmarks: `make bench` prints the tables and writes them to benchmarks/results.md and results.json."""

import json
import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from autoencoders import devices
from benchmarks import dag, loop, peer, quality, scaling
from benchmarks.measure import Table, cores, peak_flops

PACKAGES = ("torch", "dvc", "mlflow", "pythae")
HERE = Path(__file__).parent


def main() -> None:
    """Run them one after the other."""
    started = time.time()
    devices.prepare("cpu", cores())
    machine = {
        "processor": devices.describe(torch.device("cpu")),
        "matrix products, GFLOP/s": round(peak_flops() / 1e9),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
    }
    tables: list[Table] = []
    for benchmark in (loop, peer, dag, scaling, quality):
        made = benchmark.run()
        tables += made if isinstance(made, list) else [made]
        print("\n".join(table.markdown() for table in (made if isinstance(made, list) else [made])), flush=True)
    machine["minutes"] = round((time.time() - started) / 60, 1)
    tables.sort(key=lambda table: table.title)
    content = {"machine": machine, "tables": [asdict(table) for table in tables]}
    (HERE / "results.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    about = "; ".join(f"{name} {value}" for name, value in machine.items())
    text = "\n".join(["# Benchmarks", "", f"By `make bench`: {about}.", "", *(table.markdown() for table in tables)])
    (HERE / "results.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
