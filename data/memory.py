"""What fits into memory, for sizes that a user may give too large."""

import os

from data.errors import DataError

LARGEST_SIDE = 2**31 - 1  # pixels, of a PNG


def refuse_too_large(width: int, height: int, bytes_per_pixel: int, what: str, advice: str) -> None:
    """Raises DataError where an image has more pixels than a PNG can have, or alone takes more memory than there is."""
    if max(width, height) > LARGEST_SIDE:
        raise DataError(f"{what} has more pixels on a side than a PNG can have, {LARGEST_SIDE:,}; {advice}")
    taken, there = width * height * bytes_per_pixel, memory_of_machine()
    if there and taken > there:
        sizes = f"{taken / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f} GB"
        raise DataError(f"{what} has {width:,}x{height:,} pixels: these alone take {sizes}; {advice}")


def memory_of_machine() -> int:
    """Bytes of its memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
