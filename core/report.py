"""What a person reads of a measurement: pictures side by side, a table, and the JSON file with all the numbers."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data.files import write_atomically

GAP = 4  # pixels between pictures
HEADER = 16  # pixels of a line of labels

ROWS = (  # a measurement, what it is called, how it is written
    ("psnr", "PSNR, dB", "{:.2f}"),
    ("ssim", "SSIM", "{:.4f}"),
    ("sharpness", "sharpness, HR = 1", "{:.3f}"),
    ("spectral_distance", "spectral distance, dB", "{:.2f}"),
    ("lr_mse", "LR consistency, MSE", "{:.2e}"),
    ("lpips", "LPIPS", "{:.4f}"),
    ("seconds", "seconds per image", "{:.3f}"),
)


def grid(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str] = ()) -> Image.Image:
    """Rows of PIL images as one RGB picture, each in a cell of the largest's size; `labels` stand above the columns."""
    width = max(image.width for row in rows for image in row) + GAP
    height = max(image.height for row in rows for image in row) + GAP
    top = HEADER if labels else 0
    canvas = Image.new("RGB", (max(map(len, rows)) * width - GAP, top + len(rows) * height - GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            canvas.paste(image, (x * width, top + y * height))
    draw = ImageDraw.Draw(canvas)
    for x, label in enumerate(labels):
        draw.text((x * width + 2, 2), label, fill="black")
    return canvas


def comparison(rows: Iterable[Sequence[Image.Image]]) -> Image.Image:
    """Rows of (LR, bicubic, SR, HR) as one labelled picture; LR images are magnified so that their pixels show."""
    shown = [(lr.resize(hr.size, Image.Resampling.NEAREST), bicubic, sr, hr) for lr, bicubic, sr, hr in rows]
    return grid(shown, labels=("LR", "bicubic", "SR", "HR"))


def heat_map(matrix: np.ndarray) -> Image.Image:
    """A square array of numbers ≥ 0 as a grey picture of some 400 pixels: 0 is black, the largest white. It shows their
    roots, so that small ones are seen."""
    shades = np.sqrt(matrix / max(matrix.max(), np.finfo(np.float32).tiny))
    side = len(matrix) * max(400 // len(matrix), 1)
    return Image.fromarray(np.rint(255 * shades).astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)


def table(report: Mapping[str, Any]) -> str:
    """The means of a validation report as text, bicubic upsampling beside SR."""
    mean = report["mean"]
    lines = [
        f"{report['dataset']['name']}, {report['images']} images, {report['sampling']}",
        f"{'':<22} {'bicubic':>10} {'SR':>10}",
    ]
    for key, name, form in ROWS:
        if key in mean:
            bicubic, sr = (form.format(mean[k]) if k in mean else "-" for k in (f"bicubic_{key}", key))
            lines.append(f"{name:<22} {bicubic:>10} {sr:>10}")
    return "\n".join(lines)


def write_json(value: Any, path: str | Path) -> None:
    """Writes JSON whole or not at all. A number that JSON has no word for (infinite, not a number) becomes null."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def finite(value: Any) -> Any:
    """The value with None in place of each number that is infinite or not a number."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
