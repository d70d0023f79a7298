"""How a network that was trained for few sizes makes a result of any size: at a size that it makes well, then reduced.

Networks for whole images, such as faces, make their largest sizes best, and others at their usual magnification. So a
smaller result is made at such a size, if the training had it from this LR size, and else at that magnification, and
reduced (supersampling). A result that is more times as large as usual is made in two stages: the largest that is made
at once becomes the LR image of the second (a cascade, as of Ho et al. 2022). Networks for crops make images of any
size, but of few magnifications; others are made at the usual one, and reduced.
"""

from collections.abc import Sequence
from typing import NamedTuple

from core.config import Config

Sides = tuple[int, int]  # (H, W)
NEAR = 1.05  # times a trained magnification, or less by that: made as it is


class Stage(NamedTuple):
    """One sampling: the size at which its result is made, and the size to which that is reduced."""

    made_at: Sides
    size: Sides


class TrainedSizes(NamedTuple):
    """What a network was trained to make. With the magnification alone, results are made at their own sizes."""

    magnification: float  # of the config, by which the network knows the scale
    sides: tuple[int, ...] = ()  # of whole images: the largest result of each training set, ascending
    lr_side: int = 0  # of whole images: the longest LR side drawn in training
    magnifications: tuple[float, ...] = ()  # of crops: all that were drawn in training, ascending
    pairs: frozenset[tuple[int, int]] = frozenset()  # (LR side, one of `sides`) drawn, at most `magnification` apart

    @classmethod
    def of(cls, config: Config) -> "TrainedSizes":
        sets = [images for images in config.datasets.training.values() if images]
        if not sets or "train" not in config or config.train.continuous_scale:
            return cls(config.magnification)
        use_crop = config.trained_images.use_crop
        drawn = [
            images.sizes or [[images.l_resolution, images.r_resolution, 1]]
            for images in sets
            if images.use_crop == use_crop
        ]
        every = [row for rows in drawn for row in rows]
        if use_crop:
            return cls(config.magnification, magnifications=tuple(sorted({hr / lr for lr, hr, _ in every})))
        sides = sorted({int(max(hr for _, hr, _ in rows)) for rows in drawn})
        pairs = frozenset(
            (int(lr), int(hr)) for lr, hr, _ in every if hr in sides and hr <= round(config.magnification * lr)
        )
        return cls(config.magnification, tuple(sides), int(max(lr for lr, _, _ in every)), pairs=pairs)

    def stages(self, size: Sides, lr_size: Sequence[int]) -> list[Stage]:
        """The stages of a result, with its own size at the end."""
        if self.magnifications:
            return [Stage(self.magnified(size, lr_size), size)]
        if at_once := self.side_at_once(max(size), max(lr_size)):
            return [Stage(scaled(size, at_once), size)]
        return self.cascade(size, lr_size) or [Stage(size, size)]

    def cascade(self, size: Sides, lr_size: Sequence[int]) -> list[Stage]:
        """Two stages of a larger magnification than the usual one; none where the first makes no larger LR image."""
        most = round(self.magnification * max(lr_size))
        between = scaled(size, max(min(most, self.lr_side), 1))
        is_larger = max(between) > max(lr_size) and between[0] >= lr_size[0] and between[1] >= lr_size[1]
        first, second = (self.side_at_once(max(to), max(of)) for to, of in ((between, lr_size), (size, between)))
        if max(size) <= most or not is_larger or not first:
            return []
        return [Stage(scaled(size, first), between), Stage(scaled(size, second) if second else size, size)]

    def side_at_once(self, longest: int, lr_longest: int) -> int | None:
        """The side at which a result with this longer side is made: the next of `sides` if it was drawn from this LR
        side, else that of the usual magnification, or the next where that is beyond all. None for a larger result."""
        usual = round(self.magnification * lr_longest)
        following = next((side for side in self.sides if longest <= side), None)
        if following is None or longest > usual:
            return None
        return following if usual > self.sides[-1] or (lr_longest, following) in self.pairs else usual

    def magnified(self, size: Sides, lr_size: Sequence[int]) -> Sides:
        """The usual magnification of the LR size: that of the config, or the largest drawn. The size itself where that
        is a trained one, or more than usual."""
        usual = self.magnification if self.magnification in self.magnifications else self.magnifications[-1]
        height, width = (side * usual for side in lr_size)
        trained = any(is_about(size, [side * factor for side in lr_size]) for factor in self.magnifications)
        if trained or size[0] >= height + 1 or size[1] >= width + 1:
            return size
        return round(height), round(width)


def is_about(size: Sides, exact: Sequence[float]) -> bool:
    """Whether a size is near these lengths, or what they are rounded to."""
    pairs = list(zip(size, exact, strict=True))
    return all(abs(side - length) < 1 or 1 / NEAR <= side / length <= NEAR for side, length in pairs)


def scaled(size: Sides, longest: int) -> Sides:
    """A size of the same shape whose longer side is another."""
    height, width = (max(round(side * longest / max(size)), 1) for side in size)
    return height, width
