"""All gradients of a network in one buffer, the passes that fill it, and whether a step may be made of it."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from core.device import LateReading

Constants = tuple[float, ...]
Captured = tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]  # the graph, its inputs, where it writes the loss


class FlatGradients:
    """Gives every parameter a gradient that is a view into one buffer, laid out in memory as the parameter is.

    Clearing, adding over processes and clipping are then one operation each, and the addresses never change, as a
    CUDA graph needs it. The last number of the buffer is the loss, so that the sum over processes tells each of them
    the whole loss too. Nothing may set a gradient to None.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        parameters = list(parameters)
        self.buffer = torch.zeros(sum(p.numel() for p in parameters) + 1, device=parameters[0].device)
        self.values, self.loss = self.buffer[:-1], self.buffer[-1]
        self.norm = torch.zeros_like(self.loss)  # of all gradients, before they were last clipped
        offset = 0
        for parameter in parameters:
            parameter.grad = self.buffer.as_strided(parameter.shape, parameter.stride(), offset)
            offset += parameter.numel()

    def zero(self) -> None:
        self.buffer.zero_()

    def clip(self, max_norm: float | None) -> Tensor:
        """Scales all gradients so that their common norm is at most max_norm, where there is one, without telling the
        host -> 1 where that norm or the loss is not finite, else 0, on the device."""
        self.norm = norm = self.values.norm()
        if max_norm is not None:
            self.values *= (max_norm / (norm + 1e-6)).clamp(max=1)
        return (~(norm.isfinite() & self.loss.isfinite())).float()


class Skips:
    """Counts the steps that were skipped because their loss or gradient was not finite.

    The counts stay on the device, so that the host does not wait for it at each step.
    """

    def __init__(self, device: torch.device):
        self.in_a_row = torch.zeros((), device=device)  # steps skipped up to the last
        self.kept = torch.zeros((), device=device)  # steps not skipped since the last line of the log
        self.known = 0  # in_a_row as the host knows it: on a GPU, that of the step before
        self._reading = LateReading()

    def count(self, skip: Tensor) -> None:
        """Counts a step; skip: what `FlatGradients.clip` says of it."""
        self.in_a_row = (self.in_a_row + 1) * skip
        self.kept += 1 - skip
        self.known = int(self.in_a_row if skip.device.type == "cpu" else self._reading.exchange(self.in_a_row))


def step_unless(skip: Tensor, optimizer: Optimizer) -> None:
    """An optimiser step that changes nothing where skip is 1; fused kernels, as on a GPU, look for themselves, so that
    the host need not wait."""
    if optimizer.defaults["fused"]:
        optimizer.found_inf = skip  # type: ignore[attr-defined]
        optimizer.step()
    elif not skip:
        optimizer.step()


class ForwardBackward:
    """Computes objective(*tensors, *constants) and its backward pass.

    A call adds to the gradients and returns the loss, as a new tensor.

    On a GPU the launches of a step's several thousand kernels take longer than the kernels, so each combination of
    shapes and constants is captured once as a CUDA graph and replayed from then on. The graphs share their memory: what
    one leaves behind is the gradients and the loss, and both are outside it.
    """

    def __init__(
        self,
        objective: Callable[..., Tensor],
        gradients: FlatGradients,
        context: Callable[[], AbstractContextManager],  # makes the autocast context
        graphs: bool,
    ):
        self.objective = objective
        self.gradients = gradients
        self.context = context
        self.graphs: dict[tuple, Captured] | None = {} if graphs else None
        self.pool = torch.cuda.graph_pool_handle() if graphs else None

    def __call__(self, tensors: Sequence[Tensor], constants: Constants = (), weight: float = 1.0) -> Tensor:
        """The gradients of weight·loss are added."""
        if self.graphs is None:
            return self.run(tensors, constants, weight)
        key = (*(tensor.shape for tensor in tensors), *constants, weight)
        if key not in self.graphs:
            self.graphs[key] = self.capture(tensors, constants, weight)
        graph, inputs, loss = self.graphs[key]
        torch._foreach_copy_(inputs, list(tensors))
        graph.replay()
        return loss.clone()

    def run(self, tensors: Sequence[Tensor], constants: Constants, weight: float) -> Tensor:
        with self.context():
            loss = self.objective(*tensors, *constants)
        (weight * loss).backward()
        return loss.detach()

    def capture(self, tensors: Sequence[Tensor], constants: Constants, weight: float) -> Captured:
        before = self.gradients.buffer.clone()
        random_state = torch.cuda.get_rng_state()  # dropout is to draw in the first replay what it draws without graphs
        inputs = [tensor.clone() for tensor in tensors]
        loss = torch.zeros((), device=inputs[0].device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries choose their kernels and make their workspaces outside the capture
                self.run(inputs, constants, weight)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: NCCL's watchdog and the loader's pinning thread may ask the driver things meanwhile
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            loss.copy_(self.run(inputs, constants, weight))
        self.gradients.buffer.copy_(before)
        torch.cuda.set_rng_state(random_state)
        return graph, inputs, loss
