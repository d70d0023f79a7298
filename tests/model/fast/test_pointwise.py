"""What stands between the convolutions, against plain PyTorch in float64, on whatever runs it.

With Triton installed and TRITON_INTERPRET=1 the tests of the CPU run the kernels in Triton's interpreter.
"""

import pytest
import torch
from torch.nn import functional as F

from model.fast.denoising_steps import take_steps
from model.fast.pointwise import add_biased, can_spread, channel_sums, join, modulate, spread
from model.sampling.solvers import SOLVERS, solver_steps

devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-6, torch.float16: 2**-9}


def draw(*shape, device, dtype=torch.float32, seed=0):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
    return drawn.contiguous(memory_format=torch.channels_last) if drawn.dim() == 4 else drawn


def assert_near(got, expected, dtype):
    scale = expected.abs().max()
    assert got.dtype == dtype
    assert (got.double() - expected).abs().max() <= TOLERANCE[dtype] * scale


@devices
@dtypes
@pytest.mark.parametrize("counts", [(6,), (6, 2), (6, 6, 2), (2, 6)])
def test_add_biased(counts, dtype, device):
    bias = draw(24, device=device, seed=9)
    terms = [draw(n, 24, 5, 7, device=device, dtype=dtype, seed=n) for n in counts]
    with torch.no_grad():
        got = add_biased(bias, *terms)
    expected = sum(t.double().repeat(6 // len(t), 1, 1, 1) for t in terms) + bias.double()[:, None, None]
    assert_near(got, expected, dtype)
    assert got.is_contiguous(memory_format=torch.channels_last)


ACTIVATIONS = {
    None: lambda z: z,
    "relu": torch.relu,
    "silu": lambda z: z / (1 + (-z).exp()),
    "leaky_relu": lambda z: torch.where(z < 0, 0.2 * z, z) * 2**0.5,
}


@devices
@dtypes
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("biases", [(), (6,), (2,)], ids=["one bias", "one for each image", "fewer than images"])
@pytest.mark.parametrize("is_tracked", [True, False], ids=["with gradients", "without"])
def test_add_biased_and_activation(is_tracked, biases, activation, dtype, device):
    bias = draw(*biases, 24, device=device, seed=9).requires_grad_(is_tracked)
    terms = [draw(n, 24, 5, 7, device=device, dtype=dtype, seed=n) for n in (6, 2)]
    got = add_biased(bias, *terms, activation=activation)
    assert got.requires_grad == is_tracked
    of_images = bias.repeat(6 // len(bias), 1) if biases else bias
    z = terms[0].double() + terms[1].double().repeat(3, 1, 1, 1) + of_images.double()[..., None, None]
    assert_near(got, ACTIVATIONS[activation](z), dtype)
    if is_tracked:
        (gradient,) = torch.autograd.grad(got.sum(), bias)
        (expected,) = torch.autograd.grad(ACTIVATIONS[activation](z).sum(), bias)
        assert (gradient - expected).norm() <= (2**-5 if dtype == torch.bfloat16 else 2**-8) * expected.norm()


@devices
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_nan(activation, device):
    x = torch.zeros(1, 8, 2, 2, device=device)
    x[0, 3, 1, 1] = float("nan")
    got = add_biased(torch.zeros(8, device=device), x, activation=activation)
    assert got.isnan().sum() == 1


@devices
@pytest.mark.parametrize("biases", [(), (6,)], ids=["one bias", "one for each image"])
@torch.no_grad()
def test_a_bias_that_is_not_contiguous(biases, device):
    bias, x = draw(*biases, 48, device=device)[..., ::2], draw(6, 24, 5, 7, device=device, seed=1)
    torch.testing.assert_close(add_biased(bias, x), x + bias[..., None, None])


@devices
def test_gradients_of_add_biased(device):
    bias, a, b = draw(24, device=device), draw(4, 24, 9, 7, device=device), draw(2, 24, 9, 7, device=device, seed=1)
    leaves = [t.requires_grad_() for t in (bias, a, b)]
    dy = draw(4, 24, 9, 7, device=device, seed=2)
    got = torch.autograd.grad(add_biased(bias, a, b), leaves, dy)
    expected = dy.sum((0, 2, 3)), dy, dy[:2] + dy[2:]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@devices
def test_terms_of_different_dtypes(device):
    half, single = draw(2, 8, 3, 3, device=device, dtype=torch.bfloat16), draw(2, 8, 3, 3, device=device, seed=1)
    bias = torch.zeros(8, device=device)
    assert add_biased(bias, single, half).dtype == torch.float32
    torch.testing.assert_close(add_biased(bias, single, half), single + half)


@devices
@dtypes
@pytest.mark.parametrize("tracked", [True, False], ids=["with gradients", "without"])
def test_modulate(tracked, dtype, device):
    h, shift = draw(6, 24, 5, 7, device=device, dtype=dtype), draw(2, 24, 5, 7, device=device, dtype=dtype, seed=1)
    gain, bias = draw(2, 24, 1, 1, device=device, dtype=dtype, seed=2), draw(24, device=device, seed=3)
    with torch.set_grad_enabled(tracked):
        got = modulate(h, gain, shift, bias.requires_grad_())
    assert got.requires_grad == tracked
    z = h.double() * gain.double().repeat(3, 1, 1, 1) + shift.double().repeat(3, 1, 1, 1) + bias.double()[:, None, None]
    assert_near(got, F.leaky_relu(z, 0.2) * 2**0.5, dtype)


@devices
@dtypes
@pytest.mark.parametrize("taken", [1, 5, 16])
def test_join(taken, dtype, device):
    x, skip = draw(6, 24, 5, 7, device=device, dtype=dtype), draw(2, 16, 5, 7, device=device, dtype=dtype, seed=1)
    with torch.no_grad():
        got = join(x, skip, taken)
    assert torch.equal(got, torch.cat([x, skip[:, :taken].repeat(3, 1, 1, 1)], dim=1))


@pytest.mark.cuda
@dtypes
def test_spread(dtype):
    device = "cuda"
    h, per_row, per_column = draw(6, 24, 5, 7, device=device, dtype=dtype), *draw(2, 11, 24, device=device)
    rows, columns = torch.randint(5, (11,), device=device), torch.randint(7, (11,), device=device)
    with torch.no_grad():
        assert can_spread(h, per_row)
        got = spread(h, rows, columns, per_row, per_column)
    offsets = per_row.T[:, :, None].double() + per_column.T[:, None, :].double()
    assert_near(got, h.double()[:, :, rows][:, :, :, columns] + offsets, dtype)


@devices
def test_channel_sums(device):
    x = draw(3, 100, 40, 33, device=device)
    torch.testing.assert_close(channel_sums(x).double(), x.double().sum((0, 2, 3)), rtol=1e-5, atol=1e-3)


@devices
@pytest.mark.parametrize("solver", SOLVERS)
def test_several_steps_at_once_are_one_after_the_other(solver, device):
    """Also from predictions in channels-last memory, in two runs, and held over all steps."""
    alphas_cumprod = torch.linspace(0.1, 0.99, 12, dtype=torch.float64)
    steps = solver_steps(solver, "epsilon", alphas_cumprod, 0.5, device)
    x = draw(2, 3, 6, 5, device=device)
    predictions = draw(12, 2, 15, 6, device=device).view(12, 2, 3, 5, 6).permute(0, 1, 2, 4, 3)
    for given in (predictions, predictions.contiguous(), predictions[:1].expand(12, -1, -1, -1, -1)):
        expected, x0 = take_steps(steps, range(12), x, None, given, noise_of(device), None, callback=lambda *_: None)
        y, y0 = take_steps(steps, range(7), x, None, given[:7], noise_of(device), None)
        y, y0 = take_steps(steps, range(7, 12), y, y0, given[7:], noise_of(device), None)
        torch.testing.assert_close((y, y0), (expected, x0), rtol=1e-5, atol=1e-5)


@devices
@pytest.mark.parametrize("overflow", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("callback", [None, lambda *_: None])
def test_an_overflow_shows(overflow, callback, device):
    """Clamping must not make a pixel of it."""
    steps = solver_steps("ddim", "epsilon", torch.linspace(0.1, 0.99, 4, dtype=torch.float64), 0.0, device)
    predictions = draw(4, 2 * 3, 4, 4, device=device).view(4, 2, 3, 4, 4).clone()
    predictions[1, 0, 2, 3, 3] = overflow
    x = torch.zeros(2, 3, 4, 4, device=device)
    y, _ = take_steps(steps, range(4), x, None, predictions, noise_of(device), None, callback=callback)
    assert y.isnan().sum() == 1
    assert y[0, 2, 3, 3].isnan()


def noise_of(device):
    return lambda i, shape: draw(*shape, device=device, seed=100 + i)
