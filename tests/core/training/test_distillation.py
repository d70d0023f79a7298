"""Distillation by `sr.py -p distill`: from a trained network to a student that says itself how it samples."""

import copy
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from core.checkpoint.files import TrainingState, load_network, save_checkpoint
from core.checkpoint.network_file import read_network_file
from core.config import check_config
from core.errors import UserError
from core.log import start_logging
from core.processes import Processes
from core.sampling.super_resolution import sampling_settings
from core.training.distillation import DistillationTrainer, told
from model.distillation.perceptual_network import PerceptualNetwork
from model.resampling import resample
from sparse import Masker

TRAIN = {
    "n_iter": 4,
    "val_freq": 100,
    "save_checkpoint_freq": 2,
    "print_freq": 2,
    "continuous_scale": False,
    "optimizer": {"lr": 1e-3, "betas": [0.0, 0.99]},
    "ema_scheduler": {"step_start_ema": 1, "ema_decay": 0.5},
}
SAMPLE = {"solver": "ddim", "steps": 1, "key_steps": "none", "start": 0.9, "consistency": 1}


@pytest.fixture
def config(small_config):
    """A small distillation, as nested dicts, on the five images of `small_config`."""
    config = small_config.to_dict()
    config["datasets"]["train"] = {**config["datasets"]["val"], "batch_size": 2, "augment": True, "name": "waves"}
    del config["datasets"]["val"]
    config |= {"phase": "distill", "train": TRAIN, "sparse": {"density": 0.3, "prune_rate": 0}, "sample": SAMPLE}
    return config | {"distill": {"head_channels": 4, "pixel_head": True, "shift": 2}}


@pytest.fixture
def teacher(config, small_network, tmp_path):
    """The prefix of a sparse checkpoint at step 500, of training and network."""
    network = copy.deepcopy(small_network)  # the masker changes weights in place
    masker = Masker(network, torch.optim.Adam(network.parameters()), density=0.3, keep="largest")
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = TrainingState(weights, weights, dict(masker.masks), 500, {"start": 0, "updates": 3, "seed": 0})
    plain = {key: value for key, value in config.items() if key not in ("distill", "phase")}
    save_checkpoint(tmp_path / "I500_E1", check_config(plain | {"name": "teacher"}), state)
    return tmp_path / "I500_E1"


def distil(config, name, resume=None):
    """Trains to the end -> the trainer."""
    trainer = trainer_of(config, name, resume)
    trainer.fit()
    return trainer


def trainer_of(config, name, resume=None):
    log = start_logging(os.devnull + "-none", "distill", is_main=False)
    checked = check_config(config | {"name": name}, for_run=True)
    return DistillationTrainer(checked, Processes.from_environment("cpu"), log, resume)


def checkpoint(config, name, prefix):
    return f"{config['path']['root']}/{name}/checkpoint/{prefix}"


def test_a_student_begins_as_its_teacher_and_keeps_the_masks(config, teacher):
    before = load_file(f"{teacher}_gen.safetensors")
    trainer = distil(config, "student", teacher)
    assert trainer.step == 4  # counted from its own start, not from the teacher's 500 steps
    assert torch.equal(trainer.teacher.encoder.input.weight, load_network(teacher)[0].encoder.input.weight)
    old = read_network_file(teacher.with_name("I500_E1_gen.safetensors"))
    prefix = checkpoint(config, "student", "I4_E2")
    new = read_network_file(teacher.with_name("x").parent / f"{prefix}_gen.safetensors")
    assert new.masks.keys() == old.masks.keys()
    assert all(torch.equal(new.masks[name], old.masks[name]) for name in old.masks)
    assert not torch.equal(new.weights["encoder.input.weight"], old.weights["encoder.input.weight"])
    assert load_file(f"{teacher}_gen.safetensors").keys() == before.keys()


def test_a_students_checkpoint_says_how_to_sample_it(config, teacher):
    distil(config, "student", teacher)
    network, saved = load_network(checkpoint(config, "student", "I4_E2"))
    assert {key: saved.sample[key] for key in SAMPLE} == SAMPLE
    assert saved.distill.teacher == str(teacher)
    assert not [name for name in network.state_dict() if "discriminator" in name]


@pytest.mark.slow
def test_continuing_is_exact_and_finds_the_teacher(config, teacher):
    distil(config, "whole", teacher)
    distil(config, "continued", checkpoint(config, "whole", "I2_E1"))
    for kind in ("gen", "opt"):
        whole, continued = (
            load_file(f"{checkpoint(config, name, 'I4_E2')}_{kind}.safetensors") for name in ("whole", "continued")
        )
        assert whole.keys() == continued.keys()
        assert not [key for key in whole if not torch.equal(whole[key], continued[key])]
    assert any(key.startswith("optimizer/discriminator/") for key in whole)


