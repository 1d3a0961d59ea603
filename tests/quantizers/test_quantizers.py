import itertools
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from aelab.core.registry import keys_of
from aelab.models import checkpoint
from aelab.models.checkpoint import build
from aelab.models.quantizer import GRADIENTS, QUANTIZERS, Gradient, Quantizer, rows
from aelab.quantizers._vectors import DEAD, UNBORN, NearestVector, VectorQuantizer
from aelab.quantizers.bsq import BinarySpherical
from aelab.quantizers.codebook import Codebook
from aelab.quantizers.ema import MovingAverages
from aelab.quantizers.fsq import SPREAD, FiniteScalar
from aelab.quantizers.residual import Residual
from tests.support.toys import IMAGE, PARAMETERS, SECTIONS, batch

VECTORS = [Codebook, MovingAverages]


@pytest.fixture
def z_e(generator: torch.Generator) -> Tensor:
    return torch.randn(6, 3, 4, 5, generator=generator, requires_grad=True)


def trained(name: str, z_e: Tensor, generator: torch.Generator, **keys: Any) -> Any:
    """A quantiser in evaluation mode, after a few training batches: its vectors are not all the same."""
    torch.manual_seed(0)
    quantizer = QUANTIZERS.build({"name": name} | SECTIONS[name] | keys)
    for shift in (0.0, 0.1, 0.2):
        quantizer(quantizer.bound(z_e.detach() + shift), generator)
    return quantizer.eval()


@pytest.fixture(params=QUANTIZERS.available())
def quantizer(request: pytest.FixtureRequest, z_e: Tensor, generator: torch.Generator) -> Quantizer:
    made = trained(request.param, z_e, generator)
    assert isinstance(made, Quantizer)
    return made


@pytest.fixture(params=["codebook", "ema"])
def vectors(request: pytest.FixtureRequest, z_e: Tensor, generator: torch.Generator) -> VectorQuantizer:
    made = trained(request.param, z_e, generator)
    assert isinstance(made, VectorQuantizer)
    return made


@pytest.fixture(params=["codebook", "ema", "simvq"])
def nearest(request: pytest.FixtureRequest, z_e: Tensor, generator: torch.Generator) -> NearestVector:
    made = trained(request.param, z_e, generator)
    assert isinstance(made, NearestVector)
    return made


@pytest.fixture
def codebook(z_e: Tensor, generator: torch.Generator) -> Codebook:
    made = trained("codebook", z_e, generator)
    assert isinstance(made, Codebook)
    return made


# Properties of every quantiser.


def test_a_code_is_a_fixed_point(quantizer: Quantizer, z_e: Tensor) -> None:
    """The code of a code's vector is the same code. For a sum over levels, at least the vector is the same."""
    indices = quantizer.quantise(quantizer.bound(z_e))
    e = quantizer.look_up(indices)
    assert e.shape == z_e.shape
    if isinstance(quantizer, Residual):
        first, k = cast("Codebook", quantizer.levels[0]), indices[..., ::4]
        assert first.quantise(first.look_up(k)).equal(k)
    else:
        assert quantizer.quantise(e).equal(indices)


def test_indices_fill_the_grid_and_stay_below_k(quantizer: Quantizer, z_e: Tensor, generator: torch.Generator) -> None:
    indices = quantizer.quantise(quantizer.bound(z_e))
    assert indices.shape == (6, *quantizer.grid((4, 5)))
    assert indices.dtype == torch.int64
    assert ((indices >= 0) & (indices < quantizer.codes)).all()
    assert quantizer(quantizer.bound(z_e), generator).indices.equal(indices)


def test_counts_are_those_of_the_entries(quantizer: Quantizer, z_e: Tensor) -> None:
    indices = quantizer.quantise(quantizer.bound(z_e))
    counts = quantizer.counts(indices)
    levels = quantizer.entries // quantizer.codes
    numbers = indices.numpy() + quantizer.codes * (np.arange(indices.shape[-1]) % levels)
    assert counts.tolist() == np.bincount(numbers.flatten(), minlength=quantizer.entries).tolist()


