"""The command line `aelab`: files, messages and exit codes."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from aelab.core.tensors import as_float
from aelab.inference.tasks import as_bytes
from aelab.models import checkpoint
from tests.inference.conftest import Call, pixels
from tests.support.toys import squares


def expected(variant: str, models: Path, count: int = 3) -> Any:
    with torch.no_grad():
        model = checkpoint.load(models / variant / "seed0.safetensors")
        return as_bytes(model.reconstruct(as_float(squares()[:count])))


def test_a_folder_is_reconstructed(call: Call, models: Path) -> None:
    code, out, err = call("reconstruct", "digits", "out", "--model", "models/vae")
    assert (code, out) == (0, "")
    assert err.splitlines() == ["model: models/vae/seed0.safetensors", "written: out/0.png and 2 more"]
    for i, image in enumerate(expected("vae", models)):
        np.testing.assert_array_equal(pixels(f"out/{i}.png"), image[0])


def test_quiet_is_quiet(call: Call) -> None:
    assert call("reconstruct", "digits/0.png", "a.png", "-m", "models/vae", "--quiet") == (0, "", "")


def test_the_environment_may_name_the_model(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AELAB_MODEL", "models/ae")
    assert call("reconstruct", "digits/0.png", "a.png")[0] == 0


def test_a_bad_image_is_told_and_the_rest_goes_on(call: Call, here: Path, models: Path) -> None:
    (here / "digits/1.png").write_text("hello")
    code, _, err = call("reconstruct", "digits", "out", "-m", "models/ae")
    assert code == 1
    assert "1.png is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one" in err
    assert "1 of 3 images were left out" in err
    assert sorted(path.name for path in (here / "out").iterdir()) == ["0.png", "2.png"]
    np.testing.assert_array_equal(pixels("out/2.png"), expected("ae", models)[2][0])
    code, _, err = call("encode", "digits", "codes.csv", "-m", "models/ae")
    assert code == 1
    assert list(pd.read_csv("codes.csv")["image"]) == ["0.png", "2.png"]


def test_what_is_no_image_beside_images_is_told_and_harms_nothing(call: Call, here: Path) -> None:
    for name in ("labels.csv", "README", "Thumbs.db", "digits.json"):
        (here / "digits" / name).write_text("no image")
    (here / "digits/more").symlink_to("..")
    code, _, err = call("reconstruct", "digits", "out", "-m", "models/ae")
    assert code == 0
    for name in ("labels.csv is", "README is", "digits.json is", "more is a link to a folder"):
        assert name in err
    assert "Thumbs.db" not in err
    assert "left out" not in err
    assert sorted(path.name for path in (here / "out").iterdir()) == ["0.png", "1.png", "2.png"]
    assert call("reconstruct", "digits", "again", "-m", "models/ae", "--quiet") == (0, "", "")


@pytest.mark.parametrize("source", ["texts", "texts/a.txt"])
def test_nothing_but_what_is_no_image_is_a_failure(source: str, call: Call, here: Path) -> None:
    (here / "texts").mkdir()
    for name in ("a.txt", "b.txt", "c.txt"):
        (here / "texts" / name).write_text("no image")
    code, _, err = call("encode", source, "codes.csv", "-m", "models/ae")
    assert (code, "a.txt is not a PNG" in err) == (1, True)


@pytest.mark.parametrize("command", ["reconstruct", "denoise", "encode"])
def test_12_bits_are_read_as_they_are_meant(command: str, call: Call, here: Path) -> None:
    suffix = "csv" if command == "encode" else "png"
    Image.fromarray(squares()[0, 0]).save(here / "eight.png")
    Image.fromarray(np.rint(squares()[0, 0] * (4095 / 255)).astype(np.uint16)).save(here / "twelve.png")
    for name, options in (("eight", ()), ("dark", ()), ("twelve", ("--bits", 12))):
        source = "eight.png" if name == "eight" else "twelve.png"
        code, _, err = call(command, source, f"out-{name}.{suffix}", "-m", "models/dae", *options)
        assert code == 0
        assert ("is dark" in err and "set --bits to 12" in err) == (name == "dark")
    content = {name: (here / f"out-{name}.{suffix}").read_bytes() for name in ("eight", "dark", "twelve")}
    assert content["twelve"].replace(b"twelve", b"eight") == content["eight"] != content["dark"]


def test_frames_between_images_of_12_bits(call: Call, here: Path) -> None:
    for number in range(2):
        values = np.rint(squares()[number, 0] * (4095 / 255)).astype(np.uint16)
        Image.fromarray(values).save(here / f"{number}.png")
    eight = ("interpolate", "digits/0.png", "digits/1.png", "a.png", "-m", "models/vae")
    twelve = ("interpolate", "0.png", "1.png", "b.png", "-m", "models/vae", "--bits", 12)
    assert (call(*eight)[0], call(*twelve)[0]) == (0, 0)
    np.testing.assert_array_equal(pixels("a.png"), pixels("b.png"))


def test_nothing_is_replaced_without_force(call: Call, here: Path) -> None:
    (here / "a.png").write_text("mine")
    for arguments in (
        ("reconstruct", "digits/0.png", "a.png", "-m", "models/vae"),
        ("sample", "a.png", "-m", "models/vae"),
        ("interpolate", "digits/0.png", "digits/1.png", "a.png", "-m", "models/vae"),
    ):
        code, _, err = call(*arguments)
        assert (code, "use --force to allow this" in err) == (1, True)
        assert (here / "a.png").read_text() == "mine"
    assert call("sample", "a.png", "-m", "models/vae", "--force")[0] == 0
    assert pixels("a.png").shape == (32, 32)


def test_another_size_is_brought_to_the_models(call: Call, here: Path) -> None:
    Image.new("RGB", (40, 20), "white").save(here / "wide.png")
    assert call("reconstruct", "wide.png", "a.png", "-m", "models/ae", "--fit", "pad")[0] == 0
    assert pixels("a.png").shape == (8, 8)
    code, _, err = call("reconstruct", "wide.png", "b.png", "-m", "models/ae", "--fit", "exact")
    assert (code, (here / "b.png").exists()) == (1, False)
    assert "wide.png is 40×20 pixels, the model takes 8×8" in err


def test_denoising_with_a_model_that_knows_no_noise_is_warned_of(call: Call) -> None:
    code, _, err = call("denoise", "digits/0.png", "a.png", "-m", "models/ae")
    assert (code, "warning: models of this kind learn from clean images only" in err) == (0, True)
    code, _, err = call("denoise", "digits/0.png", "b.png", "-m", "models/dae")
    assert (code, "warning" in err) == (0, False)


@pytest.mark.parametrize(("variant", "column"), [("vae", "z3"), ("vqvae", "k3")])
def test_codes_as_a_table(variant: str, column: str, call: Call) -> None:
    assert call("encode", "digits", "codes.parquet", "-m", f"models/{variant}")[0] == 0
    table = pd.read_parquet("codes.parquet")
    assert (len(table), table.columns[-1]) == (3, column)
    code, out, _ = call("encode", "digits", "-", "-m", f"models/{variant}")
    assert code == 0
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(out)), table, check_dtype=False, rtol=1e-6)


def test_samples_are_those_of_the_seed(call: Call) -> None:
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert call("sample", out, "-n", 3, "--seed", seed, "-m", "models/vae")[0] == 0
    first, again, other = ([pixels(f"{out}/{i}.png") for i in range(3)] for out in "abc")
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    code, _, err = call("sample", "d.png", "-m", "models/ae")
    assert (code, "cannot sample: the code is a point" in err) == (1, True)


def test_an_interpolation_leads_from_one_image_to_the_other(call: Call, models: Path) -> None:
    assert call("interpolate", "digits/0.png", "digits/2.png", "strip.png", "--steps", 7, "-m", "models/ae")[0] == 0
    assert call("interpolate", "digits/0.png", "digits/2.png", "frames", "--steps", 7, "-m", "models/ae")[0] == 0
    ends = expected("ae", models)[[0, 2], 0]
    strip = pixels("strip.png")
    assert strip.shape == (8, 56)
    np.testing.assert_allclose(strip[:, :8], ends[0], atol=1)
    np.testing.assert_allclose(pixels("frames/6.png"), ends[1], atol=1)
    code, _, err = call("interpolate", "digits/0.png", "none.png", "x.png", "-m", "models/ae")
    assert (code, "none.png cannot be read" in err) == (1, True)


def test_export(call: Call) -> None:
    pytest.importorskip("onnxruntime")
    code, out, err = call("export", "models/ae", "ae.onnx", "--part", "encode")
    assert (code, out) == (0, "")
    assert "at batches of 1, 2, 3, 17: the largest difference is" in err
    assert call("export", "models/ae", "ae.onnx")[0] == 1
    assert call("export", "models/ae", "ae.bin")[0] == 2


def test_pipes(here: Path, models: Path) -> None:
    """A new process reads an image from a pipe, and writes the reconstruction to a pipe."""
    command = [sys.executable, "-m", "aelab.inference.cli", "reconstruct", "-", "-", "-m", "models/ae", "-q"]
    image = (here / "digits/0.png").read_bytes()
    done = subprocess.run(command, input=image, capture_output=True, check=True)
    assert done.stderr == b""
    np.testing.assert_allclose(pixels(io.BytesIO(done.stdout)), expected("ae", models)[0][0], atol=1)  # type: ignore[arg-type]


def test_what_comes_through_a_pipe_may_be_damaged(call: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = (here / "digits/0.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(image[:40])))
    code, out, err = call("reconstruct", "-", "-", "-m", "models/ae", "-q")
    assert (code, out) == (1, "")
    assert err == "aelab: stdin is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("reconstruct", "digits/0.png"), "Missing argument 'OUT'"),
        (("reconstruct", "digits/0.png", "a.png"), "Missing option '--model'"),
        (("reconstruct", "digits", "-", "-m", "models/ae"), "name a folder"),
        (("encode", "digits", "codes.txt", "-m", "models/ae"), "codes.txt ends in neither"),
        (("sample", "a.png", "-m", "models/vae", "-n", "0"), "greater than or equal to 1"),
        (("interpolate", "a", "b", "c.png", "-m", "models/vae", "--steps", "1"), "greater than or equal to 2"),
        (("reconstruct", "a", "b.png", "-m", "models/vae", "--fit", "zoom"), "'zoom'"),
        (("reconstruct", "a", "b.png", "-m", "models/vae", "--bits", "17"), "less than or equal to 16"),
        (("encode", "a", "b.csv", "-m", "models/vae", "--bits", "7"), "greater than or equal to 8"),
        (("paint",), "No such command 'paint'"),
    ],
)
def test_a_wrong_call_ends_with_2(arguments: tuple[str, ...], problem: str, call: Call) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert problem in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("reconstruct", "none.png", "a.png", "-m", "models/ae"), "none.png cannot be read (No such file"),
        (("reconstruct", "digits/0.png", "a.jpg", "-m", "models/ae"), "a.jpg does not end in .png"),
        (("reconstruct", "digits/0.png", "a.png", "-m", "none"), "there is no model none"),
        (("reconstruct", "digits/0.png", "a.png", "-m", "digits/0.png"), "is not a trained model of this project"),
        (("reconstruct", "digits/0.png", "digits/0.png/a.png", "-m", "models/ae"), "digits/0.png: File exists"),
    ],
)
def test_what_can_be_mended_is_one_sentence(arguments: tuple[str, ...], problem: str, call: Call) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    assert problem in err
    assert "Traceback" not in err


def told(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process, which exits with 3 if the command imported torch."""
    script = (
        "import sys; from aelab.inference import cli\ntry: cli.main()\nfinally: 'torch' in sys.modules and sys.exit(3)"
    )
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


