"""Checkpoints: what their files hold, how they are found, written and read.

A checkpoint is two files, named as the published ones are, PREFIX = I{step}_E{epoch}:

`PREFIX_gen.safetensors`  the EMA network, packed where it is sparse, with the config in the metadata: all that
                          inference needs. Beside the weights, after `python -m core.calibrate`, what that measured.
`PREFIX_opt.safetensors`  what else it takes to continue: the weights, the optimiser's state, further modules, counters.
                          Random state and the position in the data follow from the seed and the step.

Published `PREFIX_gen.pth` and `PREFIX_opt.pth` are read too, never with full unpickling.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoint.lost_files import tell_lost
from core.checkpoint.network_file import (
    NetworkState,
    config_in,
    encoder_change_tensors,
    load_weights,
    read_with_network,
    save_network,
    shapes_of,
    unpacked,
    with_memory,
)
from core.checkpoint.tensor_files import read_metadata, read_pth, read_safetensors, refuse_not_finite, write_safetensors
from core.config import Config
from core.config.files import LARGEST_FILE, parse_json
from core.config.wording import cut, show
from core.errors import UserError
from core.log import warn_once
from core.shipped import FILES, shipped_file
from data.paths import is_file, is_folder, is_there, refuse_unseen, why_not_read
from model import Network
from model.published import parameter_order, published_names
from model.sampling.key_steps import EncoderChange
from sparse import pack
from sparse.checkpoint_files import find_network_file, latest_prefix, possible_files

MASKER_COUNTERS = {"start", "updates", "seed"}
LARGEST_COUNT = 10**15


@dataclass(frozen=True)
class CheckpointFiles:
    """The network file of a checkpoint, and the training file beside it (None where there is none)."""

    network: Path
    training: Path | None


@dataclass
class TrainingState:
    """What training continues from. Weights and moments are keyed by this project's names."""

    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    masks: dict[str, Tensor] = field(default_factory=dict)  # bool; none for a dense network
    step: int = 0  # optimiser steps so far
    masker: dict[str, int] = field(default_factory=dict)  # "start", "updates", "seed" of the Masker, where there is one
    # Modules trained beside the network: {name: their weights}.
    modules: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    # {parameter: {"exp_avg": tensor, ...}}, that of a further module as "module/parameter"; none: it starts afresh.
    optimizer: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def find_checkpoint(path: str | Path) -> CheckpointFiles:
    """The files of a checkpoint that is named by a file of it, a PREFIX, a folder of checkpoints (its latest), or the
    name of a shipped network, where none of these is there."""
    named, path = str(path), Path(path)
    network = find_network_file(path) or (shipped_file(named) if named in FILES else None)
    if network is None:
        refuse_unusable(path)
    if network is None and is_folder(path):
        raise UserError(f"{path}: no I*_E*_gen.safetensors or I*_E*_gen.pth in this folder{_others_in(path)}")
    if network is None and is_there(path):
        raise UserError(
            f"{path}: neither a .safetensors nor a .pth file; rename it, if it is one that torch.save wrote"
        )
    if network is None:
        raise UserError(
            f"{path}: no such checkpoint; give a file, the PREFIX of PREFIX_gen.safetensors or .pth, or a name: "
            f"{', '.join(FILES)}"
        )
    if is_folder(path):
        tell_lost(path, latest_prefix(path) or network)
    if named in FILES and network.resolve() != FILES[named].resolve():
        warn_once(f"{named} is your checkpoint {network}, not the network that comes with the project")
    if network.stem.endswith("_opt"):
        network = network.with_name(network.name.replace("_opt.", "_gen."))
        if not is_file(network):
            raise UserError(f"{path}: the network file {network.name} is not beside it")
    training = network.with_name(network.name.replace("_gen.", "_opt."))
    return CheckpointFiles(network, training if training != network and is_file(training) else None)


def _others_in(folder: Path) -> str:
    """What may be meant in place of a folder without checkpoints, as words that go on: a file in it, or a folder."""
    if file := next(iter(sorted(folder.glob("*_gen.*"))), None):
        return f"; {file.name} is another: name the file"
    below = sorted({file.parent for file in folder.glob("*/I*_E*_gen.*")})
    return f"; {below[0]} has some: name that" if below else ""


