"""Inference: images in, larger images out.

`upscale` is for Python. `super_resolve_files` is what infer.py does: all that goes wrong with one file stays with it.
"""

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from core.chain_progress import TileProgress, progress_of_chain
from core.config import PRESETS, Config
from core.device import pick_device, synchronize
from core.errors import UserError, is_of_user
from core.file_progress import FileProgress
from core.input_files import Job, Size, check_writable
from core.memory import Fitting, OutOfMemory, what_to_do
from core.network_choice import Networks, ReadyNetwork, load_once
from core.output_files import Output
from core.report.pictures import labelled
from core.sampling import Callback, Sampling, super_resolve
from core.trained_sizes import TrainedSizes
from data import DataError
from data.images import Picture, picture_of, read_picture, read_rgb, resize, save_png
from data.tensors import to_image, to_tensor
from model import Network
from model.tiling import OnBatch

if TYPE_CHECKING:
    from core.faces.enhancer import FaceEnhancer

MOST_WAITING = 64  # images that have been read, for others of their size
Asked = tuple[int, ...]  # a Size, or (N,), N for the longer side


class Item(NamedTuple):
    """A result to make, of an image that has been read."""

    job: Job  # its target is the file of this result
    rgb: Image.Image
    alpha: Image.Image | None
    size: Size  # of the result
    exif: bytes = b""
    is_tagged: bool = False  # its file had a colour profile, so that of the result gets one


# ---------------------------------------------------------------------------------------------------------------------
# How large results are.


def target_size(size: Size, magnification: float, asked: Asked | None = None) -> Size:
    """The size of the result for an image of `size`: the one that is asked for, or else `magnification` times as
    large."""
    if asked and len(asked) == 2:
        return asked[0], asked[1]
    factor = asked[0] / max(size) if asked else magnification
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def usual_size(size: Size, config: Config) -> Size:
    """The size of the result where none is asked for.

    A network that was trained on whole images, such as faces, makes images as large as those: it knows what fills one.
    Trained on crops, it makes any image as many times larger as it learnt to.
    """
    images = config.trained_images
    asked = None if images.use_crop else (images.r_resolution,)
    return target_size(size, images.magnification, asked)


class Wanted(NamedTuple):
    """How large results are to be; without both, as `usual_size` says."""

    magnification: float | None = None
    size: Asked | None = None

    @property
    def is_asked(self) -> bool:
        return bool(self.magnification or self.size)

    def for_image(self, size: Size, config: Config) -> Size:
        """The size of the result for an image of `size`; it may be smaller than that (`is_smaller`)."""
        return target_size(size, self.magnification or 1, self.size) if self.is_asked else usual_size(size, config)

    def size_of(self, source: Path, size: Size, config: Config) -> Size:
        """The size of the result for an image. Raises DataError where it would be smaller than the image."""
        result = self.for_image(size, config)
        if is_smaller(result, size):
            reason = "asked for" if self.is_asked else "this network makes; --scale and --size ask for more"
            raise DataError(f"{source} has {show(size)} pixels, more than the {show(result)} {reason}")
        return result


def is_smaller(size: Size, than: Size) -> bool:
    """Whether width or height is."""
    return any(after < before for before, after in zip(than, size, strict=True))


