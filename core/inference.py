"""Inference: image files in, super-resolved PNG files out. All that goes wrong with one file stays with that file."""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from core.chain_progress import progress_of_chain
from core.config import Config
from core.device import synchronize
from core.errors import UserError, is_of_user
from core.memory import Fitting, OutOfMemory, what_to_do
from core.network_choice import Networks, ReadyNetwork
from core.sampling import Sampling, super_resolve
from data import DataError
from data.errors import reason
from data.files import make_writable
from data.image_files import ImageFiles, find_images, why_not_read
from data.images import read_rgba, resize, save_png
from data.tensors import to_image, to_tensor
from model import Network

Size = tuple[int, int]  # (width, height), in pixels
Asked = tuple[int, ...]  # a Size, or (N,), N for the longer side


class Job(NamedTuple):
    """A file to super-resolve, and the file to write."""

    source: Path
    target: Path


class Plan(NamedTuple):
    """What to do, and what is left out."""

    jobs: list[Job]
    left_out: list[str]  # files and why, each in a line
    others: str  # a word on files that are no images


class Item(NamedTuple):
    """A job whose image has been read."""

    job: Job
    rgb: Image.Image
    alpha: Image.Image | None
    size: Size  # of the result


# ---------------------------------------------------------------------------------------------------------------------
# Before anything is computed: what to do, or one line that says why not.


def plan_jobs(inputs: Sequence[str | Path], out: str | Path) -> Plan:
    """The jobs for files and folders `inputs`; folders are searched to any depth, and `out` gets their subfolders.

    A result has the name of its source, ending in .png. Raises UserError where an input is missing, there is no image,
    or an input would be overwritten. What concerns one file alone, as a second one of a name, is left out.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--output {out}: is a file; give a folder")
    jobs: dict[Path, Job] = {}
    named, found = find_inputs(inputs, out)
    for source, name in named:
        job = Job(source, out / name.with_suffix(".png"))
        if problem := why_not_named(job.target):
            found.left_out.append(f"{source}: {job.target} cannot be written: {problem}")
            continue
        other = jobs.setdefault(job.target, job)
        if not other.source.samefile(source):
            found.left_out.append(f"{source}: {other.source} becomes {job.target} already; give it in another run")
    if not jobs:
        reasons = f" ({found.left_out[0]})" if found.left_out else ""
        raise UserError(f"no image in {', '.join(map(str, inputs))}{reasons}")
    protect_inputs(jobs.values())
    return Plan(list(jobs.values()), found.left_out, found.describe_others())


def size_of_first(jobs: Iterable[Job]) -> Size:
    """The size of the first image whose header can be read."""
    for job in jobs:
        try:
            with Image.open(job.source) as image:
                return image.size
        except Exception:  # Pillow's decoders raise whatever their parsers stumble over; it is told where it is read
            continue
    return 1, 1


def find_inputs(inputs: Iterable[str | Path], out: Path | None = None) -> tuple[list[tuple[Path, Path]], ImageFiles]:
    """((file, its path inside `out`) of each image, what else there is); earlier results, where `out` is inside an
    input, are no images."""
    named: list[tuple[Path, Path]] = []
    found = ImageFiles()
    for path in map(Path, inputs):
        if path.is_dir():
            inside = find_images(path, leave_out=out)
            named += [(file, file.relative_to(path)) for file in inside.images]
            found.left_out += inside.left_out
            found.others += inside.others
        elif not os.path.lexists(path):
            raise UserError(f"--input {path}: no such file or folder")
        elif problem := why_not_read(path):
            found.left_out.append(f"{path}: {problem}")
        else:
            named.append((path, Path(path.name)))
    return named, found


def why_not_named(target: Path) -> str | None:
    """Why no file can have this name, as one longer than the file system allows; None where it can."""
    there = next(folder for folder in target.parents if folder.is_dir())  # the folder of the result may be missing yet
    try:
        (there / target.name).lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return reason(error)
    return None


def protect_inputs(jobs: Iterable[Job]) -> None:
    """Refuses to write where an input is, under whatever name or link."""
    inputs = {(status.st_dev, status.st_ino) for status in (job.source.stat() for job in jobs)}
    for job in jobs:
        if job.target.exists():
            status = job.target.stat()
            if (status.st_dev, status.st_ino) in inputs:
                raise UserError(f"{job.target} is an input and would be overwritten; give another --output")


def check_some_writable(targets: Iterable[Path]) -> None:
    """Raises DataError where no result could be written."""
    problem = None
    for target in targets:
        try:
            return check_writable(target)
        except DataError as error:
            problem = problem or error
    raise problem or DataError("no result to write")


def check_writable(target: Path) -> None:
    """Makes the folder of a result. Raises DataError where the result could not be written."""
    make_writable(target.parent)
    if target.is_dir():
        raise DataError(f"cannot write {target}: it is a folder")


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

    def size_of(self, source: Path, size: Size, config: Config) -> Size:
        """The size of the result for an image. Raises DataError where it would be smaller than the image."""
        if self.magnification or self.size:
            result, told = target_size(size, self.magnification or 1, self.size), "asked for"
        else:
            result, told = usual_size(size, config), "this network makes; --scale and --size ask for more"
        if any(after < before for before, after in zip(size, result, strict=True)):
            raise DataError(f"{source} has {show(size)} pixels, more than the {show(result)} {told}")
        return result


def show(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


# ---------------------------------------------------------------------------------------------------------------------
# The work.


def super_resolve_files(
    networks: Networks,
    jobs: Sequence[Job],  # every image gets the same seed, so that a result does not depend on which others there are
    magnification: float | None = None,  # how many times larger results are
    size: Asked | None = None,  # in place of magnification: the size of results; without both, `usual_size`
    batch_size: int = 1,  # most images of one size to super-resolve at once
) -> int:
    """Does the jobs, with a line on stdout for each done and on stderr for each failed -> how many failed."""
    check_some_writable(job.target for job in jobs)
    progress = Progress(len(jobs))
    fitting: dict[tuple[str | Path, Size], Fitting] = {}
    for batch in equal_sizes(read(jobs, networks, Wanted(magnification, size), progress), batch_size):
        ready = networks.of(batch[0].rgb.size)
        fits = fitting.setdefault((ready.name, batch[0].size), Fitting(batch_size, ready.sampling, progress.say))
        left: Sequence[Item] = batch
        while left:
            left = super_resolve_some(ready.network, left, fits, ready.config.magnification, progress)
    return progress.failed


def super_resolve_some(
    network: Network, items: Sequence[Item], fits: Fitting, magnification: float, progress: "Progress"
) -> Sequence[Item]:
    """Does as many of the items, which are of one size, as fit into memory -> those that are left."""
    first = items[0]

    def work(some: Sequence[Item], sampling: Sampling) -> tuple[Tensor, float]:
        return super_resolve_items(network, some, sampling, magnification, progress.say)

    with progress.attempt(first.job):
        try:
            some, (images, seconds) = fits.do_some(network, items, work)
        except OutOfMemory:
            advice = what_to_do(next(network.parameters()).device)
            raise OutOfMemory(f"{first.job.source}: out of memory at {show(first.size)}; {advice}") from None
        for item, image in zip(some, images, strict=True):
            with progress.attempt(item.job):
                write(item, image)
                progress.succeed(item, seconds)
        return items[len(some) :]
    return items[1:]


class Progress:
    """Counts the files that are done and those that failed, and says so."""

    def __init__(self, total: int):
        self.total, self.done, self.failed = total, 0, 0

    def succeed(self, item: Item, seconds: float) -> None:
        self.done += 1
        count = f"[{self.done + self.failed}/{self.total}]"
        change = f"{show(item.rgb.size)} -> {show(item.size)}"
        print(f"{count} {item.job.target}  {change}  {seconds:.2f} s", flush=True)

    def say(self, line: str) -> None:
        print(f"[{self.done + self.failed}/{self.total}] {line}", flush=True)

    @contextmanager
    def attempt(self, *jobs: Job) -> Iterator[None]:
        """Inside, what goes wrong with the jobs' files makes these jobs fail, and nothing else."""
        try:
            yield
        except (DataError, OutOfMemory) as error:
            self.failed += len(jobs)
            print(f"error: {error}", file=sys.stderr, flush=True)