def test_in_value_z_q_is_the_code_to_the_bit(quantizer: Quantizer, z_e: Tensor, generator: torch.Generator) -> None:
    quantized = quantizer(quantizer.bound(z_e), generator)
    assert quantized.z_q.equal(quantizer.look_up(quantized.indices))


def test_straight_through_hands_the_gradient_on(quantizer: Quantizer, z_e: Tensor, generator: torch.Generator) -> None:
    bounded = quantizer.bound(z_e).detach().requires_grad_()
    weights = torch.randn(z_e.shape, generator=generator)
    (quantizer(bounded, generator).z_q * weights).sum().backward()
    assert bounded.grad is not None
    torch.testing.assert_close(bounded.grad, weights)
    assert all(parameter.grad is None for parameter in quantizer.parameters())


def test_evaluation_changes_nothing(quantizer: Quantizer, z_e: Tensor, generator: torch.Generator) -> None:
    for name, value in quantizer.named_buffers():
        if name.endswith("usage"):
            value.zero_()  # every code is dead, so training would restart all codes
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.eval()(quantizer.bound(z_e + 1), generator)
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())


def test_bfloat16_picks_the_same_codes(quantizer: Quantizer, z_e: Tensor) -> None:
    expected = quantizer.quantise(quantizer.bound(z_e))
    e = quantizer.look_up(expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert quantizer.quantise(quantizer.bound(z_e)).equal(expected)
        assert quantizer.look_up(expected).equal(e)


def test_its_state_is_all_there_is(quantizer: Quantizer, z_e: Tensor, generator: torch.Generator) -> None:
    """A new quantiser with the state of the old quantiser continues with the same bits."""
    name = type(quantizer).__module__.rpartition(".")[2]
    other = QUANTIZERS.build({"name": name} | SECTIONS[name])
    other.load_state_dict(quantizer.state_dict())
    state = generator.get_state()
    for each in (quantizer.train(), other.train()):
        generator.set_state(state)
        for shift in (0.0, 3.0):
            each(each.bound(z_e.detach() + shift), generator)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in quantizer.state_dict().items())


@pytest.mark.parametrize("name", QUANTIZERS.available())
def test_no_shape_and_no_number_of_the_host_depends_on_the_data(name: str, generator: torch.Generator) -> None:
    """A GPU replays a recorded step. Fake tensors hold no data and refuse every operation that reads values."""
    with FakeTensorMode():
        has_gradient = "gradient" in {key.name for key in keys_of(QUANTIZERS.find(name))}
        for keys in [{"gradient": gradient} for gradient in GRADIENTS] if has_gradient else [{}]:
            quantizer = QUANTIZERS.build({"name": name} | SECTIONS[name] | keys)
            z = torch.empty(6, 3, 4, 5, requires_grad=True)
            quantized = quantizer(quantizer.bound(z), generator)
            (quantized.z_q.sum() + quantized.codebook_loss + quantized.commitment_loss).backward()
        with pytest.raises(DynamicOutputShapeException):
            quantized.indices.flatten().bincount()


@pytest.mark.parametrize("name", QUANTIZERS.available())
def test_a_vqvae_is_built_with_it_saved_and_measured(
    name: str, x: Tensor, generator: torch.Generator, tmp_path: Any
) -> None:
    model: Any = build("vqvae", IMAGE, PARAMETERS["vqvae"] | {"quantizer": {"name": name} | SECTIONS[name]}, seed=0)
    losses = model.loss(batch(x, x, generator))
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    model.eval()
    positions = math.prod(model.quantizer.grid((2, 2)))
    with torch.no_grad():
        metrics = model.measure([x[:40], x[40:]], generator)
        samples = model.sample(3, generator)
    assert metrics["rate_uniform"] == pytest.approx(positions * np.log(model.quantizer.codes))
    assert metrics["codes_used"] <= model.quantizer.entries
    assert 1 <= metrics["perplexity"] <= metrics["codes_used"] + 1e-6
    assert 0 <= metrics["code_distance"] < 1.5
    assert model.code_counts([x]).shape == (model.quantizer.entries,)
    assert model.code_counts([x]).sum() == 64 * positions
    assert samples.shape == (3, *IMAGE)
    checkpoint.save(model, tmp_path / "model")
    assert checkpoint.load(tmp_path / "model").reconstruct(x).equal(model.reconstruct(x))


