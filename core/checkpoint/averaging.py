"""The mean of several networks' weights: a model soup (Wortsman et al. 2022, arXiv 2203.05482)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.checkpoint.network_file import NetworkState, read_network_file
from core.config.checking import at
from core.config.keys import Key, walk
from core.config.sections import ModelSection
from core.config.wording import show
from core.errors import UserError


def average(files: Sequence[Path], shares: Sequence[float]) -> tuple[NetworkState, bool]:
    """The network of the first file with the weighted mean of all, and whether calibration had measured one.

    The measurement is not true of the mean, and left out. `shares` are positive and have the sum 1, one for each file.
    The sum is in float64, the result in float32. Raises UserError where networks differ in their model or their masks.
    """
    first = read_network_file(files[0])
    measured = first.encoder_change is not None
    mean = {name: tensor.double() * shares[0] for name, tensor in first.weights.items()}
    for file, share in zip(files[1:], shares[1:], strict=True):
        other = read_network_file(file)
        refuse_other_model(first.config.model, other.config.model, files[0], file)
        refuse_other_masks(first.masks, other.masks, files[0], file)
        measured |= other.encoder_change is not None
        for name, tensor in other.weights.items():
            mean[name].add_(tensor, alpha=share)
    weights = {name: tensor.float() for name, tensor in mean.items()}
    return NetworkState(weights, first.masks, first.config, unknown=first.unknown), measured


def refuse_other_model(first: ModelSection, other: ModelSection, first_file: Path, file: Path) -> None:
    """One line where a key of the model section differs that has an effect after training."""
    for path, entry in walk(ModelSection):
        if not isinstance(entry, Key) or entry.no_effect or path == "unet.dropout":
            continue
        ours, theirs = at(first, path), at(other, path)
        if ours != theirs:
            raise UserError(
                f"{file}: has model.{path} = {show(theirs)}, and {first_file} has {show(ours)}; "
                "average networks that were trained from one start, with the same model section"
            )


def refuse_other_masks(first: Mapping[str, Tensor], other: Mapping[str, Tensor], first_file: Path, file: Path) -> None:
    """One line where masks differ; a weight without a mask is active."""
    active = torch.tensor(True)
    differences = {name: first.get(name, active) != other.get(name, active) for name in sorted({**first, **other})}
    different = [name for name, places in differences.items() if places.any()]
    if different:
        places = differences[different[0]]
        more = f", and {len(different) - 1} more of its masks differ" if len(different) > 1 else ""
        raise UserError(
            f"{file}: its mask of {different[0]} differs from that of {first_file} in {int(places.sum()):,} of "
            f"{places.numel():,} weights{more}; average networks that were trained from one start with "
            "sparse.prune_rate=0, which keeps the masks"
        )
