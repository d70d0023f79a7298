"""What makes the network fast, behind one door; the files beside this folder do not need it to compute the same.

`network.py`             the switch: each module gets the class that computes the same faster, or its plain one back
`blocks.py`, `lr_encoder.py`, `unet.py`, `implicit_upsampler.py`   those classes: skips shared by the steps of a group,
                         larger launches
`inference_copy.py`      weights that do not change: what follows from them is computed once
`cuda_graphs.py`         all launches of a call as one, on a GPU
`group_norm*.py`, `pointwise.py`, `denoising_steps.py`   Triton kernels, and what computes the same where there are none

`model.build_network` makes a fast network unless it is told not to; `sample` enters by `for_sampling`, and tiles by
`inference_copy` and `affine_silu`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from model.fast import denoising_steps
from model.fast.cuda_graphs import GraphedNetwork, graphed, release
from model.fast.group_norm import affine_silu
from model.fast.inference_copy import inference_copy
from model.fast.network import FastNetwork, accelerate, make_plain
from model.network import Network
from model.sampling import steps
from model.sampling.steps import TakeSteps

__all__ = [
    "FastNetwork",
    "GraphedNetwork",
    "accelerate",
    "affine_silu",
    "for_sampling",
    "inference_copy",
    "make_plain",
    "release",
]


@contextmanager
def for_sampling(network: Network, graphs: bool = True) -> Iterator[tuple[Network | GraphedNetwork, TakeSteps]]:
    """What samples in the network's place, with its present weights, and what takes its denoising steps.

    Of a fast network on a GPU these are CUDA graphs, unless they are not wanted, and one kernel; of any other network
    the network itself and `model.sampling.steps.take_steps`.
    """
    if not isinstance(network, FastNetwork):
        yield network, steps.take_steps
    elif graphs:
        with graphed(network) as captured:
            yield captured, denoising_steps.take_steps
    else:
        yield network, denoising_steps.take_steps
