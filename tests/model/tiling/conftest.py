"""A network without attention, and a picture to super-resolve."""

import math

import pytest
import torch

from model import build_network

MODEL = {
    "unet": {
        "inner_channel": 8,
        "norm_groups": 4,
        "channel_multiplier": [1, 2, 2],
        "attn_res": [],
        "mid_attention": False,
        "res_blocks": 1,
    },
    "lr_encoder": {"n_resblocks": 1, "n_feats": 8},
    "beta_schedule": {"val": {"schedule": "linear", "n_timestep": 20, "linear_start": 1e-3, "linear_end": 0.3}},
    "diffusion": {"image_size": 64, "prediction": "v"},
}


@pytest.fixture(scope="session")
def network():
    torch.manual_seed(0)
    return build_network(MODEL).eval()


@pytest.fixture(scope="session")
def local_network():
    """One without norms, whose LR encoder enlarges 4 times: no pixel sees further than its convolutions."""
    torch.manual_seed(0)
    lr_encoder = MODEL["lr_encoder"] | {"sub_pixel": 4}
    return build_network(MODEL | {"unet": MODEL["unet"] | {"norm_groups": 0}, "lr_encoder": lr_encoder}).eval()


@pytest.fixture(scope="session")
def picture():
    """picture(height, width) -> (1, 3, height, width) in [-1, 1]: dark on the left, bright and busy on the right."""

    def make(height, width):
        y, x = torch.meshgrid(torch.arange(height) / 3, torch.arange(width) / 3, indexing="ij")
        waves = torch.stack([torch.sin(x * x * 0.03 * (c + 2)) * torch.cos(y * (1 + 0.3 * c)) for c in range(3)])
        return (waves * (x / x.max()) * 0.6 + 0.3 * (x / x.max()) - 0.2)[None].clamp(-1, 1)

    return make


@pytest.fixture(scope="session")
def psnr():
    """psnr(a, b) of two images of levels from 0 to 255, in dB."""

    def measure(a, b):
        error = (a.double() - b.double()).square().mean().item()
        return math.inf if error == 0 else 10 * math.log10(255**2 / error)

    return measure
