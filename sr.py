"""Trains, distils or validates a super-resolution network from a config.

python sr.py -p train -c config/faces_16_128.yaml                        train (torchrun starts one process per GPU)
python sr.py -p train -c config/faces_16_128.yaml -r auto                continue from the latest checkpoint
python sr.py -p distill -c config/faces_16_128_one_call.yaml -r TEACHER  teach a network to sample in one call
python sr.py -p val -c config/faces_16_128.yaml -r PREFIX                validate a checkpoint
python sr.py -p val -r faces --set datasets.val.dataroot=FOLDER          validate a network on your own images
"""

import argparse
from typing import Any

from core.command_line import DEVICES, Parser, wait_passively
from core.config import Config, load_config
from core.config.keys import Key
from core.config.sections import SparseSection
from core.errors import UserError, one_line_errors
from core.shipped import CHECKPOINT

DEBUG_STEPS = 10  # of a chain, at most
FLAGS = {  # {key of the config: the flag that sets it, as an error names it}
    "phase": "--phase",
    "sparse.enabled": "--sparse",
    "sparse.density": "--density",
    "sparse.prune": "--prune",
    "sparse.growth": "--growth",
    "sparse.redistribution": "--redistribution",
    "sparse.prune_rate": "--prune-rate",
    "train.optimizer.lr": "--lr",
    "train.optimizer.momentum": "--momentum",
    "sample.solver": "-use_ddim",
    **dict.fromkeys(("train.print_freq", "train.val_freq", "train.save_checkpoint_freq", "sample.steps"), "-debug"),
}


@one_line_errors()
def main() -> None:
    arguments = parse_arguments()
    config = config_of(arguments)
    from core.phases import run_phase  # here, as torch takes a second to import, for which --help need not wait

    run_phase(config, arguments)


def config_of(arguments: argparse.Namespace) -> Config:
    """The config that the command line asks for, with its flags and overrides."""
    config = read_config(arguments, flags(arguments))
    return read_config(arguments, flags(arguments) | debug_flags(config)) if arguments.debug else config


def read_config(arguments: argparse.Namespace, flags: dict[str, Any]) -> Config:
    """That of the file that is named, or else of the checkpoint to validate."""
    if arguments.config:
        return load_config(arguments.config, arguments.overrides, flags, FLAGS)
    if arguments.phase != "val" or arguments.resume in (None, "auto"):
        raise UserError("give a config with -c; only -p val -r CHECKPOINT works without one")
    from core.own_images import own_images_config  # imports torch

    return own_images_config(arguments.resume, arguments.overrides, flags, FLAGS)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(several_processes=True, description=__doc__)
    add = parser.add_argument
    add(
        "-c",
        "--config",
        help="YAML, or published JSON with // comments (default for -p val: the one in the checkpoint)",
    )
    phases = "train, distil or validate (default: the phase of the config)"
    add("-p", "--phase", choices=("train", "distill", "val"), help=phases)
    add("-r", "--resume", metavar="CHECKPOINT", help=f"auto (the latest of the experiment), or {CHECKPOINT}")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    add("--device", default="auto", help=DEVICES)
    add("--deterministic", action="store_true", help="give the same bits each time on a GPU too; a little slower")
    add("-gpu", "--gpu_ids", metavar="0,1", help="GPUs to use; torchrun starts one process for each")
    add("-debug", action="store_true", help="print, validate and save every few steps; chains have 10 steps or fewer")
    add("-enable_wandb", action="store_true", help="show curves and pictures in Weights & Biases too (needs wandb)")
    add("-use_ddim", action="store_true", help="sample with DDIM instead of the config's solver")

    sparse = parser.add_argument_group("sparse momentum (each overrides the config's `sparse` section)")
    add = sparse.add_argument
    switch = sparse.add_mutually_exclusive_group()
    switch.add_argument("--sparse", dest="sparse", action="store_true", default=None, help="train sparse")
    switch.add_argument("--dense", dest="sparse", action="store_false", default=None, help="train dense")
    add("--density", type=float, help="fraction of the prunable weights that are active, in (0, 1]")
    for name in ("prune", "growth", "redistribution"):
        rules = SparseSection.entries()[name]
        assert isinstance(rules, Key)
        add(f"--{name}", metavar="RULE", help=f"{rules.meaning}: {rules.value_type.allowed}")
    add(
        "--prune-rate",
        "--prune_rate",
        "--death-rate",
        "--death_rate",
        type=float,
        help="prune rate of the first update",
    )
    add("--verbose", action="store_true", help="accepted, no effect: TensorBoard shows what updates prune and regrow")

    training = parser.add_argument_group("training (each overrides the config's `train` section)")
    add = training.add_argument
    add("--lr", type=float, help="learning rate")
    add("--momentum", type=float, help="momentum of sgd")
    add("--epochs", type=int, help="accepted, no effect: train.n_iter counts steps")
    arguments = parser.parse_args()
    if arguments.sparse is False:
        for key in ("sparse.density", "sparse.prune", "sparse.growth", "sparse.redistribution", "sparse.prune_rate"):
            if flags(arguments)[key] is not None:
                parser.error(f"argument {FLAGS[key]}: not allowed with argument --dense")
    return arguments


def flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The command line as {key of the config: value}; None where a flag was not given."""
    return {
        "phase": arguments.phase,
        "sparse.enabled": arguments.sparse,
        "sparse.density": arguments.density,
        "sparse.prune": arguments.prune,
        "sparse.growth": arguments.growth,
        "sparse.redistribution": arguments.redistribution,
        "sparse.prune_rate": arguments.prune_rate,
        "train.optimizer.lr": arguments.lr,
        "train.optimizer.momentum": arguments.momentum,
        "sample.solver": "ddim" if arguments.use_ddim else None,
    }


def debug_flags(config: Config) -> dict[str, Any]:
    """What -debug changes in a config. Chains that are short already stay: a student makes the steps it was taught."""
    often = {"train.print_freq": 2, "train.val_freq": 4, "train.save_checkpoint_freq": 4} if "train" in config else {}
    steps = config.sample.steps or config.model.beta_schedule.val.n_timestep
    return often | ({"sample.steps": DEBUG_STEPS} if steps > DEBUG_STEPS else {})


if __name__ == "__main__":
    wait_passively()
    main()
