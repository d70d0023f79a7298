"""Sampling by CUDA graphs against sampling without, and what an inference copy keeps."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.fast import cuda_graphs, for_sampling, release
from model.fast.cuda_graphs import flatten, rebuild
from model.fast.inference_copy import inference_copy
from model.sampler import SamplingPlan, sample
from model.schedule import NoiseSchedule

SIZE = (32, 32)


@pytest.fixture
def network(tiny):
    return copy.deepcopy(tiny.network)


def lr_images(batch, device="cpu"):
    return (torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 1.6 - 0.8).to(device)


def plan_of(key_steps, steps=20):
    return SamplingPlan.parse(key_steps, steps, 40)


def test_an_inference_copy_computes_the_same_and_keeps_what_it_computed_once(network):
    frozen = inference_copy(network)
    for _ in range(2):
        ours, theirs = (sample(n, lr_images(2), SIZE, plan_of("uniform:4")) for n in (frozen, network))
        assert torch.equal(ours, theirs)
    kept = [module for module in frozen.modules() if module.kept]
    assert {type(module).__name__ for module in kept} == {"FastResidualBlock", "FastImplicitUpsampler"}
    assert not any(hasattr(module, "kept") for module in network.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_a_group_shares_what_its_steps_have_in_common(network):
    """Less work than its steps one by one, for the same predictions."""
    condition = network.condition(lr_images(1), SIZE)
    levels = torch.linspace(0.2, 0.9, 8)[:, None]
    with torch.no_grad():
        state = network.encode(torch.zeros(1, 3, *SIZE), levels[0], condition)
        with FlopCounterMode(display=False) as together:
            predictions = network.decode(state, levels, condition)
        with FlopCounterMode(display=False) as apart:
            singles = [network.decode(state, level, condition) for level in levels]
    torch.testing.assert_close(predictions, torch.stack(singles), rtol=1e-4, atol=1e-5)
    assert together.get_total_flops() < 0.85 * apart.get_total_flops()


def test_sharing_has_the_gradients_of_separate_steps(network):
    levels = torch.linspace(0.2, 0.9, 3)[:, None]

    def gradients(decode):
        network.zero_grad()
        condition = network.condition(lr_images(1), SIZE)
        state = network.encode(torch.zeros(1, 3, *SIZE), levels[0], condition)
        decode(state, condition).square().sum().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters()}

    together = gradients(lambda state, condition: network.decode(state, levels, condition))
    apart = gradients(
        lambda state, condition: torch.stack([network.decode(state, level, condition) for level in levels])
    )
    for name, gradient in apart.items():
        assert (together[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_on_a_cpu_the_network_itself_samples(network):
    with for_sampling(network) as (used, _):
        assert used is network


def test_a_network_lets_go_of_its_graphs(network):
    cuda_graphs._GRAPHED[network] = {"float32": "graphs"}
    release(network)
    release(network)  # of one that has none
    assert network not in cuda_graphs._GRAPHED


def test_nests_of_tensors_come_apart_and_together(network):
    condition = network.condition(lr_images(1), SIZE)
    tensors = flatten((condition, torch.ones(2)))
    again, ones = rebuild((condition, torch.zeros(2)), iter(tensors))
    assert ones is tensors[-1]
    assert all(a is b for a, b in zip(flatten(again), flatten(condition), strict=True))


@pytest.mark.cuda
@pytest.mark.parametrize("key_steps", ["none", "uniform:5", "0,1,7"])
@pytest.mark.parametrize(
    "options", [{}, {"decode": "ends"}, {"decode": "first"}, {"decode_batch": 3, "consistency": 1}]
)
def test_graphs_give_the_image_of_single_launches(network, key_steps, options):
    network.cuda()
    images = [
        sample(network, lr_images(2, "cuda"), SIZE, plan_of(key_steps), compiled=how, **options)
        for how in (False, True, True)
    ]
    for image in images[1:]:
        torch.testing.assert_close(image, images[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(images[1], images[2])


@pytest.mark.cuda
def test_groups_of_many_lengths_take_few_graphs(network):
    network.cuda()
    network.schedule = NoiseSchedule({"schedule": "linear", "n_timestep": 80, "linear_start": 1e-4, "linear_end": 0.1})
    keys = [sum(range(n)) for n in range(1, 13)]  # groups of 1, 2, 3, ... 12 steps
    plan, lr = SamplingPlan.parse(keys, 78, 80), lr_images(2, "cuda")
    ours, exact = (sample(network, lr, SIZE, plan, solver="ddim", compiled=how) for how in (True, False))
    torch.testing.assert_close(ours, exact, rtol=0, atol=5e-3)  # other kernels, as other steps share a batch
    (used,) = cuda_graphs._GRAPHED[network].values()
    (chain,) = used.chains.values()
    assert chain.captured.keys() == {"condition", "encode", 1, 2, 4, 8}


@pytest.mark.cuda
def test_graphs_follow_the_weights(network):
    """Changed in place, through `.data`, or replaced."""

    def image(how):
        return sample(network, lr_images(1, "cuda"), SIZE, plan_of("uniform:5"), compiled=how)

    network.cuda()
    before = image(True)
    weight = network.decoder.output.weight
    for change in (
        lambda: weight.mul_(0.5),
        lambda: weight.data.mul_(0.5),
        lambda: setattr(weight, "data", weight * 2),
    ):
        with torch.no_grad():
            change()
        after = image(True)
        assert not torch.equal(after, before)
        torch.testing.assert_close(after, image(False), rtol=1e-4, atol=1e-4)
        before = after


def test_norms_are_taken_of_networks_that_may_be_trained(network):
    """They tell changes that no counter sees, and take longer than a whole call of a network that samples alone."""
    frozen = copy.deepcopy(network).requires_grad_(False)
    for tested, sees in ((network, True), (frozen, False)):
        before = cuda_graphs.fingerprint(tested)
        assert cuda_graphs.same(before, cuda_graphs.fingerprint(tested))
        with torch.no_grad():
            tested.decoder.output.weight.data.mul_(0.5)
        assert cuda_graphs.same(before, cuda_graphs.fingerprint(tested)) is not sees
        before = cuda_graphs.fingerprint(tested)
        with torch.no_grad():
            tested.decoder.output.weight.mul_(2)
        assert not cuda_graphs.same(before, cuda_graphs.fingerprint(tested))


@pytest.mark.cuda
def test_shapes_and_sizes_in_turn(network):
    """Each is captured once, and few are kept."""
    network.cuda()
    sizes = [(32, 32), (24, 40), (33, 31), (16, 16), (48, 32)]
    for size in [*sizes, *sizes]:
        lr = lr_images(1, "cuda")
        ours = sample(network, lr, size, plan_of("uniform:5"))
        torch.testing.assert_close(
            ours, sample(network, lr, size, plan_of("uniform:5"), compiled=False), rtol=1e-4, atol=1e-4
        )
    (used,) = cuda_graphs._GRAPHED[network].values()
    assert len(used.chains) == cuda_graphs.MOST_CHAINS


@pytest.mark.cuda
def test_a_callback_may_sample(network):
    network.cuda()
    plan, lr = plan_of("uniform:5"), lr_images(1, "cuda")
    expected = sample(network, lr, SIZE, plan)
    inner = []
    got = sample(network, lr, SIZE, plan, callback=lambda *_: inner.append(sample(network, lr, SIZE, plan)))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inner[7], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near(network, dtype):
    network.cuda()
    plan, lr = plan_of("uniform:5"), lr_images(2, "cuda")
    exact = sample(network, lr, SIZE, plan, compiled=False)
    with torch.autocast("cuda", dtype):
        near = sample(network, lr, SIZE, plan)
    assert near.dtype == torch.float32
    assert 10 * (4 / (near - exact).square().mean()).log10() > 30  # dB
