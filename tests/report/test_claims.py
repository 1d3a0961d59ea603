"""Verdicts follow from the data: every claim can be supported, contradicted, undecided or not tested."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from aelab.report.claims import CLAIMS
from aelab.report.evidence import Entry, Evidence, noise_levels
from aelab.report.metrics import METRICS
from aelab.report.verdicts import Duel, Judgement, Threshold, Verdict, judge, together
from tests.support.project import REPOSITORY

SUPPORTED, IN_PART, CONTRADICTED = Verdict.SUPPORTED, Verdict.IN_PART, Verdict.CONTRADICTED
UNDECIDED, MIXED, UNTESTED = Verdict.UNDECIDED, Verdict.MIXED, Verdict.UNTESTED
SIZE = 100  # numbers in an image
LEVEL = "masking-0.5"


def entry(name: str, pixels: str | None = None, *, image: int = SIZE, looks: float = 2.0, **keys: Any) -> Entry:
    parameters = {"inputs": "clean", "code": 10} | {key.replace("__", "."): each for key, each in keys.items()}
    learned = () if parameters["inputs"] == "clean" else (LEVEL,)
    return Entry(name, pixels, parameters, dimensions=image, looks=looks, learned=learned)


AE, DAE = entry("one"), entry("two", inputs="noisy")
WIDE_AE, WIDE_DAE = (
    entry(name, looks=300.0, code=SIZE, inputs=seen) for name, seen in (("wide", "clean"), ("wide-2", "noisy"))
)
VAE = entry("three", "binary", beta=1.0)
VQVAE = entry("four", "binary", beta=0.25, quantizer__codes=100, quantizer__name="codebook")
FREE = entry("six", "binary", beta=0.0, quantizer__codes=100, quantizer__name="codebook")
EMA = entry("five", "binary", beta=0.25, quantizer__codes=100, quantizer__name="ema")
PCA = replace(entry("pca", model="pca"), floor=True)
NOTHING = replace(entry("identity", model="identity", code=SIZE), floor=True)
SPREAD = (-1.0, 0.0, 1.5)  # differences between the seeds


def evidence(values: Mapping[Entry, Mapping[str, float]], spread: float = 1e-3, seeds: int = 3) -> Evidence:
    """Metrics near these values. The seeds spread by `spread` times the value, differently for each entry."""
    rows = [
        {"entry": entry.name, "seed": seed}
        | {
            name: value * (1 + spread * (i + 1) * (-1) ** i * SPREAD[(seed + i) % len(SPREAD)])
            for name, value in of.items()
        }
        for i, (entry, of) in enumerate(values.items())
        for seed in range(1 if entry.floor else seeds)
    ]
    return Evidence(list(values), pd.DataFrame(rows))


def judged(key: str, found: Evidence) -> Judgement:
    return judge(next(claim for claim in CLAIMS if claim.key == key), found)


def copied(share: float) -> dict[str, float]:
    return {"identity_noise": share, "identity_photographs": share}


def right(share: float) -> dict[str, float]:
    return {"probe_accuracy": share, "knn_accuracy": share}


def parted(share: float) -> dict[str, float]:
    return {"mig": share, "dci": share}


def restored(error: float, copying: float = 0.5) -> dict[str, float]:
    return {"mse": 1.0, f"denoising_{LEVEL}": error} | copied(copying)


def used(perplexity: float, psnr: float) -> dict[str, float]:
    return {"codes_used": 60.0, "perplexity": perplexity, "psnr": psnr}


SAMPLED = {"codes_used": 9.0, "rate": 100.0, "rate_uniform": 300.0, "frechet": 9.0, "frechet_uniform": 50.0}
REVERSED = {"codes_used": 9.0, "rate": 300.0, "rate_uniform": 100.0, "frechet": 50.0, "frechet_uniform": 9.0}
COLLAPSED = {"active_units": 2.0, "latent_units": 10.0}
CASES: dict[str, tuple[dict[Entry, dict[str, float]], dict[Entry, dict[str, float]]]] = {
    "identity": (
        {WIDE_AE: copied(0.9), WIDE_DAE: copied(0.3), PCA: copied(0.6)},
        {WIDE_AE: copied(0.4), WIDE_DAE: copied(0.3), PCA: copied(0.6)},
    ),
    "memory": (
        {WIDE_AE: {"generalisation": 2.0}, WIDE_DAE: {"generalisation": 1.0}, PCA: {"generalisation": 1.2}},
        {WIDE_AE: {"generalisation": 1.1}, WIDE_DAE: {"generalisation": 1.0}, PCA: {"generalisation": 1.2}},
    ),
    "denoising": (
        {AE: restored(3, 0.9), DAE: restored(2, 0.1), PCA: restored(2.5), NOTHING: restored(5, 1.0)},
        {AE: restored(3, 0.1), DAE: restored(5, 0.9), PCA: restored(2.5), NOTHING: restored(6, 1.0)},
    ),
    "representation": (
        {AE: right(80), DAE: right(95), PCA: right(85), NOTHING: right(90)},
        {AE: right(80), DAE: right(70), PCA: right(85), NOTHING: right(90)},
    ),
    "dial": (
        {AE: parted(0.1), VAE: parted(0.4), PCA: parted(0.2)},
        {AE: parted(0.4), VAE: parted(0.1), PCA: parted(0.2)},
    ),
    "bound": ({VAE: {"neg_elbo": 100, "nll": 95}}, {VAE: {"neg_elbo": 95, "nll": 100}}),
    "collapse": ({VAE: COLLAPSED, VQVAE: {"codes_used": 80}}, {VAE: COLLAPSED, VQVAE: {"codes_used": 20}}),
    "closeness": (
        {VQVAE: {"codes_used": 9, "code_distance": 0.05}, FREE: {"codes_used": 9, "code_distance": 0.3}},
        {VQVAE: {"codes_used": 9, "code_distance": 0.3}, FREE: {"codes_used": 9, "code_distance": 0.05}},
    ),
    "prior": (
        {AE: {"frechet_fitted": 20}, VQVAE: SAMPLED},
        {AE: {"frechet_fitted": 20}, VQVAE: REVERSED},
    ),
    "strange": (
        {VAE: {"auroc_neg_elbo": 0.9}, VQVAE: {"auroc_neg_elbo": 0.8}, PCA: {"auroc_mse": 0.7}},
        {VAE: {"auroc_neg_elbo": 0.3}, VQVAE: {"auroc_neg_elbo": 0.2}, PCA: {"auroc_mse": 0.7}},
    ),
    "quantisers": (
        {VQVAE: used(40, 20), EMA: used(80, 22)},
        {VQVAE: used(40, 20), EMA: used(41, 20.01)},
    ),
}


@pytest.mark.parametrize("key", CASES)
def test_the_verdict_follows_the_data(key: str) -> None:
    holds, fails = CASES[key]
    assert judged(key, evidence(holds)).verdict is SUPPORTED
    assert judged(key, evidence(fails)).verdict is CONTRADICTED


def test_every_claim_is_shown_to_come_out_both_ways() -> None:
    assert [claim.key for claim in CLAIMS] == [*CASES]


FLOORS = {"PCA": PCA, "the identity": NOTHING}
SCORED = {"PCA": ("identity", "memory", "denoising", "representation", "dial"), "the identity": ("representation",)}


@pytest.mark.parametrize(("floor", "key"), [(floor, key) for floor, keys in SCORED.items() for key in keys])
def test_an_entry_that_scores_like_a_floor_supports_no_claim(floor: str, key: str) -> None:
    """One entry of the claim gets the floor's scores; all other entries keep theirs."""
    (claim,) = (claim for claim in CLAIMS if claim.key == key)
    values = CASES[key][0]
    for group in {test.ours for test in claim.tests if isinstance(test, Duel)}:
        for ours in evidence(values).group(group):
            found = judge(claim, evidence(values | {ours: values[FLOORS[floor]]}, spread=1e-5))
            assert found.verdict not in {SUPPORTED, IN_PART}, (ours.name, [each.text for each in found.findings])


