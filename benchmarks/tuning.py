"""What is each setting of a training worth? The config as it is, and with a few keys changed, after the same training.

python benchmarks/tuning.py                                             the small network, benchmarks/tuning.yaml
python benchmarks/tuning.py -c MY.yaml --changes MY_CHANGES.yaml        your own config and changes
python benchmarks/tuning.py --steps 4000 --variants 'reference,lr-*'    variants whose names fit a pattern
python benchmarks/tuning.py --merge A.json B.json --json OUT.json       joins the reports of two processes
python benchmarks/tuning.py --small --variants 'reference,lr-*,ema-*'   the demo's network: seconds on a CPU

The file of changes names the trainings, for example `lr-8e-4: {train.optimizer.lr: 8e-4}`. With `first: {KEY: VALUE}`
and `until: 0.4`, keys are changed only for that share of the steps, and training continues from there with the config.
`reference` changes nothing. All start from the same initial weights and see the same images and noise in the same
order, unless a change affects this. Each is measured with its EMA weights: the training loss on the validation images,
at noise that is the same for all, paired by image with that of the reference, and PSNR, SSIM and, where its weights
are here (docs/measuring.md), LPIPS of sampled images. Trainings with other seeds show the effect of chance; the
standard error does not. Report and picture are written again after each training.
"""

import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.helpers.asking import ask
from benchmarks.helpers.comparison import Comparison, Variant, heading, measures, parser
from core.config.files import read_file
from core.errors import UserError, one_line_errors

CHANGES = "benchmarks/tuning.yaml"
REFERENCE = "reference"
COLUMNS = {  # of the table: what it is called, how it is written
    **measures(REFERENCE),
    "kept": ("first masks kept", "{:.3f}"),
    "minutes": ("minutes", "{:.2f}"),
}


@one_line_errors()
def main() -> None:
    options = parser("tuning", __doc__, f"{REFERENCE}, and those of --changes")
    options.add_argument(
        "--changes", default=CHANGES, metavar="FILE", help=f"file of names and changes (default: {CHANGES})"
    )
    arguments = options.parse_args()
    ask(Comparison("tuning", read_variants(arguments.changes), REFERENCE, COLUMNS, picture), arguments)


def read_variants(file: str | Path) -> dict[str, Variant]:
    """{name: Variant} of a file of changes, the reference first."""
    variants = {REFERENCE: Variant({})}
    for name, changes in read_file(file).items():
        if name == REFERENCE:
            raise UserError(f"{file}: {REFERENCE} is the config as it is: name this training otherwise")
        if not isinstance(changes, dict):
            raise UserError(f"{file}: {name}: must be keys of a config with their values, as in train.warmup: 500")
        variants[name] = variant_of(dict(changes), f"{file}: {name}")
    return variants


def variant_of(changes: dict[str, Any], where: str) -> Variant:
    first, until = changes.pop("first", {}), changes.pop("until", None)
    if bool(first) != (until is not None):
        raise UserError(f"{where}: `first` and `until` go together, as in first: {{KEY: VALUE}}, until: 0.4")
    if not isinstance(first, dict):
        raise UserError(f"{where}: first must be keys of a config with their values")
    if until is not None and not (isinstance(until, float) and 0 < until < 1):
        raise UserError(f"{where}: until is {until}, but must be a share of the steps between 0 and 1")
    return Variant(changes, first, until)


def picture(report: dict[str, Any]) -> Any:
    """How far each training's loss is above the reference's, with the standard error, a row each; those of one name but
    for its value in one colour."""
    from benchmarks.helpers.pictures import PALE, new_picture

    rows = [row for row in report["rows"] if row["difference"] is not None and row["variant"] != REFERENCE]
    families = list(dict.fromkeys(row["variant"].partition("-")[0] for row in rows))
    figure, axes = new_picture(height=1.2 + 0.2 * max(len(rows), 4))
    axes.axvline(0, color=PALE, linewidth=1)
    for row in rows:
        colour = f"C{families.index(row['variant'].partition('-')[0])}"
        axes.errorbar(row["difference"], row["variant"], xerr=row["difference_error"] or 0, color=colour, fmt="o")
    axes.invert_yaxis()
    axes.margins(y=1 / max(len(rows), 4))
    axes.set(xlabel=f"validation loss less that of the {REFERENCE}: left is better", title=heading(report))
    return figure


if __name__ == "__main__":
    main()
