"""Enlarging of files: all that goes wrong with one file stays with it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from core.device import synchronize
from core.errors import is_of_user
from core.inference.file_progress import FileProgress
from core.inference.input_files import Job, Size, check_writable
from core.inference.network_choice import Networks, ReadyNetwork
from core.inference.output_files import Output
from core.inference.result_sizes import Wanted, show, target_size
from core.inference.upscaling import improve_faces, with_alpha
from core.report.pictures import labelled
from core.sampling.chain_progress import TileProgress, progress_of_chain
from core.sampling.memory import Fitting, OutOfMemory, what_to_do
from core.sampling.super_resolution import Sampling, super_resolve
from core.sampling.trained_sizes import TrainedSizes
from data import DataError
from data.images import read_picture, read_rgb, resize, save_png
from data.paths import is_file
from data.tensors import to_image, to_tensor
from model import Network

if TYPE_CHECKING:
    from core.faces.enhancer import FaceEnhancer

MOST_WAITING = 64  # images that have been read, for others of their size


class Item(NamedTuple):
    """A result to make, of an image that has been read."""

    job: Job  # its target is the file of this result
    rgb: Image.Image
    alpha: Image.Image | None
    size: Size  # of the result
    exif: bytes = b""
    is_tagged: bool = False  # its file had a colour profile, so that of the result gets one


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
    there = all(map(is_file, output.files(job.target)))
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
            for told in picture.notices:
                progress.warn(f"notice: {job.source}: {told}")
            if line := networks.explain(job.source, size):
                progress.tell(line)
            for notice in ready.notices(job.source, size, target_size):
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
