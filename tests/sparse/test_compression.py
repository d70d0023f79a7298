"""Compressed entries: the masks exact, the values within their bound, and damage refused before it costs anything."""

import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import torch

from sparse import SparseError, pack, unpack

DENSITIES = {"none": 0.0, "one": None, "rare": 0.0005, "usual": 0.15, "half": 0.5, "most": 0.97, "all": 1.0}


@pytest.fixture
def sparse():
    """Convolutions of 64×32×3×3 at all densities, one that is not masked, a bias and a counter."""
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(64, 32, 3, 3, generator=generator) < (d or 0) for name, d in DENSITIES.items()}
    masks["one"].view(-1)[-1] = True
    tensors = {name: torch.randn(mask.shape, generator=generator) * mask for name, mask in masks.items()}
    tensors["usual"][3] = 0.0  # active, and 0: a channel of zeros
    dense = {"dense": torch.randn(13, 7, generator=generator), "bias": torch.randn(64), "steps": torch.tensor(5)}
    return tensors | dense, masks


def the_same(these, those):
    return these.keys() == those.keys() and all(torch.equal(these[name], those[name]) for name in those)


def test_quantized_round_trip(sparse):
    tensors, masks = sparse
    unpacked, found = unpack(pack(tensors, masks, torch.int8, compressed=True))
    assert the_same(found, masks)
    assert unpacked.keys() == tensors.keys()
    assert torch.equal(unpacked["bias"], tensors["bias"].half().float())
    assert torch.equal(unpacked["steps"], tensors["steps"])
    for name in (*masks, "dense"):
        assert unpacked[name].dtype == torch.float32
        error = (unpacked[name] - tensors[name]).abs().flatten(1).amax(dim=1)
        assert (error <= tensors[name].abs().flatten(1).amax(dim=1) / 126.5 / 2).all()
        assert name == "dense" or not unpacked[name][~masks[name]].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, None])
def test_floating_round_trip_is_bit_exact(dtype, sparse):
    tensors, masks = sparse
    tensors = {n: t.to(dtype or t.dtype).float() if t.ndim > 1 else t for n, t in tensors.items()}
    unpacked, found = unpack(pack(tensors, masks, dtype, compressed=True))
    assert the_same(found, masks) and the_same(unpacked, tensors)


def test_types_by_name(sparse):
    tensors, masks = sparse
    packed = pack(tensors, masks, {"usual": torch.int8, "dense": torch.float16}, compressed=True)
    assert {"usual::int8", "dense::float16", "half::float32"} <= packed.keys()


def test_what_was_packed_packs_to_the_same_bytes(sparse):
    packed = pack(*sparse, torch.int8, compressed=True)
    assert the_same(pack(*unpack(packed), torch.int8, compressed=True), packed)


def test_sizes(sparse):
    """Near the entropy of the masks, and of 8 bits a value of which a normal distribution uses fewer."""
    tensors, masks = sparse
    packed = pack(tensors, masks, torch.int8, compressed=True)
    n = masks["usual"].numel()
    for name, density in {"usual": 0.15, "half": 0.5, "most": 0.97}.items():
        entropy = -(density * np.log2(density) + (1 - density) * np.log2(1 - density)) * n / 8
        kind = "pruned" if name == "most" else "active"
        assert packed[f"{name}::{kind}"].nbytes < 1.06 * entropy + 150
        assert packed[f"{name}::int8"].nbytes < density * n + 2 * 64 + 150
    assert packed["none::active"].nbytes + packed["all::pruned"].nbytes < 20 + n / 255 / 8 + 20


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 12, 7, 3, 3), (0, 4), (4, 0), (600,), ()])
def test_shapes(shape):
    torch.manual_seed(0)
    tensors, masks = {"a": torch.randn(shape)}, {"a": torch.rand(shape) < 0.6}
    unpacked, found = unpack(pack(tensors, masks, torch.float32, compressed=True))
    assert the_same(found, masks) and torch.equal(unpacked["a"], tensors["a"] * masks["a"])
    assert unpack(pack(tensors, masks, torch.int8, compressed=True))[0]["a"].shape == shape


