"""Pixels between Pillow images and tensors."""

import numpy as np
import torch
from PIL import Image


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB image -> float32 (3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    return from_levels(pixels)


def from_levels(levels: torch.Tensor) -> torch.Tensor:
    """uint8 levels of any shape -> float32 in [-1, 1]."""
    return levels.float() / 127.5 - 1


def to_levels(images: torch.Tensor) -> torch.Tensor:
    """In [-1, 1], of any shape -> uint8, clamped and rounded to the nearest level."""
    return images.detach().float().clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)


def to_uint8(tensor: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [-1, 1] -> uint8 (H, W, 3), clamped and rounded to the nearest level; levels stay as they are.

    It computes where the tensor is: from a GPU come levels, a quarter of the bytes.
    """
    if tensor.dtype != torch.uint8:
        tensor = to_levels(tensor)
    return tensor.permute(1, 2, 0).contiguous().cpu().numpy()


def to_image(tensor: torch.Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1], or uint8 levels -> RGB image; see `to_uint8`."""
    return Image.fromarray(to_uint8(tensor))
