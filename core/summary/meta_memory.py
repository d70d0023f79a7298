"""How much memory tensors take, found out on the meta device, where only shapes are computed, in seconds."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Inside, `peak` is the most bytes that tensors made inside have had at once, each storage counted as long as
    anything holds it: an operation's result, or what the backward pass will need."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {storage_of(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and storage_of(value) not in given | self.known:
                self.add(value)
        return result

    def add(self, tensor: Tensor) -> None:
        key, storage = storage_of(tensor), tensor.untyped_storage()
        self.known.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.remove, key, storage.nbytes())

    def remove(self, key: int, n_bytes: int) -> None:
        self.known.discard(key)
        self.live -= n_bytes


def storage_of(tensor: Tensor) -> int:
    """What tells a storage from others that live beside it."""
    return tensor.untyped_storage()._cdata


def peak_bytes(function: Callable[[], Any]) -> int:
    """The most bytes that the tensors had that a function made, beside those it was given."""
    with LiveMemory() as memory:
        function()
    return memory.peak
