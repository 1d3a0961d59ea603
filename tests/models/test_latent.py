import pytest
import torch
from torch import Tensor

from aelab.models.base import Latent
from aelab.models.latent import flatten, line, parts, unflatten

LATENTS: list[Latent] = [
    torch.rand(6, 4),
    torch.rand(6, 2, 3, 5),
    torch.arange(24).view(6, 2, 2),
    (torch.rand(6, 4), torch.rand(6, 2)),
    (torch.rand(6, 2, 3, 5), torch.rand(6, 1)),
]


@pytest.mark.parametrize("z", LATENTS)
def test_vectors_are_latents_and_back(z: Latent) -> None:
    vectors = flatten(z)
    assert vectors.shape == (6, sum(part[0].numel() for part in parts(z)))
    again = unflatten(vectors[:2], z)
    assert isinstance(again, Tensor) == isinstance(z, Tensor)
    assert all(torch.equal(found, part[:2]) for found, part in zip(parts(again), parts(z), strict=True))


@pytest.mark.parametrize("z", [z for z in LATENTS if flatten(z).is_floating_point()])
def test_a_line_is_even_and_has_both_ends(z: Latent) -> None:
    walked = flatten(line(z, 1, 4, 5))
    ends = flatten(z)[[1, 4]]
    torch.testing.assert_close(walked[[0, -1]], ends)
    torch.testing.assert_close(walked.diff(dim=0), (ends[1] - ends[0]).expand(4, -1) / 4)
