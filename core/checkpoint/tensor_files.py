"""Files of tensors: safetensors, written and read, and .pth, read only."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from core.config.wording import cut
from core.errors import UserError
from data.errors import reason
from data.files import make_writable, write_atomically
from sparse import SparseError
from sparse.checkpoint_files import in_utf8
from sparse.pth_file import read_pth as read_tensors_of_pth

FORMAT = "smfdm"


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """-> (tensors by name, metadata). All values are finite."""
    with opened(file) as content:
        tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        refuse_not_finite(tensors, file)
        return tensors, content.metadata() or {}


def read_pth(file: Path) -> Any:
    """A published file: tensors and plain containers alone."""
    try:
        return read_tensors_of_pth(file)
    except SparseError as error:
        raise UserError(f"{file}: {error}") from error


def refuse_not_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raises UserError where a file has a value that is not finite."""
    if name := not_finite(tensors):
        raise UserError(
            f"{file}: {cut(name)} has values that are not finite (NaN or infinite): of a training that diverged"
        )


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that has a value which is not finite; None where there is none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            lowest, highest = (tensor if tensor.element_size() > 1 else tensor.float()).aminmax()  # NaN if one is NaN
            if not lowest.isfinite() or not highest.isfinite():
                return name
    return None


def read_metadata(file: Path) -> dict[str, str]:
    """Of a safetensors file, without its tensors."""
    with opened(file) as content:
        return content.metadata() or {}


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A safetensors file to read from, or one line that says that it is none."""
    try:
        with in_utf8(file) as path, safe_open(path, framework="pt") as content:
            yield content
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:  # unknown dtypes
        raise UserError(f"{file}: truncated, or not a safetensors file ({reason(error)})") from error


def write_safetensors(file: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, whole or not at all, and makes its folder; neither where a value is not finite."""
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if name := not_finite(on_host):
        raise UserError(f"{file} is not written: {name} has values that are not finite (NaN or infinite)")
    make_writable(Path(file).parent)
    write_atomically(file, *in_order(to_bytes(on_host, {"format": FORMAT, **metadata})))


def in_order(content: bytes) -> tuple[bytes, bytes, memoryview]:
    """A safetensors file with its metadata in order, in parts: the library has them in another order each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little"), written, memoryview(content)[end:]
