"""The trained network, and the images of its validation sets, that frontier.py and feature_similarity.py measure."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.checkpoint.files import LoadedNetwork, find_checkpoint, load_checkpoint
from core.checkpoint.network_file import read_network_file
from core.config import Config, check_config, load_config
from core.config.loading import override
from core.device import pick_device
from core.errors import UserError
from core.processes import Processes
from data import SRDataset
from data.demo import make_demo
from model import build_network
from model.network import Network
from model.sampling.key_steps import EncoderChange


@dataclass(frozen=True)
class Setting:
    """What is measured, and where."""

    network: Network  # on the device, and never sampled: what sampling keeps, graphs and tables, goes with a copy
    config: Config
    encoder_change: EncoderChange | None  # what calibration measured of it
    samples: list[dict[str, Any]]  # of the dataset
    batch: int
    processes: Processes


def load(arguments: Namespace, folder: Path) -> Setting:
    """The network and the images of the command line; the demo's images, without a checkpoint, go to the folder."""
    processes = Processes(0, 1, pick_device(arguments.device))
    if arguments.checkpoint:
        loaded = load_checkpoint(arguments.checkpoint, processes.device, config_of(arguments))
    else:
        make_demo(folder, count=1)
        flags = {"phase": "val", f"datasets.{arguments.data}.dataroot": str(folder / "val")}
        config = load_config(arguments.config or "config/demo.yaml", arguments.overrides, flags)
        torch.manual_seed(0)
        loaded = LoadedNetwork(build_network(config.model).to(processes.device).eval(), config, None, step=0)
    config = loaded.config
    if arguments.data not in config.datasets:
        raise UserError(f"--data {arguments.data}: no such set in the config; it has {', '.join(config.datasets)}")
    dataset = SRDataset(config.datasets[arguments.data], train=False)
    samples = [dataset[index] for index in range(min(arguments.images, len(dataset)))]
    batch = min(arguments.batch, len(samples))
    return Setting(loaded.network, config, loaded.encoder_change, samples, batch, processes)


def config_of(arguments: Namespace) -> Config:
    """The config of the command line, to validate with: of the file, or else of the checkpoint, with the overrides."""
    if arguments.config:
        return load_config(arguments.config, arguments.overrides, {"phase": "val"})
    config = read_network_file(find_checkpoint(arguments.checkpoint).network).config.to_dict() | {"phase": "val"}
    origins = override(config, arguments.overrides)
    return check_config(config, str(arguments.checkpoint), origins, for_run=True)
