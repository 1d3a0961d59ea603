"""Every verdict comes out of the data: the same claim is supported, contradicted, undecided and not measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from autoencoders import claims, metrics
from autoencoders.claims import noises
from autoencoders.evidence import Claim, Entry, Evidence, Verdict
from autoencoders.metrics import METRICS, Metric

SUPPORTED, CONTRADICTED, UNDECIDED = Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.UNDECIDED
MIXED, UNMEASURED = Verdict.MIXED, Verdict.UNMEASURED
AE = Entry("one", parameters={"inputs": "clean", "code": 10})
DAE = Entry("two", parameters={"inputs": "noisy", "code": 10}, noise=["masking"])
VAE = Entry("three", "binary", {"inputs": "clean", "code": 10, "beta": 1.0})
VQVAE = Entry("four", "binary", {"inputs": "clean", "quantizer.codes": 100, "quantizer.name": "codebook"})
EMA = Entry("five", "binary", {"inputs": "clean", "quantizer.codes": 100, "quantizer.name": "ema"})
SPREAD = (-1.0, 0.0, 1.5)  # of the seeds


def evidence(values: Mapping[Entry, Mapping[str, float]], spread: float = 1e-3, seeds: int = 3) -> Evidence:
    """Metrics about these values; `spread` is a share of them, and no two entries have the same."""
    rows = [
        {"entry": entry.name, "seed": seed}
        | {
            name: value * (1 + spread * (i + 1) * (-1) ** i * SPREAD[(seed + i) % len(SPREAD)])
            for name, value in of.items()
        }
        for i, (entry, of) in enumerate(values.items())
        for seed in range(seeds)
    ]
    return Evidence(list(values), pd.DataFrame(rows))


@pytest.fixture(autouse=True)
def _defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics of each list that claims ask for, whatever the lists hold."""
    lists: dict[str, dict[str, Any]] = {
        "IDENTITY": {"identity_x": "lower", "unlike_x_mse": None},
        "GEOMETRY": {"jump_x": "lower", "dial_x": "higher"},
        "REPRESENTATION": {"probe_x": "higher"},
        "SAMPLES": {"frechet_x": "lower"},
    }
    for which, names in lists.items():
        monkeypatch.setattr(metrics, which, tuple(names))
        for name, better in names.items():
            monkeypatch.setitem(METRICS, name, Metric(name, "", 3, better))


TRAINED: dict[str, float] = {"mse": 1.0}
CASES: list[tuple[Callable[[Evidence], Claim], dict[Entry, dict[str, float]], dict[Entry, dict[str, float]]]] = [
    (
        claims.identity,
        {AE: {"denoising_mse": 2, "copying_mse": 1, "identity_x": 0.9, "unlike_x_mse": 0.1}},
        {AE: {"denoising_mse": 1, "copying_mse": 2, "identity_x": 0.1}},
    ),
    (claims.memory, {AE: {"generalisation": 1.2}}, {AE: {"generalisation": 1.01}}),
    (
        claims.denoising,
        {
            AE: {"mse": 1, "denoising_masking-0.5": 3, "identity_x": 0.9},
            DAE: {"mse": 2, "denoising_masking-0.5": 2, "denoising_mse": 2, "copying_mse": 3, "identity_x": 0.1},
        },
        {
            AE: {"mse": 1, "denoising_masking-0.5": 2, "identity_x": 0.1},
            DAE: {"mse": 2, "denoising_masking-0.5": 3, "denoising_mse": 3, "copying_mse": 2, "identity_x": 0.9},
        },
    ),
    (
        claims.representation,
        {AE: {"probe_x": 0.8}, DAE: {"probe_x": 0.9}},
        {AE: {"probe_x": 0.9}, DAE: {"probe_x": 0.8}},
    ),
    (
        claims.dial,
        {AE: TRAINED | {"jump_x": 3, "dial_x": 0.2}, VAE: TRAINED | {"jump_x": 2, "dial_x": 0.5}},
        {AE: TRAINED | {"jump_x": 2, "dial_x": 0.5}, VAE: TRAINED | {"jump_x": 3, "dial_x": 0.2}},
    ),
    (claims.bound, {VAE: {"neg_elbo": 100, "nll": 95}}, {VAE: {"neg_elbo": 95, "nll": 100}}),
    (
        claims.collapse,
        {VAE: {"active_units": 2, "latent_units": 10}, VQVAE: {"codes_used": 80}},
        {VAE: {"active_units": 2, "latent_units": 10}, VQVAE: {"codes_used": 20}},
    ),
    (claims.closeness, {VQVAE: {"code_distance": 0.05}}, {VQVAE: {"code_distance": 0.3}}),
    (
        claims.prior,
        {
            VAE: TRAINED | {"frechet_x": 9},
            VQVAE: TRAINED | {"codes_used": 9, "rate": 100, "rate_uniform": 300, "frechet_x": 5},
        },
        {
            VAE: TRAINED | {"frechet_x": 5},
            VQVAE: TRAINED | {"codes_used": 9, "rate": 300, "rate_uniform": 200, "frechet_x": 9},
        },
    ),
]
NAMES = [claim.__name__ for claim, *_ in CASES]


