"""The settings of a config reach the sampler, and a result depends on its image and its seed alone."""

import copy
import inspect
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from core.config import changed, check_config
from core.config.notices import untaught, without_effect_on_a_chain
from core.device import precision_on
from core.errors import UserError
from core.sampling.super_resolution import RESOLVED, Sampling, mean, sampling_settings, super_resolve
from core.sampling.trained_sizes import TrainedSizes
from data.tensors import to_image
from model import ModelError, build_network
from model.sampler import SamplingPlan, sample
from tests.core.conftest import SMALL


@pytest.fixture
def lr():
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def sampling_of(small_network):
    """sampling_of(settings) -> their Sampling for the small network."""
    return lambda settings: Sampling.of(settings, small_network.schedule)


@pytest.fixture
def settings(small_config):
    return small_config.sample


def test_is_the_sampler_with_the_settings(small_network, settings, sampling_of, lr):
    options = {"eta": 0.7, "consistency": 2, "decode": "ends", "decode_batch": 1, "prior_noise": 0.1}
    settings = settings.replace(solver="ddim", key_steps=[0, 3], **options)
    sr = super_resolve(small_network, lr, (32, 32), sampling_of(settings), [5, 6, 7], TrainedSizes(4))
    plan = SamplingPlan(steps=4, n_timestep=20, key_steps=(0, 3))
    expected = sample(small_network, lr, (32, 32), plan, "ddim", [5, 6, 7], scale=1.0, **options)
    assert torch.equal(sr, expected.clamp(-1, 1))
    assert sr.shape == (3, 3, 32, 32)
    assert sr.dtype == torch.float32


@pytest.mark.parametrize("start", [None, 0.5])
@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({"solver": "ddpm"}, {"eta": 1.0}),
        ({"solver": "dpm++"}, {"eta": 1.0}),
        ({"solver": "ddim", "steps": 1}, {"eta": 1.0}),
        ({"steps": 1}, {"prior_noise": 0.5, "decode": "ends", "decode_batch": 1}),
        ({"key_steps": "uniform:4"}, {"prior_noise": 0.5}),
        ({"key_steps": "none"}, {"decode": "first"}),
        ({"key_steps": [0, 1, 2, 3]}, {"decode": "ends", "decode_batch": 2}),
        ({"decode": "ends"}, {"decode_batch": 1}),
        ({"tile": 0}, {"overlap": 64}),
    ],
    ids=str,
)
def test_what_notices_call_idle_does_nothing(small_network, settings, sampling_of, lr, options, idle, start):
    without = settings.replace(start=start, **options)
    reasons = without_effect_on_a_chain(without.replace(**idle), small_network.schedule.n_timestep)
    assert {f"sample.{key}" for key in idle} <= reasons.keys()
    made = [
        super_resolve(small_network, lr, (32, 32), sampling_of(each), [5, 6, 7], TrainedSizes(4))
        for each in (without, without.replace(**idle))
    ]
    assert torch.equal(*made)


STUDENT = {"solver": "ddim", "steps": 4, "key_steps": "uniform:2", "start": 0.9}
ONE_CALL = STUDENT | {"steps": 1, "key_steps": "none"}


@pytest.mark.parametrize(
    ("taught", "asked", "other"),
    [
        (ONE_CALL, {"steps": 5}, ["steps"]),
        (ONE_CALL, {"steps": 5, "solver": "dpm++", "start": 0.5, "eta": 1.0}, ["solver", "steps", "start"]),
        (ONE_CALL, {"start": None}, ["start"]),
        (ONE_CALL, {"solver": "ddpm", "key_steps": "uniform:3", "eta": 1.0, "consistency": 2}, []),
        (ONE_CALL, {"mirrored": True, "seed": 3, "precision": "bf16", "tile": 0}, []),
        (STUDENT, {}, []),
        (STUDENT, {"steps": 4, "start": 0.9, "mirrored": True}, []),
        (STUDENT, {"steps": 1}, ["steps"]),
        (STUDENT | {"steps": 2}, {"steps": 4}, ["steps"]),
        (STUDENT, {"key_steps": "none"}, ["key_steps"]),
        (STUDENT, {"solver": "ddpm", "decode": "first", "decode_batch": 1}, ["solver", "decode"]),
    ],
    ids=str,
)
def test_a_student_learnt_one_chain(small_config, taught, asked, other):
    student = changed(small_config, {"phase": "distill", "sample": taught})
    options = sampling_settings(student, asked)
    assert untaught(student, options) == other
    assert untaught(changed(student, {"phase": "train"}), options) == []  # a diffusion network makes any chain


