"""Which checkpoints of a training are kept on the disk."""

import json
from logging import Logger
from pathlib import Path

from core.checkpoint.files import find_checkpoint
from core.checkpoint.lost_files import NOTE, read_note
from data import DataError
from data.files import write_atomically
from sparse.checkpoint_files import SUFFIXES


class KeptCheckpoints:
    """Removes what a training wrote, but for the newest, the best of a validation, and the one that it continued from.

    `written.json` beside the checkpoints tells which are the training's own, also to the process that continues it. No
    other is ever removed: none that was there before, and none of a training that went on differently.
    """

    def __init__(self, folder: Path, keep: int | None, resumed: str | Path | None, log: Logger):
        self.folder, self.keep, self.log = folder, keep, log  # keep: how many of the newest; None: all
        self.note = folder / NOTE
        self.resumed = prefix_in(folder, resumed) if resumed else None
        self.written: list[str] = []  # names of prefixes, the oldest first
        self.best: tuple[float, str] | None = None  # the validation's score, and the name
        if self.resumed:
            self.read_note(self.resumed)

    def add(self, name: str) -> None:
        """Takes note of a checkpoint that has been written, and removes one that is too many."""
        self.written = [other for other in self.written if other != name] + [name]
        self.remove_old()

    def score(self, name: str, score: float) -> None:
        """Takes note of what a validation says of a checkpoint; higher is better."""
        if name in self.written and (self.best is None or score > self.best[0]):
            self.best = score, name
            self.remove_old()

    def remove_old(self) -> None:
        spared = {self.resumed, self.best and self.best[1]}
        old = [] if self.keep is None else self.written[: -self.keep]
        try:
            for name in (name for name in old if name not in spared):
                for kind in ("gen", "opt"):  # where the network is, the other is whole
                    (self.folder / f"{name}_{kind}.safetensors").unlink(missing_ok=True)
                self.written.remove(name)
            write_atomically(self.note, json.dumps({"written": self.written, "best": self.best}).encode())
        except (OSError, DataError) as error:
            self.log.warning(f"old checkpoints are not removed: {error}")

    def read_note(self, resumed: str) -> None:
        """What the process before this one noted, up to the checkpoint that this one continues from."""
        note = read_note(self.note)
        if note and resumed in (written := note["written"]):  # else no checkpoint is known to be the training's own
            self.written = written[: written.index(resumed) + 1]
            self.best = note["best"] if note["best"] and note["best"][1] in self.written else None


def prefix_in(folder: Path, checkpoint: str | Path) -> str | None:
    """The name of a checkpoint's prefix, where it is in the folder."""
    file = find_checkpoint(checkpoint).network
    if file.parent.resolve() != folder.resolve() or file.suffix not in SUFFIXES:
        return None
    return file.stem.removesuffix("_gen")
