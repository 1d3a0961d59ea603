import pytest

from aelab.report import marks
from aelab.report.evidence import Curve, Entry


def curve(*losses: float, phase: str = "autoencoder", every: int = 100) -> Curve:
    """Validations every `every` steps, and training losses, on which no mark may depend."""
    points = [{"phase": phase, "step": every * i, "validation_loss": loss} for i, loss in enumerate(losses, 1)]
    return [{"phase": phase, "step": 1, "train_loss": 9.0}, *points, {"phase": phase, "step": 1, "train_loss": 0.0}]


FLAT, FALLING = [10 - i for i in range(8)] + [2.0, 2.0], [10 - i for i in range(8)] + [2.05, 2.0]


@pytest.mark.parametrize(
    ("curves", "fall"),
    [
        ([curve(*FALLING)], 2.5),
        ([curve(*FLAT)], 0),
        ([curve(*FLAT[:-1], 2.009, 2.0)], 0),  # A fall of less than 0.5 %.
        ([curve(*FALLING), curve(*FLAT)], 1.25),  # Mean over the seeds.
        ([curve(*FALLING), curve(*FALLING[:-1], 2.06)], 0),  # One seed ended above its best.
        ([curve(3.0, 1.0, 1.1, 1.05)], 0),  # Lower before.
        ([curve(*[20 - i for i in range(20)], every=50)], 200),  # Two validations in the last tenth.
        ([curve(4.0, 2.0, every=500)], 20),  # One validation in five tenths: a fifth of the fall counts.
        ([curve(-90.0, -98.0, -99.0, -100.0)], 0.4),  # a density: log p(x) may be above 0
        ([curve(5.0)], 0),
        ([curve()], 0),
        ([], 0),
    ],
)  # fmt: skip
def test_who_is_still_falling_follows_from_the_curve_alone(curves: list[Curve], fall: float) -> None:
    found = marks.falls(curves)
    assert found == pytest.approx({"autoencoder": fall} if fall > marks.FALL else {})


def test_every_phase_has_an_end_of_its_own() -> None:
    both = [*curve(*FLAT), *curve(*FALLING, phase="prior")]
    assert marks.falls([both]) == pytest.approx({"prior": 2.5})
    assert marks.marks(Entry("a", curves=[both])) == [
        "validation loss of the prior still falling at the end: by 2.5 % over the last tenth"
    ]


@pytest.mark.parametrize(
    ("curves", "rise"),
    [
        ([curve(100.0, 90.0, 5e19)], 5e19 / 90),  # a training that blew up without a number that is not finite
        ([curve(100.0, 90.0, 180.0)], 2),
        ([curve(100.0, 90.0, 179.0)], 0),  # overfitting, a little
        ([curve(100.0, 90.0, 5e19, 80.0)], 0),  # a spike that the training recovered from
        ([curve(*FALLING), curve(3.0, 1.0, 4.0)], 4),  # one seed is enough
        ([curve(-90.0, -100.0, 50.0)], 0),  # a density has no such ratio
        ([curve()], 0),
        ([], 0),
    ],
)
def test_a_training_that_blew_up_is_marked(curves: list[Curve], rise: float) -> None:
    entry = Entry("a", curves=curves)
    assert marks.rises(curves) == pytest.approx({"autoencoder": rise} if rise else {})
    assert any("validation loss rose" in mark for mark in marks.marks(entry)) == bool(rise)
    assert marks.blown_up([entry]).startswith("The validation loss of `a` rose to at least 2 times" if rise else "")
    assert bool(marks.blown_up([entry])) == bool(rise)


def test_what_is_wrong_stands_beside_the_name_once() -> None:
    entries = [
        Entry("a", curves=[curve(*FALLING)], symptoms=["collapsed"] * 3, code_size="32 numbers", looks=1.66),
        Entry("b", curves=[curve(*FLAT)], code_size="49 codes of 512: 441 bits"),
        Entry("pca", floor=True),
    ]  # fmt: skip
    names = marks.names(entries)
    assert names["a"].marks == ["collapsed", "validation loss still falling at the end: by 2.5 % over the last tenth"]
    assert names["b"].marks == names["pca"].marks == []
    assert [names[each].size for each in names] == ["32 numbers, 1.7 looks", "49 codes of 512: 441 bits", ""]
    assert [each.floor for each in names.values()] == [False, False, True]


def test_a_sentence_names_all_who_are_still_falling() -> None:
    falling = [Entry(name, curves=[curve(*FALLING)]) for name in "abc"]
    rest = "over the last tenth of the steps. More steps would have lowered"
    assert marks.still_falling([Entry("x", curves=[curve(*FLAT)])]) == ""
    one = f"The validation loss of `a` was still falling at the end: by 2.5 % {rest} it further."
    assert marks.still_falling(falling[:1]) == one
    said = marks.still_falling(falling)
    assert said.startswith(
        "The validation losses of `a`, `b` and `c` were still falling at the end: by 2.5, 2.5 and 2.5 %"
    )
