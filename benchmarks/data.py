"""How many images a second reach the device: files, decoding, augmentation, batches, as training reads them.

python benchmarks/data.py                                  crops of photographs, as folders and as an LMDB
python benchmarks/data.py --dataroot dataset/FFHQ_16_128   images of yours
python benchmarks/data.py --small                          few images: seconds on a CPU

Nothing is done with the batches, so this is the most that training can be given.
"""

import argparse
import os
import sys
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.helpers.reports import environment, fill_defaults, publish, spread, table
from core.command_line import Parser, count, counts_or_zeros
from core.device import pick_device, synchronize
from core.errors import one_line_errors
from data import SRDataset, train_loader
from data.demo import make_demo
from data.prepare_data import parse_size, prepare

FULL = {"images": 500, "batch": 32, "batches": 40, "repeats": 5, "workers": (0, 1, 2, 4, 8)}
SMALL = {"images": 12, "batch": 4, "batches": 3, "repeats": 2, "workers": (0, 1)}
TARGET_RATE, TARGET_WORKERS = 640, 8  # the face network at 20 steps/s of 32 images


@one_line_errors()
def main():
    arguments = parse_arguments()
    device = pick_device(arguments.device)
    with TemporaryDirectory() as folder:
        stores = {name: SRDataset(spec, train=True) for name, spec in specs(arguments, Path(folder)).items()}
        rows = [
            {"store": name, "workers": workers, **measure(images, workers, arguments, device)}
            for name, images in stores.items()
            for workers in arguments.workers
        ]
        report = describe(stores, arguments, device) | {"rows": rows}
    publish(title(report), as_table(report), report, arguments.json)


def parse_arguments():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataroot", help="a folder or an LMDB of prepare_data.py (default: both, of photographs)")
    add("--size", default="16,128", help="low and high resolution (default: 16,128)")
    add("--images", type=count, metavar="N", help="photographs to make (default: 500)")
    add("--batch", type=count, help="images of a batch (default: 32)")
    add("--batches", type=count, metavar="N", help="batches of a measurement (default: 40)")
    add("--repeats", type=count, metavar="N", help="measurements, of which the median counts (default: 5)")
    add("--workers", type=counts_or_zeros, metavar="N,N,...", help="processes that read (default: 0,1,2,4,8)")
    add("--device", default="auto", help="where the batches go: auto, cpu or cuda (default: auto)")
    add("--small", action="store_true", help="few images, batches and processes")
    add("--json", default="experiments/benchmarks/data.json", metavar="FILE", help="where the report goes")
    arguments = parser.parse_args()
    return fill_defaults(arguments, SMALL if arguments.small else FULL)


def specs(arguments, folder):
    """{name: a section of `datasets`}: --dataroot, or photographs in both kinds of store."""
    size = dict(zip(("l_resolution", "r_resolution"), parse_size(arguments.size), strict=True))
    if arguments.dataroot:
        kind = "lmdb" if (Path(arguments.dataroot) / "data.mdb").is_file() else "img"
        roots = {"lmdb" if kind == "lmdb" else "folder": arguments.dataroot}
    else:
        make_demo(folder, size=size["r_resolution"], count=arguments.images)
        roots = {
            name: prepare(folder / "train", folder / name, tuple(size.values()), as_lmdb=name == "lmdb").folder
            for name in ("folder", "lmdb")
        }
    kinds = {"folder": "img", "lmdb": "lmdb"}
    return {
        name: {"dataroot": str(root), "datatype": kinds[name], "augment": True, **size} for name, root in roots.items()
    }


def measure(images, workers, arguments, device):
    """{"images_per_second": ...} that a number of reading processes gives, once they are at it."""
    loader = train_loader(images, arguments.batch, seed=0, workers=workers, pin_memory=device.type == "cuda")
    batches = iter(loader)
    ahead = workers * (loader.prefetch_factor or 0)
    consume(islice(batches, ahead + 1), device)  # so many may lie ready
    rates = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        consume(islice(batches, arguments.batches), device)
        rates.append(arguments.batches * arguments.batch / (time.perf_counter() - start))
    return {"images_per_second": spread(rates)}


def consume(batches, device):
    for batch in batches:
        for key in ("lr", "hr"):
            batch[key].to(device, non_blocking=True)
    synchronize(device)


# ---------------------------------------------------------------------------------------------------------------------
# The report.


def describe(stores, arguments, device):
    return {
        "benchmark": "data",
        **environment(device),
        "cores": os.cpu_count(),
        "dataroot": arguments.dataroot,
        "images": {name: len(images) for name, images in stores.items()},
        "size": parse_size(arguments.size),
        "batch_size": arguments.batch,
        "batches_per_measurement": arguments.batches,
        "measurements": arguments.repeats,
        "target": {"images_per_second": TARGET_RATE, "workers": TARGET_WORKERS},
    }


def title(report):
    low, high = report["size"]
    count = " and ".join(f"{count} ({name})" for name, count in report["images"].items())
    return (
        f"{report['dataroot'] or 'crops of photographs'}, {low} and {high} pixels: {count} images, "
        f"batch {report['batch_size']}\n{report['device']}; {report['cores']} cores\n"
        f"medians of {report['measurements']} measurements of {report['batches_per_measurement']} batches"
    )


def as_table(report):
    rows = []
    for row in report["rows"]:
        rate = row["images_per_second"]
        cells = [f"{rate['median']:.0f}", f"{rate['least']:.0f} to {rate['most']:.0f}"]
        steps = f"{rate['median'] / report['batch_size']:.1f}"
        target = f"≥ {TARGET_RATE} images/s" if row["workers"] == TARGET_WORKERS else ""
        rows.append([row["store"], str(row["workers"]), *cells, steps, target])
    return table(["", "workers", "images/s", "range", "batches/s", "target"], rows)


if __name__ == "__main__":
    main()
