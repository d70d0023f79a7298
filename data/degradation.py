"""Worse low-resolution images, as lenses, sensors and files make them: the first-order degradation of Real-ESRGAN.

LR = JPEG(D((HR ⊛ k) resized + n))        k a kernel, n noise, D the last resize, to the size of LR

Wang et al. 2021, "Real-ESRGAN", section 3.1; names of the options as there. Images are 8-bit RGB between all steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from data.images import resize

Range = tuple[float, float]  # (lowest, highest)


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What may happen to an image on its way to LR: how often, and the ranges that are drawn from, evenly.

    With its defaults nothing happens, and LR is made by bicubic resizing alone.
    """

    blur_prob: float = 0.0
    kernel_prob: Sequence[float] = (0.65, 0.35)  # weights of isotropic and anisotropic Gaussian kernels
    blur_kernel_size: int = 21  # odd, pixels of HR
    blur_sigma: Range = (0.2, 3.0)  # pixels of HR
    resize_prob: Sequence[float] = (0.0, 0.0, 1.0)  # weights of up, down and keep
    resize_range: Range = (0.15, 1.5)  # factors of HR's size, the smallest (down) and the largest (up)
    resize_modes: Sequence[str] = ("bicubic",)  # each resize, the last one too, draws its own of these
    noise_prob: float = 0.0
    gaussian_noise_prob: float = 0.5  # of Gaussian noise; else it is Poisson noise
    noise_range: Range = (1.0, 30.0)  # standard deviation of Gaussian noise, in levels of 255
    poisson_scale_range: Range = (0.05, 3.0)  # of Poisson noise, see `poisson_noise`
    gray_noise_prob: float = 0.4  # of noise that is the same in all channels
    jpeg_prob: float = 0.0
    jpeg_range: tuple[int, int] = (30, 95)  # quality
    jpeg_last_prob: float = 1.0  # of JPEG after the last resize; else it is before it


def degrade(hr: Image.Image, size: tuple[int, int], how: Degradation, rng: np.random.Generator) -> Image.Image:
    """An HR image -> its LR image of `size` (width, height). The same generator state, the same image."""
    image = hr
    if rng.random() < how.blur_prob:
        image = blur(image, draw_kernel(how, rng))
    image = resize(image, draw_size(image.size, how, rng), draw_mode(how, rng))
    if rng.random() < how.noise_prob:
        image = add_noise(image, how, rng)
    mode = draw_mode(how, rng)
    if rng.random() < how.jpeg_last_prob:
        image = resize(image, size, mode)
    if rng.random() < how.jpeg_prob:
        low, high = how.jpeg_range
        image = jpeg(image, int(rng.integers(low, high + 1)))
    return resize(image, size, mode)


# ---------------------------------------------------------------------------------------------------------------------
# What is drawn.


def draw_kernel(how: Degradation, rng: np.random.Generator) -> np.ndarray:
    """A blur kernel, float32 (size, size)."""
    along, across = rng.uniform(*how.blur_sigma), rng.uniform(*how.blur_sigma)
    if weighted(how.kernel_prob, rng) == 0:
        across = along
    return gaussian_kernel(how.blur_kernel_size, along, across, rng.uniform(-np.pi, np.pi))


def draw_size(size: tuple[int, int], how: Degradation, rng: np.random.Generator) -> tuple[int, int]:
    """The (width, height) that the first resize gives."""
    low, high = how.resize_range
    way = weighted(how.resize_prob, rng)
    factor = rng.uniform(1, high) if way == 0 else rng.uniform(low, 1) if way == 1 else 1.0
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def draw_mode(how: Degradation, rng: np.random.Generator) -> str:
    return how.resize_modes[int(rng.integers(len(how.resize_modes)))]


def weighted(weights: Sequence[float], rng: np.random.Generator) -> int:
    """An index, in proportion to its weight."""
    ends = np.cumsum(weights)
    return int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))


def add_noise(image: Image.Image, how: Degradation, rng: np.random.Generator) -> Image.Image:
    gaussian, gray = rng.random() < how.gaussian_noise_prob, bool(rng.random() < how.gray_noise_prob)
    if gaussian:
        return gaussian_noise(image, rng.uniform(*how.noise_range), gray, rng)
    return poisson_noise(image, rng.uniform(*how.poisson_scale_range), gray, rng)


# ---------------------------------------------------------------------------------------------------------------------
# What happens to an image.


def gaussian_kernel(size: int, along: float, across: float, angle: float = 0.0) -> np.ndarray:
    """The Gaussian with these two standard deviations, in pixels, turned by an angle: float32 (size, size), sum 1."""
    steps = np.arange(size) - (size - 1) / 2
    y, x = np.meshgrid(steps, steps, indexing="ij")
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
    return (kernel / kernel.sum()).astype(np.float32)


def blur(image: Image.Image, kernel: np.ndarray) -> Image.Image:
    """Convolution with a kernel (size, size) of odd size; the image is reflected at its border."""
    from scipy import fft  # a third of a second, which nothing else here needs

    margin = len(kernel) // 2
    levels = np.asarray(image, np.float32).transpose(2, 0, 1)
    padded = np.pad(levels, ((0, 0), (margin, margin), (margin, margin)), "reflect")
    shape = [fft.next_fast_len(side, real=True) for side in padded.shape[1:]]
    blurred = fft.irfft2(fft.rfft2(padded, shape) * fft.rfft2(kernel, shape), shape)
    blurred = blurred[:, 2 * margin :, 2 * margin :][:, : image.height, : image.width]  # what wraps around is before it
    return to_image(blurred.transpose(1, 2, 0))


def gaussian_noise(image: Image.Image, sigma: float, gray: bool, rng: np.random.Generator) -> Image.Image:
    """White noise of standard deviation `sigma`, in levels of 255; `gray`: the same in all channels."""
    noise = rng.standard_normal((image.height, image.width, 1 if gray else 3), dtype=np.float32)
    return to_image(np.asarray(image, np.float32) + np.float32(sigma) * noise)


def poisson_noise(image: Image.Image, scale: float, gray: bool, rng: np.random.Generator) -> Image.Image:
    """The noise of counting photons, one a level, times `scale`: its variance at level v of 255 is scale² · v.

    gray: that of the grey image, the same in all channels.
    """
    levels = np.asarray(image.convert("L"))[:, :, None] if gray else np.asarray(image)
    noise = rng.poisson(levels) - levels.astype(np.float32)
    return to_image(np.asarray(image, np.float32) + scale * noise)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image as Pillow saves and reads it as JPEG, of quality 1 to 100 (colour at half the resolution)."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def to_image(levels: np.ndarray) -> Image.Image:
    """Levels of 255, (H, W, 3), clipped and rounded."""
    return Image.fromarray(np.rint(levels.clip(0, 255)).astype(np.uint8, order="C"))
