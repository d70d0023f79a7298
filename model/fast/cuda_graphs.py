"""A network for sampling whose kernels are launched as CUDA graphs: at batch 1 launching them one by one takes several
times as long as they do."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from model.conditioning import Condition
from model.fast.inference_copy import inference_copy
from model.network import Network
from model.unet import EncoderState

MOST_CHAINS = 4  # combinations of batch and size whose graphs are kept
_GRAPHED: WeakKeyDictionary[nn.Module, dict[tuple, GraphedNetwork]] = WeakKeyDictionary()  # network -> {arithmetic: it}

Fingerprint = tuple[tuple[list[int], list[int]], Tensor | None]


@contextmanager
def graphed(network: Network) -> Iterator[Network | GraphedNetwork]:
    """The network's GraphedNetwork for what follows, with its present weights; the network itself where that is not
    possible (no GPU) or already in use, as in a callback that samples."""
    parameter = next(network.parameters())
    if parameter.device.type != "cuda":
        yield network
        return
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else parameter.dtype
    arithmetic = dtype, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    graphs = _GRAPHED.setdefault(network, {}).get(arithmetic)
    if graphs and graphs.busy:
        yield network
        return
    with torch.cuda.device(parameter.device):
        weights = fingerprint(network)
        if not graphs or not same(graphs.fingerprint, weights):
            _GRAPHED[network].pop(arithmetic, None)  # its memory first
            graphs = _GRAPHED[network][arithmetic] = GraphedNetwork(network, dtype, weights)
        graphs.busy = True
        try:
            yield graphs
        finally:
            graphs.busy = False


def release(network: nn.Module) -> None:
    """Gives back the memory of the network's graphs, as before its weights change."""
    if _GRAPHED.pop(network, None):
        torch.cuda.empty_cache()


def fingerprint(network: nn.Module) -> Fingerprint:
    """What changes when weights do: how often each tensor was changed in place, where it lies, and, as changes through
    `.data` are not counted, the norms.

    Norms take longer than all the rest of a one-call sampling. A network whose parameters ask for no gradient is not
    trained, and goes without.
    """
    parameters = parameters_of(network)
    counts = [*map(attrgetter("_version"), parameters)], [*map(Tensor.data_ptr, parameters)]
    is_trained = any(map(attrgetter("requires_grad"), parameters))
    return counts, torch.stack(torch._foreach_norm(parameters)) if is_trained else None


def parameters_of(network: nn.Module) -> list[Tensor]:
    """All parameters, those that modules share each time that they come: without `parameters()`, which takes the host
    longer than all launches of a one-call sampling."""
    modules: list[nn.Module | None] = [network]
    parameters: list[nn.Parameter | None] = []
    while modules:
        module = modules.pop()
        if module is not None:
            modules += module._modules.values()
            parameters += module._parameters.values()
    return [parameter for parameter in parameters if parameter is not None]


def same(a: Fingerprint, b: Fingerprint) -> bool:
    if a[0] != b[0] or a[1] is None or b[1] is None:
        return a[0] == b[0] and a[1] is b[1]
    return torch.equal(a[1], b[1])


class GraphedNetwork:
    """`condition`, `encode` and `decode` of a network, each captured once for each combination of shapes.

    What they return is overwritten by the next call of the same shapes.
    """

    def __init__(self, network: Network, dtype: torch.dtype, fingerprint: Fingerprint) -> None:
        self.network = inference_copy(network, dtype)
        self.fingerprint = fingerprint
        self.chains: OrderedDict[tuple[int, ...], Chain] = (
            OrderedDict()
        )  # (*shape of LR images, *size), the latest last
        self.busy = False

    def condition(self, lr_image: Tensor, size: Sequence[int], scale: float | Tensor = 1.0) -> Condition:
        scale = scale if isinstance(scale, Tensor) else lr_image.new_full((len(lr_image),), scale)
        self.chain = self.chain_of((*lr_image.shape, *size))
        return self.chain.run(lambda lr, p: self.network.condition(lr, size, p), lr_image, scale, key="condition")

    def encode(self, x_t: Tensor, noise_level: Tensor, condition: Condition) -> EncoderState:
        return self.chain.run(self.network.encode, x_t, noise_level, condition, key="encode")

    def decode(self, state: EncoderState, noise_level: Tensor, condition: Condition) -> Tensor:
        return self.chain.run(self.network.decode, state, noise_level, condition, key=len(noise_level))

    def chain_of(self, key: tuple[int, ...]) -> Chain:
        """The chain of these shapes; a new one takes the place of the oldest if there are many or memory is short."""
        if key not in self.chains:
            free, total = torch.cuda.mem_get_info()
            while len(self.chains) >= MOST_CHAINS or (self.chains and free < total / 2):
                self.chains.popitem(last=False)
                torch.cuda.empty_cache()
                free, total = torch.cuda.mem_get_info()
            self.chains[key] = Chain()
        self.chains.move_to_end(key)
        return self.chains[key]


class Chain:
    """The graphs of one chain. They share their memory, but for what they return."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.captured: dict[str | int, tuple[torch.cuda.CUDAGraph, tuple[Any, ...], Any]] = {}
        self.returned: list[Any] = []  # what the graphs write, in the same place at every replay

    def run(self, function: Callable[..., Any], *arguments: Any, key: str | int) -> Any:
        """function(*arguments) by the graph of this key, which tells all shapes that may differ within the chain."""
        if key not in self.captured:
            self.captured[key] = self.capture(function, arguments)
        graph, inputs, output = self.captured[key]
        for to, given in zip(inputs, arguments, strict=True):
            if to is not given:
                torch._foreach_copy_(flatten(to), flatten(given))
        graph.replay()
        return output

    def capture(
        self, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> tuple[torch.cuda.CUDAGraph, tuple, Any]:
        """(graph, what it reads, what it returns)."""
        arguments = tuple(map(self.kept, arguments))
        stream = warm_up_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose and compile their kernels outside the capture
            function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            output = function(*arguments)
        self.returned.append(output)
        return graph, arguments, output

    def kept(self, argument: Any) -> Any:
        """The argument itself where a graph has returned it, to be read where it lies; a copy of any other."""
        if any(argument is output for output in self.returned):
            return argument
        return rebuild(argument, (tensor.clone() for tensor in flatten(argument)))


@functools.cache
def warm_up_stream(device: int) -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps 32 MiB of memory for each stream that it has seen."""
    return torch.cuda.Stream(device)


def flatten(value: Any) -> list[Tensor]:
    """The tensors in nested tuples and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else [getattr(value, field.name) for field in fields(value)]
    return [tensor for part in parts for tensor in flatten(part)]


def rebuild(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same nest with the next tensors of an iterator in place of its own."""
    if isinstance(value, Tensor):
        return next(tensors)
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
        return replace(value, **{name: rebuild(getattr(value, name), tensors) for name in names})  # type: ignore[type-var]
    return tuple(rebuild(part, tensors) for part in value)
