"""How good an image is, measured on what is saved: every image is 8-bit RGB, an array (H, W, 3) of uint8."""

import functools
import math

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from model.diffusion import resize

SSIM_WINDOW = 11  # pixels: a Gaussian of deviation 1.5, cut off at 3.5 deviations


def psnr(image, reference):
    """Peak signal-to-noise ratio in dB, over all pixels and channels; infinite for equal images."""
    if np.array_equal(image, reference):
        return math.inf
    return float(peak_signal_noise_ratio(reference, image, data_range=255))


def ssim(image, reference):
    """Structural similarity (Wang et al. 2004) in [-1, 1]: Gaussian window of 1.5, valid region, mean over channels.

    Not a number for an image smaller than the window, 11 pixels.
    """
    if min(image.shape[:2]) < SSIM_WINDOW:
        return math.nan
    return float(
        structural_similarity(
            reference,
            image,
            data_range=255,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def lr_consistency(image, lr):
    """Mean squared error between the image, brought back to the LR size, and the LR image (h, w, 3) that it came from.

    Down-sampling is bicubic with antialiasing and without rounding; values count from 0 to 1, so that an error of one
    grey level everywhere is (1/255)² = 1.5e-5.
    """
    image, lr = (torch.tensor(array).permute(2, 0, 1)[None].double() / 255 for array in (image, lr))
    return float((resize(image, lr.shape[-2:]) - lr).square().mean())


class Lpips:
    """Learned perceptual distance (Zhang et al. 2018, AlexNet): 0 for equal images, smaller is better."""

    def __init__(self, network, device):
        self.network = network.to(device).eval()
        self.device = device

    @torch.no_grad()
    def __call__(self, image, reference):
        tensors = (torch.tensor(array).permute(2, 0, 1)[None].float() / 127.5 - 1 for array in (image, reference))
        return self.network(*(tensor.to(self.device) for tensor in tensors)).item()


@functools.cache
def load_lpips(device, log):
    """The optional metric; None, and a line in the log, where the package `lpips` or its weights are not to be had."""
    try:
        import lpips

        return Lpips(lpips.LPIPS(net="alex", verbose=False), device)
    except Exception as error:  # no package, no torchvision, or no way to download the weights: all the same here
        cause = str(error).split("\n")[0]
        log.info(f"LPIPS is not measured ({cause}); `pip install lpips torchvision` adds it")
        return None
