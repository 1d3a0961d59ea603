"""What a machine with a GPU has to answer first, in one command of at most 8 minutes: `make gpu`.

    python -m benchmarks.gpu --device cuda --out FOLDER

It needs neither DVC nor MLflow nor a data set. The tables are written after each part, as Markdown and as JSON, so that
a run that is cut off leaves what it had. With `--device cpu` the same tables are made there, with fewer steps.
"""

import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import psutil
import torch
import typer
from torch import nn

from aelab.core import devices
from aelab.core.settings import Budget, Mode, Precision, TrainingOptions
from aelab.data.pairs import Pairs
from aelab.models import checkpoint
from aelab.models.base import Learner, Phase
from aelab.training.loop import fit, represent
from aelab.training.state import PhaseResult
from benchmarks import fill
from benchmarks.loop import IMAGE, noise
from benchmarks.measure import Table, Value, quiet
from pipeline.common import params
from pipeline.common.params import Params

MINUTES = 7.0  # after which no part begins
TESTS_WITHIN = 240.0  # seconds
STEPS = {"cuda": 1000, "cpu": 10}  # of a training whose steps are timed
IMAGES = 4096
TURNS = 1  # of trainings at once, after one that warms up
PAPER: dict[str, Any] = {  # Burda et al. 2016, one stochastic layer
    "network": {"name": "mlp", "hidden": [200, 200], "activation": "tanh"},
    "code": 50, "likelihood": "bernoulli",
}  # fmt: skip
PAPER_BATCH = 20


def main(
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    out: Annotated[Path, typer.Option(help="The folder for gpu.md and gpu.json.")] = Path("benchmarks"),
) -> None:
    """Measure, part after part, and write down what there is so far."""
    if device not in STEPS or (why := devices.unusable(device)):
        sys.exit(f"--device {device}: {why if device in STEPS else 'it must be cuda or cpu'}")
    began, tables, well = time.monotonic(), list[Table](), True
    where, checked = devices.prepare(device, 1), params.load()
    tables.append(machine(where))
    for part in (tests, precisions, layouts, trainings, at_once, paper, peer):
        started = time.monotonic()
        try:
            if started - began > 60 * MINUTES:
                raise TimeoutError(f"n/a: {MINUTES:.0f} minutes were over before this part")  # noqa: TRY003, EM102, TRY301
            table = part(where, checked)
        except Exception as problem:  # noqa: BLE001 - the other parts can still say something
            table, well = Table(part.__name__, f"It failed: {type(problem).__name__}: {problem}", {"": 0}, []), False
        tables.append(table)
        print(table.markdown(), f"*{time.monotonic() - started:.0f} s*\n", sep="\n", flush=True)
        write(out, tables)
    sys.exit(not well)


def write(out: Path, tables: list[Table]) -> None:
    """Both files."""
    out.mkdir(parents=True, exist_ok=True)
    text = "# A GPU's figures\n\nBy `make gpu`.\n\n" + "\n".join(table.markdown() for table in tables)
    (out / "gpu.md").write_text(text, encoding="utf-8")
    content = json.dumps([asdict(table) for table in tables], indent=1, ensure_ascii=False)
    (out / "gpu.json").write_text(content + "\n", encoding="utf-8")


def machine(device: torch.device) -> Table:
    """Hardware and versions, and whether the device computes at all."""
    rows: list[list[Value]] = [
        ["device", devices.describe(device)],
        ["processor", devices.describe(torch.device("cpu"))],
        ["CPU cores", str(psutil.cpu_count(logical=False) or os.cpu_count())],
        ["Python", platform.python_version()],
        ["torch", torch.__version__],
    ]
    note = "What all figures below depend on."
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability()
        rows += [
            ["compute capability", ".".join(map(str, capability))],
            ["memory, GiB", f"{torch.cuda.mem_get_info()[1] / 2**30:.0f}"],
            ["CUDA", str(torch.version.cuda)],
            ["driver", _driver()],
        ]
        if int(torch.tensor([1, 1], device=device).sum()) != 1 + 1:
            note = "**The device computes nothing: no figure below has any meaning.**"
    return Table("The machine", note, {"": 0, "found": 0}, rows)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]  # noqa: S603
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "n/a"


