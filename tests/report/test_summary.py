"""The summary of the page follows from the numbers, and changes with them."""

from dataclasses import replace

import pandas as pd
import pytest

from aelab.report import summary
from aelab.report.evidence import Entry, Evidence

VAE = Entry("vae", "binary", {"model": "vae", "beta": 1.0, "network": {"width": 8}})
BETA = Entry("vae-beta4", "binary", {"model": "vae", "beta": 4.0, "network": {"width": 8}})
WIDE = Entry("vae-wide", "binary", {"model": "vae", "beta": 4.0, "network": {"width": 16}})


def evidence(values: dict[Entry, dict[str, list[float]]]) -> Evidence:
    rows = [
        {"entry": entry.name, "seed": seed, "pixels": entry.pixels} | {name: each[seed] for name, each in of.items()}
        for entry, of in values.items()
        for seed in range(len(next(iter(of.values()))))
    ]
    return Evidence(list(values), pd.DataFrame(rows))


def said(first: list[float], second: list[float]) -> list[summary.Sentence]:
    return summary.sentences(evidence({VAE: {"mse": first}, BETA: {"mse": second}}), "masking 0.5")


@pytest.mark.parametrize(
    ("first", "second", "text", "certainty"),
    [
        ([1.0, 1.1, 1.2], [3.0, 3.1, 3.2], "`vae` reconstructs best", "at 95 %, over seeds"),
        ([5.0, 5.1, 5.2], [3.0, 3.1, 3.2], "`vae-beta4` reconstructs best", "at 95 %, over seeds"),
        ([1.0, 3.0, 2.0], [2.0, 2.1, 2.2], "The data do not tell which entry recon", "a tie at 95 %, over seeds"),
        ([1.0], [2.0], "`vae` reconstructs best", "one seed"),
    ],
)
def test_the_first_sentence(first: list[float], second: list[float], text: str, certainty: str) -> None:
    (sentence,) = said(first, second)
    assert sentence.text.startswith(text)
    assert sentence.badge == certainty


def test_the_sentence_has_the_numbers_that_it_rests_on() -> None:
    (sentence,) = said([1.0, 1.1, 1.2], [3.0, 3.1, 3.3])
    assert "1.10000 ± 0.24841" in sentence.text
    assert "2.03333 ± 0.14342 behind." in sentence.text


def test_denoising_is_summed_up_over_all_levels() -> None:
    levels = {f"denoising_masking-0.{i}": [1.0, 1.1] for i in (1, 2, 3)}
    better = levels | {"denoising_masking-0.1": [0.5, 0.6]}
    common = {"mse": [1.0, 1.0], "denoising_mse": [1.0, 1.1]}
    found = summary.sentences(
        evidence({VAE: common | levels, BETA: common | {"denoising_mse": [2.0, 2.1]} | better}), "masking 0.5"
    )
    assert "`vae` restores images best from masking 0.5" in found[1].text
    assert found[1].more.endswith("`vae` has the lowest mean error at 2 of 3 kinds and levels of noise (ties: 2).")


def test_only_levels_with_the_lowest_error_are_counted_as_ties() -> None:
    """The entry has the lowest error at two levels, and ties with the best at the other level."""
    common = {"mse": [1.0, 1.1, 1.2], "denoising_mse": [1.0, 1.1, 1.2]}
    near = {"denoising_masking-0.1": [1.0, 1.2, 1.4], "denoising_masking-0.2": [1.0, 1.1, 1.2]}
    mine = near | {"denoising_masking-0.3": [1.0, 1.1, 1.2]}
    rest = {"denoising_masking-0.1": [1.1, 1.0, 1.3], "denoising_masking-0.2": [2.0, 2.1, 2.2]}
    other = rest | {"denoising_masking-0.3": [2.0, 2.1, 2.2]}
    found = summary.sentences(evidence({VAE: common | mine, BETA: common | other}), "masking 0.5")
    assert found[1].more.endswith("`vae` has the lowest mean error at 2 of 3 kinds and levels of noise.")


