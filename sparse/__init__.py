"""Sparse training of any nn.Module: a fixed budget of active weights that moves to where momentum asks for it."""

from sparse.errors import SparseError
from sparse.masker import Masker, UpdateReport
from sparse.packing import pack, unpack

__all__ = ["Masker", "SparseError", "UpdateReport", "pack", "unpack"]