COMMANDS = ["reconstruct", "denoise", "encode", "sample", "interpolate", "export"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(command: str, call: Call) -> None:
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    assert f"  aelab {command}" in out.partition("Examples:")[2]


def test_help_is_quick() -> None:
    """The help of no command imports torch."""
    script = """
import contextlib, sys
from aelab.inference import cli
for command in sys.argv[1:]:
    with contextlib.suppress(SystemExit):
        cli.main([command, "--help"])
sys.exit(3 if "torch" in sys.modules else 0)
"""
    done = subprocess.run([sys.executable, "-c", script, *COMMANDS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage: aelab") == len(COMMANDS)


def test_nothing_is_coloured() -> None:
    assert "\x1b" not in told("--help", FORCE_COLOR="1").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    instruction = {"_AELAB_COMPLETE": f"complete_{shell}", "COMP_WORDS": "aelab re", "COMP_CWORD": "1"}
    done = told(**instruction, _TYPER_COMPLETE_ARGS="aelab re", _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert "reconstruct" in done.stdout
    assert done.returncode == 0


def test_a_card_is_made_in_the_folder_of_a_project_and_replaces_nothing(call: Call, here: Path) -> None:
    code, out, err = call("card", "--model", "vae")
    assert (code, out) == (1, "")
    assert "aelab: a card needs the results of a project: run the command in the folder that has params.yaml" in err
    (here / "card.md").write_text("mine")
    assert call("card", "--model", "vae", "card.md")[0] == 1
    assert (here / "card.md").read_text() == "mine"
