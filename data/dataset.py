"""The dataset: pairs of low- and high-resolution images as tensors in [-1, 1]."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from data.augmentation import Jitter, draw_jitter, draw_tone, place, tinted, turn
from data.degradation import Degradation, degrade
from data.errors import DataError
from data.images import centre_square, resize
from data.memory import refuse_too_large
from data.paths import is_file, is_folder, is_there, refuse_unseen
from data.stores import CachedStore, FolderStore, LmdbStore, PairStore, resolutions_of
from data.stream import Draw
from data.tensors import to_tensor


class SRDataset(Dataset):
    """Image pairs of one `datasets.train` or `datasets.val` section of a configuration.

    dataroot        a folder with `hr_R/` (and `lr_L/`), a plain folder of HR images, or (datatype lmdb) an LMDB
    hr_dataroot     instead of dataroot: a folder of HR images, with lr_dataroot for their LR images if there are any
    l_resolution, r_resolution      sides of the LR and HR images in pixels
    use_crop        cut r_resolution squares out of larger images: anywhere in training, the centre in validation
    augment         flip horizontally with probability 1/2, in training
    rotate          turn by a random multiple of 90 degrees, in training
    shrink          (a, b) in (0, 1], in training: crops show images made smaller by a factor drawn from this range, as
                    far as their size allows
    jitter          {option of data.augmentation.Jitter: value}, in training: move, magnify, turn and tint whole images
    degradation     {option of data.degradation.Degradation: value}: how LR is made of the r x r HR image; without it,
                    by bicubic resizing, of the image as it is stored
    data_len        only the first so many images by name; -1 for all
    weights         {pattern of names: weight}, in training: how often an image is drawn, compared with others. The
                    first pattern (fnmatch) that fits its name counts, 1 without any; 0 leaves it out of the dataset
    cache_mb        in training, memory for images that stay decoded, see `fill_cache`
    mode            LRHR, or HR to ignore stored LR images and make them from the HR ones, as jitter, shrink and
                    degradation do

    `dataset[Draw(index, seed)]` is a training sample, which the seed alone determines; `dataset[int]` has nothing
    random about it but its degradation, which follows from the index. Both give {"lr": float32 (3, l, l),
    "hr": float32 (3, r, r), "index": int, "name": str}.
    `dataset.weights` is float64 (len(dataset),), all above 0, or None where all images are drawn alike.
    `section` is what errors call the section. Raises DataError for missing, unreadable and wrongly sized images: an
    image is never replaced by another one.
    """

    store: PairStore | LmdbStore | CachedStore

    def __init__(self, spec: Mapping[str, Any], train: bool, section: str | None = None):
        self.l, self.r = spec["l_resolution"], spec["r_resolution"]
        self.train, self.use_crop = train, bool(spec.get("use_crop"))
        self.augment, self.rotate = train and bool(spec.get("augment")), train and bool(spec.get("rotate"))
        self.shrink = tuple(spec.get("shrink", (1, 1))) if train else (1, 1)
        self.jitter = Jitter(**spec["jitter"]) if train and "jitter" in spec else None
        self.degradation = Degradation(**spec["degradation"]) if "degradation" in spec else None
        self.cache_mb = spec.get("cache_mb", 0) if train else 0
        section = section or ("datasets.train" if train else "datasets.val")
        self.store = open_store(spec, section)
        self.indices = range(len(self.store))  # of the dataset's images in the store
        if (limit := spec.get("data_len", -1)) != -1:
            if limit < 1:
                raise DataError(f"{section}.data_len: {limit} leaves no image; set it to -1 for all, or to 1 or more")
            self.indices = self.indices[:limit]
        self.weights = None
        if train and spec.get("weights"):
            root = spec.get("hr_dataroot") or spec["dataroot"]
            weights = weights_by_name(self.store.names, spec["weights"], section, root)[: len(self)]
            if not weights.any():
                raise DataError(f"{section}.weights: no image of {root} is left; give some a weight above 0")
            self.indices, self.weights = np.flatnonzero(weights).tolist(), weights[weights > 0]

    def __len__(self) -> int:
        return len(self.indices)

    def fill_cache(self) -> None:
        """Decodes images into memory, as many as `cache_mb` holds: 1000 for 770 photographs of 480×480 pixels."""
        if self.cache_mb and not isinstance(self.store, CachedStore):
            self.store = CachedStore(self.store, self.indices, self.cache_mb)

    def __getitem__(self, item: Draw | int) -> dict:
        index = item.index if isinstance(item, Draw) else int(item)
        if not 0 <= index < len(self):
            raise IndexError(index)
        seed = item.seed if self.train and isinstance(item, Draw) else None
        stored = self.indices[index]
        lr, hr = self._draw_pair(stored, Random(seed) if seed is not None else None)
        full, hr = hr, hr if self.store.sized else resize(hr, (self.r, self.r))
        if self.degradation:
            rng = np.random.default_rng(index if seed is None else seed)
            lr = degrade(hr, (self.l, self.l), self.degradation, rng)
        elif lr is None:  # from the full square, as prepare_data.py does
            lr = resize(full, (self.l, self.l))
        self._require_sizes(stored, lr, hr)
        return {"lr": to_tensor(lr), "hr": to_tensor(hr), "index": index, "name": self.store.names[stored]}

    def _draw_pair(self, index: int, rng: Random | None) -> tuple[Image.Image | None, Image.Image]:
        """The stored LR image, if there is one, and the HR image of the store's index, squares of the same part."""
        flip = self.augment and rng is not None and rng.random() < 0.5
        lr, hr = self.store.read(index)
        if self.jitter and rng:
            hr = place(hr, *draw_jitter(self.jitter, rng))
            if self.jitter.tone:
                hr = tinted(hr, *draw_tone(self.jitter.tone, rng))
        if self.use_crop:
            lr, hr = self._crop(index, lr, hr, rng)
        elif not self.store.sized:
            hr = centre_square(hr)
        if flip:
            lr, hr = lr and ImageOps.mirror(lr), ImageOps.mirror(hr)
        if self.rotate and rng:
            quarters = rng.randrange(4)
            lr, hr = lr and turn(lr, quarters), turn(hr, quarters)
        return lr, hr

    def _require_sizes(self, index: int, lr: Image.Image, hr: Image.Image) -> None:
        for image, side, source in zip((lr, hr), (self.l, self.r), self.store.sources(index), strict=True):
            if image.size != (side, side):
                raise DataError(
                    f"{source} is {_size(image)}, not {side}x{side}: set l_resolution and r_resolution to the data's, "
                    "or use_crop: true to cut squares out of larger images"
                )

    def _crop(
        self, index: int, lr: Image.Image | None, hr: Image.Image, rng: Random | None
    ) -> tuple[Image.Image | None, Image.Image]:
        """An r x r square of the HR image, and the l x l square of the LR image that shows the same.

        Only where there is no LR image may HR be made smaller first.
        """
        factor = 1 if lr is None else self._factor_between(index, lr, hr)
        side = self.r // factor
        cells = [hr.width // factor, hr.height // factor]  # positions are on the grid that both images share
        if lr is not None:
            cells = [min(pair) for pair in zip(cells, lr.size, strict=True)]
        if min(cells) < side:
            most = min(cells) * factor if lr is None else f"{min(cells) * factor}, and l_resolution to {min(cells)}"
            raise DataError(
                f"{self.store.sources(index)[1]} is {_size(hr)}, too small for r_resolution {self.r}: lower that to "
                f"{most}, or take out what is smaller"
            )
        if lr is None and rng and self.shrink != (1, 1):
            side = min(round(side / rng.uniform(*self.shrink)), *cells)
        x, y = (int(rng.random() * (n - side + 1)) if rng else (n - side) // 2 for n in cells)
        if lr is not None:
            lr = lr.crop((x, y, x + self.l, y + self.l))
        hr = hr.crop((x * factor, y * factor, (x + side) * factor, (y + side) * factor))
        return lr, resize(hr, (self.r, self.r)) if lr is None else hr

    def _factor_between(self, index: int, lr: Image.Image, hr: Image.Image) -> int:
        factor, rest = divmod(self.r, self.l)
        if rest:
            raise DataError(f"r_resolution {self.r} is no multiple of l_resolution {self.l}: crops cannot be aligned")
        if any(abs(small * factor - large) >= factor for small, large in zip(lr.size, hr.size, strict=True)):
            source = self.store.sources(index)
            wrong = f"{source[0]} is {_size(lr)}, no {factor}-th of {source[1]}, which is {_size(hr)}"
            raise DataError(f"{wrong}: {self._how_to_scale(lr, hr, factor)}")
        return factor

    def _how_to_scale(self, lr: Image.Image, hr: Image.Image, factor: int) -> str:
        """What to do about a pair of another scale than the config's."""
        actual = max(round(hr.width / lr.width), 1)
        if lr.width > hr.width:
            return "the LR image is the larger one; are the folders swapped?"
        if actual > 1 and all(
            abs(small * actual - large) < actual for small, large in zip(lr.size, hr.size, strict=True)
        ):
            return resolutions_of(actual, self.r)
        return f"give one of {hr.width // factor}x{hr.height // factor}, or take the pair out"


def open_store(spec: Mapping[str, Any], section: str) -> PairStore | LmdbStore:
    """The store that a dataset section describes. Raises DataError that names the configuration key."""
    is_lmdb = spec.get("datatype", "img") == "lmdb"
    changed = {"degradation", "jitter"} & set(spec) or tuple(spec.get("shrink", (1, 1))) != (1, 1)
    with_lr = spec.get("mode", "LRHR") != "HR" and not changed
    l_resolution, r_resolution = spec["l_resolution"], spec["r_resolution"]
    what = f"{section}.r_resolution: an image of it"
    refuse_too_large(r_resolution, r_resolution, 4, what, "set it to the size of the images")
    if spec.get("hr_dataroot"):
        for key in ("hr_dataroot", "lr_dataroot"):
            if spec.get(key):
                require_folder(Path(spec[key]), f"{section}.{key}", f"there is no folder {spec[key]}")
        if is_lmdb:
            raise DataError(f"{section}.datatype: lmdb goes with dataroot; set it to img for hr_dataroot")
        lr = spec.get("lr_dataroot") if with_lr else None
        return PairStore(spec["hr_dataroot"], lr, (l_resolution, r_resolution))
    if not spec.get("dataroot"):
        raise DataError(f"{section}.dataroot: missing; set it (or {section}.hr_dataroot) to the folder of the images")
    root = Path(spec["dataroot"])
    require_folder(root, f"{section}.dataroot", f"there is no {root}; {_how_to_make(root, spec, is_lmdb)}")
    if is_lmdb != is_file(root / "data.mdb"):
        article, other = ("no", "img") if is_lmdb else ("an", "lmdb")
        raise DataError(f"{section}.datatype: {root} is {article} LMDB; set it to {other}")
    return (LmdbStore if is_lmdb else FolderStore)(root, l_resolution, r_resolution, with_lr)


def require_folder(path: Path, key: str, missing: str) -> None:
    """Raises DataError that names the key where a path is no folder; `missing` is told where nothing is there."""
    if is_folder(path):
        return
    refuse_unseen(path, key)
    if is_there(path):
        raise DataError(f"{key}: {path} is a file: give a folder, as the one that it is in, {path.absolute().parent}")
    raise DataError(f"{key}: {missing}")


def weights_by_name(names: list[str], patterns: Mapping[str, float], section: str, root: str | Path) -> np.ndarray:
    """The weight of each name. Raises DataError for a pattern that decides on none."""
    weights, undecided = np.ones(len(names)), np.ones(len(names), dtype=bool)
    for pattern, weight in patterns.items():
        fits = np.array([fnmatchcase(name, pattern) for name in names])
        if not fits.any():
            example = f"names are without extension, as {names[0]!r}"
            raise DataError(f"{section}.weights: no image of {root} fits {pattern!r}: mend or remove it; {example}")
        if not (fits & undecided).any():
            raise DataError(f"{section}.weights: earlier patterns fit all that {pattern!r} fits: put it before them")
        weights[fits & undecided] = weight
        undecided &= ~fits
    return weights


def _how_to_make(root: Path, spec: Mapping[str, Any], is_lmdb: bool) -> str:
    """The command that makes a missing dataroot."""
    sizes = f"{spec['l_resolution']},{spec['r_resolution']}"
    ending = "_" + sizes.replace(",", "_")
    out = str(root).removesuffix(ending)
    command = f"python data/prepare_data.py --path IMAGES --out {out} --size {sizes}{' --lmdb' if is_lmdb else ''}"
    return f"make it with: {command}" + ("" if str(root).endswith(ending) else f" and set it to {out}{ending}")


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
