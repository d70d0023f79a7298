"""How good images look to networks that were trained on photographs: LPIPS of an image, FID and KID of a set.

They are optional, and are measured with the packages of requirements-metrics.txt, where the weights of these networks
are on this machine: nothing is downloaded.
"""

import functools
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from core.checkpoint.tensor_files import read_pth, read_safetensors
from core.errors import UserError
from data.errors import reason
from data.paths import is_file, refuse_unseen
from data.tensors import from_levels

# The names under which torchvision and torch-fidelity keep what they download, in `torch.hub.get_dir()`/checkpoints.
ALEXNET = "alexnet-owt-7be5be79.pth"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"

LPIPS_SMALLEST = 31  # pixels: of a smaller side AlexNet's second pooling leaves nothing
KID_SUBSET = 1000  # images of a subset, and as many subsets as are usual, of larger sets
KID_SUBSETS = 100
REQUIREMENTS = "requirements-metrics.txt"


class Lpips:
    """Learned perceptual distance (Zhang et al. 2018, AlexNet, version 0.1): 0 for equal images, smaller is better.

    Not a number for an image with a side below 31 pixels.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.device = device

    def __call__(self, image: np.ndarray, reference: np.ndarray) -> float:
        if min(image.shape[:2]) < LPIPS_SMALLEST:
            return float("nan")
        pair = (from_levels(to_batch(array, self.device)) for array in (image, reference))
        with exact():
            return self.network(*pair).item()


class Inception:
    """The features of an image that FID and KID compare: (2048,), of Inception v3 as torch-fidelity computes it."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.device = device

    def __call__(self, image: np.ndarray) -> np.ndarray:
        with exact():
            return self.network(to_batch(image, self.device))[0].cpu().numpy()


class PerceptualMetrics(NamedTuple):
    """What can be measured here."""

    lpips: Lpips | None
    inception: Inception | None
    missing: dict[str, str]  # {the name of a metric in reports: why it is not measured}


class Unavailable(Exception):
    """Why a metric is not measured."""


@functools.cache
def load_perceptual_metrics(
    device: torch.device,
    lpips_weights: str | None = None,  # AlexNet's: see `alexnet_weights`
    inception_weights: str | None = None,  # those that torch-fidelity downloads, a .pth file
) -> PerceptualMetrics:
    """The metrics whose packages and weights are here; weights that are not named are looked for in torch.hub's cache.

    Raises UserError where a file is named and its metric cannot be measured all the same.
    """
    loaded: list[Any] = []
    missing: dict[str, str] = {}
    for load, named, metrics in (
        (load_lpips, lpips_weights, ("lpips",)),
        (load_inception, inception_weights, ("fid", "kid")),
    ):
        try:
            loaded.append(load(device, named))
        except (Unavailable, UserError) as why:
            if named:
                raise UserError(str(why) if isinstance(why, UserError) else f"{named}: cannot be used: {why}") from None
            loaded.append(None)
            missing |= dict.fromkeys(metrics, str(why))
    lpips, inception = loaded
    return PerceptualMetrics(lpips, inception, missing)


def load_lpips(device: torch.device, named: str | None) -> Lpips:
    file = weights_file(named, ALEXNET)
    package = import_package("lpips")
    with quiet_and_repeatable():
        network = package.LPIPS(net="alex", pnet_rand=True, verbose=False)  # the heads alone: they are in the package
    network.net.load_state_dict(alexnet_weights(file, network.net.state_dict()))
    return Lpips(network, device)


