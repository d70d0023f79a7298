"""Training: it continues exactly, in one process or several, and keeps the budget of active weights."""

import copy
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.checkpoint.files import load_network, load_training_state
from core.config import check_config
from core.log import start_logging
from core.processes import Processes
from core.training.gradients import FlatGradients
from core.training.optimizer import build_optimizer, learning_rate
from core.training.trainer import Trainer
from data.tensors import to_image, to_tensor

TRAIN = {
    "n_iter": 8,
    "val_freq": 100,
    "save_checkpoint_freq": 4,
    "keep_checkpoints": None,
    "print_freq": 2,
    "optimizer": {"lr": 1e-3},
    "grad_clip": 1.0,
    "warmup": 2,
    "lr_schedule": "cosine",
    "ema_scheduler": {"step_start_ema": 2, "ema_decay": 0.5},
}
SPARSE = {"enabled": True, "density": 0.15, "update_every": 3, "update_until": 1.0}


@pytest.fixture
def config(small_config):
    """The small experiment, to be trained sparse on its five images in batches of two."""
    config = small_config.to_dict()
    config["datasets"]["train"] = {**config["datasets"]["val"], "batch_size": 2, "augment": True, "name": "waves"}
    del config["datasets"]["val"]
    config["model"]["unet"]["dropout"] = 0.1
    return check_config(config | {"train": copy.deepcopy(TRAIN), "sparse": dict(SPARSE)}).to_dict()


def fit(config, name, resume=None, kind=Trainer):
    """Trains to the end -> the trainer."""
    config = check_config(config | {"name": name})
    log = start_logging(os.devnull + "-none", "train", is_main=False)
    trainer = kind(config, Processes.from_environment("cpu"), log, resume)
    trainer.fit()
    return trainer


def checkpoint(config, name, prefix):
    return f"{config['path']['root']}/{name}/checkpoint/{prefix}"


def files(prefix):
    loaded = {kind: load_file(f"{prefix}_{kind}.safetensors") for kind in ("gen", "opt")}
    return {f"{kind}/{key}": tensor for kind, tensors in loaded.items() for key, tensor in tensors.items()}


@pytest.mark.slow
def test_a_second_stage_weighs_the_images_anew(config):
    """Four steps of two of the five images, then four with one image left out: 16 samples are four epochs of four."""
    fit(config, "first")
    config["datasets"]["train"]["weights"] = {"wave0": 0, "wave[12]": 0.25}
    second = fit(config, "second", resume=checkpoint(config, "first", "I4_E2"))
    assert (second.step, second.epoch) == (8, 4)
    saved = load_network(checkpoint(config, "second", "I8_E4"))[1]
    assert saved["datasets"]["train"]["weights"] == {"wave0": 0, "wave[12]": 0.25}
    assert "wave0" not in {name for _, batch in zip(range(8), second.batches(), strict=False) for name in batch["name"]}


def test_several_sets_in_drawn_sizes_continue_exactly(config):
    """Batches of two sets, each in sizes of its own; LR of another size is made of HR in 8 bits, as by Pillow."""
    train = config["datasets"]["train"]
    config["datasets"]["train_small"] = train | {"r_resolution": 16, "sizes": [[8, 16, 1], [4, 12, 2]], "batch_size": 3}
    fit(config, "whole")
    trainer = fit(config, "continued", resume=checkpoint(config, "whole", "I4_E1"))
    whole, continued = (files(checkpoint(config, name, "I8_E2")) for name in ("whole", "continued"))
    assert not [key for key in whole if not torch.equal(whole[key], continued[key])]

    seen = set()
    for batch in itertools.islice(trainer.batches(), 40):
        trainer.step += 1  # of which the draw is a function
        lr, hr, scale = trainer.draw_images(batch, trainer.generators()[0])
        magnification = hr.shape[-1] / lr.shape[-1]
        assert scale == pytest.approx(min((magnification - 1) / (4 - 1), 1))
        seen.add((len(lr), lr.shape[-1], hr.shape[-1]))
        if lr.shape[-1] == 4:
            image = to_image(batch["hr"][0]).resize((4, 4), Image.Resampling.BICUBIC)
            assert (to_tensor(image) - lr[0]).abs().max() <= 2 / 255 + 1e-6  # a level, by another order of rounding
    assert {size for size in seen if size[0] == 3} == {(3, 8, 16), (3, 4, 12)}


