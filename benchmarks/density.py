"""What do density and growth rule cost after the same training?

python benchmarks/density.py                                             every variant, config/faces_16_128_small.yaml
python benchmarks/density.py --steps 20000 --variants 'density-*,dense'  variants whose names fit a pattern
python benchmarks/density.py --save-images sampled                      keeps the images, for `python -m core.score`
python benchmarks/density.py --merge A.json B.json --json OUT.json       joins the reports of two processes
python benchmarks/density.py --small                                     the demo's network: seconds on a CPU

All variants train the same network from the same initial weights, with the same images and noise in the same order,
for the same number of steps. Only the `sparse` section of the config differs. Each is measured with its EMA weights:
the training loss on the validation images, at noise that is the same for all variants, and PSNR, SSIM and, where its
weights are here (docs/measuring.md), LPIPS of sampled images. The `sample` section says how these are sampled:
`--set sample.steps=50`. Differences in loss are paired by image. Their standard error does not include the effect of
the training seed: `--set train.seed=1` trains again. The report and the plot are written again after each variant.
"""

import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from the repository, whatever the working directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.helpers.asking import ask
from benchmarks.helpers.comparison import Comparison, Variant, heading, measures, parser
from core.errors import one_line_errors

Keys = dict[str, Any]  # of the section `sparse`

MOMENTUM: Keys = {"enabled": True, "growth": "momentum"}
IN_LAYER: Keys = {"enabled": True, "density": 0.15, "prune": "magnitude", "redistribution": "nonzero"}  # in each layer
DENSITIES: dict[str, Keys] = {  # variant -> what it changes in `sparse`
    **{f"density-{percent}": MOMENTUM | {"density": percent / 100} for percent in (5, 10, 15, 25, 50)},
    "dense": {"enabled": False},
}
REFERENCE = "density-15"  # what the others are compared with
RULES: dict[str, Keys] = {  # other ways to find the weights, at the density of the reference
    "random": IN_LAYER | {"growth": "random"},  # SET, Mocanu et al. 2018
    "gradient": IN_LAYER | {"growth": "gradient"},  # RigL, Evci et al. 2020
    "static": MOMENTUM | {"density": 0.15, "prune_rate": 0.0},  # the first masks, for ever
    "momentum-in-layer": IN_LAYER | {"growth": "momentum"},  # the rule of growth alone, without moving between layers
    "random-moved": MOMENTUM | {"density": 0.15, "growth": "random"},  # the moving alone
}
VARIANTS = DENSITIES | RULES
COLUMNS = {  # of the table: what it is called, how it is written
    "density": ("density", "{:.4g}"),
    "growth": ("growth", "{}"),
    **measures(REFERENCE),
    "megabytes": ("MB packed", "{:.2f}"),
    "minutes": ("minutes", "{:.2f}"),
}


@one_line_errors()
def main() -> None:
    ask(COMPARISON, parser("density", __doc__, ", ".join(VARIANTS)).parse_args())


def picture(report: dict[str, Any]) -> Any:
    """Density against validation loss: a line through the densities, and a point for each other rule."""
    from benchmarks.helpers.pictures import make_logarithmic, name_points, new_picture

    figure, axes = new_picture()
    points = {row["variant"]: (100 * row["density"], row["loss"]) for row in report["rows"]}
    line = sorted(points[name] for name in points if name in DENSITIES)
    if line:
        axes.plot(*zip(*line, strict=True), marker="o", label="growth by momentum, up to dense")
        axes.legend()
    rules = [(*points[name], name) for name in points if name in RULES]
    for n, (density, loss, _) in enumerate(rules, start=1):
        axes.scatter(density, loss, color=f"C{n}", marker="D")
    axes.set(xlabel="active weights, %", ylabel="validation loss", title=heading(report))
    make_logarithmic(axes, "x")
    name_points(axes, rules)
    return figure


COMPARISON = Comparison(
    "density",
    {name: Variant({f"sparse.{key}": value for key, value in rule.items()}) for name, rule in VARIANTS.items()},
    REFERENCE,
    COLUMNS,
    picture,
)

if __name__ == "__main__":
    main()
