"""What `python -m core.summary` tells, and how it is found out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.checkpoint.files import find_checkpoint
from core.checkpoint.network_file import read_with_network
from core.config import Config, load_config
from core.config.files import is_config
from core.network_size import parameter_count
from core.sampling.super_resolution import Sampling
from core.summary.meta_memory import peak_bytes
from core.summary.operations import chain_flops, count_flops
from core.summary.text_table import aligned
from model import ModelError, Network, build_network
from model.diffusion import DiffusionLoss
from model.sampling.group_decoding import decoded
from sparse.prunable import prunable_parameters

FLOAT = 4  # bytes
MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1}  # numbers that an optimiser keeps of each parameter


class Part(NamedTuple):
    """A row of the table."""

    name: str
    parameters: int
    prunable: int
    active: int  # of the prunable


@dataclass(frozen=True)
class Described:
    """A network on the meta device, and what is known of it."""

    network: Network
    config: Config
    masks: Mapping[str, Tensor]  # of a sparse checkpoint
    density: float | None  # that a config asks for; None: of a checkpoint, or dense

    @property
    def sides(self) -> tuple[int, int]:
        """Of the LR and the HR images, in pixels."""
        hr = self.config.model.diffusion.image_size
        return round(hr / self.config.magnification), hr

    @property
    def prunable(self) -> dict[str, int]:
        """{weight: its number of elements} of all that a mask may hold."""
        sparse = self.config.sparse
        found = prunable_parameters(self.network, sparse.exclude, sparse.min_elements)
        return {name: parameter.numel() for name, parameter in found.items()}


def summarize(path: str) -> str:
    """The summary of a config or a checkpoint. Raises UserError where it is neither."""
    described = describe(path)
    config, (lr_side, hr_side) = described.config, described.sides
    heading = f"{config.name}: {lr_side}x{lr_side} → {hr_side}x{hr_side} pixels"
    return "\n".join([heading, "", *parts_table(described), "", *operations(described), "", *memory(described)])


def describe(path: str) -> Described:
    if is_config(path):
        config = load_config(path)
        network = build_network(config.model, initialised=False).to("meta")
        return Described(network, config, {}, config.sparse.density if config.sparse.enabled else None)
    state, network = read_with_network(find_checkpoint(path).network)
    return Described(network.to("meta"), state.config, state.masks, None)


# ---------------------------------------------------------------------------------------------------------------------
# Parts.


def parts_of(described: Described) -> list[Part]:
    """The network's parts, in the order in which an image meets them, and all of it. Where a config asks for a density,
    the share of each part is not known before training: only that of all."""
    prunable, whole = described.prunable, {}
    for name, module in described.network.named_children():
        inside = {weight: number for weight, number in prunable.items() if weight.startswith(f"{name}.")}
        active = sum(int(described.masks[w].sum()) if w in described.masks else number for w, number in inside.items())
        parameters = parameter_count(module)
        whole[name] = Part(name.replace("_", " "), parameters, sum(inside.values()), active)
    total = Part("all", *(sum(column) for column in zip(*(part[1:] for part in whole.values()), strict=True)))
    if described.density is not None:
        total = total._replace(active=round(described.density * total.prunable))
    return [*whole.values(), total]


def parts_table(described: Described) -> list[str]:
    parts = parts_of(described)
    known = described.density is None
    rows = [("part", "parameters", "prunable", "active", "density")]
    for part in parts:
        is_told = known or part is parts[-1]
        share = f"{part.active / part.prunable:.1%}" if part.prunable else "-"
        active, density = (f"{part.active:,}", share) if is_told else ("", "")
        rows.append((part.name, f"{part.parameters:,}", f"{part.prunable:,}", active, density))
    return aligned(rows)


# ---------------------------------------------------------------------------------------------------------------------
# Operations.


def sampling_of(described: Described) -> Sampling | None:
    """How the config samples; None where that takes a measurement of a trained network, as auto:N does."""
    try:
        return Sampling.of(described.config.sample, described.network.schedule)
    except ModelError:
        return None


def operations(described: Described) -> list[str]:
    sampling = sampling_of(described)
    groups = sampling.executed.groups if sampling else ()
    decode = described.config.sample.decode
    flops = count_flops(described.config.model, *described.sides, {decoded(len(group), decode) for group in groups})
    rows = [
        ("one image", "GFLOP"),
        ("conditioning, once", f"{flops['condition']:,.4g}"),
        ("encoder, at a key step", f"{flops['encode']:,.4g}"),
        *((f"decoder, {k} step{'s' * (k > 1)}", f"{value:,.4g}") for k, value in flops["decode"].items()),
    ]
    if sampling:
        total = chain_flops(flops, groups, decode)["gflop_per_image"]
        rows.append(("the whole chain", f"{total:,.4g}"))
        return [*aligned(rows), sampling.describe()]
    return aligned(rows)


# ---------------------------------------------------------------------------------------------------------------------
# Memory.


def memory(described: Described) -> list[str]:
    config = described.config
    rows = [("memory of tensors, float32", "GB")]
    if "train" in config and config.datasets.train:
        batch = config.datasets.train.batch_size
        label = f"training, {batch} image{'s' * (batch > 1)} at once"
        rows.append((label, gigabytes(training_bytes(described, batch))))
    rows.append(("sampling, one image", gigabytes(sampling_bytes(described))))
    return aligned(rows)


def gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f}"


def training_bytes(described: Described, batch: int) -> int:
    """Weights, gradients, moments, average and masks, and the most that a step of so many images has at once."""
    train, (lr_side, hr_side) = described.config.train, described.sides
    parameters = parameter_count(described.network)
    kept = FLOAT * parameters * (3 + MOMENTS[train.optimizer.type])  # weights, gradients and average, and the moments
    if described.config.sparse.enabled:
        kept += (1 + FLOAT) * sum(described.prunable.values())  # the masks, and their multipliers
    network = described.network.train().requires_grad_(True)
    loss = DiffusionLoss(network, train.loss)
    lr, hr = (torch.empty(batch, 3, side, side, device="meta") for side in (lr_side, hr_side))
    noise_level = torch.empty(batch, device="meta")
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter)
    return kept + peak_bytes(lambda: loss(lr, hr, torch.empty_like(hr), noise_level, 1.0).backward())


@torch.no_grad()
def sampling_bytes(described: Described) -> int:
    """Weights, and the most that a group of the chain has at once."""
    network, sampling, (lr_side, hr_side) = described.network.eval(), sampling_of(described), described.sides
    together = sampling.decoder_calls if sampling else 1
    lr, x = (torch.empty(1, 3, side, side, device="meta") for side in (lr_side, hr_side))
    level = torch.empty(1, device="meta")

    def group() -> Tensor:
        condition = network.condition(lr, (hr_side, hr_side))
        return network.decode(network.encode(x, level, condition), level.expand(together, 1), condition)

    return FLOAT * parameter_count(network) + peak_bytes(group)