def test_what_one_key_changed_and_what_may_be_chance() -> None:
    found = evidence(
        {
            VAE: {"mse": [1.0, 1.1, 1.2], "psnr": [9.0, 8.0, 7.0], "neg_elbo": [90.0, 91.0, 92.0]},
            BETA: {"mse": [3.0, 3.1, 3.3], "psnr": [8.0, 9.0, 7.1], "neg_elbo": [89.0, 89.9, 91.0]},
            WIDE: {"mse": [3.0, 3.1, 3.3], "psnr": [8.0, 9.0, 7.0], "neg_elbo": [99.0, 99.0, 99.0]},
        }
    )
    pairs = list(summary.siblings(found.entries))
    assert [(one.name, other.name) for one, other in pairs] == [("vae", "vae-beta4"), ("vae-beta4", "vae-wide")]
    contrast, _ = summary.contrasts(found, pairs)
    assert contrast.parameters == [("beta", 1.0, 4.0)]
    assert {change.name: change.reading for change in contrast.told} == {"mse": "worse", "neg_elbo": "better"}
    assert [change.name for change in contrast.tied] == ["psnr"]


def test_the_metrics_of_a_pair_are_compared_at_once() -> None:
    """A difference that is clear alone is a tie among many metrics without a difference."""
    alone = {"mse": [1.0, 2.0, 3.0]}, {"mse": [1.6, 2.4, 3.5]}
    noise = {name: [1.0, 2.0, 3.0] for name in ("psnr", "ssim", "probe_accuracy", "knn_accuracy", "perplexity")}
    none = {name: [2.1, 2.9, 1.0] for name in noise}
    for more, less, reading in ((*({}, {}), "worse"), (noise, none, "tie")):
        (contrast,) = summary.contrasts(evidence({VAE: alone[0] | more, BETA: alone[1] | less}), [(VAE, BETA)])
        assert {change.name: change.reading for change in contrast.metrics}["mse"] == reading


def test_likelihoods_of_different_pixels_are_not_set_against_each_other() -> None:
    other = Entry("other", "8-bit", {"model": "vae", "beta": 2.0, "network": {"width": 8}})
    values = {"mse": [1.0, 1.1], "neg_elbo": [9.0, 9.1]}
    (contrast,) = summary.contrasts(evidence({VAE: values, other: values}), [(VAE, other)])
    assert [change.name for change in contrast.metrics] == ["mse"]


def test_one_seed_may_be_chance() -> None:
    (contrast,) = summary.contrasts(evidence({VAE: {"mse": [1.0]}, BETA: {"mse": [2.0]}}), [(VAE, BETA)])
    assert [change.reading for change in contrast.metrics] == ["one seed: may be chance"]


def test_the_middle_level_of_each_kind_of_noise_is_among_what_changed() -> None:
    levels = {f"denoising_gaussian-0.{i}": [1.0, 1.1] for i in (1, 2, 3)}
    worse = {name: [2.0, 2.1] for name in levels}
    found = evidence({VAE: {"mse": [1.0, 1.1]} | levels, BETA: {"mse": [1.0, 1.1]} | worse})
    (contrast,) = summary.contrasts(found, [(VAE, BETA)])
    assert {change.name: change.reading for change in contrast.told} == {"denoising_gaussian-0.2": "worse"}


COLLAPSED = "the codebook has collapsed: 1 of 512 codes in use, perplexity 1.0"
ILL = Entry("vqvae", "binary", {"model": "vqvae"}, symptoms=[COLLAPSED, COLLAPSED])


@pytest.mark.parametrize("ill", [0.5, 2.0, 9.0])  # rank of the entry by its mean: best, second, last
@pytest.mark.parametrize("spread", [0.01, 5.0])  # clear difference, tie
def test_an_entry_with_a_symptom_is_not_ranked(ill: float, spread: float) -> None:
    levels = ("mse", "denoising_mse", "neg_elbo", "frechet", "denoising_masking-0.1", "denoising_masking-0.2")

    def around(mean: float) -> dict[str, list[float]]:
        return {name: [mean, mean + spread, mean + 0.5 * spread] for name in levels}

    found = summary.sentences(evidence({VAE: around(1.0), ILL: around(ill), BETA: around(3.0)}), "masking 0.5")
    *ranked, last = found
    assert len(ranked) == 3
    assert not any("vqvae" in sentence.text + sentence.more for sentence in ranked)
    assert all("`vae`" in sentence.text and "`vae-beta4`" in sentence.text for sentence in ranked)
    assert last == summary.Sentence(f"`vqvae` is not ranked: {COLLAPSED}.", "")