def test_continuing_is_exact(config):
    """Eight steps are four, and four more from the checkpoint: weights, moments, EMA and masks to the last bit."""
    fit(config, "whole")
    fit(config, "continued", resume=checkpoint(config, "whole", "I4_E2"))
    whole = files(checkpoint(config, "whole", "I8_E4"))
    continued = files(checkpoint(config, "continued", "I8_E4"))
    assert whole.keys() == continued.keys()
    assert not [key for key in whole if not torch.equal(whole[key], continued[key])]


@pytest.mark.slow
def test_stages_are_one_run(config):
    """A stage that ends after four of eight steps, and the next from its checkpoint, are the eight steps in one: the
    learning rate and the updates of the masks follow n_iter."""
    fit(config, "whole")
    config["train"] |= {"save_checkpoint_freq": 1000, "stop_at": 4}
    assert fit(config, "stages").step == 4
    assert fit(config, "stages", resume=checkpoint(config, "stages", "I4_E2")).step == 4  # nothing is left of it
    config["train"]["stop_at"] = None
    fit(config, "stages", resume=checkpoint(config, "stages", "I4_E2"))
    whole, stages = (files(checkpoint(config, name, "I8_E4")) for name in ("whole", "stages"))
    assert whole.keys() == stages.keys()
    assert not [key for key in whole if not torch.equal(whole[key], stages[key])]


def updates_of(config, name):
    """{step: prune rate} of the updates that a run told TensorBoard of."""
    events = EventAccumulator(f"{config['path']['root']}/{name}/tb_logger").Reload()
    told = events.Scalars("weights/prune_rate") if "weights/prune_rate" in events.Tags()["scalars"] else ()
    return {event.step: event.value for event in told}


def linear(progress):
    """The prune rate of a linear decay from 0.5, see sparse.schedule."""
    return 0.5 + (0.005 - 0.5) * progress


@pytest.fixture
def staged(config):
    """Updates at every step of the first half of the sparse stage, of eight steps; the prune rate falls linearly."""
    config["sparse"] |= {"update_every": 1, "update_until": 0.5, "prune_rate_schedule": "linear"}
    return config


@pytest.mark.slow
def test_a_sparse_stage_after_a_dense_one_has_its_own_schedule(staged):
    """Four dense steps of eight, then half of the four that are left update the masks; wherever it is interrupted."""
    fit(staged | {"sparse": {"enabled": False}}, "dense")
    dense = checkpoint(staged, "dense", "I4_E2")
    staged["train"]["save_checkpoint_freq"] = 1
    fit(staged, "sparse", resume=dense)
    assert updates_of(staged, "sparse") == pytest.approx({5: linear(1 / 2), 6: linear(1)})
    for step in (5, 7):
        name = f"again{step}"
        fit(staged, name, resume=checkpoint(staged, "sparse", f"I{step}_E{-(-2 * step // 5)}"))
        assert updates_of(staged, name) == pytest.approx({6: linear(1)} if step == 5 else {})
        whole, again = files(checkpoint(staged, "sparse", "I8_E4")), files(checkpoint(staged, name, "I8_E4"))
        assert not [key for key in whole if not torch.equal(whole[key], again[key])]


@pytest.mark.slow
def test_a_longer_run_stretches_the_schedule_from_the_same_start(staged):
    fit(staged, "short")
    assert updates_of(staged, "short") == pytest.approx({step: linear(step / 4) for step in (1, 2, 3, 4)})
    staged["train"]["n_iter"] = 16
    fit(staged, "long", resume=checkpoint(staged, "short", "I4_E2"))
    assert updates_of(staged, "long") == pytest.approx({step: linear(step / 8) for step in (5, 6, 7, 8)})


