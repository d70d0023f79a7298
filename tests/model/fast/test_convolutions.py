"""Convolutions with what follows them, and where that takes one sweep: in inference copies, whatever runs the kernels.

With Triton installed and TRITON_INTERPRET=1 the tests of the CPU run the kernels in Triton's interpreter.
"""

import copy

import pytest
import torch
from torch import nn

from model.blocks import EqualConv2d, FusedLeakyReLU
from model.conditioning import LREncoder
from model.fast import accelerate, pointwise
from model.fast.inference_copy import inference_copy

devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
OPTIONS = [{}, {"stride": 2}, {"groups": 4}, {"padding": 2, "dilation": 2}, {"bias": False}]


def images(channels, device):
    return torch.randn(2, channels, 9, 7, generator=torch.Generator().manual_seed(1)).to(device)


@devices
@pytest.mark.parametrize("copied", [True, False], ids=["inference copy", "with gradients"])
@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        *((lambda options=options: nn.Conv2d(8, 8, 3, **options), 8) for options in OPTIONS),
        (lambda: EqualConv2d(8, 8, 3, padding=1), 8),
        (lambda: EqualConv2d(8, 8, 3, bias=False), 8),
        (lambda: FusedLeakyReLU(8), 8),
        (lambda: LREncoder(2, 8, 2), 3),
    ],
    ids=[*map(str, OPTIONS), "equalised", "equalised, no bias", "leaky ReLU", "LR encoder"],
)
def test_a_layer_is_the_plain_one(layer, channels, copied, device, exact_float32):
    """To the bit where it learns."""
    torch.manual_seed(0)
    plain = layer().to(device)
    for parameter in plain.parameters():
        parameter.data.normal_()
    fast, x = accelerate(copy.deepcopy(plain)), images(channels, device)
    assert type(fast) is not type(plain)
    plain.to(memory_format=torch.channels_last)
    call = (lambda module: module.enlarged(x)) if isinstance(plain, LREncoder) else (lambda module: module(x))
    if copied:
        with torch.no_grad():
            torch.testing.assert_close(call(inference_copy(fast)), call(plain), rtol=1e-4, atol=1e-4)
        return
    got, expected = call(fast), call(plain)
    assert torch.equal(got, expected)
    for ours, theirs in zip(gradients(got, fast), gradients(expected, plain), strict=True):
        assert torch.equal(ours, theirs)


def gradients(result, module):
    return torch.autograd.grad(result.square().sum(), list(module.parameters()))


def test_an_inference_copy_has_its_convolutions_in_half_precision(tiny):
    """But for those whose weight is made of the parameter at each call."""
    convolutions = [m for m in inference_copy(tiny.network, torch.bfloat16).modules() if isinstance(m, nn.Conv2d)]
    assert {isinstance(m, EqualConv2d): m.weight.dtype for m in convolutions} == {
        True: torch.float32,
        False: torch.bfloat16,
    }
    assert {type(m) for m in convolutions}.isdisjoint({nn.Conv2d, EqualConv2d})


@devices
@torch.no_grad()
def test_one_sweep_follows_each_convolution(device, monkeypatch):
    """...of an inference copy: the sweeps are (terms, activation). A network that learns has none."""
    if not pointwise.kernels_take(images(8, device)):
        pytest.skip("no kernels here")
    sweeps, add = [], pointwise._add_biased
    monkeypatch.setattr(pointwise, "_add_biased", lambda *a: sweeps.append((len(a[1]), a[3])) or add(*a))
    encoder, equalised = (accelerate(module.to(device)) for module in (LREncoder(1, 8), EqualConv2d(8, 8, 3)))
    activation = accelerate(FusedLeakyReLU(8).to(device))
    encoder.features(images(3, device)), equalised(images(8, device)), activation(images(8, device))
    assert not sweeps
    inference_copy(encoder).features(images(3, device))
    inference_copy(equalised)(images(8, device)), inference_copy(activation)(images(8, device))
    assert sweeps == [(1, None), (1, "relu"), (2, None), (2, None), (1, None), (1, "leaky_relu")]
