"""A copy of a network for inference alone: its weights never change, so what follows from them is computed once."""

import copy
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from model.blocks import EqualConv2d

Module = TypeVar("Module", bound=nn.Module)


def inference_copy(network: Module, dtype: torch.dtype = torch.float32) -> Module:
    """A copy in eval mode whose convolutions are in dtype, so that autocast has nothing to convert, and whose modules
    keep what `kept_for_inference` methods return."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        module.kept = {}  # type: ignore[assignment]  # no part of the module's state
        if isinstance(module, nn.Conv2d) and not isinstance(module, EqualConv2d):  # whose weight is made at each call
            module.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def is_inference_copy(module: nn.Module) -> bool:
    """Whether a module is one of an inference copy."""
    return hasattr(module, "kept")


def kept_for_inference(method: Callable[..., Any]) -> Callable[..., Any]:
    """What the method returns for given arguments is computed once if the module is one of an inference copy, and every
    time if not."""

    @functools.wraps(method)
    def wrapper(self: nn.Module, *args: Any) -> Any:
        kept = getattr(self, "kept", None)
        if kept is None:
            return method(self, *args)
        key = (method.__name__, *args)
        if key not in kept:
            kept[key] = method(self, *args)
        return kept[key]

    return wrapper