@pytest.mark.slow
def test_a_longer_sparse_stage_keeps_its_start(staged):
    fit(staged | {"sparse": {"enabled": False}}, "dense")
    fit(staged, "sparse", resume=checkpoint(staged, "dense", "I4_E2"))
    staged["train"]["n_iter"] = 16
    fit(staged, "long", resume=checkpoint(staged, "sparse", "I8_E4"))
    assert updates_of(staged, "long") == pytest.approx({9: linear(5 / 6), 10: linear(1)})


@pytest.mark.slow
def test_a_published_checkpoint_begins_its_sparse_stage_at_its_step(staged, published):
    """PREFIX_opt.pth tells step 7: of the four steps that are left of eleven, the first half updates the masks."""
    prefix, _, _ = published
    model = load_network(prefix)[1].model.to_dict()
    model["unet"]["norm_groups"] = 16
    staged["train"]["n_iter"] = 11
    trainer = fit(staged | {"model": model}, "sparse", resume=prefix)
    assert updates_of(staged, "sparse") == pytest.approx({8: linear(1 / 2), 9: linear(1)})
    assert trainer.optimizer.state[trainer.network.encoder.input.weight]["step"] == 7 + 4


@pytest.mark.slow
def test_a_network_file_alone_begins_at_step_0_with_its_masks(staged, capsys):
    fit(staged, "first")
    network_file = Path(checkpoint(staged, "first", "I8_E4_gen.safetensors"))
    network_file.with_name("I8_E4_opt.safetensors").unlink()
    masks = load_training_state(network_file, None).masks
    staged["sparse"]["update_every"] = 100
    second = fit(staged, "second", resume=network_file)
    told = (
        f"warning: {network_file} has no I8_E4_opt.safetensors beside it, to continue from: training begins at step 0"
    )
    assert capsys.readouterr().err.splitlines().count(told) == 1
    assert second.step == 8 and all(torch.equal(mask, masks[name]) for name, mask in second.masker.masks.items())
    staged["sparse"]["update_every"] = 1
    fit(staged, "third", resume=network_file)
    assert updates_of(staged, "third") == pytest.approx({step: linear(step / 4) for step in (1, 2, 3, 4)})


@pytest.mark.slow
def test_earlier_checkpoints_tell_their_start_by_the_steps_counted(staged):
    """Their masker counted its own steps: two of six, after four that were dense."""
    fit(staged | {"sparse": {"enabled": False}}, "dense")
    staged["train"]["stop_at"] = 6
    fit(staged, "sparse", resume=checkpoint(staged, "dense", "I4_E2"))
    file = checkpoint(staged, "sparse", "I6_E3_opt.safetensors")
    with safe_open(file, "pt") as content:
        counters = json.loads(content.metadata()["training"])
    assert counters["masker"] == {"start": 4, "updates": 2, "seed": 0} and counters["step"] == 6
    counters["masker"] = {"steps": 2, "updates": 2, "seed": 0}
    save_file(load_file(file), file, {"format": "smfdm", "training": json.dumps(counters)})
    assert load_training_state(file, None).masker == {"start": 4, "updates": 2, "seed": 0}


# ---------------------------------------------------------------------------------------------------------------------
# Another kind of training.


class WithCritic(Trainer):
    """Trains a module beside the network, on numbers of its own, at a tenth of the learning rate."""

    def build_modules(self):
        return {"critic": torch.nn.Linear(3, 1).to(self.processes.device)}

    def parameter_groups(self):
        network, critic = super().parameter_groups()
        return [network, critic | {"lr_scale": 0.1}]

    def build_objective(self):
        diffusion, critic = super().build_objective(), self.modules["critic"]
        return lambda *inputs: diffusion(*inputs) + critic(inputs[1].mean((2, 3))).square().mean()


