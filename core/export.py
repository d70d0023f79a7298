"""Makes a checkpoint ready to ship: one compressed file with the network that samples.

python -m core.export -r experiments/faces_16_128/checkpoint -o my_faces.safetensors --preset balanced

The file stores where the active weights are, exactly, and their values as --values says. The face network has 100
million parameters, of which 15 % are active. Its file has:

int8      17 MB   whole numbers with a scale per output channel, and some sensitive weights in fp16: costs 0.01 dB
bf16      25 MB   8 bits of precision: no cost seen on 20 faces
fp16      30 MB   11 bits; refused if a value is beyond 65504
float32   55 MB   all 24 bits

Biases and the weights of normalisations stay in float32; with int8 they are in fp16. To continue training, start from
values that are not rounded.

python -m core.export -r A B -o FILE.safetensors --weights 2 1

Of several checkpoints, the file has the mean of their weights. Here A counts twice as much as B; without --weights all
count alike. Where all were trained from one start and kept its masks, the mean is often better than each (model soups,
Wortsman et al. 2022). Config, card and step are those of the first. What core.calibrate measured is left out.

A card says what the network is for, and `infer.py --about` shows it. It is the `card` section of the config of the
training, or of another YAML file that --card names:

card:
  purpose: faces that fill the image        # leave out what you do not know
  inputs: [16, 64]                          # longer side, in pixels
  magnifications: [1, 8]
  data: photographs of FFHQ and CelebA-HQ
  licence: for non-commercial research
"""

import sys
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from core.command_line import Parser
from core.config import PRESETS, Config, changed
from core.config.files import read_file
from core.errors import UserError, one_line_errors
from core.shipped import CHECKPOINT
from sparse.errors import SparseError

if TYPE_CHECKING:
    from core.checkpoint.network_file import NetworkState

VALUES = {"int8": "int8", "fp16": "float16", "bf16": "bfloat16", "float32": "float32"}  # -> their names in torch


@one_line_errors()
def main(argv: list[str] | None = None) -> None:
    arguments = parser().parse_args(argv)

    # Here, as torch takes a second to import, for which --help need not wait.
    import torch

    from core.checkpoint.averaging import average
    from core.checkpoint.files import find_checkpoint, step_of
    from core.checkpoint.network_file import read_network_file, save_network, stored_types, writable_network_file
    from core.sampling.super_resolution import sampling_settings

    shares = shares_of(arguments.weights, len(arguments.checkpoint))
    source, *others = sources = [find_checkpoint(checkpoint).network for checkpoint in arguments.checkpoint]
    state, measured = average(sources, shares) if others else (read_network_file(source), False)
    if arguments.preset:
        settings = sampling_settings(state.config, {}, arguments.preset, source)
        state.config = changed(state.config, {"sample": settings.to_dict()}, str(source))
    if arguments.card:
        state.config = with_card(state.config, arguments.card)
        state.unknown = {place: value for place, value in state.unknown.items() if place[0] != "card"}
    target = writable_network_file(arguments.output)
    types = stored_types(state.weights, getattr(torch, VALUES[arguments.values]))
    try:
        save_network(target, state, step_of(source), types, compressed=True)
    except SparseError as error:
        where = ", ".join(map(str, sources))
        raise UserError(f"{where}: {error}; --values float32 holds all that are finite") from None
    tell(state, target)
    if measured:
        print(f"what calibration measured is not true of the mean; measure anew: python -m core.calibrate -r {target}")


def parser() -> Parser:
    parser = Parser(prog="python -m core.export", description=__doc__)
    add = parser.add_argument
    several = f"{CHECKPOINT}; of several, the mean is written"
    add("-r", "--checkpoint", required=True, nargs="+", action="extend", help=several)
    add("-o", "--output", required=True, metavar="FILE", help="a .safetensors file to write")
    add("--values", choices=VALUES, default="int8", help="how weights are stored, see above (default: int8)")
    add("--weights", nargs="+", type=float, metavar="W", help="how much each checkpoint counts (default: all alike)")
    add("--preset", choices=PRESETS, help="how the network is sampled by default (default: as the config says)")
    add("--card", metavar="FILE", help="a YAML file with a `card` section (default: the config of the training)")
    return parser


def shares_of(weights: list[float] | None, n_checkpoints: int) -> list[float]:
    """--weights, or a 1 for each checkpoint, divided by their sum."""
    if weights is None:
        weights = [1.0] * n_checkpoints
    elif n_checkpoints == 1:
        raise UserError("--weights is for several checkpoints, and -r names one: leave it out, or name more")
    given = " ".join(f"{weight:g}" for weight in weights)
    if len(weights) != n_checkpoints:
        raise UserError(f"--weights {given}: -r names {n_checkpoints} checkpoints; give one number for each")
    if not all(weight > 0 for weight in weights) or not isfinite(sum(weights)):
        raise UserError(f"--weights {given}: each must be a positive number; leave out what should not count")
    return [weight / sum(weights) for weight in weights]


def with_card(config: Config, file: str) -> Config:
    """The config with the `card` section of a file in place of its own."""
    content = read_file(file)
    if "card" not in content:
        raise UserError(f"{file}: no section card, which --card needs (python -m core.export --help shows one)")
    return changed(config, {"card": content["card"]}, file)


def tell(state: "NetworkState", target: Path) -> None:
    total = sum(value.numel() for value in state.weights.values())
    masked = sum(mask.numel() for mask in state.masks.values())
    active = total - masked + sum(int(mask.sum()) for mask in state.masks.values())
    size = target.stat().st_size
    print(f"{target}: {total:,} parameters, {active:,} of them active")
    print(f"{size / 1e6:.1f} MB, {4 * total / size:.1f} times less than all values in float32")


if __name__ == "__main__":
    sys.exit(main())
