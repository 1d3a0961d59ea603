"""Faults of files, such as flipped bytes and a full disk; also repeated trainings, and two runs at once."""

import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from aelab.core import disk
from aelab.core.errors import DamagedFile, UserError
from aelab.ingest import downloads
from aelab.models import checkpoint
from aelab.training import snapshots
from aelab.training.snapshots import Snapshots
from aelab.training.state import Snapshot
from faults.rig import ENTRIES, Rig
from faults.table import Counts
from tests.support.processes import PATIENCE

PARAMETERS = {"network": {"name": "patches", "width": 8}, "code": 4}


def flips(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Change a byte of a file, or cut off the end. The pipeline must find the damage before it uses the file."""
    rng = random.Random(f"{seed} flips")
    raw = folder / "raw"
    downloads.fetch("digits", raw)
    loaded = downloads.load("digits", raw)
    loaded.save(folder / "clean")
    model = folder / "model.safetensors"
    checkpoint.save(checkpoint.build("ae", (1, 8, 8), PARAMETERS, seed=0), model)
    keeper = Snapshots(folder / "checkpoints")
    for number in (1, 2):
        keeper.keep(Snapshot({"x": torch.full((1000,), float(number))}, {"step": number}))

    def raw_is_noticed() -> bool:
        _, source = downloads.fetch("digits", raw)  # damaged files are fetched again
        return not source.startswith("folder")

    def falls_back() -> bool:
        with contextlib.redirect_stdout(io.StringIO()):  # discards the message about the damaged file
            found = Snapshots(folder / "checkpoints").latest()
        return found is not None and found.values["step"] == 1

    kinds: dict[str, tuple[list[Path], Callable[[], bool]]] = {
        "raw data": ([raw / "images", raw / "labels"], raw_is_noticed),
        "data between stages": (sorted((folder / "clean/train").iterdir()), lambda: _raises(folder / "clean/train")),
        "checkpoint": ([folder / "checkpoints" / snapshots.LAST], falls_back),
        "model": ([model], lambda: _refused(model)),
    }
    for what, (files, noticed) in kinds.items():
        counts = Counts(f"byte flipped or file truncated: {what}", "the damage is found before the file is used", count)
        for _ in range(count):
            path = rng.choice(files)
            whole = path.read_bytes()
            how = damage(path, rng)
            counts.add(noticed(), f"{path.name}: {how}")
            path.write_bytes(whole)
        yield counts


def damage(path: Path, rng: random.Random) -> str:
    """Flip bits of one byte, or truncate the file; return a description of the damage."""
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    if rng.random() < 0.5:
        path.write_bytes(content[:place])
        return f"cut off at {place}"
    content[place] ^= rng.randrange(1, 256)
    path.write_bytes(content)
    return f"flipped at {place}"


def _raises(folder: Path) -> bool:
    """Whether the check of a data folder finds the damage."""
    try:
        disk.check(folder)
    except DamagedFile:
        return True
    return False


def _refused(path: Path) -> bool:
    """Whether the loader refuses a damaged model file."""
    try:
        checkpoint.load(path)
    except UserError:
        return True
    return False


def writes(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Send SIGKILL to a process that only writes checkpoints. Afterwards, the old or the new checkpoint must load."""
    rng = random.Random(f"{seed} writes")
    counts = Counts("SIGKILL inside a checkpoint's write", "the old or the new checkpoint can be loaded", count)
    script = (
        "import sys, torch, itertools; from pathlib import Path\n"
        "from aelab.training.snapshots import Snapshots\n"
        "from aelab.training.state import Snapshot\n"
        "keeper = Snapshots(Path(sys.argv[1]))\n"
        "latest = keeper.latest()\n"
        "first = latest.values['step'] + 1 if latest else 1\n"
        "for i in itertools.count(first):\n"
        "    keeper.keep(Snapshot({'x': torch.full((1_000_000,), float(i))}, {'step': i})); print(i, flush=True)\n"
    )
    place = folder / "checkpoints"
    before = 0
    for _ in range(count):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(place)], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert process.stdout is not None
        said = [process.stdout.readline()]
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        said += process.stdout.readlines()
        process.stdout.close()
        process.wait()
        done = int(said[-1])
        found = Snapshots(place).latest()
        kept = found is not None and found.values["step"] in {done, done + 1} and found.values["step"] > before
        whole = found is not None and bool((found.tensors["x"] == found.values["step"]).all())
        counts.add(kept and whole, f"{done} was written, {found.values if found else None} was found")
        before = found.values["step"] if found else 0
    yield counts