def test_further_modules_are_trained_and_continue_exactly(config):
    whole = fit(config, "whole", kind=WithCritic)
    assert whole.optimizer.param_groups[1]["lr"] == pytest.approx(0.1 * whole.optimizer.param_groups[0]["lr"])
    fit(config, "continued", resume=checkpoint(config, "whole", "I4_E2"), kind=WithCritic)
    first, second = files(checkpoint(config, "whole", "I8_E4")), files(checkpoint(config, "continued", "I8_E4"))
    assert {"opt/modules/critic/weight", "opt/optimizer/critic/weight/exp_avg"} <= first.keys()
    assert not [key for key in first if key.startswith("gen/") and "critic" in key]
    assert first.keys() == second.keys() and not [key for key in first if not torch.equal(first[key], second[key])]
    at_4 = files(checkpoint(config, "whole", "I4_E2"))
    assert not torch.equal(at_4["opt/modules/critic/weight"], first["opt/modules/critic/weight"])


@pytest.mark.slow
def test_further_modules_begin_afresh_after_a_plain_stage(config):
    """...and a plain stage may follow, which leaves them out."""
    config["train"]["n_iter"] = 4
    fit(config, "plain")
    config["train"]["n_iter"] = 8
    fit(config, "critic", resume=checkpoint(config, "plain", "I4_E2"), kind=WithCritic)
    config["train"]["n_iter"] = 9
    fit(config, "again", resume=checkpoint(config, "critic", "I8_E4"))
    assert not [key for key in files(checkpoint(config, "again", "I9_E4")) if "critic" in key]


# ---------------------------------------------------------------------------------------------------------------------


def test_a_finished_run_has_nothing_to_do(config):
    """Started again, as run.sh does, it trains no step and is no error, so that validation follows."""
    fit(config, "done")
    saved = files(checkpoint(config, "done", "I8_E4"))
    assert fit(config, "done", resume=checkpoint(config, "done", "I8_E4")).step == 8
    assert all(torch.equal(tensor, saved[key]) for key, tensor in files(checkpoint(config, "done", "I8_E4")).items())


@pytest.mark.parametrize(
    "optimizer", ["adam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adamw", "sgd"))]
)
def test_masks_hold_after_every_step(config, optimizer, monkeypatch):
    config["train"]["optimizer"]["type"] = optimizer
    step, seen = Trainer.train_step, []

    def checked(self, batch):
        step(self, batch)
        active = 0
        for name, mask in self.masker.masks.items():
            weight, average = self.masker.parameters[name], dict(self.ema.network.named_parameters())[name]
            assert not weight[~mask].any() and not average[~mask].any()
            active += int(mask.sum())
        assert active == round(0.15 * self.masker.prunable)
        seen.append({name: mask.clone() for name, mask in self.masker.masks.items()})

    monkeypatch.setattr(Trainer, "train_step", checked)
    fit(config, optimizer)
    moved = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(seen)]
    assert moved == [False, True, False, False, True, False, False]  # updates at steps 3 and 6


def test_dense_training_and_its_files(config):
    trainer = fit(config | {"sparse": {"enabled": False}}, "dense")
    network, saved = load_network(checkpoint(config, "dense", "I8_E4"))
    assert saved["name"] == "dense" and trainer.masker is None
    averages = trainer.ema.network.state_dict()
    assert all(torch.equal(tensor, averages[name]) for name, tensor in network.state_dict().items())


@pytest.mark.slow
def test_training_learns(config):
    """On five images and a wide enough network the loss falls well below that of predicting nothing (0.8 for ε)."""
    config["train"] |= {"n_iter": 150, "save_checkpoint_freq": 1000, "print_freq": 50}
    config["train"]["optimizer"]["lr"] = 5e-3
    config["model"]["unet"]["dropout"] = 0.0
    losses = []
    trainer_report = Trainer.report

    def report(self, bar):
        steps = self.step - self.since[1]
        losses.append(self.losses.item() / steps)
        trainer_report(self, bar)

    Trainer.report = report
    try:
        fit(config, "learn")
    finally:
        Trainer.report = trainer_report
    assert losses[-1] < 0.75 * losses[0]


