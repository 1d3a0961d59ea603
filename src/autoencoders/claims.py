"""What is said of autoencoders, claim by claim, against what was measured.

Which entries answer is found by what they are: what they learned from, which metrics they define. Every threshold
stands here, and every verdict comes out of the data: other data, another verdict.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from autoencoders import metrics
from autoencoders.charts import Curve
from autoencoders.evidence import (
    ABOVE,
    BELOW,
    Claim,
    Entry,
    Evidence,
    Finding,
    Verdict,
    above,
    better,
    judge,
    listed,
    percent,
    shown,
    sure,
    together,
    told,
    unmeasured,
)
from autoencoders.intervals import Interval, interval
from autoencoders.metrics import metric, readable

MARGIN = 0.05  # the share by which an error has to be larger on images that were not learned from
COPY = 0.5  # how much of an unlike input has to come back, between 0 and 1
COLLAPSED = 0.5  # the share of a code that is in use is less than this
CLOSE = 0.1  # a squared distance is small that is less than this share of the squared norm
TOLD_APART_BY = ("codes_used", "perplexity", "psnr")  # quantisers
QUANTILE = 1.96  # of the normal distribution: a Monte Carlo error has many samples


def claims(evidence: Evidence) -> list[Claim]:
    """All of them, in the order in which an autoencoder's story is told."""
    return [
        identity(evidence),
        memory(evidence),
        denoising(evidence),
        representation(evidence),
        dial(evidence),
        bound(evidence),
        collapse(evidence),
        closeness(evidence),
        prior(evidence),
        quantisers(evidence),
    ]


def identity(evidence: Evidence) -> Claim:
    """What comes back of inputs that are nothing like the data, and of noise."""
    answering = [entry for entry in evidence.having("copying_mse", "denoising_mse") if entry.plain]
    findings = [_copies_noise(evidence, entry) for entry in answering]
    findings += [
        _copies_unlike(evidence, entry, name) for name in _copied() for entry in evidence.having(name) if entry.plain
    ]
    if not any(evidence.having(name) for name in _copied()):
        findings.append(unmeasured("No entry was given inputs unlike the data"))
    return Claim(
        "identity",
        "A plain autoencoder drifts to the identity.",
        f"It does where the output for a corrupted image is nearer to the corrupted image than to the clean one, and "
        f"where more than {COPY:g} of inputs unlike the data comes back (1 is a perfect copy, 0 none).",
        findings if answering else [unmeasured("No entry that finished is a plain autoencoder")],
        ("denoising_mse", "copying_mse", *metrics.IDENTITY),
        evidence.having("copying_mse"),
    )


def _copies_noise(evidence: Evidence, entry: Entry) -> Finding:
    to_clean, to_seen = (evidence.values(entry, name) for name in ("denoising_mse", "copying_mse"))
    nearer = interval(to_clean - to_seen)
    where = {
        ABOVE: "nearer to the corrupted image",
        BELOW: "nearer to the clean image",
        0: "no nearer to one than to the other",
    }[nearer.side(0)]
    text = (
        f"{entry.name}: given a corrupted test image, its output is {where}: MSE "
        f"{shown(interval(to_seen), 'copying_mse')} to the corrupted one, "
        f"{shown(interval(to_clean), 'denoising_mse')} to the clean one"
    )
    return Finding(judge(nearer, 0, ABOVE), sure(nearer, text) + ".")


def _copied() -> list[str]:
    """The metrics of copying that say how much is too much."""
    return [name for name in metrics.IDENTITY if metric(name).better]


def _copies_unlike(evidence: Evidence, entry: Entry, name: str) -> Finding:
    copied = evidence.mean(entry, name)
    return Finding(
        judge(copied, COPY, ABOVE),
        sure(copied, f"{entry.name}: {metric(name).title} {shown(copied, name)}") + ".",
    )


def memory(evidence: Evidence) -> Claim:
    """Errors on images that were not learned from, against those on images that were."""
    answering = [entry for entry in evidence.having("generalisation") if entry.plain]
    return Claim(
        "memory",
        "A plain autoencoder memorises what it was trained on.",
        f"It does where an error is larger on images that were not learned from by more than {100 * MARGIN:g} %.",
        [finding for entry in answering for finding in _remembers(evidence, entry)]
        or [unmeasured("No entry that finished is a plain autoencoder")],
        ("mse", "train_mse", "generalisation"),
        evidence.having("generalisation"),
    )