def test_entries_are_as_documented():
    mask = torch.zeros(2, 1000, dtype=torch.bool)
    mask[0, [0, 2, 3, 300]] = mask[1, 999] = True
    weight = torch.zeros(2, 1000)
    weight[mask] = torch.tensor([127.0, -3.0, 1.25, 0.0, 254.0])
    packed = pack({"w": weight}, {"w": mask}, torch.int8, compressed=True)
    assert sorted(packed) == ["w::active", "w::int8"]
    gaps = zlib.decompress(packed["w::active"].numpy().tobytes())
    assert list(gaps) == [0, 1, 0, 255, 41] + [255] * 6 + [1999 - 300 - 1 - 6 * 255]
    values = zlib.decompress(packed["w::int8"].numpy().tobytes())
    assert struct.unpack("<B2q4B5b", values) == (2, 2, 1000, 0x80, 0x00, 0x3F, 0x40, 127, -3, 1, 0, 127)
    halves = zlib.decompress(pack({"w": weight}, {}, torch.float16, compressed=True)["w::float16"].numpy().tobytes())
    planes = np.frombuffer(halves[17:], np.uint8).reshape(2, 2000)
    np.testing.assert_array_equal(planes.T.copy().view(np.float16).reshape(2, 1000), weight.numpy())


def test_memory_layout_does_not_matter(sparse):
    tensors, masks = ({name: t for name, t in part.items() if t.ndim == 4} for part in sparse)
    strided = [{n: t.to(memory_format=torch.channels_last) for n, t in part.items()} for part in (tensors, masks)]
    assert the_same(pack(*strided, torch.int8, compressed=True), pack(tensors, masks, torch.int8, compressed=True))


# ---------------------------------------------------------------------------------------------------------------------
# What is refused.


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["usual", "dense", "bias"])
def test_values_that_are_not_finite_are_not_packed(name, dtype, sparse):
    tensors, masks = sparse
    where = masks[name].nonzero()[0] if name in masks else torch.zeros(tensors[name].ndim, dtype=torch.int64)
    tensors[name][tuple(where)] = float("nan")
    with pytest.raises(SparseError, match=f"^{name}: values .*not finite"):
        pack(tensors, masks, dtype, compressed=True)


def test_values_that_are_pruned_may_be_anything(sparse):
    tensors, masks = sparse
    before = pack(tensors, masks, torch.int8, compressed=True)
    tensors["usual"][~masks["usual"]] = float("nan")
    assert the_same(pack(tensors, masks, torch.int8, compressed=True), before)


def test_values_beyond_the_range_of_a_type(sparse):
    tensors, masks = sparse
    tensors["dense"][0, 0] = 1e6
    with pytest.raises(SparseError, match="dense: values beyond the range of float16"):
        pack(tensors, masks, torch.float16, compressed=True)
    pack(tensors, masks, torch.bfloat16, compressed=True)


@pytest.mark.parametrize(("dtype", "compressed"), [(torch.int8, False), (torch.int64, True)])
def test_types_that_do_not_go(dtype, compressed, sparse):
    with pytest.raises(SparseError, match=r"torch\.int"):
        pack(*sparse, dtype, compressed)


def refused(packed, match=".", shapes=None):
    """That `unpack` says in one line what is wrong, in little time and memory."""
    began = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(SparseError, match=match) as refusal:
            unpack(packed, shapes)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began < 10
    assert "\n" not in str(refusal.value)


def deflated(content):
    """Deflate at its best, as whoever means harm would have it."""
    return torch.from_numpy(np.frombuffer(zlib.compress(content, 9), np.uint8).copy())


