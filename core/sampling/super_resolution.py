"""From LR images to SR images as the `sample` section of a config says: the one way that everything here samples.

A new option of the sampler is a key of `SampleSection` in core/config/sections.py, of which infer.py makes a flag, and
an argument of `sample` in model/sampler.py, to which it goes from here by its name.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.config import PRESETS, Config, changed
from core.config.presets import OF_STUDENTS
from core.config.sections import SampleSection
from core.config.wording import as_flag
from core.device import autocast, precision_on
from core.errors import UserError
from core.sampling.tiling import Tiles, tiles_for
from core.sampling.trained_sizes import Stage, TrainedSizes
from data.images import resize
from data.tensors import from_levels, to_image
from model import Network
from model.conditioning import relative_scale
from model.resampling import resample
from model.sampler import SamplingPlan, sample
from model.sampling.group_decoding import decoded
from model.sampling.key_steps import EncoderChange
from model.schedule import NoiseSchedule
from model.tiling import OnBatch, sample_tiled

# Settings that `sample` does not take by their names.
RESOLVED = ("steps", "key_steps", "mirrored", "seed", "precision", "compile", "trained_sizes", "tile", "overlap")

Callback = Callable[[int, int, Tensor, Tensor], None]  # callback(order, timestep, x, ŷ_0) after each denoising step


def sampling_settings(
    config: Config,
    flags: Mapping[str, Any],
    preset: str | None = None,
    name: str | Path = "this network",  # what it is called
) -> SampleSection:
    """The config's `sample` section as a preset changes it, and then the flags, {key: value or its text}.

    A student is sampled as it was taught. Raises UserError that names the flag, or the preset that a student cannot
    follow.
    """
    presets = OF_STUDENTS if config.phase == "distill" else PRESETS
    if preset and preset not in presets:
        taught = f"{name} was taught its own sampling, steps {config.sample.steps}"
        advice = f"use {' or '.join(presets)}, or name a diffusion network with -r"
        raise UserError(f"--preset {preset}: {taught}; {advice}")
    origins = {f"sample.{key}": as_flag(key) for key in flags}
    changes = {**(presets[preset] if preset else {}), **flags}
    return changed(config, {f"sample.{key}": value for key, value in changes.items()}, "checkpoint", origins).sample


@dataclass(frozen=True)
class Sampling:
    """How a network samples: settings (solver, anchors, decoding, precision, seed, ...), and the chain that their steps
    and key steps make of its noise schedule."""

    settings: SampleSection
    plan: SamplingPlan  # the whole chain, which `sample` takes
    executed: SamplingPlan  # what is left of it where it begins at the noise level `start`
    most_pixels: int | None = None  # of tiles at once, where memory is known to be short

    @classmethod
    def of(
        cls, settings: SampleSection, schedule: NoiseSchedule, encoder_change: EncoderChange | None = None
    ) -> "Sampling":
        """The settings for a network with this noise schedule; encoder_change: what calibration measured of it.

        Raises ModelError where the settings make no chain, as auto:N does not without a measurement.
        """
        start, all_timesteps = settings.start, schedule.n_timestep
        left = all_timesteps if start is None else schedule.timestep_of(start) + 1
        plan = SamplingPlan.parse(settings.key_steps, settings.steps, all_timesteps, encoder_change, left)
        return cls(settings, plan, plan.within(left))

    def chains(self, trained: TrainedSizes, size: tuple[int, int], lr_size: Sequence[int]) -> int:
        """How many chains, one after the other, make a result of this size."""
        return len(self.stages(trained, size, lr_size)) * self.chains_of_a_stage

    @property
    def chains_of_a_stage(self) -> int:
        """One of the image, and where `mirrored` one of its mirror image."""
        return 2 if self.settings.mirrored else 1

    def options(self) -> dict[str, Any]:
        """The settings as arguments of `model.sampler.sample`."""
        passed = {name: value for name, value in self.settings.items() if name not in RESOLVED}
        return passed | {"compiled": self.settings.compile}

    def stages(self, trained: TrainedSizes, size: tuple[int, int], lr_size: Sequence[int]) -> list[Stage]:
        """How a result of this size, (H, W), is made."""
        return trained.stages(size, lr_size) if self.settings.trained_sizes else [Stage(size, size)]

    @property
    def decoder_calls(self) -> int:
        """How many the decoder makes at once of one image: as many as a group has, or fewer."""
        how, longest = self.settings.decode, max(len(group) for group in self.executed.groups)
        most = self.settings.decode_batch if how == "every" else None
        return min(decoded(longest, how), most or longest)

    def describe(self) -> str:
        """In one line, for reports; what is off is not mentioned."""
        settings, plan = self.settings, self.executed
        solver = f"ddim (eta {settings.eta:g})" if settings.solver == "ddim" else settings.solver
        keys = f"encoder at {len(plan.key_steps)} of them (key steps {settings.key_steps})"
        options = [f"{name} {settings[name]:g}" for name in ("consistency", "start", "prior_noise") if settings[name]]
        if settings.decode != "every":
            options.insert(0, f"decode {settings.decode}")
        options += ["mean with the mirror image"] if settings.mirrored else []
        options += [] if settings.trained_sizes else ["each size as it is"]
        return ", ".join([solver, f"{plan.steps} of {plan.n_timestep} steps", keys, *options])


def super_resolve(
    network: Network,
    lr: Tensor,  # (B, 3, h, w) in [-1, 1], on any device
    size: tuple[int, int],  # (H, W) of the result
    sampling: Sampling,
    seeds: Sequence[int],  # one an image: an image's noise depends on its seed alone
    trained: TrainedSizes,  # what the network learnt; used where `sample.trained_sizes` is on
    callback: Callback | None = None,  # of images that are not made by tiles, as they are made, chain by chain
    on_batch: OnBatch | None = None,  # of those that are, for each of them
) -> Tensor:  # (B, 3, H, W) in [-1, 1], float32; of images made by tiles, uint8 levels on the CPU
    """Super-resolves a batch on the network's device, in the precision that the settings ask for.

    Raises ModelError for a setting that the sampler cannot work with, and UserError where the result is not finite, or
    tiles do not go with the network.
    """
    sampler = Sampler(network, sampling, seeds, trained.magnification, callback, on_batch)
    *first, last = sampling.stages(trained, size, lr.shape[-2:])
    for stage in first:
        lr = as_input(reduced(sampler.at(lr, stage.made_at), stage.size))
    return reduced(sampler.at(lr, last.made_at), last.size)


def reduced(sr: Tensor, size: tuple[int, int]) -> Tensor:
    """A result, (B, 3, H, W) in [-1, 1] or uint8 levels, made smaller if it is not of this size."""
    if sr.shape[-2:] == size:
        return sr
    if sr.dtype == torch.uint8:  # of a large image: Pillow takes no more memory than the levels do
        images = [np.array(resize(to_image(image), (size[1], size[0]))) for image in sr]
        return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])
    return resample(sr, size).clamp(-1, 1)


def as_input(sr: Tensor) -> Tensor:
    """A result as an LR image, in [-1, 1]."""
    return from_levels(sr) if sr.dtype == torch.uint8 else sr


class Sampler(NamedTuple):
    """What all chains of a result have in common. Its methods make (B, 3, H, W) of an LR batch (B, 3, h, w), size
    (H, W), as `super_resolve` does, but at exactly this size."""

    network: Network
    sampling: Sampling
    seeds: Sequence[int]
    magnification: float
    callback: Callback | None = None
    on_batch: OnBatch | None = None

    def at(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """One result, or the mean of two, of the mirror image and of the image."""
        if not self.sampling.settings.mirrored:
            return self.once(lr, size)
        return mean(self.once(lr.flip(3), size).flip(3), self.once(lr, size))

    def once(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """The result of one chain; in float32 where values are beyond the range of the precision asked for."""
        sampling, device = self.sampling, next(self.network.parameters()).device
        scale = relative_scale(size, lr.shape[-2:], self.magnification)
        tiles = tiles_for(self.network, size, sampling.settings, sampling.decoder_calls, sampling.most_pixels)
        precision = precision_on(device, sampling.settings.precision)
        for tried in dict.fromkeys((precision, "float32")):
            try:
                with autocast(device, tried):
                    return self.by_tiles(lr, size, scale, tiles) if tiles else self.whole(lr.to(device), size, scale)
            except FloatingPointError:
                if tried != "float32":
                    warnings.warn(f"values beyond the range of {tried}: sampled again in float32", stacklevel=2)
        raise UserError("the network makes values that are not finite (NaN or infinite), and no image")

    def whole(self, lr: Tensor, size: tuple[int, int], scale: float) -> Tensor:
        """Float32 in [-1, 1]. Raises FloatingPointError where a value is not finite."""
        options = self.sampling.options() | {"scale": scale, "callback": self.callback}
        sr = sample(self.network, lr, size, self.sampling.plan, seeds=self.seeds, **options)
        if not sr.isfinite().all():
            raise FloatingPointError("values that are not finite")
        return sr.clamp(-1, 1)

    def by_tiles(self, lr: Tensor, size: tuple[int, int], scale: float, tiles: Tiles) -> Tensor:
        """uint8 levels on the CPU, one image after the other. Raises FloatingPointError as `whole` does."""
        left_out = ("compiled", "decode_batch")  # tiles are decoded one step after the other
        options = {name: value for name, value in self.sampling.options().items() if name not in left_out}
        options |= {**tiles._asdict(), "scale": scale, "on_batch": self.on_batch}
        pairs = zip(lr.split(1), self.seeds, strict=True)
        return torch.stack(
            [sample_tiled(self.network, one, size, self.sampling.plan, seeds=[seed], **options) for one, seed in pairs]
        )


def mean(first: Tensor, second: Tensor) -> Tensor:
    """Of two results, in [-1, 1] or uint8 levels."""
    if first.dtype == torch.uint8:
        return first.short().add_(second).add_(1).floor_divide_(2).byte()  # in place: images may be large
    return (first + second) / 2
