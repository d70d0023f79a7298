"""What a training tells those who watch it: curves, heat maps of the layers, pictures, the time that is left."""

import copy
import csv
import logging
import re
import sys
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.config import check_config
from core.errors import UserError
from core.processes import Processes
from core.report.heat_maps import LEFT, TOP, VIRIDIS, WIDTH, layers_over_time
from core.report.pictures import coloured
from core.training.board import Board, start_wandb
from core.training.layer_history import LayerHistory, read_layer_table
from core.training.trainer import Trainer

TRAIN = {"n_iter": 6, "val_freq": 3, "save_checkpoint_freq": 3, "print_freq": 2, "optimizer": {"lr": 1e-3}}


class Mirror:
    """In place of a run of Weights & Biases."""

    def __init__(self):
        self.logged = {}

    def log(self, values, step):
        self.logged.setdefault(step, {}).update(values)


@pytest.fixture(scope="module")
def watched(make_image, tmp_path_factory):
    """A sparse training of six steps, with updates after 2, 4 and 6 and validations after 3 and 6 -> what it left."""
    from tests.core.conftest import SMALL

    folder = tmp_path_factory.mktemp("watched")
    (folder / "waves").mkdir()
    for n in range(3):
        make_image(32, 32, n).save(folder / "waves" / f"wave{n}.png")
    config = copy.deepcopy(SMALL) | {"path": {"root": str(folder)}, "train": copy.deepcopy(TRAIN)}
    config["datasets"]["val"]["dataroot"] = str(folder / "waves")
    config["datasets"]["train"] = {**config["datasets"]["val"], "batch_size": 2}
    config["sparse"] = {"enabled": True, "density": 0.15, "update_every": 2, "update_until": 1.0}
    log, lines, mirror = logging.getLogger("test.watching"), [], Mirror()
    log.setLevel(logging.INFO)
    log.addHandler(handler := logging.Handler())
    handler.emit = lambda record: lines.append(record.getMessage())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb", SimpleNamespace(Image=np.asarray))
        trainer = Trainer(check_config(config), Processes(0, 1, torch.device("cpu")), log, mirror=mirror)
        trainer.fit()
    run = folder / "small"
    events = EventAccumulator(str(run / "tb_logger"), size_guidance={"images": 0}).Reload()
    return SimpleNamespace(run=run, trainer=trainer, events=events, lines=lines, mirror=mirror.logged)


def picture_of(event):
    return np.asarray(Image.open(BytesIO(event.encoded_image_string)).convert("RGB"))


def test_what_comes_first_is_what_one_looks_at_first(watched):
    """TensorBoard shows groups in the order of the alphabet; there is no curve for each layer."""
    tags = watched.events.Tags()["scalars"]
    groups = list(dict.fromkeys(tag.partition("/")[0] for tag in sorted(tags)))
    assert groups == ["train", "val", "weights"]
    told = {"loss", "gradient_norm", "images_per_second", "memory_gb", "lr", "skipped"}
    assert {tag.removeprefix("train/") for tag in tags if tag.startswith("train/")} == told
    assert len(tags) < 40
    memory = [event.value for event in watched.events.Scalars("train/memory_gb")]
    assert all(0.05 < value < 50 for value in memory) and memory == sorted(memory)


def test_gradient_norm_is_that_before_clipping(watched):
    """Of the last two steps, computed anew from the gradients of both."""
    trainer = watched.trainer
    seen = []
    trainer.options = trainer.options.replace(grad_clip=1e-3)
    for _, batch in zip(range(2), trainer.batches(), strict=False):
        trainer.gradients.zero()
        tensors, constants = trainer.draw(batch)
        trainer.forward_backward(tensors, constants)
        expected = torch.cat([p.grad.flatten() for p in trainer.trained().values()]).norm()
        trainer.gradients.clip(1e-3)
        seen.append((float(trainer.gradients.norm), float(expected)))
    assert all(norm == pytest.approx(expected, rel=1e-5) and norm > 1e-2 for norm, expected in seen)
    assert float(trainer.gradients.values.norm()) == pytest.approx(1e-3, rel=1e-2)


def test_the_same_images_are_shown_after_each_validation(watched):
    events = watched.events.Images("val/lr_bicubic_sr_hr")
    assert [event.step for event in events] == [3, 6]
    first, second = map(picture_of, events)
    truth = [np.asarray(Image.open(watched.run.parent / "waves" / f"wave{n}.png")) for n in range(3)]
    for picture in (first, second):
        assert np.array_equal(picture[-32:, -32:], truth[2])
    assert np.array_equal(first[:, -32:], second[:, -32:]) and not np.array_equal(first, second)