def refuse_unusable(path: Path) -> None:
    """Raises UserError or DataError where a file has the name that is looked for and cannot be read, as a link to
    nothing, or where nothing can be seen there."""
    for file in filter(os.path.lexists, possible_files(path)):
        if file != path or not is_folder(file):
            raise UserError(f"{file}: {why_not_read(file)}; mend or remove it, or name another checkpoint")
    refuse_unseen(path)


def step_of(path: str | Path) -> int:
    """The training step of a checkpoint, by the name of its file or what is in it; 0 where neither tells."""
    file = find_checkpoint(path).network
    match = re.match(r"I(\d+)_E\d+_gen", file.name)
    if match or file.suffix == ".pth":
        return int(match[1]) if match else 0
    return parse_count(read_metadata(file).get("step", "0"), f"{file}: damaged: its step")


def saved_config(path: str | Path) -> Config | None:
    """The config of a native checkpoint; None for a published one, which has none."""
    file = find_checkpoint(path).network
    saved = None if file.suffix == ".pth" else config_in(read_metadata(file), file)
    return saved[0] if saved else None


@dataclass(frozen=True)
class LoadedNetwork:
    """A network as a checkpoint holds it."""

    network: Network  # in evaluation mode
    config: Config  # whole
    encoder_change: EncoderChange | None  # as calibration measured it, under this noise schedule
    step: int  # of training; 0 where the checkpoint does not tell


def load_network(
    path: str | Path, device: str | torch.device = "cpu", config: Config | None = None
) -> tuple[Network, Config]:
    """The network of a checkpoint and its config; the arguments are those of `load_checkpoint`, which tells more."""
    loaded = load_checkpoint(path, device, config)
    return loaded.network, loaded.config


def load_checkpoint(
    path: str | Path, device: str | torch.device = "cpu", config: Config | None = None
) -> LoadedNetwork:
    """The network of a native or published checkpoint, on `device`, and what is known of it.

    With a config, the network is built as that says, and a file that does not fit it is refused. Published files tell
    the architecture by their shapes, apart from norm_groups (32) and image_size (128), which a config can tell.
    """
    file = find_checkpoint(path).network
    state, network = read_with_network(file, config)
    config = config or state.config
    load_weights(with_memory(network), state.weights, path)
    same_schedule = config.model.beta_schedule.val == state.config.model.beta_schedule.val
    change = state.encoder_change if same_schedule else None
    return LoadedNetwork(network.to(device).eval(), config, change, step_of(file))


def save_checkpoint(prefix: str | Path, config: Config, state: TrainingState) -> None:
    """Writes both files of a checkpoint, the network last: where it is, the other is whole."""
    tensors = {f"weights/{name}": tensor for name, tensor in pack(state.weights, state.masks).items()}
    tensors |= {f"optimizer/{name}/{key}": t for name, kept in state.optimizer.items() for key, t in kept.items()}
    tensors |= {f"modules/{name}/{key}": t for name, weights in state.modules.items() for key, t in weights.items()}
    counters = {"step": state.step, "masker": state.masker}
    write_safetensors(f"{prefix}_opt.safetensors", tensors, {"training": json.dumps(counters)})
    save_network(f"{prefix}_gen.safetensors", NetworkState(state.ema, state.masks, config), state.step)


def save_encoder_change(path: str | Path, loaded: LoadedNetwork, target: str | Path) -> None:
    """Writes the network file of a checkpoint as `target`, which may be itself, with `loaded.encoder_change` in it.

    All else in a native file stays as it is; of a published one, target is the native file of the same network.
    """
    file = find_checkpoint(path).network
    if file.suffix == ".pth":
        state = NetworkState(loaded.network.state_dict(), {}, loaded.config, loaded.encoder_change)
        save_network(target, state, loaded.step)
    else:
        tensors, metadata = read_safetensors(file)
        write_safetensors(target, tensors | encoder_change_tensors(loaded.encoder_change), metadata)