def tests(device: torch.device, _: Params) -> Table:
    """The tests that need a GPU, each part of the models in every mode."""
    columns = {"tests": 0, "passed": 0, "failed": 0, "skipped": 0, "seconds": 0}
    if device.type != "cuda":
        return Table("Tests", "n/a: they need a GPU.", columns, [])
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/training", "tests/core"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TESTS_WITHIN)  # noqa: S603
    counts = {what: float(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped)", done.stdout)}
    row: list[Value] = ["`-m gpu`", *(counts.get(what, 0.0) for what in ("passed", "failed", "skipped"))]
    if done.returncode:
        raise RuntimeError(f"{counts}\n\n```\n{done.stdout[-6000:]}\n```")  # noqa: TRY003, EM102
    return Table("Tests", f"`{' '.join(command[1:])}`", columns, [[*row, time.monotonic() - began]])


def precisions(device: torch.device, checked: Params) -> Table:
    """Every default training: recorded beside operation by operation, and in bfloat16."""
    rows: list[list[Value]] = []
    for name, phase, images, batch in _phases(device, checked):

        def speed(mode: Mode, precision: Precision) -> tuple[float, list[float]]:
            found = _fit(phase.module, images, batch, device, mode, precision)  # noqa: B023 - called at once
            return found.images / found.seconds, [point["train_loss"] for point in found.curve if "train_loss" in point]

        with _weights_kept(phase.module):
            eager, expected = speed("eager", "float32")
        with _weights_kept(phase.module):
            recorded, losses = speed("graph", "float32") if device.type == "cuda" else (None, expected)
        with _weights_kept(phase.module):
            half = devices.fast_at_bfloat16(device.type)
            bfloat16, rounded = speed("graph", "bfloat16") if half else (None, expected)
        rows.append([name, eager, recorded, bfloat16, _apart(losses, expected), _apart(rounded, expected)])
    note = (
        f"Images per second, batch {checked.training.batch_size}, {STEPS[device.type]} steps on noise; and by how much "
        "the training losses differ at most from those of single operations in float32, in percent."
    )
    columns = {"training": 0, "operation by operation": 0, "recorded": 0, "recorded, bfloat16": 0,
               "recorded: % apart": 4, "bfloat16: % apart": 4}  # fmt: skip
    return Table("Recorded steps, and bfloat16", note, columns, rows)


def layouts(device: torch.device, checked: Params) -> Table:
    """Convolutions with their channels last beside channels first, in float32."""
    rows: list[list[Value]] = []
    for name, phase, images, batch in _phases(device, checked):
        if not any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in phase.module.modules()):
            continue
        speeds: list[Value] = []
        for layout in (torch.channels_last, torch.contiguous_format):
            module = phase.module.to(memory_format=layout)
            with _weights_kept(module):
                found = _fit(module, images, batch, device, "graph", "float32")
            speeds.append(found.images / found.seconds)
        rows.append([name, *speeds])
    note = f"Images per second in float32, recorded where there is a GPU, {STEPS[device.type]} steps on noise."
    return Table("Layouts", note, {"training": 0, "channels last": 0, "channels first": 0}, rows)


def trainings(device: torch.device, checked: Params) -> Table:
    """How long the trainings of the default parameters take, one seed of each."""
    rows: list[list[Value]] = []
    for name, phase, images, batch in _phases(device, checked):
        entry = checked.entry(name.partition(",")[0])
        steps = checked.training.override(entry.training, phase.training).steps
        with _weights_kept(phase.module):
            found = _fit(phase.module, images, batch, device, "graph", "float32")
        rows.append([name, float(steps), found.seconds * steps / (found.images / batch)])
    rows.append(["all", sum(float(row[1] or 0) for row in rows), sum(float(row[2] or 0) for row in rows)])
    note = "Seconds of a whole training in float32, from the speed of its steps."
    return Table("The default trainings", note, {"training": 0, "steps": 0, "seconds": 1}, rows)


def at_once(device: torch.device, _: Params) -> Table:
    """Small trainings that share the device, with and without NVIDIA's Multi-Process Service."""
    table, rows = fill.filled(device, TURNS), list[list[Value]]()
    rows += [["no", *row] for row in table.rows]
    note = table.note
    with _mps() as serves:
        if serves:
            rows += [["yes", *row] for row in fill.filled(device, TURNS).rows]
        else:
            note += " With MPS: n/a, `nvidia-cuda-mps-control` is not there or does not start."
    return Table("Trainings that share the device", note, {"MPS": 0, **table.columns}, rows)


