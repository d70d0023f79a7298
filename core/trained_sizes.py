"""Any size from a network that learnt few: what it makes well is made, and then reduced.

Networks for whole images, such as faces, are trained at few sizes, and make others coarse or distorted. So a result is
made at the next larger size that the network learnt, and reduced (supersampling). A result of a larger magnification
than it learnt is made in two stages: the largest that it makes at once becomes the LR image of the second (a cascade,
as of Ho et al. 2022). Networks for crops make images of any size, but of few magnifications; others are made at the
usual one, and reduced.
"""

from collections.abc import Sequence
from typing import NamedTuple

from core.config import Config

Sides = tuple[int, int]  # (H, W)


class Stage(NamedTuple):
    """One sampling: the size at which its result is made, and the size to which that is reduced."""

    made_at: Sides
    size: Sides


class TrainedSizes(NamedTuple):
    """What a network was trained to make, and of what. Nothing but the magnification: every size."""

    magnification: float  # the usual one
    sides: tuple[int, ...] = ()  # of whole images, the longer ones, ascending
    lr_side: int = 0  # of whole images, the longest
    magnifications: tuple[float, ...] = ()  # of crops, ascending

    @classmethod
    def of(cls, config: Config) -> "TrainedSizes":
        sets = list(config.datasets.training.values())
        if not sets or "train" not in config or config.train.continuous_scale:
            return cls(config.magnification)
        drawn = [row[:2] for images in sets for row in images.sizes or [[images.l_resolution, images.r_resolution]]]
        if any(images.use_crop for images in sets):
            return cls(config.magnification, magnifications=tuple(sorted({hr / lr for lr, hr in drawn})))
        sides = sorted({images.r_resolution for images in sets})
        return cls(config.magnification, tuple(sides), int(max(lr for lr, _ in drawn)))

    def stages(self, size: Sides, lr_size: Sequence[int]) -> list[Stage]:
        """The stages of a result; where the network has learnt nothing that serves, one at the result's own size."""
        if self.magnifications:
            return [Stage(self.magnified(size, lr_size), size)]
        at_once = self.next_side(max(size), max(lr_size))
        if at_once:
            return [Stage(scaled(size, at_once), size)]
        first = max((side for side in self.sides if side <= self.magnification * max(lr_size)), default=0)
        between = min(first, self.lr_side)
        second = self.next_side(max(size), between)
        if second and between > max(lr_size):
            return [Stage(scaled(size, first), scaled(size, between)), Stage(scaled(size, second), size)]
        return [Stage(size, size)]

    def next_side(self, longest: int, lr_longest: int) -> int | None:
        """The smallest trained side, for a result with this longer side, that the magnification allows."""
        most = self.magnification * lr_longest
        return next((side for side in self.sides if longest <= side <= most), None)

    def magnified(self, size: Sides, lr_size: Sequence[int]) -> Sides:
        """A magnification that was trained, or that is beyond the usual one, as it is; any other as the usual one."""
        height, width = (side * self.magnification for side in lr_size)
        trained = any(is_about(size, [side * factor for side in lr_size]) for factor in self.magnifications)
        if trained or size[0] >= height + 1 or size[1] >= width + 1:
            return size
        return round(height), round(width)


def is_about(size: Sides, exact: Sequence[float]) -> bool:
    """Whether a size is what these lengths are rounded to."""
    return all(abs(side - length) < 1 for side, length in zip(size, exact, strict=True))


def scaled(size: Sides, longest: int) -> Sides:
    """A size of the same shape whose longer side is another."""
    height, width = (max(round(side * longest / max(size)), 1) for side in size)
    return height, width
