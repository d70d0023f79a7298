"""Where the noise of a chain comes from: a seed for each image, or whoever calls."""

from collections.abc import Callable, Sequence
from operator import index

import torch
from torch import Tensor

from model.errors import ModelError, require

Noise = Callable[[int, tuple[int, ...]], Tensor]  # noise(i, shape): i = 0 for x_T, order + 1 for a step


def noise_of_chain(noise: Noise | None, seeds: Sequence[int] | None, batch: int, device: torch.device) -> Noise:
    """The caller's noise, or that of the seeds, 0 .. B-1 where there are none."""
    if noise is not None:
        return checked_noise(noise, device)
    return seeded_noise(range(batch) if seeds is None else seeds, batch, device)


def seeded_noise(seeds: Sequence[int], batch: int, device: torch.device) -> Noise:
    """Gaussian noise of which each image draws its share from a generator of its own, call after call."""
    try:
        generators = [torch.Generator(device).manual_seed(index(seed)) for seed in seeds]
    except (TypeError, ValueError, RuntimeError):
        raise ModelError(f"seeds must be whole numbers below 2^64, one for each image, not {seeds!r}") from None
    require(len(generators) == batch, f"{len(generators)} seeds for {batch} images: give one for each")

    def noise(i: int, shape: tuple[int, ...]) -> Tensor:
        drawn = torch.empty(shape, device=device)
        for image, generator in zip(drawn, generators, strict=True):
            image.normal_(generator=generator)
        return drawn

    return noise


def checked_noise(noise: Noise, device: torch.device) -> Noise:
    """The caller's noise on the device, refused where it has not the shape that was asked for."""

    def checked(i: int, shape: tuple[int, ...]) -> Tensor:
        drawn = noise(i, shape)
        require(tuple(drawn.shape) == tuple(shape), f"noise({i}) has shape {(*drawn.shape,)}, not {(*shape,)}")
        return drawn.to(device, torch.float32)

    return checked
