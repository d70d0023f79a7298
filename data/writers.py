"""Where prepare_data.py puts its image pairs: folders or an LMDB. A writer knows what is finished and adds to it."""

import os
from pathlib import Path

import lmdb

from data.errors import DataError, reason
from data.files import remove_unfinished, write_atomically
from data.stores import errors_of_lmdb, names_with_prefix


class FolderWriter:
    """Writes `root/lr_L/NAME.png` and `root/hr_R/NAME.png`, from as many processes as there are."""

    def __init__(self, root: Path, sizes: tuple[int, int]):
        self.folders = [root / f"{half}_{size}" for half, size in zip(("lr", "hr"), sizes, strict=True)]
        for folder in self.folders:
            try:
                folder.mkdir(exist_ok=True)
                remove_unfinished(folder)
            except OSError as error:
                raise DataError(f"cannot use folder {folder}: {reason(error)}") from None

    def __enter__(self) -> "FolderWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Each pair is on disk as soon as it is written."""

    def finished(self) -> set[str]:
        """Names of which both images are there."""
        return set.intersection(*({path.stem for path in folder.glob("*.png")} for folder in self.folders))

    def write(self, name: str, pair: tuple[bytes, bytes]) -> None:
        for folder, content in zip(self.folders, pair, strict=True):
            write_atomically(folder / f"{name}.png", content)


class LmdbWriter:
    """Writes `lr_L_NAME`, `hr_R_NAME` and `length`, from one process alone.

    Pairs are committed in batches, each with the `length` that is then true, so a killed run leaves a smaller LMDB and
    never a wrong one. The map starts at `map_size` bytes and doubles as it fills.
    """

    BATCH = 64

    def __init__(self, root: Path, sizes: tuple[int, int], map_size: int = 1 << 26):
        self.root, self.prefixes = root, [f"lr_{sizes[0]}_", f"hr_{sizes[1]}_"]
        with errors_of_lmdb(root):
            self.env = lmdb.open(os.fsencode(root), map_size=map_size, meminit=False)
            self.pending: dict[str, tuple[bytes, bytes]] = {}
            self.count = len(self.finished())

    def finished(self) -> set[str]:
        """Names of which both images are there."""
        with self.env.begin() as txn:
            return set.intersection(*(set(names_with_prefix(txn, prefix)) for prefix in self.prefixes))

    def write(self, name: str, pair: tuple[bytes, bytes]) -> None:
        self.pending[name] = pair
        if len(self.pending) >= self.BATCH:
            self.flush()

    def flush(self) -> None:
        """Commits the pairs written so far."""
        with errors_of_lmdb(self.root):
            while self.pending:
                try:
                    self._commit()
                except lmdb.MapFullError:  # the whole batch was rolled back; it is tried again in a larger map
                    self.env.set_mapsize(2 * self.env.info()["map_size"])

    def _commit(self) -> None:
        with self.env.begin(write=True) as txn:
            for name, pair in self.pending.items():
                for prefix, content in zip(self.prefixes, pair, strict=True):
                    txn.put(os.fsencode(prefix + name), content)
            txn.put(b"length", str(self.count + len(self.pending)).encode())
        self.count += len(self.pending)
        self.pending = {}

    def __enter__(self) -> "LmdbWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self.env.close()
