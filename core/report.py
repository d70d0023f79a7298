"""What a person reads of a measurement: pictures side by side, a table, and the JSON file with all the numbers."""

import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data.errors import DataError, reason
from data.files import write_atomically

GAP = 4  # pixels between pictures
HEADER = 16  # pixels of a line of labels

ROWS = (  # a measurement, what it is called, how it is written, what it is
    ("psnr", "PSNR, dB", "{:.2f}", "error of pixels, RGB; the higher the better"),
    ("psnr_y", "PSNR of Y, dB", "{:.2f}", "the same of the luminance Y alone (BT.601, 16 to 235)"),
    ("ssim", "SSIM", "{:.4f}", "likeness of structure, RGB; 1 is equal"),
    ("ssim_y", "SSIM of Y", "{:.4f}", "the same of the luminance Y alone"),
    ("sharpness", "sharpness, HR = 1", "{:.3f}", "mean gradient over HR's; below 1 blurred, above 1 sharper, or noisy"),
    ("spectral_distance", "spectral distance, dB", "{:.2f}", "between the power spectra of SR and HR; 0 is alike"),
    ("lr_mse", "LR consistency, MSE", "{:.2e}", "between SR, brought back to LR's size, and LR; 0 is consistent"),
    ("lpips", "LPIPS", "{:.4f}", "distance of AlexNet's features (v0.1); the lower the better"),
    ("fid", "FID", "{:.2f}", "between the sets, of Inception's features; lower is better, higher for few images"),
    ("kid", "KID, × 1000", "{:.2f}", "the same, without bias: fit for few images; 0 is alike"),
    ("seconds", "seconds per image", "{:.3f}", ""),
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


def validation_table(report: Mapping[str, Any]) -> str:
    """A validation report as text, bicubic upsampling beside SR."""
    heading = f"{report['dataset']['name']}, {report['images']} images, {report['sampling']}"
    return f"{heading}\n{table(report, {'bicubic': 'bicubic_', 'SR': ''})}"


def table(report: Mapping[str, Any], columns: Mapping[str, str], left_out: Container[str] = ()) -> str:
    """The means and standard deviations of a report as text, with what each is, or why it is missing.

    columns: {what a column is called: what the names of its measurements begin with}; left_out: measurements that are
    not told.
    """
    mean, missing = report["mean"] | report["of_sets"], report["missing"]
    rows = [("", *columns, "")]
    for key, name, form, meaning in ROWS:
        if key in left_out or key not in mean | missing:
            continue
        cells = [
            cell(mean.get(prefix + key), report["deviation"].get(prefix + key), form) for prefix in columns.values()
        ]
        rows.append((name, *cells, f"not measured: {missing[key]}" if key in missing else meaning))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells, meaning in rows:
        numbers = (text.rjust(width) for text, width in zip(cells, widths[1:-1], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *numbers, meaning]).rstrip())
    return "\n".join(lines)


def form_of(measurement: str) -> str:
    """How a measurement is written."""
    return next(form for key, _, form, _ in ROWS if key == measurement)


def cell(mean: float | None, deviation: float | None, form: str) -> str:
    """`23.98 ± 2.13`; a measurement that is none is a dash."""
    if mean is None or math.isnan(mean):
        return "-"
    return form.format(mean) + ("" if deviation is None or math.isnan(deviation) else f" ± {form.format(deviation)}")


def write_json(value: Any, path: str | Path) -> None:
    """Writes JSON whole or not at all. A number that JSON has no word for (infinite, not a number) becomes null.

    Raises DataError where it cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make folder {Path(path).parent}: {reason(error)}") from None
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode(errors="backslashreplace"))  # names need not be UTF-8


def finite(value: Any) -> Any:
    """The value with None in place of each number that is infinite or not a number."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
