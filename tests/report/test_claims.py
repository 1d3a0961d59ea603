"""Every verdict comes out of the data: the same claim is supported, contradicted, undecided and not measured."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from aelab.report.claims import CLAIMS
from aelab.report.evidence import Entry, Evidence, loss_ratios, noise_levels
from aelab.report.metrics import METRICS
from aelab.report.verdicts import Judgement, Threshold, Verdict, judge

SUPPORTED, CONTRADICTED, UNDECIDED = Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.UNDECIDED
MIXED, UNMEASURED = Verdict.MIXED, Verdict.UNMEASURED
AE = Entry("one", parameters={"inputs": "clean", "code": 10})
DAE = Entry("two", parameters={"inputs": "noisy", "code": 10})
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


def judged(key: str, found: Evidence) -> Judgement:
    return judge(next(claim for claim in CLAIMS if claim.key == key), found)


def curve(*ratios: float) -> list[dict[str, Any]]:
    """Validation ÷ training loss, one validation at a step."""
    training = {"phase": "autoencoder", "time": 0.0, "train_loss": 10.0}
    return [
        training | {"step": step} | ({"validation_loss": 10 * ratio} if half else {})
        for step, ratio in enumerate(ratios)
        for half in (False, True)
    ]


def copied(share: float) -> dict[str, float]:
    return {"identity_noise": share, "identity_photographs": share}


def learned(entry: Entry, *last: float) -> Entry:
    return replace(entry, curves=[curve(1.0, each) for each in last])


LEVEL = "denoising_masking-0.5"
SAMPLED = {"frechet": 9.0, "sample_precision": 0.5, "sample_recall": 0.5}
WORSE = {"frechet": 12.0, "sample_precision": 0.4, "sample_recall": 0.4}
CASES: dict[str, tuple[dict[Entry, dict[str, float]], dict[Entry, dict[str, float]]]] = {
    "identity": (
        {AE: {"denoising_mse": 2, "copying_mse": 1} | copied(0.9)},
        {AE: {"denoising_mse": 1, "copying_mse": 2} | copied(0.1)},
    ),
    "memory": (
        {learned(AE, 1.2, 1.21, 1.22): {"generalisation": 1.2}},
        {learned(AE, 1.0, 1.01, 1.02): {"generalisation": 1.01}},
    ),
    "denoising": (
        {
            AE: {"mse": 1, LEVEL: 3} | copied(0.9),
            DAE: {"mse": 2, LEVEL: 2, "denoising_mse": 2, "copying_mse": 3} | copied(0.1),
        },
        {
            AE: {"mse": 1, LEVEL: 2} | copied(0.1),
            DAE: {"mse": 2, LEVEL: 3, "denoising_mse": 3, "copying_mse": 2} | copied(0.9),
        },
    ),
    "representation": (
        {AE: {"probe_accuracy": 80, "knn_accuracy": 80}, DAE: {"probe_accuracy": 90, "knn_accuracy": 90}},
        {AE: {"probe_accuracy": 90, "knn_accuracy": 90}, DAE: {"probe_accuracy": 80, "knn_accuracy": 80}},
    ),
    "dial": (
        {AE: {"mig": 0.1, "dci": 0.2}, VAE: {"mig": 0.4, "dci": 0.5}},
        {AE: {"mig": 0.4, "dci": 0.5}, VAE: {"mig": 0.1, "dci": 0.2}},
    ),
    "bound": ({VAE: {"neg_elbo": 100, "nll": 95}}, {VAE: {"neg_elbo": 95, "nll": 100}}),
    "collapse": (
        {VAE: {"active_units": 2, "latent_units": 10}, VQVAE: {"codes_used": 80}},
        {VAE: {"active_units": 2, "latent_units": 10}, VQVAE: {"codes_used": 20}},
    ),
    "closeness": ({VQVAE: {"code_distance": 0.05}}, {VQVAE: {"code_distance": 0.3}}),
    "prior": (
        {VAE: WORSE, VQVAE: {"codes_used": 9, "rate": 100, "rate_uniform": 300} | SAMPLED},
        {VAE: SAMPLED, VQVAE: {"codes_used": 9, "rate": 300, "rate_uniform": 200} | WORSE},
    ),
}


@pytest.mark.parametrize("key", CASES)
def test_the_verdict_follows_the_data(key: str) -> None:
    holds, fails = CASES[key]
    assert judged(key, evidence(holds)).verdict is SUPPORTED
    assert judged(key, evidence(fails)).verdict is CONTRADICTED
    assert judged(key, evidence(holds)).label == "supported"


@pytest.mark.parametrize("key", sorted(CASES.keys() - {"memory"}))
def test_seeds_that_disagree_decide_nothing(key: str) -> None:
    assert judged(key, evidence(CASES[key][0], spread=0.9)).verdict is UNDECIDED


def test_seeds_whose_trainings_disagree_decide_nothing() -> None:
    entry = learned(AE, 0.5, 1.2, 2.0)
    assert judged("memory", evidence({entry: {"generalisation": 1.2}}, spread=0.9)).verdict is UNDECIDED


@pytest.mark.parametrize("key", CASES)
def test_one_seed_decides_nothing_and_says_why(key: str) -> None:
    values = {replace(entry, curves=entry.curves[:1]): each for entry, each in CASES[key][0].items()}
    found = judged(key, evidence(values, seeds=1))
    assert found.verdict is UNDECIDED
    assert any("fewer than two seeds give no interval" in finding.text for finding in found.findings)


@pytest.mark.parametrize("nothing", [[], [AE], [AE, DAE, VAE, VQVAE]])
def test_what_was_not_measured_is_said_to_be(nothing: Sequence[Entry]) -> None:
    """As where all seeds diverged."""
    nobody = Evidence(nothing, pd.DataFrame(columns=["entry", "seed", "pixels", "mse"]))
    found = [judge(claim, nobody) for claim in CLAIMS]
    assert {each.verdict for each in found} == {UNMEASURED}
    assert all(each.findings and each.findings[0].text.endswith(".") for each in found)


def test_each_claim_is_shown_to_come_out_both_ways() -> None:
    """`quantisers` has a test of its own: it says that entries differ, and nothing contradicts it."""
    assert [claim.key for claim in CLAIMS] == [*CASES, "quantisers"]


def test_a_claim_reads_as_it_is_tested_on_metrics_that_there_are() -> None:
    for claim in CLAIMS:
        for test in (*claim.tests, *([claim.premise] if claim.premise else [])):
            metrics = test.metrics if not isinstance(test, Threshold) else re.findall("[a-z_]+", test.value)
            assert {*metrics, *claim.table} <= METRICS.keys() | {"codes", "final_loss_ratio"}
            if isinstance(test, Threshold):
                limit = test.below if test.above is None else test.above
                assert limit == 0 or f"than {limit - 100 if limit > 100 else limit:g}" in claim.reading


def test_a_part_that_was_not_measured_is_not_passed_over() -> None:
    found = judged("identity", evidence({AE: {"denoising_mse": 2, "copying_mse": 1}}))
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
    entry = replace(AE, curves=[curve(1.0, 1.0, 1.1, 1.3 + seed / 100) for seed in range(3)])
    found = judged("memory", evidence({entry: {"generalisation": 1.01}}))
    assert [finding.verdict for finding in found.findings] == [CONTRADICTED, SUPPORTED]
    assert found.verdict is MIXED
    assert "the validation loss is 131.0 ± 2.5 % of the training loss" in found.findings[1].text
    assert loss_ratios(entry.curves[0]) == [(0, 1.0), (1, 1.0), (2, pytest.approx(1.1)), (3, pytest.approx(1.3))]


def test_denoising_is_judged_at_every_level_of_every_kind() -> None:
    values = {
        AE: {"mse": 1, "denoising_masking-0.25": 3, "denoising_masking-0.75": 9, "denoising_gaussian-0.3": 1},
        DAE: {"mse": 2, "denoising_masking-0.25": 2, "denoising_masking-0.75": 2, "denoising_gaussian-0.3": 4},
    }
    found = judged("denoising", evidence(values))
    assert found.verdict is MIXED
    few, many, gaussian = found.findings[:3]
    assert few.verdict is many.verdict is SUPPORTED
    assert few.text.startswith("masking 0.25: two 1.99933 ± ")
    assert "; better by 1.0" in few.text
    assert gaussian.verdict is CONTRADICTED
    assert gaussian.text.startswith("gaussian 0.3: two 3.99867 ± ")
    assert "; worse by 2.99" in gaussian.text
    assert noise_levels(evidence(values).results)["masking"] == [
        (0.0, "mse"), (0.25, "denoising_masking-0.25"), (0.75, "denoising_masking-0.75"),
    ]  # fmt: skip


def test_seeds_that_diverged_pair_nowhere() -> None:
    whole = evidence({AE: {"probe_accuracy": 80}, DAE: {"probe_accuracy": 90}})
    entry, seed = whole.results["entry"], whole.results["seed"]
    apart = whole.results[((entry == "one") & (seed == 0)) | ((entry == "two") & (seed > 0))]
    assert judged("representation", whole).verdict is SUPPORTED
    assert judged("representation", Evidence(whole.entries, apart)).verdict is UNDECIDED


def test_a_bound_within_its_monte_carlo_error_is_undecided() -> None:
    values = {"neg_elbo": 100.0, "nll": 99.5}
    assert judged("bound", evidence({VAE: values}, spread=0)).verdict is SUPPORTED
    noisy = values | {"neg_elbo_error": 0.3, "nll_error": 0.3}
    assert judged("bound", evidence({VAE: noisy}, spread=0)).verdict is UNDECIDED
    one = judged("bound", evidence({VAE: noisy | {"nll": 90.0}}, seeds=1))
    assert one.verdict is SUPPORTED  # the noise of one seed has an error of its own
    assert "9.99 ± 0.83 nats" in one.findings[0].text


def test_where_nothing_collapsed_there_was_nothing_to_avoid() -> None:
    found = judged("collapse", evidence({VAE: {"active_units": 9, "latent_units": 10}, VQVAE: {"codes_used": 80}}))
    assert found.verdict is UNDECIDED
    assert found.findings[-1].text.endswith("there was nothing to avoid.")
    assert judged("collapse", evidence({VAE: {"active_units": 9, "latent_units": 10}})).verdict is UNMEASURED


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
    assert Entry("a", parameters=keys).codes == size


def test_quantisers_are_compared_where_nothing_else_differs() -> None:
    used = {VQVAE: {"codes_used": 60.0, "psnr": 20.0}, EMA: {"codes_used": 90.0, "psnr": 20.0}}
    codes, perplexity, psnr = judged("quantisers", evidence(used, spread=1e-2)).findings
    assert codes.verdict is SUPPORTED
    assert "five is above all others" in codes.text
    assert perplexity.verdict is UNMEASURED
    assert psnr.verdict is UNDECIDED
    assert "cannot be told apart" in psnr.text
    wider = replace(EMA, parameters={**EMA.parameters, "network.width": 128})
    found = judged("quantisers", evidence({VQVAE: used[VQVAE], wider: used[EMA]}))
    assert found.verdict is UNMEASURED
    assert "make recipe NAME=fashion-codes" in found.findings[0].text


def test_a_denoiser_with_the_worse_code_is_not_hidden_by_a_better_one() -> None:
    mixed = replace(DAE, name="six")
    values = {AE: 85.0, DAE: 80.0, mixed: 90.0}
    found = judged("representation", evidence({entry: {"probe_accuracy": each} for entry, each in values.items()}))
    assert [each.verdict for each in found.findings] == [CONTRADICTED, UNMEASURED, SUPPORTED, UNMEASURED]
    assert found.verdict is MIXED
    assert found.label == "mixed, as far as measured"