@pytest.fixture
def student(config, teacher, small_network, tmp_path):
    """The prefix of a network file of a student, as core.export writes it, whose teacher is `teacher`."""
    of_student = {**config, "name": "student", "distill": config["distill"] | {"teacher": str(teacher)}}
    weights = small_network.state_dict()
    save_checkpoint(tmp_path / "student", check_config(of_student), TrainingState(weights, weights))
    (tmp_path / "student_opt.safetensors").unlink()
    return tmp_path / "student"


FAITHFUL = {"feature_weight": 0, "adversarial_weight": 0}


@pytest.mark.parametrize("losses", [{}, FAITHFUL])
def test_a_second_distillation_has_the_teacher_of_the_first(config, teacher, student, losses):
    config["distill"] |= losses
    trainer = trainer_of(config, "second", student)
    assert trainer.config.distill.teacher == str(teacher) and trainer.summary().endswith(f"; teacher {teacher}")


def test_a_fresh_student_has_the_teacher_that_is_named(config, student):
    """It takes nothing from that checkpoint; whoever taught it is no matter."""
    config["distill"] |= {"fresh_student": True}
    trainer = distil(config, "fresh", student)
    assert trainer.config.distill.teacher == str(student)
    student.with_name("student_gen.safetensors").rename(student.with_name("moved.safetensors"))
    with pytest.raises(UserError, match=r"student, noted in \S*/fresh/checkpoint/I2_E1, is not here: name yours"):
        trainer_of(config, "fresh", checkpoint(config, "fresh", "I2_E1"))


@pytest.mark.parametrize("losses", [{}, {"feature_weight": 0}, FAITHFUL | {"texture_weight": 1}])
def test_a_noted_teacher_that_is_not_here_is_one_line(config, teacher, student, losses):
    config["distill"] |= losses
    teacher.with_name("I500_E1_gen.safetensors").unlink()
    mend = "name yours with --set distill.teacher=CHECKPOINT"
    with pytest.raises(UserError) as error:
        trainer_of(config, "second", student)
    assert str(error.value) == f"distill.teacher: {teacher}, noted in {student}, is not here: {mend}"
    config["distill"]["teacher"] = str(student)
    assert trainer_of(config, "second", student).config.distill.teacher == str(student)


def test_a_teacher_that_no_config_can_note_is_refused(config, teacher):
    """The student's checkpoints would have a config that is refused."""
    folder = teacher.parent / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    for file in teacher.parent.glob("I500_E1_*"):
        file.rename(folder / file.name)
    with pytest.raises(UserError, match="not a path in UTF-8, and the student's config notes its teacher"):
        trainer_of(config, "student", folder / teacher.name)
    (teacher.parent / "link").symlink_to(folder)
    assert distil(config, "student", teacher.parent / "link" / teacher.name).step


def test_a_teacher_that_nobody_asks_may_be_gone(config, teacher, student):
    """The checkpoint to begin with stands in; continuing, now and later, needs no other."""
    config["distill"] |= FAITHFUL
    teacher.with_name("I500_E1_gen.safetensors").unlink()
    trainer = distil(config, "second", student)
    assert trainer.config.distill.teacher == str(student)
    assert distil(config, "second", checkpoint(config, "second", "I2_E1")).step == 4


@pytest.mark.slow
def test_the_student_learns(config, teacher):
    """Forty steps on five images bring it nearer to the truth."""
    config["train"] = TRAIN | {"n_iter": 40, "print_freq": 100, "save_checkpoint_freq": 100}
    config["sparse"] = {"enabled": False}
    trainer = trainer_of(config, "learns", teacher)
    pixels = []
    for _, batch in zip(range(40), trainer.batches(), strict=False):
        trainer.train_step(batch)
        pixels.append(trainer.objective.parts[0].item())
    assert sum(pixels[-5:]) < 0.75 * sum(pixels[:5])


