"""The file of a network: its weights, packed where it is sparse, its config, and what calibration measured of it."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.checkpoint.tensor_files import read_pth, read_safetensors, refuse_not_finite, write_safetensors
from core.config import Config, check_config
from core.config.files import LARGEST_FILE, parse_json
from core.config.saved import Unknown, check_saved_config, passed_over, put_back
from core.config.wording import cut, show
from core.errors import UserError
from core.log import warn_once
from data.files import make_writable, missing_folders, remove_empty
from data.paths import is_folder, refuse_unnamed
from model import ModelError, Network, build_network
from model.published import convert_reference_state, read_architecture
from model.sampling.key_steps import EncoderChange
from sparse import SparseError, pack, unpack

CHANGE, CHANGE_TIMESTEPS = "encoder_change/distance", "encoder_change/timesteps"  # names of tensors
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# They have few values and cause most of what 8 bits cost: with the first three in 8 bits too, the small face network
# loses 0.17 dB in place of 0.01, and the last three cause four fifths of the rest. The first tells apart noise
# levels that differ little; the others are near the image.
SENSITIVE = (
    r"embedding\.expand", r"encoder\.input", r"decoder\.output",
    r"lr_encoder\.head", r"lr_encoder\.tail", r"decoder\.levels\.{finest}\.[1-9]\d*\.shortcut",
)  # fmt: skip


@dataclass
class NetworkState:
    """What is in a network file. Training continues from the weights, of which a measurement is true no longer."""

    weights: dict[str, Tensor]  # dense
    masks: dict[str, Tensor]  # bool; none for a dense network
    config: Config
    encoder_change: EncoderChange | None = None
    unknown: Unknown = field(default_factory=dict)  # keys that a newer version wrote to its config


def read_network_file(file: Path) -> NetworkState:
    """What a network file holds. Raises UserError where it is none."""
    return read_with_network(file)[0]


def read_with_network(file: Path, config: Config | None = None) -> tuple[NetworkState, Network]:
    """The same, and the network that the config describes, or else the file's own, which has no memory yet
    (`with_memory`). The weights fit it: a file with another network than that of the config is refused."""
    return (read_published if file.suffix == ".pth" else read_native)(file, config)


def read_published(file: Path, config: Config | None) -> tuple[NetworkState, Network]:
    """Of a published file, .pth. Raises UserError where it is none, does not fit the config or has values that are not
    finite."""
    published = read_pth(file)
    try:
        model: Mapping[str, Any] = config.model if config else read_architecture(published)
        weights = convert_reference_state(published)
    except ModelError as error:
        raise UserError(f"{file}: {error}") from error
    config = config or published_config(model, file.stem)
    network = build_without_memory(config, weights, file)
    refuse_misfits(shapes_of(network), weights, file)
    refuse_not_finite(weights, file)
    return NetworkState(weights, {}, config), network


def read_native(file: Path, config: Config | None) -> tuple[NetworkState, Network]:
    """Of a file of this project, .safetensors. Raises UserError where it is none, is damaged or holds another network
    than that of the config."""
    tensors, metadata = read_safetensors(file)
    saved = config_in(metadata, file)
    if saved is None:
        raise UserError(f"{file}: no config in its metadata, so it is no network file of SMFDM")
    own, unknown = saved
    if config:
        refuse_other_network(config, own, file)
    change = take_encoder_change(tensors, file)
    network = build_without_memory(config or own, tensors, file)
    weights, masks = unpacked(tensors, shapes_of(network), file)
    return NetworkState(weights, masks, own, change, unknown), network


def config_in(metadata: Mapping[str, str], file: Path) -> tuple[Config, Unknown] | None:
    """The config of a native file, and what a newer version wrote to it; None where it has none."""
    text = metadata.get("config")
    if text is None:
        return None
    if len(text) > LARGEST_FILE:
        raise UserError(f"{file}: damaged: its config has more than {LARGEST_FILE:,} characters")
    config, unknown = check_saved_config(parse_json(text, file), str(file))
    if unknown:
        warn_once(passed_over(unknown, str(file)))
    return config, unknown


def unpacked(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], file: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """-> (dense tensors, masks), which are of these names and shapes."""
    try:
        weights, masks = unpack(tensors, shapes)
    except SparseError as error:
        raise UserError(f"{file}: damaged: {error}") from error
    refuse_misfits(shapes, weights, file)
    return weights, masks


def build_without_memory(config: Config, tensors: Mapping[str, Tensor], file: Path) -> Network:
    """The network of a config: its parameters are on the meta device, and take neither memory nor first weights.

    It is refused at once where it has more parts, or a wider one, than the tensors of its file can fill.
    """
    unet, encoder = config.model.unet, config.model.lr_encoder
    parts = len(unet.channel_multiplier) * (2 * unet.res_blocks + 1) + encoder.n_resblocks
    widest = max(unet.inner_channel * max(unet.channel_multiplier), unet.inner_channel, encoder.n_feats)
    if parts > len(tensors) or widest > max(tensor.numel() for tensor in tensors.values()):
        raise UserError(f"{file}: damaged: its config describes a network of more layers or channels than it holds")
    with _WithoutMemory():
        return build_network(config.model, initialised=False)


def with_memory(network: Network) -> Network:
    """A network of `build_without_memory`, its parameters as the memory was."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                setattr(module, name, nn.Parameter(torch.empty_like(parameter, device="cpu")))
    return network


