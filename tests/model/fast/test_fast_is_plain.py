"""The fast network against the plain one: the same numbers whatever computes them, and a switch both ways."""

import ast
import copy
import pickle
from pathlib import Path

import pytest
import torch

from model import blocks, build_network, conditioning, implicit_upsampler, unet
from model import network as whole
from model.fast import FastNetwork, accelerate, make_plain
from model.sampler import SamplingPlan, sample
from model.sampling.key_steps import EncoderChange

SIZES = [(32, 32), (27, 27), (29, 41), (16, 9)]  # of LR images of 8×8
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
devices = pytest.mark.parametrize("device", DEVICES)
sizes = pytest.mark.parametrize("size", SIZES, ids=str)


LOCAL = {"norm_groups": 0, "attn_res": [], "mid_attention": False}  # of `unet`: no place sees the whole image


@pytest.fixture(params=["published", "local"])
def pair(request, tiny, exact_float32):
    """pair(device) -> (plain, fast) of the same weights, of the published network, and of one without norms whose LR
    encoder enlarges."""
    network = tiny.network
    if request.param == "local":
        torch.manual_seed(0)
        lr_encoder = tiny.config["lr_encoder"] | {"sub_pixel": 4}
        network = build_network(tiny.config | {"unet": tiny.config["unet"] | LOCAL, "lr_encoder": lr_encoder}).eval()

    def make(device):
        own = copy.deepcopy(network).to(device)
        return make_plain(copy.deepcopy(own)), own

    return make


def draw(*shape, device, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def assert_close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() <= tolerance * theirs.norm()


def predict(network, size, device, steps=None):
    """The prediction for two images; with steps, for as many of one state."""
    lr, x = draw(2, 3, 8, 8, device=device), draw(2, 3, *size, device=device, seed=1)
    condition = network.condition(lr, size, torch.tensor([0.3, 1.0], device=device))
    level = torch.tensor([0.4, 0.8], device=device)
    if steps is None:
        return network(x, level, condition)
    levels = level * torch.linspace(0.9, 1, steps, device=device)[:, None]
    return network.decode(network.encode(x, levels[0], condition), levels, condition)


@devices
@sizes
@pytest.mark.parametrize("steps", [None, 1, 5])
@torch.no_grad()
def test_forward(pair, size, steps, device):
    plain, fast = (predict(network, size, device, steps) for network in pair(device))
    assert plain.shape == ((2, 3, *size) if steps is None else (steps, 2, 3, *size))
    assert_close(fast, plain)


@devices
@sizes
@pytest.mark.parametrize("steps", [None, 3])
def test_backward(pair, size, steps, device):
    """Gradients of every parameter, also where the steps of a group share what they have in common."""
    gradients = []
    for network in pair(device):
        predict(network, size, device, steps).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    plain, fast = gradients
    tolerance = 1e-3 if device == "cuda" else 1e-4
    assert plain.keys() == fast.keys()
    for name, gradient in plain.items():
        assert (fast[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-7, name


@devices
@pytest.mark.parametrize("size", [pytest.param((32, 32), marks=pytest.mark.slow), (27, 27)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"decode": "ends"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"decode_batch": 3}, marks=pytest.mark.slow),
        pytest.param({"consistency": 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_chain_whose_groups_have_many_lengths(pair, size, options, device):
    """Key steps of `auto`, of a network whose encoder's state changes faster and faster."""
    time = torch.linspace(0, 1, 40) ** 3
    change = EncoderChange(tuple(range(39, -1, -1)), (time[:, None] - time).square())
    plan = SamplingPlan.parse("auto:9", 40, 40, change)
    assert len({len(group) for group in plan.groups}) >= 5
    noise = draw(41, 2, 3, *size, device="cpu")
    plain, fast = (
        sample(
            network, draw(2, 3, 8, 8, device=device).clamp(-1, 1), size, plan, noise=lambda i, _: noise[i], **options
        )
        for network in pair(device)
    )
    assert_close(fast, plain, 1e-3 if device == "cuda" else 1e-4)


@devices
def test_training_mode_draws_dropout(tiny, device):
    """In both, and in neither when it samples."""
    config = tiny.config | {"unet": tiny.config["unet"] | {"dropout": 0.5}}
    for fast in (True, False):
        network = build_network(config, fast=fast).to(device)
        with torch.no_grad():
            assert not torch.equal(predict(network, (16, 16), device), predict(network, (16, 16), device))
            network.eval()
            assert_close(predict(network, (16, 16), device), predict(network, (16, 16), device))


# --- the switch -----------------------------------------------------------------------------------


def test_the_switch_goes_both_ways(tiny):
    fast = copy.deepcopy(tiny.network)
    classes, weights = [type(module) for module in fast.modules()], list(fast.parameters())
    plain = make_plain(fast)
    assert plain is fast and not isinstance(plain, FastNetwork)
    assert not any(type(module).__module__.startswith("model.fast") for module in plain.modules())
    assert all(parameter.is_contiguous() for parameter in plain.parameters())
    assert [type(module) for module in accelerate(plain).modules()] == classes
    assert fast.encoder.input.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(a is b for a, b in zip(fast.parameters(), weights, strict=True))


def test_a_network_is_built_fast_unless_told_not_to(tiny):
    torch.manual_seed(0)
    fast = build_network(tiny.config)
    torch.manual_seed(0)
    plain = build_network(tiny.config, fast=False)
    assert isinstance(fast, FastNetwork) and not isinstance(plain, FastNetwork)
    assert all(torch.equal(a, b) for a, b in zip(fast.parameters(), plain.parameters(), strict=True))
    assert list(fast.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_is_as_fast(tiny, again):
    network = again(tiny.network)
    assert [type(module) for module in network.modules()] == [type(module) for module in tiny.network.modules()]
    with torch.no_grad():
        assert torch.equal(predict(network, (16, 16), "cpu"), predict(tiny.network, (16, 16), "cpu"))


@pytest.mark.parametrize("module", [blocks, conditioning, implicit_upsampler, unet, whole])
def test_the_plain_network_knows_nothing_of_the_fast_one(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in imported if name.startswith("model.fast")]