def read(jobs: Iterable[Job], networks: Networks, wanted: Wanted, progress: Progress) -> Iterator[Item]:
    """The jobs whose images can be read, one after the other, as items; says which network they get, and why."""
    explained = set()
    for job in jobs:
        item = None
        with progress.attempt(job):
            check_writable(job.target)
            rgb, alpha = read_rgba(job.source)
            ready = network_for(job, rgb.size, networks)
            item = Item(job, rgb, alpha, wanted.size_of(job.source, rgb.size, ready.config))
            if ready.name not in explained and (line := networks.explain(job.source, rgb.size)):
                print(line, flush=True)
            if notice := ready.notice(job.source, rgb.size, item.size):
                print(f"notice: {notice}", file=sys.stderr, flush=True)
            explained.add(ready.name)
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
    """The items in batches of equal image size, each as soon as it is full."""
    waiting: dict[Size, list[Item]] = defaultdict(list)
    for item in items:
        waiting[item.rgb.size].append(item)
        if len(waiting[item.rgb.size]) == batch_size:
            yield waiting.pop(item.rgb.size)
    yield from waiting.values()


def super_resolve_items(
    network: Network, items: Sequence[Item], sampling: Sampling, magnification: float, say: Callable[[str], None]
) -> tuple[Tensor, float]:
    """Items of one size -> (SR (B,3,H,W), seconds per image)."""
    device = next(network.parameters()).device
    lr = torch.stack([to_tensor(item.rgb) for item in items])
    width, height = items[0].size
    seeds = [sampling.settings.seed] * len(items)
    progress = progress_of_chain(sampling, (len(items), height, width), device, say)
    began = time.perf_counter()
    sr = super_resolve(network, lr, (height, width), sampling, seeds, magnification, progress)
    synchronize(device)
    return sr, (time.perf_counter() - began) / len(items)


def write(item: Item, sr: Tensor) -> None:
    """The result as PNG, under the transparency of its source."""
    image = to_image(sr)
    if item.alpha:
        image.putalpha(resize(item.alpha, item.size))
    save_png(image, item.job.target)
