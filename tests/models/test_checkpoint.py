import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aelab.core.errors import UserError
from aelab.models import checkpoint
from aelab.models.base import VARIANTS
from tests.support.toys import IMAGE, PARAMETERS


@pytest.mark.parametrize("name", VARIANTS.available())
def test_a_loaded_model_is_the_saved_one(name: str, x: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = checkpoint.build(name, IMAGE, PARAMETERS[name])
    checkpoint.save(model, tmp_path / "model.safetensors")
    loaded = checkpoint.load(tmp_path / "model.safetensors")
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert torch.equal(loaded.reconstruct(x), model.eval().reconstruct(x))


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.manual_seed(0)
        model = checkpoint.build("vae", IMAGE, PARAMETERS["vae"])
        checkpoint.save(model, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Attack:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, pickle.dumps(Attack())])
def test_what_is_no_model_is_refused_and_never_run(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is not a trained model"):
        checkpoint.load(tmp_path / "model.safetensors")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"autoencoder": "no json"},
        {"autoencoder": json.dumps({"variant": "os", "image": [1, 8, 8], "parameters": {}})},
        {
            "autoencoder": json.dumps(
                {
                    "variant": "ae",
                    "image": [1, 8, 8],
                    "parameters": {"network": {"name": "patches", "width": 9}, "code": 4},
                }
            )
        },
        {"autoencoder": json.dumps({"variant": "ae", "image": [1, 8, 8], "parameters": {"unknown": 1}})},
    ],
)
def test_a_wrong_header_is_refused(header: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(checkpoint.build("ae", IMAGE, PARAMETERS["ae"]), path)
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(UserError, match="is not a trained model"):
        checkpoint.load(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(checkpoint.build("ae", IMAGE, PARAMETERS["ae"]), path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is not a trained model"):
        checkpoint.load(path)
