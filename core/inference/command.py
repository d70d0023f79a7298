"""What infer.py does once its flags are read."""

import datetime
import os
from argparse import Namespace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from core.command_line import sample_flags
from core.device import compute_deterministically
from core.errors import UserError
from core.inference.file_progress import FileProgress
from core.inference.files import super_resolve_files
from core.inference.input_files import InputFiles, LeftOut, check_some_writable, size_of
from core.inference.network_choice import Networks
from core.inference.output_files import Output
from core.inference.result_sizes import Wanted
from core.processes import Processes
from data.files import missing_folders, remove_empty
from data.paths import is_folder

if TYPE_CHECKING:
    from core.faces.enhancer import FaceEnhancer

PATIENCE = datetime.timedelta(days=7)  # of a process that is done, for one that still works


def infer_files(arguments: Namespace) -> int:
    """Super-resolves the files of the command line, shared out over the processes of torchrun -> the exit code."""
    if arguments.deterministic:
        compute_deterministically()
    scales = arguments.scale or ()
    output = Output.of(
        arguments.output,
        arguments.input,
        extension=arguments.ext,
        quality=arguments.quality,
        suffix=arguments.suffix,
        scales=scales,
        compared=arguments.compare,
        faces=arguments.save_faces,
    )
    files = InputFiles(arguments.input, output)
    first = files.first()
    if not arguments.skip_existing or len(output.files(first.target)) > 1 or output.faces:
        files.protect()

    processes = Processes.from_environment(arguments.device, PATIENCE)
    networks = Networks(arguments.checkpoint, processes.device, sample_flags(arguments), arguments.preset)
    wanted = Wanted(max(scales, default=None), arguments.size, output.extension)
    wanted.check_some_fit((job.source, size_of(job.source)) for job in files.jobs(LeftOut()))
    # Before anything is written, as what is wrong with flags is found here.
    networks.check_some(size_of(job.source) for job in files.jobs(LeftOut()))
    faces = face_enhancer(arguments, processes.device, output.faces)
    missing = missing_folders(output.folder)
    check_some_writable(job.target for job in files.jobs(LeftOut()))

    total, results = files.count(), len(output.scales) or 1  # of each image
    share = len(range(processes.rank, total, processes.world))
    progress = FileProgress(share * results, processes.rank if processes.world > 1 else None)
    found = LeftOut(aloud=processes.is_main)
    jobs = islice(files.jobs(found), processes.rank, None, processes.world)
    failed = super_resolve_files(
        jobs,
        networks,
        output,
        wanted,
        batch_size=arguments.batch_size,
        progress=progress,
        skip_existing=arguments.skip_existing,
        faces=faces,
    )
    progress.bar.close()

    tallies = processes.gather((progress.done, progress.skipped, failed))
    done, skipped, failed = map(sum, zip(*tallies, strict=True))
    if processes.is_main:
        if failed and missing:  # what is in the folder is of this run
            remove_empty([*output.folder.rglob("*"), *missing])
        there = f"; {skipped} there already" if skipped else ""
        left_out = f"; {found.number} left out" if found.number else ""
        written = f"{done} of {done + skipped + failed} images written to {arguments.output}"
        print(f"{written}{there}{left_out}{found.describe_others()}")
    processes.close()
    return 1 if failed or found.number else 0


def is_inside(folder: Path, other: Path) -> bool:
    """Whether a folder is another, or in it, by whatever links."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(other))


def face_enhancer(arguments: Namespace, device: torch.device, folder: Path | None) -> "FaceEnhancer | None":
    """What --faces asks for. Raises UserError where the faces, which are saved to the folder, would be among the
    photographs."""
    if not arguments.faces:
        return None
    for path in map(Path, arguments.input) if folder else ():
        if is_folder(path) and folder and is_inside(folder, path):
            raise UserError(f"--save-faces {folder} is inside the input {path}; choose another folder")
    from core.faces.enhancer import FaceEnhancer  # imports scipy, which takes half a second

    network = None if arguments.faces is True else arguments.faces
    detector = arguments.face_detector or "lbp"
    return FaceEnhancer(network, device, sample_flags(arguments), folder, detector=detector, preset=arguments.preset)
