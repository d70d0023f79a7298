"""What the Triton kernels share: whether they can run here, and small helpers for the functions that launch them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # builds of torch for the CPU come without it
    triton = tl = None

HAS_KERNELS = triton is not None
KERNEL_DEVICE = "cpu" if HAS_KERNELS and triton.knobs.runtime.interpret else "cuda"  # the interpreter runs on the CPU
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def kernel(*varying: str) -> Callable[[Callable[..., Any]], Any]:
    """Makes a function a kernel, compiled for its `tl.constexpr`, but not anew for each value of the arguments named
    here: sizes of an image, numbers of images, places in a chain."""
    return lambda function: triton.jit(function, do_not_specialize=varying) if HAS_KERNELS else function


def in_kernels(function: Callable[..., Any]) -> Any:
    """Makes a function one that kernels may call."""
    return triton.jit(function) if HAS_KERNELS else function


def constant(value: int) -> Any:
    """A global that kernels may read."""
    return tl.constexpr(value) if HAS_KERNELS else value


def tracked(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for a gradient."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
