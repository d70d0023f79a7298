"""One HTML file that shows runs: no server, no network, nothing beside it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup
from PIL import Image
from tqdm import tqdm

from core.config.files import dump_config
from core.report.columns import Column, badness, base_of, columns_of, image_cells, summary_rows
from core.report.embedding import ERROR_RANGE, data_uri, error_map, thumbnail
from core.report.histograms import HEIGHT, WIDTH, histogram
from core.report.pictures import GAP
from core.report.runs import Run, RunImage
from core.report.tables import ROWS, Measurement
from data.files import write_atomically
from data.images import read_rgb, resize

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = 24_000_000  # bytes of a page
MOST_IMAGES = 400  # the worst, if there are more
THUMBNAIL, FRAME = 48, 160  # pixels
OF_FRAMES = 12_000  # bytes of a frame of a chain
MOST_CHAINS = 4
OVERHEAD = 2_500  # bytes of an image beside its pictures: a row, a thumbnail
NOT_SETTINGS = ("per_image", "mean", "deviation", "of_sets", "missing", "worst", "files", "chain", "full_config")


class Frame(NamedTuple):
    uri: str
    order: int
    timestep: int
    state: int  # the key step whose encoder state it decodes

    @property
    def is_key(self) -> bool:
        return self.state == self.order


class Chain(NamedTuple):
    """The estimates of one image along the denoising steps."""

    image: str
    run: str
    colour: str
    steps: int
    key_steps: Sequence[int]
    frames: Sequence[Frame]


class Setting(NamedTuple):
    name: str
    values: Sequence[str]  # one a run
    differs: bool


def write_page(runs: Sequence[Run], target: str | Path) -> None:
    """Writes the page of runs that have the same images. Raises DataError."""
    write_atomically(target, render(runs).encode(errors="backslashreplace"))  # names need not be UTF-8


def render(runs: Sequence[Run]) -> str:
    """The page as text."""
    columns = columns_of(runs)
    per_image = [row for row in ROWS if row.key != "seconds" and any(row.key in image for image in columns[-1].images)]
    order = worst_first(columns, per_image)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = list(pictures_of(runs, order))
    return environment.get_template("report.html.jinja").render(
        name=name_of(runs),
        labels=[run.label for run in runs],
        told=[what_was_done(run) for run in runs],
        facts=facts_of(runs[0]),
        larger={run.label: count for run in runs if (count := len(run.report["per_image"])) > len(run.images)},
        columns=columns,
        base=base_of(columns),
        rows=summary_rows(columns),
        missing=missing_of(runs[0].report["missing"]),
        histograms=list(histograms_of(columns, per_image)),
        box=(WIDTH, HEIGHT),
        metrics=per_image,
        images=[list(runs[0].images.values())[number] for number in order],
        thumbnails=[picture.pop("thumbnail") for picture in pictures],
        total=len(runs[0].images),
        chains=list(chains_of(runs)),
        settings=settings_of(runs),
        configs={run.label: dump_config(section(run, "full_config")) for run in runs if section(run, "full_config")},
        error_range=ERROR_RANGE,
        data=script_json(data_of(runs, columns, per_image, order, pictures)),
        style=source("report.css"),
        script=source("report.js"),
    )


def source(name: str) -> Markup:
    """A file that stands beside the template, as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def script_json(value: Any) -> Markup:
    """JSON that may stand in a <script> element, whatever its texts are."""
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def section(run: Run, key: str) -> Mapping[str, Any]:
    """A section of a report, which a file may lack."""
    value = run.report.get(key)
    return value if isinstance(value, Mapping) else {}


def name_of(runs: Sequence[Run]) -> str:
    return in_words(section(runs[0], "dataset").get("name", "Results"))


def what_was_done(run: Run) -> str:
    if "sampling" in run.report:
        return str(run.report["sampling"])
    return f"{run.report.get('sr')} beside {run.report.get('hr')}"


def facts_of(run: Run) -> list[str]:
    """What stands under the title."""
    count = f"{len(run.images)} image{'s' if len(run.images) != 1 else ''}"
    seed = section(run, "settings").get("seed")
    date = str(run.report.get("date", ""))[:16].replace("T", " ")
    return [count, *filter(None, [run.report.get("device"), f"seed {seed}" if seed is not None else "", date])]


def worst_first(columns: Sequence[Column], measurements: Sequence[Measurement]) -> list[int]:
    """The numbers of the images, in the order of the first measurement of the first run, as far as the page shows
    them."""
    run = next(column for column in columns if column.colour == "run0")
    numbers = list(range(len(run.images)))
    if measurements:
        worse = badness(run.values(measurements[0].key), measurements[0])
        numbers.sort(key=lambda number: -worse[number] if worse[number] == worse[number] else float("inf"))
    return numbers[:MOST_IMAGES]


# ---------------------------------------------------------------------------------------------------------------------
# Pictures.


def pictures_of(runs: Sequence[Run], order: Sequence[int]) -> Iterator[dict[str, Any]]:
    """For each image: its size, a thumbnail, and its layers {"lr", "hr", "bicubic", "sr0", "error0", ...: data URI}."""
    keys = list(runs[0].images)
    chains = sum(len(chain_images(run)) for run in runs) * 10 * OF_FRAMES
    layers = 3 + 2 * len(runs)
    share = int(((LARGEST - chains) / len(order) - OVERHEAD) * 3 / 4 / layers)
    for number in tqdm(order, desc="page", unit="image", disable=None, leave=False):
        images = [run.images[keys[number]] for run in runs]
        pictures = open_pictures(images)
        shown = next((pictures[key] for key in ("sr0", "hr") if key in pictures), None)
        yield {
            "size": shown.size if shown else None,
            "thumbnail": thumbnail(shown, THUMBNAIL) if shown else "",
            "layers": {name: data_uri(picture, max(share, 500)) for name, picture in pictures.items()},
        }


