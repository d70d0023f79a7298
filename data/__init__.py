"""Images on their way in: preparation, the dataset over folders and LMDB, and the endless stream it is drawn from."""

from data.dataset import SRDataset
from data.errors import DataError
from data.loader import train_loader
from data.stream import Draw, TrainStream

__all__ = ["DataError", "Draw", "SRDataset", "TrainStream", "train_loader"]
