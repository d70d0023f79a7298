"""Compressed weights: blobs of bytes, about as small as what they hold allows, quick to read, and bounded.

Of a mask they hold the distances between active weights, or between pruned ones where these are fewer. Distances and
values are all but random: there are no repetitions to be found, and Huffman codes alone, which is deflate without its
search, are as small as what `lzma` makes, and read ten times as fast.

A blob is a zlib stream, which ends with a checksum, of

`active`, `pruned`      a byte for each such weight, in the tensor's logical order: how many others are between it and
                        the one before; 255 stands for 255 others, and no such weight after them
`int8`, `float16`, ...  the number of dimensions, a byte; their sizes, int64; for int8 the scale of each output channel,
                        bfloat16; the values. Of all scales, and of all values, the lowest bytes come first.
"""

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sparse.errors import SparseError
from sparse.quantization import count_channels, dequantize, quantize

ACTIVE, PRUNED = "active", "pruned"
DTYPES = (torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
VALUE_KINDS = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
BLOBS = (ACTIVE, PRUNED, *VALUE_KINDS)
FAR = 255  # the byte for a distance of 255 or more, of which the rest follows
MAX_DIMENSIONS = 32
MAX_SIZE = 2**48
MOST_INFLATED = 8  # times: the shortest of Huffman codes is a bit, for a byte
MEMORY_LEVEL = 9  # the highest, that of the fewest tables of codes


def compress(tensor: Tensor, mask: Tensor | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """The blobs, by kind, of a tensor, or of what a mask (bool, of its shape) leaves of it, its values as dtype.

    Raises SparseError where a value is not finite, or is not once it has that dtype.
    """
    kind = next((kind for kind, known in VALUE_KINDS.items() if known == dtype), None)
    if kind is None:
        raise SparseError(f"{dtype} is not a type that values are compressed as (known: {', '.join(VALUE_KINDS)})")
    head = bytes([tensor.ndim]) + np.array(tensor.shape, dtype="<i8").tobytes()
    kept = tensor if mask is None else tensor.where(mask, torch.zeros((), dtype=tensor.dtype))
    if dtype == torch.int8:
        kept, scale = quantize(kept)
        head += _to_planes(scale)
    else:
        kept = kept.to(dtype)
        if not kept.isfinite().all():
            raise SparseError(f"values beyond the range of {kind}, or not finite")
    values = kept.flatten() if mask is None else kept[mask]
    blobs = {kind: _deflate(head + _to_planes(values))}
    if mask is not None:
        is_active = mask.flatten().numpy()
        fewer_are_active = 2 * np.count_nonzero(is_active) <= is_active.size
        gaps = _gaps(is_active if fewer_are_active else ~is_active)
        blobs[ACTIVE if fewer_are_active else PRUNED] = _deflate(gaps.tobytes())
    return blobs


def compressed_shape(blobs: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The shape that the blobs of a tensor promise; no memory is taken for it yet."""
    return _begin_values(blobs)[2]


def decompress(blobs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The tensor, float32 with zeros outside its mask, and its mask (bool; None where it is dense).

    Raises SparseError where the blobs are damaged. They are never inflated beyond what their shape allows.
    """
    dtype, stream, shape = _begin_values(blobs)
    size = math.prod(shape)
    scale = None
    if dtype == torch.int8:
        n_channels = count_channels(torch.empty(()).expand(shape))
        scale = _from_planes(stream.read(2 * n_channels), torch.bfloat16)
        if not ((scale >= 0) & (scale.float() * 127).isfinite()).all():
            raise SparseError("damaged: its scales are not all finite and positive")
    mask = _read_mask(blobs, size)
    n_values = size if mask is None else np.count_nonzero(mask)
    values = _from_planes(stream.read(dtype.itemsize * n_values), dtype)
    stream.end()
    if not values.isfinite().all():
        raise SparseError("values that are not finite")
    tensor = (values.float() if mask is None else scatter(values, mask)).view(shape)
    if scale is not None:
        tensor = dequantize(tensor, scale)
    return tensor, None if mask is None else torch.from_numpy(mask).view(shape)


def scatter(values: Tensor, mask: np.ndarray) -> Tensor:
    """A flat float32 tensor with the values where the mask is True, and zeros elsewhere."""
    scattered = np.zeros(mask.shape, dtype=np.float32)
    scattered[mask] = values.float().numpy()
    return torch.from_numpy(scattered)


def _begin_values(blobs: Mapping[str, Tensor]) -> tuple[torch.dtype, "_Inflating", tuple[int, ...]]:
    """The dtype of the values, their blob read up to the end of the shape, and the shape."""
    kinds = [kind for kind in VALUE_KINDS if kind in blobs]
    if len(kinds) != 1 or len(blobs) > 2 or (len(blobs) == 2 and blobs.keys().isdisjoint((ACTIVE, PRUNED))):
        raise SparseError(f"the entries {', '.join(sorted(blobs))} are not those of one tensor")
    stream = _Inflating(blobs[kinds[0]], "values")
    n_dimensions = stream.read(1)[0]
    if n_dimensions > MAX_DIMENSIONS:
        raise SparseError(f"damaged: a tensor of {n_dimensions} dimensions")
    shape = tuple(np.frombuffer(stream.read(8 * n_dimensions), dtype="<i8").tolist())
    if min(shape, default=0) < 0 or math.prod(max(1, n) for n in shape) > MAX_SIZE:
        raise SparseError(f"damaged: its shape is {list(shape)}")
    return VALUE_KINDS[kinds[0]], stream, shape


# ---------------------------------------------------------------------------------------------------------------------
# Masks.


def _gaps(marked: np.ndarray) -> np.ndarray:
    """The distances, uint8, that a blob holds of a flat bool array, between those that are True."""
    distance = np.diff(np.flatnonzero(marked), prepend=-1) - 1
    n_far, rest = np.divmod(distance, FAR)
    gaps = np.full(len(distance) + n_far.sum(), FAR, dtype=np.uint8)
    gaps[np.cumsum(n_far + 1) - 1] = rest
    return gaps


def _read_mask(blobs: Mapping[str, Tensor], size: int) -> np.ndarray | None:
    """The mask, flat, of a tensor of that size, or None where its blobs have none."""
    kind = next((kind for kind in (ACTIVE, PRUNED) if kind in blobs), None)
    if kind is None:
        return None
    stream = _Inflating(blobs[kind], "mask")
    gaps = np.frombuffer(stream.read_at_most(size // 2 + size // FAR), dtype=np.uint8)
    stream.end()
    is_last = gaps != FAR
    positions = np.cumsum(gaps, dtype=np.int64)
    positions += np.cumsum(is_last)
    if len(gaps) and positions[-1] > size:
        raise SparseError(f"damaged: its mask is longer than the {size} weights of its shape")
    mask = np.full(size, kind == PRUNED)
    mask[positions[is_last] - 1] = kind == ACTIVE
    return mask


# ---------------------------------------------------------------------------------------------------------------------
# Bytes.


def _to_planes(values: Tensor) -> bytes:
    """The bytes of a flat tensor: of all values the first byte, then of all the second, and so on."""
    return values.contiguous().view(-1, 1).view(torch.uint8).numpy().T.tobytes()


def _from_planes(planes: bytes, dtype: torch.dtype) -> Tensor:
    values = torch.empty(len(planes) // dtype.itemsize, dtype=dtype)
    by_value = values.view(torch.uint8).view(len(values), dtype.itemsize).numpy()
    by_value[:] = np.frombuffer(planes, dtype=np.uint8).reshape(by_value.T.shape).T
    return values


def _deflate(content: bytes) -> Tensor:
    deflating = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, MEMORY_LEVEL, zlib.Z_HUFFMAN_ONLY)
    blob = deflating.compress(content) + deflating.flush()
    return torch.from_numpy(np.frombuffer(blob, dtype=np.uint8).copy())


class _Inflating:
    """A blob that is inflated piece by piece, no further than asked for."""

    def __init__(self, blob: Tensor, what: str) -> None:
        if blob.dtype != torch.uint8 or blob.ndim != 1:
            raise SparseError(
                f"the blob of its {what} is {blob.dtype} {tuple(blob.shape)}, not one dimension of torch.uint8"
            )
        self.what = what
        self.limit = MOST_INFLATED * len(blob)
        self.rest: bytes | memoryview = blob.cpu().contiguous().numpy().data
        self.inflating = zlib.decompressobj()

    def read_at_most(self, n_bytes: int) -> bytes:
        """The next n_bytes, or as many as there are."""
        n_bytes = min(n_bytes, self.limit)
        if n_bytes == 0:  # which zlib takes for no limit
            return b""
        try:
            content = self.inflating.decompress(self.rest, n_bytes)
        except zlib.error as error:
            raise SparseError(f"damaged: the blob of its {self.what} cannot be inflated ({error})") from None
        self.rest = self.inflating.unconsumed_tail
        return content

    def read(self, n_bytes: int) -> bytes:
        """The next n_bytes."""
        content = self.read_at_most(n_bytes)
        if len(content) < n_bytes:
            raise SparseError(f"damaged: the blob of its {self.what} ends too early")
        return content

    def end(self) -> None:
        """Raise SparseError unless all was read, and the checksum is right."""
        if self.read_at_most(1) or not self.inflating.eof or self.inflating.unused_data:
            raise SparseError(f"damaged: the blob of its {self.what} does not end where it should")
