"""What core.score measures: results of any method, image by image and as a set, beside the true images."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from tqdm import tqdm

from core.device import versions
from core.errors import UserError
from core.metrics.image_metrics import LIBRARIES, mean_and_deviation, measure
from core.metrics.perceptual_metrics import PerceptualMetrics, distances
from core.report.tables import cell, form_of, table
from core.score.pairs import Pair
from data.images import read_rgb

WORST = 3  # images that are named
NO_LR = "needs the LR images, --lr LR"


def score(pairs: Sequence[Pair], perceptual: PerceptualMetrics, border: int = 0) -> dict[str, Any]:
    """The report: means and standard deviations, what the sets are to each other, why metrics are missing, which images
    are worst, and each by itself.

    border: pixels along each border that PSNR and SSIM leave out. Raises UserError or DataError for images that cannot
    be read or compared.
    """
    entries, features = [], []
    for pair in tqdm(pairs, unit="image", disable=None):
        sr, hr, lr = read(pair, border)
        entries.append(measure(sr, hr, lr, perceptual.lpips, border))
        if perceptual.inception:
            features.append((perceptual.inception(sr), perceptual.inception(hr)))
    mean, deviation = mean_and_deviation(entries)
    names = [pair.name for pair in pairs]
    return {
        "images": len(pairs),
        "crop": border,
        "mean": mean,
        "deviation": deviation,
        "of_sets": distances(*zip(*features, strict=True)) if features else {},
        "missing": perceptual.missing | ({} if "lr_mse" in mean else {"lr_mse": NO_LR}),
        "worst": {
            name: worst(names, entries, name, sign)
            for name, sign in (("psnr", 1), ("psnr_y", 1), ("lpips", -1))
            if name in mean
        },
        "versions": versions(LIBRARIES),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "per_image": [{"name": pair.name, **files(pair), **entry} for pair, entry in zip(pairs, entries, strict=True)],
    }


def read(pair: Pair, border: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(SR, HR, LR or None) as 8-bit RGB; UserError where their sizes make no sense."""
    sr, hr = np.asarray(read_rgb(pair.sr)), np.asarray(read_rgb(pair.hr))
    lr = np.asarray(read_rgb(pair.lr)) if pair.lr else None
    if sr.shape != hr.shape:
        raise UserError(f"{pair.sr} has {size(sr)} pixels, and {pair.hr} {size(hr)}: crop one to the size of the other")
    if 2 * border >= min(hr.shape[:2]):
        raise UserError(f"--crop {border} leaves nothing of {pair.hr}, which has {size(hr)} pixels")
    if lr is not None and (lr.shape[0] >= hr.shape[0] or lr.shape[1] >= hr.shape[1]):
        raise UserError(f"{pair.lr} has {size(lr)} pixels, no less than {pair.hr}: give the images before enlargement")
    return sr, hr, lr


def files(pair: Pair) -> dict[str, str]:
    """Where the images of a pair are."""
    return {key: str(path) for key, path in (("sr", pair.sr), ("hr", pair.hr), ("lr", pair.lr)) if path}


def size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def worst(names: Sequence[str], entries: Sequence[Mapping[str, float]], metric: str, sign: int) -> dict[str, float]:
    """{the name of an image: its value}, the worst first; sign: 1 where larger is better, -1 where smaller is."""
    values = {name: entry[metric] for name, entry in zip(names, entries, strict=True) if not math.isnan(entry[metric])}
    return dict(sorted(values.items(), key=lambda item: sign * item[1])[:WORST])


def as_text(report: Mapping[str, Any], luminance: bool) -> str:
    """What a person reads; luminance: with PSNR and SSIM of Y."""
    crop = f", PSNR and SSIM without {report['crop']} pixels along the border" if report["crop"] else ""
    count = f"{report['images']} image{'s' if report['images'] > 1 else ''}"
    lines = [
        f"{report['sr']} beside {report['hr']}: {count}{crop}",
        table(report, {"mean ± deviation": ""}, left_out=() if luminance else ("psnr_y", "ssim_y")),
    ]
    for metric, name in (("psnr_y", "PSNR of Y") if luminance else ("psnr", "PSNR"), ("lpips", "LPIPS")):
        ranked = report["worst"].get(metric)
        if ranked and report["images"] > 1:
            images = ", ".join(f"{image} ({cell(value, None, form_of(metric))})" for image, value in ranked.items())
            lines.append(f"worst by {name}: {images}")
    return "\n".join(lines)
