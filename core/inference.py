"""Inference: image files in, super-resolved PNG files out. All that goes wrong with one file stays with that file."""

import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from core.config import PRESETS, changed
from core.device import synchronize
from core.errors import UserError
from core.sampling import super_resolve
from data import DataError
from data.errors import reason
from data.images import is_image, read_rgba, resize, save_png, to_image, to_tensor


class Job(NamedTuple):
    """A file to super-resolve, and the file to write."""

    source: Path
    target: Path


class Item(NamedTuple):
    """A job whose image has been read."""

    job: Job
    rgb: Image.Image
    alpha: Image.Image | None
    size: tuple[int, int]  # (width, height) of the result


# ---------------------------------------------------------------------------------------------------------------------
# Before anything is computed: what to do, or one line that says why not.


def plan_jobs(inputs, out):
    """The jobs for files and folders `inputs`; folders are searched to any depth, and `out` gets their subfolders.

    A result has the name of its source, ending in .png. Raises UserError where an input is missing, there is no image,
    two sources would get one name, or an input would be overwritten.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--output {out}: is a file; give a folder")
    jobs = {}
    for source, name in find_images(inputs, out):
        job = Job(source, out / name.with_suffix(".png"))
        other = jobs.setdefault(job.target, job)
        if not other.source.samefile(source):
            raise UserError(f"{other.source} and {source} would both become {job.target}; give them in two runs")
    if not jobs:
        raise UserError(f"no image in {', '.join(map(str, inputs))}")
    protect_inputs(jobs.values())
    return list(jobs.values())


def find_images(inputs, out=None):
    """(file, its path inside `out`) of each image; earlier results, where `out` is inside an input, are none."""
    for path in map(Path, inputs):
        if path.is_dir():
            ours = out.resolve() if out and out.resolve() != path.resolve() else None
            for file in sorted(path.rglob("*")):
                if file.is_file() and is_image(file.name) and ours not in file.resolve().parents:
                    yield file, file.relative_to(path)
        elif path.exists():
            yield path, Path(path.name)
        else:
            raise UserError(f"--input {path}: no such file or folder")


def protect_inputs(jobs):
    """Refuses to write where an input is, under whatever name or link."""
    inputs = {(status.st_dev, status.st_ino) for status in (job.source.stat() for job in jobs)}
    for job in jobs:
        if job.target.exists():
            status = job.target.stat()
            if (status.st_dev, status.st_ino) in inputs:
                raise UserError(f"{job.target} is an input and would be overwritten; give another --output")


def sampling_settings(config, flags, preset=None):
    """config.sample as a preset changes it, with those flags, {key: text or None}, that were given. Raises UserError
    that names the flag."""
    given = {key: value for key, value in flags.items() if value is not None}
    origins = {f"sample.{key}": f"--{key.replace('_', '-')}" for key in given}
    changes = PRESETS.get(preset, {}) | given
    return changed(config, {f"sample.{key}": value for key, value in changes.items()}, "checkpoint", origins).sample


def target_size(size, scale, asked=None):
    """(width, height) of the result for an image of `size`: `asked` (W, H) as it is; (N,), N for the longer side; None,
    `scale` times as large."""
    if asked and len(asked) == 2:
        return tuple(asked)
    factor = asked[0] / max(size) if asked else scale
    return tuple(max(round(side * factor), 1) for side in size)


def usual_size(size, config):
    """(width, height) of the result where none is asked for.

    A network that was trained on whole images, such as faces, makes images as large as those: it knows what fills one.
    Trained on crops, it makes any image as many times larger as it learnt to.
    """
    images = config.trained_images
    asked = None if images.use_crop else (images.r_resolution,)
    return target_size(size, images.magnification, asked)


def show(size):
    return "x".join(map(str, size))


# ---------------------------------------------------------------------------------------------------------------------
# The work.


def super_resolve_files(network, config, jobs, settings, scale=None, size=None, batch_size=1):
    """Does the jobs, with a line on stdout for each done and on stderr for each failed -> how many failed.

    settings    of `sampling_settings`; every image gets the seed among them, so that a result does not depend on which
                other files there are
    scale       how many times larger results are
    size        in place of scale: the size of results, as `target_size` takes it; without both, `usual_size`
    batch_size  most images of one size to super-resolve at once
    """
    factor = config.magnification
    progress = Progress(len(jobs))
    if scale or size:
        items = read(jobs, lambda image: target_size(image, scale, size), progress, "asked for")
    else:
        told = "this network makes; --scale and --size ask for more"
        items = read(jobs, lambda image: usual_size(image, config), progress, told)
    for batch in equal_sizes(items, batch_size):
        with progress.attempt(*(item.job for item in batch)):
            images, seconds = super_resolve_items(network, batch, settings, factor)
            for item, image in zip(batch, images, strict=True):
                with progress.attempt(item.job):
                    write(item, image)
                    progress.succeed(item, seconds)
    return progress.failed


class OutOfMemory(Exception):
    """A batch does not fit into the device's memory."""


