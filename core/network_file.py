"""The file of a network: its weights, packed where it is sparse, its config, and what calibration measured of it."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.config import Config, check_config
from core.config.files import parse_json
from core.errors import UserError
from core.tensor_files import read_pth, read_safetensors, write_safetensors
from data.errors import reason
from model import ModelError, Network, build_network
from model.key_steps import EncoderChange
from model.published import convert_reference_state, read_architecture
from sparse import SparseError, pack, unpack

CHANGE, CHANGE_TIMESTEPS = "encoder_change/distance", "encoder_change/timesteps"  # names of tensors


@dataclass
class NetworkState:
    """What is in a network file. Training continues from the weights, of which a measurement is true no longer."""

    weights: dict[str, Tensor]  # dense
    masks: dict[str, Tensor]  # bool; none for a dense network
    config: Config
    encoder_change: EncoderChange | None = None


def read_network_file(file: Path, config: Config | None = None) -> NetworkState:
    """A network file, which is refused where it holds another network than that of the config."""
    return read_with_network(file, config)[0]


def read_with_network(file: Path, config: Config | None = None) -> tuple[NetworkState, Network]:
    """The same, and the network that the config describes, or else the file's own; it has no weights yet."""
    if file.suffix == ".pth":
        state = read_pth(file)
        model: Mapping[str, Any] = config.model if config else read_architecture(state)
        config = config or published_config(model, file.stem)
        return NetworkState(convert_reference_state(state), {}, config), build_without_weights(config)
    tensors, metadata = read_safetensors(file)
    if "config" not in metadata:
        raise UserError(f"{file}: no config in its metadata, so it is no network file of SMFDM")
    own = check_config(parse_json(metadata["config"], file), str(file))
    if config:
        refuse_other_network(config, own, file)
    change = take_encoder_change(tensors, file)
    network = build_without_weights(config or own)
    try:
        weights, masks = unpack(tensors, {name: tensor.shape for name, tensor in network.state_dict().items()})
    except SparseError as error:
        raise UserError(f"{file}: damaged: {error}") from error
    return NetworkState(weights, masks, own, change), network


def build_without_weights(config: Config) -> Network:
    """The network of a config, its parameters as the memory was: three times as fast as with first weights."""
    with _WithoutInitialisation():
        return build_network(config.model, initialised=False)


class _WithoutInitialisation(TorchFunctionMode):
    """Inside, functions of torch.nn.init return the tensor as it is."""

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def refuse_other_network(config: Config, own: Config, file: Path) -> None:
    """One line where the config and the file describe networks that differ in their weights or in what they predict."""
    for section in ("unet", "lr_encoder", "diffusion"):
        for key, value in own.model[section].items():
            asked = config.model[section][key]
            if asked != value and key != "dropout":
                raise UserError(f"{file}: trained with model.{section}.{key} = {value}, and the config says {asked}")


def published_config(model: Mapping[str, Any], name: str) -> Config:
    """A whole config around the model section of a published file: the face experiment, 16 to 128."""
    side = model["diffusion"]["image_size"]
    spec = {"mode": "LRHR", "dataroot": "", "l_resolution": side // 8, "r_resolution": side, "batch_size": 1}
    return check_config({"name": name, "model": model, "datasets": {"train": spec, "val": spec}}, name)


def load_weights(network: nn.Module, state: Mapping[str, Tensor], where: str | Path) -> None:
    """Into the network, or one line that says which key does not fit."""
    expected = network.state_dict()
    for name in expected.keys() | state.keys():
        ours, theirs = expected.get(name), state.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            shapes = [tuple(tensor.shape) if tensor is not None else "nothing" for tensor in (theirs, ours)]
            raise UserError(f"{where}: does not fit the network of the config: {name} is {shapes[0]}, not {shapes[1]}")
    network.load_state_dict(state)


def save_network(
    file: str | Path,
    state: NetworkState,
    step: int,
    values_dtype: dict[str, torch.dtype] | None = None,
    compressed: bool = False,
) -> None:
    """Writes a network file, its weights as `sparse.pack` makes them of the last two arguments."""
    metadata = {"config": json.dumps(state.config.to_dict()), "step": str(step)}
    packed = pack(state.weights, state.masks, values_dtype, compressed)
    write_safetensors(file, packed | measured(state.encoder_change), metadata)


def take_encoder_change(tensors: dict[str, Tensor], file: Path) -> EncoderChange | None:
    """Takes the measurement out of a network file's tensors -> EncoderChange, or None where there is none."""
    distance, timesteps = tensors.pop(CHANGE, None), tensors.pop(CHANGE_TIMESTEPS, None)
    if distance is None and timesteps is None:
        return None
    try:
        if distance is None or timesteps is None:
            raise TypeError("half of it is missing")
        return EncoderChange(tuple(timesteps.tolist()), distance.float())
    except (TypeError, ModelError) as error:
        raise UserError(f"{file}: damaged: its measured encoder change is no such thing ({error})") from error


def measured(change: EncoderChange | None) -> dict[str, Tensor]:
    """An EncoderChange, or None, as tensors of a network file."""
    return {} if change is None else {CHANGE: change.distance, CHANGE_TIMESTEPS: torch.tensor(change.timesteps)}


def writable_network_file(path: str | Path) -> Path:
    """A path that a network file is to be written to, with its folder made. Raises UserError where it cannot be one."""
    path = Path(path)
    if path.suffix != ".safetensors" or path.stem.endswith("_opt") or path.is_dir():
        raise UserError(f"--output {path}: must be a network file, as PREFIX_gen.safetensors")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {path}: cannot make its folder: {reason(error)}") from None
    return path