@pytest.mark.parametrize(("claim", "holds", "fails"), CASES, ids=NAMES)
def test_the_verdict_follows_the_data(
    claim: Callable[[Evidence], Claim], holds: dict[Entry, dict[str, float]], fails: dict[Entry, dict[str, float]]
) -> None:
    assert claim(evidence(holds)).verdict is SUPPORTED
    assert claim(evidence(fails)).verdict is CONTRADICTED
    assert claim(evidence(holds)).label == "supported"


@pytest.mark.parametrize(("claim", "holds", "_"), CASES, ids=NAMES)
def test_seeds_that_disagree_decide_nothing(
    claim: Callable[[Evidence], Claim], holds: dict[Entry, dict[str, float]], _: Any
) -> None:
    assert claim(evidence(holds, spread=0.9)).verdict is UNDECIDED


@pytest.mark.parametrize(("claim", "holds", "_"), CASES, ids=NAMES)
def test_one_seed_decides_nothing_and_says_why(
    claim: Callable[[Evidence], Claim], holds: dict[Entry, dict[str, float]], _: Any
) -> None:
    found = claim(evidence(holds, seeds=1))
    assert found.verdict is UNDECIDED
    assert any("fewer than two seeds give no interval" in finding.text for finding in found.findings)


@pytest.mark.parametrize("nothing", [[], [AE], [AE, DAE, VAE, VQVAE]])
def test_what_was_not_measured_is_said_to_be(nothing: Sequence[Entry]) -> None:
    """As where all seeds diverged."""
    found = claims.claims(Evidence(nothing, pd.DataFrame(columns=["entry", "seed", "pixels", "mse"])))
    assert {claim.verdict for claim in found} == {UNMEASURED}
    assert all(claim.findings and claim.findings[0].text.endswith(".") for claim in found)
    assert len({claim.key for claim in found}) == len(found) == len(CASES) + 1


def test_a_part_that_was_not_measured_is_not_passed_over() -> None:
    found = claims.identity(evidence({AE: {"denoising_mse": 2, "copying_mse": 1}}))
    assert found.verdict is SUPPORTED
    assert found.label == "supported, as far as measured"


def test_who_is_plain_is_told_by_what_it_learned_not_by_its_name() -> None:
    """Regularised autoencoders minimise more than the error, and their curves name it."""
    point = {"phase": "autoencoder", "step": 1, "time": 0.0, "train_loss": 1.0, "train_mse": 1.0}
    assert replace(AE, name="anything", curves=[[point]]).plain
    assert not replace(AE, curves=[[point | {"train_size": 1.0}]]).plain
    assert not DAE.plain
    assert not VAE.plain


def test_memory_is_read_off_the_curves_too() -> None:
    def curve(ratios: Sequence[float]) -> list[dict[str, Any]]:
        training = {"phase": "autoencoder", "time": 0.0, "train_loss": 10.0}
        return [
            training | {"step": step} | ({"validation_loss": 10 * ratio} if half else {})
            for step, ratio in enumerate(ratios)
            for half in (False, True)
        ]

    entry = replace(AE, curves=[curve([1.0, 1.0, 1.1, 1.3 + seed / 100]) for seed in range(3)])
    found = claims.memory(evidence({entry: {"generalisation": 1.2}}))
    assert found.verdict is SUPPORTED
    assert "31.0 ± 2.5 % above the training loss; their ratio rose" in found.findings[1].text
    assert claims.gap(entry.curves[0]) == [(0, 1.0), (1, 1.0), (2, pytest.approx(1.1)), (3, pytest.approx(1.3))]


