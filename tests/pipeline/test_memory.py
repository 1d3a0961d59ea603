import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aelab.core import arrays, devices, disk
from aelab.core.errors import UserError
from aelab.training.memory import Need
from pipeline.common import memory, params, paths, resources
from pipeline.stages import download, sources, train
from tests.support.parameters import with_value
from tests.support.project import REPOSITORY

GIB = 2**30
CPU = torch.device("cpu")


@pytest.fixture
def checked() -> params.Params:
    return params.check(with_value("seeds", [0, 1]))


def sentence(checked: params.Params, name: str, room: int, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        memory.check(checked, [name], CPU, room, **more)
    return str(caught.value)


def test_what_fits_passes_and_disturbs_no_draw(checked: params.Params) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    memory.check(checked, checked.variants, CPU, 2**50)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("name", ["ae", "dae", "vae"])
def test_what_is_too_large_says_what_to_change(checked: params.Params, name: str) -> None:
    found = sentence(checked, name, 2**23)
    assert found.startswith(f"variants.{name}: a training step of its autoencoder takes about 0.0 GiB, with 64 images")
    assert "0.0 GiB are free for it" in found
    assert f"variants.{name}.training.batch_size: " in found
    assert f"a variants.{name}.network.downsampling of more than 4" in found
    assert f"{resources.CPUS}=1" in found


def test_a_phase_with_a_section_of_its_own_is_mended_there(checked: params.Params) -> None:
    autoencoder, prior = sentence(checked, "vqvae", 2**23).splitlines()
    assert "variants.vqvae.training.batch_size: " in autoencoder
    assert "variants.vqvae.prior.training.batch_size: " in prior


def test_the_batch_size_that_is_named_fits(checked: params.Params) -> None:
    room = 2**23
    found = sentence(checked, "vqvae", room).splitlines()[1]
    named = int(found.split("batch_size: ")[1].split()[0])
    smaller = checked.entry("vqvae").arguments()["prior"]["training"] | {"batch_size": named}
    content = with_value("variants.vqvae.prior.training", smaller)
    with pytest.raises(UserError) as caught:
        memory.check(params.check(content), ["vqvae"], CPU, room)
    assert "its prior" not in str(caught.value)
    content = with_value("variants.vqvae.prior.training", smaller | {"batch_size": named + 1})
    with pytest.raises(UserError, match="its prior"):
        memory.check(params.check(content), ["vqvae"], CPU, room)


@pytest.mark.parametrize(("count", "fits"), [(None, False), (64, False), (2, True), (1, True)])
def test_no_batch_is_larger_than_the_images_there_are(checked: params.Params, *, count: int | None, fits: bool) -> None:
    room = 9 * 2**20
    if fits:
        memory.check(checked, ["vae"], CPU, room, count=count)
    else:
        assert "64 images" in sentence(checked, "vae", room, count=count)


def test_own_images_may_be_smaller() -> None:
    content = with_value("dataset.folders", {"photos": {"path": "elsewhere", "resolution": 128}})
    content["dataset"]["name"] = "photos"
    found = sentence(params.check(content), "ae", 2**23)
    assert "images of 3×128×128" in found
    assert "a dataset.folders.photos.resolution of less than 128" in found


@pytest.mark.parametrize(("free", "fits"), [(200, True), (128, True), (127, False)])
def test_seeds_that_run_at_once_share_what_is_free(
    checked: params.Params, monkeypatch: pytest.MonkeyPatch, *, free: int, fits: bool
) -> None:
    """A step takes 64 bytes; two seeds run at once."""
    monkeypatch.setattr(memory, "needs", lambda *_: [Need("autoencoder", 64, 0, 1)])
    monkeypatch.setattr(devices, "free_memory", lambda: free)
    monkeypatch.setattr(devices, "chosen", lambda: "cpu")
    monkeypatch.setenv(resources.CPUS, "2")
    if fits:
        memory.check_all(checked)
    else:
        with pytest.raises(UserError, match=r"variants\.vqvae: a training step"):
            memory.check_all(checked)
    monkeypatch.setenv(resources.CPUS, "1")
    memory.check_all(checked)


def test_a_training_goes_by_what_was_free_before_the_first_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_memory", lambda: 100)
    for told, share in (("", 100), ("40", 40)):
        monkeypatch.setenv(devices.FREE, told)
        assert devices.share(CPU) == share


def test_entries_that_are_too_large_are_told_before_an_image_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a warning, since another machine may do the training."""
    monkeypatch.chdir(tmp_path)
    content = with_value("dataset.name", "digits")
    checked = params.check(content)
    monkeypatch.setattr(devices, "free_memory", lambda: 2**23)
    download.work(checked, {})
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("warning: variants.")
    assert "a training step of its" in first


def test_no_training_begins_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "params.yaml", "pipeline", "src", "requirements.lock"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    sources.main()
    checked = params.check(with_value("training.steps", 1))
    for split in ("train", "validation"):
        arrays.write(paths.images(paths.CLEAN, split), (4, 1, 28, 28), [np.zeros((4, 1, 28, 28), np.uint8)])
        arrays.write(paths.labels(split), (4,), [np.zeros(4)])
        disk.seal(paths.CLEAN / split)
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)  # a training sets its own folder
    began: list[int] = []
    monkeypatch.setattr(train, "train", lambda *_, **__: began.append(1))
    monkeypatch.setattr(devices, "free_memory", lambda: 2**20)
    monkeypatch.setenv(devices.FREE, "")
    with pytest.raises(
        UserError, match=r"variants\.ae: a training step of its autoencoder takes about .* with 4 images"
    ):
        train.train_seed(checked, "ae", 0)
    assert not began