def show(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


# ---------------------------------------------------------------------------------------------------------------------
# From Python.


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
    ready = networks.of(picture.rgb.size)
    size = wanted.size_of(name, picture.rgb.size, ready.config)
    if notice := ready.notice(name, picture.rgb.size, size):
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


# ---------------------------------------------------------------------------------------------------------------------
# The work on files.


def super_resolve_files(
    jobs: Iterable[Job],  # every image gets the same seed, so that a result does not depend on which others there are
    networks: Networks,
    output: Output,
    wanted: Wanted,
    batch_size: int,  # most images of one size to super-resolve at once
    progress: FileProgress,
    skip_existing: bool = False,
    faces: "FaceEnhancer | None" = None,  # of photographs
) -> int:
    """Does the jobs, with a line on stdout for each done and on stderr for each failed -> how many failed."""
    fitting: dict[tuple[str | Path, Size], Fitting] = {}
    left = (job for job in jobs if not (skip_existing and is_done(job, output, progress)))
    for batch in equal_sizes(read(left, networks, output, wanted, progress), batch_size):
        ready = networks.of(batch[0].rgb.size)
        done: set[Path] = set()
        for items in sized(batch, output):
            key = ready.name, items[0].size
            fits = fitting.setdefault(key, Fitting(batch_size, ready.sampling, progress.say))
            while items:
                items = super_resolve_some(ready, items, fits, output, progress, done, faces)
        for item in batch if output.scales else ():
            write_strip(item, output, done, progress)
    return progress.failed


def is_done(job: Job, output: Output, progress: FileProgress) -> bool:
    """Whether all that is to be written for a job is there already, which is counted."""
    there = all(file.is_file() for file in output.files(job.target))
    if there:
        progress.skip(len(output.scales or (None,)))
    return there


def sized(batch: Sequence[Item], output: Output) -> Iterator[Sequence[Item]]:
    """The items; of a sweep, those of each scale."""
    for scale in output.scales or (None,):
        if scale is None:
            yield batch
        else:
            size = target_size(batch[0].rgb.size, scale)
            targets = [output.result(item.job.target, scale) for item in batch]
            yield [
                item._replace(job=item.job._replace(target=target), size=size)
                for item, target in zip(batch, targets, strict=True)
            ]


def super_resolve_some(
    ready: ReadyNetwork,
    items: Sequence[Item],
    fits: Fitting,
    output: Output,
    progress: FileProgress,
    done: set[Path],  # to which the files of results are added
    faces: "FaceEnhancer | None" = None,
) -> Sequence[Item]:
    """Does as many of the items, which are of one size, as fit into memory -> those that are left."""
    first, trained = items[0], TrainedSizes.of(ready.config)

    def work(some: Sequence[Item], sampling: Sampling) -> tuple[Tensor, float]:
        return super_resolve_items(ready.network, some, sampling, trained, progress.say)

    with progress.attempt():
        try:
            some, (images, seconds) = fits.do_some(ready.network, items, work)
        except OutOfMemory:
            advice = what_to_do(next(ready.network.parameters()).device)
            made_at = ready.made_at(first.rgb.size, first.size)
            if made_at != first.size:
                advice = f"--no-trained-sizes makes {show(first.size)} at once, and takes less"
            raise OutOfMemory(f"{first.job.source}: out of memory at {show(made_at)}; {advice}") from None
        for item, sr in zip(some, images, strict=True):
            with progress.attempt():
                image = to_image(sr)
                name = item.job.target.relative_to(output.folder)
                found = improve_faces(item.rgb, image, ready, faces, name)
                write(item, image, output, str(ready.name))
                done.add(item.job.target)
                change = f"{show(item.rgb.size)} -> {show(item.size)}"
                progress.succeed(f"{item.job.target}  {change}  {seconds:.2f} s{found}")
        return items[len(some) :]
    return items[1:]


def read(
    jobs: Iterable[Job], networks: Networks, output: Output, wanted: Wanted, progress: FileProgress
) -> Iterator[Item]:
    """The jobs whose images can be read, one after the other, as items; says which network they get, and why."""
    for job in jobs:
        item = None
        with progress.attempt(len(output.scales) or 1):
            for file in output.files(job.target):
                check_writable(file)
            picture = read_picture(job.source)
            size = picture.rgb.size
            ready = network_for(job, size, networks)
            target_size = wanted.size_of(job.source, size, ready.config)
            item = Item(job, picture.rgb, picture.alpha, target_size, picture.exif, picture.is_tagged)
            if line := networks.explain(job.source, size):
                progress.tell(line)
            if notice := ready.notice(job.source, size, target_size):
                progress.warn(f"notice: {notice}")
        if item:
            yield item


def network_for(job: Job, size: Size, networks: Networks) -> ReadyNetwork:
    """The network for an image. Where only that of some images cannot be had, these fail, and the others are done."""
    try:
        return networks.of(size)
    except Exception as error:
        if not networks.loaded or not is_of_user(error):
            raise
        raise DataError(f"{job.source}: {error}") from None


def equal_sizes(items: Iterable[Item], batch_size: int) -> Iterator[list[Item]]:
    """The items in batches of equal image size, each as soon as it is full, or many wait for others."""
    waiting: dict[Size, list[Item]] = defaultdict(list)
    for item in items:
        waiting[item.rgb.size].append(item)
        if len(waiting[item.rgb.size]) == batch_size:
            yield waiting.pop(item.rgb.size)
        elif sum(map(len, waiting.values())) > MOST_WAITING:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def super_resolve_items(
    network: Network, items: Sequence[Item], sampling: Sampling, trained: TrainedSizes, say: Callable[[str], None]
) -> tuple[Tensor, float]:
    """Items of one size -> (SR (B,3,H,W), seconds per image)."""
    device = next(network.parameters()).device
    lr = torch.stack([to_tensor(item.rgb) for item in items])
    width, height = items[0].size
    seeds = [sampling.settings.seed] * len(items)
    chains = sampling.chains(trained, (height, width), lr.shape[-2:])
    progress = progress_of_chain(sampling, (len(items), height, width), device, say, chains)
    began = time.perf_counter()
    sr = super_resolve(network, lr, (height, width), sampling, seeds, trained, progress, TileProgress(sampling, say))
    synchronize(device)
    return sr, (time.perf_counter() - began) / len(items)


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


def write(item: Item, image: Image.Image, output: Output, label: str) -> None:
    """The result, under the transparency of its source, and the sheet that compares it, where one is asked for."""
    if output.compared:
        bicubic = resize(item.rgb, item.size)
        labels = [f"bicubic, {show(item.rgb.size)}", f"{label}, {show(item.size)}"]
        save_png(labelled([bicubic, image], labels), output.sheet(item.job.target))
    output.write(with_alpha(image, item.alpha), item.job.target, item.exif, item.is_tagged)


def write_strip(item: Item, output: Output, done: set[Path], progress: FileProgress) -> None:
    """The input and the results of a sweep side by side, all as large as the largest, unless one of them failed."""
    files = {scale: output.result(item.job.target, scale) for scale in output.scales}
    if not done.issuperset(files.values()):
        return
    with progress.attempt():
        size = target_size(item.rgb.size, max(files))
        images = [resize(image, size) for image in (item.rgb, *map(read_rgb, files.values()))]
        labels = [f"input, {show(item.rgb.size)}", *(f"x{scale:g}" for scale in files)]
        save_png(labelled(images, labels), output.strip(item.job.target))
