"""A small part of the fault suite, and tests that the suite fails if the code that protects the pipeline is missing.

`python -m faults` runs the whole suite.
"""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aelab.core import disk
from aelab.models import checkpoint
from aelab.training import snapshots
from aelab.training.state import Snapshot
from faults import files, hostile, parameters
from faults.table import Counts
from pipeline.common import params
from pipeline.reporting import ui
from tests.support.processes import PATIENCE
from tests.support.project import REPOSITORY

Family = Callable[[Path, int, int], Iterator[Counts]]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the pipeline `PATIENCE` seconds to refuse a malicious file; only the full suite uses the limit `SECONDS`."""
    monkeypatch.setattr(hostile, "SECONDS", PATIENCE)


@pytest.mark.parametrize(
    ("family", "count"), [(files.flips, 60), (files.writes, 3), (parameters.fuzz, 150), (hostile.attacks, 1)]
)
def test_a_part_of_every_family_that_is_quick(family: Family, count: int, tmp_path: Path) -> None:
    rows = list(family(tmp_path, 7, count))
    assert rows
    for row in rows:
        assert row.tried == row.full
        assert not row.broken


def test_without_hashes_changed_data_goes_unnoticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "digest", lambda _: "the same")
    found = {row.fault: row for row in files.flips(tmp_path, 0, 20)}
    assert found["byte flipped or file truncated: data between stages"].broken


def test_with_one_checkpoint_written_in_place_a_kill_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that no checkpoint loads if writes are not atomic and a kill truncates the file.

    This shows that the checkpoints in `files.writes` load because writes are atomic.
    """
    monkeypatch.setattr("aelab.core.tensor_file.write_atomically", lambda path, content: path.write_bytes(content[:-9]))
    keeper = snapshots.Snapshots(tmp_path)
    tmp_path.mkdir(exist_ok=True)
    for _ in range(2):
        keeper.keep(Snapshot({}, {"step": 1}))
    assert keeper.latest() is None


def test_a_sentence_on_two_lines_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    content = parameters.DEFAULT | {"training": parameters.DEFAULT["training"] | {"a\nb": 1}}
    assert parameters.outcome(content, set())[0]
    monkeypatch.setattr(params, "_printable", lambda text: text)
    assert not parameters.outcome(content, set())[0]


def test_a_traceback_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr(params, "check", crash)
    assert not parameters.outcome(parameters.DEFAULT, set())[0]


def test_code_that_runs_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "load", lambda path: pickle.loads(path.read_bytes()))  # noqa: S301 - the attack
    (row,) = hostile.attacks(tmp_path, 0, 1, only="a_model")
    assert any("a_model_that_is_a_pickle" in each for each in row.broken)
    assert not list(tmp_path.rglob("pwned"))


# The only code that may name cloudpickle: Dask sends functions to the workers of a cluster as pickles.
SENT = ("import cloudpickle\n", "cloudpickle.register_pickle_by_value(worker)")


def test_nothing_in_the_project_loads_a_pickle() -> None:
    forbidden = (
        "pickle.load",
        "torch.load",
        "allow_pickle=True",
        "joblib",
        "cloudpickle",
        "dill",
        "yaml.load(",
        "shelve",
    )
    for folder in ("src", "pipeline", "benchmarks"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for sent in SENT:
                text = text.replace(sent, "", 1)
            assert not [word for word in forbidden if word in text], path


def test_the_ui_listens_on_loopback_alone() -> None:
    words = list(ui.COMMAND)
    assert words[words.index("--host") + 1] == "127.0.0.1"
