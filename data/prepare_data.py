"""Prepares image pairs for training: every image under a folder, cropped to a square and resized to two sizes.

    python data/prepare_data.py --path IMAGES --out dataset/faces --size 16,128

writes dataset/faces_16_128/lr_16/NAME.png and hr_128/NAME.png. With --lmdb, it writes one LMDB in dataset/faces_16_128.
NAME is the name of the source, filled with zeros to five digits. The same command continues an interrupted run, or adds
new files under IMAGES. Finished images are not made again. Links to folders are followed, each folder once. Colour
profiles are converted to sRGB. Some files are left out, named and counted: files that cannot be read or written, a
second file of the same name, pipes and broken links. Images smaller than HR are enlarged, named and counted. A notice
names each animation, of which the first frame is read, and each file with a damaged colour profile.

Exit code: 0 if all images are done; 1 if some were left out; 2 if nothing was done, and one line says why.
"""

import argparse
import fcntl
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import partial
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

if __name__ == "__main__":  # import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from requirements import require_packages

    require_packages()

from tqdm import tqdm

from data.command_line import Parser
from data.errors import DataError
from data.files import NameTooLongError, missing_folders, remove_empty, write_atomically
from data.image_files import find_images, first_of_each_name
from data.images import RESAMPLE, centre_square, encode_png, read_picture, resize
from data.memory import refuse_too_large
from data.paths import is_there, why_not_folder
from data.writers import FolderWriter, LmdbWriter

BESIDE_PAIRS = {"prepare.json", ".lock", "data.mdb", "lock.mdb"}
SECONDS_BETWEEN_LINES = 10  # of progress, where there is no terminal to draw a bar on


class Source(NamedTuple):
    """An image file and the name of the pair that is made of it."""

    name: str
    path: Path


class Made(NamedTuple):
    """What became of a source: the PNG bytes of both sizes (None where they are written already), and what is wrong."""

    pair: tuple[bytes, bytes] | None = None
    problem: str | None = None
    small: tuple[int, int] | None = None  # width and height, where the shorter is less than that of HR
    notices: tuple[str, ...] = ()  # what was read otherwise than the file has it


class Summary(NamedTuple):
    """The folder that `prepare` filled, the pairs now in it, how many of them are new, the files left out, how many of
    the new ones were smaller than HR, and a word on files that are no images."""

    folder: Path
    total: int
    new: int
    left_out: int
    small: int = 0
    others: str = ""


def prepare(
    root: str | Path,
    out: str | Path,
    sizes: tuple[int, int],  # sides of the LR and HR images in pixels
    resample: str = "bicubic",
    as_lmdb: bool = False,
    workers: int = 1,
    strict: bool = False,  # stop at the first unreadable file
) -> Summary:
    """Fills OUT_L_R with an image pair for every image under `root`. Raises DataError."""
    if not 0 < sizes[0] < sizes[1]:
        raise DataError(f"--size {sizes[0]},{sizes[1]}: give the low resolution and then the high one, as in 16,128")
    if workers < 1:
        raise DataError(f"--n_worker {workers}: give 1 or more")
    refuse_too_large(sizes[1], sizes[1], 4, f"--size {sizes[0]},{sizes[1]}: the larger image", "give smaller sizes")
    folder = Path(f"{Path(out)}_{sizes[0]}_{sizes[1]}")
    found = find_images(Path(root), leave_out=folder)
    sources = [Source(name, path) for name, path in first_of_each_name(found.images, found.left_out, digits=5)]
    report, open_writer = Report(strict, sizes[1]), partial(LmdbWriter if as_lmdb else FolderWriter, sizes=sizes)
    for line in found.left_out:
        report.leave_out(line)
    if not sources:
        raise DataError(f"no image under {root}: set --path to a folder with images")
    settings = {"sizes": list(sizes), "resample": resample, "format": "lmdb" if as_lmdb else "folder"}
    missing = missing_folders(folder)
    with (
        claim(folder, settings),
        nothing_left_if_nothing_done(folder, sizes, missing) as pairs,
        open_writer(folder) as writer,
    ):
        pairs |= (finished := writer.finished())
        todo = [source for source in sources if source.name not in finished]
        make = partial(
            make_pair, sizes=sizes, resample=resample, writer=writer if isinstance(writer, FolderWriter) else None
        )
        new = 0
        with closing(parallel(make, todo, workers)) as results:
            for source, made in with_progress(results, len(sources), len(todo)):
                report.add(source, made)
                if made.pair:
                    writer.write(source.name, made.pair)
                if made.problem is None:
                    new += 1
                    pairs.add(source.name)
        if not pairs:
            raise DataError(f"none of the {len(sources)} images under {root} can be read")
    return Summary(folder, len(finished) + new, new, report.left_out, report.small, found.describe_others())


class Report:
    """Names and counts what is left out, which is an error where `strict`, and what is smaller than `side`; names what
    was read otherwise than its file has it."""

    def __init__(self, strict: bool, side: int):
        self.strict, self.side = strict, side
        self.left_out = self.small = 0

    def leave_out(self, line: str) -> None:
        if self.strict:
            raise DataError(line)
        tqdm.write(f"left out: {line}", file=sys.stderr)
        self.left_out += 1

    def add(self, source: Source, made: Made) -> None:
        for told in made.notices:
            tqdm.write(f"notice: {source.path}: {told}", file=sys.stderr)
        if made.problem:
            self.leave_out(made.problem)
        elif made.small:
            size = "x".join(map(str, made.small))
            tqdm.write(f"enlarged: {source.path} has {size} pixels, fewer than {self.side}", file=sys.stderr)
            self.small += 1


