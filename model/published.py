"""Published checkpoints: their state dicts, key by key, in the names of this project.

A published `*_gen.pth` numbers the UNet's layers in one list per path (`downs.{n}`, `mid.{n}`, `ups.{n}`), so which
layer a number means follows from the architecture, and the architecture is read off the keys and shapes.
"""

import re
from collections.abc import Mapping
from itertools import count
from typing import Any

from torch import Tensor

from model.errors import ModelError

State = Mapping[str, Tensor]  # a published state dict
Names = list[tuple[str, str]]  # (this project's name, the published key)

IMAGE_SIZE, NORM_GROUPS = 128, 32  # of the published models, which their shapes do not tell

SCHEDULE_BUFFERS = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "ddim_c1",
)  # fmt: skip

NEVER_USED = re.compile(
    r"encoder\.(sub|add)_mean\.|imnet\.layers\.|denoise_fn\.(final_(down1|down2|linear|styleconv)\.|"
    r"condition_(shift|scale1|scale2)\.0\.|conv_body_down\.\d+\.|ups\.\d+\.style\.(weight|modulated_conv\.))"
)

RES_BLOCK = {
    "norm1": "res_block.block1.block.0",
    "conv1": "res_block.block1.block.3",
    "noise": "res_block.noise_func.noise_func.0",
    "norm2": "res_block.block2.block.0",
    "conv2": "res_block.block2.block.3",
    "shortcut": "res_block.res_conv",
    "attention.norm": "attn.norm",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.out",
}


def unwrapped(state: Any) -> dict[str, Tensor]:
    """A published state dict without the `module.` prefix that a data-parallel wrapper leaves on every key."""
    is_state = isinstance(state, dict) and all(isinstance(key, str) for key in state)
    state = {key.removeprefix("module."): value for key, value in state.items()} if is_state else {}
    if "denoise_fn.downs.0.weight" not in state:
        raise ModelError("not a published state dict: it has no key denoise_fn.downs.0.weight")
    if "encoder.head.0.weight" not in state:
        raise ModelError(
            "a network without LR encoder and conditioning, as SR3 is: another one, which is not read here"
        )
    if other := next((key for key, value in state.items() if not isinstance(value, Tensor)), None):
        raise ModelError(f"not a published state dict: {other[:60]} is no tensor")
    return state


