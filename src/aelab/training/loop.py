"""The training loop: one function for every variant and every phase.

The order of the data comes from (seed, epoch), all other randomness from a generator that is seeded with (seed, epoch)
too: no epoch depends on how many random numbers an earlier one has drawn.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelab.core import arrays, devices, process_group
from aelab.core.errors import UserError
from aelab.core.settings import Budget, TrainingOptions
from aelab.core.tensors import BATCH, as_float, binarise, device_of
from aelab.data.checks import described
from aelab.data.pairs import Pairs
from aelab.models.base import Autoencoder, Learner, Phase, check_model
from aelab.training.batches import Source, source
from aelab.training.curve import Curve, Point, Progress
from aelab.training.state import CheckpointStore, PhaseResult, TrainingState
from aelab.training.step import GraphedStep, Step
from aelab.training.validation import Validation


@dataclass(frozen=True)
class Session:
    """What surrounds a training and changes none of its numbers.

    Attributes:
        label: what the progress is shown under.
        follow: called with the phase's name and each point of its curve as soon as it is known; after a snapshot, with
            those that are new since.
        store: of snapshots; the training goes on from the one that it has.
        room: bytes of samples that may lie on the device, by default what `devices.room` says; more than that are read
            from disk on the way.
    """

    label: str = ""
    follow: Callable[[str, Point], None] = lambda *_: None
    store: CheckpointStore | None = None
    room: int | None = None


def train(
    model: Autoencoder,
    images: Pairs | arrays.Array,
    validation: Pairs | arrays.Array,
    budget: Budget,
    *,
    seed: int,
    options: TrainingOptions | None = None,
    dynamic: bool = False,
    session: Session | None = None,
) -> dict[str, PhaseResult]:
    """Train a new `model` through all its phases, on the device that it is on.

    It is changed in place: to the weights with the lowest validation loss, in evaluation mode.

    Args:
        model: with its initial weights.
        images: uint8 (N, C, H, W), or pairs as for `fit` of what the model sees and what it is to give back.
        validation: likewise.
        budget: of every phase that does not override it.
        seed: of the data's order and the noise.
        options: precision, mode, how often to validate.
        dynamic: whether the training images are binarised anew in each step, white with the gray value as probability;
            a later phase learns from one binarisation of each. The validation images are taken as they are.
        session: who follows, and where snapshots lie.

    Returns:
        The result of each phase by name; a phase that diverges is the last one.

    Raises:
        UserError: the images are not of the model's, a training step cannot be recorded on a GPU, or processes find
            different snapshots.
        Stopped: the session's store said so.
    """
    options, session = options or TrainingOptions(), session or Session()
    images, validation = Pairs.of(images), Pairs.of(validation)
    check_model(model)
    images.check(model.image, "images to learn from", versions=True)
    validation.check(model.image, "images to validate on")
    if not isinstance(budget, Budget):
        msg = f"the budget must be an aelab.Budget(steps=…, …); got {next(described(budget))}"
        raise UserError(msg)
    with model.unchecked():
        first_look = Pairs.of(images.targets).thinned(model.start_images).targets
        model.start_from(as_float(first_look).to(device_of(model)))
        state = TrainingState(model, session.store)
        phases = model.phases()
        for phase in phases[len(state.results) :]:
            model.eval()
            result = fit(
                phase.module,
                represent(phase, images, binarised=dynamic),
                represent(phase, validation.thinned(options.validation_images)),
                budget.override(phase.training),
                seed=seed,
                options=options,
                dynamic=dynamic and phase.represent is None,
                phase=phase.name,
                session=session,
                state=state,
            )
            if result.diverged_at_step:
                break
            if len(state.results) < len(phases):
                state.save_between(phases[len(state.results)].name)
        model.eval()
    return state.results


def fit(
    module: Learner,
    train: Pairs,
    validation: Pairs,
    budget: Budget,
    *,
    seed: int,
    options: TrainingOptions,
    dynamic: bool = False,
    phase: str = "",
    session: Session | None = None,
    state: TrainingState | None = None,
) -> PhaseResult:
    """Train `module` and leave it with the weights whose validation loss was lowest.

    The learning rate follows its schedule over the whole budget. Every batch is full. No step waits for the device, of
    which the host stays some steps ahead: losses are read when they have arrived, and the device itself compares the
    validation losses and keeps the best weights.

    Args:
        module: on the device to train on.
        train: inputs (R·N, …) in R versions, targets (N, …); sample i of epoch t is seen in version (i + t) mod R.
        validation: likewise with R = 1.
        budget: how many steps, of how many samples, at what peak learning rate.
        seed: of the data's order and the noise.
        options: precision, mode, how many points the curve has and how often to validate.
        dynamic: whether to binarise the training samples anew in each step.
        phase: its name.
        session: who follows, and what there is room for.
        state: of the training that this is a phase of; without one, the module is all of it.
    """
    # Over 60 lines: a third is the docstring, and the loop reads best in one piece.
    session = session or Session()
    state = state or TrainingState(module, session.store)
    device, count, steps = device_of(module), len(train.targets), budget.steps

    # ---- A step finds all that it needs on the device, so that the host runs ahead.
    batch = min(budget.batch_size, count)
    per_epoch = count // batch  # steps; what fills no batch has its turn in another epoch's order
    room = devices.room(device) if session.room is None else session.room
    batches = source(train, batch, device, room)
    step = Step(module, batches, budget, options.precision, samples=count, dynamic=dynamic)
    run_step = GraphedStep(step) if options.mode == "graph" and device.type == "cuda" else step

    # ---- What is looked at on the way: `points` means of the training loss, `validations` of the held-out one.
    validate = Validation(module, validation, steps, options.precision, room=room, samples=count)
    every = max(1, steps // options.points)
    turns = range(1, options.validations + 1)
    validated = {math.ceil(steps * turn / options.validations) for turn in turns}  # the last step is one of them
    progress = Progress(f"{session.label} {phase}".strip(), steps, batch)
    curve = Curve(progress, device, lambda point: session.follow(phase, point))
    keep_pace = devices.Pace(device)

    # ---- The loop. `state.done` is the one position on the host; `step.position` mirrors it on the device.
    state.begin(phase, step, validate, curve)
    first = state.done + 1
    for number in range(first, steps + 1):
        epoch, batches_done = divmod(number - 1, per_epoch)
        if batches_done == 0 or number == first:
            _begin_epoch(seed, epoch + 1, batches_done, batches, step.generator, count)
        batches.fetch()
        run_step()
        keep_pace()
        state.done = number
        step.stop_votes.sync()
        if number % every == 0 or number == steps:
            means = step.means.take((number - 1) % every + 1)
            validate.alive &= means["loss"].isfinite()  # else weights from after a divergence could become the best
            curve.put("train", number, means)
        if number in validated:
            curve.put("validation", number, validate(number))
        if curve.collect(wait=process_group.size() > 1):  # all processes have to notice a divergence at the same step
            break
        if number < steps and state.due():
            if curve.collect(wait=True):  # a snapshot holds what was in flight, and a divergence may have been
                break
            state.save()
    curve.collect(wait=True)
    curve.progress.close()

    # ---- The best weights win.
    seconds = state.seconds()
    module.eval().load_state_dict(validate.best)
    result = PhaseResult(
        curve.points, int(validate.best_step), curve.diverged, curve.cause, state.done * batch, *seconds
    )
    state.end(result)
    return result


def _begin_epoch(
    seed: int, epoch: int, batches_done: int, batches: Source, generator: torch.Generator, count: int
) -> None:
    """Put the samples into the epoch's order and seed its noise; in the middle of one, the noise goes on as it was.

    The device's own generator is seeded, too: layers such as `nn.Dropout` draw from that one.
    """
    rng = np.random.default_rng([seed, epoch])
    batches.start(epoch, rng.permutation(count), batches_done)
    if batches_done == 0:
        generator.manual_seed(int(rng.integers(2**62)))
        devices.default_generator(generator.device).manual_seed(int(rng.integers(2**62)))


@torch.no_grad()
def represent(phase: Phase, images: Pairs, *, binarised: bool = False) -> Pairs:
    """What the module of `phase` learns from: the images, or codes of the clean ones, on disk where they are many; with
    `binarised`, of one binarisation of them.
    """
    if phase.represent is None:
        return images
    device = device_of(phase.module)
    generator = torch.Generator(device).manual_seed(0)

    def codes(stored: Tensor) -> NDArray[np.int32]:
        x = as_float(stored.to(device))
        (x,) = binarise(generator, x) if binarised else (x,)
        return phase.represent(x).to("cpu", torch.int32).numpy()  # type: ignore[misc]

    shape = codes(torch.from_numpy(arrays.writable(images.targets[:1]))).shape[1:]
    found = arrays.scratch((len(images.targets), *shape), np.int32)
    for start, (x, _) in enumerate(Pairs(images.targets, images.targets).split(BATCH)):
        found[start * BATCH : (start + 1) * BATCH] = codes(x)
        arrays.release(found)
    return Pairs(found, found)
