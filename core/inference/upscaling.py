"""Enlarging from Python: images in, larger images out."""

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from core.config import PRESETS
from core.device import pick_device
from core.errors import UserError
from core.inference.input_files import Size
from core.inference.network_choice import Networks, ReadyNetwork, load_once
from core.inference.result_sizes import Wanted
from core.sampling.super_resolution import Callback, super_resolve
from core.sampling.trained_sizes import TrainedSizes
from data.images import Picture, picture_of, read_picture, resize
from data.tensors import to_image, to_tensor
from model.tiling import OnBatch

if TYPE_CHECKING:
    from core.faces.enhancer import FaceEnhancer


def upscale(
    images: Iterable[Image.Image | str | Path],
    network: str | Path | None = "photos",  # a shipped network or a checkpoint; None: by each image's size, as infer.py
    scale: float | None = 4,  # how many times larger, 1 or more; None: the network's own
    preset: str | None = None,  # instant | mirrored | fast | balanced | quality | method; None: as the checkpoint says
    seed: int = 0,  # of each image's noise: the same seed makes the same image
    device: str = "auto",
    faces: bool = False,  # whether small faces in photographs are improved by the network for faces
) -> list[Image.Image]:
    """Images of Pillow, or files, super-resolved one after the other as infer.py does -> RGB images, or RGBA of those
    with transparency.

    A network is loaded once and kept for later calls. Raises UserError or ModelError for what is wrong with the
    arguments, DataError for an image that cannot be read or is larger than its result.
    """
    if isinstance(images, Image.Image | str | Path):
        images = [images]
    if scale is not None and not 1 <= scale < math.inf:
        raise UserError(f"scale is {scale!r}, but must be a number of 1 or more")
    if preset is not None and preset not in PRESETS:
        raise UserError(f"preset is {preset!r}, but must be one of {', '.join(PRESETS)}")
    where, flags = pick_device(device), {"seed": seed}
    networks = Networks(network, where, flags, preset, load=load_once)
    enhancer = None
    if faces:
        from core.faces.enhancer import FaceEnhancer  # imports scipy, which takes half a second

        enhancer = FaceEnhancer(None, where, flags, load=load_once, preset=preset)
    return [upscale_one(image, networks, Wanted(scale), enhancer) for image in images]


def upscale_one(
    image: Image.Image | str | Path, networks: Networks, wanted: Wanted, faces: "FaceEnhancer | None" = None
) -> Image.Image:
    """One image as `upscale` makes it, with a warning the first time that one lies outside the card of a network."""
    if isinstance(image, Image.Image):
        picture, name = picture_of(image), Path("the image")
    else:
        picture, name = read_picture(image), Path(image)
    for told in picture.notices:
        warnings.warn(f"{name}: {told}", stacklevel=3)
    ready = networks.of(picture.rgb.size)
    size = wanted.size_of(name, picture.rgb.size, ready.config)
    for notice in ready.notices(name, picture.rgb.size, size):
        warnings.warn(notice, stacklevel=3)
    return enlarged(picture, size, ready, faces=faces)


def enlarged(
    picture: Picture,
    size: Size,  # of the result
    ready: ReadyNetwork,
    callback: Callback | None = None,  # these two as of `super_resolve`
    on_batch: OnBatch | None = None,
    faces: "FaceEnhancer | None" = None,
) -> Image.Image:
    """A picture super-resolved: RGB, or RGBA where it has transparency."""
    (width, height), seeds, trained = size, [ready.sampling.settings.seed], TrainedSizes.of(ready.config)
    lr = to_tensor(picture.rgb)[None]
    sr = super_resolve(ready.network, lr, (height, width), ready.sampling, seeds, trained, callback, on_batch)
    image = to_image(sr[0])
    improve_faces(picture.rgb, image, ready, faces)
    return with_alpha(image, picture.alpha)


def improve_faces(
    photo: Image.Image,
    larger: Image.Image,
    ready: ReadyNetwork,
    faces: "FaceEnhancer | None",
    name: Path = Path(),  # of the result, inside the folder of results
) -> str:
    """Blends the faces of a photograph into its result -> what to say of them. A network that was trained on whole
    images has made one face of the whole image already."""
    if faces is None or not ready.config.trained_images.use_crop:
        return ""
    return f", {faces.improve(photo, larger, name)}"


def with_alpha(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """The image, under the transparency of its source."""
    if alpha:
        image.putalpha(resize(alpha, image.size))
    return image
