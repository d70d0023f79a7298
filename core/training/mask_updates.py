"""What the updates of the masks did: curves on the board, and each layer by itself in tables and pictures."""

from collections.abc import Callable
from pathlib import Path

from core.report.heat_maps import layers_over_time
from core.training.board import Board
from core.training.layer_history import LayerHistory
from sparse import Masker, UpdateReport

LAYER_MAPS = {  # pictures of all layers over time
    "density": "density: share of a layer's weights that are active",
    "regrown": "regrown: share of a layer's active weights that the last update chose",
}


class MaskUpdates:
    """Tells of each prune-and-regrow update of a run; on other processes than the main one, nothing happens."""

    def __init__(self, folder: Callable[[str], Path], board: Board, step: int, is_main: bool) -> None:
        """folder: gives the folders of the experiment; step: the one at which the run begins."""
        self.board, self.is_main = board, is_main
        self.layers = {name: LayerHistory(folder("log") / f"{name}.csv", step, is_main) for name in LAYER_MAPS}

    def add(self, masker: Masker, update: UpdateReport, step: int) -> None:
        """All layers together as curves, each by itself as a line of two heat maps."""
        totals = {
            "density": masker.density,
            "prune_rate": update.prune_rate,
            "pruned": sum(update.pruned.values()),
            "regrown": sum(update.regrown.values()),
        }
        # The name comes after train and val in the alphabet, which is TensorBoard's order.
        self.board.scalars({f"weights/{name}": value for name, value in totals.items()}, step)
        active = masker.active_by_layer()
        regrown = {name: count / max(active[name], 1) for name, count in update.regrown.items()}
        for name, values in (("density", masker.densities()), ("regrown", regrown)):
            self.layers[name].add(step, values)
        if masker.updates <= 10 or masker.updates % 10 == 0:
            self.show(step)

    def show(self, step: int) -> None:
        """The heat maps of all updates so far."""
        for name, title in LAYER_MAPS.items():
            table = self.layers[name].table
            if table.steps and self.is_main:
                picture = layers_over_time(table.rows, table.layers, table.steps, title)
                self.board.image(f"weights/{name}_of_layers", picture, step)
