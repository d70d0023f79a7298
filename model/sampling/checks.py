"""What `model.sampler.sample` refuses: arguments out of their range, or that do not fit the others."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from model.errors import require
from model.network import Network
from model.sampling.group_decoding import DECODES
from model.sampling.plan import SamplingPlan, is_int


def check_settings(
    eta: float, consistency: int, start: float | None, prior_noise: float, decode: str, decode_batch: int | None
) -> None:
    require(decode in DECODES, f"decode must be one of {', '.join(DECODES)}, not {decode!r}")
    require(is_number(eta) and 0 <= eta <= 1, f"eta must lie in [0, 1], not {eta!r}")
    require(is_int(consistency) and consistency >= 0, f"consistency must be a number of rounds, not {consistency!r}")
    require(start is None or (is_number(start) and 0 < start < 1), f"start must lie in (0, 1), not {start!r}")
    require(is_number(prior_noise) and 0 <= prior_noise < 1, f"prior_noise must lie in [0, 1), not {prior_noise!r}")
    require(
        decode_batch is None or (is_int(decode_batch) and decode_batch >= 1),
        f"decode_batch must be a number of steps of at least 1, not {decode_batch!r}",
    )


def check_inputs(
    network: Network, lr_image: Tensor, size: Sequence[int], plan: SamplingPlan, scale: float | Tensor
) -> None:
    require(
        lr_image.dim() == 4 and lr_image.shape[1] == 3 and lr_image.is_floating_point() and lr_image.numel() > 0,
        f"lr_image must be float (B, 3, h, w) in [-1, 1], not {lr_image.dtype} {(*lr_image.shape,)}",
    )
    require(
        isinstance(size, tuple | list) and len(size) == 2 and all(is_int(side) and side > 0 for side in size),
        f"size must be (height, width), two whole numbers above 0, not {size!r}",
    )
    require(isinstance(plan, SamplingPlan), f"plan must be a SamplingPlan, as SamplingPlan.parse makes, not {plan!r}")
    n_timestep = network.schedule.n_timestep
    require(
        plan.n_timestep == n_timestep,
        f"the plan is for a schedule of {plan.n_timestep} timesteps, the network's has {n_timestep}",
    )
    shape = tuple(getattr(scale, "shape", ()))
    require(shape in ((), (len(lr_image),)), f"scale has shape {shape} for {len(lr_image)} images: give one or B")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_tiles(tile: int, overlap: int) -> None:
    require(is_int(tile) and tile >= 1, f"tile must be a number of pixels of at least 1, not {tile!r}")
    require(is_int(overlap) and overlap >= 0, f"overlap must be a number of pixels, not {overlap!r}")
