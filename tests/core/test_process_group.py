"""Several processes train like one process: on CPUs with gloo, on GPUs with NCCL.

Some tests use four processes, because two processes hide a wrong order: a + b = b + a.
"""

import json
import socket
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from aelab.core import process_group
from aelab.models.base import VARIANTS
from aelab.models.quantizer import QUANTIZERS
from tests.support import forks
from tests.support.processes import PATIENCE
from tests.support.sharing import CASES, normalised, run, take_part

ROUNDING = 2e-5  # relative
AGAIN = ["contractive", "ladder", "vqvae ema", "ragged", "ragged codebook"]
WRONG = {  # parts of the exchange to leave out, with the cases that need the part
    "noise": ["vae", "contractive", "ladder", "dynamic"],
    "codebook": ["vqvae ema"],
    "restarts": ["vqvae codebook", "vqvae residual"],
    "batch": ["sparse", "tcvae", "wae", "bits"],
    "gradients": ["ae", "vqvae fsq"],
}


def together(folder: Path, size: int, cases: Sequence[str], **environment: str) -> list[dict[str, Any]]:
    """Results of `size` processes."""
    folder.mkdir()
    store = distributed.TCPStore(  # type: ignore[attr-defined]  # as in torchrun, the system picks a free port
        "localhost", 0, is_master=True, wait_for_workers=False
    )
    place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    place |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    with forks.started(take_part, [(rank, folder, cases, place | environment) for rank in range(size)]) as processes:
        for process in processes:
            process.join(PATIENCE)
        assert [process.exitcode for process in processes] == [0] * size
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """Every case in one process, without a group."""
    return {case: run(case) for case in CASES}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    wrong = [f"{case}:{part}" for part, cases in WRONG.items() for case in cases]
    return together(tmp_path_factory.mktemp("two") / "a", 2, [*CASES, *wrong])


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    cases = [*CASES, *(f"{case}:" for case in AGAIN)]
    return together(tmp_path_factory.mktemp("four") / "a", 4, cases)


def test_there_is_a_case_of_every_variant_and_quantiser() -> None:
    assert {*VARIANTS.available(), *(f"vqvae {name}" for name in QUANTIZERS.available())} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_processes_has_the_same_losses(
    case: str, alone: dict[str, Any], two: list[dict[str, Any]], four: list[dict[str, Any]]
) -> None:
    rounding = 0.01 if case == "bfloat16" else ROUNDING
    for group in (two, four):
        assert group[0][case]["losses"] == pytest.approx(alone[case]["losses"], rel=rounding)


@pytest.mark.parametrize("case", CASES)
def test_all_processes_have_the_same_bits(case: str, two: list[dict[str, Any]], four: list[dict[str, Any]]) -> None:
    for group in (two, four):
        assert len({each[case]["state"] for each in group}) == 1


@pytest.mark.parametrize("case", AGAIN)
def test_the_same_number_of_processes_gives_the_same_bits(case: str, four: list[dict[str, Any]]) -> None:
    assert four[0][case] == four[0][f"{case}:"]


@pytest.mark.parametrize("part", WRONG)
def test_what_is_missing_would_be_noticed(part: str, alone: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for case in WRONG[part]:
        assert two[0][f"{case}:{part}"]["losses"] != pytest.approx(alone[case]["losses"], rel=ROUNDING)


def test_normalised_outputs_are_those_of_the_whole_batch(two: list[dict[str, Any]], four: list[dict[str, Any]]) -> None:
    """Values, gradients and moments agree. Computed from the rows of one process alone, they would differ."""
    expected = normalised()
    for group in (two, four):
        for which in ("values", "gradients"):
            rows = [row for each in group for row in each["normalised"][which]]
            assert torch.tensor(rows).allclose(torch.tensor(expected[which]), atol=1e-6)
        for each in group:
            assert torch.tensor(each["normalised"]["moments"]).allclose(torch.tensor(expected["moments"]), atol=1e-6)
    alone = torch.tensor(two[0]["normalised alone"]["values"])
    assert not alone.allclose(torch.tensor(expected["values"])[: len(alone)], atol=1e-3)


def test_a_difference_between_processes_is_known_to_all(two: list[dict[str, Any]]) -> None:
    assert [each["agree"] for each in two] == [[True, False, True, False]] * 2


def test_unreduced_gradients_leave_different_weights(two: list[dict[str, Any]]) -> None:
    assert len({each["ae:gradients"]["state"] for each in two}) == 2


def test_one_that_nobody_comes_to_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process_group, "MEETS_WITHIN", timedelta(seconds=1))
    with pytest.raises(process_group.ProcessLost):
        process_group.begin(torch.device("cpu"))


def test_without_a_group_everything_is_given_back(x: torch.Tensor, generator: torch.Generator) -> None:
    assert process_group.gather(x) is x
    assert process_group.mean(x) is x
    assert process_group.own_samples(7) == slice(0, 7)
    drawn = process_group.draw(torch.randn, (3, 2), generator)
    assert torch.equal(drawn, torch.randn(3, 2, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("total", [1, 3, 4, 15, 16])
def test_every_row_is_somebodys(total: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "size", lambda: size)
    shares = []
    for rank in range(size):
        monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
        shares.append((process_group.own_samples(total), process_group.Share.of(total).weight))
    assert sum(weight for _, weight in shares) == pytest.approx(1)
    rows = [row for each, _ in shares for row in range(each.start, each.stop)]
    assert rows == (list(range(total)) if total >= size else list(range(total)) * size)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_on_gpus_two_processes_train_as_one(mode: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case != "bfloat16"]
    first, second = together(tmp_path / "a", 2, [*cases, *(f"{case}:" for case in cases)], DEVICE="cuda", MODE=mode)
    for case in cases:
        expected = run(case, device="cuda", mode=mode)["losses"]
        assert first[case]["losses"] == pytest.approx(expected, rel=1e-3)
        assert first[case]["state"] == second[case]["state"] == first[f"{case}:"]["state"]