def test_where_all_have_symptoms_all_are_ranked() -> None:
    other = Entry("vqvae-too", "binary", {"model": "vqvae"}, symptoms=["the posterior has collapsed"])
    found = summary.sentences(evidence({ILL: {"mse": [1.0, 1.1]}, other: {"mse": [3.0, 3.1]}}), "masking 0.5")
    (sentence,) = found
    assert sentence.text.startswith("`vqvae` reconstructs best")


def test_one_sound_entry_is_the_only_one_that_is_ranked() -> None:
    first, second = summary.sentences(evidence({VAE: {"mse": [1.0, 1.1]}, ILL: {"mse": [0.5, 0.6]}}), "masking 0.5")
    assert first.text.startswith("`vae` is the only entry")
    assert second.text.startswith("`vqvae` is not ranked")


NUMBERS = Entry("ae", code_size="32 numbers", looks=1.66)
OTHER = Entry("wae", code_size="32 numbers", looks=1.66)
CODES = Entry("vqvae", code_size="49 codes of 512: 441 bits", code_bits=441.0, looks=2.13)
LOW, HIGH, HIGHER = [1.0, 1.01, 1.02], [3.0, 3.03, 3.01], [5.0, 5.01, 5.03]


def first_of(values: dict[Entry, dict[str, list[float]]]) -> summary.Sentence:
    return summary.sentences(evidence(values), "masking 0.5")[0]


def test_who_is_best_across_sizes_of_codes_is_said_to_be() -> None:
    found = first_of({NUMBERS: {"mse": HIGH}, OTHER: {"mse": HIGHER}, CODES: {"mse": LOW}})
    assert found.text.startswith(
        "`vqvae` reconstructs best: MSE 1.01000 ± 0.02484, with 49 codes of 512 (441 bits) at 2.1 "
    )
    assert found.text.endswith("behind, with 32 numbers at 1.7 looks per image.")
    assert found.more == "The codes differ in size: of 2 entries with 32 numbers, `ae` is best."
    tied = first_of({NUMBERS: {"mse": HIGH}, OTHER: {"mse": [3.01, 3.0, 3.04]}, CODES: {"mse": LOW}})
    assert tied.more == "The codes differ in size: of 2 entries with 32 numbers, `ae` and `wae` are best."


@pytest.mark.parametrize("third", [{}, {CODES: {"mse": HIGHER}}])
def test_like_with_like_needs_no_word(third: dict[Entry, dict[str, list[float]]]) -> None:
    found = first_of({NUMBERS: {"mse": LOW}, OTHER: {"mse": HIGH}, **third})
    assert found.text.endswith("behind, both with 32 numbers at 1.7 looks per image.")
    assert not found.more


def test_sizes_stand_beside_a_tie_and_beside_one_seed() -> None:
    tie = first_of({NUMBERS: {"mse": [1.0, 3.0, 2.0]}, CODES: {"mse": [2.0, 2.1, 2.2]}})
    assert "`ae` has MSE 2.00000 ± 2.48414, with 32 numbers at 1.7 looks per image, and `vqvae` " in tie.text
    assert "(2.10000 ± 0.24841, with 49 codes of 512 (441 bits) at 2.1 looks per image) may be as good." in tie.text
    one = first_of({NUMBERS: {"mse": [1.0]}, CODES: {"mse": [2.0]}})
    assert "with 32 numbers at 1.7 looks per image; next is `vqvae` (2.00000), with 49 codes of 512" in one.text