@pytest.mark.parametrize("other", [{"solver": "ddpm"}, {"solver": "dpm++"}, {"key_steps": "uniform:3"}, {"eta": 1.0}])
def test_one_call_is_the_same_by_any_solver(small_network, settings, sampling_of, lr, other):
    made = [
        super_resolve(small_network, lr, (32, 32), sampling_of(settings.replace(**each)), [5, 6, 7], TrainedSizes(4))
        for each in (ONE_CALL, ONE_CALL | other)
    ]
    assert (made[0] - made[1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("options", "apart"),
    [
        ({}, 1e-6),
        ({"trained_sizes": True}, 1e-6),  # in two stages, see `sizes` below
        ({"tile": 16, "overlap": 8}, 0),
    ],
    ids=str,
)
def test_mirrored_images_have_mirrored_results(small_network, settings, sampling_of, lr, options, apart):
    """With `mirrored`, a network that tells left from right no longer does. The result is the mean of two."""
    settings = settings.replace(solver="ddim", steps=2, key_steps="none", **options)
    sizes = TrainedSizes(2, sides=(16,), lr_side=16) if "trained_sizes" in options else TrainedSizes(4)
    made = lambda image, sampling: super_resolve(small_network, image, (32, 32), sampling, [5, 6, 7], sizes).float()  # noqa: E731
    plain, both = sampling_of(settings), sampling_of(settings.replace(mirrored=True))
    once = made(lr, plain)
    assert (made(lr.flip(3), plain).flip(3) - once).abs().max() > 0.1
    assert (made(lr.flip(3), both).flip(3) - made(lr, both)).abs().max() <= apart
    if "trained_sizes" not in options:
        expected = (once + made(lr.flip(3), plain).flip(3)) / 2
        assert (made(lr, both) - expected).abs().max() <= (0.5 if "tile" in options else apart)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("trained", [TrainedSizes(4), TrainedSizes(2, sides=(16,), lr_side=16)], ids=["one", "two"])
def test_chains_are_as_many_as_are_made(small_network, settings, sampling_of, lr, mirrored, trained):
    sampling = sampling_of(settings.replace(solver="ddim", steps=2, mirrored=mirrored, trained_sizes=True))
    begun = []
    super_resolve(
        small_network, lr, (32, 32), sampling, [5, 6, 7], trained, callback=lambda order, *_: begun.append(order == 0)
    )
    assert sampling.chains(trained, (32, 32), (8, 8)) == sum(begun) == (1 + mirrored) * (1 + bool(trained.sides))
    assert ("mirror image" in sampling.describe()) == mirrored


def test_the_mean_of_levels_is_rounded():
    levels = torch.tensor([0, 1, 254, 255, 255], dtype=torch.uint8)
    assert mean(levels, torch.tensor([0, 2, 255, 255, 0], dtype=torch.uint8)).tolist() == [0, 2, 255, 255, 128]


@pytest.mark.parametrize(("size", "scale"), [((8, 8), 0), ((16, 16), 1 / 3), ((32, 32), 1), ((64, 64), 1)])
def test_the_network_is_told_the_scale(small_network, settings, sampling_of, lr, monkeypatch, size, scale):
    told = []
    condition = small_network.condition
    monkeypatch.setattr(small_network, "condition", lambda lr, size, p: told.append(p) or condition(lr, size, p))
    super_resolve(small_network, lr[:1], size, sampling_of(settings), [0], TrainedSizes(4))
    assert told == [pytest.approx(scale)]


def timesteps(network, lr, sampling):
    """The timesteps that a callback is told of."""
    seen = []
    super_resolve(network, lr, (16, 16), sampling, [0], TrainedSizes(4), lambda order, t, x, x0: seen.append(t))
    return seen


def test_steps_null_is_every_timestep(small_network, settings, sampling_of, lr):
    settings = settings.replace(steps=None)
    seen = timesteps(small_network, lr[:1], sampling_of(settings))
    assert seen == list(range(19, -1, -1))


def test_start_shortens_the_chain(small_network, settings, sampling_of, lr):
    settings = settings.replace(steps=10, start=float(small_network.schedule.noise_levels[5]))
    seen = timesteps(small_network, lr[:1], sampling_of(settings))
    assert seen == list(sampling_of(settings).executed.timesteps) == [5, 4, 3, 2, 1, 0]


def test_an_image_does_not_depend_on_its_batch(small_network, settings, sampling_of, lr):
    together = super_resolve(small_network, lr, (20, 23), sampling_of(settings), [3, 1, 2], TrainedSizes(4))
    alone = super_resolve(small_network, lr[1:2], (20, 23), sampling_of(settings), [1], TrainedSizes(4))
    assert torch.allclose(together[1], alone[0], atol=1e-4)
    other_seed = super_resolve(small_network, lr[1:2], (20, 23), sampling_of(settings), [4], TrainedSizes(4))
    assert (other_seed - alone).abs().max() > 0.1


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_is_that_of_the_decoder(small_network, settings, sampling_of, lr, precision, dtype):
    seen = set()
    hook = small_network.decoder.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    settings = settings.replace(precision=precision)
    sr = super_resolve(small_network, lr, (16, 16), sampling_of(settings), [0, 1, 2], TrainedSizes(4))
    hook.remove()
    assert seen == {dtype}
    assert sr.dtype == torch.float32


def test_what_overflows_is_sampled_again_in_float32(small_network, settings, sampling_of, lr, recwarn):
    """As fp16 may; what is no number in float32 either is refused."""
    network = copy.deepcopy(small_network)
    network.decoder.output.bias.data.fill_(1e6)
    with pytest.warns(UserWarning, match=r"range of fp16: sampled again in float32"):
        again = super_resolve(
            network, lr, (16, 16), sampling_of(settings.replace(precision="fp16")), [0, 1, 2], TrainedSizes(4)
        )
    assert torch.equal(
        again,
        super_resolve(
            network, lr, (16, 16), sampling_of(settings.replace(precision="float32")), [0, 1, 2], TrainedSizes(4)
        ),
    )
    network.decoder.output.bias.data.fill_(float("nan"))
    recwarn.clear()
    with pytest.raises(UserError, match="not finite"):
        super_resolve(network, lr, (16, 16), sampling_of(settings), [0, 1, 2], TrainedSizes(4))
    assert not recwarn


@pytest.mark.parametrize(
    ("device", "training", "sampling"),
    [("cpu", "float32", "float32"), pytest.param("cuda", "bf16", "fp16", marks=pytest.mark.cuda)],
)
def test_precision_on(device, training, sampling):
    assert precision_on(torch.device(device), sampling=False) == training
    assert precision_on(torch.device(device), "auto") == sampling
    assert precision_on(torch.device(device), "bf16") == "bf16"


def test_description_names_what_is_on(sampling_of, settings):
    assert sampling_of(settings).describe() == (
        "ddim (eta 0), 4 of 20 steps, encoder at 2 of them (key steps uniform:2)"
    )
    settings = settings.replace(solver="dpm++", steps=None, key_steps="none", consistency=3)
    assert sampling_of(settings).describe() == (
        "dpm++, 20 of 20 steps, encoder at 20 of them (key steps none), consistency 3"
    )
    settings = settings.replace(steps=4, key_steps="uniform:2", decode="ends", consistency=0)
    assert sampling_of(settings).describe().endswith("(key steps uniform:2), decode ends")


def test_wrong_settings_are_one_line(small_network, settings, sampling_of, lr):
    settings = settings.replace(key_steps="uniform:zero")
    with pytest.raises(ModelError, match="uniform:K"):
        sampling_of(settings)


def test_settings_that_enter(small_config):
    """Flags count more than a preset, and it more than the config; an error names the flag."""
    small_config = changed(small_config, {"model.beta_schedule.val.n_timestep": 2000, "sample.eta": 0.5})
    settings = sampling_settings(small_config, {"steps": "7", "key_steps": "0,3"}, "quality")
    assert (settings.solver, settings.steps, settings.key_steps, settings.eta) == ("dpm++", 7, "0,3", 0.0)
    assert sampling_settings(small_config, {}) == small_config.sample
    with pytest.raises(UserError, match=r"^--decode-batch: sample\.decode_batch is '0'"):
        sampling_settings(small_config, {"decode_batch": "0"})


def test_sampling_is_frozen_and_knows_its_chain(settings, sampling_of):
    sampling = sampling_of(settings.replace(steps=10, start=0.9))
    assert sampling.plan == SamplingPlan(10, 20, tuple(range(0, 10, 2)))
    assert sampling.executed == sampling.plan.within(sampling.executed.n_timestep) != sampling.plan
    with pytest.raises(FrozenInstanceError):
        sampling.plan = sampling.executed


def test_every_setting_reaches_the_sampler(settings, sampling_of):
    """By its own name, but those that `core.sampling.super_resolution` resolves: a new key of the section needs nothing
    in between."""
    taken = set(inspect.signature(sample).parameters)
    assert set(sampling_of(settings).options()) <= taken
    assert set(settings) - set(RESOLVED) == set(sampling_of(settings).options()) - {"compiled"}


class InDouble(nn.Module):
    """A network that computes in float64, where the order of sums, which is another for each batch, shows no more."""

    def __init__(self, network):
        super().__init__()
        self.network = build_network(check_config(SMALL).model, fast=False).double()
        self.network.load_state_dict(network.state_dict())
        self.schedule, self.prediction = network.schedule, network.prediction

    def condition(self, lr_image, size, scale):
        return self.network.condition(lr_image.double(), size, scale.double() if torch.is_tensor(scale) else scale)

    def encode(self, x, noise_level, condition):
        return self.network.encode(x.double(), noise_level.double(), condition)

    def decode(self, state, noise_level, condition):
        return self.network.decode(state, noise_level.double(), condition)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "ddpm"},
        {"solver": "ddim", "eta": 1.0, "decode": "ends"},
        pytest.param({"solver": "ddpm", "key_steps": "none", "prior_noise": 0.003}, marks=pytest.mark.slow),
        pytest.param({"solver": "ddim", "eta": 0.5, "consistency": 1}, marks=pytest.mark.slow),
        pytest.param({"solver": "dpm++", "start": 0.9}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_an_image_has_the_same_bytes_in_every_batch(small_network, options):
    """By itself, in twos or all five at once, whatever place it has there."""
    network, lr = InDouble(small_network), torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    settings = check_config(SMALL).sample.replace(**{"steps": 10, "key_steps": "uniform:5", **options})
    sampling = Sampling.of(settings, network.schedule)

    def images(batch_size):
        parts = list(zip(lr.split(batch_size), torch.arange(5).split(batch_size), strict=True))
        sr = [
            super_resolve(network, part, (32, 32), sampling, seeds.tolist(), TrainedSizes(4)) for part, seeds in parts
        ]
        return [to_image(image).tobytes() for image in torch.cat(sr)]

    alone = images(1)
    assert len(set(alone)) == 5
    assert images(2) == alone and images(5) == alone
