"""What trainings that are compared share: the loss that measures them, and how two of them differ."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.helpers import equal_trainings
from benchmarks.helpers.equal_trainings_report import describe_data, paired_difference
from model.diffusion import draw_noise_levels
from model.schedule import NoiseSchedule


def test_stratified_noise_levels():
    schedule = NoiseSchedule({"schedule": "linear", "n_timestep": 50, "linear_start": 1e-4, "linear_end": 0.1})
    table = np.concatenate([[1.0], schedule.noise_levels.numpy()])
    edges = np.interp(np.linspace(0, 50, 8), np.arange(51), table)
    drawn = torch.stack(
        [equal_trainings.stratified_noise_levels(schedule, 7, torch.Generator().manual_seed(n)) for n in range(2000)]
    ).numpy()
    assert (drawn <= edges[:-1] + 1e-6).all() and (drawn >= edges[1:] - 1e-6).all()
    trained = draw_noise_levels(schedule, 100_000, torch.Generator().manual_seed(0)).numpy()
    grid = np.linspace(0.01, 0.99, 25)
    np.testing.assert_allclose(np.quantile(drawn, grid), np.quantile(trained, grid), atol=0.01)


class Recorder(nn.Module):
    """An objective that keeps what it is given; its loss is the mean |noise|."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), []

    def forward(self, *arguments):
        self.seen.append(arguments)
        return arguments[2].abs().mean() + self.weight


def test_the_noise_of_an_image_is_its_own():
    schedule = NoiseSchedule({"schedule": "linear", "n_timestep": 50, "linear_start": 1e-4, "linear_end": 0.1})
    images = [{"index": n, "lr": torch.full((3, 4, 4), 0.1), "hr": torch.full((3, 8, 8), 0.2)} for n in (0, 1)]
    objective, losses = Recorder(), []
    for sample in (*images, images[0]):
        losses.append(equal_trainings.image_loss(objective, sample, schedule, factor=2))
        torch.rand(7)  # no state is shared with what else draws
    (lr, hr, noise, levels, scale), other, again = objective.seen
    assert losses[0] == losses[2] != losses[1] and losses[0] == pytest.approx((2 / math.pi) ** 0.5, abs=0.05)
    assert all(torch.equal(a, b) for a, b in zip((lr, hr, noise, levels), again[:4], strict=True))
    assert not torch.equal(noise, other[2]) and not torch.equal(levels, other[3])
    assert lr.shape == (16, 3, 4, 4) and hr.shape == noise.shape == (16, 3, 8, 8) and scale == 1
    assert (lr == 0.1).all() and (hr == 0.2).all() and (levels.diff() < 0).all()
    equal_trainings.image_loss(objective, images[0], schedule, factor=3)
    assert objective.seen[-1][4] == 0.5  # of factors 1 to 3, the image asks for 2


def test_the_digest_of_data_is_that_of_the_images_in_use(tmp_path):
    """One left out by its weight, by a limit, or by not being there are alike; another one is not."""

    def digest(names, **keys):
        folder = tmp_path / "".join(names)
        folder.mkdir(exist_ok=True)
        for name in names:
            Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
        train = {"dataroot": folder, "l_resolution": 4, "r_resolution": 8, **keys}
        config = SimpleNamespace(datasets={"train": train})
        return describe_data(SimpleNamespace(config=config, sets={}))["train"]["sha256"]

    there = digest("ab")
    assert digest("abc", weights={"c": 0}) == digest("abd", data_len=2) == there
    assert len({there, digest("abc", weights={"a": 0}), digest("abc", weights={"b": 0}), digest("abc")}) == 4


def test_paired_difference():
    mean, error = paired_difference({"a": [1.0, 3.0], "b": [5.0]}, {"a": [0.0, 1.0], "b": [2.0]})
    assert mean == pytest.approx(2) and error == pytest.approx(1 / 3**0.5)  # of 1, 2 and 3
    assert paired_difference({"a": [1.5]}, {"a": [1.0]}) == (0.5, None)


def test_share_kept():
    first, last = {"w": torch.tensor([True, True, False, True])}, {"w": torch.tensor([True, False, True, True])}
    assert equal_trainings.share_kept(first, last) == pytest.approx(2 / 3) and equal_trainings.share_kept({}, {}) == 1