def alexnet_weights(file: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The convolutions of AlexNet under the names that the package lpips has for them, such as `slice2.3.weight`.

    `file` is what torchvision saves, with `features.3.weight`, or what lpips does, with `net.slice2.3.weight`; as .pth
    or as .safetensors. Raises UserError where it is neither.
    """
    tensors = read_safetensors(file)[0] if file.suffix == ".safetensors" else read_pth(file)
    found = {}
    for name, tensor in tensors.items() if isinstance(tensors, dict) else ():
        if layer := re.fullmatch(r"(?:features|net\.slice\d)\.(\d+\.(?:weight|bias))", str(name)):
            found[layer[1]] = tensor
    weights = {}
    for name, like in expected.items():
        _, _, place = name.partition(".")
        tensor = found.get(place)
        if not isinstance(tensor, Tensor) or tensor.shape != like.shape:
            wanted = f"features.{place} of shape {tuple(like.shape)}"
            raise UserError(f"{file}: not the weights of torchvision's AlexNet, which have {wanted}")
        weights[name] = tensor
    return weights


def load_inception(device: torch.device, named: str | None) -> Inception:
    file = weights_file(named, INCEPTION)
    package = import_package("torchmetrics.image.fid")
    import_package("torch_fidelity")
    read_pth(file)  # refuses what holds more than tensors: torch-fidelity would run it
    try:
        with quiet_and_repeatable():
            network = package.FrechetInceptionDistance(feature_extractor_weights_path=str(file)).inception
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not the weights of torch-fidelity's Inception v3 ({reason(error)})") from None
    return Inception(network, device)


def distances(features: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> dict[str, float]:
    """{"fid", "kid"} between what `Inception` makes of two sets of images: 0 where they are alike.

    FID: the Fréchet distance of two Gaussians (Heusel et al. 2017). It is biased upwards for small sets: compare
    only sets of one size. KID: the squared maximum mean discrepancy, cubic kernel (Bińkowski et al. 2018), times 1000,
    without bias, so that it may be below 0. Not a number for less than two images.
    """
    if min(len(features), len(reference)) < 2:
        return dict.fromkeys(("fid", "kid"), float("nan"))
    frechet, kernel = (import_package(f"torchmetrics.image.{name}") for name in ("fid", "kid"))
    sets = [torch.from_numpy(np.stack(images)).double() for images in (features, reference)]
    size = min(*map(len, sets), KID_SUBSET)
    subsets = 1 if max(map(len, sets)) == size else KID_SUBSETS
    given = GivenFeatures(sets[0].shape[1])
    with quiet_and_repeatable():
        fid = frechet.FrechetInceptionDistance(given, sync_on_compute=False)
        kid = kernel.KernelInceptionDistance(given, subsets, size, sync_on_compute=False)
        for metric in (fid, kid):
            for images, real in zip(sets, (False, True), strict=True):
                metric.update(images, real=real)
        return {"fid": float(fid.compute()), "kid": 1000 * float(kid.compute()[0])}


class GivenFeatures(nn.Module):
    """In place of Inception for torchmetrics, where features (N, num_features) are given and no images."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


# ---------------------------------------------------------------------------------------------------------------------


def weights_file(named: str | None, name: str) -> Path:
    """The file that the user names, or else that of torch.hub's cache. Raises UserError, or Unavailable."""
    file = Path(named) if named else Path(torch.hub.get_dir()) / "checkpoints" / name
    if is_file(file):
        return file
    if named:
        refuse_unseen(named)
        raise UserError(f"{named}: no such file of weights")
    raise Unavailable(f"needs the packages of {REQUIREMENTS} and the weights {file} (docs/measuring.md)")


def import_package(name: str) -> Any:
    """An optional package, or Unavailable, which says what to install."""
    package, _, _ = name.partition(".")
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package, _, _ = (error.name or package).partition(".")  # it may be one that this package needs
        raise Unavailable(f"needs the package {package}: pip install -r {REQUIREMENTS}") from None
    except Exception as error:  # a torchvision that does not fit torch raises whatever it stumbles over
        cause = reason(error).rstrip(".")
        problem = f"{package} does not work beside torch {torch.__version__} ({cause}); see {REQUIREMENTS}"
        raise Unavailable(f"the package {problem}") from None


def to_batch(image: np.ndarray, device: torch.device) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W) on the device, uint8."""
    return torch.tensor(image, device=device).permute(2, 0, 1)[None]


@contextmanager
def exact() -> Iterator[None]:
    """Convolutions in float32, not in TF32, and no gradients."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@contextmanager
def quiet_and_repeatable() -> Iterator[None]:
    """Inside, warnings of packages about themselves are not shown, and random numbers are always the same, and none
    of a training."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield
