"""The figures of docs/sparse_momentum.md and docs/encoder_reuse.md: python -m benchmarks.helpers.method_figures

Masks of a small layer while it learns, and which calls of encoder and decoder a chain makes, come from the code of the
method. The losses and the change of the features come from the files in results/.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from requirements import PACKAGES, require_packages

    require_packages([*PACKAGES, "matplotlib"], "benchmarks/requirements.txt")

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.helpers.pictures import COLOURS, make_logarithmic, new_picture, save
from benchmarks.helpers.reports import read_report
from model.sampling.group_decoding import predictions_of_group
from model.sampling.plan import SamplingPlan
from sparse import Masker

ROOT = Path(__file__).parents[2]
INPUTS, OUTPUTS, USEFUL = 48, 24, slice(16, 24)  # of the layer; the inputs on which its target depends
DENSITY = 0.15
SHOWN = (0, 1, 2, 8)  # updates of the masks
UPDATE_EVERY = 25
RULES = {  # variants of benchmarks/density.py, from the best to the worst
    "density-15": "15 %, momentum",
    "dense": "100 %, dense",
    "random": "15 %, random (SET)",
    "gradient": "15 %, gradient (RigL)",
    "static": "15 %, fixed masks",
}
CHAINS = (("none", "every"), ("uniform:4", "every"), ("uniform:4", "ends"), ("uniform:4", "first"))
STEPS = 20


def masks_of_a_small_layer() -> dict[int, Tensor]:
    """{number of updates: mask (OUTPUTS, INPUTS)} of a linear layer that learns a target of a few of its inputs."""
    torch.manual_seed(0)
    target = torch.zeros(OUTPUTS, INPUTS)
    target[:, USEFUL] = torch.randn(OUTPUTS, target[:, USEFUL].shape[1])
    layer, steps = nn.Linear(INPUTS, OUTPUTS, bias=False), max(SHOWN) * UPDATE_EVERY
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    masker = Masker(layer, optimizer, density=DENSITY, update_every=UPDATE_EVERY, update_until=steps)
    masks = {0: masker.masks["weight"].clone()}
    for _ in range(steps):
        inputs = torch.randn(256, INPUTS)
        optimizer.zero_grad()
        (layer(inputs) - inputs @ target.T).square().mean().backward()
        optimizer.step()
        masker.step()
        masks.setdefault(masker.updates, masker.masks["weight"].clone())
    return {updates: masks[updates] for updates in SHOWN}


def sparse_momentum(reports: Sequence[dict[str, Any]]) -> Figure:
    """Masks that move to the inputs that matter, and the loss of each growth rule, of the reports of density.py."""
    figure, _ = new_picture(9.0, 6.0)
    figure.clear()
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    for axes, (updates, mask) in zip(above.subplots(1, len(SHOWN)), masks_of_a_small_layer().items(), strict=True):
        axes.imshow(mask.numpy(), cmap="Blues", vmin=0, vmax=1.2, interpolation="nearest", aspect="auto")
        axes.axvspan(USEFUL.start - 0.5, USEFUL.stop - 0.5, color=COLOURS[1], alpha=0.15)
        inside = int(mask[:, USEFUL].sum())
        name = "first mask" if not updates else f"after {updates} update{'s' * (updates > 1)}"
        axes.set(title=f"{name}: {inside} of {int(mask.sum())}", xticks=[], yticks=[], xlabel="inputs")
    above.suptitle("Active weights of a layer. Only the inputs in the shaded columns matter", x=0.01, ha="left")
    draw_losses(below.subplots(), reports)
    return figure


def draw_losses(axes: Axes, reports: Sequence[dict[str, Any]]) -> None:
    for report in reports:
        rows = {row["variant"]: row["loss"] for row in report["rows"] if row["variant"] in RULES}
        colours = [COLOURS[0] if "momentum" in RULES[name] else COLOURS[1] for name in rows]
        axes.scatter(list(rows.values()), [list(RULES).index(name) for name in rows], s=70, color=colours)
    first = {row["variant"]: row["loss"] for row in reports[0]["rows"]}
    for n, name in enumerate(RULES):
        axes.annotate(f"{first[name]:.4f}", (first[name], n), (0, 9), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(RULES)), list(RULES.values()))
    axes.set(ylim=(len(RULES) - 0.5, -0.8), xlabel="validation loss, lower is better; a dot for each training")
    steps, parameters = reports[0]["steps"], reports[0]["parameters"] / 1e6
    axes.set_title(f"Growth rules: {steps:,} steps of a network of {parameters:.0f} million parameters")


def calls(plan: SamplingPlan, decode: str) -> tuple[list[int], list[int]]:
    """The orders at which the encoder runs and those at which the decoder does, as the sampler asks for them."""
    decoded: list[int] = []

    def record(levels: Tensor) -> Tensor:
        decoded.extend(levels.flatten().int().tolist())
        return torch.zeros(len(levels), 1, 3, 1, 1)

    levels = torch.arange(float(plan.steps))[:, None]
    for group in plan.groups:
        list(predictions_of_group(record, levels, group, decode, lambda orders: iter([orders])))
    return list(plan.key_steps), decoded


def encoder_reuse(similarity: dict[str, Any]) -> Figure:
    """Which steps of a chain run encoder and decoder, and how much their features change along the chain."""
    figure, both = new_picture(9.0, 6.4, nrows=2, height_ratios=(1, 1.1))
    draw_calls(both[0])
    draw_change(both[1], similarity)
    return figure


def draw_calls(axes: Axes) -> None:
    names = []
    for n, (key_steps, decode) in enumerate(CHAINS):
        encoder, decoder = calls(SamplingPlan.parse(key_steps, steps=STEPS, n_timestep=2000), decode)
        for half, orders in enumerate((encoder, decoder)):
            row = n + 0.38 * half - 0.19
            axes.scatter(range(STEPS), [row] * STEPS, s=70, marker="s", color="#ececec")
            label = ("encoder runs", "decoder runs")[half] if not n else None
            axes.scatter(orders, [row] * len(orders), s=70, marker="s", color=COLOURS[half], label=label)
        names.append(f"{key_steps}, decode {decode}\n{len(encoder)} encoder, {len(decoder)} decoder calls")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="step of the chain, from noise to image", xticks=range(0, STEPS, 2), ylim=(len(CHAINS) - 0.5, -0.5))
    axes.grid(visible=False)
    axes.set_title(f"Calls of encoder and decoder in a chain of {STEPS} steps")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)


def draw_change(axes: Axes, similarity: dict[str, Any]) -> None:
    rows = {(row["half"], row["place"]): row["change"] for row in similarity["rows"]}
    orders = np.arange(1, len(similarity["timesteps"]))
    for half, name in enumerate(("encoder", "decoder")):
        axes.plot(orders, rows[name, ""], color=COLOURS[half], linewidth=2, label=name)
    axes.set(xlabel=f"step of the chain, {len(similarity['timesteps'])} in all", ylabel="relative squared change")
    axes.set_title("Change of the features from one step to the next, measured on the face network")
    axes.legend(loc="upper left")
    make_logarithmic(axes, "y")


def main(folder: str = str(ROOT / "docs" / "figures")) -> None:
    results = ROOT / "results"
    densities = [read_report(results / file, "density") for file in ("density.json", "density_seed1.json")]
    save(sparse_momentum(densities), Path(folder) / "sparse_momentum.png")
    similarity = read_report(results / "feature_similarity.json", "feature_similarity")
    save(encoder_reuse(similarity), Path(folder) / "encoder_reuse.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