def open_pictures(images: Sequence[RunImage]) -> dict[str, Image.Image]:
    """The layers of an image that there are: LR, bicubic, HR, and a result and an error map of each run."""
    pictures = {kind: read_rgb(images[0].files[kind]) for kind in ("lr", "hr") if kind in images[0].files}
    if "hr" in pictures and "lr" in pictures:
        pictures["bicubic"] = resize(pictures["lr"], pictures["hr"].size)
    for number, image in enumerate(images):
        if "sr" not in image.files:
            continue
        pictures[f"sr{number}"] = sr = read_rgb(image.files["sr"])
        if "hr" in pictures and pictures["hr"].size == sr.size:
            pictures[f"error{number}"] = error_map(sr, pictures["hr"])
    return pictures


def chain_images(run: Run) -> list[RunImage]:
    there = [image for image in run.images.values() if "process" in image.files]
    return there[:MOST_CHAINS] if is_chain(section(run, "chain")) else []


def is_chain(chain: Mapping[str, Any]) -> bool:
    """Whether a report tells a chain whole."""
    lists = [chain.get(key) for key in ("key_steps", "shown", "timesteps")]
    if not isinstance(chain.get("steps"), int) or not all(is_list_of_steps(each) for each in lists):
        return False
    keys, shown, timesteps = (list(each or ()) for each in lists)
    return min(keys) <= min(shown) and len(shown) == len(timesteps)


def is_list_of_steps(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(step, int) for step in value)


def chains_of(runs: Sequence[Run]) -> Iterator[Chain]:
    """The film strips, those of one image together."""
    strips = [
        (image.index, number, chain_of(run, image, f"run{number}"))
        for number, run in enumerate(runs)
        for image in chain_images(run)
    ]
    yield from (chain for _, _, chain in sorted(strips, key=lambda strip: strip[:2]))


def chain_of(run: Run, image: RunImage, colour: str) -> Chain:
    chain = run.report["chain"]
    strip, count = read_rgb(image.files["process"]), len(chain["shown"])
    width = (strip.width + GAP) // count - GAP
    frames = [
        Frame(
            data_uri(shrunk(strip.crop((n * (width + GAP), 0, n * (width + GAP) + width, strip.height))), OF_FRAMES),
            order,
            timestep,
            max(step for step in chain["key_steps"] if step <= order),
        )
        for n, (order, timestep) in enumerate(zip(chain["shown"], chain["timesteps"], strict=True))
    ]
    return Chain(image.name, run.label, colour, chain["steps"], chain["key_steps"], frames)


def shrunk(image: Image.Image) -> Image.Image:
    image.thumbnail((FRAME, FRAME))
    return image


# ---------------------------------------------------------------------------------------------------------------------
# Numbers.


def missing_of(reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    """The measurements that there are not, together where the reason is the same."""
    names: dict[str, list[str]] = {}
    for row in ROWS:
        if row.key in reasons:
            names.setdefault(str(reasons[row.key]), []).append(row.name.partition(",")[0])
    return [{"reason": reason, "names": group} for reason, group in names.items()]


def histograms_of(columns: Sequence[Column], measurements: Sequence[Measurement]) -> Iterator[dict[str, Any]]:
    for row in measurements:
        values = {column.colour: column.values(row.key) for column in columns}
        series = {colour: numbers[numbers == numbers] for colour, numbers in values.items()}
        drawn = histogram(series)
        if drawn:
            ends = [row.form.format(drawn.low), row.form.format(drawn.high)]
            yield {"key": row.key, "name": row.name, "ends": ends, **drawn._asdict()}


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """What the reports tell beside the measurements, those that differ first."""
    reported = [dict(flat({key: v for key, v in run.report.items() if key not in NOT_SETTINGS})) for run in runs]
    names = {name: None for one in reported for name in one}
    rows = [[one.get(name, "–") for one in reported] for name in names]
    settings = [Setting(name, values, len({*values}) > 1) for name, values in zip(names, rows, strict=True)]
    return sorted(settings, key=lambda setting: not setting.differs)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(full path, value as text) of nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", in_words(value)


def in_words(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def data_of(
    runs: Sequence[Run],
    columns: Sequence[Column],
    measurements: Sequence[Measurement],
    order: Sequence[int],
    pictures: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What the script works with: layers, measurements and images, in the order of `order`."""
    ours, base = [column for column in columns if column.colour != "bicubic"], base_of(columns)
    cells = [{row.key: image_cells(column, base, row) for row in measurements} for column in ours]
    images = list(runs[0].images.values())
    return {
        "runs": [run.label for run in runs],
        "better": {row.key: row.better for row in measurements},
        "images": [
            {
                "name": images[number].name,
                "cells": [
                    {key: [each[number].value, each[number].text, each[number].difference, each[number].verdict]
                     for key, each in of_run.items()}
                    for of_run in cells
                ],
                **picture,
            }
            for number, picture in zip(order, pictures, strict=True)
        ],
    }  # fmt: skip
