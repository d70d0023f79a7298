"""Where image pairs lie: prepared folders, folders of whole images, LMDB. A store knows names and reads pairs.

Every store has `names` (sorted), `len()`, `sources(index)` (what to call the LR and the HR image in an error),
`read(index)` -> (LR image or None, HR image), and `sized`: whether its images are promised to have exactly the
configured resolutions. None of them holds an open file when it is pickled or forked.
"""

import errno
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import lmdb
from PIL import Image

from data.errors import DataError, reason
from data.image_files import ImageFiles, first_of_each_name, is_to_read, leads_to_folder, visible
from data.images import read_rgb
from data.names import factor_in, pair_names
from data.paths import is_folder

A_FULL_DISK = 1 << 16  # bytes that may be left of one
PREPARE_AGAIN = "run prepare_data.py again to complete them"


class PairStore:
    """A folder of HR images and, where there is one, a folder of LR images of the same names.

    Either may have words more, as 0001x4.png beside 0001.png, 1_LR.png beside 1_HR.png, or LR_1.png beside HR_1.png
    (`data.names`). A factor there must be that of `sizes`.
    """

    MEND = "add the missing images, or remove the others"  # where an image is without the other of its pair

    def __init__(
        self,
        hr_root: str | Path,
        lr_root: str | Path | None = None,
        sizes: tuple[int, int] | None = None,  # sides of LR and HR in pixels, by the config
    ):
        hr = list_images(Path(hr_root))
        lr = list_images(Path(lr_root)) if lr_root else None
        if lr is not None:
            lr_names = pair_names(hr, lr)
            if sizes:
                refuse_other_scale(lr_names, *sizes, f"{lr_root}")
            left = {name: name for name in lr.keys() - lr_names.values()}
            lr = {name: lr[lr_name] for name, lr_name in (lr_names | left).items()}
            require_same_names(set(hr), set(lr), f"{hr_root} and {lr_root}", self.MEND)
        self.sized = lr is not None
        self.names = sorted(hr)
        self._paths = [(lr[name] if lr else None, hr[name]) for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def sources(self, index: int) -> tuple[str | None, str]:
        return self._paths[index]

    def read(self, index: int) -> tuple[Image.Image | None, Image.Image]:
        lr, hr = self._paths[index]
        return read_rgb(lr) if lr else None, read_rgb(hr)


class FolderStore(PairStore):
    """`root/hr_R/` with `root/lr_L/` as prepare_data.py writes them, or a plain folder of HR images."""

    MEND = PREPARE_AGAIN

    def __init__(self, root: str | Path, l_resolution: int, r_resolution: int, with_lr: bool = True):
        hr, lr = Path(root) / f"hr_{r_resolution}", Path(root) / f"lr_{l_resolution}"
        if is_folder(hr):
            super().__init__(hr, lr if with_lr and is_folder(lr) else None)
            self.sized = True
        elif other := sorted(path.name for path in Path(root).glob("hr_*/")):
            raise DataError(f"{root} has no {hr.name}/ but {', '.join(other)}: set r_resolution, or prepare it")
        else:
            super().__init__(root)


class LmdbStore:
    """An LMDB of `lr_L_NAME` and `hr_R_NAME` (PNG bytes) and `length`; opened once in each process that reads it."""

    sized = True

    def __init__(self, root: str | Path, l_resolution: int, r_resolution: int, with_lr: bool = True):
        self.root, self.lr_prefix, self.hr_prefix = Path(root), f"lr_{l_resolution}_", f"hr_{r_resolution}_"
        self._env: lmdb.Environment | None = None
        self._pid: int | None = None  # the process that opened it
        with errors_of_lmdb(self.root), open_lmdb(self.root) as env, env.begin() as txn:
            length = txn.get(b"length", b"")
            hr = set(names_with_prefix(txn, self.hr_prefix))
            lr = set(names_with_prefix(txn, self.lr_prefix)) if with_lr else set()
        if not length.isdigit():
            raise DataError(f"{root} is an LMDB without `length`: run prepare_data.py --lmdb again to complete it")
        if not hr:
            raise DataError(f"{root} has no {self.hr_prefix}* images: set r_resolution, or prepare that size")
        if len(hr) < int(length):  # more is no harm: the published writer's processes race for the last `length`
            raise DataError(f"{root} has {len(hr)} {self.hr_prefix}* images and `length` {int(length)}: copy it anew")
        if lr:
            require_same_names(hr, lr, f"{self.hr_prefix}* and {self.lr_prefix}* in {root}", PREPARE_AGAIN)
        self.names, self._has_lr = sorted(hr), bool(lr)

    def __len__(self) -> int:
        return len(self.names)

    def sources(self, index: int) -> tuple[str | None, str]:
        lr, hr = self._keys(index)
        return lr and f"{lr} in {self.root}", f"{hr} in {self.root}"

    def read(self, index: int) -> tuple[Image.Image | None, Image.Image]:
        if self._env is None or self._pid != os.getpid():  # a forked worker must not use its parent's environment
            self._env, self._pid = open_lmdb(self.root), os.getpid()
        lr, hr = self._keys(index)
        with errors_of_lmdb(self.root), self._env.begin() as txn:
            return self._image(txn, lr) if lr else None, self._image(txn, hr)

    def _image(self, txn: lmdb.Transaction, key: str) -> Image.Image:
        content = txn.get(os.fsencode(key))
        if content is None:
            raise DataError(f"{key} is missing in {self.root}")
        return read_rgb(content, f"{key} in {self.root}")

    def _keys(self, index: int) -> tuple[str | None, str]:
        name = self.names[index]
        return self.lr_prefix + name if self._has_lr else None, self.hr_prefix + name

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_env": None, "_pid": None}


class CachedStore:
    """Another store, of which images are kept decoded in memory: as many as fit, in the order of `indices`.

    Processes that are forked after it was made share that memory; those that are spawned get a copy of it.
    """

    BYTES_PER_PIXEL = 4  # of an RGB image in Pillow

    def __init__(self, store: PairStore | LmdbStore, indices: Iterable[int], megabytes: int):
        self.store, self.sized, self.names = store, store.sized, store.names
        self._decoded: dict[int, tuple[Image.Image | None, Image.Image]] = {}
        left = megabytes * 1_000_000
        for index in indices:
            pair = store.read(index)
            left -= sum(image.width * image.height * self.BYTES_PER_PIXEL for image in pair if image)
            if left < 0:
                break
            self._decoded[index] = pair

    def __len__(self) -> int:
        return len(self.store)

    def sources(self, index: int) -> tuple[str | None, str]:
        return self.store.sources(index)

    def read(self, index: int) -> tuple[Image.Image | None, Image.Image]:
        return self._decoded.get(index) or self.store.read(index)


# ---------------------------------------------------------------------------------------------------------------------


def list_images(folder: Path) -> dict[str, str]:
    """Stem -> path of the images that lie directly in a folder; a warning names what may be one and is left out.

    Raises DataError where there are none.
    """
    found = ImageFiles()
    try:
        for entry in sorted(visible(folder), key=lambda entry: entry.name):
            if not leads_to_folder(entry) and is_to_read(entry, found):
                found.images.append(Path(entry.path))
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {reason(error)}") from None
    images = {stem: os.fspath(path) for stem, path in first_of_each_name(found.images, found.left_out)}
    if found.left_out:
        more = f", and {len(found.left_out) - 3} more" if len(found.left_out) > 3 else ""
        warnings.warn(f"left out: {'; '.join(found.left_out[:3])}{more}", stacklevel=2)
    if not images:
        raise DataError(f"no image in {folder} (its subfolders are not searched)")
    return images


def refuse_other_scale(lr_names: Mapping[str, str], lr_side: int, hr_side: int, lr_root: str) -> None:
    """One line where an LR image has the name of its HR image and another scale, as 0001x4 for 0001 with 16 and 128."""
    for name, lr_name in sorted(lr_names.items()):
        factor = factor_in(lr_name, name)
        if factor and factor * lr_side != hr_side:
            asked = f"x{hr_side / lr_side:g}"
            raise DataError(
                f"{lr_root} has images of scale x{factor} ({lr_name}), and the config says {asked}: "
                f"{resolutions_of(factor, hr_side)}, or lr_dataroot to the folder of {asked}"
            )


def resolutions_of(factor: int, hr_side: int) -> str:
    """Which resolutions to set for images of another scale: r_resolution stays, or becomes a multiple of the factor."""
    lr_side = max(hr_side // factor, 1)
    if lr_side * factor == hr_side:
        return f"set l_resolution to r_resolution / {factor}, {lr_side}"
    return f"set l_resolution to {lr_side} and r_resolution to {lr_side * factor}"


def require_same_names(hr: set[str], lr: set[str], where: str, mend: str) -> None:
    """Raises DataError, naming the first few, unless both halves hold the same images."""
    lonely = []
    for names, half, other in ((sorted(hr - lr), "HR", "LR"), (sorted(lr - hr), "LR", "HR")):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            lonely.append(f"{len(names)} {half} image(s) without their {other} ({shown})")
    if lonely:
        raise DataError(f"{where} do not match: {', '.join(lonely)}; {mend}")


@contextmanager
def errors_of_lmdb(root: Path) -> Iterator[None]:
    """Turns LMDB's errors into DataError. LMDB calls a full disk an input/output error."""
    try:
        yield
    except lmdb.Error as error:
        why = reason(error).removeprefix(f"{root}: ")
        if why.endswith(os.strerror(errno.EIO)) and shutil.disk_usage(root).free < A_FULL_DISK:
            why = os.strerror(errno.ENOSPC)
        raise DataError(f"LMDB {root}: {why}") from None


def open_lmdb(root: Path) -> lmdb.Environment:
    """Opens an LMDB to read. Raises DataError, also for a file cut short, which LMDB itself answers with a crash."""
    with errors_of_lmdb(root):
        env = lmdb.open(os.fsencode(root), readonly=True, create=False, lock=False, readahead=False, meminit=False)
    expected = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if (actual := (root / "data.mdb").stat().st_size) < expected:
        env.close()
        raise DataError(f"{root / 'data.mdb'} is cut short ({actual} of {expected} bytes): copy it anew")
    return env


def names_with_prefix(txn: lmdb.Transaction, prefix: str) -> Iterator[str]:
    """The image names whose key starts with `prefix`, by a scan over the keys: names need not be running numbers."""
    start = prefix.encode()
    cursor = txn.cursor()
    if not cursor.set_range(start):
        return
    for key in cursor.iternext(keys=True, values=False):
        if not key.startswith(start):
            return
        yield os.fsdecode(key.removeprefix(start))