@contextmanager
def nothing_left_if_nothing_done(folder: Path, sizes: tuple[int, int], made: Iterable[Path]) -> Iterator[set[str]]:
    """Gives a set for the names of the pairs that are in the folder. Where none is in the end, what a run puts beside
    pairs goes, and so do the folders that it made; but not where anything else is there."""
    pairs: set[str] = set()
    try:
        yield pairs
    finally:
        if not pairs:
            remove_empty([folder / f"lr_{sizes[0]}", folder / f"hr_{sizes[1]}"])
            files = list(folder.iterdir())
            if {file.name for file in files} <= BESIDE_PAIRS:
                for file in files:
                    file.unlink()
                remove_empty(made)


def claim(folder: Path, settings: dict) -> TextIO:
    """Keeps an output folder to this run, and to runs of the same settings, which its prepare.json notes.

    Returns the lock, an open file; closing it, or the end of the process, lets go of the folder. Raises DataError.
    """
    note, asked = folder / "prepare.json", json.dumps(settings)
    try:
        if not is_there(note) and is_there(folder) and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise DataError(f"{folder} is not empty and was not made by prepare_data.py: give another --out")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_there(note):
            write_atomically(note, f"{asked}\n".encode())
        made = " ".join(note.read_text(errors="replace").split())
    except BlockingIOError:
        raise DataError(f"another prepare_data.py is writing to {folder}: let it finish") from None
    except OSError as error:
        raise DataError(f"cannot write into {folder}: {why_not_folder(folder, error)}; give another --out") from None
    if made != asked:
        raise DataError(f"{folder} was made with {made}, not {asked}: give another --out")
    return lock


# ---------------------------------------------------------------------------------------------------------------------
# Doing it.


def make_pair(source: Source, sizes: tuple[int, int], resample: str, writer: FolderWriter | None) -> Made:
    """Both images of a source. Given a writer, writes them instead."""
    try:
        picture = read_picture(source.path)
    except DataError as error:
        return Made(problem=str(error))
    square = centre_square(picture.over_white())
    made = Made(small=square.size if square.width < sizes[1] else None, notices=picture.notices)
    low, high = (encode_png(resize(square, (size, size), resample)) for size in sizes)
    if writer is None:
        return made._replace(pair=(low, high))
    try:
        writer.write(source.name, (low, high))
    except NameTooLongError as error:
        return Made(problem=f"{source.path}: {error}")
    return made


def parallel(function: Callable, jobs: list, workers: int) -> Generator[tuple[Any, Any], None, None]:
    """Yields (job, function(job)) in the order in which they finish; only a few are in flight, so none pile up."""
    if min(workers, len(jobs)) <= 1:
        yield from ((job, function(job)) for job in jobs)
        return
    waiting = iter(jobs)
    pool = ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("fork"), initializer=_start_worker)
    try:
        running = {pool.submit(function, job): job for job in islice(waiting, 4 * workers)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                running |= {pool.submit(function, job): job for job in islice(waiting, 1)}
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed (out of memory?): run the same command again, with a smaller --n_worker"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def with_progress(results: Iterator, total: int, todo: int) -> Iterator:
    """Passes the results on, with a bar on a terminal and a line now and then elsewhere."""
    start = last = time.monotonic()
    with tqdm(total=total, initial=total - todo, unit="image", disable=None) as bar:
        for done, result in enumerate(results, 1):
            yield result
            bar.update()
            now = time.monotonic()
            if bar.disable and now - last >= SECONDS_BETWEEN_LINES:
                last = now
                print(f"{total - todo + done} of {total} images ({done / (now - start):.0f} a second)", flush=True)


# ---------------------------------------------------------------------------------------------------------------------


def parse_size(text: str) -> tuple[int, int]:
    """The two numbers of "16,128"."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise DataError(f"--size {text}: give the low resolution and then the high one, as in 16,128")
    return int(parts[0]), int(parts[1])


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("-p", "--path", required=True, help="folder of the images, with its subfolders")
    add("-o", "--out", required=True, help="output folder; _L_R is added to its name")
    add("--size", default="16,128", help="low and high resolution (default: 16,128)")
    workers = "number of processes (default: one per core)"
    add("--n_worker", type=int, default=os.cpu_count() or 1, help=workers)
    add("--resample", choices=RESAMPLE, default="bicubic", help="how to resize (default: bicubic)")
    add("-l", "--lmdb", action="store_true", help="write an LMDB instead of folders of PNG files")
    add("--strict", action="store_true", help="stop at the first unreadable file, with exit code 2")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be what no terminal shows
    try:
        args = parse_arguments(arguments)
        size = parse_size(args.size)
        summary = prepare(args.path, args.out, size, args.resample, args.lmdb, args.n_worker, args.strict)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command continues", file=sys.stderr)
        return 130
    left_out = f"; {summary.left_out} file(s) left out" if summary.left_out else ""
    small = f"; {summary.small} smaller than {size[1]} pixels and enlarged" if summary.small else ""
    print(f"{summary.folder}: {summary.total} images, {summary.new} of them new{left_out}{small}{summary.others}")
    return 1 if summary.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
