"""Checkpoints of which the network file is missing: it was lost, or a process was killed while it saved.

A save writes the training file first, so a kill leaves one that is alone, newer than all that is whole and not in the
note of what was saved. Whatever else is alone was whole once, and a training that begins at step 0 would write over it.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import UserError
from core.log import warn_once
from data.errors import reason
from sparse.checkpoint_files import SUFFIXES, latest_prefix

NOTE = "written.json"  # beside the checkpoints of a training, which it lists
OF_CHECKPOINT = re.compile(r"(?P<prefix>I(?P<step>\d+)_E\d+)_(?P<kind>gen|opt)(?P<ending>\..+)")


class Lone(NamedTuple):
    """A file of a checkpoint without its network file; of several the one with the most steps is the largest."""

    step: int
    file: str
    network: str  # the name of the file that is missing

    @property
    def prefix(self) -> str:
        return self.file.partition("_gen.")[0].partition("_opt.")[0]


def lone_files(folder: Path) -> list[Lone]:
    """Those in a folder that are newer than its latest checkpoint, in the order of their steps.

    Raises UserError where the folder cannot be read.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot read folder {folder}: {reason(error)}; allow it, or give another path.root") from None
    files = list(filter(None, map(OF_CHECKPOINT.fullmatch, names)))
    networks = {file["prefix"] for file in files if file["kind"] == "gen" and file["ending"] in SUFFIXES}
    latest = max((int(prefix[1:].partition("_")[0]) for prefix in networks), default=-1)
    lone = []
    for file in files:
        if file["prefix"] not in networks and int(file["step"]) > latest:
            ending = ".pth" if file["ending"].startswith(".pth") else ".safetensors"
            lone.append(Lone(int(file["step"]), file[0], f"{file['prefix']}_gen{ending}"))
    return sorted(lone)


def tell_lost(folder: Path, used: Path) -> None:
    """Says, once, where the newest checkpoint of a folder has no network file, and which one is used instead."""
    if lone := lone_files(folder):
        newest = lone[-1]
        warn_once(
            f"{folder / newest.network} is missing, and {newest.file} is there: it was lost, or is just being saved; "
            f"until it is there, {used} is used"
        )


def tell_without_training(network: Path, training: Path | None) -> None:
    """Says, once, that a training begins anew as a checkpoint has no training file, where its network file is called
    as that of one."""
    if training is None and OF_CHECKPOINT.fullmatch(network.name):
        missing = network.name.replace("_gen.", "_opt.")
        warn_once(f"{network} has no {missing} beside it, to continue from: training begins at step 0")


def refuse_lost(folder: Path) -> str:
    """What a kill in the middle of a save left in a folder, in a line, or "".

    Raises UserError where a training would write over a checkpoint that has lost its network file, or begin anew where
    all are lost.
    """
    lone, latest, note = lone_files(folder), latest_prefix(folder), read_note(folder / NOTE)
    if not lone:
        if latest is None and note and note["written"]:
            raise UserError(
                f"{folder / NOTE} lists checkpoints that are no longer there ({', '.join(note['written'][-3:])}): put "
                "them back, or remove that file to begin anew"
            )
        return ""
    newest = lone[-1]
    if latest is None:
        was_killed = note is None and len(lone) == 1 and newest.file.endswith("_opt.safetensors")
    else:
        was_killed = note is None or not {file.prefix for file in lone} & {*note["written"]}
    if not was_killed:
        whole = latest_prefix(folder, whole=True)
        other = f"continue from -r {whole}" if whole else "start another training with --set name=NAME"
        raise UserError(
            f"{folder / newest.network} is missing, and {newest.file} is there: put it back, or {other}; a training "
            "would write over what is left of that checkpoint"
        )
    goes_on = f"the latest checkpoint is {latest}" if latest else "there is no other checkpoint"
    return f"{folder / newest.network} is missing, as after a kill while it was saved: {goes_on}"


def read_note(file: Path) -> dict[str, Any] | None:
    """What a training noted of its checkpoints: "written", the names of prefixes, and "best", (score, name) or None.
    None without a note; a damaged one lists nothing."""
    try:
        note = json.loads(file.read_text())
        best = note["best"]
        return {"written": list(map(str, note["written"])), "best": (float(best[0]), str(best[1])) if best else None}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, LookupError):
        return {"written": [], "best": None}