def test_denoising_is_judged_at_every_level_of_every_kind() -> None:
    values = {
        AE: {"mse": 1, "denoising_masking-0.25": 3, "denoising_masking-0.75": 9, "denoising_gaussian-0.3": 1},
        DAE: {"mse": 2, "denoising_masking-0.25": 2, "denoising_masking-0.75": 2, "denoising_gaussian-0.3": 4},
    }
    found = claims.denoising(evidence(values))
    assert found.verdict is MIXED
    masking, gaussian = found.findings
    assert masking.verdict is SUPPORTED
    assert masking.text.startswith(
        "Masking at 0.25 and 0.75: two (learned from masking) is best; its lead is largest at 0.75: "
    )
    assert gaussian.verdict is CONTRADICTED
    assert gaussian.text.startswith("Gaussian at 0.3: one (learned from clean images) is best, ")
    assert noises(evidence(values).results)["masking"] == [
        (0.0, "mse"), (0.25, "denoising_masking-0.25"), (0.75, "denoising_masking-0.75"),
    ]  # fmt: skip


def test_seeds_that_diverged_pair_nowhere() -> None:
    whole = evidence({AE: {"probe_x": 0.8}, DAE: {"probe_x": 0.9}})
    entry, seed = whole.results["entry"], whole.results["seed"]
    apart = whole.results[((entry == "one") & (seed == 0)) | ((entry == "two") & (seed > 0))]
    assert claims.representation(whole).verdict is SUPPORTED
    assert claims.representation(Evidence(whole.entries, apart)).verdict is UNDECIDED


def test_a_bound_within_its_monte_carlo_error_is_undecided() -> None:
    values = {"neg_elbo": 100.0, "nll": 99.5}
    assert claims.bound(evidence({VAE: values}, spread=0)).verdict is SUPPORTED
    noisy = values | {"neg_elbo_error": 0.3, "nll_error": 0.3}
    assert claims.bound(evidence({VAE: noisy}, spread=0)).verdict is UNDECIDED
    one = claims.bound(evidence({VAE: noisy | {"nll": 90.0}}, seeds=1))
    assert one.verdict is SUPPORTED  # the noise of one seed has an error of its own
    assert "9.99 ± 0.83 nats" in one.findings[0].text


def test_where_nothing_collapsed_there_was_nothing_to_avoid() -> None:
    found = claims.collapse(evidence({VAE: {"active_units": 9, "latent_units": 10}, VQVAE: {"codes_used": 80}}))
    assert found.verdict is UNDECIDED
    assert found.findings[-1].text.endswith("there was nothing to avoid.")
    assert claims.collapse(evidence({VAE: {"active_units": 9, "latent_units": 10}})).verdict is UNMEASURED


@pytest.mark.parametrize(
    ("keys", "size"),
    [
        ({"code": 32}, 0),
        ({"quantizer.codes": 512}, 512),
        ({"quantizer.codes": 64, "quantizer.depth": 4}, 256),
        ({"quantizer.levels": [8, 5, 5]}, 200),
        ({}, 0),
    ],
)
def test_the_size_of_a_code_is_read_off_the_parameters(keys: dict[str, Any], size: int) -> None:
    assert claims.code_size(Entry("a", parameters=keys)) == size


def test_quantisers_are_compared_where_nothing_else_differs() -> None:
    used = {VQVAE: {"codes_used": 60.0, "psnr": 20.0}, EMA: {"codes_used": 90.0, "psnr": 20.0}}
    codes, perplexity, psnr = claims.quantisers(evidence(used, spread=1e-2)).findings
    assert codes.verdict is SUPPORTED
    assert "five is above all others" in codes.text
    assert perplexity.verdict is UNMEASURED
    assert psnr.verdict is UNDECIDED
    assert "cannot be told apart" in psnr.text
    wider = replace(EMA, parameters={**EMA.parameters, "network.width": 128})
    found = claims.quantisers(evidence({VQVAE: used[VQVAE], wider: used[EMA]}))
    assert found.verdict is UNMEASURED
    assert "make recipe NAME=fashion-codes" in found.findings[0].text


def test_a_denoiser_with_the_worse_code_is_not_hidden_by_a_better_one() -> None:
    mixed = replace(DAE, name="six")
    found = claims.representation(evidence({AE: {"probe_x": 0.85}, DAE: {"probe_x": 0.8}, mixed: {"probe_x": 0.9}}))
    assert [finding.verdict for finding in found.findings] == [CONTRADICTED, SUPPORTED]
    assert found.verdict is MIXED
