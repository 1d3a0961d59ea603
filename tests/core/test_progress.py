import itertools

import pytest

from aelab.core import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock finds it 4 seconds later."""
    times = itertools.count(step=4.0)
    monkeypatch.setattr("aelab.core.progress.time.monotonic", lambda: next(times))


@pytest.mark.usefixtures("clock")
def test_long_work_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.part("vae-seed0"), progress.part("samples"):
        assert list(progress.counted(range(8))) == list(range(8))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "vae-seed0: samples: 25%, 36 s left",
        "vae-seed0: samples: 62%, 14 s left",
    ]


@pytest.mark.usefixtures("clock")
def test_work_without_a_name_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.part("vae-seed0"):
        pass
    assert len(list(progress.counted("abcdefgh"))) == 8
    assert not capsys.readouterr().out


def test_short_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.part("samples"):
        assert len(list(progress.counted("ab"))) == 2
    assert not capsys.readouterr().out
