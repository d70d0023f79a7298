"""Attention, computed in one of two ways."""

import pytest
import torch

from model.fast.blocks import attend


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("positions", [64, 1600])
def test_attention_is_its_definition_whatever_computes_it(positions, device):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, positions, 96, generator=generator, dtype=torch.float64)
    expected = ((q @ k.mT) / 96**0.5).softmax(2) @ v
    for dtype, tolerance in ((torch.float32, 2e-3 if device == "cuda" else 1e-5), (torch.bfloat16, 2e-2)):
        got = attend(*(t.to(device, dtype) for t in (q, k, v)))
        torch.testing.assert_close(got.double().cpu(), expected, rtol=tolerance, atol=tolerance)
