"""What the Triton kernels share: whether they can run here, and small helpers for the functions that launch them."""

import inspect

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # builds of torch for the CPU come without it
    triton = tl = None

HAS_KERNELS = triton is not None
KERNEL_DEVICE = "cpu" if HAS_KERNELS and triton.knobs.runtime.interpret else "cuda"  # the interpreter runs on the CPU
# Arguments that differ with the size of an image, the number of images or the place in a chain.
VARYING = {"ROWS", "rows", "chunks", "shift_row", "pixels", "width", "source_pixels", "source_width"}
VARYING |= {"images", "x_images", "plus_images", "second_images", "third_images"}
VARYING |= {"first", "count", "step_stride", "image_stride", "channel_stride", "pixel_stride"}
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def jit(kernel):
    """Compiled for the channels (tl.constexpr), but not anew for every image size or batch."""
    if not HAS_KERNELS:
        return kernel
    varying = [name for name in inspect.signature(kernel).parameters if name in VARYING]
    return triton.jit(kernel, do_not_specialize=varying)


def constant(value):
    """A global that kernels may read."""
    return tl.constexpr(value) if HAS_KERNELS else value


def tracked(*tensors):
    """Whether autograd will ask for a gradient."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def repeated(x, images):
    """(B, ...) -> (images, ...), image n mod B at n."""
    return x if len(x) == images else torch.cat([x] * (images // len(x)))  # which stays channels-last


def ceil_div(a, b):
    return -(-a // b)