def test_the_best_of_those_that_are_ranked_is_named() -> None:
    """An entry with one seed is not ranked, even if its value is the best."""
    rows = evidence({VAE: {"mse": [9.0]}, NUMBERS: {"mse": LOW}, OTHER: {"mse": HIGH}})
    found = summary.sentences(Evidence(rows.entries, rows.results.replace({"mse": {9.0: 0.1}})), "masking 0.5")[0]
    assert found.text.startswith("`ae` reconstructs best: MSE 1.01000")


def test_distance_and_precision_are_both_told_where_they_disagree() -> None:
    bound = {"neg_elbo": LOW}
    values = {VAE: bound | {"frechet": HIGH, "sample_precision": [0.9, 0.91, 0.92]}}
    worse = {BETA: {"neg_elbo": HIGH, "frechet": LOW, "sample_precision": [0.5, 0.51, 0.52]}}
    more = first_of(values | worse).more
    assert "priors, the best come from `vae-beta4` by Fréchet distance (`vae` 3.01" in more
    assert ", and from `vae` by precision (`vae` 0.910 ± 0.025 and `vae-beta4` 0.510 ± 0.025)." in more
    agree = {BETA: worse[BETA] | {"frechet": HIGHER}}
    more = first_of(values | agree).more
    assert more.endswith("own priors, the best come from `vae`, by Fréchet distance and precision.")


@pytest.mark.parametrize(
    ("fitted", "place"),
    [
        (LOW, "are nearer to the test images than"),
        (HIGH, "may be as near as"),
        (HIGHER, "are farther from the test images than"),
    ],
)
def test_samples_of_a_fitted_density_are_compared_with_samples_of_a_prior(fitted: list[float], place: str) -> None:
    bound = {"neg_elbo": LOW, "frechet": HIGH}
    values = {VAE: bound, BETA: bound | {"frechet": HIGHER}, NUMBERS: {"frechet_fitted": fitted}}
    classified = {"metrics": {"frechet_floor": 0.5}}
    more = summary.sentences(evidence(values), "masking 0.5", classified)[0].more
    assert (
        f"fitted to the codes of `ae` after training, {place} samples of the prior of `vae` ({sum(fitted) / 3:.2f}"
        in more
    )
    alone = {entry: of for entry, of in values.items() if entry is not BETA}
    assert f"{place} samples of the prior of `vae`" in summary.sentences(evidence(alone), "masking 0.5")[0].more
    assert more.endswith("The floor, training images as samples, is 0.50.")


def test_the_sentence_on_the_likelihood_has_the_floor_of_the_data() -> None:
    gray = replace(VAE, pixels="Bernoulli, not binarised")
    classified = {"metrics": {}, "floors": {"binarisation_nats": 45.9, "png_nats": 1.0, "webp_nats": 1.0}}
    (alone,) = summary.sentences(evidence({gray: {"neg_elbo": LOW}}), "masking 0.5", classified)
    assert alone.more == "Floors without training: entropy of the binarisation (45.90 nats)."


def test_words_are_those_of_the_quantity() -> None:
    (sentence,) = summary.sentences(evidence({VAE: {"neg_elbo": LOW}, BETA: {"neg_elbo": HIGH}}), "masking 0.5")
    assert sentence.text.startswith("`vae` has the lowest −ELBO: 1.01 ± 0.02 nats; next is")
    (alone,) = summary.sentences(evidence({VAE: {"neg_elbo": [23.85]}}), "masking 0.5")
    assert alone.line == "`vae` is the only entry that is ranked by −ELBO: 23.85 nats."
    assert sentence.line == f"{sentence.text} (at 95 %, over seeds)"


def test_an_interval_over_images_is_said_to_be() -> None:
    images = {"mse": pd.DataFrame([[1.0, 1.1, 0.9], [1.02, 1.1, 0.91]])}
    further = {"mse": images["mse"] + 3}
    found = evidence(
        {replace(NUMBERS, images=images): {"mse": [1.0, 1.01]}, replace(OTHER, images=further): {"mse": [4, 4.01]}}
    )
    (sentence,) = summary.sentences(found, "masking 0.5")
    assert sentence.badge == "at 95 %, over seeds and test images"