@pytest.mark.parametrize("step", [1, 8])
def test_sizes_are_drawn(config, teacher, step):
    """Sides of any parity, down to a pixel more than that of LR, and views that are moved by more than a side."""
    config["train"] = TRAIN | {"continuous_scale": True, "scale_step": step, "n_iter": 8}
    config["datasets"]["train"] |= {"use_crop": True, "r_resolution": 24}
    config["distill"] |= {"shift": 30}
    trainer = trainer_of(config, "sizes", teacher)
    sides = []
    for _, batch in zip(range(8), trainer.batches(), strict=False):
        (_, hr, *_), (scale, _) = trainer.draw(batch)
        sides.append(hr.shape[-1])
        assert scale == pytest.approx((sides[-1] - 8) / (24 - 8))
        trainer.train_step(batch)
        assert trainer.objective.parts.isfinite().all()
    assert len(set(sides)) > 1 and set(sides) <= ({9, 16, 24} if step == 8 else set(range(9, 25)))


@pytest.mark.slow
def test_the_masker_may_update_while_it_distils(config, teacher):
    config["sparse"] = {"density": 0.3, "prune_rate": 0.5, "update_every": 1, "update_until": 1.0}
    trainer = distil(config, "moving", teacher)
    assert trainer.masker.updates == 4
    assert trainer.masker.density == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize(
    ("warmup", "first", "rates"),
    [
        (2, 2, [0, 0, 0.5, 1, 1]),
        (4, 2, [0, 0, 0.25, 0.5, 0.75]),
        (0, 2, [0, 0, 1, 1, 1]),
        (2, 0, [0.5, 1, 1, 1, 1]),
    ],
)
def test_the_discriminator_may_learn_alone_at_first(config, teacher, warmup, first, rates):
    """The student has its warm-up after that, and its masks, which could change at any step, rest."""
    config["train"] = {**TRAIN, "n_iter": 6, "warmup": warmup, "lr_schedule": "constant"}
    config["sparse"] = {"density": 0.3, "prune_rate": 0.5, "update_every": 1, "update_until": 1.0}
    config["distill"] |= {"heads_first": first, "head_lr": 1e-2}
    trainer, seen = trainer_of(config, "student", teacher), []
    for step, batch in zip(range(5), trainer.batches(), strict=False):
        student, heads = (copies(module) for module in (trainer.network, trainer.discriminator))
        masks = {name: mask.clone() for name, mask in trainer.masker.masks.items()}
        trainer.train_step(batch)
        seen.append(trainer.optimizer.param_groups[0]["lr"] / TRAIN["optimizer"]["lr"])
        assert same(student, copies(trainer.network)) == (step < first)
        assert not same(heads, copies(trainer.discriminator))
        assert same(masks, trainer.masker.masks) == (step < first)
    assert seen == pytest.approx(rates)


def copies(module):
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def same(some, others):
    return all(torch.equal(some[name], other) for name, other in others.items())


def test_only_a_discriminator_that_teaches_may_learn_first(config):
    config["distill"] |= {"heads_first": 2, "adversarial_weight": 0}
    with pytest.raises(UserError, match=r"^[^\n]*distill\.heads_first is 2, but needs distill\.adversarial_weight"):
        check_config(config, for_run=True)


@pytest.mark.slow
def test_a_fresh_student_may_be_another_network(config, teacher):
    """It begins with first weights and masks, its teacher only judges; continuing finds what was left."""
    config["distill"] |= {"fresh_student": True}
    config["model"]["unet"] |= {"norm_groups": 0, "attn_res": [], "mid_attention": False}
    config["model"]["lr_encoder"] |= {"sub_pixel": 2}
    trainer = distil(config, "fresh", teacher)
    network, saved = load_network(checkpoint(config, "fresh", "I4_E2"))
    assert saved.distill.teacher == str(teacher) and network.lr_encoder.sub_pixel == 2
    assert trainer.masker.density == pytest.approx(0.3, abs=1e-3)
    distil(config, "again", checkpoint(config, "fresh", "I2_E1"))
    whole, again = (load_file(f"{checkpoint(config, name, 'I4_E2')}_opt.safetensors") for name in ("fresh", "again"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"solver": "ddpm"}, "sample.solver is ddpm, but a student"),
        ({"eta": 0.5}, "sample.eta is 0.5, but a student"),
        ({"start": None}, "sample.start is null, but a student starts"),
        ({"steps": None}, "sample.steps is null, but a student makes 1 to 8"),
        ({"steps": 9}, "sample.steps is 9, but a student makes 1 to 8"),
        ({"decode": "first"}, "sample.decode is first"),
        ({"key_steps": "auto:1"}, "sample.key_steps is auto:1"),
    ],
)
def test_what_no_student_can_learn_is_refused(config, change, said):
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        check_config(config | {"sample": SAMPLE | change}, for_run=True)
    assert said in str(error.value)


