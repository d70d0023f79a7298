"""The config for validating a network on images of one's own: that of its checkpoint, with other images."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.checkpoint.files import saved_config
from core.config import Config, changed
from core.config.loading import config_for_run
from core.config.sections import is_validation_set
from core.errors import UserError

KEPT = ("name", "model", "sample", "sparse", "datasets")  # others tell of the training, and of the machine it was on
OF_OTHER_IMAGES = ("name", "data_len", "datatype", "dataroot", "hr_dataroot", "lr_dataroot")
OF_TRAINING = ("l_resolution", "r_resolution", "use_crop")  # what a set has of the training, where it has nothing else


def own_images_config(
    checkpoint: str | Path,
    overrides: Iterable[str],
    flags: Mapping[str, Any] | None = None,
    flag_names: Mapping[str, str] | None = None,
) -> Config:
    """The config of a native checkpoint, for validation on the sets of images that the overrides name and no others.

    Sizes, crops, degradation and sampling are those of the checkpoint unless they are overridden; a set is called as
    its folder is. Raises UserError where the checkpoint holds no config, or no images are named.
    """
    saved, overrides = saved_config(checkpoint), list(overrides)
    if saved is None:
        raise UserError(f"{checkpoint}: a published checkpoint holds no config: give one with -c")
    if not any("dataroot" in text.partition("=")[0] for text in overrides):
        raise UserError("no images to validate on: name their folder, --set datasets.val.dataroot=FOLDER")
    given = {name: value for name, value in saved.to_dict().items() if name in KEPT}
    given["datasets"] = without_images(given["datasets"], sets_in(overrides))
    return with_names_of_folders(config_for_run(given, f"the config in {checkpoint}", overrides, flags, flag_names))


def sets_in(overrides: Iterable[str]) -> list[str]:
    """The sets of validation images whose keys are overridden by their full paths."""
    names = (re.match(r"\s*datasets\.([^.=]+)\.", text) for text in overrides)
    return [match[1] for match in names if match and is_validation_set(match[1])]


def without_images(sets: Mapping[str, Any], asked_for: Iterable[str]) -> dict[str, Any]:
    """The sets as the checkpoint has them, and those that are asked for as the first of them, without any images.

    What remains without images is left out of the run.
    """
    of_validation = {name: images for name, images in sets.items() if is_validation_set(name)}
    others = {name: images for name, images in sets.items() if name not in of_validation}
    of_training = {key: images[key] for images in list(others.values())[:1] for key in OF_TRAINING}
    usual = next(iter(of_validation.values()), of_training)
    wanted = {**dict.fromkeys(["val", *asked_for], usual), **of_validation}
    empty = {"dataroot": None, "hr_dataroot": None}
    return others | {
        name: {key: value for key, value in images.items() if key not in OF_OTHER_IMAGES} | empty
        for name, images in wanted.items()
    }


def with_names_of_folders(config: Config) -> Config:
    """The config with each set that has no other name called as the folder of its images."""
    names = {
        f"datasets.{key}.name": Path(os.path.realpath(images.dataroot or images.hr_dataroot or key)).name or key
        for key, images in config.datasets.validation.items()
        if images.name == key
    }
    return changed(config, names)
