"""Which images of two folders belong together: told by their names, as many tools write them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from core.errors import UserError
from data.errors import reason
from data.images import is_image
from data.names import ROLES, TrueNames
from data.paths import is_file, is_folder, is_there, refuse_unseen

SHOWN = 3  # names in a message


class Pair(NamedTuple):
    """A result, the true image, and the image that the result was made of."""

    name: str  # of the result, in its folder
    sr: Path
    hr: Path
    lr: Path | None


def find_pairs(sr: str | Path, hr: str | Path, lr: str | Path | None = None) -> list[Pair]:
    """The images of two or three folders that belong together, in the order of their names; or of single files.

    Names are compared without their endings. Where they differ, a result may have words more than the true image, as
    0801x4_SwinIR.png has beside 0801.png, and either may have words for what it is, as 0_12_sr.png and 0_12_hr.png, or
    SR_0801.png and HR_0801.png. A number is never left out. Raises UserError unless every result, true image and LR
    image has its counterparts.
    """
    paths = [Path(path) for path in (sr, hr, lr) if path is not None]
    if all(map(is_file, paths)):
        return [Pair(paths[0].name, paths[0], paths[1], paths[2] if lr else None)]
    in_one = len({*paths}) < len(paths)
    truths = images_of(Path(hr), "hr", in_one)
    results = counterparts(images_of(Path(sr), "sr", in_one), truths, sr, hr)
    sources = counterparts(images_of(Path(lr), "lr", in_one), truths, lr, hr) if lr else {}
    pairs = [Pair(str(file.relative_to(sr)), file, truth, sources.get(truth)) for truth, file in results.items()]
    return sorted(pairs)


def images_of(folder: Path, role: str, in_one: bool) -> list[Path]:
    """The images in a folder, or, where there is none, in the folders in it; of one that holds both results and truths,
    as SR3 writes it, those of this role alone. in_one: whether one folder was named for several roles."""
    if not is_folder(folder):
        refuse_unseen(folder)
        raise UserError(f"{folder}: {'a file beside a folder' if is_there(folder) else 'no such folder'}")
    try:
        next(folder.iterdir(), None)  # glob finds nothing in a folder that cannot be read, and does not say so
    except OSError as error:
        raise UserError(f"{folder}: cannot read this folder: {reason(error)}") from None
    found: list[Path] = []
    for search in (folder.glob, folder.rglob):
        found = found or sorted(file for file in search("*") if is_file(file) and is_image(file.name))
    if not found:
        raise UserError(f"{folder}: no image in it")
    return of_role(found, role, -1) or (in_one and of_role(found, role, 0)) or found


def of_role(files: Sequence[Path], role: str, place: int) -> list[Path]:
    """Those whose word at a place, the first (0) or the last (-1), says that they are of a role, where others say
    another role. First words have to say a role everywhere: a photograph may be called `out_of_town`."""
    words = {file: re.split(r"[_\-. ]", file.stem)[place].lower() for file in files}
    said, others = {*words.values()}, set().union(*(words for other, words in ROLES.items() if other != role))
    if not said & others or (place == 0 and not said <= others | ROLES[role]):
        return []
    return [file for file in files if words[file] in ROLES[role]]


def counterparts(
    files: Sequence[Path], truths: Sequence[Path], folder: str | Path, truth_folder: str | Path
) -> dict[Path, Path]:
    """{each true image: its file}"""
    whole = {truth.relative_to(truth_folder): truth for truth in truths}
    stems = defaultdict[str, list[Path]](list)
    for name, truth in whole.items():
        stems[str(name.with_suffix(""))].append(truth)
    true_names = TrueNames(stems)
    found: dict[Path, Path] = {}
    lonely = []
    for file in files:
        name = file.relative_to(folder)
        same = [whole[name]] if name in whole else []
        fitting = same or [truth for stem in true_names.of(str(name.with_suffix(""))) for truth in stems[stem]]
        if len(fitting) > 1:
            raise UserError(f"{file} may belong to {fitting[0]} or {fitting[1]}; name it as one of them")
        if not fitting:
            lonely.append(file)
        elif (other := found.setdefault(fitting[0], file)) is not file:
            raise UserError(f"{other} and {file} both belong to {fitting[0]}; keep one of them in {folder}")
    refuse_lonely(lonely, folder, truth_folder)
    refuse_lonely([truth for truth in truths if truth not in found], truth_folder, folder)
    return found


def refuse_lonely(files: Sequence[Path], folder: str | Path, other: str | Path) -> None:
    if files:
        names = ", ".join(str(file.relative_to(folder)) for file in files[:SHOWN])
        more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
        raise UserError(f"no image in {other} belongs to {len(files)} of {folder} by its name: {names}{more}")
