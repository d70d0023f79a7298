"""How good an image is, measured on what is saved: every image is 8-bit RGB, an array (H, W, 3) of uint8.

What needs networks that were trained on photographs, LPIPS, FID and KID, is in core/metrics/perceptual_metrics.py.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from model.resampling import resample

SSIM_WINDOW = 11  # pixels: a Gaussian of deviation 1.5, cut off at 3.5 deviations
LIBRARIES = ("numpy", "pillow", "scikit-image")  # whose versions a report tells
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
ROUNDING = 1 / 12 / 255**2  # variance of what rounding to 8 bits adds, for values from 0 to 1


def measure(
    image: np.ndarray,
    reference: np.ndarray,
    lr: np.ndarray | None = None,  # (h, w, 3), that the image was made of
    lpips: Callable[[np.ndarray, np.ndarray], float] | None = None,
    border: int = 0,  # pixels along each border that PSNR and SSIM leave out
) -> dict[str, float]:
    """All metrics of an image, by their names in reports.

    Without `lr` there is no `lr_mse`, and the spectral distance is that of all frequencies.
    """
    kept = slice(border, -border or None)
    inner, inner_reference = image[kept, kept], reference[kept, kept]
    measures = {
        "psnr": psnr(inner, inner_reference),
        "psnr_y": psnr(luma(inner), luma(inner_reference)),
        "ssim": ssim(inner, inner_reference),
        "ssim_y": ssim(luma(inner), luma(inner_reference)),
        "sharpness": sharpness(image, reference),
        "spectral_distance": spectral_distance(image, reference, 0.0 if lr is None else 0.5 * len(lr) / len(reference)),
    }
    if lr is not None:
        measures["lr_mse"] = lr_consistency(image, lr)
    if lpips:
        measures["lpips"] = lpips(image, reference)
    return measures


def mean_and_deviation(entries: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """The means of what all entries tell, and the standard deviations over the entries (not of the means).

    An entry that has no number there, as sharpness has none beside a flat reference, does not count; infinite ones do.
    """
    mean, deviation = {}, {}
    for name in entries[0]:
        values = np.array([entry[name] for entry in entries])
        values = values[~np.isnan(values)]
        mean[name] = float(values.mean()) if len(values) else math.nan
        deviation[name] = float(values.std()) if len(values) and np.isfinite(values).all() else math.nan
    return mean, deviation


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels; infinite for equal images.

    The peak is 255, also for planes (H, W) of `luma`, as is usual.
    """
    if np.array_equal(image, reference):
        return math.inf
    return float(peak_signal_noise_ratio(reference, image, data_range=255))


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) in [-1, 1]: Gaussian window of 1.5, valid region, mean over channels.

    Of planes (H, W) too. Not a number for an image smaller than the window, 11 pixels.
    """
    if min(image.shape[:2]) < SSIM_WINDOW:
        return math.nan
    return float(
        structural_similarity(
            reference,
            image,
            data_range=255,
            channel_axis=2 if image.ndim == 3 else None,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def lr_consistency(image: np.ndarray, lr: np.ndarray) -> float:
    """Mean squared error between the image, brought back to the LR size, and the LR image (h, w, 3) that it came from.

    Down-sampling is bicubic with antialiasing and without rounding; values count from 0 to 1, so that an error of one
    grey level everywhere is (1/255)² = 1.5e-5.
    """
    ours, theirs = (torch.tensor(array).permute(2, 0, 1)[None].double() / 255 for array in (image, lr))
    return float((resample(ours, theirs.shape[-2:]) - theirs).square().mean())


def sharpness(image: np.ndarray, reference: np.ndarray) -> float:
    """How sharp edges are: the mean gradient magnitude of the image's luminance over that of the reference's.

    1: as sharp as the reference; below 1: blurred; above: sharper, or noisier, as noise has gradients too. Central
    differences, one-sided at the borders. Not a number where the reference is of a single luminance.
    """
    if min(reference.shape[:2]) < 2:
        return math.nan
    of_image, of_reference = (np.hypot(*np.gradient(luminance(array))).mean() for array in (image, reference))
    return float(of_image / of_reference) if of_reference > 0 else math.nan


def spectral_distance(image: np.ndarray, reference: np.ndarray, above: float = 0.0) -> float:
    """Log-spectral distance in dB: the root mean square over f of 10·log10(P_image(f) / P_reference(f)).

    P(f) is the power spectrum of the luminance about its mean, averaged over the ring of each radial frequency f = k/n
    cycles per pixel, k = 1 .. n/2, n the shorter side. A Hann window keeps the step from a border to the opposite one
    from passing for detail. The power of rounding to 8 bits is added to both spectra: what is fainter does not count.

    The frequencies `above` count, each alike. Those above the Nyquist frequency of the LR image, 0.5 / magnification,
    are what super-resolution invents; `lr_consistency` tells of those below.

    0 for equal images. Like `sharpness` it does not ask where detail is; unlike there, noise cannot make up for blur.
    Not a number where no frequency is above.
    """
    n = min(reference.shape[:2])
    counted = np.arange(1, n // 2 + 1)
    counted = counted[counted > above * n]
    if not len(counted):
        return math.nan
    levels = (10 * np.log10(radial_power(luminance(array))[counted] + ROUNDING) for array in (image, reference))
    return float(np.sqrt(np.mean(np.square(np.subtract(*levels)))))


def luma(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) of uint8 -> Y of Y'CbCr (H, W), from 16 for black to 235 for white (ITU-R BT.601), not rounded: that on
    which papers on super-resolution measure PSNR and SSIM."""
    return 16 + 219 * luminance(image)


def luminance(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) of uint8 -> (H, W) in [0, 1]."""
    return image @ np.array(LUMA) / 255


def radial_power(plane: np.ndarray) -> np.ndarray:
    """The mean power of a plane (H, W) about its mean at the radial frequencies k / min(H, W), k = 0, 1, ...: its
    variance where that is spread evenly over all frequencies."""
    window, rings, sizes = spectral_tables(*plane.shape)
    power = np.abs(np.fft.fft2((plane - plane.mean()) * window)) ** 2 / np.square(window).sum()
    return np.bincount(rings.ravel(), power.ravel()) / sizes


@functools.lru_cache(maxsize=8)  # the images of a set are mostly of one size
def spectral_tables(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The Hann window (H, W), the ring k of each frequency of a Fourier transform (H, W), and the size of each ring."""
    rows, columns = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(side) / side) for side in (height, width))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) * min(height, width)
    rings = np.rint(radius).astype(np.intp)
    return np.outer(rows, columns), rings, np.bincount(rings.ravel())
