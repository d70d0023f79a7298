"""A network for sampling whose kernels are launched as CUDA graphs: at batch 1 launching them one by one takes several
times as long as they do."""

from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from model.frozen import freeze
from model.network import Network

MOST_CHAINS = 4  # combinations of batch and size whose graphs are kept
_COMPILED = WeakKeyDictionary()  # network -> {arithmetic: CompiledNetwork}


@contextmanager
def compiled_for_sampling(network, wanted=True):
    """The network's CompiledNetwork for what follows, with its present weights; the network itself where that is not
    wanted, not possible (no GPU, another class of network) or already in use, as in a callback that samples."""
    parameter = next(network.parameters(), None)
    if not wanted or not isinstance(network, Network) or parameter.device.type != "cuda":
        yield network
        return
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else parameter.dtype
    arithmetic = dtype, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    compiled = _COMPILED.setdefault(network, {}).get(arithmetic)
    if compiled and compiled.busy:
        yield network
        return
    with torch.cuda.device(parameter.device):
        weights = fingerprint(network)
        if not compiled or not same(compiled.fingerprint, weights):
            _COMPILED[network].pop(arithmetic, None)  # its memory first
            compiled = _COMPILED[network][arithmetic] = CompiledNetwork(network, dtype, weights)
        compiled.busy = True
        try:
            yield compiled
        finally:
            compiled.busy = False


def release(network):
    """Gives back the memory of the network's graphs, as before its weights change."""
    if _COMPILED.pop(network, None):
        torch.cuda.empty_cache()


def fingerprint(network):
    """What changes when weights do: how often each tensor was changed in place, where it lies, and, as changes through
    `.data` are not counted, the norms."""
    parameters = list(parameters_of(network))
    counts = [(parameter._version, parameter.data_ptr()) for parameter in parameters]
    return counts, torch.stack(torch._foreach_norm(parameters))


def parameters_of(network):
    """All parameters, those that modules share each time that they come: in a tenth of the time of `parameters()`."""
    modules = [network]
    while modules:
        module = modules.pop()
        modules += module._modules.values()
        yield from (parameter for parameter in module._parameters.values() if parameter is not None)


def same(a, b):
    return a[0] == b[0] and torch.equal(a[1], b[1])


class CompiledNetwork:
    """`condition`, `encode` and `decode` of a network, each captured once for each combination of shapes.

    What they return is overwritten by the next call of the same shapes.
    """

    def __init__(self, network, dtype, fingerprint=None):
        self.network = freeze(network, dtype)
        self.schedule, self.prediction = network.schedule, network.prediction
        self.fingerprint = fingerprint
        self.chains = OrderedDict()  # (shape of the LR images, size) -> Chain, the latest last
        self.busy = False

    def condition(self, lr_image, size, scale=1.0):
        scale = scale if isinstance(scale, Tensor) else lr_image.new_full((len(lr_image),), scale)
        self.chain = self.chain_of((*lr_image.shape, *size))
        return self.chain.run(lambda lr, p: self.network.condition(lr, size, p), lr_image, scale, key="condition")

    def encode(self, x_t, noise_level, condition):
        return self.chain.run(self.network.encode, x_t, noise_level, condition, key="encode")

    def decode(self, state, noise_level, condition):
        return self.chain.run(self.network.decode, state, noise_level, condition, key=len(noise_level))

    def chain_of(self, key):
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

    def __init__(self):
        self.pool = torch.cuda.graph_pool_handle()
        self.captured = {}
        self.returned = []  # what the graphs write, in the same place at every replay

    def run(self, function, *arguments, key):
        """function(*arguments) by the graph of this key, which tells all shapes that may differ within the chain."""
        if key not in self.captured:
            self.captured[key] = self.capture(function, arguments)
        graph, inputs, output = self.captured[key]
        for to, given in zip(inputs, arguments, strict=True):
            if to is not given:
                torch._foreach_copy_(flatten(to), flatten(given))
        graph.replay()
        return output

    def capture(self, function, arguments):
        """(graph, what it reads, what it returns)."""
        arguments = tuple(map(self.kept, arguments))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose and compile their kernels outside the capture
            function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            output = function(*arguments)
        self.returned.append(output)
        return graph, arguments, output

    def kept(self, argument):
        """The argument itself where a graph has returned it, to be read where it lies; a copy of any other."""
        if any(argument is output for output in self.returned):
            return argument
        return rebuild(argument, (tensor.clone() for tensor in flatten(argument)))


def flatten(value):
    """The tensors in nested tuples and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else [getattr(value, field.name) for field in fields(value)]
    return [tensor for part in parts for tensor in flatten(part)]


def rebuild(value, tensors):
    """The same nest with the next tensors of an iterator in place of its own."""
    if isinstance(value, Tensor):
        return next(tensors)
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
        return replace(value, **{name: rebuild(getattr(value, name), tensors) for name in names})
    return tuple(rebuild(part, tensors) for part in value)
