"""Fixtures for the tests of the command line: a folder with images and models, and a function that calls `aelab`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from PIL import Image

from aelab.core import devices
from aelab.inference import cli
from aelab.inference.image_files import png
from aelab.models import checkpoint
from tests.support.toys import squares, toy_model

Call: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for variant in ("ae", "dae", "vae", "vqvae"):
        checkpoint.save(toy_model(variant), root / variant / "seed0.safetensors")
    return root


@pytest.fixture
def here(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder with three images in digits/, and models of four variants in models/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    for i, image in enumerate(squares()[:3]):
        (tmp_path / f"digits/{i}.png").write_bytes(png(image))
    (tmp_path / "models").symlink_to(models)
    monkeypatch.setattr(devices, "prepare", lambda *_: torch.device("cpu"))  # the tests' process is prepared already
    return tmp_path


@pytest.fixture
def call(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:  # noqa: ARG001 - the fixture sets the current folder
    def called(*arguments: object) -> tuple[int, str, str]:
        """Call `aelab`, and return the exit code, the standard output and the standard error."""
        code: Any = 0
        try:
            cli.main([str(each) for each in arguments])
        except SystemExit as end:
            code = end.code
        out, err = (stream.decode(errors="replace") for stream in capfdbinary.readouterr())
        if isinstance(code, str):  # Python prints the text and exits with 1
            return 1, out, err + code
        return code or 0, out, err

    return called


def pixels(path: Path | str) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)
