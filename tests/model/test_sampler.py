"""The sampler: recorded chains of the published code, encoder-state reuse under any grouping, and every option."""

import copy

import pytest
import torch
from torch import nn

from model.errors import ModelError
from model.resampling import resample
from model.sampler import SamplingPlan, sample
from model.sampling.group_decoding import runs_of_decoder

SIZE = (32, 32)


class Recorder(nn.Module):
    """A network that keeps what went in and out of it: `encoded` (x, level), `levels` and `decoded` of every step."""

    def __init__(self, network):
        super().__init__()
        self.network, self.schedule, self.prediction = network, network.schedule, network.prediction
        self.conditions, self.encoded, self.levels, self.decoded = 0, [], [], []

    def condition(self, lr_image, size, scale):
        self.conditions += 1
        return self.network.condition(lr_image, size, scale)

    def encode(self, x, noise_level, condition):
        self.encoded.append((x, noise_level))
        return self.network.encode(x, noise_level, condition)

    def decode(self, state, noise_level, condition):
        self.levels.append(noise_level)
        self.decoded.append(self.network.decode(state, noise_level, condition))
        return self.decoded[-1]


@pytest.fixture(scope="module")
def network(tiny):
    return tiny.network


@pytest.fixture
def recorder(network):
    return Recorder(network)


def plan_of(key_steps, steps=40):
    return SamplingPlan.parse(key_steps, steps, 40)


def lr_images(batch, seed=5):
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def binary(n):
    """The powers of two that n is made of, the largest first."""
    return tuple(1 << place for place in reversed(range(n.bit_length())) if n >> place & 1)


