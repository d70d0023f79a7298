"""Storing a sparse tensor as its mask and its active values.

A masked tensor NAME becomes three entries: `NAME::mask`, uint8, one bit a weight in the tensor's logical order, the
first weight in the highest bit (np.packbits), the last byte filled up with 0; `NAME::values`, the active values in
that order; `NAME::shape`, int64. At density d and 32-bit values that is d + 1/32 of the dense size.

Compressed, it becomes two, blobs of uint8 that `sparse.compression` describes: `NAME::active` or `NAME::pruned` is the
mask, and `NAME::int8`, or another type, the shape and the values. A weight that has no mask becomes the latter alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from sparse.compression import BLOBS, MAX_DIMENSIONS, MAX_SIZE, compress, compressed_shape, decompress, scatter
from sparse.errors import SparseError, shorten

MARK = "::"  # between the name of a tensor and that of an entry
MASK, VALUES, SHAPE = PLAIN = ("mask", "values", "shape")
# Beyond 256 MiB, compressed tensors may take so many bytes, as float32, for each that is stored: enough where one
# weight in a thousand is active, and no forged size fills the memory.
MOST_INFLATED, FREE = 1024, 2**28


def pack(
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    values_dtype: torch.dtype | Mapping[str, torch.dtype] | None = None,
    compressed: bool = False,
) -> dict[str, Tensor]:
    """The tensors, on the CPU, with every masked one replaced by its packed entries.

    masks: bool, of the shape of the tensor of that name; what lies outside a mask is not stored.
    values_dtype: of all, or by name. torch.float16 or torch.bfloat16 halve the values; None keeps them bit for bit.
        Where they are compressed, torch.int8 makes them whole numbers times a scale of each output channel
        (`sparse.quantization`), and those of one dimension torch.float16.
    compressed: of masks and values, little more than their information is stored, and tensors of two or more dimensions
        are stored so, as values_dtype, even where they have no mask. Values that are not finite are refused.
    """
    if unknown := [name for name in masks if name not in tensors]:
        raise SparseError(f"there are masks, but no tensors, of these names: {shorten(unknown)}")
    packed = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        dtype = values_dtype.get(name) if isinstance(values_dtype, Mapping) else values_dtype
        mask = masks[name].detach().cpu() if name in masks else None
        if mask is not None:
            _check_mask(name, mask, tensor)
        in_halves = compressed and dtype == torch.int8 and tensor.ndim == 1  # a scale would be longer than its value
        if in_halves:
            dtype = torch.float16
        has_values = tensor.is_floating_point() and (tensor.ndim > 1 or in_halves)
        if compressed and (mask is not None or has_values):
            with _told_of(name):
                entries = compress(tensor, mask, dtype or tensor.dtype)
        elif mask is not None:
            entries = _pack_plain(tensor, mask, dtype or tensor.dtype)
        elif compressed and not tensor.isfinite().all():
            raise SparseError(f"{name}: values that are not finite")
        else:
            packed[name] = tensor
            continue
        packed |= {name + MARK + kind: entry for kind, entry in entries.items()}
    _compressed_shapes(packed)  # what cannot be read is not written
    return packed


def unpack(
    packed: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors that were packed, as float32 with zeros outside their masks, and their masks (bool).

    Entries that are not packed are passed through. Raises SparseError where entries are damaged or do not fit each
    other, and, before memory is taken for any, where compressed ones are not of the `shapes` that are expected.
    """
    compressed = _compressed_shapes(packed)
    if shapes is not None:
        _check_shapes(compressed, shapes)
    entries_of = group_entries(packed)
    if both := [name for name in entries_of if name in packed]:
        raise SparseError(f"packed tensor {both[0]}: a tensor of its name is beside it")
    tensors, masks = {}, {}
    for key, tensor in packed.items():
        name, kind = _split(key)
        if kind is None:
            tensors[key] = tensor
        elif name not in tensors:
            with _told_of(f"packed tensor {name}"):
                unpack_one = decompress if name in compressed else _unpack_plain
                tensors[name], mask = unpack_one(entries_of[name])
            if mask is not None:
                masks[name] = mask
    return tensors, masks


