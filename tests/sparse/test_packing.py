"""Packing: bit for bit, small, and nothing inconsistent is let through."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sparse import SparseError, pack, unpack


@pytest.fixture
def sparse():
    """A convolution and a linear weight at 15 % density, and a bias and a counter that are not masked."""
    torch.manual_seed(0)
    masks = {name: torch.rand(shape) < 0.15 for name, shape in {"conv": (64, 32, 3, 3), "fc": (13, 7)}.items()}
    tensors = {name: torch.randn(mask.shape) * mask for name, mask in masks.items()}
    return {**tensors, "bias": torch.randn(64), "steps": torch.tensor(5)}, masks


def test_round_trip_is_bit_exact(sparse):
    tensors, masks = sparse
    tensors["conv"][masks["conv"]] *= torch.logspace(-40, 30, int(masks["conv"].sum()))  # subnormal to huge
    tensors["fc"][tuple(masks["fc"].nonzero()[0])] = 0.0  # a new weight: active, and 0
    unpacked, found = unpack(pack(tensors, masks))
    assert unpacked.keys() == tensors.keys() and found.keys() == masks.keys()
    for name, mask in masks.items():
        assert torch.equal(found[name], mask)
        assert torch.equal(unpacked[name][mask].view(torch.int32), tensors[name][mask].view(torch.int32))
        assert (unpacked[name][~mask] == 0).all()
    assert torch.equal(unpacked["bias"], tensors["bias"]) and torch.equal(unpacked["steps"], tensors["steps"])


def test_entries_are_as_documented(sparse):
    tensors, masks = sparse
    packed = pack(tensors, masks)
    assert sorted(packed) == sorted(
        [f"{name}::{part}" for name in masks for part in ("mask", "values", "shape")] + ["bias", "steps"]
    )
    np.testing.assert_array_equal(packed["fc::mask"].numpy(), np.packbits(masks["fc"].numpy()))
    np.testing.assert_array_equal(packed["fc::values"].numpy(), tensors["fc"].numpy()[masks["fc"].numpy()])
    assert packed["fc::shape"].tolist() == [13, 7]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_precision_values(dtype, tolerance, sparse):
    tensors, masks = sparse
    packed = pack(tensors, masks, values_dtype=dtype)
    assert packed["conv::values"].dtype == dtype and packed["bias"].dtype == torch.float32
    unpacked, _ = unpack(packed)
    assert unpacked["conv"].dtype == torch.float32
    assert ((unpacked["conv"] - tensors["conv"]).abs() <= tolerance * tensors["conv"].abs() + 1e-7).all()


def test_file_is_at_most_a_fifth_of_dense(sparse, tmp_path):
    tensors, masks = sparse
    save_file(pack({"conv": tensors["conv"]}, {"conv": masks["conv"]}), tmp_path / "packed.safetensors")
    assert (tmp_path / "packed.safetensors").stat().st_size <= 0.2 * 4 * tensors["conv"].numel()
    unpacked, _ = unpack(load_file(tmp_path / "packed.safetensors"))
    assert torch.equal(unpacked["conv"], tensors["conv"])


def test_memory_layout_does_not_matter(sparse):
    tensors, masks = sparse
    other = pack({"conv": tensors["conv"].to(memory_format=torch.channels_last)}, {"conv": masks["conv"]})
    assert torch.equal(other["conv::values"], pack(tensors, masks)["conv::values"])
    strided = masks["conv"].to(memory_format=torch.channels_last)
    assert torch.equal(pack(tensors, {"conv": strided})["conv::mask"], other["conv::mask"])


def test_empty_and_full_masks():
    tensors = {"a": torch.zeros(3, 3), "b": torch.ones(2, 8)}
    masks = {"a": torch.zeros(3, 3, dtype=torch.bool), "b": torch.ones(2, 8, dtype=torch.bool)}
    unpacked, found = unpack(pack(tensors, masks))
    assert all(torch.equal(unpacked[name], tensors[name]) and torch.equal(found[name], masks[name]) for name in tensors)


def test_masks_that_do_not_fit_are_refused(sparse):
    tensors, masks = sparse
    with pytest.raises(SparseError, match="no tensors, of these names: tail"):
        pack(tensors, {**masks, "tail": masks["fc"]})
    with pytest.raises(SparseError, match=r"mask of fc is torch.bool \(64, 32, 3, 3\)"):
        pack(tensors, {"fc": masks["conv"]})
    with pytest.raises(SparseError, match=r"mask of fc is torch\.float32"):
        pack(tensors, {"fc": masks["fc"].float()})


def flip_padding(mask):
    mask = mask.clone()
    mask[-1] |= 1  # 13 · 7 = 91 bits: the last 5 of 96 are padding
    return mask


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("fc::mask", None, "mask is missing beside values, shape"),
        ("fc::values", None, "fc: values is missing"),
        ("fc::shape", None, "fc: shape is missing"),
        ("fc::mask", lambda mask: mask[:-1], r"a mask of 11 bytes does not fit the shape \[13, 7\]"),
        ("fc::mask", lambda mask: mask.to(torch.int32), "not torch.uint8"),
        ("fc::mask", flip_padding, "bits that are set in its mask"),
        ("fc::values", lambda values: values[:-1], "values for .* bits that are set in its mask"),
        ("fc::values", lambda values: values.to(torch.int64), "a floating type"),
        ("fc::shape", lambda shape: shape + 1, "does not fit the shape"),
        ("fc::shape", lambda shape: -shape, "does not fit the shape"),
        ("fc::shape", lambda shape: shape.float(), "and torch.int64"),
    ],
)
def test_inconsistent_entries_are_refused(key, change, message, sparse):
    packed = pack(*sparse)
    entry = packed.pop(key)
    if change:
        packed[key] = change(entry)
    with pytest.raises(SparseError, match=message) as refusal:
        unpack(packed)
    assert "fc" in str(refusal.value) and "\n" not in str(refusal.value)
