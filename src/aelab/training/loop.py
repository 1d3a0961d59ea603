"""The training of a model: `train` runs all phases, and `fit` is the training loop of one phase.

A phase is the training of one module, such as an autoencoder or the prior over its codes. The seed and the number of
the epoch determine the order of the data and all other randomness in the epoch. Therefore an epoch does not depend on
how many random numbers earlier epochs have drawn.
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
    """Options that do not change the result of a training: progress display, snapshots and a memory limit.

    Attributes:
        label: name in front of the progress lines.
        follow: function that receives the name of a phase and each new point of the phase's training curve. In a
            resumed training, the function receives only the points after the snapshot.
        store: store of snapshots. The training resumes from the latest snapshot, if there is one.
        room: largest size of the data, in bytes, that may be kept on the device; by default the result of
            `devices.room`. Larger data is read from disk during the training.
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
    """Train a model, phase by phase.

    The function changes the model in place. Afterwards, the module of each phase has the weights with the lowest
    validation loss, and the model is in evaluation mode.

    Args:
        model: a new model with its initial weights, on the device to train on.
        images: training images, uint8 (N, C, H, W), or `Pairs` of inputs and targets. There may be several versions of
            the inputs, as in `fit`.
        validation: validation images, uint8 (N, C, H, W), or `Pairs`.
        budget: steps, batch size and learning rate of every phase that does not override them.
        seed: seed of the order of the data and of the noise.
        options: precision, execution mode, and number of validations; by default `TrainingOptions()`.
        dynamic: whether each step binarises the training images at random, with a pixel's gray value as the probability
            of white. If a phase trains on codes of the images, as a prior does, the images are binarised only once,
            before their codes are computed. Validation images are not binarised.
        session: options that do not change the result; by default `Session()`.

    Returns:
        The result of each phase by name. The training ends after a phase that diverges.

    Raises:
        UserError: the images do not fit the model, the budget is not a `Budget`, `Step` or `GraphedStep` rejects the
            model, or the processes of the training find different snapshots.
        Stopped: `session.store` asked the training to stop.
    """
    options, session = options or TrainingOptions(), session or Session()
    images, validation = Pairs.of(images), Pairs.of(validation)
    check_model(model)
    images.check(model.image, "training images", versions=True)
    validation.check(model.image, "validation images")
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
    """Train a module in one phase. The module ends with the weights that had the lowest validation loss.

    Every batch is full. With a GPU, the host starts the next steps before a step is finished, and reads the losses of
    the step later. Therefore the GPU itself compares the validation losses and keeps the best weights.

    Args:
        module: the module, on the device to train on.
        train: targets (N, …), and R versions of the inputs, (R·N, …). In epoch t, sample i has the version
            (i + t) mod R.
        validation: targets, and one input for each target.
        budget: steps, batch size, peak learning rate and schedule.
        seed: seed of the order of the data and of the noise.
        options: precision, execution mode, number of points of the curve, and number of validations.
        dynamic: whether each step binarises the training samples at random.
        phase: name of the phase.
        session: options that do not change the result; by default `Session()`.
        state: state of the whole training; None if this phase is the whole training.

    Returns:
        The curve of the phase, and how the phase ended.

    Raises:
        UserError: `Step` or `GraphedStep` rejects the module, or the processes of the training find different
            snapshots.
        Stopped: `session.store` asked the training to stop.
    """
    # The function is longer than 60 lines, because the loop is easier to read in one piece.
    session = session or Session()
    state = state or TrainingState(module, session.store)
    device, count, steps = device_of(module), len(train.targets), budget.steps

    # ---- All data of a step is on the device, so the host does not wait for the device.
    batch = min(budget.batch_size, count)
    per_epoch = count // batch  # steps in an epoch; each epoch leaves out the samples that would not fill a batch
    room = devices.room(device) if session.room is None else session.room
    batches = source(train, batch, device, room)
    step = Step(module, batches, budget, options.precision, samples=count, dynamic=dynamic)
    run_step = GraphedStep(step) if options.mode == "graph" and device.type == "cuda" else step

    # ---- Losses to measure: a mean training loss for each group of `every` steps, and a validation loss after each
    # step in `validated`.
    validate = Validation(module, validation, steps, options.precision, room=room, samples=count)
    every = max(1, steps // options.points)
    turns = range(1, options.validations + 1)
    validated = {math.ceil(steps * turn / options.validations) for turn in turns}  # includes the last step
    progress = Progress(f"{session.label} {phase}".strip(), steps, batch)
    curve = Curve(progress, device, lambda point: session.follow(phase, point), state.elapsed)
    keep_pace = devices.Pace(device)

    # ---- The loop. The host has started `state.done` steps, and the device has finished `step.position` steps.
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
            validate.alive &= means["loss"].isfinite()  # weights after a divergence must not become the best weights
            curve.put("train", number, means)
        if number in validated:
            curve.put("validation", number, validate(number))
        if curve.collect(wait=process_group.size() > 1):  # waiting lets all processes stop after the same step
            break
        if number < steps and state.due():
            if curve.collect(wait=True):  # a snapshot needs all losses so far, and one may be NaN
                break
            state.save()
    curve.collect(wait=True)
    curve.progress.close()

    # ---- The module gets the weights with the lowest validation loss.
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
    """Set the order of the samples in an epoch, and seed the random generators at the start of the epoch.

    If a training resumes in the middle of an epoch, the snapshot has set the state of the generators. The device's
    default generator is seeded too, because layers such as `nn.Dropout` draw from this generator.
    """
    rng = np.random.default_rng([seed, epoch])
    batches.start(epoch, rng.permutation(count), batches_done)
    if batches_done == 0:
        generator.manual_seed(int(rng.integers(2**62)))
        devices.default_generator(generator.device).manual_seed(int(rng.integers(2**62)))


@torch.no_grad()
def represent(phase: Phase, images: Pairs, *, binarised: bool = False) -> Pairs:
    """Return the data that a phase learns: images, or codes of images.

    Args:
        phase: the phase. Its attribute `represent` is a function that computes codes, or None for images.
        images: inputs and targets. Codes are computed from the targets.
        binarised: whether to binarise the images at random, once, before their codes are computed.

    Returns:
        `images`, or pairs whose inputs and targets are both the codes. Large arrays of codes are on disk.
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
