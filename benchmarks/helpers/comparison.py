"""What density.py and tuning.py ask: trainings that differ in a few keys of the config. With their command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.helpers.options import add_report
from core.command_line import DEVICES, Parser, count


@dataclass(frozen=True)
class Variant:
    """What one training changes: {full path of a key: value}; and a first stage with further changes, until a share of
    the steps, from whose checkpoint it goes on without them."""

    changes: Mapping[str, Any]
    first: Mapping[str, Any] = field(default_factory=dict)
    until: float | None = None  # the share of the steps that are the first stage; None: there is none


@dataclass(frozen=True)
class Comparison:
    """What a benchmark asks."""

    name: str  # in its report
    variants: Mapping[str, Variant]
    reference: str  # the variant that the others are compared with
    columns: Mapping[str, tuple[str, str]]  # of the table: measure -> (what it is called, how it is written)
    picture: Callable[[dict], Any]  # a report -> its picture


def measures(reference: str) -> dict[str, tuple[str, str]]:
    """The columns of what all trainings are measured by."""
    return {
        "loss": ("val loss", "{:.5f}"),
        "difference": (f"- {reference}", "{:+.5f}"),
        "difference_error": ("±", "{:.5f}"),
        "psnr": ("PSNR, dB", "{:.2f}"),
        "ssim": ("SSIM", "{:.4f}"),
        "lpips": ("LPIPS", "{:.4f}"),
        "train_loss": ("train loss", "{:.5f}"),
    }


def parser(name: str, manual: str | None, variants: str) -> Parser:
    """The options that the benchmarks of this kind share; `variants` says in words which there are."""
    parser = Parser(description=manual)
    add = parser.add_argument
    add("-c", "--config", metavar="FILE", help="network, data and training (default: config/faces_16_128_small.yaml)")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    add("--steps", type=count, metavar="N", help="training steps of each variant (default: the config's train.n_iter)")
    add("--variants", default="*", metavar="NAMES", help=f"patterns of names (default: all: {variants})")
    add(
        "--images", type=count, metavar="N", help="sample only the first N images of each validation set (default: 100)"
    )
    add(
        "--save-images",
        metavar="FOLDER",
        help="keep what is sampled, as FOLDER/VARIANT/SET/NAME.png, for other measures",
    )
    add("--device", default="auto", help=DEVICES)
    add("--small", action="store_true", help="few steps of the demo's network on synthetic images")
    add(
        "--merge",
        nargs="+",
        metavar="FILE",
        help="join these reports; if two have the same variant, the first one counts",
    )
    add_report(parser, name)
    return parser


def heading(report: dict[str, Any]) -> str:
    """What is said above a picture."""
    return f"{report['config']}: {report['steps']:,} training steps each"
