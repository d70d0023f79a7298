"""The measurement of the encoder's change: exact distances along a chain, and sketches that keep them."""

import pytest
import torch

from model.sampler import SamplingPlan, sample
from model.sampling.calibration import Sketch, encoder_change, relative_distance
from model.unet import EncoderState

SIZE = (32, 32)


@pytest.fixture(scope="module")
def lr_image():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 1.6 - 0.8


def states_of_a_chain(network, lr_image, steps, solver):
    """Every state (skips and bottleneck) of `sample`, found by another way: a network that notes what it encodes."""
    states = []

    class Noting(torch.nn.Module):
        schedule, prediction = network.schedule, network.prediction
        condition, decode = network.condition, network.decode

        def encode(self, *inputs):
            state = network.encode(*inputs)
            states.append((*state.skips, state.bottleneck))
            return state

    generator = torch.Generator().manual_seed(3)
    plan = SamplingPlan.parse("none", steps, network.schedule.n_timestep)
    sample(
        Noting(), lr_image, SIZE, plan, solver, start=float(network.schedule.noise_levels[-1]),
        noise=lambda i, shape: torch.randn(shape, generator=generator),
    )  # fmt: skip
    return states


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_is_the_relative_distance_of_the_states_that_sampling_sees(tiny, lr_image, solver):
    steps = 5
    change = encoder_change(tiny.network, lr_image, SIZE, steps, solver, seed=3, buckets=10**6)
    states = states_of_a_chain(tiny.network, lr_image, steps, solver)
    expected = torch.zeros(steps, steps)
    for i in range(steps):
        for j in range(steps):
            for level, (a, b) in enumerate(zip(states[i], states[j], strict=True)):
                for image in range(2):
                    energy = sum(state[level][image].square().sum() for state in states) / steps
                    expected[i, j] += (a[image] - b[image]).square().sum() / energy / (2 * len(states[0]))
    assert change.timesteps == SamplingPlan(steps, 40, ()).timesteps
    assert change.distance.shape == (steps, steps) and change.distance.dtype == torch.float32
    assert torch.allclose(change.distance, expected, rtol=1e-3, atol=1e-6)
    assert change.distance[0, -1] > 1e-3


def test_sketches_keep_the_distances(tiny, lr_image):
    exact = encoder_change(tiny.network, lr_image, SIZE, 6, buckets=10**6).distance
    sketched = encoder_change(tiny.network, lr_image, SIZE, 6, buckets=1024).distance
    assert not torch.equal(exact, sketched)
    others = ~torch.eye(6, dtype=torch.bool)
    assert (sketched / exact - 1)[others].abs().max() < 0.1


def test_a_sketch_has_its_error_and_no_bias():
    x, y = torch.randn(2, 1, 4, 61, 37, generator=torch.Generator().manual_seed(0)).unbind()
    true = (x - y).square().sum().item()
    errors = []
    for seed in range(60):
        sketch = Sketch(512, seed)
        a, b = (sketch(EncoderState((), tensor)) for tensor in (x, y))
        assert a[0].shape == (1, 512)
        errors.append((a[0] - b[0]).square().sum().item() / true - 1)
    errors = torch.tensor(errors)
    spread = (2 / 512) ** 0.5
    assert 0.7 * spread < errors.std() < 1.3 * spread
    assert abs(errors.mean()) < 4 * spread / 60**0.5


def test_small_tensors_are_kept_exactly():
    sketch = Sketch(64)
    x, y = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    (a,), (b,) = sketch(EncoderState((), x)), sketch(EncoderState((), y))
    assert torch.allclose((a - b).square().sum(1), (x - y).square().sum((1, 2, 3)))


def test_no_tensor_counts_for_more_because_it_is_larger():
    x = torch.randn(1, 4, 10, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(relative_distance(1000 * x), relative_distance(x))
    assert torch.equal(relative_distance(0 * x), torch.zeros(4, 4, dtype=torch.float64))


@pytest.mark.slow
def test_a_short_schedule_is_measured_at_each_of_its_timesteps(tiny, lr_image):
    change = encoder_change(tiny.network, lr_image[:1], (16, 16), steps=100)
    assert change.timesteps == tuple(reversed(range(40)))
    assert torch.equal(change.distance.diagonal(), torch.zeros(40))
    assert torch.allclose(change.distance, change.distance.T)
    again = encoder_change(tiny.network, lr_image[:1], (16, 16), steps=100)
    assert torch.equal(again.distance, change.distance)
