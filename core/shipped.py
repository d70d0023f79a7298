"""The networks that come with the project, by their names: what `-r faces` stands for.

A checkpoint of one's own comes first: a name is looked up where no file, PREFIX or folder of checkpoints is called so.
"""

from pathlib import Path

from core.config.presets import OF_STUDENTS
from core.errors import UserError
from sparse.checkpoint_files import find_network_file, is_file

FOLDER = Path(__file__).parents[1] / "checkpoints"
FILES = {
    "faces": FOLDER / "faces_16_128_one_call.safetensors",
    "faces-small": FOLDER / "faces_16_128_small_one_call.safetensors",
    "photos": FOLDER / "photos_x4.safetensors",
    "photos-faithful": FOLDER / "photos_x4_faithful.safetensors",
    "faces-chain": FOLDER / "faces_16_128.safetensors",
    "faces-small-chain": FOLDER / "faces_16_128_small.safetensors",
}
CHAINS = {"faces": "faces-chain", "faces-small": "faces-small-chain"}  # a student of one call -> its diffusion network
CHECKPOINT = f"a file, the PREFIX of PREFIX_gen.*, a folder (takes its latest), or a name: {', '.join(FILES)}"
SMALL = 64  # pixels of the longer side: up to so many, an image is taken for a face


def shipped_file(name: str) -> Path:
    """The file of a shipped network. Raises UserError where it is missing."""
    file = FILES[name]
    if not is_file(file):
        there = " or ".join(f"-r {other}" for other in FILES if is_there(other))
        advice = f"use {there}" if there else "get the project with its checkpoints"
        raise UserError(f"{name}: the file of this network is missing, {file}; {advice}")
    return file


def is_there(name: str) -> bool:
    """Whether the file of a shipped network is there."""
    return is_file(FILES[name])


def is_shipped(name: str | Path) -> bool:
    """Whether a name that the user gives means a shipped network, as no checkpoint of one's own is called so."""
    return str(name) in FILES and find_network_file(Path(name)) is None


def sampled_by(name: str, preset: str | None) -> str:
    """The shipped network that a preset samples in place of another: chains need the diffusion network of a student."""
    return name if preset is None or preset in OF_STUDENTS else CHAINS.get(name, name)
