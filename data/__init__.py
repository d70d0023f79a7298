"""Images on their way in: preparation, the dataset over folders and LMDB, and the endless stream it is drawn from."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from data.errors import DataError

if TYPE_CHECKING:
    from data.dataset import SRDataset
    from data.loader import train_loader
    from data.stream import Draw, TrainStream

__all__ = ["DataError", "Draw", "SRDataset", "TrainStream", "train_loader"]

PLACES = {
    "SRDataset": "data.dataset",
    "train_loader": "data.loader",
    "Draw": "data.stream",
    "TrainStream": "data.stream",
}


def __getattr__(name: str) -> Any:
    """What is asked for, imported then: the commands of this package tell their options before torch is there."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)