# Vectors: the nearest vector is the code, and dead codes restart.


def test_codes_are_the_nearest_in_l2(nearest: NearestVector, z_e: Tensor) -> None:
    rows_ = z_e.detach().numpy().transpose(0, 2, 3, 1)
    distances = np.linalg.norm(rows_[..., None, :] - nearest.vectors.detach().numpy(), axis=-1)
    assert np.array_equal(nearest.quantise(z_e).numpy(), distances.argmin(-1))


def test_commitment_loss_moves_the_encoder_only(
    nearest: NearestVector, z_e: Tensor, generator: torch.Generator
) -> None:
    nearest(z_e, generator).commitment_loss.backward()
    assert all(parameter.grad is None for parameter in nearest.parameters())
    assert z_e.grad is not None
    assert z_e.grad.abs().sum() > 0


def test_commitment_loss_is_the_squared_distance_summed_per_image(
    nearest: NearestVector, z_e: Tensor, generator: torch.Generator
) -> None:
    quantized = nearest(z_e, generator)
    expected = (z_e - nearest.look_up(quantized.indices)).square().sum() / len(z_e)
    torch.testing.assert_close(quantized.commitment_loss, expected)


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("codes", [50, 120, 150])
def test_every_code_starts_as_another_output(
    codes: int, kind: type[Codebook], z_e: Tensor, generator: torch.Generator
) -> None:
    """There are 120 outputs. With more than 120 codes, the rest waits for the next batch."""
    quantizer = kind(codes=codes, dimensions=3)
    quantizer.restart(z_e, generator)
    started = quantizer.vectors.detach()[quantizer.usage != UNBORN]
    assert len(started.unique(dim=0)) == min(codes, 120)
    assert (started[:, None] == rows(z_e)).all(2).any(1).all()
    quantizer.restart(z_e.detach() + 1, generator)
    assert len(quantizer.vectors.detach().unique(dim=0)) == codes


def test_dead_codes_restart_and_living_ones_stay(
    vectors: VectorQuantizer, z_e: Tensor, generator: torch.Generator
) -> None:
    vectors.usage.fill_(1.0)
    vectors.usage[2] = DEAD / 2
    before = vectors.vectors.detach().clone()
    vectors.restart(z_e, generator)
    assert (vectors.vectors != before).any(1).tolist() == [i == 2 for i in range(7)]


@pytest.mark.parametrize("name", ["codebook", "ema"])
@pytest.mark.parametrize("restarts", [True, False])
def test_without_restarts_a_dead_code_stays_dead(
    name: str, z_e: Tensor, generator: torch.Generator, *, restarts: bool
) -> None:
    quantizer = trained(name, z_e, generator, restarts=restarts).train()
    z = z_e.detach()
    with torch.no_grad():
        quantizer.vectors[2] = 1e6  # no output comes near
    if name == "ema":
        quantizer.sums[2] = 1e6 * quantizer.usage[2]
    for _ in range(600):
        quantizer(z, generator)
    used = quantizer.counts(quantizer.quantise(z)) > 0
    assert (quantizer.vectors[2].norm() < 10).item() == restarts
    assert used[2].item() == restarts


def test_without_restarts_the_codebook_starts_as_van_den_oord_has_it(z_e: Tensor, generator: torch.Generator) -> None:
    quantizer = Codebook(codes=50, dimensions=3, restarts=False)
    before = quantizer.vectors.detach().clone()
    assert before.abs().max() <= 1 / 50
    assert len(before.unique(dim=0)) == 50
    quantizer(z_e, generator)
    assert quantizer.vectors.equal(before)  # only gradient descent moves the vectors


# The codebook.


def test_codebook_loss_moves_the_codebook_only(codebook: Codebook, z_e: Tensor, generator: torch.Generator) -> None:
    quantized = codebook(z_e, generator)
    quantized.codebook_loss.backward()
    assert z_e.grad is None
    assert codebook.vectors.grad is not None
    assert codebook.vectors.grad.abs().sum() > 0
    assert quantized.codebook_loss == quantized.commitment_loss


