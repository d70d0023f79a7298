"""The networks of a run: the one that was asked for, or for each image the shipped one that suits its size."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.checkpoint.files import LoadedNetwork, find_checkpoint, load_checkpoint, saved_config
from core.config import Config
from core.config.notices import of_another_chain, untaught, without_effect_on_a_chain
from core.config.sections import SampleSection
from core.config.wording import as_flag
from core.errors import UserError, is_of_user
from core.inference.about import outside, purpose
from core.inference.input_files import Size
from core.sampling.super_resolution import Sampling, sampling_settings
from core.sampling.trained_sizes import TrainedSizes
from core.shipped import CHAINS, FILES, SMALL, is_shipped, is_there, sampled_by, shipped_file
from model import Network

Load = Callable[[str | Path, torch.device], LoadedNetwork]


@dataclass
class ReadyNetwork:
    """A network, and how it samples."""

    name: str | Path
    network: Network
    config: Config
    sampling: Sampling
    unsaid: list[str] = field(default_factory=list, compare=False)  # notices on flags
    is_noticed: bool = field(default=False, compare=False)  # whether it was said that an image lies outside its card

    def made_at(self, size: Size, result: Size) -> Size:
        """The size, (width, height), at which a result for an image of `size` is made before it is reduced."""
        last = self.sampling.stages(TrainedSizes.of(self.config), result[::-1], size[::-1])[-1]
        height, width = last.made_at
        return width, height

    def notices(self, source: Path, size: Size, result: Size) -> list[str]:
        """What is to be said before an image is made, a line each: which flags do nothing, and the first time that an
        image lies outside the card, that it does."""
        lines, self.unsaid = self.unsaid, []
        problem = outside(self.config, size, max(result) / max(size))
        if problem is None or self.is_noticed:
            return lines
        self.is_noticed = True
        return [*lines, f"{source} {problem} ({self.name}); it may come out worse, as others like it"]


class Networks:
    """Loads each network once, when the first image needs it."""

    def __init__(
        self,
        checkpoint: str | Path | None,  # for all images; None: the shipped one that suits an image's size
        device: torch.device,
        flags: Mapping[str, Any],  # of the `sample` section
        preset: str | None = None,
        load: Load | None = None,  # None: from the file
    ) -> None:
        self.load = load or load_checkpoint
        self.device, self.flags, self.preset = device, flags, preset
        self.asked = None if checkpoint is None else str(checkpoint)
        self.own = None if checkpoint is None or is_shipped(checkpoint) else checkpoint
        self.loaded: dict[str | Path, ReadyNetwork] = {}
        self.explained: set[str] = set()

    def of(self, size: Size) -> ReadyNetwork:
        """The network for an image of `size`. Raises UserError or ModelError where it cannot be had."""
        name = self.name_of(size)
        if name not in self.loaded:
            loaded = self.load(self.own or shipped_file(name), self.device)
            loaded.network.requires_grad_(False)
            settings = sampling_settings(loaded.config, self.flags, self.preset, name)
            sampling = Sampling.of(settings, loaded.network.schedule, loaded.encoder_change)
            notices = notices_on_flags(name, loaded.config, self.flags, sampling)
            self.loaded[name] = ReadyNetwork(name, loaded.network, loaded.config, sampling, list(notices))
        return self.loaded[name]

    def check_some(self, sizes: Iterable[Size]) -> None:
        """Raises UserError or ModelError where the network of none of the images can be had."""
        problems: dict[str, Exception] = {}
        for size in sizes:
            if (name := self.name_of(size)) in problems:
                continue
            try:
                self.of(size)
                return
            except Exception as error:
                if not is_of_user(error):
                    raise
                problems[name] = error
            if self.asked:
                break  # all images get this one
        raise next(iter(problems.values()))

    def name_of(self, size: Size) -> str:
        """What the network for an image of `size` is called: by the user, or as the shipped one that a preset needs."""
        return str(self.asked) if self.own else sampled_by(self.asked or suited(size), self.preset)

    def explain(self, source: Path, size: Size) -> str | None:
        """Which network an image gets, why, and what each is for; None where that was said or is what the user says."""
        name = self.name_of(size)
        if name == self.asked or name in self.explained:
            return None
        if self.asked:
            self.explained.add(name)
            return f"{name} in place of {self.asked}, which makes one call: preset {self.preset} is a chain of several"
        compared = "at most" if max(size) <= SMALL else "more than"
        each = "; ".join(f"{name}: {told_of(name)}" for name in ("faces", "photos"))
        reasons = "" if self.explained else f" ({each}; -r chooses)"
        self.explained.add(name)
        return f"{name} for {source}, as its longer side has {compared} {SMALL} pixels{reasons}"


def notices_on_flags(name: str | Path, config: Config, keys: Iterable[str], sampling: Sampling) -> Iterator[str]:
    """A line on each of the flags, of these keys of the `sample` section, that does nothing with a network, and one on
    those that ask a student for what it never learnt."""
    for flag, why in idle_flags(keys, sampling):
        yield f"{flag} has no effect with {name}: {why}"
    if others := untaught(config, sampling.settings):
        chains = CHAINS.get(str(name)) if is_shipped(name) else None
        flags = ", ".join(map(as_flag, others))
        yield of_another_chain(name, config, f"leave out {flags}", chains or "a diffusion network")


def idle_flags(keys: Iterable[str], sampling: Sampling) -> Iterator[tuple[str, str]]:
    """(flag, why it does nothing) of the keys of the `sample` section whose flags were given, and ask for something."""
    settings, defaults = sampling.settings, SampleSection()
    reasons = without_effect_on_a_chain(settings, sampling.plan.n_timestep)
    for key in keys:
        if (why := reasons.get(f"sample.{key}")) and settings[key] != defaults[key]:
            yield as_flag(key), why


def suited(size: Size) -> str:
    """The shipped network for an image of `size`; while there is none for photographs, the one for faces."""
    return "faces" if max(size) <= SMALL or not is_there("photos") else "photos"


def told_of(name: str) -> str:
    """What a shipped network is for."""
    if not is_there(name):
        return "not there yet"
    try:
        config = saved_config(FILES[name])
    except UserError:
        return "damaged"
    return purpose(config) if config else ""


def load_once(checkpoint: str | Path, device: torch.device) -> LoadedNetwork:
    """As `load_checkpoint`, from memory where the same file was loaded shortly before."""
    file = find_checkpoint(checkpoint).network
    return _loaded(file.resolve(), file.stat().st_mtime_ns, device)


@functools.lru_cache(maxsize=2)
def _loaded(file: Path, modified: int, device: torch.device) -> LoadedNetwork:
    return load_checkpoint(file, device)