def test_an_entry_that_must_be_worse_is_compared_by_its_worst() -> None:
    """One of two plain autoencoders memorises, and PCA's ratio lies between theirs."""
    other = replace(WIDE_AE, name="wide-3")
    ratios = {WIDE_AE: 2.0, other: 1.05, PCA: 1.2}
    found = judged("memory", evidence({entry: {"generalisation": each} for entry, each in ratios.items()}))
    assert found.verdict is SUPPORTED
    best = evidence({entry: {"generalisation": each} for entry, each in ratios.items() if entry is not WIDE_AE})
    assert judged("memory", best).verdict is CONTRADICTED


@pytest.mark.parametrize("key", ["dial", "representation"])
def test_a_duel_with_the_plain_autoencoder_alone_is_won_by_pca(key: str) -> None:
    """Control of the test above: without the floors among `theirs`, PCA's scores support the claim."""
    (claim,) = (claim for claim in CLAIMS if claim.key == key)
    tests = [replace(test, theirs=["plain autoencoders"]) for test in claim.tests if isinstance(test, Duel)]
    values = CASES[key][0]
    (ours,) = evidence(values).group(tests[0].ours)
    found = judge(replace(claim, tests=tests), evidence(values | {ours: values[PCA]}, spread=1e-5))
    assert found.verdict is SUPPORTED


@pytest.mark.parametrize("key", CASES)
def test_seeds_that_disagree_decide_nothing(key: str) -> None:
    """A large spread of the seeds leaves at least one finding undecided."""
    assert judged(key, evidence(CASES[key][0], spread=0.9)).verdict in {UNDECIDED, UNTESTED}