def scales(bits):
    """Four bfloat16, the low bytes first."""
    return bytes([bits % 256] * 4 + [bits // 256] * 4)


ONES = scales(0x3F80)


def values(shape, content=b""):
    return deflated(struct.pack(f"<B{len(shape)}q", len(shape), *shape) + content)


@pytest.mark.parametrize("key", ["usual::active", "usual::int8", "most::pruned", "dense::int8"])
def test_damaged_blobs(key, sparse):
    packed = pack(*sparse, torch.int8, compressed=True)
    blob = packed[key]
    damaged = f"packed tensor {key.partition('::')[0]}: damaged"
    for length in (0, 1, 2, 10, len(blob) // 2, len(blob) - 4, len(blob) - 1):
        refused(packed | {key: blob[:length]}, damaged)
    end = len(blob) - 5  # the last bits before the checksum are not used
    for position in (*range(8), *np.random.default_rng(0).integers(end, size=30), end + 1, end + 4):
        flipped = blob.clone()
        flipped[position] ^= 1 << position % 8
        refused(packed | {key: flipped}, damaged)
    refused(packed | {key: torch.cat([blob, blob])}, "does not end")
    refused(packed | {key: blob[None]}, "not one dimension")
    refused(packed | {key: blob.int()}, "not one dimension")


def test_entries_that_do_not_fit_each_other(sparse):
    packed = pack(*sparse, torch.int8, compressed=True)
    refused(packed | {"usual::int8": packed["half::int8"]}, "usual: damaged: the blob of its values does not end")
    refused(packed | {"usual::int8": packed["none::int8"]}, "usual: damaged: the blob of its values ends too early")
    refused(packed | {"usual::active": packed["most::pruned"]}, "usual: damaged: the blob of its values")
    refused(packed | {"usual::pruned": packed["usual::active"]}, "not those of one tensor")
    refused(packed | {"usual::float16": packed["usual::int8"]}, "not those of one tensor")
    refused({"usual::active": packed["usual::active"]}, "not those of one tensor")
    refused(packed | {"dense::mask": torch.zeros(1, dtype=torch.uint8)}, "not those of one tensor")


@pytest.mark.parametrize(
    "shape",
    [(2**20, 2**20), (2**31, 2**31), (2**62, 2**62), (0, 2**62), (-1, 5), (-5, -5), (2**62, 0), (1,) * 40, (2**40, 0)],
)
def test_shapes_that_no_file_can_hold(shape):
    refused({"w::int8": values(shape), "w::active": deflated(b"")})
    if 0 not in shape:
        refused({"w::float32": values(shape), "w::active": deflated(b"")})
        refused({"w::float32": values(shape)})


@pytest.mark.slow
def test_blobs_that_inflate_to_gigabytes():
    """A megabyte of them is a gigabyte; where their shape says so, too."""
    bomb = zlib.compressobj(9)
    blob = b"".join(bomb.compress(bytes(2**20)) for _ in range(1024)) + bomb.flush()
    gigabyte = torch.from_numpy(np.frombuffer(blob, np.uint8).copy())
    assert len(gigabyte) < 2**21
    small = values((4, 4), ONES)
    refused({"w::int8": small, "w::active": gigabyte}, "mask does not end")
    refused({"w::int8": gigabyte}, "damaged")
    refused({"w::int8": values((2**34,)), "w::pruned": gigabyte}, "compressed too far")
    refused({"w::float32": values((2**34,), bytes(2**24))}, "compressed too far")


def test_masks_and_values_that_are_forged():
    five = bytes([1] * 5)
    whole = {"w::int8": values((4, 4), ONES + five), "w::active": deflated(bytes([0, 0, 3, 2, 6]))}
    assert unpack(whole)[1]["w"].flatten().nonzero().flatten().tolist() == [0, 1, 5, 8, 15]
    refused(whole | {"w::active": deflated(bytes([0, 0, 3, 2, 7]))}, "longer than the 16 weights")
    refused(whole | {"w::active": deflated(bytes([255]))})
    refused(whole | {"w::active": deflated(bytes(9))}, "mask does not end")
    refused(whole | {"w::int8": values((4, 4), ONES + five + b"\1")}, "values does not end")
    for scale in (0x7F80, 0x7FC0, 0xBF80, 0x7F00):  # infinite, not a number, negative, 127 times too large
        refused(whole | {"w::int8": values((4, 4), scales(scale) + five)}, "scales")
    refused({"w::float16": values((1, 2), bytes([0, 0, 0x7C, 0]))}, "not finite")


def test_shapes_that_are_expected(sparse):
    tensors, masks = sparse
    packed = pack(tensors, masks, torch.int8, compressed=True)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert the_same(unpack(packed, shapes)[1], masks)
    refused(packed, r"packed tensor dense: its shape is \[13, 7\], not \[7, 13\]", shapes | {"dense": (7, 13)})
    del shapes["usual"]
    refused(packed, "packed tensor usual: no tensor of this name is expected", shapes)


def test_one_dimension_takes_16_bits_beside_8(sparse):
    """Masked or not, but no whole numbers, which stay as they are; nothing else changes its type."""
    bias = torch.tensor([1 / 3, -2.0, 0.0, 5e4])
    tensors = {
        "bias": bias,
        "masked": bias,
        "indices": torch.tensor([3, 2**40]),
        "one": torch.tensor(1 / 3),
        "dense": sparse[0]["dense"],
    }
    packed = pack(tensors, {"masked": bias != 0}, torch.int8, compressed=True)
    assert packed.keys() == {"bias::float16", "masked::float16", "masked::pruned", "indices", "one", "dense::int8"}
    unpacked, _ = unpack(packed)
    assert all(torch.equal(unpacked[name], tensors[name]) for name in ("indices", "one"))
    for name in "bias", "masked":
        assert unpacked[name].tolist() == pytest.approx(bias.tolist(), rel=2**-11)
    for dtype in torch.float16, torch.bfloat16, None:
        assert torch.equal(pack(tensors, {}, dtype, compressed=True)["bias"], bias)
    with pytest.raises(SparseError, match=r"^bias: values beyond the range of float16"):
        pack({"bias": bias * 2}, {}, torch.int8, compressed=True)


def test_8_bits_without_compression_are_refused_for_any_number_of_dimensions():
    for weight in torch.ones(3), torch.ones(3, 2):
        with pytest.raises(SparseError, match="asks for compressed=True"):
            pack({"weight": weight}, {"weight": weight > 0}, torch.int8)
