"""Sparse training of any nn.Module: a fixed budget of active weights that moves to where momentum asks for it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparse.errors import SparseError

if TYPE_CHECKING:
    from sparse.masker import Masker, UpdateReport
    from sparse.packing import pack, unpack

__all__ = ["Masker", "SparseError", "UpdateReport", "pack", "unpack"]

PLACES = {
    "Masker": "sparse.masker",
    "UpdateReport": "sparse.masker",
    "pack": "sparse.packing",
    "unpack": "sparse.packing",
}


def __getattr__(name: str) -> Any:
    """What is asked for, imported then: the commands of this package tell their options before torch is there."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)