@pytest.mark.parametrize("spread", [0.05, 0.1, 0.2, 0.4, 0.9])
@pytest.mark.parametrize("key", CASES)
def test_the_interval_that_is_shown_is_the_one_that_the_verdict_is_read_off(key: str, spread: float) -> None:
    """A reader who compares the shown interval with the threshold finds the same verdict."""
    for side in (0, 1):
        for finding in judged(key, evidence(CASES[key][side], spread=spread)).findings:
            if found := re.search(r"(better by|worse by|difference is) ([\d.,]*\d)(?: ± ([\d.,]*\d))?", finding.text):
                size, half = (float((number or "0").replace(",", "")) for number in found.group(2, 3))
                mean = -size if found[1] == "worse by" else size
                room = 0.51 * 10.0 ** -len(found[2].partition(".")[2]) * 2  # size and half are rounded
                told = [abs(mean - finding.threshold) > half + slack for slack in (-room, room)]
                assert finding.verdict is UNDECIDED or told[0], finding.text
                assert finding.verdict is not UNDECIDED or not told[1], finding.text


@pytest.mark.parametrize("key", CASES)
def test_one_seed_decides_nothing_and_says_why(key: str) -> None:
    found = judged(key, evidence(CASES[key][0], seeds=1))
    assert found.verdict in {UNDECIDED, UNTESTED}
    assert found.verdict is UNTESTED or any("needs at least two seeds" in finding.text for finding in found.findings)


@pytest.mark.parametrize("entries", [[], [AE], [AE, DAE, VAE, VQVAE], [PCA, NOTHING]])
def test_what_the_entries_cannot_test_is_said_to_be_untested(entries: list[Entry]) -> None:
    """Results are empty, as after a divergence of all seeds."""
    nobody = Evidence(entries, pd.DataFrame(columns=["entry", "seed", "pixels", "mse"]))
    for claim in CLAIMS:
        found = judge(claim, nobody)
        assert found.verdict is UNTESTED
        (finding,) = found.findings
        assert finding.text.startswith(claim.lacking)
        assert finding.text.endswith(f"`make recipe NAME={claim.recipe}` tests the claim." if claim.recipe else ".")


def test_the_recipe_that_tests_a_claim_is_there() -> None:
    for claim in CLAIMS:
        assert not claim.recipe or (REPOSITORY / "recipes" / f"{claim.recipe}.yaml").exists()


def test_a_claim_reads_as_it_is_tested_on_metrics_that_there_are() -> None:
    for claim in CLAIMS:
        for test in (*claim.tests, *([claim.premise] if claim.premise else [])):
            if isinstance(test, Threshold):
                metrics = re.findall("[a-z_]+", test.value)
                limits = [test.below if test.above is None else test.above]
            else:
                metrics = [*test.metrics, *test.against] if isinstance(test, Duel) else [*test.margins]
                limits = [test.margin] if isinstance(test, Duel) else list(test.margins.values())
            assert {*metrics, *claim.table} <= METRICS.keys() | {"codes"}
            assert all(limit == 0 or re.search(rf"than {limit:g}\b", claim.reading) for limit in limits), claim.key


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ([SUPPORTED], SUPPORTED),
        ([SUPPORTED, UNDECIDED], IN_PART),
        ([UNDECIDED], UNDECIDED),
        ([CONTRADICTED], CONTRADICTED),
        ([CONTRADICTED, UNDECIDED], CONTRADICTED),
        ([SUPPORTED, CONTRADICTED], MIXED),
        ([SUPPORTED, UNDECIDED, CONTRADICTED], MIXED),
    ],
)
def test_findings_make_one_verdict(found: list[Verdict], verdict: Verdict) -> None:
    assert together(found) is verdict


def test_who_is_plain_is_told_by_what_it_learned_not_by_its_name() -> None:
    """The curves of regularised autoencoders name the other terms of their loss, so these are not plain."""
    point = {"phase": "autoencoder", "step": 1, "seconds": 0.0, "train_loss": 1.0, "train_mse": 1.0}
    assert replace(AE, name="anything", curves=[[point]]).plain
    assert not replace(AE, curves=[[point | {"train_size": 1.0}]]).plain
    assert not DAE.plain
    assert not VAE.plain
    found = evidence({each: {"mse": 1.0} for each in (AE, DAE, VAE, PCA, NOTHING)})
    assert found.group("plain autoencoders") == [AE]
    assert found.group("floors") == [PCA, NOTHING]
    assert found.group("PCA") == [PCA]
    assert found.group("entries that saw no noise") == [AE, VAE, PCA, NOTHING]


