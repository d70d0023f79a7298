"""Makes a checkpoint ready to ship: one file, the network that samples, its weights in half precision.

python -m core.export -r experiments/faces_16_128/checkpoint -o checkpoints/faces_16_128.safetensors --preset balanced

What a mask covers is stored as a bit for each weight and the active values. At 15 % density and in fp16 that is a
ninth of the dense network's float32 values. Biases and the weights of normalisations stay float32.
"""

import argparse
import sys

import torch

from core.checkpoint import find_checkpoint, read_network_file, save_network, step_of, writable_network_file
from core.command_line import Parser
from core.config import PRESETS, changed
from core.errors import UserError, one_line_errors

VALUES = {"fp16": torch.float16, "bf16": torch.bfloat16, "float32": torch.float32}


@one_line_errors()
def main(argv=None):
    arguments = parser().parse_args(argv)
    source = find_checkpoint(arguments.checkpoint).network
    state = read_network_file(source)
    if arguments.preset:
        preset = {f"sample.{key}": value for key, value in PRESETS[arguments.preset].items()}
        state.config = changed(state.config, preset, str(source))
    dtype = VALUES[arguments.values]
    state.weights = {name: rounded(value, dtype, name) for name, value in state.weights.items()}
    target = writable_network_file(arguments.output)
    save_network(target, state, step_of(source))
    tell(state, target)


def parser():
    parser = Parser(
        prog="python -m core.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-r", "--checkpoint", required=True, help="a file, the PREFIX of PREFIX_gen.*, or a folder (its latest)")
    add("-o", "--output", required=True, metavar="FILE", help="a .safetensors file to write")
    add("--values", choices=VALUES, default="fp16", help="how weights are stored (default: fp16)")
    add("--preset", choices=PRESETS, help="how it is sampled unless asked otherwise (default: as the config says)")
    return parser


def rounded(value, dtype, name):
    """A weight in dtype, a vector as it is. Raises UserError where the dtype has no such number."""
    if value.dim() < 2:
        return value
    if not value.to(dtype).isfinite().all():
        raise UserError(f"{name}: has values beyond the range of {str(dtype).removeprefix('torch.')}; --values float32")
    return value.to(dtype)


def tell(state, target):
    total = sum(value.numel() for value in state.weights.values())
    masked = sum(mask.numel() for mask in state.masks.values())
    active = total - masked + sum(int(mask.sum()) for mask in state.masks.values())
    size = target.stat().st_size
    print(f"{target}: {total:,} parameters, {active:,} of them active")
    print(f"{size / 1e6:.1f} MB, {4 * total / size:.1f} times less than all values in float32")


if __name__ == "__main__":
    sys.exit(main())