def test_wrong_size_raises(codebook: Codebook, generator: torch.Generator) -> None:
    with pytest.raises(RuntimeError, match="shape"):
        codebook(torch.zeros(1, 5, 2, 2), generator)


# Moving averages.


def test_with_decay_0_codes_are_the_means_of_their_outputs(z_e: Tensor, generator: torch.Generator) -> None:
    quantizer = trained("ema", z_e, generator, decay=0.0, restarts=False).train()
    indices = quantizer(z_e, generator).indices.flatten()
    for k in indices.unique():
        torch.testing.assert_close(quantizer.vectors[k], rows(z_e.detach())[indices == k].mean(0), rtol=1e-4, atol=1e-4)


def test_codes_are_the_running_means_of_what_had_them(z_e: Tensor, generator: torch.Generator) -> None:
    """Comparison with the recursion of appendix A.1 in NumPy, with counts and without smoothing."""
    quantizer = trained("ema", z_e, generator, decay=0.9, restarts=False).train()
    uniform = 120 / 7
    count = quantizer.usage.double().numpy() * uniform
    total = quantizer.sums.double().numpy() * uniform
    for _ in range(20):
        z = torch.randn(6, 3, 4, 5, generator=generator)
        indices = quantizer(z, generator).indices.flatten().numpy()
        one_hot = np.eye(7)[indices]
        count = 0.9 * count + 0.1 * one_hot.sum(0)
        total = 0.9 * total + 0.1 * one_hot.T @ rows(z).double().numpy()
    np.testing.assert_allclose(quantizer.vectors.numpy(), total / count[:, None], rtol=1e-3, atol=1e-3)


def test_a_code_that_restarts_forgets_what_it_stood_for(z_e: Tensor, generator: torch.Generator) -> None:
    quantizer = trained("ema", z_e, generator).train()
    quantizer.usage[2] = 0.0
    quantizer.sums[2] = 1e6
    quantizer.restart(z_e, generator)
    torch.testing.assert_close(quantizer.sums[2] / quantizer.usage[2], quantizer.vectors[2])


def test_moving_averages_have_no_codebook_loss_and_nothing_to_descend(z_e: Tensor, generator: torch.Generator) -> None:
    quantizer = trained("ema", z_e, generator)
    assert quantizer(z_e, generator).codebook_loss == 0
    assert not list(quantizer.parameters())


# One matrix for all codes.


@pytest.mark.parametrize(("name", "keys", "expected"), [("simvq", {}, 50), ("codebook", {"restarts": False}, 1)])
def test_a_step_of_descent_moves_all_codes_also_those_that_nothing_has(
    name: str, keys: dict[str, Any], expected: int
) -> None:
    """The control is the codebook, where a step moves only the codes in use."""
    torch.manual_seed(0)
    quantizer: Any = QUANTIZERS.build({"name": name, "codes": 50, "dimensions": 3} | keys)
    before = quantizer.vectors.detach().clone()
    one_code = torch.full((2, 3, 4, 4), 0.1)
    quantizer(one_code, torch.Generator().manual_seed(0)).codebook_loss.backward()
    torch.optim.SGD(quantizer.parameters(), 0.1).step()
    assert (quantizer.vectors != before).any(1).sum() == expected


def test_only_the_matrix_is_learned(z_e: Tensor, generator: torch.Generator) -> None:
    quantizer = trained("simvq", z_e, generator).train()
    frozen = quantizer.frozen.clone()
    quantizer(z_e, generator).codebook_loss.backward()
    assert z_e.grad is None
    assert [name for name, _ in quantizer.named_parameters()] == ["matrix.weight"]
    assert quantizer.matrix.weight.grad.abs().sum() > 0
    assert quantizer.frozen.equal(frozen)
    torch.testing.assert_close(quantizer.vectors, frozen @ quantizer.matrix.weight.T)


# Gradients.


@pytest.fixture
def pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """z_e and e, 10 grids of one place with 4 numbers. Four pairs are equal, opposite, far longer, at right angles."""
    z, e = torch.randn(2, 10, 4, 1, 1, generator=generator, dtype=torch.float64)
    e[0], e[1], e[2] = z[0], -2 * z[1], 1000 * e[2]
    z[3], e[3] = torch.eye(4, dtype=torch.float64)[:2, :, None, None]
    return z.requires_grad_(), e


