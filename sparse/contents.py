"""What a checkpoint holds of convolution and linear weights: a row for each, and the rows as a table."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from sparse.checkpoint_files import in_utf8, is_file, is_folder
from sparse.errors import SparseError
from sparse.packing import group_entries, unpack
from sparse.pth_file import read_pth

LONGEST_REASON = 200  # characters of the library's words, which may quote the file


class Row(NamedTuple):
    """One weight of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    active: int  # of a packed weight those in its mask, of a dense one those that are not 0
    total: int
    n_bytes: int  # as stored
    masked: bool = False


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of a dict of tensors that torch.save wrote."""
    if not is_file(path):
        raise SparseError("no checkpoint in this folder" if is_folder(path) else why_not_seen(path))
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_pth(path)
    if not isinstance(content, Mapping):
        raise SparseError(f"holds a {type(content).__name__}, not tensors by name")
    return {name: tensor for name, tensor in content.items() if isinstance(name, str) and isinstance(tensor, Tensor)}


def why_not_seen(path: Path) -> str:
    """Why there is no file to read."""
    try:
        path.stat()
    except FileNotFoundError:
        is_link = os.path.lexists(path)
        return "a link to nothing: mend it, or name another file" if is_link else "there is no such file"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return "no regular file"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file."""
    try:
        with in_utf8(path) as readable:
            return load_file(readable)
    except Exception as error:  # the library has an error for each kind of damage, and Python's own for some
        words = str(error).partition("\n")[0]
        raise SparseError(f"not a whole safetensors file ({words[:LONGEST_REASON]})") from None


def tabulate(stored: Mapping[str, Tensor]) -> list[Row]:
    """A row for every convolution and linear weight, in the file's order of packed or dense tensors."""
    tensors, masks = unpack(stored)
    entries_of = group_entries(stored)
    rows = []
    for name, tensor in tensors.items():
        masked = name in masks
        if masked or (name.endswith("weight") and tensor.ndim >= 2 and tensor.is_floating_point()):
            active = masks[name].sum() if masked else tensor.count_nonzero()
            n_bytes = sum(entry.nbytes for entry in entries_of.get(name, {"dense": tensor}).values())
            rows.append(Row(name, tuple(tensor.shape), int(active), tensor.numel(), n_bytes, masked))
    return rows


def total_of(rows: list[Row], what: str) -> Row:
    """The sum of the rows as one row."""
    sums = (sum(getattr(row, field) for row in rows) for field in ("active", "total", "n_bytes"))
    return Row(f"{what} ({len(rows)})", (), *sums)


def format_table(rows: list[Row]) -> str:
    """Lay the rows out as a table; totals come last, those of masked weights apart where others are dense."""
    totals = [total_of(rows, "total")]
    masked = [row for row in rows if row.masked]
    if 0 < len(masked) < len(rows):
        totals.insert(0, total_of(masked, "masked"))
    cells = [("weight", "shape", "active", "total", "density", "bytes")]
    for row in [*rows, *totals]:
        density = f"{row.active / max(1, row.total):.4f}"
        shape = "×".join(map(str, row.shape))
        cells.append((row.name, shape, f"{row.active:,}", f"{row.total:,}", density, f"{row.n_bytes:,}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *numbers in cells:
        padded = [f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([f"{name:<{widths[0]}}", *padded]))
    return "\n".join(lines)