def test_an_entry_that_looked_at_its_images_twice_has_memorised_nothing_yet() -> None:
    values = {"generalisation": 2.0}
    few = replace(WIDE_AE, looks=99.0)
    assert judged("memory", evidence({few: values, PCA: {"generalisation": 1.0}})).verdict is UNTESTED
    many = replace(WIDE_AE, looks=100.0)
    assert judged("memory", evidence({many: values, PCA: {"generalisation": 1.0}})).verdict is SUPPORTED


def test_denoising_is_judged_under_the_noise_that_was_learned() -> None:
    values = {
        AE: {"denoising_masking-0.5": 3, "denoising_gaussian-0.3": 1},
        DAE: {"denoising_masking-0.5": 2, "denoising_gaussian-0.3": 4},
    }
    (masking,) = judged("denoising", evidence(values)).findings
    assert masking.verdict is SUPPORTED
    assert masking.text.startswith("masking 0.5: two 1.99933 ± ")
    assert "; better by 1.0" in masking.text
    both = replace(DAE, learned=("masking-0.5", "gaussian-0.3"))
    found = judged("denoising", evidence({AE: values[AE], both: values[DAE]}))
    assert found.verdict is MIXED
    assert "; worse by 2.99" in found.findings[-1].text or "; worse by 3.00" in found.findings[-1].text
    assert noise_levels(evidence(values).results).keys() == {"masking", "gaussian"}


def test_doing_nothing_has_to_be_beaten() -> None:
    values = {AE: restored(3, 0.9), DAE: restored(2, 0.1), NOTHING: restored(1, 1.0)}
    assert judged("denoising", evidence(values)).verdict is MIXED


def test_seeds_that_diverged_pair_nowhere() -> None:
    whole = evidence({AE: right(80), DAE: right(90)})
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
    assert one.verdict is SUPPORTED  # one seed has a Monte Carlo error
    assert "9.99 ± 0.83 nats" in one.findings[0].text


def test_where_nothing_collapsed_there_was_nothing_to_avoid() -> None:
    found = judged("collapse", evidence({VAE: {"active_units": 9, "latent_units": 10}, VQVAE: {"codes_used": 80}}))
    assert found.verdict is UNTESTED
    assert found.findings[0].verdict is None  # the premise is a note
    assert "so the claim cannot be tested" in found.findings[-1].text


@pytest.mark.parametrize(
    ("keys", "size"),
    [
        ({"code": 32}, 0),
        ({"quantizer.codes": 512}, 512),
        ({"quantizer.codes": 64, "quantizer.depth": 4}, 256),
        ({"quantizer.levels": [8, 5, 5]}, 200),
        ({"quantizer.bits": 8}, 256),
        ({}, 0),
    ],
)
def test_the_size_of_a_code_is_read_off_the_parameters(keys: dict[str, Any], size: int) -> None:
    assert Entry("a", parameters=keys).codes == size


def test_quantisers_are_compared_where_nothing_else_differs() -> None:
    used = {VQVAE: {"codes_used": 60.0, "psnr": 20.0}, EMA: {"codes_used": 90.0, "psnr": 22.0}}
    (psnr,) = judged("quantisers", evidence(used)).findings
    assert psnr.verdict is SUPPORTED
    assert "the difference is 1.99 ± 0.12 dB" in psnr.text
    wider = replace(EMA, parameters={**EMA.parameters, "network.width": 128})
    found = judged("quantisers", evidence({VQVAE: used[VQVAE], wider: used[EMA]}))
    assert found.verdict is UNTESTED


def test_a_denoiser_with_the_worse_code_is_not_hidden_by_a_better_one() -> None:
    mixed = replace(DAE, name="six")
    values = {AE: 85.0, DAE: 80.0, mixed: 90.0}
    found = judged("representation", evidence({entry: {"probe_accuracy": each} for entry, each in values.items()}))
    assert [each.verdict for each in found.findings] == [CONTRADICTED, SUPPORTED]
    assert found.verdict is MIXED


def test_what_is_compared_at_once_is_compared_with_holm() -> None:
    """A finding that is decided alone is undecided among many."""
    values = {AE: {"probe_accuracy": 80.0}, DAE: {"probe_accuracy": 81.0}}
    spread = next(s / 1e4 for s in range(1, 400) if _undecided(values, s / 1e4))
    alone = evidence(values, spread=spread * 0.95)
    assert judged("representation", alone).verdict is SUPPORTED
    many = {DAE: values[DAE]} | {replace(DAE, name=f"dae-{i}"): {"probe_accuracy": 80.9} for i in range(5)}
    assert judged("representation", evidence({AE: values[AE], **many}, spread=spread * 0.95)).verdict is not SUPPORTED


def _undecided(values: Mapping[Entry, Mapping[str, float]], spread: float) -> bool:
    return judged("representation", evidence(values, spread=spread)).verdict is UNDECIDED
