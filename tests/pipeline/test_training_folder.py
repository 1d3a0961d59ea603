import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aelab.core import arrays, disk
from aelab.models import checkpoint
from aelab.training.state import Stopped
from pipeline.common import params, paths
from pipeline.stages import sources
from pipeline.training import training_folder
from pipeline.training.training_folder import CurveLog, TrainingFolder
from tests.support.parameters import DEFAULT
from tests.support.processes import PATIENCE
from tests.support.project import REPOSITORY
from tests.support.toys import IMAGE, PARAMETERS

MACHINE = {"hardware": "this one"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with everything on which a training depends."""
    for name in ("src/aelab", "pipeline"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", "requirements.lock"):
        shutil.copy(REPOSITORY / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    sources.main()
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for place in map(paths.inputs, ("clean", "masked", "mixed")):
        for split in ("train", "validation"):
            arrays.write(paths.images(place, split), (4, 2), [np.arange(8).reshape(4, 2)])
            disk.seal(place / split)
    return tmp_path


def fingerprint(entry: str = "vae", seed: int = 0, content: dict[str, Any] = DEFAULT, machine: Any = MACHINE) -> str:
    return TrainingFolder.of(entry, seed, params.check(content), machine).fingerprint


def changed(at: str, value: object) -> dict[str, Any]:
    content = json.loads(json.dumps(DEFAULT))
    *above, key = at.split(".")
    section = content
    for each in above:
        section = section[each]
    section[key] = value
    return dict(content)


def test_the_same_training_has_the_same_fingerprint() -> None:
    assert fingerprint() == fingerprint(content=changed("variants.ae.code", 5))
    assert fingerprint() == fingerprint(content=changed("seeds", [0, 7]))
    assert fingerprint() == fingerprint(content=changed("evaluation.images", 7))


def test_another_training_has_another_fingerprint() -> None:
    others = [
        fingerprint(entry="ae"),
        fingerprint(seed=1),
        fingerprint(content=changed("variants.vae.beta", 2.0)),
        fingerprint(content=changed("training.steps", 7)),
        fingerprint(machine={"hardware": "another one"}),
    ]
    for path in ("src/aelab/variants/vae.py", "src/aelab/models/layers.py"):
        before = Path(path).read_text()
        Path(path).write_text(before + "\n# changed\n")
        others.append(fingerprint())
        Path(path).write_text(before)
    arrays.write(paths.images(paths.CLEAN, "train"), (4, 2), [np.ones((4, 2))])
    disk.seal(paths.CLEAN / "train")
    others.append(fingerprint())
    assert len({*others, fingerprint(seed=9)}) == len(others) + 1


def test_a_training_depends_on_the_corruption_that_it_sees_and_on_no_other() -> None:
    names = ("vae", "dae", "dae-mixed")
    before = {name: fingerprint(entry=name) for name in names}
    place = paths.inputs("mixed")
    arrays.write(paths.images(place, "train"), (4, 2), [np.ones((4, 2))])
    disk.seal(place / "train")
    assert [name for name in names if fingerprint(entry=name) != before[name]] == ["dae-mixed"]
    assert fingerprint(content=changed("variants.vae.inputs", "masked")) != before["vae"]
    assert "corruption.train.mixed" in training_folder.raw_parameters("dae-mixed")
    assert not any(key.startswith("corruption.train") for key in training_folder.raw_parameters("vae"))


def test_code_of_other_entries_does_not_matter() -> None:
    before = fingerprint()
    Path("src/aelab/variants/vqvae.py").write_text("# nothing")
    Path("src/aelab/networks/conv.py").write_text("# nothing")
    assert fingerprint() == before


def test_versions_matter_that_bits_depend_on_and_the_lock_of_all_others_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = fingerprint()
    Path("requirements.lock").write_text("mlflow==99\n")
    assert fingerprint() == before
    monkeypatch.setattr("torch.__version__", "99")
    assert fingerprint() != before


def a_result(folder: Path) -> TrainingFolder:
    slot = TrainingFolder(folder / "vae-seed0-f")
    slot.folder.mkdir()
    disk.write_atomically(slot.about, disk.as_json({"begun": [1.0]}))
    slot.curve.write_text('{"phase": "autoencoder", "step": 1, "time": 1.0, "train_loss": 2.0}\n')
    slot.finish(checkpoint.build("ae", IMAGE, PARAMETERS["ae"]), {}, {"peak_memory_mib": 7})
    return slot


def test_a_result_is_found_again(folder: Path) -> None:
    found = a_result(folder).result()
    assert found is not None
    assert {"started": 1.0, "interruptions": 0, "peak_memory_mib": 7}.items() <= found["cost"].items()


@pytest.mark.parametrize("name", ["model.safetensors", "curve.jsonl", "finished.json"])
def test_a_damaged_result_is_none(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slot = a_result(folder)
    path = slot.folder / name
    path.write_bytes(path.read_bytes()[:-2])
    assert slot.result() is None
    assert "the training starts again from step 0" in capsys.readouterr().out
    assert not slot.finished.exists()


def test_a_curve_keeps_its_points_and_when_they_were_reached(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    points = [{"phase": "a", "step": step, "time": float(step), "train_loss": 1.0 / step} for step in (1, 2, 3)]
    with CurveLog(path) as log:
        for point in points:
            log.write(point)
        log.file.write(b'{"phase": "a", "step": 4, "ti')  # killed while writing a line
    with CurveLog(path) as log:
        for point in points[1:]:
            log.write({**point, "time": 100.0 + point["time"]})  # type: ignore[operator]
        log.write({"phase": "a", "step": 3, "time": 103.0, "validation_loss": 1.0})
        log.write({"phase": "b", "step": 3, "time": 104.0, "train_loss": 1.0})
        assert len(disk.read_lines(path)) == 5  # without delay
        with pytest.raises(ValueError, match="not JSON compliant"):
            log.write({"phase": "a", "step": 9, "train_loss": float("nan")})
    found = disk.read_lines(path)
    assert found[:3] == points
    assert [point["time"] for point in found[3:]] == [103.0, 104.0]
    system = [[key for key in point if key.startswith("system/")] for point in found]
    assert list(map(len, system)) == [0, 0, 0, 2, 0]  # for validation points only
    assert all(found[3][key] >= 0 for key in system[3])


def test_a_curve_that_forgot_its_points_would_have_them_twice(tmp_path: Path) -> None:
    point = {"phase": "a", "step": 1, "time": 1.0, "train_loss": 2.0}
    for _ in range(2):
        with CurveLog(tmp_path / "curve.jsonl") as log:
            log.known.clear()
            log.write(point)
    assert len(disk.read_lines(tmp_path / "curve.jsonl")) == 2


def test_only_one_trains_in_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slot, order, waits = TrainingFolder(folder / "vae-seed0-f"), list[str](), threading.Event()

    def has_to_wait() -> bool:
        waits.set()
        return False

    def second() -> None:
        with slot.held(has_to_wait):
            order.append("second")

    with ThreadPoolExecutor() as pool:
        with slot.held(lambda: False):
            other = pool.submit(second)
            assert waits.wait(PATIENCE)
            with pytest.raises(Stopped), slot.held(lambda: True):
                pass
            order.append("first")
        other.result()
    assert order == ["first", "second"]
    assert "another process is training in" in capsys.readouterr().out


def test_what_nothing_has_touched_for_a_month_goes(folder: Path) -> None:
    for name, days in (("ae-seed0-old", 31), ("ae-seed0-new", 29)):
        slot = folder / "checkpoints" / name
        slot.mkdir(parents=True)
        (slot / "about.json").touch()
        then = time.time() - days * 86400
        os.utime(slot / "about.json", (then, then))
    training_folder.tidy()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["ae-seed0-new"]