def jacobians(gradient: Gradient, z: Tensor, e: Tensor) -> Tensor:
    """Jacobian ∂z_q/∂z_e of each place, (N, D, D)."""
    jacobian = torch.autograd.functional.jacobian(lambda z: GRADIENTS[gradient](z, e), z)
    return torch.stack([jacobian[i, :, 0, 0, i, :, 0, 0] for i in range(len(z))])


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_value_is_the_code(gradient: Gradient, pair: tuple[Tensor, Tensor]) -> None:
    assert GRADIENTS[gradient](*pair).equal(pair[1])


def test_the_rotation_takes_the_output_to_the_code(pair: tuple[Tensor, Tensor]) -> None:
    z, e = pair
    held = jacobians("rotation", z, e)
    torch.testing.assert_close((held @ z[..., 0])[..., 0], e[..., 0, 0])
    scale = (e.norm(dim=1) / z.norm(dim=1))[..., 0, 0]
    unit = torch.eye(4, dtype=torch.float64).expand_as(held)
    torch.testing.assert_close(held.mT @ held / scale.square()[:, None, None], unit)
    regular = [i for i in range(10) if i != 1]  # for the opposite direction, the map is a reflection
    torch.testing.assert_close((held / scale[:, None, None]).det()[regular], torch.ones(9, dtype=torch.float64))
    assert not torch.allclose(jacobians("straight_through", z, e) @ z[..., 0], e[..., 0])


def test_the_rotation_leaves_alone_what_is_at_right_angles_to_both(generator: torch.Generator) -> None:
    z, e = torch.randn(2, 1, 3, 1, 1, generator=generator, dtype=torch.float64)
    normal = torch.linalg.cross(z[0, :, 0, 0], e[0, :, 0, 0])
    scale = e.norm() / z.norm()
    torch.testing.assert_close(jacobians("rotation", z, e)[0] @ normal, scale * normal)


def test_the_gradient_is_the_held_matrix_transposed_times_that_of_the_code(
    pair: tuple[Tensor, Tensor], generator: torch.Generator
) -> None:
    z, e = pair
    weights = torch.randn(10, 4, generator=generator, dtype=torch.float64)
    held = jacobians("rotation", z, e)
    (GRADIENTS["rotation"](z, e)[..., 0, 0] * weights).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad[..., 0, 0], (held.mT @ weights[..., None])[..., 0])


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_are_finite_at_the_origin(gradient: Gradient) -> None:
    for z, e in itertools.product((torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)), repeat=2):
        assert jacobians(gradient, z, e).isfinite().all()


@pytest.mark.parametrize("name", ["codebook", "ema", "residual", "simvq"])
def test_the_gradient_is_chosen_by_its_key(name: str, z_e: Tensor, generator: torch.Generator) -> None:
    quantizer = trained(name, z_e, generator, gradient="rotation")
    weights = torch.randn(z_e.shape, generator=generator)
    quantized = quantizer(z_e, generator)
    (quantized.z_q * weights).sum().backward()
    expected = torch.autograd.grad(
        (GRADIENTS["rotation"](z_e, quantizer.look_up(quantized.indices)) * weights).sum(), z_e
    )[0]
    assert z_e.grad is not None
    torch.testing.assert_close(z_e.grad, expected)
    assert not torch.allclose(z_e.grad, weights)