class Progress:
    """Counts the files that are done and those that failed, and says so."""

    def __init__(self, total):
        self.total, self.done, self.failed = total, 0, 0

    def succeed(self, item, seconds):
        self.done += 1
        count = f"[{self.done + self.failed}/{self.total}]"
        change = f"{show(item.rgb.size)} -> {show(item.size)}"
        print(f"{count} {item.job.target}  {change}  {seconds:.2f} s", flush=True)

    @contextmanager
    def attempt(self, *jobs):
        """Inside, what goes wrong with the jobs' files makes these jobs fail, and nothing else."""
        try:
            yield
        except (DataError, OutOfMemory) as error:
            self.failed += len(jobs)
            print(f"error: {error}", file=sys.stderr, flush=True)


def read(jobs, size_of, progress, told):
    """The jobs whose images can be read, one after the other, as items; told: in words, what their sizes are."""
    for job in jobs:
        item = None
        with progress.attempt(job):
            rgb, alpha = read_rgba(job.source)
            size = size_of(rgb.size)
            if any(after < before for before, after in zip(rgb.size, size, strict=True)):
                raise DataError(f"{job.source} has {show(rgb.size)} pixels, more than the {show(size)} {told}")
            item = Item(job, rgb, alpha, size)
        if item:
            yield item


def equal_sizes(items, batch_size):
    """The items in batches of equal image size, each as soon as it is full."""
    waiting = defaultdict(list)
    for item in items:
        waiting[item.rgb.size].append(item)
        if len(waiting[item.rgb.size]) == batch_size:
            yield waiting.pop(item.rgb.size)
    yield from waiting.values()


def super_resolve_items(network, items, settings, factor):
    """Items of one size -> (SR (B,3,H,W), seconds per image). Raises OutOfMemory."""
    device = next(network.parameters()).device
    lr = torch.stack([to_tensor(item.rgb) for item in items])
    width, height = items[0].size
    began = time.perf_counter()
    try:
        sr = super_resolve(network, lr, (height, width), settings, [settings.seed] * len(items), factor)
        synchronize(device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        names = ", ".join(str(item.job.source) for item in items)
        raise OutOfMemory(f"{names}: out of memory at {width}x{height}; lower --batch-size or --decode-batch") from None
    return sr, (time.perf_counter() - began) / len(items)


def is_out_of_memory(error):
    """Of the GPU, or of the CPU, for which torch has no class of its own."""
    words = ("allocate memory", "enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error) for w in words)


def write(item, sr):
    """The result as PNG, under the transparency of its source."""
    image = to_image(sr)
    if item.alpha:
        image.putalpha(resize(item.alpha, item.size))
    try:
        item.job.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make folder {item.job.target.parent}: {reason(error)}") from None
    save_png(image, item.job.target)
