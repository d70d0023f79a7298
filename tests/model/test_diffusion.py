"""What is drawn for training and what the loss is, against its definitions."""

import pytest
import torch
from PIL import Image

from model.diffusion import DiffusionLoss, draw_noise_levels, draw_side, draw_sizes, target
from model.resampling import resample
from model.schedule import NoiseSchedule

SCHEDULE = {"schedule": "linear", "n_timestep": 20, "linear_start": 1e-3, "linear_end": 0.3}


def test_noise_levels_are_uniform_within_uniform_steps():
    schedule = NoiseSchedule(SCHEDULE)
    drawn = draw_noise_levels(schedule, 40_000, torch.Generator().manual_seed(0)).double()
    edges = torch.cat([torch.ones(1).double(), schedule.noise_levels])  # γ_0 .. γ_T, falling
    assert drawn.max() <= 1 and drawn.min() >= edges[-1] - 1e-7
    interval = torch.searchsorted(-edges, -drawn) - 1
    counts = torch.bincount(interval.clamp(0, 19), minlength=20)
    assert ((counts - 2000).abs() < 5 * 2000**0.5).all()
    position = (drawn - edges[1:][interval.clamp(0, 19)]) / (edges[:-1] - edges[1:])[interval.clamp(0, 19)]
    assert position.mean() == pytest.approx(0.5, abs=0.01) and position.std() == pytest.approx(12**-0.5, abs=0.01)


def test_drawn_sides_span_the_scales():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_side(16, 128, 1, generator) for _ in range(4000)]
    sides = [side for _, side in drawn]
    assert min(sides) == 17 and max(sides) == 128
    assert all(p == pytest.approx((side - 16) / 112) for p, side in drawn)
    assert sum(sides) / len(sides) == pytest.approx(72.5, abs=2)


def test_bounded_sides_are_multiples_of_the_step():
    generator = torch.Generator().manual_seed(0)
    sides = [draw_side(16, 100, 8, generator)[1] for _ in range(2000)]
    assert set(sides) == {24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 100}
    assert sides.count(64) == pytest.approx(2000 * 8 / 84, rel=0.25)


def test_sizes_are_drawn_by_their_weights():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_sizes([[16, 128, 3], [32, 64, 1]], generator) for _ in range(4000)]
    assert set(drawn) == {(16, 128), (32, 64)}
    assert drawn.count((16, 128)) == pytest.approx(3000, abs=5 * (4000 * 3 / 16) ** 0.5)


def test_v_is_a_rotation_of_image_and_noise():
    """x_t = γ·y + σ·ε and v = γ·ε - σ·y give back y = γ·x_t - σ·v."""
    generator = torch.Generator().manual_seed(0)
    y, noise = torch.randn(2, 4, 3, 8, 8, generator=generator)
    gamma = torch.rand(4, 1, 1, 1, generator=generator)
    sigma = (1 - gamma**2).sqrt()
    v = target("v", y, noise, gamma)
    assert torch.allclose(gamma * (gamma * y + sigma * noise) - sigma * v, y, atol=1e-5)
    assert target("epsilon", y, noise, gamma) is noise


@pytest.mark.parametrize(("loss", "power"), [("l1", 1), ("l2", 2)])
@torch.no_grad()
def test_loss_by_hand(tiny, loss, power):
    generator = torch.Generator().manual_seed(1)
    lr = torch.randn(2, 3, 8, 8, generator=generator)
    hr, noise = torch.randn(2, 2, 3, 32, 32, generator=generator)
    level = torch.tensor([0.3, 0.9])
    gamma = level[:, None, None, None]
    condition = tiny.network.condition(lr, (32, 32))
    predicted = tiny.network(gamma * hr + (1 - gamma**2).sqrt() * noise, level, condition)
    expected = (noise - predicted).abs().pow(power).mean()
    computed = DiffusionLoss(tiny.network, loss)(lr, hr, noise, level, 1.0)
    assert computed.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((37, 50), (12, 21)),
        ((64, 4), (16, 1)),
        ((4, 64), (1, 16)),
        ((8, 8), (1, 1)),
        ((16, 1), (64, 4)),
        ((3, 1), (7, 1)),
    ],
)
def test_resampling_is_pillows(size, resized, layout):
    """To within the rounding of Pillow's 8-bit fixed-point arithmetic; also of images one pixel wide or high."""
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(resized[::-1], Image.Resampling.BICUBIC)
    ours = resample(image[None].float().to(memory_format=layout), resized)[0].clamp(0, 255).permute(1, 2, 0)
    theirs = torch.frombuffer(bytearray(pillow.tobytes()), dtype=torch.uint8).view(*resized, 3).float()
    assert (ours - theirs).abs().max() <= 1.0
