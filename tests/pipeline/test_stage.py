import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from aelab.core import disk
from aelab.core.errors import UserError
from pipeline.common import stage
from pipeline.common.params import Params
from tests.support.project import REPOSITORY


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, a folder with valid parameters."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _raise(error: Exception) -> None:
    def work(_: Params, __: stage.Provenance) -> None:
        raise error

    stage.run(work, None)


def test_provenance_is_written_with_what_the_work_adds(folder: Path) -> None:
    def work(params: Params, provenance: stage.Provenance) -> None:
        provenance["seeds"] = params.seeds

    stage.run(work, folder / "provenance" / "stage.json")
    written = disk.read_json(folder / "provenance" / "stage.json")
    assert written["seeds"] == [0, 1, 2]
    assert written["seconds"] >= 0
    assert {"started", "commit", "uncommitted_changes", "experiment", "python", "packages"} <= written.keys()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("mend this"), "mend this"),
        (
            OSError(errno.ENOSPC, "No space left on device", "models/x"),
            "cannot write models/x: No space left on device",
        ),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x/y"), "cannot write x/y: Not a directory"),
        (OSError(errno.EROFS, "Read-only file system", "data"), "cannot write data: Read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", "data"), "cannot write data: Permission denied"),
        (SafetensorError("Error while serializing: I/O error: No space left"), "cannot write the results"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the GPU has too little memory: lower"),
        (RuntimeError("CUDA error: out of memory\nCompile with"), "the GPU has too little memory: lower"),
        (RuntimeError("CUDA error: no kernel image is available\nCompile"), "this torch has no kernels for the GPU"),
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "another process has the GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "the GPU has too little memory: lower"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB"), "the GPU has too little memory: lower"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(
    error: Exception, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        _raise(error)
    assert exit_.value.code == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith(sentence)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "No such file", "x")])
def test_a_bug_stays_a_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        _raise(error)


@pytest.mark.parametrize("package", ["pipeline", "src/aelab"])
def test_a_stage_runs_the_code_that_dvc_hashes_or_none(
    package: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / package).mkdir(parents=True)
    with pytest.raises(SystemExit):
        stage.run(lambda *_: pytest.fail("the stage ran"), None)
    said = capsys.readouterr().err
    assert f"DVC hashes the code in {folder / package}, but Python runs the code in {REPOSITORY / package}" in said


def test_bad_parameters_stop_before_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "params.yaml").write_text("dataset: 5\n")
    with pytest.raises(SystemExit):
        _raise(AssertionError("the work began"))
    assert "params.yaml: dataset is 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stages",
    [
        {
            "stages.download": {"torch", "mlflow", "pandas", "PIL"},
            "runner.repro": {"torch", "pandas", "matplotlib", "mlflow"},
            "stages.report": {"torch", "mlflow"},
        },
        {
            "stages.train": {"pandas", "matplotlib", "mlflow"},
            "stages.evaluate": {"sklearn.ensemble", "mlflow"},
        },
        {"reporting.track": {"torch", "matplotlib"}},
    ],
)
def test_a_stage_imports_what_it_uses(stages: dict[str, set[str]]) -> None:
    """Several stages share a process; the modules that a stage must not import are also forbidden to earlier stages."""
    script = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"pipeline.{name}")
    print(*sys.modules)
"""
    command = [sys.executable, "-c", script, *stages]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for (name, unused), imported in zip(stages.items(), done.stdout.splitlines(), strict=True):
        assert f"pipeline.{name}" in imported.split()
        assert not unused & set(imported.split())


def test_undefined_numbers_are_never_written(folder: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        disk.write_json(folder / "x.json", {"mse": float("nan")})