def test_the_student_learns_at_least_once(config):
    config["distill"] |= {"heads_first": 4}
    with pytest.raises(UserError, match=r"^[^\n]*distill\.heads_first is 4, but must be less than train\.n_iter \(4\)"):
        check_config(config, for_run=True)


def test_levels_have_weights_or_none(config, teacher):
    """The small teacher has two levels and a bottleneck; the config alone cannot know."""
    config["distill"]["level_weights"] = [0, 0, 0]
    with pytest.raises(UserError, match=r"^[^\n]*distill\.level_weights is \[0\.0, 0\.0, 0\.0\], but one [^\n]*$"):
        check_config(config, for_run=True)
    config["distill"]["level_weights"] = [0.2, 1]
    with pytest.raises(UserError, match=r"^distill\.level_weights has 2 weights, but needs 3: [^\n]*$"):
        distil(config, "wrong", teacher)
    config["distill"] |= {"level_weights": [0.2, 1, 1], "texture_weight": 4, "mirror_weight": 2, "pattern_weight": 3}
    trainer = distil(config, "right", teacher)
    assert (trainer.objective.mirror_weight, trainer.objective.pattern_weight) == (2, 3)
    assert trainer.objective.parts[6] > 0 and trainer.objective.parts[7] > 0
    torch.testing.assert_close(trainer.objective.level_weights, torch.tensor([0.2, 1, 1]) * 3 / 2.2)
    assert trainer.objective.parts.isfinite().all() and trainer.objective.parts[2] > 0


def test_other_heads_cannot_be_continued(config, teacher):
    """As those of earlier versions, whose head for pixels had other layers."""
    distil(config, "student", teacher)
    for change in ({"head_channels": 8}, {"pixel_head": False}):
        changed = config | {"distill": config["distill"] | change}
        with pytest.raises(UserError, match=r"^the checkpoint's discriminator: [^\n]* export its network [^\n]*$"):
            distil(changed, "student", checkpoint(config, "student", "I2_E1"))


def test_a_students_checkpoint_may_be_sampled_in_any_way(config):
    """What no student can learn is refused for a run, not for a file that infer.py reads."""
    assert check_config(config | {"sample": SAMPLE | {"solver": "dpm++", "steps": 20}}).sample.steps == 20


def test_sections_that_distillation_needs(config):
    del config["distill"]
    with pytest.raises(UserError, match="distill is missing: phase distill needs this section"):
        check_config(config, for_run=True)


def run(*arguments, cwd="."):
    return subprocess.run([sys.executable, "sr.py", *arguments], capture_output=True, text=True, cwd=cwd)