def load_training_state(path: str | Path, config: Config | None) -> TrainingState:
    """Reads a checkpoint. Without a training file beside it, training begins at step 0 from its weights."""
    files = find_checkpoint(path)
    saved, network = read_with_network(files.network, config)
    state = TrainingState(saved.weights, saved.weights, saved.masks)
    if files.training is None:
        return state
    shapes = shapes_of(network)
    if files.training.suffix == ".pth":
        state.optimizer, state.step = _read_published_training(files.network, files.training)
    else:
        tensors, metadata = read_safetensors(files.training)
        state.step, state.masker = parse_counters(metadata.get("training"), files.training)
        state.weights, _ = unpacked(_section(tensors, "weights"), shapes, files.training)
        state.modules = _nested(_section(tensors, "modules"))
        state.optimizer = _nested(_section(tensors, "optimizer"))
    for module, weights in state.modules.items():
        shapes |= {f"{module}/{name}": tuple(tensor.shape) for name, tensor in weights.items()}
    refuse_other_moments(state.optimizer, shapes, files.training)
    for name, kept in state.optimizer.items():
        moments = {f"optimizer/{name}/{key}": value for key, value in kept.items() if isinstance(value, Tensor)}
        refuse_not_finite(moments, files.training)
    return state


def parse_counters(text: str | None, file: Path) -> tuple[int, dict[str, int]]:
    """The metadata of a training file -> (step, counters of the masker)."""
    counters = None if text is None or len(text) > LARGEST_FILE else parse_json(text, file)
    if not isinstance(counters, dict) or not isinstance(masker := counters.get("masker"), dict):
        raise UserError(f"{file}: not a training file of SMFDM")
    step = parse_count(counters.get("step"), f"{file}: damaged: its step")
    masker = {key: parse_count(n, f"{file}: damaged: {cut(key)} of its masks") for key, n in masker.items()}
    if "steps" in masker:  # earlier files tell how many steps the masks had been there
        masker["start"] = step - masker.pop("steps")
    if not masker.keys() <= MASKER_COUNTERS or not 0 <= masker.get("start", 0) <= step:
        raise UserError(f"{file}: damaged: these are no counters of masks: {cut(str(masker))}")
    return step, masker


def parse_count(value: Any, what: str) -> int:
    """A whole number, or its digits."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < len(str(LARGEST_COUNT)):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_COUNT:
        raise UserError(f"{what} is {show(value)}, no whole number from 0 to 10^15")
    return value


def refuse_other_moments(
    optimizer: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, Sequence[int]], file: Path
) -> None:
    """One line where the state of the optimiser is not that of parameters of these names and shapes."""
    for name, kept in optimizer.items():
        if name not in shapes:
            raise UserError(f"{file}: damaged: the network has no parameter {cut(name)}, of which it has moments")
        for key, value in kept.items() if isinstance(kept, Mapping) else [("it", None)]:
            is_number = isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
            if not is_number and not (isinstance(value, Tensor) and tuple(value.shape) == tuple(shapes[name])):
                raise UserError(f"{file}: damaged: of {cut(name)}, {cut(str(key))} is no moment of its shape")


def _section(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors named NAME/KEY, by KEY."""
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}


def _nested(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors named NAME/KEY as {NAME: {KEY: tensor}}."""
    nested: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        nested.setdefault(name, {})[key] = tensor
    return nested


def _read_published_training(network: Path, training: Path) -> tuple[dict[str, dict[str, Tensor]], int]:
    """The files of a published checkpoint -> (the optimiser's state by our names, the step)."""
    saved = read_pth(training)
    optimizer = saved.get("optimizer") if isinstance(saved, dict) else None
    moments = optimizer.get("state") if isinstance(optimizer, dict) else None
    if not isinstance(moments, dict) or "iter" not in saved:
        raise UserError(f"{training}: not a published training file: it has no 'iter' and 'optimizer'")
    published = read_pth(network)
    number = {key: index for index, key in enumerate(parameter_order(published))}
    names = published_names(published)
    optimizer = {ours: moments[number[theirs]] for ours, theirs in names.items() if number[theirs] in moments}
    return optimizer, parse_count(saved["iter"], f"{training}: damaged: its 'iter'")
