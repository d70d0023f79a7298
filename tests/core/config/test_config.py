"""Configs: what loads, what is filled in, and the one line that each mistake gets."""

import copy
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path

import pytest
import torch
import yaml

from core.config import PRESETS, changed, check_config, config_notices, load_config
from core.config.__main__ import main
from core.config.files import dump_config, read_file, strip_comments
from core.config.keys import Key, Section, Subsection, walk
from core.config.sections import (
    BetaScheduleSection,
    Config,
    DegradationSection,
    JitterSection,
    SampleSection,
    SparseSection,
)
from core.config.table import table_of_keys
from core.errors import UserError, one_line_errors
from core.training.optimizer import build_optimizer
from data import DataError
from data.augmentation import Jitter
from data.degradation import Degradation
from model import ModelError, build_network
from model.sampler import DECODES
from model.sampling.solvers import SOLVERS
from model.schedule import SCHEDULES
from sparse import Masker, SparseError
from sparse.allocation import INITIAL_DENSITIES
from sparse.growth import GROWTH_RULES
from sparse.importance import REDISTRIBUTION_RULES
from sparse.prune import PRUNE_RULES
from sparse.schedule import PRUNE_RATE_SCHEDULES

ROOT = Path(__file__).parents[3]
CONFIGS = sorted(path for path in (ROOT / "config").iterdir() if path.suffix in (".yaml", ".json"))
PUBLISHED = ROOT / "config" / "ffhq_liifsr3_scaler_16_128.json"

SMALL = """
name: small
datasets:
  train: {dataroot: images, l_resolution: 8, r_resolution: 32, batch_size: 4}
  val: {dataroot: images, l_resolution: 8, r_resolution: 32}
model:
  unet: {inner_channel: 16, norm_groups: 8, channel_multiplier: [1, 2, 2], attn_res: [8], res_blocks: 1}
  beta_schedule: {train: {n_timestep: 100}}
  diffusion: {image_size: 32}
train:
  n_iter: 10
  optimizer: {lr: 1e-4}
"""


