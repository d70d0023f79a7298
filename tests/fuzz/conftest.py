"""Small published files to damage."""

import pytest
import torch

from model.published import parameter_order


def convolution(state, name, inputs, outputs, side=3, bias=True):
    state[f"{name}.weight"] = torch.randn(outputs, inputs, side, side)
    if bias:
        state[f"{name}.bias"] = torch.zeros(outputs)


def linear(state, name, inputs, outputs):
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(outputs, inputs), torch.zeros(outputs)


def block(state, name, inputs, outputs):
    linear(state, f"{name}.res_block.noise_func.noise_func.0", 32, outputs)
    for n, width in ((1, inputs), (2, outputs)):
        norm = f"{name}.res_block.block{n}.block.0"
        state[f"{norm}.weight"], state[f"{norm}.bias"] = torch.ones(width), torch.zeros(width)
        convolution(state, f"{name}.res_block.block{n}.block.3", width, outputs)
    if inputs != outputs:
        convolution(state, f"{name}.res_block.res_conv", inputs, outputs, side=1)


@pytest.fixture(scope="session")
def tiny_published():
    """The state dict of a published network of one level and 32 channels, and what its training file holds."""
    state = {"betas": torch.linspace(1e-6, 1e-2, 2000)}
    convolution(state, "encoder.head.0", 3, 4)
    convolution(state, "encoder.body.0", 4, 4)
    convolution(state, "encoder.tail.0", 4, 3)
    convolution(state, "denoise_fn.conv_body_first.0", 3, 32, bias=False)
    state["denoise_fn.conv_body_first.1.bias"] = torch.zeros(32)
    linear(state, "denoise_fn.noise_level_mlp.1", 32, 128)
    linear(state, "denoise_fn.noise_level_mlp.3", 128, 32)
    convolution(state, "denoise_fn.downs.0", 6, 32)
    block(state, "denoise_fn.downs.1", 32, 32)
    block(state, "denoise_fn.mid.0", 32, 32)
    state["denoise_fn.mid.0.attn.norm.weight"] = torch.ones(32)
    state["denoise_fn.mid.0.attn.norm.bias"] = torch.zeros(32)
    convolution(state, "denoise_fn.mid.0.attn.qkv", 32, 96, side=1, bias=False)
    convolution(state, "denoise_fn.mid.0.attn.out", 32, 32, side=1)
    block(state, "denoise_fn.mid.1", 32, 32)
    for n in (0, 1):
        block(state, f"denoise_fn.ups.{n}", 64, 32)
    state["denoise_fn.final_conv.block.0.weight"] = torch.ones(32)
    state["denoise_fn.final_conv.block.0.bias"] = torch.zeros(32)
    convolution(state, "denoise_fn.final_conv.block.3", 32, 3)
    kept = [{"step": torch.tensor(3.0), "exp_avg": torch.zeros_like(state[key])} for key in parameter_order(state)]
    return state, {"epoch": 1, "iter": 3, "scheduler": None, "optimizer": {"state": dict(enumerate(kept))}}