class _WithoutMemory(TorchFunctionMode):
    """Inside, torch.empty makes tensors that are shapes alone, and functions of torch.nn.init do nothing."""

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in (torch.empty, torch.zeros):
            kwargs = kwargs | {"device": "meta"}
        return func(*args, **kwargs)


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def refuse_other_network(config: Config, own: Config, file: Path) -> None:
    """One line where the config and the file describe networks that differ in their weights or in what they predict."""
    for section in ("unet", "lr_encoder", "diffusion"):
        for key, value in own.model[section].items():
            asked = config.model[section][key]
            if asked != value and key != "dropout":
                raise UserError(
                    f"{file}: trained with model.{section}.{key} = {show(value)}, and the config says {show(asked)}"
                )


def published_config(model: Mapping[str, Any], name: str) -> Config:
    """A whole config around the model section of a published file: the face experiment, 16 to 128."""
    side = model["diffusion"]["image_size"]
    spec = {"mode": "LRHR", "dataroot": "", "l_resolution": side // 8, "r_resolution": side, "batch_size": 1}
    return check_config({"name": name, "model": model, "datasets": {"train": spec, "val": spec}}, name)


def load_weights(network: nn.Module, state: Mapping[str, Tensor], where: str | Path) -> None:
    """Into the network, or one line that says which key does not fit."""
    refuse_misfits(shapes_of(network), state, where)
    network.load_state_dict(state)


def refuse_misfits(shapes: Mapping[str, Sequence[int]], tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """One line where the tensors are not floating-point ones of these names and shapes, and no others."""
    for name in sorted(shapes.keys() | tensors.keys()):
        ours, tensor = shapes.get(name), tensors.get(name)
        if ours is None or tensor is None or tuple(tensor.shape) != tuple(ours):
            own = None if tensor is None else tensor.shape
            found, expected = ("nothing" if shape is None else tuple(shape) for shape in (own, ours))
            problem = f"{cut(name, 200)} is {found}, not {expected}"
            raise UserError(f"{where}: does not fit the network of the config: {problem}")
        if tensor.dtype not in FLOATS:
            raise UserError(f"{where}: {name} is of {tensor.dtype}, not of floating-point numbers")


def save_network(
    file: str | Path,
    state: NetworkState,
    step: int,
    values_dtype: dict[str, torch.dtype] | None = None,
    compressed: bool = False,
) -> None:
    """Writes a network file, its weights as `sparse.pack` makes them of the last two arguments."""
    metadata = {"config": json.dumps(put_back(state.unknown, state.config.to_dict())), "step": str(step)}
    packed = pack(state.weights, state.masks, values_dtype, compressed)
    write_safetensors(file, packed | encoder_change_tensors(state.encoder_change), metadata)


def stored_types(names: Collection[str], values: torch.dtype) -> dict[str, torch.dtype]:
    """The type in which the weight of each name is stored, where most are stored as `values` says."""
    kept = set(sensitive(names)) if values == torch.int8 else set()
    return {name: torch.float16 if name in kept else values for name in names}


def sensitive(names: Collection[str]) -> list[str]:
    """The names of the weights that 8 bits are too few for."""
    levels = (re.match(r"decoder\.levels\.(\d+)", name) for name in names)
    finest = max((int(level[1]) for level in levels if level), default=0)
    pattern = re.compile(rf"({'|'.join(SENSITIVE)})\.weight".replace("{finest}", str(finest)))
    return [name for name in names if pattern.fullmatch(name)]


def take_encoder_change(tensors: dict[str, Tensor], file: Path) -> EncoderChange | None:
    """Takes the measurement out of a network file's tensors -> EncoderChange, or None where there is none."""
    distance, timesteps = tensors.pop(CHANGE, None), tensors.pop(CHANGE_TIMESTEPS, None)
    if distance is None and timesteps is None:
        return None
    try:
        if distance is None or timesteps is None:
            raise TypeError("half of it is missing")
        return EncoderChange(tuple(timesteps.tolist()), distance.float())
    except (TypeError, ValueError, RuntimeError, ModelError) as error:
        raise UserError(f"{file}: damaged: its measured encoder change is no such thing ({error})") from error


def encoder_change_tensors(change: EncoderChange | None) -> dict[str, Tensor]:
    """An EncoderChange, or None, as tensors of a network file."""
    return {} if change is None else {CHANGE: change.distance, CHANGE_TIMESTEPS: torch.tensor(change.timesteps)}


def writable_network_file(path: str | Path) -> Path:
    """A path that a network file is to be written to; `save_network` makes its folder. Raises UserError where it cannot
    be one, and DataError where nothing can be written."""
    path = Path(path)
    if is_folder(path):
        raise UserError(f"--output {path}: is a folder; name a file in it that ends in .safetensors")
    if path.suffix != ".safetensors" or path.stem.endswith("_opt"):
        raise UserError(f"--output {path}: must be a file that ends in .safetensors, but not in _opt.safetensors")
    refuse_unnamed(path, "--output")
    made = missing_folders(path.parent)
    make_writable(path.parent)
    remove_empty(made)  # what is asked for may be refused yet
    return path