@pytest.mark.slow
def test_the_command(config, teacher, tmp_path):
    """As a user types it: without a teacher one line; with one, it trains; then -r auto has nothing left to do."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    common = ("-c", str(file), "--device", "cpu")
    refused = run("-p", "distill", *common)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "name its checkpoint with -r" in refused.stderr
    trained = run("-p", "distill", *common, "-r", str(teacher))
    assert trained.returncode == 0, trained.stderr
    assert "adversarial" in trained.stdout
    again = run(*common, "-r", "auto")
    assert again.returncode == 0, again.stderr
    assert "nothing is left to train" in again.stdout


def test_without_a_judge_the_loss_is_that_of_the_pixels(config, teacher):
    config["distill"] = {"feature_weight": 0, "adversarial_weight": 0, "head_channels": 4}
    trainer = distil(config, "faithful", teacher)
    drawn, constants = trainer.draw(next(iter(trainer.batches())))
    lr, hr, noise = drawn[:3]
    result = trainer.objective.student(lr, resample(lr, hr.shape[2:]), noise, constants[0])
    loss = trainer.objective(*drawn, *constants).item()
    assert loss == pytest.approx((result - hr).abs().mean().item(), rel=1e-6)
    assert all(not p.grad.any() for p in trainer.discriminator.parameters())
    with pytest.raises(UserError, match=r"--preset fast: photos was taught .*; use instant or mirrored, or name"):
        sampling_settings(trainer.config, {}, "fast", "photos")
    taught = trainer.config.sample
    assert sampling_settings(trainer.config, {}, "instant") == taught
    assert sampling_settings(trainer.config, {}, "mirrored") == taught.replace(mirrored=True)


def test_the_log_leaves_out_parts_of_the_loss_that_nothing_asks_for():
    parts = {"pixels": 0.0802, "features": 0.0, "texture": 0.0, "mirror": float("nan")}
    assert told(parts) == "parts of the loss: pixels 0.0802  mirror nan"


def test_pixels_count_as_much_as_their_set_says(config, teacher):
    further = config["datasets"]["train"] | {"pixel_weight": 0.5}
    config["datasets"] |= {"train": config["datasets"]["train"] | {"pixel_weight": 2.5}, "train_further": further}
    config["distill"] = {"feature_weight": 0, "adversarial_weight": 0, "head_channels": 4}
    trainer, seen = distil(config, "weighted", teacher), set()
    for batch in itertools.islice(trainer.batches(), 12):
        drawn, constants = trainer.draw(batch)
        loss, pixels = trainer.objective(*drawn, *constants).item(), trainer.objective.parts[0].item()
        weight = (2.5, 0.5)[int(batch["set"][0])]
        assert loss == pytest.approx(weight * pixels, rel=1e-5)
        seen.add(weight)
    assert seen == {2.5, 0.5}


def test_a_perceptual_network_judges_too(config, teacher, tmp_path):
    """Its features are a part of the loss and get heads; continuing finds its file, or says what to do."""
    file = tmp_path / "perceptual_network.safetensors"
    save_file(PerceptualNetwork(3, 2).state_dict(), file, {"perceptual_network": '{"images": 3, "width": 2}'})
    config["distill"] |= {"perceptual_network": str(file), "perceptual_weight": 0.5}
    trainer = distil(config, "perceived", teacher)
    assert trainer.objective.parts[3] > 0
    assert trainer.objective.perceptual_weight == 0.5
    assert len(trainer.discriminator.feature_heads) == len(trainer.teacher.channels) + 5
    saved = checkpoint(config, "perceived", "I4_E2")
    assert read_network_file(Path(f"{saved}_gen.safetensors")).config.distill.perceptual_network == str(file)
    distil(config, "perceived", saved)
    headless = {**config, "distill": config["distill"] | {"perceptual_heads": False}}
    trainer = distil(headless, "headless", teacher)
    assert trainer.objective.parts[3] > 0
    assert len(trainer.discriminator.feature_heads) == len(trainer.teacher.channels)
    with pytest.raises(UserError, match="cannot go on with other heads"):
        distil(headless, "headless", saved)
    file.unlink()
    with pytest.raises(UserError, match="is no file: make it with python -m"):
        distil(config, "perceived", saved)


@pytest.mark.cuda
def test_graphs_compute_what_eager_mode_does(config, teacher, exact_float32):
    """Captured or not, four steps in float32 take the student the same way. They are steps of SGD: one of Adam without
    momentum has the size of the rate where the gradient is next to nothing, and rounding decides its sign. Weights
    themselves are rounded at each step, which 1e-6 of their size allows for."""
    config["train"] = TRAIN | {"precision": "float32", "optimizer": {"type": "sgd", "lr": 0.01}}
    config["distill"] |= {"mirror_weight": 0.5, "pattern_weight": 2}
    log = start_logging(os.devnull + "-none", "distill", is_main=False)
    networks = []
    for graphs in (True, False):
        config["train"]["cuda_graphs"] = graphs
        checked = check_config(config | {"name": f"graphs_{graphs}"}, for_run=True)
        trainer = DistillationTrainer(checked, Processes(0, 1, torch.device("cuda")), log, teacher)
        before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
        trainer.fit()
        networks.append(trainer.network.state_dict())
    for name, start in before.items():
        by_graphs, eager = (network[name] - start for network in networks)
        assert (by_graphs - eager).norm() <= 0.01 * eager.norm() + 1e-6 * start.norm() + 1e-7, name


@pytest.mark.cuda
def test_deterministic_distillations_on_a_gpu_write_the_same_bytes(config, teacher, tmp_path):
    """...in two processes, of the student and of the discriminator, in bf16 and by CUDA graphs."""
    config["train"] = TRAIN | {"n_iter": 10, "save_checkpoint_freq": 5}
    file, experiment = tmp_path / "config.yaml", tmp_path / "experiments" / "small"
    file.write_text(yaml.safe_dump(config))
    written = []
    for _ in range(2):
        command = "-p", "distill", "-c", str(file), "-r", str(teacher), "--device", "cuda", "--deterministic"
        done = run(*command)
        assert done.returncode == 0, done.stderr
        written.append({file.name: file.read_bytes() for file in experiment.rglob("*.safetensors")})
        shutil.rmtree(experiment)
    assert len(written[0]) == 4 and written[0].keys() == written[1].keys()
    assert not [name for name in written[0] if written[0][name] != written[1][name]]