def test_learning_rate(config):
    train = check_config(config | {"train": {"optimizer": {"lr": 2.0}, "warmup": 4, "n_iter": 104}}).train
    train = train.replace(lr_schedule="cosine")
    assert [learning_rate(step, train) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert learning_rate(4, train) == 2.0 and learning_rate(54, train) == pytest.approx(1.0)
    assert learning_rate(104, train) == pytest.approx(0.0, abs=1e-9)
    assert learning_rate(99, train.replace(lr_schedule="constant")) == 2.0


def test_optimizer_of_config(config):
    parameter = [torch.nn.Parameter(torch.zeros(1))]
    options = check_config(config).train.optimizer
    for kind, expected in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        assert type(build_optimizer(parameter, options.replace(type=kind), torch.device("cpu"))) is expected


# ---------------------------------------------------------------------------------------------------------------------
# The command, as a user types it.


def write(config, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def sr(pytestconfig, *arguments, launcher=(), **options):
    command = [sys.executable, *launcher, str(pytestconfig.rootpath / "sr.py"), "--device", "cpu", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, **options)


@pytest.mark.slow
def test_two_processes_train_as_one(config, tmp_path, pytestconfig):
    """The same images and noise, so the same losses and masks, with half of each batch in each of two processes."""
    config["model"]["unet"]["dropout"] = 0.0  # each process draws its own
    config["sparse"]["exclude"] = ["*.noise.weight"]  # the two channels of a group tie there, but for rounding
    config["datasets"]["train"] |= {"num_workers": 1}
    config["train"]["print_freq"] = 1
    config["train"]["optimizer"] |= {"type": "sgd", "lr": 0.02}  # Adam makes whole steps of what is but rounding
    results = {}
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    for name, batch, start in (("one", 2, ()), ("two", 1, launcher)):
        config["datasets"]["train"]["batch_size"] = batch
        file = write(config | {"name": name}, tmp_path)
        done = sr(pytestconfig, "-p", "train", "-c", file, launcher=start)
        assert done.returncode == 0, done.stderr
        events = EventAccumulator(str(tmp_path / "experiments" / name / "tb_logger")).Reload()
        results[name] = [event.value for event in events.Scalars("train/loss")]
    assert len(results["one"]) == 8
    assert results["one"] == pytest.approx(results["two"], abs=1e-5)
    state = [load_training_state(checkpoint(config, name, "I8_E4"), None) for name in ("one", "two")]
    for name, weight in state[0].weights.items():
        assert torch.allclose(weight, state[1].weights[name], atol=1e-4), name
    assert all(torch.equal(mask, state[1].masks[name]) for name, mask in state[0].masks.items())


RANKS_AGREE = """
import os, sys, torch
from core.config import load_config
from core.processes import Processes
from core.log import start_logging
from core.training.trainer import Trainer

processes = Processes.from_environment("cpu")
trainer = Trainer(load_config(sys.argv[1]), processes, start_logging("none", "none", is_main=False))
torch.manual_seed(processes.rank)
trainer.masker.update(0.5)  # before the first step growth is random
trainer.fit()
state = {"mask " + n: m for n, m in trainer.masker.masks.items()} | dict(trainer.network.state_dict())
for name, tensor in state.items():
    first, second = processes.gather(tensor)
    assert torch.equal(first, second), name
print("equal:", len(state), flush=True)
processes.close()
os._exit(0)  # threads of torch are sometimes still there as the interpreter ends, which aborts it
"""


@pytest.mark.slow
def test_masks_and_weights_are_equal_on_all_ranks(config, tmp_path, pytestconfig):
    config["sparse"] |= {"growth": "random", "update_every": 2}
    (tmp_path / "script.py").write_text(RANKS_AGREE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(tmp_path / "script.py"), str(write(config, tmp_path))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(pytestconfig.rootpath)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0 and done.stdout.count("equal:") == 2, done.stderr


@pytest.mark.slow
def test_a_stopped_run_is_saved_and_continues(config, tmp_path, pytestconfig):
    config["train"] |= {"n_iter": 100_000, "save_checkpoint_freq": 100_000, "print_freq": 1}
    file = write(config, tmp_path)
    command = [sys.executable, str(pytestconfig.rootpath / "sr.py"), "--device", "cpu", "-c", str(file)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in run.stdout:
        if line.startswith("step 3/"):
            break
    time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 143 and errors.strip().splitlines()[-1] == "interrupted"

    refused = sr(pytestconfig, "-c", file)
    assert refused.returncode == 2 and "-r auto" in refused.stderr and len(refused.stderr.splitlines()) == 1
    folder = tmp_path / "experiments" / "small" / "checkpoint"
    (saved,) = (int(found.name.split("_")[0][1:]) for found in folder.glob("*_gen.safetensors"))
    more = sr(pytestconfig, "-c", file, "-r", "auto", "--set", f"train.n_iter={saved + 2}")
    assert more.returncode == 0 and f"step {saved} → {saved + 2}" in more.stdout, more.stderr


@pytest.mark.slow
def test_a_killed_run_leaves_whole_files(config, tmp_path, pytestconfig):
    config["train"] |= {"n_iter": 100_000, "save_checkpoint_freq": 1, "print_freq": 1}
    file = write(config, tmp_path)
    command = [sys.executable, str(pytestconfig.rootpath / "sr.py"), "--device", "cpu", "-c", str(file)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in run.stdout:
        if line.startswith("step 5/"):
            break
    run.kill()
    run.wait()
    folder = tmp_path / "experiments" / "small" / "checkpoint"
    found = sorted(folder.glob("*_gen.safetensors"))
    assert len(found) >= 4
    for path in found:
        state = load_training_state(path, None)
        assert state.step == int(path.name[1:].split("_")[0]) and state.optimizer


@pytest.mark.slow
def test_wrong_options_are_one_line(pytestconfig):
    for options, told in (
        ((), "give a config with -c"),
        (("-c", "x.yaml", "--lr", "fast"), "--lr: invalid float value"),
    ):
        done = sr(pytestconfig, *options)
        assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_command_line_flags(config, tmp_path, pytestconfig):
    """--dense and the sparse rules reach the checkpoint's config."""
    config["train"]["n_iter"] = 1
    file = write(config, tmp_path)
    flags = ["--sparse", "--density", "0.3", "--prune", "SET", "--growth", "random", "--redistribution", "none"]
    done = sr(pytestconfig, "-p", "train", "-c", file, *flags, "--prune-rate", "0.4", "--lr", "0.01", "--set", "name=a")
    assert done.returncode == 0, done.stderr
    saved = load_network(tmp_path / "experiments" / "a" / "checkpoint")[1]
    wanted = {"density": 0.3, "prune": "SET", "growth": "random", "redistribution": "none", "prune_rate": 0.4}
    assert wanted.items() <= saved["sparse"].items() and saved["train"]["optimizer"]["lr"] == 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "train.n_itr=3"], "n_itr"),
        (["--density", "15"], "--density: sparse.density is 15.0, but must be a number in (0, 1] (0.15 is 15 %)"),
        (["-r", "nowhere/I3_E1"], "nowhere/I3_E1"),
        (["--set", "datasets.train.dataroot=nowhere"], "nowhere"),
        (["-c", "nowhere.yaml"], "nowhere.yaml"),
        (["-p", "val"], "datasets.val"),
    ],
)
def test_bad_input_is_one_line(config, tmp_path, pytestconfig, arguments, told):
    done = sr(pytestconfig, "-c", write(config, tmp_path), *arguments)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and told in done.stderr, done.stderr
    assert not list((tmp_path / "experiments").rglob("*.safetensors"))


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_accumulating_is_a_larger_batch(config):
    """Two batches of one image are one batch of two."""
    config["model"]["unet"]["dropout"] = 0.0
    config["train"]["n_iter"] = 2
    whole = fit(config, "whole")
    config["train"]["accumulate"], config["datasets"]["train"]["batch_size"] = 2, 1
    parts = fit(config, "parts")
    assert parts.epoch == whole.epoch
    for name, weight in whole.network.state_dict().items():
        assert torch.allclose(weight, parts.network.state_dict()[name], atol=1e-4), name


def test_clipping_is_by_the_common_norm():
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,))]
    gradients = FlatGradients(parameters)
    torch.manual_seed(0)
    (100 * sum((parameter * torch.randn_like(parameter)).sum() for parameter in parameters)).backward()
    expected = [parameter.grad.clone() for parameter in parameters]
    norm = torch.nn.utils.get_total_norm(expected)
    gradients.clip(0.7)
    assert all(torch.allclose(p.grad, g * 0.7 / norm, rtol=1e-5) for p, g in zip(parameters, expected, strict=True))
    gradients.clip(1e9)
    assert torch.allclose(gradients.buffer.norm(), torch.tensor(0.7), rtol=1e-5)


