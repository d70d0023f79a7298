"""GroupNorm + SiLU against its definition in float64, on whatever runs it: plain PyTorch, or the kernels on a GPU.

With Triton installed and TRITON_INTERPRET=1 the tests of the CPU run the kernels in Triton's interpreter.
"""

import pytest
import torch
from torch.nn import functional as F

from model.blocks import ceil_div
from model.fast import group_norm
from model.fast.group_norm import affine_silu, group_norm_silu

MOST_ON_FURTHER_AXES = 65535  # programs that a grid of CUDA takes on its second and third axis

SHAPES = {  # (B, C, H, W) and groups
    "one program a group": ((2, 64, 16, 16), 32),
    "several chunks, the last one short": ((1, 64, 40, 41), 32),
    "groups of 6": ((3, 192, 9, 11), 32),
    "groups of 6 that straddle tiles": ((1, 192, 41, 36), 32),
    "groups of 24": ((2, 48, 27, 30), 2),
    "groups of 24, wide": ((1, 768, 6, 5), 32),
    "groups of 3": ((2, 96, 5, 5), 32),
    "one group": ((1, 1024, 6, 5), 1),
    "a group for each channel": ((2, 16, 3, 3), 16),
    "channels that fill no vector": ((1, 3, 12, 12), 1),
    "10 groups of 10": ((1, 100, 15, 15), 10),
    "one pixel": ((2, 32, 1, 1), 4),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
CUDA = [pytest.param("cuda", marks=pytest.mark.cuda)]
shapes = pytest.mark.parametrize(("shape", "groups"), SHAPES.values(), ids=SHAPES)
devices = pytest.mark.parametrize("device", DEVICES)
runs_kernels = pytest.mark.skipif(
    not group_norm.HAS_KERNELS or (group_norm.KERNEL_DEVICE == "cuda" and not torch.cuda.is_available()),
    reason="needs Triton with a CUDA device or its interpreter",
)


def definition(x, weight, bias, groups, eps, shift, silu):
    """Written out, in the precision of its arguments."""
    z = x if shift is None else x + shift[:, :, None, None]
    z = z.unflatten(1, (groups, -1))
    centred = z - z.mean((2, 3, 4), keepdim=True)
    u = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + eps).sqrt()).flatten(1, 2)
    u = u * weight[:, None, None] + bias[:, None, None]
    return u * torch.sigmoid(u) if silu else u