@contextlib.contextmanager
def _mps() -> Iterator[bool]:
    """NVIDIA's Multi-Process Service, where it can be started: kernels of several processes run at the same time."""
    control = shutil.which("nvidia-cuda-mps-control")
    if not control:
        yield False
        return
    with (
        tempfile.TemporaryDirectory() as place,
        patch.dict(os.environ, CUDA_MPS_PIPE_DIRECTORY=place, CUDA_MPS_LOG_DIRECTORY=place),
    ):
        began = subprocess.run([control, "-d"], check=False).returncode == 0  # noqa: S603
        try:
            yield began
        finally:
            if began:
                subprocess.run([control], input="quit\n", text=True, check=False)  # noqa: S603


def paper(device: torch.device, _: Params) -> Table:
    """The IWAE paper's MLP, whose batches of 20 images leave any GPU idle."""
    rows: list[list[Value]] = []
    for model, more in (("vae", {"beta": 1.0}), ("iwae", {"samples": 50})):
        row: list[Value] = [", ".join([model, *(f"{key} {value}" for key, value in more.items())]), float(PAPER_BATCH)]
        for mode in ("eager", "graph"):
            if mode == "graph" and device.type != "cuda":
                row.append(None)
                continue
            module = checkpoint.build(model, IMAGE, PAPER | more, 0).to(device)
            found = _fit(module, Pairs.of(noise(IMAGES)), PAPER_BATCH, device, mode, "float32", dynamic=True)
            row.append(found.images / PAPER_BATCH / found.seconds)
        rows.append(row)
    note = f"Steps per second in float32, {STEPS[device.type]} steps."
    columns = {"model": 0, "batch": 0, "operation by operation": 0, "recorded": 0}
    return Table("The IWAE paper's MLP", note, columns, rows)


def peer(device: torch.device, _: Params) -> Table:
    """Pythae's networks in our loop and in Pythae's, where Pythae is installed."""
    columns = {"network": 0, "our loop": 0, "Pythae": 0, "ours ÷ Pythae": 2}
    if importlib.util.find_spec("pythae") is None:
        return Table("Pythae", "n/a: Pythae is not installed; `make bench` installs it.", columns, [])
    from benchmarks import peer as pythae  # noqa: PLC0415

    rows: list[list[Value]] = []
    for name, (build, learner) in pythae.networks().items():
        images = Pairs.of(noise(IMAGES))
        ours = learner(build()).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        found = _fit(ours, images, pythae.BATCH, device, "graph", "float32")
        speeds = [found.images / found.seconds, pythae.pythae_steps(name, STEPS[device.type], device.type)]
        rows.append([name, *speeds, speeds[0] / speeds[1]])
    return Table("Pythae", f"Images per second in float32, batch {pythae.BATCH}.", columns, rows)


def _phases(device: torch.device, checked: Params) -> Iterator[tuple[str, Phase, Pairs, int]]:
    """Every training of the default parameters, its samples, and its batch."""
    for name in checked.variants:
        entry = checked.entry(name)
        model = checkpoint.build(entry.model, IMAGE, entry.arguments(), 0).to(device)
        images = Pairs.of(noise(IMAGES))
        for phase in model.phases():
            batch = checked.training.override(entry.training, phase.training).batch_size
            yield f"{name}, {phase.name}", phase, represent(phase, images), batch


def _fit(
    module: Learner, images: Pairs, batch: int, device: torch.device, mode: Mode, precision: Precision, *,
    dynamic: bool = False,
) -> PhaseResult:  # fmt: skip
    """A training that is timed; a short one before sets up what is set up once."""
    options = TrainingOptions(points=10, validations=1, mode=mode, precision=precision)
    for steps in (8, STEPS[device.type]):
        budget = Budget(steps=steps, batch_size=batch, learning_rate=1e-4)
        with quiet():
            found = fit(module, images, images.thinned(2), budget, seed=0, options=options, dynamic=dynamic)
    return found


@contextlib.contextmanager
def _weights_kept(module: nn.Module) -> Iterator[None]:
    """The module has its weights of before again."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    yield
    module.load_state_dict(before)


def _apart(losses: list[float], expected: list[float]) -> float:
    return max(100 * abs(a - b) / max(abs(b), 1e-12) for a, b in zip(losses, expected, strict=True))


if __name__ == "__main__":
    typer.run(main)
