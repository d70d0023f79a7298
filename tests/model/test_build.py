"""The weights that training begins with."""

import pytest
import torch
from torch import nn

from model.build import orthogonalise


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (64, 4, 3, 3), (5, 5), (7, 1, 1, 1), (1, 9)])
def test_orthogonal_weights_are_those_of_torch(shape):
    torch.manual_seed(3)
    expected = nn.init.orthogonal_(torch.empty(shape))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        ours = torch.empty(shape)
        if len(shape) == 4:
            ours = ours.to(memory_format=memory_format)
        torch.manual_seed(3)
        orthogonalise(ours, "cpu")
        assert torch.equal(ours, expected)


@pytest.mark.cuda
def test_a_gpu_decomposes_the_same_numbers():
    weights = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(3)
        orthogonalise(weight := torch.empty(64, 16, 3, 3), device)
        weights.append(weight)
    torch.testing.assert_close(*weights, atol=1e-5, rtol=0)