def draw(shape, device, dtype=torch.float32, shifted=True):
    """x, weight, bias, shift and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    batch, channels = shape[:2]
    x = 2 * torch.randn(shape, generator=generator) + 1
    weight, bias = torch.randn(2, channels, generator=generator)
    shift = torch.randn(batch, channels, generator=generator)
    dy = torch.randn(shape, generator=generator)
    x, shift, dy = (t.to(dtype).to(device) for t in (x, shift, dy))
    x = x.contiguous(memory_format=torch.channels_last)
    leaves = [x, weight.to(device), bias.to(device), shift if shifted else None]
    return [t if t is None else t.requires_grad_() for t in leaves], dy


def outputs_and_gradients(function, leaves, dy, groups, silu=True, eps=1e-5):
    x, weight, bias, shift = leaves
    y = function(x, weight, bias, groups, eps, shift, silu)
    return [y, *torch.autograd.grad(y, [t for t in leaves if t is not None], dy)]


def assert_close(got, leaves, dy, groups, silu=True):
    """To the rounding of its dtype or the sums of float32; relative to the largest element."""
    tolerances = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
    doubles = [t if t is None else t.detach().double().requires_grad_() for t in leaves]
    expected = outputs_and_gradients(definition, doubles, dy.double(), groups, silu)
    scales = [t.abs().max() for t in expected]
    if len(expected) == 5:  # the shift's gradient is a sum over pixels in which much cancels
        scales[4] = expected[1].abs().sum((2, 3)).max()
    for name, a, b, scale in zip(("y", "dx", "dweight", "dbias", "dshift"), got, expected, scales, strict=False):
        tolerance = 1e-6 if name == "y" and a.dtype == torch.float32 else tolerances[a.dtype]
        assert (a.double() - b).abs().max().item() <= tolerance * scale.item(), name


@devices
@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_values_and_gradients(shape, groups, dtype, device):
    leaves, dy = draw(shape, device, dtype)
    got = outputs_and_gradients(group_norm_silu, leaves, dy, groups)
    assert_close(got, leaves, dy, groups)
    for tensor, like in zip(got, [leaves[0], *leaves], strict=True):
        assert tensor.dtype == like.dtype
        assert tensor.shape == like.shape
    assert got[0].is_contiguous(memory_format=torch.channels_last)


@devices
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_every_form(dtype, shifted, silu, device):
    for shape, groups in (((2, 64, 16, 16), 32), ((1, 48, 40, 17), 4)):
        leaves, dy = draw(shape, device, dtype, shifted)
        got = outputs_and_gradients(group_norm_silu, leaves, dy, groups, silu)
        assert_close(got, leaves, dy, groups, silu)
        assert got[0].dtype == dtype


@devices
@pytest.mark.parametrize("tracked", [True, False], ids=["with gradients", "without"])
@pytest.mark.parametrize("size", [8, 40])
def test_images_that_serve_several_steps(size, tracked, device):
    """x and plus of B images, shifts of K·B: what the repeated tensors give."""
    generator = torch.Generator().manual_seed(1)
    x, plus, many = (torch.randn(n, 64, size, size, generator=generator).to(device) for n in (2, 2, 6))
    weight, bias = torch.randn(2, 64, generator=generator).to(device)
    shift = torch.randn(6, 100, generator=generator).to(device)[:, 7:71]  # rows of a wider table
    with torch.set_grad_enabled(tracked):
        weight.requires_grad_()
        for h, added in ((x, None), (x, plus), (many, plus), (x, many)):
            got = group_norm_silu(h, weight, bias, 32, 1e-5, shift, plus=added)
            total = h.repeat(6 // len(h), 1, 1, 1) + (0 if added is None else added.repeat(6 // len(added), 1, 1, 1))
            expected = definition(total.double(), weight.double(), bias.double(), 32, 1e-5, shift.double(), True)
            torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
            assert got.requires_grad == tracked
            assert got.is_contiguous(memory_format=torch.channels_last)


@devices
@pytest.mark.parametrize("mean", [100, 1000])
@pytest.mark.parametrize("size", [16, 48])
def test_a_large_mean_costs_no_more_than_the_rounding_of_the_input(size, mean, device):
    leaves, dy = draw((1, 64, size, size), device)
    x = (leaves[0].detach() + mean).requires_grad_()
    y, dx = outputs_and_gradients(group_norm_silu, [x, *leaves[1:]], dy, 32)[:2]
    doubles = [t.detach().double().requires_grad_() for t in (x, *leaves[1:])]
    expected_y, expected_dx = outputs_and_gradients(definition, doubles, dy.double(), 32)[:2]
    tolerance = mean * 5e-7
    assert (y - expected_y).abs().max() <= tolerance * expected_y.abs().max()
    assert (dx - expected_dx).abs().max() <= tolerance * expected_dx.abs().max()


@devices
def test_any_memory_layout_in_channels_last_out(device):
    leaves, dy = draw((2, 32, 9, 7), device)
    x, weight, bias, shift = leaves
    expected = outputs_and_gradients(group_norm_silu, leaves, dy, 8)
    wide = torch.zeros(2, 40, 9, 7, device=device).contiguous(memory_format=torch.channels_last)
    wide[:, 4:36] = x.detach()
    shift = torch.stack([shift.detach(), shift.detach()], 2).requires_grad_()
    for other in (x.detach().contiguous().requires_grad_(), wide[:, 4:36].requires_grad_()):
        got = outputs_and_gradients(group_norm_silu, [other, weight, bias, shift[:, :, 0]], dy, 8)
        assert got[0].is_contiguous(memory_format=torch.channels_last)
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)


@devices
def test_a_constant_image_gives_the_bias(device):
    bias = torch.linspace(-2, 2, 16, device=device)
    y = group_norm_silu(torch.full((2, 16, 8, 8), 7.0, device=device), torch.ones_like(bias), bias, 4)
    torch.testing.assert_close(y, F.silu(bias)[:, None, None].expand(2, -1, 8, 8))


@devices
def test_autocast_changes_nothing(device):
    for dtype in (torch.float32, torch.bfloat16):
        leaves, dy = draw((2, 32, 8, 8), device, dtype)
        expected = outputs_and_gradients(group_norm_silu, leaves, dy, 8)
        with torch.autocast(device, torch.bfloat16):
            got = outputs_and_gradients(group_norm_silu, leaves, dy, 8)
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


@pytest.mark.slow
@devices
def test_compiles_without_a_break(device):
    leaves, dy = draw((2, 32, 8, 8), device)
    compiled = torch.compile(group_norm_silu, backend="aot_eager", fullgraph=True)
    expected = outputs_and_gradients(group_norm_silu, leaves, dy, 8)
    for a, b in zip(outputs_and_gradients(compiled, leaves, dy, 8), expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.stride() == b.stride()


@devices
@pytest.mark.parametrize(
    "wrong", [{"groups": 5}, {"weight": torch.ones(31)}, {"bias": torch.ones(33)}, {"shift": torch.ones(2, 31)}]
)
def test_shapes_that_do_not_fit_are_refused(wrong, device):
    (x, weight, bias, shift), _ = draw((2, 32, 8, 8), device)
    arguments = {"weight": weight, "bias": bias, "groups": 8, "shift": shift}
    arguments |= {key: value.to(device) if key != "groups" else value for key, value in wrong.items()}
    with pytest.raises(RuntimeError):
        group_norm_silu(x, **arguments)


@pytest.mark.parametrize("batch", [1, 3, 32, 2048])
@pytest.mark.parametrize("pixels", [1, 7, 64, 1000, 4096, 128 * 128, 1000 * 1000, 2048 * 2048])
def test_plan_covers_every_pixel_and_channel_once(batch, pixels):
    for channels, groups in ((64, 32), (192, 32), (768, 32), (48, 2), (40, 5), (1024, 1), (320, 32), (3, 1), (16, 16)):
        plan = group_norm._plan(batch, channels, pixels, groups, group_norm.FEW_PROGRAMS)
        assert (plan.chunks - 1) * plan.rows < pixels <= plan.chunks * plan.rows
        assert plan.chunks <= group_norm.MAX_CHUNKS
        whole = [plan.sums] if plan.chunks > 1 else [plan.sums, plan.result]
        for tile in (plan.sums, plan.result):
            width, starts = tile["CHANNELS"], range(0, channels, tile["CHANNELS"])
            assert width <= tile["BLOCK_C"]
            assert tile not in whole or width % (channels // groups) == 0
            for start in starts:
                last = min(start + width, channels) - 1
                assert last // (channels // groups) - start // (channels // groups) < tile["BLOCK_G"]
        assert plan.result_grid == (len(starts), plan.chunks, batch)
        tiles, blocks = ceil_div(channels, plan.apply["BLOCK_C"]), ceil_div(pixels, plan.apply["BLOCK_ROWS"])
        assert plan.apply_grid == (tiles * blocks, 1, batch)
        for grid in (plan.sums_grid, plan.result_grid, plan.apply_grid):
            assert max(grid[1:]) <= MOST_ON_FURTHER_AXES


@runs_kernels
def test_kernels_run_where_they_can():
    (x, weight, bias, shift), dy = draw((1, 64, 8, 8), group_norm.KERNEL_DEVICE)
    y = group_norm_silu(x, weight, bias, 32, shift=shift)
    assert "_Fused" in y.grad_fn.name()
    (dx,) = torch.autograd.grad(y, x, dy.requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@runs_kernels
def test_operators_tell_the_compiler_the_truth():
    for shifted in (True, False):
        leaves, dy = draw((1, 64, 40, 41), group_norm.KERNEL_DEVICE, shifted=shifted)
        leaves = [t if t is None else t.detach() for t in leaves]
        dy = dy.contiguous(memory_format=torch.channels_last)
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(group_norm._forward_operator, (*leaves, 32, 1e-5, True), test_utils=checks)
        statistics = group_norm._forward(*leaves, 32, 1e-5, True)[1]
        torch.library.opcheck(group_norm._backward_operator, (dy, *leaves, statistics, True), test_utils=checks)


@pytest.mark.parametrize("device", CUDA)
@pytest.mark.parametrize("shape", [(1, 64, 128, 128), (32, 64, 64, 64), (32, 512, 8, 8), (10, 192, 128, 128)])
def test_sizes_of_the_network(shape, device):
    leaves, dy = draw(shape, device, torch.bfloat16)
    got = outputs_and_gradients(group_norm_silu, leaves, dy, 32)
    assert_close(got, leaves, dy, 32)
    again = outputs_and_gradients(group_norm_silu, leaves, dy, 32)
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@pytest.mark.parametrize("device", CUDA)
def test_an_image_of_more_pixels_than_a_grid_has_rows(device):
    (x, weight, bias, _), _ = draw((1, 48, 2048, 2048), device, torch.float16)
    with torch.no_grad():
        got, expected = group_norm_silu(x, weight, bias, 16), F.silu(F.group_norm(x.float(), 16, weight, bias))
    assert (got.float() - expected).abs().max() < 0.01


@pytest.mark.parametrize("device", CUDA)
@pytest.mark.parametrize("shape", [(2, 64, 128, 128), (2, 512, 8, 8)])
def test_replays_as_a_cuda_graph(shape, device):
    leaves, dy = draw(shape, device, torch.bfloat16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        outputs_and_gradients(group_norm_silu, leaves, dy, 32)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = outputs_and_gradients(group_norm_silu, leaves, dy, 32)
    with torch.no_grad():
        for tensor in (*leaves, dy):
            tensor.mul_(0.7).add_(0.2)
    graph.replay()
    expected = outputs_and_gradients(group_norm_silu, leaves, dy, 32)
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))
    assert_close(captured, leaves, dy, 32)


def test_an_affine_part_alone_is_trained():
    """...over features that come from frozen layers, as where a decoder is fine-tuned."""
    x = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(0))
    parameters = [torch.ones(8, requires_grad=True), torch.zeros(8, requires_grad=True)]
    group_norm_silu(x.contiguous(memory_format=torch.channels_last), *parameters, 4).square().sum().backward()
    found = [parameter.grad.clone() for parameter in parameters]
    expected = torch.autograd.grad(F.silu(F.group_norm(x, 4, *parameters)).square().sum(), parameters)
    torch.testing.assert_close(found, list(expected))


@devices
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_affine_is_the_norm_of_moments_that_are_known(device, silu, dtype):
    (x, weight, bias, _), _ = draw((2, 48, 27, 30), device, dtype)
    x, weight, bias = x.detach(), weight.detach(), bias.detach()
    centre, factor = bias * 0.3 + 1, weight * 0.7
    got = affine_silu(x, centre, factor, bias, silu)
    u = (x.double() - centre.double()[:, None, None]) * factor.double()[:, None, None] + bias.double()[:, None, None]
    expected = u * torch.sigmoid(u) if silu else u
    tolerance = {torch.float32: 1e-6, torch.float16: 2**-10}[dtype]
    assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
    assert (got.double() - expected).abs().max() <= tolerance * expected.abs().max()
