import gc
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray

from aelab.core import devices
from tests.support.toys import squares

devices.prepare("cpu", threads=1)

LONG_UNITS = {
    f"tests/{name}.py"
    for name in (
        "core/test_process_group",
        "inference/test_mlflow_store",
        "inference/test_onnx",
        "pipeline/test_overrides",
        "pipeline/test_stage",
        "report/test_mlflow_writer",
        "test_notebook",
        "training/test_meta",
    )
}
LONGEST = (
    "changes", "cluster", "experiments", "interruptions", "recipes", "contributing", "own_images", "ways", "ranks",
    "failures", "docs",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first, so that no core waits for one at the end."""
    order = {f"tests/system/test_{name}.py": place for place, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        others = 0 if file.startswith("tests/system/") else 1 if file in LONG_UNITS else 2
        return order.get(file, len(order) + others)

    items.sort(key=place)


def pytest_sessionfinish() -> None:
    """Unfreeze the objects that stages have frozen in this process: Triton counts the objects left at the end."""
    gc.unfreeze()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return squares()


@pytest.fixture
def x(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(pixels).float() / 255


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a database with MLflow's tables once for all workers, since that takes seconds."""
    from mlflow import MlflowClient  # noqa: PLC0415 - slow

    base = tmp_path_factory.getbasetemp()
    path = (base.parent if base.name.startswith("popen-") else base) / "empty.db"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(tmp_path: Path, empty: Path) -> str:
    """Return the address of an MLflow without runs."""
    shutil.copy(empty, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