def _remembers(evidence: Evidence, entry: Entry) -> Iterator[Finding]:
    """By the errors of the weights that were picked, and by the losses on the way."""
    excess = interval(evidence.values(entry, "generalisation") - 1)
    text = f"{entry.name}: the error on test images is {above(excess)} that on training images"
    yield Finding(judge(excess, MARGIN, ABOVE), sure(excess, text) + ".")
    if gaps := [ratios for curve in entry.curves if (ratios := gap(curve))]:
        final = interval(ratios[-1][1] - 1 for ratios in gaps)
        text = (
            f"{entry.name}: at the end of the training (step {max(ratios[-1][0] for ratios in gaps)}) the validation "
            f"loss is {above(final)} the training loss; {_drift(gaps)}"
        )
        yield Finding(judge(final, MARGIN, ABOVE), sure(final, text) + ".")


def _drift(gaps: Sequence[Sequence[tuple[int, float]]]) -> str:
    """Whether validation ÷ training loss grows over the second half of the training."""
    growth = interval(ratios[-1][1] - ratios[len(ratios) // 2][1] for ratios in gaps)
    says = {ABOVE: "rose", BELOW: "fell"}.get(growth.side(0))
    if not says:
        return "whether their ratio rose over the second half cannot be told"
    return f"their ratio {says} over the second half by {percent(Interval(abs(growth.mean), growth.half))}"


def gap(curve: Curve, phase: str = "autoencoder") -> list[tuple[int, float]]:
    """Validation loss ÷ mean training loss since the validation before, with its step, of one phase."""
    points = [point for point in curve if point["phase"] == phase]
    ratios, losses = list[tuple[int, float]](), list[float]()
    for point in points:
        if "train_loss" in point:
            losses.append(point["train_loss"])
        if "validation_loss" in point and losses and np.mean(losses) > 0:
            ratios.append((point["step"], point["validation_loss"] / float(np.mean(losses))))
            losses = []
    return ratios


def denoising(evidence: Evidence) -> Claim:
    """The best entry that learned from corrupted images against the best that learned from clean ones."""
    kinds = noises(evidence.results).items()
    findings = [finding for kind, names in kinds for finding in _denoises(evidence, kind, names)]
    findings += [_nearer_to_clean(evidence, entry) for entry in evidence.having("copying_mse") if not entry.clean]
    for name in _copied():
        rivals = evidence.having(name)
        learned = [entry for entry in rivals if not entry.clean and entry.pixels is None]
        findings += [_copies_less(evidence, entry, [e for e in rivals if e.plain], name) for entry in learned]
    return Claim(
        "denoising",
        "Denoising cures it: a clean image is retrieved from what is left of it.",
        "It does where, at every level of noise, the best entry that learned from corrupted images has a smaller error "
        "to the clean images than the best that learned from clean ones, and where its output is nearer to the clean "
        "image than to the corrupted one.",
        findings or [unmeasured("No entry that finished was given corrupted images")],
        ("mse", "denoising_mse", "copying_mse", *metrics.IDENTITY),
        evidence.having("denoising_mse"),
    )


def noises(results: pd.DataFrame) -> dict[str, list[tuple[float, str]]]:
    """The metrics of every kind of corruption by level, "mse" at level 0."""
    found: dict[str, list[tuple[float, str]]] = {}
    for name in map(str, results):
        kind, dash, level = name.removeprefix("denoising_").rpartition("-")
        if name.startswith("denoising_") and dash:
            found.setdefault(kind, [(0.0, "mse")]).append((float(level), name))
    return {kind: sorted(names) for kind, names in found.items()}


def _denoises(evidence: Evidence, kind: str, names: Sequence[tuple[float, str]]) -> Iterator[Finding]:
    """Who wins at which levels of one kind, and by how much where the lead is largest."""
    duels = [(level, name, *_duel(evidence, name)) for level, name in names if level > 0 and _both(evidence, name)]
    title = readable(kind).capitalize()
    if not duels:
        yield unmeasured(f"{title}: there are no entries of both, with clean and with corrupted inputs")
    outcomes = dict.fromkeys((verdict, winner) for _, _, verdict, winner, *_ in duels)
    for verdict, winner in outcomes:
        rounds = [duel for duel in duels if duel[2:4] == (verdict, winner)]
        level, name, _, _, loser, lead = max(rounds, key=lambda duel: abs(duel[-1].mean))
        says = None if verdict is Verdict.UNDECIDED else "better by"
        ties = evidence.leaders(name) - {winner.name} if says else set()
        yield Finding(
            verdict,
            f"{title} at {listed(f'{each[0]:g}' for each in rounds)}: {_learned(winner)} is "
            + ("best" if says else "ahead")
            + (f"; its lead is largest at {level:g}: " if len(rounds) > 1 else ", ")
            + f"{shown(evidence.mean(winner, name), name)} against {shown(evidence.mean(loser, name), name)} of "
            f"{_learned(loser)}, {told(lead, name, says)}"
            + (f"; {listed(sorted(ties))} cannot be told apart from it" if ties else "")
            + ".",
        )


def _both(evidence: Evidence, name: str) -> bool:
    return {entry.clean for entry in evidence.having(name)} == {True, False}


def _duel(evidence: Evidence, name: str) -> tuple[Verdict, Entry, Entry, Interval]:
    """Verdict on the denoising entries, winner, loser, and by how much."""
    entries = evidence.having(name)
    denoisers, others = ([entry for entry in entries if entry.clean is clean] for clean in (False, True))
    denoiser, other, gain = evidence.advantage(denoisers, others, name)
    verdict = judge(gain, 0, ABOVE)
    if gain.mean < 0:
        return verdict, other, denoiser, Interval(-gain.mean, gain.half)
    return verdict, denoiser, other, gain


def _learned(entry: Entry) -> str:
    """An entry with what it learned from."""
    return f"{entry.name} (learned from {listed(map(readable, entry.noise)) if entry.noise else 'clean images'})"


def _nearer_to_clean(evidence: Evidence, entry: Entry) -> Finding:
    copied = _copies_noise(evidence, entry)
    turned: dict[Verdict | None, Verdict] = {
        Verdict.SUPPORTED: Verdict.CONTRADICTED,
        Verdict.CONTRADICTED: Verdict.SUPPORTED,
    }
    return Finding(turned.get(copied.verdict, Verdict.UNDECIDED), copied.text)


def _copies_less(evidence: Evidence, entry: Entry, plain: Sequence[Entry], name: str) -> Finding:
    """Against the plain entry that copies least."""
    if not plain:
        return unmeasured(f"There is no plain autoencoder to compare the {metric(name).title} of {entry.name} with")
    rival = min(plain, key=lambda other: evidence.mean(other, name).mean)
    less = interval(evidence.values(rival, name) - evidence.values(entry, name), len(plain))
    verdict = judge(less, 0, ABOVE)
    says = {Verdict.SUPPORTED: "less by", Verdict.CONTRADICTED: "more by"}.get(verdict)
    return Finding(
        verdict,
        f"{metric(name).title}: {entry.name} {shown(evidence.mean(entry, name), name)}, {rival.name} "
        f"{shown(evidence.mean(rival, name), name)}; {told(less, name, says)}.",
    )


def representation(evidence: Evidence) -> Claim:
    """What simple classifiers read off the codes."""
    plain = [entry for entry in evidence.entries if entry.plain]
    denoisers = [entry for entry in evidence.entries if not entry.clean and entry.pixels is None]
    names = [name for name in metrics.REPRESENTATION if metric(name).better and evidence.having(name)]
    return Claim(
        "representation",
        "Denoising learns the better representation.",
        "It does where simple classifiers on the codes of the best denoising autoencoder are more often right than on "
        "those of the best plain one.",
        [better(evidence, name, denoisers, plain, "denoising and plain autoencoders") for name in names]
        or [unmeasured("Nothing was learned from the codes")],
        metrics.REPRESENTATION,
        [entry for name in names for entry in evidence.having(name)],
    )


def dial(evidence: Evidence) -> Claim:
    """The geometry of a code that is a distribution against that of a code that is a point."""
    plain = [entry for entry in evidence.entries if entry.plain]
    names = [name for name in metrics.GEOMETRY if metric(name).better and evidence.having(name)]
    return Claim(
        "dial",
        "A distribution for each attribute makes it a dial: it turns smoothly, and turns nothing else.",
        "It does where the code of the best variational autoencoder is smoother than that of the best plain one, and "
        "its dimensions move less of each other.",
        [better(evidence, name, evidence.variational, plain, "variational and plain autoencoders") for name in names]
        or [unmeasured("No code was turned and looked at")],
        metrics.GEOMETRY,
        [entry for name in names for entry in evidence.having(name)],
    )


def bound(evidence: Evidence) -> Claim:
    """−ELBO against a tighter bound on the same."""
    return Claim(
        "bound",
        "A variational autoencoder minimises an upper bound on −log p(x), not −log p(x) itself.",
        "It does where −ELBO lies above a tighter bound on the same quantity. Their difference is at most the gap, "
        "KL(q(z|x) ‖ p(z|x)).",
        [_looser(evidence, entry) for entry in evidence.having("neg_elbo", "nll")]
        or [unmeasured("No entry defines an importance-weighted bound")],
    )


def _looser(evidence: Evidence, entry: Entry) -> Finding:
    """By how much −ELBO lies above; both errors, of the seeds and of Monte Carlo, widen the interval."""
    seeds = interval(evidence.values(entry, "neg_elbo") - evidence.values(entry, "nll"))
    noise = math.hypot(*(_error(evidence, entry, name) for name in ("neg_elbo_error", "nll_error")))
    half = seeds.half if seeds.known or not noise else 0.0  # one seed has no interval, but noise of its own
    margin = Interval(seeds.mean, half + QUANTILE * noise)
    text = (
        f"{entry.name}: −ELBO {shown(evidence.mean(entry, 'neg_elbo'), 'neg_elbo')}, importance-weighted bound "
        f"{shown(evidence.mean(entry, 'nll'), 'neg_elbo')}; −ELBO minus bound is {shown(margin, 'neg_elbo')}, Monte "
        "Carlo error included"
    )
    return Finding(judge(margin, 0, ABOVE), sure(margin, text) + ".")


def _error(evidence: Evidence, entry: Entry, name: str) -> float:
    """The Monte Carlo error of one seed, as large as if all seeds shared it; 0 if it is not there."""
    errors = evidence.values(entry, name)
    return float(np.sqrt(np.mean(np.square(errors)))) if len(errors) else 0.0


def collapse(evidence: Evidence) -> Claim:
    """How much of a code says something: active dimensions of a continuous one, used codes of a discrete one."""
    continuous = list(_in_use(evidence, "active_units", "latent dimensions are active"))
    discrete = list(_in_use(evidence, "codes_used", "codes are in use"))
    findings = [Finding(None, text) for _, _, text in (*continuous, *discrete)]
    verdict = together(judge(share, COLLAPSED, ABOVE) for _, share, _ in discrete)
    if not continuous or not discrete:
        verdict = Verdict.UNMEASURED
        findings.append(unmeasured("It takes entries with a continuous and with a discrete code"))
    elif verdict is Verdict.SUPPORTED and not any(share.side(COLLAPSED) == BELOW for _, share, _ in continuous):
        verdict = Verdict.UNDECIDED
        findings.append(Finding(verdict, "No continuous code is known to have collapsed: there was nothing to avoid."))
    return Claim(
        "collapse",
        "Discrete codes avoid posterior collapse.",
        f"They do where a continuous code has collapsed, less than {100 * COLLAPSED:g} % of its dimensions being "
        f"active, while the discrete ones have not: more than {100 * COLLAPSED:g} % of their codes are in use.",
        findings,
        ("active_units", "codes_used", "perplexity", "rate"),
        [entry for entry, _, _ in (*continuous, *discrete)],
        verdict,
    )


def _in_use(evidence: Evidence, name: str, what: str) -> Iterator[tuple[Entry, Interval, str]]:
    """Entries with the share of their code that is in use, and that in words."""
    says = {ABOVE: "it has not collapsed", BELOW: "it has collapsed"}
    for entry in evidence.having(name):
        values = evidence.values(entry, name)
        units = evidence.values(entry, "latent_units")
        size = round(units.mean()) if len(units) else code_size(entry)
        if size:
            share = interval(values / size)
            text = f"{entry.name}: {shown(interval(values), name)} of {size} {what}"
            if len(evidence.values(entry, "perplexity")):
                text += f", perplexity {shown(evidence.mean(entry, 'perplexity'), 'perplexity')}"
            text += f"; {says.get(share.side(COLLAPSED), 'whether it has collapsed cannot be told')}"
            yield entry, share, sure(share, text) + "."


def code_size(entry: Entry) -> int:
    """The codes of all codebooks; 0 where the parameters do not say."""
    keys = entry.parameters
    if "quantizer.levels" in keys:
        return math.prod(keys["quantizer.levels"])
    return int(keys.get("quantizer.codes", 0)) * int(keys.get("quantizer.depth", 1))


def closeness(evidence: Evidence) -> Claim:
    """Encoder outputs against their codes."""
    answering = evidence.having("code_distance")
    findings = []
    for entry in answering:
        distance = evidence.mean(entry, "code_distance")
        text = f"{entry.name}: the squared distance is {percent(distance)} of the squared norm"
        findings.append(Finding(judge(distance, CLOSE, BELOW), sure(distance, text) + "."))
    return Claim(
        "closeness",
        "The encoder's output stays close to the codebook.",
        f"It does where its squared distance to its code is less than {100 * CLOSE:g} % of its squared norm.",
        findings or [unmeasured("No entry that finished has a codebook")],
    )


def prior(evidence: Evidence) -> Claim:
    """A learned prior against the uniform one, and its samples against those of a variational autoencoder."""
    answering = evidence.having("rate", "rate_uniform")
    findings = []
    for entry in answering:
        uniform = evidence.values(entry, "rate_uniform")
        saved = interval(uniform - evidence.values(entry, "rate"))
        share = interval(1 - evidence.values(entry, "rate") / uniform)
        text = (
            f"{entry.name}: a code costs {shown(evidence.mean(entry, 'rate'), 'rate')} under the learned prior, "
            f"{shown(interval(uniform), 'rate')} under the uniform one; {shown(saved, 'rate')} "
            f"({percent(share)}) are saved"
        )
        findings.append(Finding(judge(saved, 0, ABOVE), sure(saved, text) + "."))
    names = [name for name in metrics.SAMPLES if metric(name).better and evidence.having(name)]
    whose = "discrete and variational autoencoders"
    findings += [better(evidence, name, answering, evidence.variational, whose) for name in names]
    if answering and not names:
        findings.append(unmeasured("No samples were compared with the data"))
    return Claim(
        "prior",
        "The learned prior makes discrete codes generative.",
        "It does where it needs fewer nats for a code than the uniform prior, and where its samples are better than "
        "those of the best variational autoencoder.",
        findings or [unmeasured("No entry that finished has a learned prior over discrete codes")],
        ("rate", "rate_uniform", *metrics.SAMPLES),
        [*answering, *(entry for entry in evidence.variational if entry in evidence.having(*names) and names)],
    )


def quantisers(evidence: Evidence) -> Claim:
    """Entries that differ in nothing but how their codes are made."""
    families: dict[tuple[object, ...], list[Entry]] = {}
    for entry in evidence.discrete:
        rest = {key: value for key, value in entry.parameters.items() if not key.startswith("quantizer.")}
        families.setdefault((repr(sorted(rest.items())), code_size(entry)), []).append(entry)
    answering = max(families.values(), key=len, default=[])
    findings = []
    if len(answering) > 1:
        findings = [_differ(evidence, name, answering) for name in TOLD_APART_BY]
    return Claim(
        "quantisers",
        "How the codebook learns matters: straight-through gradients, moving averages, rotation.",
        "It does where entries that differ in their quantiser alone, with codebooks of one size, can be told apart.",
        findings
        or [unmeasured("No two entries differ in their quantiser alone; `make recipe NAME=fashion-codes` trains such")],
        ("codes_used", "perplexity", "code_distance", "psnr", "rate"),
        answering if findings else (),
    )


def _differ(evidence: Evidence, name: str, entries: Sequence[Entry]) -> Finding:
    """The highest against each of the others."""
    if not all(entry in evidence.having(name) for entry in entries):
        return unmeasured(f"{metric(name).title} is not there for all of {listed(entry.name for entry in entries)}")
    first, *others = sorted(entries, key=lambda entry: -evidence.mean(entry, name).mean)
    pairs = math.comb(len(entries), 2) * len(TOLD_APART_BY)
    leads = {other: interval(evidence.values(first, name) - evidence.values(other, name), pairs) for other in others}
    ties = [other.name for other, lead in leads.items() if lead.side(0) != ABOVE]
    told_apart = {judge(lead, 0, ABOVE) for lead in leads.values()}
    verdict = Verdict.SUPPORTED if Verdict.SUPPORTED in told_apart else Verdict.UNDECIDED
    values = listed(f"{entry.name} {shown(evidence.mean(entry, name), name)}" for entry in (first, *others))
    ends = f"{listed(ties)} cannot be told apart from {first.name}" if ties else f"{first.name} is above all others"
    return Finding(verdict, f"{metric(name).title}: {values}; {ends}.")