# The unit sphere.


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_every_corner_of_the_cube_is_a_code_on_the_sphere_and_the_nearest_one_is_taken(bits: int) -> None:
    quantizer = BinarySpherical(bits=bits)
    every = torch.arange(2**bits).view(1, 1, -1)
    corners = quantizer.look_up(every)
    assert quantizer.quantise(corners).equal(every)
    assert rows(corners).unique(dim=0).shape == (2**bits, bits)
    torch.testing.assert_close(corners.norm(dim=1), torch.ones(1, 1, 2**bits))
    u = quantizer.bound(torch.randn(4, bits, 5, 5, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(u.norm(dim=1), torch.ones(4, 5, 5))
    assert quantizer.quantise(u).flatten().equal(torch.cdist(rows(u), rows(corners)).argmin(1))
    error = (u - quantizer.look_up(quantizer.quantise(u))).square().sum(1)
    assert error.max() <= 2 - 2 / math.sqrt(bits) + 1e-6


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 10.0])
def test_the_entropies_are_those_of_a_soft_choice_among_all_corners(sharpness: float, z_e: Tensor) -> None:
    """The reference sums over the 2^D corners, not over the bits."""
    quantizer = BinarySpherical(bits=3, entropy=0.7, sharpness=sharpness)
    u = quantizer.bound(z_e.detach())
    corners = rows(quantizer.look_up(torch.arange(8).view(1, 1, -1)))
    q = (sharpness * rows(u) @ corners.T).softmax(1)
    certain = torch.special.entr(q).sum(1).mean()
    bits = q.mean(0) @ (corners > 0).float()
    used = (torch.special.entr(bits) + torch.special.entr(1 - bits)).sum()
    quantized = quantizer(u, torch.Generator())
    torch.testing.assert_close(quantized.codebook_loss, 0.7 * 20 * (certain - used), rtol=1e-4, atol=1e-5)
    assert used >= torch.special.entr(q.mean(0)).sum() - 1e-6  # independent bits bound the entropy of the code
    assert quantized.commitment_loss == 0