@pytest.mark.cuda
def test_a_step_on_cuda_is_that_on_the_cpu(config, exact_float32):
    """One step from the same weights and the same noise, in float32."""
    config["train"] |= {"n_iter": 1, "precision": "float32", "warmup": 0}
    config["train"]["optimizer"] = {"type": "sgd", "lr": 0.1}
    config["model"]["unet"]["dropout"] = 0.0
    log = start_logging(os.devnull + "-none", "train", is_main=False)
    weights, drawn = {}, None
    for device in ("cpu", "cuda"):
        trainer = Trainer(check_config(config | {"name": device}), Processes(0, 1, torch.device(device)), log)
        batch = next(iter(trainer.batches()))
        drawn = trainer.draw(batch) if drawn is None else drawn  # the generators of the two devices differ
        trainer.draw = lambda batch, d=drawn, to=device: (tuple(tensor.to(to) for tensor in d[0]), d[1])
        trainer.train_step(batch)
        weights[device] = {name: tensor.cpu() for name, tensor in trainer.network.state_dict().items()}
    for name, weight in weights["cpu"].items():
        assert torch.allclose(weight, weights["cuda"][name], atol=1e-5), name


@pytest.mark.cuda
def test_graphs_train_as_eager_steps_do(config, exact_float32):
    """Several sizes, each captured once; dropout draws anew in every replay."""
    config["train"] |= {"n_iter": 12, "save_checkpoint_freq": 100}
    config["train"]["optimizer"] |= {"type": "sgd", "lr": 0.02}
    config["sparse"]["update_every"] = 100
    log = start_logging(os.devnull + "-none", "train", is_main=False)
    weights = {}
    for graphs in (False, True):
        own = copy.deepcopy(config) | {"name": f"graphs-{graphs}"}
        own["train"]["cuda_graphs"] = graphs
        trainer = Trainer(check_config(own), Processes(0, 1, torch.device("cuda")), log)
        trainer.fit()
        assert len(trainer.forward_backward.graphs or ()) == (3 if graphs else 0)
        weights[graphs] = trainer.network.state_dict()
    for name, weight in weights[False].items():
        assert torch.allclose(weight, weights[True][name], atol=1e-4), name


@pytest.mark.cuda
def test_deterministic_trainings_on_a_gpu_write_the_same_bytes(config, tmp_path, pytestconfig):
    """...in two processes: sparse, in bf16 and by CUDA graphs, with dropout, workers and images of several sizes."""
    config["datasets"]["train"] |= {"num_workers": 1}
    config["train"] |= {"n_iter": 16, "save_checkpoint_freq": 8, "continuous_scale": True}
    file, experiment = write(config, tmp_path), tmp_path / "experiments" / "small"
    written = []
    for _ in range(2):
        done = sr(pytestconfig, "-p", "train", "-c", file, "--device", "cuda", "--deterministic")
        assert done.returncode == 0, done.stderr
        written.append({file.name: file.read_bytes() for file in experiment.rglob("*.safetensors")})
        shutil.rmtree(experiment)
    assert len(written[0]) == 4 and written[0].keys() == written[1].keys()
    assert not [name for name in written[0] if written[0][name] != written[1][name]]
