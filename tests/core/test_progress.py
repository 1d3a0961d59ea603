import itertools

import pytest

from aelab.core import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clock that advances by 4 seconds at each reading."""
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
def test_what_comes_in_pieces_is_measured_by_their_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.part("copies"):
        assert list(progress.counted((piece for piece in ("aa", "aaaa", "a", "a")), 8, len)) == ["aa", "aaaa", "a", "a"]
    assert capsys.readouterr().out.splitlines() == ["copies: 75%, 4 s left"]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("count", "said"),
    [(100, "bound: about 800 s in all; a smaller evaluation.samples makes it cheaper"), (3, None), (2, None)],
)
def test_what_long_work_costs_is_said_at_once_and_once(
    count: int, said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.part("bound", "evaluation.samples"):
        steps = iter(progress.counted(range(count)))
        assert (next(steps), next(steps)) == (0, 1)
        assert capsys.readouterr().out.splitlines() == ([said] if said else [])
        assert len(list(steps)) == count - 2
    assert "in all" not in capsys.readouterr().out


@pytest.mark.usefixtures("clock")
def test_a_part_of_a_part_is_not_made_cheaper_by_the_same_key(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.part("noise", "evaluation.noisy_images"), progress.part("images"):
        assert len(list(progress.counted(range(20)))) == 20
    assert "cheaper" not in capsys.readouterr().out


@pytest.mark.usefixtures("clock")
def test_work_without_a_name_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.part("vae-seed0"):
        pass
    assert len(list(progress.counted("abcdefgh"))) == 8
    assert not capsys.readouterr().out


def test_short_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.part("samples", "evaluation.samples"):
        assert len(list(progress.counted("ab"))) == 2
    assert not capsys.readouterr().out