def test_layers_are_a_table_and_two_heat_maps(watched):
    masker = watched.trainer.masker
    with (watched.run / "logs" / "density.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("step") for row in rows] == ["2", "4", "6"]
    assert {name: float(value) for name, value in rows[-1].items()} == pytest.approx(masker.densities(), rel=1e-5)
    regrown = read_layer_table(watched.run / "logs" / "regrown.csv")
    active = masker.active_by_layer()
    counts = [share * active[name] for name, share in zip(regrown.layers, regrown.rows[-1], strict=True)]
    told = watched.events.Scalars("weights/regrown")[-1].value
    assert sum(counts) == pytest.approx(told, rel=1e-4) and 0 < told < sum(active.values())
    for name in ("density", "regrown"):
        assert [event.step for event in watched.events.Images(f"weights/{name}_of_layers")][-1] == 6


def test_the_time_that_is_left_is_told(watched):
    told = [line for line in watched.lines if line.startswith("step ")]
    assert [bool(re.search(r"images/s  [\d.]+ min left$", line)) for line in told] == [True, True, False]


def test_wandb_gets_numbers_and_pictures(watched):
    scalars = {tag: watched.events.Scalars(tag) for tag in watched.events.Tags()["scalars"]}
    for tag, events in scalars.items():
        for event in events:
            assert watched.mirror[event.step][tag] == pytest.approx(event.value, rel=1e-5), tag
    picture = picture_of(watched.events.Images("val/lr_bicubic_sr_hr")[-1])
    assert np.array_equal(watched.mirror[6]["val/lr_bicubic_sr_hr"], picture)
    assert "weights/density_of_layers" in watched.mirror[6]


def test_wandb_is_asked_for_and_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"-enable_wandb: wandb is not installed; `pip install wandb`"):
        start_wandb("project", "name")
    begun = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: begun.append(options) or "run"))
    assert start_wandb("project", "name") == "run" and begun == [{"project": "project", "name": "name"}]


def test_without_tensorboard_a_mirror_alone():
    board = Board(None, mirror=(mirror := Mirror()))
    board.reports({"val": {"mean": {"psnr": 20.0}, "of_sets": {"fid": 3.0}}}, 7)
    board.close()
    assert mirror.logged == {7: {"val/psnr": 20.0, "val/fid": 3.0}}


# ---------------------------------------------------------------------------------------------------------------------
# The table.


def test_a_table_goes_on_after_a_kill_and_a_restart(tmp_path):
    file = tmp_path / "logs" / "density.csv"
    history = LayerHistory(file, 0, is_main=True)
    for step in (10, 20, 30):
        history.add(step, {"b.weight": step / 100, "a,c": 0.5})
    assert file.read_text() == 'step,b.weight,"a,c"\n10,0.1,0.5\n20,0.2,0.5\n30,0.3,0.5\n'
    with file.open("a") as torn:
        torn.write("40,0.")
    LayerHistory(file, 25, is_main=False).add(26, {"b.weight": 1.0, "a,c": 1.0})  # of another process
    again = LayerHistory(file, 25, is_main=True)
    for step in (30, 40):
        again.add(step, {"b.weight": 1.0, "a,c": 0.25})
    assert file.read_text() == 'step,b.weight,"a,c"\n10,0.1,0.5\n20,0.2,0.5\n30,1,0.25\n40,1,0.25\n'
    LayerHistory(file, 0, is_main=True).add(5, {"other": 1.0})
    assert file.read_text() == "step,other\n5,1\n"


def test_a_table_that_cannot_be_written_is_told_once(tmp_path, capsys):
    history = LayerHistory(tmp_path / "density.csv", 0, is_main=True)
    history.add(1, {"a": 0.5})
    (tmp_path / "density.csv").unlink()
    (tmp_path / "density.csv").mkdir()
    for step in (2, 3):
        history.add(step, {"a": 0.5})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "density.csv ends here, training goes on: " in line


# ---------------------------------------------------------------------------------------------------------------------
# The heat map.


def test_colours_grow_brighter():
    pixels = coloured(np.linspace(0, 1, 200), VIRIDIS).astype(float)
    luminance = pixels @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > -1.5).all() and luminance[-1] > luminance[0] + 150
    assert pixels[0].tolist() == [0x44, 0x01, 0x54] and pixels[-1].tolist() == [0xFD, 0xE7, 0x25]


@pytest.mark.parametrize(("n_layers", "n_updates"), [(1, 1), (4, 3), (234, 750), (1000, 2000)])
def test_a_heat_map_has_a_line_for_each_layer(n_layers, n_updates):
    values = np.random.default_rng(0).random((n_updates, n_layers))
    layers = [f"{'encoder' if n < n_layers / 2 else 'decoder'}.{n}" for n in range(n_layers)]
    picture = np.asarray(layers_over_time(values, layers, range(1, n_updates + 1), "density"))
    height = max(720 // n_layers, 1)
    assert picture.shape[1] < 900 and picture.shape[0] < 1100
    for layer in {0, n_layers // 2, n_layers - 1}:
        for at, update in ((0, 0), (WIDTH - 1, n_updates - 1)):
            colour = coloured(np.sqrt(values[update, layer] / values.max()), VIRIDIS)
            if height > 1:  # else the lines between parts are all that is seen of their first layers
                assert np.array_equal(picture[TOP + layer * height + height - 1, LEFT + at], colour)


def test_a_heat_map_of_nothing_but_zeros():
    assert layers_over_time([[0.0, 0.0]], ["a.weight", "b.weight"], [5], "regrown").width > WIDTH