def group_entries(packed: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The entries of each packed tensor, by its name and by their kind: "mask", "values", ..."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in packed.items():
        name, kind = _split(key)
        if kind is not None:
            groups.setdefault(name, {})[kind] = tensor
    return groups


def _split(key: str) -> tuple[str, str | None]:
    """The name of the tensor that an entry belongs to, and the kind of the entry; None where it is not packed."""
    name, mark, kind = key.rpartition(MARK)
    return (name, kind) if mark and kind in (*PLAIN, *BLOBS) else (key, None)


@contextmanager
def _told_of(what: str) -> Iterator[None]:
    """Errors say of what they speak."""
    try:
        yield
    except SparseError as error:
        raise SparseError(f"{what}: {error}") from None


# ---------------------------------------------------------------------------------------------------------------------
# Compressed entries.


def _compressed_shapes(packed: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes that compressed entries promise, by name. Raises SparseError where they are too large to be true."""
    shapes, n_bytes = {}, 0
    for name, entries in group_entries(packed).items():
        if not entries.keys().isdisjoint(BLOBS):
            with _told_of(f"packed tensor {name}"):
                shapes[name] = compressed_shape(entries)
            n_bytes += sum(entry.nbytes for entry in entries.values())
    inflated = 4 * sum(map(math.prod, shapes.values()))
    if inflated > FREE + MOST_INFLATED * n_bytes:
        raise SparseError(f"{n_bytes:,} bytes for tensors of {inflated:,}: compressed too far to be read")
    return shapes


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, Sequence[int]]) -> None:
    for name, shape in shapes.items():
        if name not in expected:
            raise SparseError(f"packed tensor {name}: no tensor of this name is expected")
        if shape != tuple(expected[name]):
            raise SparseError(f"packed tensor {name}: its shape is {list(shape)}, not {list(expected[name])}")


# ---------------------------------------------------------------------------------------------------------------------
# Plain entries.


def _check_mask(name: str, mask: Tensor, tensor: Tensor) -> None:
    if mask.dtype != torch.bool or mask.shape != tensor.shape:
        raise SparseError(
            f"mask of {name} is {mask.dtype} {tuple(mask.shape)}, its tensor asks for torch.bool {tuple(tensor.shape)}"
        )


def _pack_plain(tensor: Tensor, mask: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    if dtype == torch.int8:
        raise SparseError("values_dtype=torch.int8 asks for compressed=True")
    return {
        MASK: torch.from_numpy(np.packbits(mask.flatten().numpy())),
        VALUES: tensor[mask].to(dtype),
        SHAPE: torch.tensor(tensor.shape, dtype=torch.int64),
    }


def _unpack_plain(entries: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    if missing := [kind for kind in PLAIN if kind not in entries]:
        raise SparseError(f"{', '.join(missing)} is missing beside {', '.join(entries)}")
    bits, values, sizes = (entries[kind].cpu() for kind in PLAIN)
    if bits.dtype != torch.uint8 or not values.is_floating_point() or sizes.dtype != torch.int64 or sizes.ndim != 1:
        raise SparseError(
            f"mask, values and shape are {bits.dtype}, {values.dtype} and {sizes.dtype}, "
            "not torch.uint8, a floating type and torch.int64"
        )
    if sizes.numel() > MAX_DIMENSIONS:
        raise SparseError(f"a shape of {sizes.numel()} dimensions")
    shape = sizes.tolist()
    size = math.prod(shape)
    if math.prod(max(1, n) for n in shape) > MAX_SIZE or min(shape, default=0) < 0 or bits.shape != ((size + 7) // 8,):
        raise SparseError(f"a mask of {bits.numel()} bytes does not fit the shape {shape}")
    every_bit = np.unpackbits(bits.numpy()).view(bool)
    mask = every_bit[:size]
    if values.shape != (n_active := np.count_nonzero(mask),) or every_bit[size:].any():
        raise SparseError(f"{values.numel()} values for {n_active} bits that are set in its mask")
    return scatter(values, mask).view(shape), torch.from_numpy(mask).view(shape)
