"""Checkpoints on the disk.

`files.py`         a checkpoint: what its files hold, how they are found, written and read
`network_file.py`  the file of a network; `tensor_files.py`, the formats beneath it
`lost_files.py`    what is left where the file of a network is missing
`averaging.py`     the mean of several networks
"""

from core.checkpoint.files import load_network

__all__ = ["load_network"]
