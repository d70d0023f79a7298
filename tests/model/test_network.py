"""The network against tensors recorded from the published code, and against itself at sizes and batches."""

import copy

import pytest
import torch
from torch.nn import functional as F

from model import build_network
from model.conditioning import LREncoder, relative_scale
from model.fast import make_plain
from model.implicit_upsampler import ImplicitUpsampler, nearest_pixels
from model.resampling import resample


def relative_error(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def run(network, tensors, case, device="cpu"):
    inputs = {key: tensors[f"{case}.{key}"].to(device) for key in ("lr_image", "x_t", "noise_level", "scale")}
    condition = network.condition(inputs["lr_image"], inputs["x_t"].shape[2:], inputs["scale"].item())
    return condition, network(inputs["x_t"], inputs["noise_level"].flatten(), condition)


@pytest.mark.parametrize("case", ["square", "odd"])
@torch.inference_mode()
def test_recorded_outputs(tiny, case):
    condition, prediction = run(tiny.network, tiny.tensors, case)
    assert relative_error(condition.lr_feature, tiny.tensors[f"{case}.lr_feature"]) < 1e-6
    assert relative_error(prediction, tiny.tensors[f"{case}.eps"]) < 1e-5


@pytest.mark.parametrize("case", ["square", "odd"])
@torch.inference_mode()
def test_recorded_outputs_of_the_plain_network(tiny, case):
    _, prediction = run(make_plain(copy.deepcopy(tiny.network)), tiny.tensors, case)
    assert relative_error(prediction, tiny.tensors[f"{case}.eps"]) < 1e-5


@pytest.mark.cuda
@pytest.mark.parametrize("case", ["square", "odd"])
@torch.inference_mode()
def test_recorded_outputs_on_cuda(tiny, case, exact_float32):
    _, prediction = run(copy.deepcopy(tiny.network).cuda(), tiny.tensors, case, "cuda")
    assert relative_error(prediction.cpu(), tiny.tensors[f"{case}.eps"]) < 1e-4


@torch.inference_mode()
def test_decoding_several_steps_of_one_state(tiny):
    """A (K, B) noise level gives what K calls of (B,) give, image by image."""
    tensors = tiny.tensors
    condition = tiny.network.condition(tensors["square.lr_image"], (32, 32))
    state = tiny.network.encode(tensors["square.x_t"], torch.tensor([0.3, 0.6]), condition)
    levels = torch.tensor([[0.3, 0.6], [0.4, 0.7], [0.5, 0.8]])
    together = tiny.network.decode(state, levels, condition)
    apart = torch.stack([tiny.network.decode(state, level, condition) for level in levels])
    assert together.shape == (3, 2, 3, 32, 32)
    assert relative_error(together, apart) < 1e-5


@torch.inference_mode()
def test_batch_equals_its_images(tiny):
    generator = torch.Generator().manual_seed(0)
    lr, x = torch.randn(3, 3, 7, 9, generator=generator), torch.randn(3, 3, 29, 41, generator=generator)
    level, scale = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.1, 0.5, 1.0])

    def predict(rows):
        return tiny.network(x[rows], level[rows], tiny.network.condition(lr[rows], (29, 41), scale[rows]))

    alone = torch.cat([predict([row]) for row in range(3)])
    assert relative_error(predict([0, 1, 2]), alone) < 1e-5


def test_every_parameter_takes_part(tiny):
    """Each parameter gets a gradient, and what may be pruned is every weight of two dimensions or more."""
    network = copy.deepcopy(tiny.network)
    _, prediction = run(network, tiny.tensors, "square")
    prediction.square().sum().backward()
    assert not [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert set(network.prunable_parameters()) == {n for n, p in network.named_parameters() if p.dim() > 1}


@pytest.mark.parametrize(("source", "target"), [(8, 16), (14, 27), (3, 7), (5, 40), (1, 4), (6, 6)])
def test_nearest_pixel_and_offset(source, target):
    """Against a search over all source pixels in float64; where two are equally near, either will do."""
    index, offset, regular = nearest_pixels(source, target, torch.device("cpu"))
    if regular:
        resized = F.interpolate(torch.arange(source)[None, None, None].float(), size=(1, target), mode="nearest-exact")
        assert torch.equal(resized.flatten().long(), index)
    assert regular or (source, target) == (14, 27)  # the middle of 27 lies between two of 14
    centres = (2 * torch.arange(target, dtype=torch.float64) + 1) / target - 1
    sources = (2 * torch.arange(source, dtype=torch.float64) + 1) / source - 1
    distance = (centres[:, None] - sources).abs()
    assert torch.allclose(distance.gather(1, index[:, None])[:, 0], distance.min(dim=1).values, atol=1e-6)
    assert torch.allclose(offset.double(), (centres - sources[index]) * source, atol=1e-5)


def test_upsampler_on_the_source_grid_equals_the_mlp_at_each_pixel():
    torch.manual_seed(0)
    upsampler = ImplicitUpsampler(8)
    h, gain, shift = torch.randn(2, 8, 5, 4), torch.randn(2, 8, 1, 1), torch.randn(2, 8, 5, 4)
    result = upsampler(h, gain, shift, (9, 11))
    features = F.leaky_relu(h * gain + shift + upsampler.activation.bias[:, None, None], 0.2) * 2**0.5
    for row, column in [(0, 0), (8, 10), (4, 6), (3, 7)]:
        y, x = (2 * row + 1) / 9 - 1, (2 * column + 1) / 11 - 1
        i = min(range(5), key=lambda n: abs(y - ((2 * n + 1) / 5 - 1)))
        j = min(range(4), key=lambda n: abs(x - ((2 * n + 1) / 4 - 1)))
        offset = torch.tensor([(y - ((2 * i + 1) / 5 - 1)) * 5, (x - ((2 * j + 1) / 4 - 1)) * 4])
        inputs = torch.cat([features[:, :, i, j], offset.expand(2, 2)], dim=1)
        expected = upsampler.linear2(upsampler.linear1(inputs))
        assert torch.allclose(result[:, :, row, column], expected, atol=1e-5)


@torch.no_grad()
def test_an_lr_encoder_that_enlarges():
    """Each LR pixel has its own values for its pixels of the target; another size is a resized image of that one."""
    torch.manual_seed(0)
    encoder = LREncoder(n_resblocks=1, n_feats=4, sub_pixel=3)
    lr_image = torch.randn(2, 3, 5, 6)
    values = encoder.tail(encoder.features(lr_image))  # (2, 27, 5, 6)
    enlarged = encoder(lr_image, (15, 18))
    expected = values.unflatten(1, (3, 3, 3)).permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 15, 18)
    assert torch.equal(enlarged, expected)
    assert torch.equal(encoder(lr_image, (12, 20)), resample(enlarged, (12, 20)))
    with torch.enable_grad():
        trained = encoder(lr_image, (12, 20))
    assert trained.requires_grad and (trained - resample(enlarged, (12, 20))).abs().max() < 1e-5


def test_relative_scale():
    assert relative_scale((128, 128), (16, 16), 8) == 1
    assert relative_scale((16, 16), (16, 16), 8) == 0
    assert relative_scale((27, 27), (8, 8), 4) == pytest.approx(19 / 24)
    assert relative_scale((400, 400), (16, 16), 8) == 1


def test_initialisation_is_trainable(tiny):
    """A freshly built network predicts finite values, and no part of it is dead."""
    torch.manual_seed(0)
    network = build_network(tiny.config)
    _, prediction = run(network, tiny.tensors, "odd")
    prediction.abs().mean().backward()
    assert prediction.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
