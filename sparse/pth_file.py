"""Published .pth files, which are never unpickled in full.

What is read takes time and memory in proportion to its file, whatever the file says of itself.
"""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from sparse.errors import SparseError

ZIP = b"PK\x03\x04"
# What the pickle of a published file names. torch knows more: bytes of any length, tensors without storage, subclasses.
KNOWN_GLOBALS = {
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch Size",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")),
}  # fmt: skip
LEGACY_PICKLES = 5  # one after the other, in a file of torch before 1.6


def read_pth(file: Path) -> Any:
    """What torch.save wrote: tensors and plain containers alone. Raises SparseError where there is anything else."""
    try:
        if is_zip(file):
            refuse_inflating(file)
        refuse_unknown_globals(file)
        saved = torch.load(file, map_location="cpu", weights_only=True)
        refuse_large_tensors(saved, file.stat().st_size)
    except SparseError:
        raise
    except Exception as error:  # on a damaged file the unpickler raises whatever it stumbles over
        raise SparseError("truncated, or not a file of tensors that torch can read safely") from error
    return saved


def refuse_inflating(file: Path) -> None:
    """torch stores what it writes as it is, so a file is as large as all that is in it."""
    with zipfile.ZipFile(file) as archive:
        inflated = sum(max(entry.file_size, 0) for entry in archive.infolist())
    if inflated > (size := file.stat().st_size):
        raise SparseError(f"{size:,} bytes that inflate to {inflated:,}; torch.save writes no such file")


def refuse_unknown_globals(file: Path) -> None:
    for pickle in pickles_of(file):
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name == "GLOBAL" and argument not in KNOWN_GLOBALS:
                raise SparseError(f"not a file of tensors alone: it asks for {str(argument)[:60]!r}")


def pickles_of(file: Path) -> Iterator[IO[bytes]]:
    """The file, open where a pickle begins, for each that torch would read."""
    if is_zip(file):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as content:
                        yield content
    else:
        with file.open("rb") as content:
            for _ in range(LEGACY_PICKLES):
                yield content


def is_zip(file: Path) -> bool:
    """Whether torch takes it for one."""
    with file.open("rb") as content:
        return content.read(len(ZIP)) == ZIP


def refuse_large_tensors(saved: Any, file_size: int) -> None:
    """Tensors may be views that repeat what is stored; all of them together are no larger than their file."""
    tensors = list(tensors_in(saved))
    if any(tensor.layout != torch.strided or tensor.device.type != "cpu" for tensor in tensors):
        raise SparseError("it has sparse tensors, or some without values")
    if (total := sum(tensor.nbytes for tensor in tensors)) > file_size:
        raise SparseError(f"{file_size:,} bytes for tensors of {total:,}")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists, each container once."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
