"""JSON files, whole or not at all."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError
from data.errors import DataError, reason
from data.files import write_atomically
from data.paths import why_not_folder


def read_json(path: str | Path) -> Any:
    """What a JSON file holds. Raises UserError where it cannot be read, or is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read it: {reason(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {reason(error)}") from None


def write_json(value: Any, path: str | Path) -> None:
    """Writes JSON whole or not at all. A number that JSON has no word for (infinite, not a number) becomes null.

    Raises DataError where it cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        folder = Path(path).parent
        raise DataError(f"cannot make folder {folder}: {why_not_folder(folder, error)}; give another") from None
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode(errors="backslashreplace"))  # names need not be UTF-8


def finite(value: Any) -> Any:
    """The value with None in place of each number that is infinite or not a number."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
