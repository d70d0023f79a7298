"""The measurements of a report as text, with what each of them is."""

import math
from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

from core.summary.text_table import aligned


class Measurement(NamedTuple):
    """A row of a table."""

    key: str
    name: str
    form: str  # how its values are written
    meaning: str
    better: str = "lower"  # "lower", "higher", or "near 1"


ROWS = (
    Measurement("psnr", "PSNR, dB", "{:.2f}", "error of pixels, RGB; the higher the better", "higher"),
    Measurement("psnr_y", "PSNR of Y, dB", "{:.2f}", "the same of the luminance Y alone (BT.601, 16 to 235)", "higher"),
    Measurement("ssim", "SSIM", "{:.4f}", "likeness of structure, RGB; 1 is equal", "higher"),
    Measurement("ssim_y", "SSIM of Y", "{:.4f}", "the same of the luminance Y alone", "higher"),
    Measurement(
        "sharpness",
        "sharpness, HR = 1",
        "{:.3f}",
        "mean gradient over HR's; below 1 blurred, above 1 sharper, or noisy",
        "near 1",
    ),
    Measurement(
        "spectral_distance", "spectral distance, dB", "{:.2f}", "between the power spectra of SR and HR; 0 is alike"
    ),
    Measurement(
        "lr_mse",
        "LR consistency, MSE",
        "{:.2e}",
        "between SR, brought back to LR's size, and LR; 0 is consistent",
    ),
    Measurement("lpips", "LPIPS", "{:.4f}", "distance of AlexNet's features (v0.1); the lower the better"),
    Measurement(
        "fid", "FID", "{:.2f}", "between the sets, of Inception's features; lower is better, higher for few images"
    ),
    Measurement("kid", "KID, × 1000", "{:.2f}", "the same, without bias: fit for few images; 0 is alike"),
    Measurement("seconds", "seconds per image", "{:.3f}", ""),
)


def validation_table(report: Mapping[str, Any]) -> str:
    """A validation report as text, bicubic upsampling beside SR; one row for all that could not be measured."""
    heading = f"{report['dataset']['name']}, {report['images']} images, {report['sampling']}"
    reasons = set(report["missing"].values())
    names = ", ".join(row.name.partition(",")[0] for row in ROWS if row.key in report["missing"])
    why = "metrics.json says why; docs/measuring.md, what it takes" if len(reasons) > 1 else "".join(reasons)
    lacking = [(names, "-", "-", f"not measured: {why}")] if names else []
    return f"{heading}\n{table(report, {'bicubic': 'bicubic_', 'SR': ''}, report['missing'], lacking)}"


def table(
    report: Mapping[str, Any],
    columns: Mapping[str, str],
    left_out: Container[str] = (),
    last: Iterable[tuple[str, ...]] = (),
) -> str:
    """The means and standard deviations of a report as text, with what each is, or why it is missing.

    columns: {what a column is called: what the names of its measurements begin with}; left_out: measurements that are
    not told; last: rows after all others.
    """
    mean, missing = report["mean"] | report["of_sets"], report["missing"]
    rows = [("", *columns, "")]
    for key, name, form, meaning, _ in ROWS:
        if key in left_out or key not in mean | missing:
            continue
        cells = [
            cell(mean.get(prefix + key), report["deviation"].get(prefix + key), form) for prefix in columns.values()
        ]
        rows.append((name, *cells, f"not measured: {missing[key]}" if key in missing else meaning))
    rows += last
    meanings = [row[-1] for row in rows]
    width = max(map(len, meanings))
    return "\n".join(aligned([(*row[:-1], row[-1].ljust(width)) for row in rows]))


def form_of(measurement: str) -> str:
    """How a measurement is written."""
    return next(row.form for row in ROWS if row.key == measurement)


def cell(mean: float | None, deviation: float | None, form: str) -> str:
    """`23.98 ± 2.13`; a measurement that is none is a dash."""
    if mean is None or math.isnan(mean):
        return "-"
    return form.format(mean) + ("" if deviation is None or math.isnan(deviation) else f" ± {form.format(deviation)}")