def repeats(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Repeat trainings with other hash seeds and other numbers of curve points. The weights must stay the same."""
    rng = random.Random(f"{seed} repeats")
    rig = Rig(folder, steps=200)
    for entry in ENTRIES:
        counts = Counts(f"repeat with other PYTHONHASHSEED and curve points: {entry}", "same weights", count)
        model = rig.project.folder / "models" / entry / "seed0.safetensors"
        whole = disk.digest(model)
        for _ in range(count):
            shutil.rmtree(rig.project.folder / "checkpoints")
            model.unlink()
            params = rig.project.params()
            params["training"]["points"] = rng.choice([1, 7, 50, 200, 1000])
            rig.project.write_params(params)
            hashes = str(rng.randrange(2**32))
            rig.must(rig.start("python", "-m", "pipeline.stages.train", f"train@{entry}", PYTHONHASHSEED=hashes))
            counts.add(disk.digest(model) == whole, f"points {params['training']['points']}, hash seed {hashes}")
        yield counts


def full_disk(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Fill the disk during a training, free space again, and continue the training."""
    rng = random.Random(f"{seed} disk")
    rig = Rig(folder, steps=400)
    promise = "a message of one sentence; the last checkpoint is valid; the continued training ends with the same bits"
    counts = Counts("disk full during a training", promise, count)
    place = rig.project.folder / "checkpoints"
    size = 4 * (rig.project.folder / "models/vae/seed0.safetensors").stat().st_size // 1024  # KiB of a checkpoint
    mounted = os.geteuid() == 0 and _mount(place, 100_000)
    counts.remark = "a tmpfs" if mounted else "a limit on file sizes"
    for _ in range(count):
        rig.forget("train@vae")
        room = round(size * rng.uniform(0.5, 1.9))  # KiB: enough for one checkpoint or none, never for two
        limit = [] if mounted else ["prlimit", f"--fsize={room * 1024}", "--"]
        if mounted:
            _mount(place, room, again=True)
        ended = rig.start(*limit, "dvc", "repro", "--single-item", "train@vae").wait(PATIENCE)
        said = rig.said()
        clear = ended != 0 and "free space or permit writing there, then run again" in said and "Traceback" not in said
        slots = list(place.glob("vae-*"))
        valid = all(Snapshots(slot).latest() is not None for slot in slots if (slot / snapshots.LAST).exists())
        if mounted:
            _mount(place, 1_000_000, again=True)
        rig.must(rig.start("dvc", "repro"))
        wrong = rig.differs()
        counts.add(clear and valid and not wrong, f"{room} KiB: {wrong or said[-300:]}")
    if mounted:
        subprocess.run(["umount", str(place)], check=True)
    yield counts


def _mount(place: Path, kibibytes: int, *, again: bool = False) -> bool:
    """Mount a tmpfs of this size at `place`, or with `again` change its size; return whether the mount succeeded."""
    place.mkdir(exist_ok=True)
    options = f"size={kibibytes}k" + (",remount" if again else "")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def two_at_once(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Start two runs of the pipeline in one project, at most 3 seconds apart."""
    rng = random.Random(f"{seed} two")
    rig = Rig(folder, steps=100)
    counts = Counts(
        "two `dvc repro`, or `make repro`, at once",
        "one command waits for the other or names it; the outputs are intact",
        count,
    )
    commands = (("dvc", "repro"), ("python", "-m", "pipeline.runner.repro", "--jobs", "2"))
    for _ in range(count):
        rig.forget("train@ae", "evaluate@ae")
        pair = [rng.choice(commands) for _ in range(2)]
        first = rig.start(*pair[0])
        time.sleep(rng.uniform(0, 3))
        other = rig.project.run(*pair[1], AELAB_CHECKPOINT="0.1")
        first.wait(PATIENCE)
        said = rig.said() + other.stdout + other.stderr
        polite = "Traceback" not in said and (
            (first.returncode == other.returncode == 0)
            or any(word in said for word in ("busy", "Unable to acquire lock", "waiting for"))
        )
        rig.must(rig.start("dvc", "repro"))
        wrong = rig.differs()
        counts.add(
            polite and not wrong and 0 in {first.returncode, other.returncode}, f"{pair}: {wrong or said[-500:]}"
        )
    yield counts
