"""What the page refuses, so that one photo does not keep the machine busy for hours."""

from typing import NamedTuple

from core.errors import UserError

MOST_BYTES = 30_000_000  # of an upload
MOST_PIXELS = 16_000_000  # of a result


class Limits(NamedTuple):
    most_bytes: int = MOST_BYTES
    most_pixels: int = MOST_PIXELS

    def check_bytes(self, size: int) -> None:
        """Raises UserError where a file is too large."""
        if size > self.most_bytes:
            raise UserError(
                f"The photo has {size / 1e6:.1f} MB, and the page takes {self.most_bytes / 1e6:g} MB at most: "
                "save it smaller."
            )

    def check_pixels(self, width: int, height: int) -> None:
        """Raises UserError where a result is too large."""
        if width * height > self.most_pixels:
            raise UserError(
                f"The result would be made with {width}x{height} pixels, {width * height / 1e6:.1f} million, and the "
                f"page makes {self.most_pixels / 1e6:g} million at most: choose a smaller photo or size."
            )
