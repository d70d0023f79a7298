"""The way of a photograph's faces: found in the photograph, super-resolved, blended into the larger photograph."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from core.config.presets import PRESETS
from core.errors import UserError
from core.faces.blending import Region, blend, cut
from core.faces.cascades import CASCADES
from core.faces.detection import LARGEST, SMALLEST, Face, find_faces
from core.inference.network_choice import Load, Networks
from core.inference.output_files import face_file
from core.sampling.super_resolution import super_resolve
from core.sampling.trained_sizes import TrainedSizes
from data.files import make_writable
from data.images import save_png
from data.tensors import to_image, to_tensor

RESULTS = (48, 256)  # pixels of the faces that the network learnt to make
PASSED = ("seed", "precision", "trained_sizes", "mirrored")  # what the flags for the photograph mean for its faces too


class FaceEnhancer:
    """Makes the faces of photographs with a network for faces, as the network's own `sample` section says."""

    def __init__(
        self,
        network: str | Path | None,  # None: the shipped one
        device: torch.device,
        flags: Mapping[str, Any],
        folder: Path | None = None,
        load: Load | None = None,  # None: from the file
        detector: str = "lbp",  # one of CASCADES
        preset: str | None = None,  # of the photograph; whether it mirrors holds for the faces too
    ) -> None:
        """folder: where the faces go as well, each as it was cut out and as it was made.

        Raises UserError where the network or the detector cannot be had, or the network is not for faces, and DataError
        where nothing can be written to the folder.
        """
        self.cascade = CASCADES[detector]()
        meant = {**(PRESETS[preset] if preset else {}), **flags}
        passed = {name: value for name, value in meant.items() if name in PASSED}
        # Faces differ in size, and a graph captured for each would cost more than its one call.
        self.ready = Networks(network, device, passed | {"compile": False}, load=load).of((LARGEST, LARGEST))
        if self.ready.config.trained_images.use_crop:
            raise UserError(f"--faces {network}: this network was trained on crops of images; name one for whole faces")
        self.folder = folder
        if folder:
            make_writable(folder)

    def improve(self, photo: Image.Image, larger: Image.Image, name: Path) -> str:
        """Blends the faces that are found in the photograph into the larger one -> what they are, in words.

        name: of the result inside the folder of results, after which the files of its faces are called.
        """
        faces = find_faces(photo, self.cascade)
        made = [self.make(photo, larger, face) for face in faces]  # before anything is blended in
        for number, (region, small, large) in enumerate(made, 1):
            if self.folder:
                save(small, face_file(self.folder / name, number, "_lr"))
                save(large, face_file(self.folder / name, number))
            blend(larger, large.resize(region.size, Image.Resampling.BICUBIC), region, larger.width / photo.width)
        return in_words(faces)

    def make(self, photo: Image.Image, larger: Image.Image, face: Face) -> tuple[Region, Image.Image, Image.Image]:
        """-> (where the face goes, the face as it was cut out, the face as it was made), both squares."""
        region = Region.of(face, photo, larger)
        small = cut(photo, larger, region, within(round(face.side), SMALLEST, LARGEST))
        side = within(max(region.size), *RESULTS)
        sampling, config = self.ready.sampling, self.ready.config
        lr, seeds = to_tensor(small)[None], [sampling.settings.seed]
        sr = super_resolve(self.ready.network, lr, (side, side), sampling, seeds, TrainedSizes.of(config))
        return region, small, to_image(sr[0])


def save(face: Image.Image, file: Path) -> None:
    make_writable(file.parent)
    save_png(face, file)


def in_words(faces: Sequence[Face]) -> str:
    """How many faces there are, and of which sizes, in words."""
    if not faces:
        return f"no face of {SMALLEST} to {LARGEST} pixels"
    sides = sorted(round(face.side) for face in faces)
    sizes = str(sides[0]) if sides[0] == sides[-1] else f"{sides[0]} to {sides[-1]}"
    return f"{len(faces)} {'face' if len(faces) == 1 else 'faces'} of {sizes} pixels"


def within(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)
