"""From LR images to SR images: the one way that everything here samples.

`super_resolution.py`  the `sample` section of a config, carried out
`trained_sizes.py`     at which size a result is made
`tiling.py`, `memory.py`, `chain_progress.py`  large images, short memory, long chains
"""
