"""Images that are too large to be computed at once: tile by tile, and as if at once.

`sampler.py`      the chain, whose state is whole, in the CPU's memory, while the network sees some tiles at a time
`plan.py`         which tiles
`network.py`      the network that sees them: each pixel is where it is in the whole image
`enlarged.py`     what an LR encoder that enlarges makes of the whole LR image
`statistics.py`   norms, whose mean and variance are those of the whole image
`resampling.py`   bicubic resampling of a part as of the whole

All else that a network without attention computes is local. A window that goes on beyond its tile has it right.
"""

from model.tiling.network import attends, has_norms
from model.tiling.sampler import OnBatch, sample_tiled

__all__ = ["OnBatch", "attends", "has_norms", "sample_tiled"]