@pytest.fixture
def write(tmp_path):
    """write(text, name="small.yaml") -> the path of a config of that text."""

    def write(text, name="small.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def small(write):
    return write(SMALL)


def at(config, path):
    for name in path.split("."):
        config = config[name]
    return config


def error_of(path, *overrides, flags=None, length=400):
    """The message for a config that must be refused; it is one line."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides, flags)
    message = str(caught.value)
    assert "\n" not in message and len(message) < length
    return message


# What loads.


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_of_the_project_are_right_and_build(path):
    config = load_config(path)
    with torch.device("meta"):
        network = build_network(config["model"], initialised=False)
    assert network.schedule.n_timestep == config["model"]["beta_schedule"]["val"]["n_timestep"]


def test_the_stages_of_the_demo_are_one_network_on_the_same_images(pytestconfig):
    first, second = (
        load_config(pytestconfig.rootpath / "config" / f"{name}.yaml") for name in ("demo", "demo_one_call")
    )
    assert first.model == second.model and first.datasets == second.datasets
    assert (first.sparse.density, second.sparse.prune_rate, second.sample.steps) == (0.15, 0, 1)


def test_every_experiment_has_a_config():
    names = {path.name for path in CONFIGS}
    assert names >= {PUBLISHED.name, "faces_16_128.yaml", "faces_16_128_base.yaml", "general_x4.yaml", "demo.yaml"}


def test_published_config_means_what_was_published():
    config = load_config(PUBLISHED)
    expected = {
        "name": "ffhq_scaler",
        "path.results_sr": "results/sr",
        "datasets.train.r_resolution": 128,
        "datasets.train.sample_q": None,
        "datasets.train.batch_size": 32,
        "datasets.val.data_len": 100,
        "model.unet.inner_channel": 64,
        "model.unet.norm_groups": 32,
        "model.unet.channel_multiplier": [1, 2, 4, 8, 8],
        "model.lr_encoder.n_resblocks": 16,
        "model.lr_encoder.n_feats": 64,
        "model.beta_schedule.val.linear_start": 1e-6,
        "model.diffusion.prediction": "epsilon",
        "train.val_freq": 3000,
        "train.optimizer.lr": 1e-4,
        "train.ema_scheduler.ema_decay": 0.9999,
        "sparse.enabled": False,
        "sample.solver": "ddpm",
        "sample.steps": None,
        "sample.key_steps": "uniform:10",
        "wandb.project": "sr_ffhq",
    }
    assert {path: at(config, path) for path in expected} == expected
    assert type(config["train"]["val_freq"]) is int
    told = {"datasets.train.use_shuffle", "datasets.val.num_workers", "model.pretrained_encoder"}
    assert {notice.partition(" has no effect: ")[0] for notice in config_notices(config)} == told


def test_comments_leave_strings_alone():
    text = r'{"url": "https://x//y", // "no": 1' + "\n" + r'"quote": "a \" // b", "n": 1e3 // last' + "\n}"
    assert json.loads(strip_comments(text)) == {"url": "https://x//y", "quote": 'a " // b', "n": 1e3}


def test_json_and_yaml_of_the_same_keys_are_the_same_config(write):
    commented = json.dumps(yaml.safe_load(SMALL), indent=1).replace("\n", ' // why: "not"\n')
    assert load_config(write(commented, "small.json")) == load_config(write(SMALL))


def test_numbers_are_read_as_they_are_meant(small):
    config = load_config(small, ["n_iter=3e3", "train.batch_size=8.0", "lr=2", "weight_decay=1e-2"])
    assert config["train"]["n_iter"] == 3000 and type(config["train"]["n_iter"]) is int
    assert config["datasets"]["train"]["batch_size"] == 8
    assert config["train"]["optimizer"]["lr"] == 2.0 and type(config["train"]["optimizer"]["lr"]) is float
    assert config["train"]["optimizer"]["weight_decay"] == 0.01
    assert load_config(small, ["resume_state=''"])["path"]["resume_state"] is None


# What is filled in.


def test_every_key_is_filled(write):
    overrides = [f"datasets.{name}.jpeg_prob=0" for name in ("train.degradation", "val.degradation")]
    config = load_config(write(SMALL + "distill: {}"), [*overrides, "datasets.train.jitter.shift=0"])
    missing = [path for path, _ in walk(Config) if not has(config, path)]
    assert missing == []


def has(config, path):
    try:
        at(config, path)
    except KeyError:
        return False
    return True


def test_defaults_that_depend_on_the_rest(write, small):
    config = load_config(small)
    assert config["datasets"]["val"]["name"] == "val"
    assert config["model"]["beta_schedule"]["val"] == config["model"]["beta_schedule"]["train"]
    assert config["sparse"]["enabled"] is False
    assert load_config(write(SMALL + "sparse: {density: 0.3}"))["sparse"]["enabled"] is True
    assert load_config(small, ["density=0.3"])["sparse"]["enabled"] is True
    assert load_config(small, ["density=0.3", "sparse.enabled=false"])["sparse"]["enabled"] is False


def test_an_alias_is_a_copy(write):
    shared = SMALL.replace("train: {dataroot", "train: &set {dataroot")
    shared = re.sub(r"val: \{dataroot.*\}", "val: *set", shared)
    sets = load_config(write(shared), ["train.batch_size=9"])["datasets"]
    assert (sets["train"]["batch_size"], sets["val"]["batch_size"]) == (9, 4)
    assert (sets["train"]["name"], sets["val"]["name"]) == ("train", "val")


def test_the_same_default_list_is_not_shared(small):
    first, second = load_config(small), load_config(small)
    first.train.optimizer.betas.append(1)
    assert second["train"]["optimizer"]["betas"] == [0.9, 0.999]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_checked_config_stays_as_it_is(path, write):
    config = load_config(path)
    before = copy.deepcopy(config)
    assert check_config(config) == config == before
    assert check_config(json.loads(json.dumps(config.to_dict()))) == config  # as in a checkpoint's metadata
    assert load_config(write(dump_config(config))) == config


def test_inference_needs_no_training_section():
    config = {"name": "small", "model": yaml.safe_load(SMALL)["model"]}
    checked = check_config(config)
    assert "train" not in checked and checked["datasets"] == {} and checked["sample"]["solver"] == "ddpm"


# Attributes and items.


def test_keys_are_attributes_and_items(small):
    config = load_config(small)
    assert config.train.optimizer.lr == config["train"]["optimizer"]["lr"] == 1e-4
    optimizer = config.train.optimizer
    assert list(optimizer) == ["type", "lr", "betas", "weight_decay", "momentum"] and len(optimizer) == 5
    assert dict(optimizer.items()) == dict(zip(optimizer.keys(), optimizer.values(), strict=True))
    assert "lr" in optimizer and "rate" not in optimizer
    assert optimizer.get("rate", 7) == 7 and optimizer.get("lr") == 1e-4
    assert {**optimizer}["lr"] == 1e-4
    for wrong in (lambda: config["trian"], lambda: optimizer["rate"], lambda: config.datasets["test"]):
        with pytest.raises(KeyError):
            wrong()
    with pytest.raises(AttributeError, match="OptimizerSection has no key rate"):
        _ = optimizer.rate


def test_a_config_cannot_be_changed_in_place(small):
    config = load_config(small)
    with pytest.raises(FrozenInstanceError):
        config.train.n_iter = 3
    with pytest.raises(TypeError):
        config["train"]["n_iter"] = 3
    other = changed(config, {"train.n_iter": "3e3", "datasets.val.name": "waves", "sparse": {"density": 0.3}})
    assert (other.train.n_iter, other.datasets["val"].name) == (3000, "waves")
    assert (other.sparse.enabled, other.sparse.density) == (True, 0.3)
    assert (config.train.n_iter, config.sparse.enabled) == (10, False)
    with pytest.raises(UserError, match=r"^variant a: train\.n_iter is 0"):
        changed(config, {"train.n_iter": 0}, "variant a")
    assert config.sample.replace(steps=7).to_dict() == config.sample.to_dict() | {"steps": 7}


def test_absent_sections(small):
    config = changed(load_config(small), {"datasets": {}})
    config = check_config({key: value for key, value in config.items() if key != "train"})
    assert "train" not in config and "train" not in config.datasets and not config.datasets.validation
    assert config.get("train") is None and "train" not in config.to_dict() and "TrainSection" not in repr(config)
    with pytest.raises(UserError, match="no section train"):
        _ = config.train.optimizer
    assert not hasattr(config.datasets, "train")
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config.replace() == config


def test_plain_dicts_of_a_config(small):
    config = load_config(small, ["train.weights={a: 1}"])
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict() == config
    config.to_dict()["train"]["optimizer"]["betas"].append(1)
    assert config.train.optimizer.betas == [0.9, 0.999]


@pytest.mark.parametrize(
    "cls", [Config, *dict.fromkeys(entry.section for _, entry in walk(Config) if isinstance(entry, Subsection))]
)
def test_no_key_hides_a_method_of_sections(cls):
    assert not set(cls.entries()) & set(dir(Section))


def test_a_network_is_built_of_a_section_and_of_a_dict(small):
    model = load_config(small).model
    with torch.device("meta"):
        networks = [build_network(each, initialised=False) for each in (model, model.to_dict())]
    shapes = [{name: tensor.shape for name, tensor in network.state_dict().items()} for network in networks]
    assert shapes[0] == shapes[1]


def test_magnification_is_that_of_the_training_images(small):
    config = load_config(small, ["datasets.val.r_resolution=64"])
    assert config.magnification == 4 and config.datasets["val"].magnification == 8
    assert changed(config, {"datasets": {"val_x": config.datasets["val"]}}).magnification == 8
    with pytest.raises(UserError, match="no datasets"):
        _ = changed(config, {"datasets": {}}).magnification


# What is refused: (overrides, the words that the line must have).


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("density=1.5", ["sparse.density", "1.5", "(0, 1]"]),
        ("density=0", ["sparse.density", "(0, 1]"]),
        ("n_iter=0", ["train.n_iter", "1 or more"]),
        ("n_iter=-3", ["train.n_iter", "1 or more"]),
        ("n_iter=2.5", ["train.n_iter", "2.5", "whole number"]),
        ("n_iter=true", ["train.n_iter", "true", "whole number"]),
        ("n_iter=.inf", ["train.n_iter", "inf", "whole number"]),
        ("n_iter=1" + 400 * "0", ["train.n_iter", "whole number"]),
        ("lr=fast", ["train.optimizer.lr", "'fast'", "a number above 0"]),
        ("lr=.nan", ["train.optimizer.lr", "nan", "a number above 0"]),
        ("train.augment=maybe", ["datasets.train.augment", "'maybe'", "true | false"]),
        ("loss=l3", ["train.loss", "'l3'", "l1 | l2"]),
        ("name=a/b", ["name", "'a/b'", "folder"]),
        ("name=2026", ["name", "2026", "in quotes"]),
        ("channel_multiplier=[]", ["model.unet.channel_multiplier", "1 to 16 values"]),
        ("betas=[0.9]", ["train.optimizer.betas", "a list of 2"]),
        ("conditional=false", ["model.diffusion.conditional", "true"]),
        ("inner_channel=20", ["model.unet.norm_groups", "8", "inner_channel, 20: 1, 2, 4, 5, 10, 20"]),
        ("attn_res=[8, 12]", ["model.unet.attn_res", "12", "32, 16, 8"]),
        ("train.l_resolution=64", ["datasets.train.l_resolution", "64", "32"]),
        ("beta_schedule.val.linear_start=0.5", ["model.beta_schedule.val.linear_start", "0.5", "0.01"]),
        ("sample.steps=101", ["sample.steps", "101", "100"]),
        ("key_steps=often", ["sample.key_steps", "often", "uniform:K"]),
        ("key_steps=[0, 100]", ["sample.key_steps", "100"]),
        ("train.dataroot=null", ["datasets.train.dataroot", "missing", "hr_dataroot"]),
        ("datasets.val.hr_dataroot=x", ["datasets.val.hr_dataroot", "dataroot"]),
        ("resume_state=3", ["path.resume_state", "text, or null"]),
        ("weights={a*: -1}", ["datasets.train.weights", "{'a*': -1}", "a mapping from text to a number, 0 or more"]),
        ("weights={a*: .inf}", ["datasets.train.weights", "inf", "0 or more"]),
        ("weights={a*: often}", ["datasets.train.weights", "'often'", "0 or more"]),
        ("weights={7: 1}", ["datasets.train.weights", "{7: 1}", "mapping from text"]),
        ("weights=[1, 2]", ["datasets.train.weights", "[1, 2]", "mapping from text"]),
        ("train.degradation.jpeg_range=[95, 30]", ["degradation.jpeg_range", "[95, 30]", "the lower first"]),
        ("train.degradation.jpeg_range=[0, 30]", ["degradation.jpeg_range", "[1, 100]"]),
        ("val.degradation.blur_prob=1.5", ["datasets.val.degradation.blur_prob", "1.5", "[0, 1]"]),
        ("val.degradation.blur_kernel_size=20", ["blur_kernel_size", "20", "odd"]),
        ("val.degradation.resize_prob=[0, 0, 0]", ["resize_prob", "[0.0, 0.0, 0.0]", "above 0"]),
        ("val.degradation.resize_range=[1.1, 1.5]", ["resize_range", "[1.1, 1.5]", "1 must be between"]),
        ("val.degradation.resize_modes=[nearest]", ["resize_modes", "area | bilinear | bicubic"]),
        ("jitter.scale=[0, 1]", ["datasets.train.jitter.scale", "[0.1, 10]"]),
    ],
)
def test_impossible_values_are_one_line(small, override, words):
    message = error_of(small, override)
    assert all(word in message for word in words), message
    assert "more after this" not in message


@pytest.mark.parametrize(
    ("section", "key", "suggestion"),
    [
        ("", "optimizer", "train.optimizer"),
        ("", "modle", "model"),
        ("train", "n_itr", "train.n_iter"),
        ("train", "lr", "train.optimizer.lr"),
        ("sparse", "seed", "train.seed or sample.seed"),
        ("model.unet", "attention_res", "model.unet.attn_res"),
        ("datasets", "test", "datasets.train"),
        ("datasets.train", "batchsize", "datasets.train.batch_size"),
        ("datasets.val", "weights", "datasets.train.weights"),
        ("model.beta_schedule.train", "linear_stop", "model.beta_schedule.train.linear_start"),
    ],
)
def test_unknown_keys_get_the_nearest_known_one(write, section, key, suggestion):
    config = yaml.safe_load(SMALL) | {"sparse": {}}
    (at(config, section) if section else config)[key] = {}
    path = write(yaml.safe_dump(config))
    full = f"{section}.{key}".lstrip(".")
    assert f"{path}: unknown key {full} (nearest known key: {suggestion}" in error_of(path)


@pytest.mark.parametrize("key", ["name", "train.n_iter", "train.optimizer.lr", "datasets.val.l_resolution"])
def test_missing_keys(write, key):
    config = yaml.safe_load(SMALL)
    section, _, name = key.rpartition(".")
    del (at(config, section) if section else config)[name]
    assert re.search(rf"small.yaml: {re.escape(key)} is missing: ", error_of(write(yaml.safe_dump(config))))


@pytest.mark.parametrize(
    ("phase", "section"), [("train", "train"), ("train", "datasets.train"), ("val", "datasets.val")]
)
def test_a_run_needs_the_sections_of_its_phase(write, phase, section):
    config = yaml.safe_load(SMALL) | {"phase": phase}
    parent, _, name = section.rpartition(".")
    del (at(config, parent) if parent else config)[name]
    assert f"{section} is missing: phase {phase}" in error_of(write(yaml.safe_dump(config)))
    other = {"train": "val", "val": "train"}[phase]
    assert load_config(write(yaml.safe_dump(config)), flags={"phase": other})["phase"] == other


@pytest.mark.parametrize("value", [None, 5, "text", [1]])
def test_a_section_must_be_one(write, value):
    path = write(yaml.safe_dump(yaml.safe_load(SMALL) | {"sparse": value}))
    assert "sparse is" in (message := error_of(path)) and "section of keys" in message


def test_several_problems_are_counted(small):
    message = error_of(small, "density=2", "n_iter=0", "lr=0")
    assert message.startswith("--set n_iter=0: train.n_iter") and message.endswith("(2 more after this)")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "name: [", ["line 1", "not YAML"]),
        ("a.yaml", "", ["no section of keys"]),
        ("a.yaml", "- 1", ["no section of keys"]),
        ("a.yaml", "name: 2026-02-30", ["not YAML"]),
        ("a.yaml", "name: a\ntrain: {n_iter: 1, n_iter: 2}", ["n_iter", "twice"]),
        ("a.yaml", "train.n_iter: 3\n" + SMALL, ["train.n_iter", "nest the keys"]),
        ("a.yaml", "name: a\ntrain: &t {optimizer: *t}", ["without end"]),
        ("a.json", 10_000 * "[", ["without end"]),
        ("a.json", '{"name": "a", // comment\n "name": "b"}', ["name", "twice"]),
        ("a.json", '{\n "name": // comment\n}', ["line 3", "not JSON"]),
    ],
)
def test_unreadable_files(write, name, text, words):
    message = error_of(path := write(text, name))
    assert str(path) in message and all(word in message for word in words), message


def bomb(first, again):
    """A YAML text of 12 lines whose aliases make 9^11 values."""
    lines = [f"a0: &a0 {first}", *(f"a{n}: &a{n} {again.format(', '.join(9 * [f'*a{n - 1}']))}" for n in range(1, 12))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", bomb("[x]", "[{}]"), ["more than 100,000 values"]),
        ("a.yaml", bomb("{x: 1}", "{{<<: [{}]}}"), ["more than 100,000 values"]),
        ("a.yaml", "a: &a {<<: *a}", ["without end"]),
        ("a.yaml", f"name: {300 * '['}{300 * ']'}", ["without end"]),
        ("a.yaml", "".join(f"k{n}: {n}\n" for n in range(7000)), ["unknown key k0", "(7005 more after this)"]),
        ("a.yaml", "".join(f"k{n}: {n}\n" for n in range(60_000)), ["more than 100,000 characters"]),
        ("a.yaml", "".join(f"k{n}: {n}\n" for n in range(7000)) + "k5: 1", ["line 7001: the key 'k5' is there twice"]),
        ("a.yaml", "name: x\ntrain:\n  name: 1\n  name: 2", ["line 4: the key 'name' is there twice in one section"]),
        ("a.json", '{"name": 1, // name\n"train": {"name": 1,\n\t"name": 2}}', ["a.json: line 3: the key 'name' is"]),
        ("a.yaml", "name: !!int x", ["line 1, column 7", "'x' cannot be read as int"]),
        ("a.yaml", "name: !!timestamp x", ["line 1, column 7", "cannot be read as timestamp"]),
        ("a.yaml", "name: !!python/object:os.system x", ["could not determine a constructor"]),
        ("a.yaml", f"name: {10_000 * '1'}", ["cannot be read as int"]),
        ("a.yaml", f"name: 0x{10_000 * 'f'}", ["name is a value with a number of thousands of digits"]),
        ("a.yaml", f"name: {':'.join(500 * ['59'])}.5", ["cannot be read as float"]),
        ("a.json", f'{{"name": {10_000 * "1"}}}', ["a number has thousands of digits"]),
        ("a.yaml", SMALL.replace("n_iter: 10", f"n_iter: '{90_000 * '1'}x'"), ["train.n_iter", "whole number"]),
        ("a.yaml", SMALL + f"sample: {{key_steps: 'uniform:{5000 * '1'}'}}", ["sample.key_steps is not a plan"]),
        ("a.yaml", SMALL + f"sample: {{key_steps: '{5000 * '1'}'}}", ["sample.key_steps is not a plan"]),
        ("a.yaml", "? [a, b]\n: 1", ["found unhashable key"]),
        ("a.json", '"' + 49_000 * r"\"", ["not JSON: Unterminated string"]),
        ("a.yaml", 49_000 * "- ", ["without end"]),
        ("a.yaml", 49_000 * "!", ["could not determine a constructor"]),
        ("a.yaml", "{}: 1\n".format("!!binary aGk=") + SMALL, ["unknown key b'hi'"]),
        ("a.yaml", "~: 1\n" + SMALL, ["unknown key null"]),
        ("a.yaml", '"a\\e[31m\\n": 1' + SMALL, [r"unknown key 'a\x1b[31m\n'"]),
        ("a.json", '{"name": "a\\u0000"}', [r"name is 'a\x00'", "name a folder"]),
        ("a.json", '{"name": "\\ud800"}', [r"name is '\ud800'", "name a folder"]),
        ("a.yaml", SMALL + 'path: {root: "a\\0"}', [r"path.root is 'a\x00'", "text"]),
        ("a.yaml", SMALL.replace("name: small", f"name: {300 * 'x'}"), ["name is 'xxx", "name a folder"]),
        ("a.yaml", SMALL.replace("channel: 16", "channel: 1000000000007"), ["model.unet.inner_channel", "65536"]),
        ("a.yaml", SMALL.replace("n_timestep: 100", "n_timestep: 1000000000000"), ["n_timestep", "100000"]),
        ("a.yaml", SMALL.replace("  val:", "  val/../../x:"), ["unknown key datasets.val/../../x"]),
        ("a.yaml", SMALL.replace("  val:", '  "val\\0":'), [r"unknown key datasets.'val\x00'"]),
    ],
    ids=itertools.count(),  # texts of thousands of lines make no names
)
def test_hostile_files_are_one_line_and_soon(write, name, text, words):
    """What would take for ever, or end in a traceback: the test fails by its time, or by another error."""
    began = time.process_time()
    message = error_of(write(text, name), length=800)
    assert all(word in message for word in words), message
    assert message.isprintable() and time.process_time() - began < 20


@pytest.mark.parametrize("path", ["../logs", "a/../../b", "/tmp/logs", "..", " x", "a\\b", ""])
@pytest.mark.parametrize("key", ["log", "results_sr", "checkpoint"])
def test_paths_stay_inside_the_folder_of_the_experiment(small, key, path):
    message = error_of(small, f"path.{key}={json.dumps(path)}")
    assert f"path.{key} is " in message and "a path inside the experiment's folder" in message
    inside = load_config(small, [f"path.{key}=./a//b..c/"])
    assert inside.path[key] == "./a//b..c/"


def test_a_file_without_end_is_not_read_to_it():
    assert "more than 100,000 characters" in error_of(Path("/dev/zero"))


def test_files_that_cannot_be_opened(tmp_path):
    assert "No such file" in error_of(tmp_path / "none.yaml")
    assert "irectory" in error_of(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    assert "UTF-8" in error_of(tmp_path / "latin.yaml")


# The command line.


def test_overrides_by_full_path_and_by_tail(small):
    config = load_config(small, ["train.batch_size=16", "sparse.density=0.5", "lr=2e-4", "key_steps=none"])
    assert config["datasets"]["train"]["batch_size"] == 16
    assert config["sparse"]["density"] == 0.5
    assert config["train"]["optimizer"]["lr"] == 2e-4
    assert config["sample"]["key_steps"] == "none"
    assert load_config(small, ["lr=1", "lr=2"])["train"]["optimizer"]["lr"] == 2


def test_weights_by_patterns_of_names(write, small):
    """From a file or the command line, in their order, as the first pattern that fits counts."""
    asked = '{"ffhq50_*": 0.25, "*": 1e-1, "a.b": 0}'
    in_file = write(SMALL.replace("batch_size: 4}", f"batch_size: 4, weights: {asked}}}"), "weighted.yaml")
    config = load_config(in_file)
    assert list(config["datasets"]["train"]["weights"].items()) == [("ffhq50_*", 0.25), ("*", 0.1), ("a.b", 0.0)]
    assert load_config(small, [f"datasets.train.weights={asked}"]) == config
    for text in (dump_config(config), json.dumps(config.to_dict())):
        again = load_config(write(text, "again.yaml"))["datasets"]["train"]["weights"]
        assert list(again.items()) == list(config["datasets"]["train"]["weights"].items())
    assert load_config(in_file, ["weights={ffhq50_*: 0}"])["datasets"]["train"]["weights"] == {"ffhq50_*": 0}
    assert load_config(small)["datasets"]["train"]["weights"] == {} and "weights" not in config["datasets"]["val"]


def test_overrides_win_over_flags_and_flags_over_the_file(small):
    flags = {"train.optimizer.lr": 3.0, "train.n_iter": 7, "sparse.enabled": True, "sparse.density": None}
    config = load_config(small, ["lr=2"], flags)
    assert (config["train"]["optimizer"]["lr"], config["train"]["n_iter"]) == (2.0, 7)
    assert (config.sparse.enabled, config.sparse.density) == (True, 0.15)
    assert error_of(small, flags={"train.n_iter": 0}).startswith("command line: train.n_iter is 0")


def test_a_share_that_is_given_in_percent(small):
    told = "sparse.density is 15, but must be a number in (0, 1] (0.15 is 15 %)"
    assert error_of(small, flags={"sparse.density": 15}).endswith(told)
    assert "%" not in error_of(small, flags={"sparse.density": 150}) + error_of(small, flags={"sparse.density": -1})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("batch_size=4", ["datasets.train.batch_size, datasets.val.batch_size"]),
        ("optimzer.lr=1", ["unknown key", "train.optimizer.lr"]),
        ("datasets.test.dataroot=x", ["unknown key", "datasets.train.dataroot"]),
        ("sparse=true", ["a section", "enabled"]),
        ("lr", ["KEY=VALUE"]),
        ("=1", ["KEY=VALUE"]),
        ("exclude=[", ["not YAML"]),
        (os.fsdecode(b"train.dataroot=/caf\xe9"), [r"/caf\udce9: has bytes that are not UTF-8", "name a link to it"]),
        ("datasets.train.weights.a_*=0", ["unknown key", "nearest known key: datasets.train.weights)"]),
    ],
)
def test_bad_overrides(small, override, words):
    message = error_of(small, override)
    shown = message.encode(errors="backslashreplace").decode()
    assert shown.startswith("--set ") and all(word in shown for word in words), shown


def test_further_validation_sets(small):
    added = [f"datasets.val_ffhq.{pair}" for pair in ("dataroot=ffhq", "l_resolution=8", "r_resolution=32")]
    assert list(load_config(small, added)["datasets"]) == ["train", "val", "val_ffhq"]
    assert "datasets.val_ffhq.r_resolution is missing" in error_of(small, *added[:2])


def test_validation_sets_can_be_left_out(small):
    """By null for the section or for the root that it names; a set that names none is a mistake."""
    others = [f"datasets.val_x.{pair}" for pair in ("hr_dataroot=x", "l_resolution=8", "r_resolution=32")]
    assert list(load_config(small, ["datasets.val=null", *others]).datasets) == ["train", "val_x"]
    for left_out in ("datasets.val_x=null", "datasets.val_x.hr_dataroot=null"):
        assert list(load_config(small, [*others, left_out]).datasets) == ["train", "val"]
    assert "datasets.val_x.dataroot is missing" in error_of(small, *others[1:])
    assert "datasets.train.dataroot is missing" in error_of(small, "datasets.train.dataroot=null")
    assert "a section" in error_of(small, "datasets=null")


def test_degradation_jitter_and_shrink_make_lr_of_hr(small):
    """So stored LR images beside them are a contradiction, unless the set says to ignore these."""
    general = ["datasets.val.dataroot=null", "datasets.train.dataroot=null", "datasets.train.hr_dataroot=x"]
    general.append("datasets.train.lr_dataroot=y")
    crops = ["datasets.train.use_crop=true", "datasets.train.shrink=[0.5, 1]"]
    for asked in (["datasets.train.degradation.jpeg_prob=1"], ["jitter.shift=0.1"], crops):
        assert "datasets.train.lr_dataroot is given beside" in error_of(small, *general, *asked)
        load_config(small, [*general, *asked, "datasets.train.mode=HR"])
    assert "datasets.train.shrink is [0.5, 1.0]" in error_of(small, crops[1])


@pytest.mark.parametrize(("section", "options"), [(DegradationSection, Degradation), (JitterSection, Jitter)])
def test_options_of_images_are_those_that_there_are(section, options):
    """By name and default."""
    defaults = {name: entry.default for name, entry in section.entries().items()}
    assert list(defaults) == [each.name for each in fields(options)]
    for name, value in asdict(options()).items():
        assert (list(value) if isinstance(value, tuple) else value) == defaults[name]


def test_notices_name_what_has_no_effect(small):
    assert config_notices(load_config(small)) == []
    asked = ["gpu_ids=[0, 1]", "finetune_norm=true", "which_model_G=ddpm", "datasets.val.use_shuffle=true"]
    notices = config_notices(load_config(small, asked))
    assert [notice.split()[0] for notice in notices] == [
        "gpu_ids", "datasets.val.use_shuffle", "model.which_model_G", "model.finetune_norm",
    ]  # fmt: skip


IMAGES = ["datasets.val.dataroot=images", "datasets.val.hr_dataroot=null"]


def told(path, *overrides, **flags):
    """The keys that notices name."""
    return [notice.split()[0] for notice in config_notices(load_config(path, overrides, flags))]


def test_notices_of_a_training(small):
    assert told(small, "datasets.train.use_shuffle=false") == ["datasets.train.use_shuffle"]
    assert told(small, "datasets.train.use_shuffle=true") == []
    assert told(small, "datasets.val=null") == ["train.val_freq"]
    sets = [f"datasets.train_more.{key}" for key in ("dataroot=x", "l_resolution=8", "r_resolution=16", "batch_size=2")]
    assert told(small, *sets, "datasets.train_more.num_workers=2") == ["datasets.train_more.num_workers"]
    assert told(small, *sets, "datasets.train_more.pixel_weight=2") == ["datasets.train_more.pixel_weight"]
    assert told(small, "datasets.train.num_workers=2", "train.loss=l2") == []
    assert told(ROOT / "config/demo_one_call.yaml", phase="train") == ["distill"]
    quiet = ["train.use_shuffle=false", "finetune_norm=true"]  # a validation asks nothing of a training
    assert told(small, *quiet, phase="val") == ["model.finetune_norm"]


@pytest.mark.parametrize("name", ["faces_16_128_one_call", "faces_16_128_small_one_call", "photos_x4_one_call"])
def test_notices_of_a_distillation(name):
    """All that these configs say counts, until the loss that it is for has no weight."""

    def told_of(*overrides):
        return set(told(ROOT / f"config/{name}.yaml", *IMAGES, *overrides))

    heads = {f"distill.{key}" for key in ("head_channels", "head_lr", "pixel_head")}
    assert told_of() == set()
    assert told_of("train.loss=l2") == {"train.loss"}
    assert told_of("model.beta_schedule.val.n_timestep=1000") == {"model.beta_schedule.train"}
    assert told_of("perceptual_heads=true", "adversarial_weight=0") == heads
    assert told_of("perceptual_heads=false", "adversarial_weight=0") == {*heads, "distill.perceptual_heads"}
    assert told_of("distill.feature_weight=0") == {"distill.level_weights"}
    assert told_of("perceptual_heads=true", "perceptual_network=null") == {"distill.perceptual_weight"}
    nobody = [f"distill.{loss}_weight=0" for loss in ("feature", "texture", "adversarial")]
    seen = {"distill.level_weights", "distill.teacher_noise", *heads}
    assert told_of(*nobody, "perceptual_heads=true", "distill.shift=3") == seen
    silent = {*seen, "distill.shift", "distill.perceptual_weight"}
    assert told_of(*nobody, "perceptual_heads=true", "perceptual_network=null", "distill.shift=3") == silent


@pytest.mark.parametrize("preset", [None, *PRESETS])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_all_that_shipped_configs_and_presets_say_of_sampling_counts(path, preset):
    config = check_config(read_file(path))
    config = changed(config, {f"sample.{key}": value for key, value in PRESETS.get(preset, {}).items()})
    assert [notice for notice in config_notices(config) if notice.startswith("sample.")] == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("solver=ddim eta=1", ""),
        ("solver=dpm++ eta=1", "eta"),
        ("solver=ddpm eta=0", ""),
        ("solver=ddim eta=1 steps=1", "eta"),
        ("prior_noise=0.01 steps=4 key_steps=uniform:2", ""),
        ("prior_noise=0.01 steps=4 key_steps=auto:2", ""),
        ("prior_noise=0.01 steps=4 key_steps=uniform:4", "prior_noise"),
        ("decode=ends steps=4 key_steps=uniform:2", ""),
        ("decode=ends steps=4 key_steps=none", "decode"),
        ("decode=first steps=4 key_steps=auto:3", ""),
        ("decode=first steps=4 key_steps=auto:4", "decode"),
        ("decode_batch=2 steps=4", ""),
        ("decode_batch=2 steps=4 key_steps=[0,1,2,3]", "decode_batch"),
        ("decode_batch=2 steps=4 decode=ends", "decode_batch"),
        ("overlap=8 tile=64", ""),
        ("overlap=8 tile=0", "overlap"),
    ],
)
def test_notices_of_sampling(small, options, expected):
    asked = [f"sample.{option}" for option in options.split()]
    assert told(small, *asked, phase="val") == ([f"sample.{expected}"] if expected else [])


# Agreement with the parts that a config is for.


@pytest.mark.parametrize("inner_channel", [8, 12, 48])
@pytest.mark.parametrize("norm_groups", [1, 3, 4, 5, 12, 16])
@pytest.mark.parametrize("multipliers", [[1], [1, 2, 3], [1, 3, 1]])
def test_norm_groups_are_refused_where_the_network_cannot_be_built(small, inner_channel, norm_groups, multipliers):
    config = load_config(small, ["norm_groups=1", "attn_res=[]", f"channel_multiplier={multipliers}"])
    config = config.to_dict()
    config["model"]["unet"] |= {"inner_channel": inner_channel, "norm_groups": norm_groups}

    def accepts(function):
        try:
            function()
        except (UserError, ValueError):
            return False
        return True

    with torch.device("meta"):
        builds = accepts(lambda: build_network(config["model"], initialised=False))
    assert accepts(lambda: check_config(config)) == builds


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("key", ["prune", "growth", "redistribution", "init", "prune_rate_schedule"])
def test_sparse_rules_are_those_of_the_masker(small, kind, key):
    names = SparseSection.entries()[key].value_type.allowed.split(" | ")
    assert len(names) >= 3
    options = load_config(small)["train"]["optimizer"]
    for name in names:
        module = torch.nn.Linear(4, 4)
        optimizer = build_optimizer(module.parameters(), options.replace(type=kind), torch.device("cpu"))
        try:
            Masker(module, optimizer, density=0.5, **{key: name})
        except SparseError:
            assert f"sparse.{key}" in error_of(small, "sparse.enabled=true", f"type={kind}", f"sparse.{key}={name}")
        else:
            load_config(small, ["sparse.enabled=true", f"type={kind}", f"sparse.{key}={name}"])


@pytest.mark.parametrize(
    ("section", "key", "names"),
    [
        (SparseSection, "prune", PRUNE_RULES),
        (SparseSection, "growth", GROWTH_RULES),
        (SparseSection, "redistribution", REDISTRIBUTION_RULES),
        (SparseSection, "init", INITIAL_DENSITIES),
        (SparseSection, "prune_rate_schedule", PRUNE_RATE_SCHEDULES),
        (BetaScheduleSection, "schedule", SCHEDULES),
        (SampleSection, "decode", DECODES),
        (SampleSection, "solver", SOLVERS),
    ],
)
def test_names_of_rules_are_those_that_there_are(section, key, names):
    assert section.entries()[key].value_type.allowed.split(" | ") == list(names)


def test_the_table_of_keys_and_help_do_not_wait_for_torch():
    script = "import sys, core.config.__main__ as main, infer; main.main([]); infer.parser().format_help()"
    script += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, timeout=120)


def test_published_spellings_of_rules(small):
    asked = ["prune=set", "growth=Momentum", "redistribution=nonzeros"]
    sparse = load_config(small, asked)["sparse"]
    assert (sparse["prune"], sparse["growth"], sparse["redistribution"]) == ("SET", "momentum", "nonzero")


# The reference, and the command line of the module.


def test_reference_tells_every_key():
    lines = table_of_keys().splitlines()
    entries = list(walk(Config))
    assert len(lines) == len(entries)
    for line, (path, entry) in zip(lines, entries, strict=True):
        assert line.strip().startswith(path.rpartition(".")[2] + ":")
        assert not isinstance(entry, Key) or "# " in line


def test_the_configuration_page_is_up_to_date(capsys):
    """docs/configuration.md is what `python -m core.config --markdown` prints, and it has a row for every key."""
    main(["--markdown"])
    page = capsys.readouterr().out
    assert page == (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    keys = [path for path, entry in walk(Config) if isinstance(entry, Key)]
    assert len(re.findall(r"^\| `\w+` \|", page, re.M)) == len(keys)


def test_the_module_checks_a_file_and_prints_it_whole(small, capsys):
    main([str(small), "--set", "n_iter=20", "--set", "gpu_ids=0"])
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out) == load_config(small, ["n_iter=20", "gpu_ids=0"])
    assert printed.err.startswith("note: gpu_ids") and printed.err.count("\n") == 1


def test_a_user_error_of_a_program_is_one_line_and_exit_code_2(small):
    command = [sys.executable, "-m", "core.config", str(small), "--set", "density=7"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: --set density=7: sparse.density is 7, but must be a number in (0, 1]\n"


@pytest.mark.slow
def test_nobody_reads_on(small):
    """As after `| head`: a program ends without a word."""
    command = [sys.executable, "-m", "core.config", str(small)]
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    program.stdout.close()
    assert (program.stderr.read(), program.wait(timeout=120)) == (b"", 141)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("one\n  two"), 2, "error: one two\n"),
        (DataError("no image"), 2, "error: no image\n"),
        (ModelError("no network"), 2, "error: no network\n"),
        (SparseError("no mask"), 2, "error: no mask\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_of_every_package_end_in_one_line(error, code, line, capsys):
    @one_line_errors()
    def main():
        raise error

    with pytest.raises(SystemExit) as exit:
        main()
    assert (exit.value.code, *capsys.readouterr()) == (code, "", line)


@pytest.mark.parametrize("bug", [ZeroDivisionError, BrokenPipeError])  # of a pipe that is not stdout
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(bug), one_line_errors():
        raise bug
