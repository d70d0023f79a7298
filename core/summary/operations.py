"""Floating-point operations of a network and of a chain, counted on the meta device, where nothing is computed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from model import build_network
from model.sampling.group_decoding import decoded


@torch.no_grad()
def count_flops(model: Mapping[str, Any], lr_side: int, hr_side: int, together: Iterable[int]) -> dict[str, Any]:
    """GFLOP of each call for one image: {"condition", "encode", "decode": {K: of K steps at once}}, for K = 1 and those
    in `together`. A multiplication and an addition are two; zeros in the weights count as any number."""
    network = build_network(model, initialised=False).to("meta").eval()
    lr, x = (torch.empty(1, 3, side, side, device="meta") for side in (lr_side, hr_side))
    level = torch.empty(1, device="meta")

    def counted(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
        with FlopCounterMode(display=False) as counter:
            result = function(*arguments)
        return result, counter.get_total_flops() / 1e9

    condition, conditioning = counted(network.condition, lr, (hr_side, hr_side))
    state, encoding = counted(network.encode, x, level, condition)
    decoding = {k: counted(network.decode, state, level.expand(k, 1), condition)[1] for k in sorted({1, *together})}
    return {"condition": conditioning, "encode": encoding, "decode": decoding}


def chain_flops(flops: Mapping[str, Any], groups: Sequence[Sequence[int]], decode: str) -> dict[str, float]:
    """GFLOP of an image, and what it would be if each of those decoder calls were one by itself."""
    steps = [decoded(len(group), decode) for group in groups]
    encoding = flops["condition"] + len(groups) * flops["encode"]
    return {
        "gflop_per_image": encoding + sum(flops["decode"][k] for k in steps),
        "gflop_per_image_unshared": encoding + sum(steps) * flops["decode"][1],
    }
