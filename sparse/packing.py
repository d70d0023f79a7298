"""Storing a sparse tensor as a bit mask and its active values.

A masked tensor NAME becomes three entries: `NAME::mask`, uint8, one bit a weight in the tensor's logical order, the
first weight in the highest bit (np.packbits), the last byte filled up with 0; `NAME::values`, the active values in
that order; `NAME::shape`, int64. At density d and 32-bit values that is d + 1/32 of the dense size.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sparse.errors import SparseError, shorten

MASK, VALUES, SHAPE = "::mask", "::values", "::shape"


def pack(
    tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor], values_dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Return the tensors, on the CPU, with every masked one replaced by its packed entries.

    masks: bool, of the shape of the tensor of that name; what lies outside a mask is not stored.
    values_dtype: torch.float16 or torch.bfloat16 halve the values; None keeps them bit for bit.
    """
    if unknown := [name for name in masks if name not in tensors]:
        raise SparseError(f"there are masks, but no tensors, of these names: {shorten(unknown)}")
    packed = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if name in masks:
            packed |= _pack_one(name, tensor, masks[name].detach().cpu(), values_dtype)
        else:
            packed[name] = tensor
    return packed


def unpack(packed: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors that were packed, as float32 with zeros outside their masks, and their masks (bool).

    Entries that are not packed are passed through. Raises SparseError where entries do not fit each other.
    """
    tensors, masks = {}, {}
    for key, tensor in packed.items():
        name, mark, kind = key.rpartition("::")
        if mark + kind == MASK:
            tensors[name], masks[name] = _unpack_one(name, packed)
        elif mark + kind not in (VALUES, SHAPE):
            tensors[key] = tensor
        elif name + MASK not in packed:
            raise SparseError(f"packed tensor {name}: {key} is there, but {name + MASK} is not")
    return tensors, masks


def _pack_one(name: str, tensor: Tensor, mask: Tensor, values_dtype: torch.dtype | None) -> dict[str, Tensor]:
    if mask.dtype != torch.bool or mask.shape != tensor.shape:
        raise SparseError(
            f"mask of {name} is {mask.dtype} {tuple(mask.shape)}, its tensor asks for torch.bool {tuple(tensor.shape)}"
        )
    return {
        name + MASK: torch.from_numpy(np.packbits(mask.flatten().numpy())),
        name + VALUES: tensor[mask].to(values_dtype or tensor.dtype),
        name + SHAPE: torch.tensor(tensor.shape, dtype=torch.int64),
    }


def _unpack_one(name: str, packed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    if missing := [name + part for part in (MASK, VALUES, SHAPE) if name + part not in packed]:
        raise SparseError(f"packed tensor {name}: {', '.join(missing)} is missing")
    bits, values, shape = (packed[name + part].cpu() for part in (MASK, VALUES, SHAPE))
    if bits.dtype != torch.uint8 or not values.is_floating_point() or shape.dtype != torch.int64 or shape.ndim != 1:
        raise SparseError(
            f"packed tensor {name}: mask, values and shape are {bits.dtype}, {values.dtype} and {shape.dtype}, "
            "not torch.uint8, a floating type and torch.int64"
        )
    shape = shape.tolist()
    size = math.prod(shape)
    if min(shape, default=0) < 0 or bits.shape != ((size + 7) // 8,):
        raise SparseError(f"packed tensor {name}: a mask of {bits.numel()} bytes does not fit the shape {shape}")
    every_bit = torch.from_numpy(np.unpackbits(bits.numpy())).bool()
    mask = every_bit[:size].view(shape)
    if values.shape != (n_active := int(mask.sum()),) or every_bit[size:].any():
        raise SparseError(f"packed tensor {name}: {values.numel()} values for {n_active} bits that are set in its mask")
    tensor = torch.zeros(shape)
    tensor[mask] = values.float()
    return tensor, mask