def relative_error(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def assert_same(ours, theirs):
    assert relative_error(ours, theirs) < 1e-4


def run(network, *args, **options):
    """The image, and (order, timestep, x, ŷ_0) of every step."""
    trace = []
    image = sample(network, *args, callback=lambda *step: trace.append(step), **options)
    return image, trace


# --- the recorded chains --------------------------------------------------------------------------


def replay(recorder, tensors, key_steps):
    recorded = tensors["reuse.noise"]
    return run(
        recorder, tensors["reuse.lr_image"], SIZE, plan_of(key_steps),
        noise=lambda i, shape: recorded[i : i + 1], scale=tensors["reuse.scale"].item(),
    )  # fmt: skip


def test_recorded_reuse_chain(tiny, recorder):
    """Every ε and the state after each group; the recording has no step at t = 0."""
    image, trace = replay(recorder, tiny.tensors, "uniform:10")
    epsilon = torch.cat([group.flatten(0, 1) for group in recorder.decoded])
    states = {timestep: x for _, timestep, x, _ in trace}
    for row, expected in enumerate(tiny.tensors["reuse.eps"]):
        assert relative_error(epsilon[row], expected) < 1e-5
    for timestep, expected in zip((30, 20, 10, 1), tiny.tensors["reuse.states"], strict=True):
        assert relative_error(states[timestep][0], expected) < 1e-5
    assert [len(levels) for levels in recorder.levels] == [10] * 4
    assert len(recorder.encoded) == 4
    assert recorder.conditions == 1
    assert image is trace[-1][2]


def test_recorded_ancestral_chain(tiny, recorder):
    image, trace = replay(recorder, tiny.tensors, "none")
    states = {timestep: x for _, timestep, x, _ in trace}
    for timestep in (39, 20, 1, 0):
        assert relative_error(states[timestep], tiny.tensors[f"ancestral.x_after_t{timestep}"]) < 1e-5
    assert len(recorder.encoded) == 40
    assert torch.equal(image, trace[-1][3])  # the last step, at t = 0, returns ŷ_0


# --- grouping and batches -------------------------------------------------------------------------


def step_by_step(network, lr_image, key_steps, timesteps, noise):
    """Encoder-state reuse with the ancestral sampler, one image, one decoder call a step, formulas as published."""
    alphas_cumprod = network.schedule.alphas_cumprod
    condition = network.condition(lr_image, SIZE, 1.0)
    x = noise(0, (1, 3, *SIZE))
    for order, t in enumerate(timesteps):
        now, last = alphas_cumprod[t], order + 1 == len(timesteps)
        after = torch.tensor(1.0) if last else alphas_cumprod[timesteps[order + 1]]
        level = now.sqrt().float()[None]
        if order in key_steps:
            state = network.encode(x, level, condition)
        epsilon = network.decode(state, level, condition)
        x0 = (x / now.sqrt() - (1 / now - 1).sqrt() * epsilon).clamp(-1, 1)
        mean = after.sqrt() * (1 - now / after) / (1 - now) * x0 + (now / after).sqrt() * (1 - after) / (1 - now) * x
        variance = (1 - now / after) * (1 - after) / (1 - now)
        x = (mean if last else mean + variance.sqrt() * noise(order + 1, x.shape)).float()
    return x


@pytest.mark.parametrize("key_steps", ["none", "0,1,4,9", "uniform:5", "pro", "0"])
@torch.no_grad()
def test_any_grouping_equals_one_decoder_call_a_step(network, key_steps):
    draws = torch.randn(14, 1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    plan = plan_of(key_steps, steps=13)
    expected = step_by_step(network, lr_images(1), plan.key_steps, plan.timesteps, lambda i, shape: draws[i])
    assert_same(sample(network, lr_images(1), SIZE, plan, noise=lambda i, shape: draws[i]), expected)


def test_groups_of_unequal_length_reach_the_network_as_planned(recorder):
    plan = plan_of("0,1,4,9", steps=13)
    sample(recorder, lr_images(2), SIZE, plan)
    assert [tuple(levels.shape) for levels in recorder.levels] == [(1, 2), (3, 2), (5, 2), (4, 2)]
    levels = recorder.schedule.noise_levels[list(plan.timesteps)].float()
    assert torch.equal(torch.cat(recorder.levels), levels[:, None].expand(-1, 2))
    assert torch.equal(torch.stack([level for _, level in recorder.encoded])[:, 0], levels[[0, 1, 4, 9]])


@pytest.mark.parametrize(("solver", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.7), ("dpm++", 0.0)])
def test_a_batch_gives_what_its_images_give_alone(network, solver, eta):
    lr_image, plan, seeds = lr_images(3), plan_of("uniform:4", steps=10), [3, 11, 2**40]
    together = sample(network, lr_image, SIZE, plan, solver, seeds, eta=eta)
    for row, seed in enumerate(seeds):
        assert_same(
            together[row : row + 1], sample(network, lr_image[row : row + 1], SIZE, plan, solver, [seed], eta=eta)
        )


@pytest.mark.parametrize(
    ("lengths", "most", "captured", "expected"),
    [
        ((1, 2, 3, 4, 5, 6, 7, 8), None, True, [(1,), (2,), (3,), (4,), (5,), (6,), (7,), (8,)]),
        (
            (1, 2, 3, 4, 5, 6, 7, 8, 13),
            None,
            True,
            [(1,), (2,), (2, 1), (4,), (4, 1), (4, 2), (4, 2, 1), (8,), (8, 4, 1)],
        ),
        ((1, 2, 3, 4, 5, 6, 7, 8, 13), None, False, [(n,) for n in (1, 2, 3, 4, 5, 6, 7, 8, 13)]),
        (
            range(1, 12),
            4,
            True,
            [(1,), (2,), (3,), (4,), (4, 1), (4, 2), (4, 3), (4, 4), (4, 4, 1), (4, 4, 2), (4, 4, 3)],
        ),
        ((*range(1, 10), 40), 19, True, [*map(binary, range(1, 10)), (16, 16, 8)]),
    ],
)
def test_runs_that_are_captured_have_few_lengths(lengths, most, captured, expected):
    ends = torch.tensor(lengths).cumsum(0).tolist()
    plan = SamplingPlan.parse(",".join(map(str, [0, *ends[:-1]])), ends[-1], ends[-1])
    runs = [list(runs_of_decoder(plan, most, captured)(group)) for group in plan.groups]
    assert [tuple(map(len, group)) for group in runs] == expected
    for group, parts in zip(plan.groups, runs, strict=True):
        assert [order for part in parts for order in part] == list(group)


@pytest.mark.parametrize("solver", ["ddpm", "dpm++"])
@pytest.mark.parametrize("decode_batch", [1, 3, 4, 100])
def test_decode_batch_does_not_change_the_image(recorder, solver, decode_batch):
    plan = plan_of("uniform:4", steps=10)
    whole = sample(recorder.network, lr_images(2), SIZE, plan, solver)
    assert_same(sample(recorder, lr_images(2), SIZE, plan, solver, decode_batch=decode_batch), whole)
    groups = [4, 4, 2]
    lengths = [min(decode_batch, length - i) for length in groups for i in range(0, length, decode_batch)]
    assert [len(levels) for levels in recorder.levels] == lengths
    assert len(recorder.encoded) == 3


# --- noise ----------------------------------------------------------------------------------------


class Noiseless(nn.Module):
    """A network that predicts no noise, so that a chain shows the noise drawn for it."""

    def __init__(self, network):
        super().__init__()
        self.schedule, self.prediction = network.schedule, "epsilon"

    def condition(self, lr_image, size, scale):
        return None

    def encode(self, x, noise_level, condition):
        return x

    def decode(self, x, noise_level, condition):
        return x.new_zeros(len(noise_level), *x.shape)


def test_noise_depends_on_the_seed_of_the_image_alone(network):
    """Not on its place in the batch, the key steps, or how decoding is split: to the last bit."""

    def states(seeds, key_steps, **options):
        plan = plan_of(key_steps, steps=8)
        return torch.stack(
            [x for *_, x, _ in run(Noiseless(network), lr_images(len(seeds)), SIZE, plan, seeds=seeds, **options)[1]]
        )

    alone = states([7], "none")
    assert torch.equal(states([1, 7], "uniform:3")[:, 1:], alone)
    assert torch.equal(states([7, 2, 5], "0,5", decode_batch=2)[:, :1], alone)
    assert not torch.equal(states([8], "none"), alone)


def test_seeds_default_to_the_place_in_the_batch(network):
    plan = plan_of("uniform:2", steps=4)
    default = sample(network, lr_images(2), SIZE, plan)
    assert torch.equal(default, sample(network, lr_images(2), SIZE, plan, seeds=[0, 1]))
    assert torch.equal(default, sample(network, lr_images(2), SIZE, plan))


@pytest.mark.parametrize(
    ("solver", "eta", "asked"),
    [("ddpm", 0.0, [0, 1, 2, 3]), ("ddim", 0.0, [0]), ("ddim", 0.5, [0, 1, 2, 3]), ("dpm++", 0.0, [0])],
)
def test_noise_is_asked_for_where_it_is_added(network, solver, eta, asked):
    """Once for x_T, then for each step in order, the last of which adds none."""
    calls = []

    def noise(i, shape):
        calls.append((i, tuple(shape)))
        return torch.zeros(shape)

    sample(network, lr_images(2), SIZE, plan_of("uniform:3", steps=4), solver, noise=noise, eta=eta)
    assert calls == [(i, (2, 3, *SIZE)) for i in asked]


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm++"])
def test_consistency_makes_the_image_agree_with_its_lr(network, solver):
    """The error of the down-sampled image falls with every round of back-projection."""
    lr_image, errors = 0.5 * lr_images(2), []
    for rounds in (0, 1, 2, 4, 8):
        image = sample(network, lr_image, SIZE, plan_of("uniform:4", steps=8), solver, consistency=rounds)
        errors.append((resample(image, (8, 8)) - lr_image).square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2 * errors[0]


def test_start_begins_at_the_noise_level_from_the_lr_image(recorder):
    lr_image, draws = lr_images(2), torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    schedule = recorder.schedule
    gamma = schedule.noise_levels[20]
    _, trace = run(
        recorder, lr_image, SIZE, plan_of("uniform:3", steps=10), "ddim",
        noise=lambda i, shape: draws, start=gamma.item() + 1e-4,
    )  # fmt: skip
    x, level = recorder.encoded[0]
    torch.testing.assert_close(x, (gamma * resample(lr_image, SIZE) + (1 - gamma**2).sqrt() * draws).float())
    torch.testing.assert_close(level, gamma.float().expand(2))
    assert [timestep for _, timestep, *_ in trace] == list(SamplingPlan.parse("none", 10, 21).timesteps)
    assert [len(levels) for levels in recorder.levels] == [3, 3, 3, 1]


def test_start_takes_no_more_steps_than_there_are_timesteps(recorder):
    start = recorder.schedule.noise_levels[4].item()
    _, trace = run(recorder, lr_images(1), SIZE, plan_of("uniform:3", steps=10), start=start)
    assert [timestep for _, timestep, *_ in trace] == [4, 3, 2, 1, 0]
    assert [len(levels) for levels in recorder.levels] == [3, 2]


def test_a_later_start_stays_nearer_to_the_lr_image(network):
    lr_image, distances = lr_images(2), []
    for start in (0.1, 0.7, 0.95, 0.999):
        image = sample(network, lr_image, SIZE, plan_of("uniform:4", steps=8), "ddim", start=start)
        distances.append((image - resample(lr_image, SIZE)).square().mean().item())
    assert distances == sorted(distances, reverse=True)


def test_prior_noise_is_added_before_the_key_steps_of_the_later_half(network):
    plan, weight = plan_of("0,2,6,8", steps=10), 0.1
    recorder = Recorder(network)
    _, trace = run(recorder, lr_images(2), SIZE, plan, prior_noise=weight)
    initial = recorder.encoded[0][0]
    for key_step, (x, _) in zip(plan.key_steps[1:], recorder.encoded[1:], strict=True):
        added = weight * initial if key_step >= 5 else 0
        torch.testing.assert_close(x, trace[key_step - 1][2] + added)


def test_prior_noise_of_zero_changes_nothing(network):
    plan = plan_of("uniform:3", steps=10)
    plain = sample(network, lr_images(2), SIZE, plan)
    assert torch.equal(sample(network, lr_images(2), SIZE, plan, prior_noise=0.0), plain)
    assert relative_error(sample(network, lr_images(2), SIZE, plan, prior_noise=0.1), plain) > 1e-3


def test_odd_sizes_and_scale(network):
    """The image follows the scale, one for all images or one for each."""
    lr_image, plan = lr_images(2), plan_of("uniform:3", steps=6)
    one = sample(network, lr_image, (27, 35), plan, scale=0.5)
    assert one.shape == (2, 3, 27, 35)
    assert_same(sample(network, lr_image, (27, 35), plan, scale=torch.tensor([0.5, 0.5])), one)
    assert relative_error(sample(network, lr_image, (27, 35), plan, scale=1.0), one) > 1e-3


# --- the network as it is found -------------------------------------------------------------------


def test_the_mode_of_every_module_is_put_back(network):
    network = copy.deepcopy(network).train()
    network.decoder.eval()
    before = [module.training for module in network.modules()]
    modes = []
    image = sample(
        network, lr_images(1), SIZE, plan_of("uniform:2", steps=2),
        callback=lambda *_: modes.append(any(module.training for module in network.modules())),
    )  # fmt: skip
    assert modes == [False, False]
    assert [module.training for module in network.modules()] == before
    with pytest.raises(ModelError):
        sample(network, lr_images(1), SIZE, plan_of("none", 2), noise=lambda i, shape: torch.zeros(1))
    assert [module.training for module in network.modules()] == before
    assert not image.requires_grad


def test_what_a_network_caches_while_sampling_can_take_part_in_training(network):
    class Caching(Noiseless):
        def condition(self, lr_image, size, scale):
            self.table = torch.ones(3)

    caching, parameter = Caching(network), nn.Parameter(torch.zeros(3))
    sample(caching, lr_images(1), SIZE, plan_of("none", 2))
    (parameter * caching.table).sum().backward()
    assert torch.equal(parameter.grad, torch.ones(3))


def test_the_state_is_float32_under_autocast(network):
    plan = plan_of("uniform:3", steps=6)
    with torch.autocast("cpu", torch.bfloat16):
        recorder = Recorder(network)
        image, trace = run(recorder, lr_images(2), SIZE, plan, consistency=1)
    assert recorder.decoded[0].dtype == torch.bfloat16
    assert {tensor.dtype for *_, x, x0 in trace for tensor in (x, x0)} == {torch.float32}
    assert image.dtype == torch.float32
    assert relative_error(image, sample(network, lr_images(2), SIZE, plan, consistency=1)) < 0.1


def test_a_bfloat16_prediction_is_used_in_float32(network):
    """To the last bit what the same values give in float32."""

    class Predicting(Noiseless):
        dtype = torch.bfloat16

        def decode(self, x, noise_level, condition):
            values = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
            return values.to(self.dtype).expand(len(noise_level), *x.shape)

    low, high = Predicting(network), Predicting(network)
    high.dtype = torch.float32
    plan = plan_of("uniform:3", steps=6)
    assert torch.equal(sample(low, lr_images(2), SIZE, plan), sample(high, lr_images(2), SIZE, plan))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "dpm+"}, r'solver .* did you mean "dpm\+\+"'),
        ({"eta": 1.5}, "eta must lie in"),
        ({"eta": float("nan")}, "eta must lie in"),
        ({"consistency": -1}, "consistency must be"),
        ({"consistency": 1.5}, "consistency must be"),
        ({"start": 0.0}, "start must lie in"),
        ({"start": 1.0}, "start must lie in"),
        ({"prior_noise": -0.1}, "prior_noise must lie in"),
        ({"decode_batch": 0}, "decode_batch must be"),
        ({"seeds": [1]}, "1 seeds for 2 images"),
        ({"seeds": 5}, "seeds must be whole numbers"),
        ({"seeds": [1.5, 2]}, "seeds must be whole numbers"),
        ({"seeds": [2**64, 2]}, "seeds must be whole numbers"),
        ({"scale": torch.ones(3)}, "scale has shape"),
        ({"noise": lambda i, shape: torch.zeros(3, 3)}, r"noise\(0\) has shape \(3, 3\), not \(2, 3, 32, 32\)"),
        ({"size": (32,)}, "size must be"),
        ({"size": (32, 0)}, "size must be"),
        ({"size": 32}, "size must be"),
        ({"lr_image": torch.zeros(3, 8, 8)}, "lr_image must be float"),
        ({"lr_image": torch.zeros(2, 1, 8, 8)}, "lr_image must be float"),
        ({"lr_image": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "lr_image must be float"),
        ({"lr_image": torch.zeros(0, 3, 8, 8)}, "lr_image must be float"),
        ({"plan": "none"}, "plan must be a SamplingPlan"),
        ({"plan": SamplingPlan(5, 50, ())}, "schedule of 50 timesteps, the network's has 40"),
    ],
)
def test_refuses(network, options, message):
    arguments = {"lr_image": lr_images(2), "size": SIZE, "plan": plan_of("none", 4), **options}
    with pytest.raises(ModelError, match=message) as error:
        sample(network, **arguments)
    assert "\n" not in str(error.value)