@pytest.mark.parametrize("entropy", [0.0, 1.0])
def test_descent_on_the_entropies_brings_all_codes_into_use(entropy: float) -> None:
    """All outputs start in one code. Without the entropies they stay there."""
    generator = torch.Generator().manual_seed(0)
    z = (torch.randn(8, 4, 5, 5, generator=generator).abs() + 1).requires_grad_()
    quantizer, optimiser = BinarySpherical(bits=4, entropy=entropy), torch.optim.Adam([z], lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        quantizer(quantizer.bound(z), generator).codebook_loss.backward()
        optimiser.step()
    used = len(quantizer.quantise(quantizer.bound(z)).unique())
    assert used > 8 if entropy else used == 1


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_the_sphere_has_finite_gradients_everywhere(value: float) -> None:
    z = torch.full((2, 3, 4, 4), value, requires_grad=True)
    quantizer = BinarySpherical(bits=3, sharpness=100.0)
    quantized = quantizer(quantizer.bound(z), torch.Generator())
    (quantized.z_q.sum() + quantized.codebook_loss).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


# Finite scalars.


@pytest.mark.parametrize("normalise", [True, False])
def test_neither_place_nor_scale_of_the_outputs_is_left(z_e: Tensor, *, normalise: bool) -> None:
    quantizer = FiniteScalar(levels=[8, 6, 5], normalise=normalise)
    same = torch.allclose(quantizer.bound(100 * z_e - 30), quantizer.bound(z_e), atol=1e-4)
    assert same == normalise


def test_the_moments_are_those_of_batch_normalisation(z_e: Tensor, generator: torch.Generator) -> None:
    """Value and gradient in training mode, then the moving averages."""
    quantizer, reference = FiniteScalar(levels=[8, 6, 5]), torch.nn.BatchNorm2d(3, affine=False)
    for step in range(30):
        z = (2 * z_e.detach() + step % 3).requires_grad_()
        weights = torch.randn(z.shape, generator=generator)
        both = quantizer.normalised(z), SPREAD * reference(z)
        torch.testing.assert_close(*both)
        torch.testing.assert_close(*(torch.autograd.grad((each * weights).sum(), z)[0] for each in both))
    assert reference.running_mean is not None
    torch.testing.assert_close(quantizer.mean.flatten(), reference.running_mean)
    places = z_e[:, 0].numel()
    unbiased = quantizer.variance.flatten() * places / (places - 1)  # torch stores the unbiased variance
    torch.testing.assert_close(unbiased, reference.running_var, rtol=1e-2, atol=0)
    quantizer.eval()
    assert quantizer.bound(z_e)[:1].allclose(quantizer.bound(z_e[:1]))  # evaluation does not depend on the other images


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8, 16, 1000])
def test_a_number_of_any_levels_has_a_gradient_where_it_starts(levels: int) -> None:
    z = torch.zeros(1, 1, 1, 1, requires_grad=True)
    steps = FiniteScalar(levels=[levels], normalise=False).bound(z) * (levels // 2)
    (slope,) = torch.autograd.grad(steps.sum(), z)
    assert 0.8 < slope.item() / ((levels - 1) / 2) < 1.01


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [2, 3], [4], [8, 6, 5], [2] * 8])
def test_every_code_of_a_grid_of_steps_is_reached_and_they_are_evenly_spaced(levels: list[int]) -> None:
    quantizer = FiniteScalar(levels=levels, normalise=False)
    assert (quantizer.codes, quantizer.dimensions) == (math.prod(levels), len(levels))
    all_codes = torch.arange(quantizer.codes).view(1, 1, -1)
    e = quantizer.look_up(all_codes)
    assert quantizer.quantise(e).equal(all_codes)
    for i, number in enumerate(levels):
        steps = e[0, i].unique()
        torch.testing.assert_close(steps, (torch.arange(number) - number // 2) / (number // 2))
        z = torch.zeros(1, len(levels), 1, 1001)
        z[0, i, 0] = torch.linspace(-10, 10, 1001)
        assert quantizer.look_up(quantizer.quantise(quantizer.bound(z)))[0, i].unique().equal(steps)
    centre = [-0.5 if number == 2 else 0.0 for number in levels]  # for 2 levels, 0 is the border
    assert quantizer.bound(torch.zeros(1, len(levels), 1, 1)).flatten().tolist() == pytest.approx(centre, abs=1e-6)


def test_a_finite_scalar_is_the_nearest_step(z_e: Tensor) -> None:
    quantizer = FiniteScalar(levels=[8, 5, 4])
    z = quantizer.bound(3 * z_e.detach())
    all_codes = rows(quantizer.look_up(torch.arange(160).view(1, 1, -1)))
    nearest = (rows(z)[:, None] - all_codes).mul(quantizer.unit.flatten()).norm(dim=2).argmin(1)
    assert quantizer.quantise(z).flatten().equal(nearest)


def test_finite_scalars_have_no_losses_of_their_own(z_e: Tensor, generator: torch.Generator) -> None:
    quantized = trained("fsq", z_e, generator)(z_e, generator)
    assert quantized.codebook_loss == quantized.commitment_loss == 0


# Residuals.


def test_the_error_does_not_grow_with_depth(z_e: Tensor, generator: torch.Generator) -> None:
    quantizer = trained("residual", z_e, generator)
    indices = quantizer.quantise(z_e)
    left, errors = z_e.detach(), []
    for level, k in zip(quantizer.levels, indices.unflatten(2, (5, 4)).unbind(-1), strict=True):
        assert level.quantise(left).equal(k)
        left = left - level.look_up(k).detach()
        errors.append(left.square().sum().item())
    assert all(deeper < shallower for shallower, deeper in itertools.pairwise(errors))
    torch.testing.assert_close(z_e - left, quantizer.look_up(indices))


def test_each_level_loses_what_it_leaves(z_e: Tensor, generator: torch.Generator) -> None:
    quantizer = trained("residual", z_e, generator)
    quantized = quantizer(z_e, generator)
    expected, partial = torch.zeros(()), torch.zeros_like(z_e)
    for level, k in zip(quantizer.levels, quantized.indices.unflatten(2, (5, 4)).unbind(-1), strict=True):
        partial = partial + level.look_up(k)
        expected = expected + (z_e - partial).square().sum() / len(z_e)
    torch.testing.assert_close(quantized.commitment_loss, expected)
    torch.testing.assert_close(quantized.codebook_loss, expected)
    quantized.codebook_loss.backward()
    assert z_e.grad is None
    assert all(level.vectors.grad.abs().sum() > 0 for level in quantizer.levels)


def test_one_level_is_a_plain_codebook(z_e: Tensor) -> None:
    one, plain = Residual(codes=7, dimensions=3, depth=1), Codebook(codes=7, dimensions=3)
    made = [each(z_e, torch.Generator().manual_seed(0)) for each in (one, plain)]
    for a, b in zip(*(vars(each).values() for each in made), strict=True):
        assert torch.equal(a, b)