def read_architecture(state: State) -> dict[str, Any]:
    """config["model"] of a published state dict.

    The shapes do not tell the nominal image size, the number of groups of a GroupNorm, nor dropout: the first two are
    those of the published models, and dropout is 0.
    """
    state = unwrapped(state)
    inner, in_channel = _channels(state, "denoise_fn.downs.0.weight")
    levels: list[list[int]] = [[]]  # the output channels of each residual block
    attending = set()
    for n in range(1, 1 + _length(state, "denoise_fn.downs.", start=1)):
        if f"denoise_fn.downs.{n}.conv.weight" in state:
            levels.append([])
            continue
        levels[-1].append(_channels(state, f"denoise_fn.downs.{n}.res_block.block2.block.3.weight")[0])
        if f"denoise_fn.downs.{n}.attn.qkv.weight" in state:
            attending.add(len(levels) - 1)
    if not all(levels):
        raise ModelError("not a published state dict: a level of its encoder has no residual block")
    return {
        "unet": {
            "in_channel": in_channel,
            "out_channel": _channels(state, "denoise_fn.final_conv.block.3.weight")[0],
            "inner_channel": inner,
            "norm_groups": NORM_GROUPS,
            "channel_multiplier": [blocks[-1] // inner for blocks in levels],
            "attn_res": [IMAGE_SIZE // 2**level for level in sorted(attending)],
            "res_blocks": len(levels[0]),
            "dropout": 0.0,
        },
        "lr_encoder": {
            "n_resblocks": _length(state, "encoder.body.", start=0) - 1,
            "n_feats": _channels(state, "encoder.head.0.weight")[0],
        },
        "beta_schedule": {phase: _read_schedule(state) for phase in ("train", "val")},
        "diffusion": {"image_size": IMAGE_SIZE, "channels": 3, "conditional": True, "prediction": "epsilon"},
    }


def convert_reference_state(state: State) -> dict[str, Tensor]:
    """A published state dict (tensors by published key) -> the same tensors by this project's keys.

    Tensors that take no part in the forward pass may be there or not. Raises ModelError, with the list, where keys are
    missing or do not belong to the network.
    """
    state = unwrapped(state)
    names = published_names(state)
    missing = [theirs for theirs in names.values() if theirs not in state]
    known = {*names.values(), *SCHEDULE_BUFFERS}
    unknown = [key for key in state if key not in known and not NEVER_USED.match(key)]
    if missing or unknown:
        lists = {"missing": missing, "unknown": unknown}
        complaints = "; ".join(f"{what} {_shorten(keys)}" for what, keys in lists.items() if keys)
        raise ModelError(f"the published state dict does not fit the network: {complaints}")
    return {ours: state[theirs] for ours, theirs in names.items()}


def _shorten(keys: list[str], limit: int = 5) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(key[:100] for key in keys[:limit]) + more


def published_names(state: State) -> dict[str, str]:
    """This project's parameter name -> the published key, for the architecture of a published state dict."""
    state = unwrapped(state)
    unet = read_architecture(state)["unet"]
    levels = len(unet["channel_multiplier"])
    return dict(_lr_encoder_names(state) + _conditioning_names(levels) + _unet_names(state, unet))


def parameter_order(state: State) -> list[str]:
    """Published keys in the order in which a published optimiser numbers them: every parameter, no schedule buffer."""
    return [key for key in unwrapped(state) if key not in SCHEDULE_BUFFERS]


def _channels(state: State, key: str) -> tuple[int, int]:
    """The output and input channels of a convolution of a published state dict."""
    shape = state[key].shape if key in state else ()
    if len(shape) != 4 or not all(shape):
        raise ModelError(
            f"not a published state dict: {key} is {f'of shape {tuple(shape)}' if key in state else 'missing'}"
        )
    return shape[0], shape[1]


def _length(state: State, prefix: str, start: int) -> int:
    """How many consecutive numbers n from `start` have keys `prefix + n`."""
    numbers = {key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}
    return next(n for n in count(start) if str(n) not in numbers) - start


def _read_schedule(state: State) -> dict[str, Any]:
    """The β schedule: linear from the first to the last β in the file, or the published one where it has none."""
    betas = state.get("betas")
    if betas is None:
        return {"schedule": "linear", "n_timestep": 2000, "linear_start": 1e-6, "linear_end": 1e-2}
    if betas.ndim != 1 or len(betas) < 2 or not betas.is_floating_point():
        raise ModelError(f"not a published state dict: betas are {betas.dtype} {tuple(betas.shape)}")
    first, middle, last = (float(betas[n]) for n in (0, len(betas) // 2, -1))
    expected = first + (last - first) * (len(betas) // 2) / (len(betas) - 1)
    if not abs(middle - expected) <= 1e-3 * expected:  # as no NaN is
        raise ModelError(
            f"the checkpoint's β schedule ({len(betas)} steps, {first:g} to {last:g}) is not linear: "
            "name its config, which says which schedule it is"
        )
    return {"schedule": "linear", "n_timestep": len(betas), "linear_start": _round(first), "linear_end": _round(last)}


def _round(x: float) -> float:
    """A float32 read back as the decimal that it was written as."""
    return float(f"{x:.6g}")


def _layer(ours: str, theirs: str, bias: bool = True) -> Names:
    return [(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in ("weight", "bias")[: 1 + bias]]


def _lr_encoder_names(state: State) -> Names:
    last = _length(state, "encoder.body.", start=0) - 1
    names = _layer("lr_encoder.head", "encoder.head.0")
    for i in range(last):
        for k in (0, 2):
            names += _layer(f"lr_encoder.blocks.{i}.{k}", f"encoder.body.{i}.body.{k}")
    return names + _layer("lr_encoder.body_end", f"encoder.body.{last}") + _layer("lr_encoder.tail", "encoder.tail.0")


def _conditioning_names(levels: int) -> Names:
    names = [
        ("conditioning.first.0.weight", "denoise_fn.conv_body_first.0.weight"),
        ("conditioning.first.1.bias", "denoise_fn.conv_body_first.1.bias"),
    ]
    for i in range(levels - 1):
        names += [
            (f"conditioning.down.{i}.0.weight", f"denoise_fn.conv_body_down.{i}.1.weight"),
            (f"conditioning.down.{i}.1.bias", f"denoise_fn.conv_body_down.{i}.2.bias"),
            *_layer(f"conditioning.shift.{i}", f"denoise_fn.condition_shift.{i + 1}.0"),
            *_layer(f"conditioning.scale1.{i}", f"denoise_fn.condition_scale1.{i + 1}"),
            *_layer(f"conditioning.scale2.{i}", f"denoise_fn.condition_scale2.{i + 1}"),
        ]
    return names


def _unet_names(state: State, unet: Mapping[str, Any]) -> Names:
    levels = range(len(unet["channel_multiplier"]))
    names = _layer("embedding.expand", "denoise_fn.noise_level_mlp.1")
    names += _layer("embedding.project", "denoise_fn.noise_level_mlp.3")
    names += _layer("encoder.input", "denoise_fn.downs.0")
    n = count(1)
    for level in levels:
        for block in range(unet["res_blocks"]):
            names += _block_names(state, f"encoder.levels.{level}.{block}", f"denoise_fn.downs.{next(n)}")
        if level < levels[-1]:
            names += _layer(f"encoder.downsamples.{level}", f"denoise_fn.downs.{next(n)}.conv")
    for block in (1, 2):
        names += _block_names(state, f"encoder.mid{block}", f"denoise_fn.mid.{block - 1}")
    n = count()
    for level in levels:  # counted from the coarsest
        for block in range(unet["res_blocks"] + 1):
            names += _block_names(state, f"decoder.levels.{level}.{block}", f"denoise_fn.ups.{next(n)}")
        if level < levels[-1]:
            ours, theirs = f"decoder.upsamplers.{level}", f"denoise_fn.ups.{next(n)}"
            names.append((f"{ours}.activation.bias", f"{theirs}.style.activate.bias"))
            names += _layer(f"{ours}.linear1", f"{theirs}.imnet.0") + _layer(f"{ours}.linear2", f"{theirs}.imnet.1")
    names += _layer("decoder.norm", "denoise_fn.final_conv.block.0")
    return names + _layer("decoder.output", "denoise_fn.final_conv.block.3")


def _block_names(state: State, ours: str, theirs: str) -> Names:
    names = []
    for part, name in RES_BLOCK.items():
        optional = part == "shortcut" or part.startswith("attention")
        if optional and f"{theirs}.{name}.weight" not in state:
            continue
        names += _layer(f"{ours}.{part}", f"{theirs}.{name}", bias=part != "attention.qkv")
    return names