# --- on the GPU -----------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize(("solver", "eta"), [("ddpm", 0.0), ("ddim", 0.7), ("dpm++", 0.0)])
def test_cuda_agrees_with_the_cpu(network, solver, eta, exact_float32):
    draws = torch.randn(11, 2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    options = {"solver": solver, "eta": eta, "consistency": 1}
    plan = plan_of("uniform:4", steps=10)
    expected = sample(network, lr_images(2), SIZE, plan, noise=lambda i, shape: draws[i], **options)
    on_gpu = copy.deepcopy(network).cuda()
    image = sample(on_gpu, lr_images(2), SIZE, plan, noise=lambda i, shape: draws[i], **options)
    assert image.is_cuda
    assert relative_error(image.cpu(), expected) < 1e-3


@pytest.mark.cuda
def test_the_chain_neither_waits_for_the_gpu_nor_copies_to_it(network):
    """From the second step on; by then what is made once, for a size, has been made."""
    network, orders = copy.deepcopy(network).cuda(), []

    def callback(order, timestep, x, x0):
        orders.append(order)
        torch.cuda.set_sync_debug_mode("error" if order < 9 else "default")

    try:
        sample(network, lr_images(2).cuda(), SIZE, plan_of("uniform:3", steps=10), consistency=1, callback=callback)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert orders == list(range(10))
