import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aelab.core import devices
from tests.support.project import REPOSITORY

ARCHITECTURES = ["sm_75", "sm_80", "sm_90", "compute_90"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand-in for a GPU with a given compute capability."""

    def there(capability: tuple[int, int], architectures: list[str]) -> None:
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        for name, value in {
            "is_available": True,
            "get_device_capability": capability,
            "get_device_name": "Volta",
            "get_arch_list": architectures,
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)

    devices.chosen.cache_clear()
    yield there
    devices.chosen.cache_clear()


@pytest.mark.parametrize(
    ("capability", "architectures", "taken"),
    [
        ((7, 0), ARCHITECTURES, "cpu"),  # older than all kernels
        ((7, 5), ARCHITECTURES, "cuda"),
        ((8, 6), ARCHITECTURES, "cuda"),  # a later GPU of the same generation
        ((10, 0), ARCHITECTURES, "cuda"),  # compiled by the driver
        ((10, 0), ["sm_75", "sm_90"], "cpu"),
        ((12, 1), ["sm_90", "sm_120"], "cuda"),
        ((8, 0), ["sm_86", "compute_90"], "cpu"),
    ],
)
def test_auto_takes_a_gpu_that_torch_has_kernels_for(
    capability: tuple[int, int], architectures: list[str], taken: str, gpu: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu(capability, architectures)
    assert devices.chosen() == taken
    devices.chosen()
    said = capsys.readouterr().err  # the standard output may carry data
    assert said.count("the GPU Volta has compute capability") == (taken == "cpu")  # one warning for two calls


def test_a_gpu_without_kernels_cannot_be_demanded(gpu: Any) -> None:
    gpu((7, 0), ARCHITECTURES)
    assert "has kernels only for compute_90, sm_75, sm_80, sm_90" in devices.unusable("cuda")
    assert devices.unusable("cpu") == ""


@pytest.mark.parametrize(
    ("processor", "instructions", "expected"),
    [
        ("x86_64", {"avx2"}, False),
        ("x86_64", {"avx2", "avx512_bf16"}, True),
        ("x86_64", {"avx2", "amx_bf16"}, True),
        ("arm64", {"neon"}, False),
        ("arm64", {"neon", "bf16"}, True),
        ("riscv", set(), False),
    ],
)
def test_bfloat16_is_fast_where_the_processor_says_so(
    processor: str, instructions: set[str], expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = {"architecture": processor, **dict.fromkeys(instructions, True)}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert devices.fast_at_bfloat16("cpu") is expected


def test_float32_means_float32_whatever_the_environment_says() -> None:
    """Some containers set a variable that rounds matrix products to 10 bits."""
    script = """
import torch
before = torch.backends.cuda.matmul.allow_tf32
from aelab.core import devices
devices.prepare("cpu", 1)
print(before, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
"""
    environment = {"PATH": "", "PYTHONPATH": str(REPOSITORY / "src"), "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]


def test_the_host_stays_at_most_some_steps_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, done, waited = [0], [0], [0]

    class Event:
        """Event of a device that works only while the host waits."""

        def __init__(self, *, blocking: bool) -> None:
            assert blocking
            self.step = 0

        def record(self) -> None:
            asked[0] += 1
            self.step = asked[0]

        def synchronize(self) -> None:
            waited[0] += self.step > done[0]
            done[0] = max(done[0], self.step)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    keep_pace = devices.Pace(torch.device("cuda"))
    for _ in range(100):
        keep_pace()
        assert asked[0] - done[0] <= devices.AHEAD
    assert waited[0] == 100 - devices.AHEAD


def test_trainings_that_begin_at_once_share_a_gpu_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 * gib, 80 * gib))
    device = SimpleNamespace(type="cuda")
    for shared, room in (("", 70 / 4), ("1", 70 / 4), ("12", 80 / 12 / 4)):
        monkeypatch.setenv(devices.SHARED, shared)
        assert devices.room(device) == pytest.approx(room * gib, rel=1e-6)  # type: ignore[arg-type]
