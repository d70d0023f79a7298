"""Files of networks that a newer version wrote: read where only keys are new that do not change the result."""

import json

import pytest

from core.checkpoint.files import load_checkpoint, saved_config
from core.checkpoint.tensor_files import read_safetensors, write_safetensors
from core.config import check_config
from core.config.checking import at, set_value
from core.errors import UserError
from core.export import main as export
from infer import main as infer

NEWER = "the file was probably written by a newer version of this project, or by another program"


@pytest.fixture
def written(trained_on, tmp_path):
    """written(keys, without=(), name="newer") -> a network file whose config has these keys, {full path: value}, and
    lacks others."""

    def write(keys, without=(), name="newer"):
        _, prefix = trained_on(r_resolution=32)
        tensors, metadata = read_safetensors(prefix.with_name("I3_E1_gen.safetensors"))
        config = json.loads(metadata["config"])
        for path, value in keys.items():
            set_value(config, path, value)
        for path in without:
            section, _, key = path.rpartition(".")
            del at(config, section)[key]
        file = tmp_path / f"{name}.safetensors"
        write_safetensors(file, tensors, metadata | {"config": json.dumps(config)})
        return file

    return write


NEW = [
    "datasets.train.foo",
    "train.ema_scheduler.foo",
    "datasets.foo",
    "train.foo",
    "train.optimizer.foo",
    "sparse.foo",
    "card.foo",
    "foo",
]


@pytest.mark.parametrize("key", NEW)
def test_new_keys_that_do_not_change_the_result_are_passed_over(written, trained_on, capsys, key):
    file, (config, _) = written({key: {"x": 1}}), trained_on(r_resolution=32)
    assert load_checkpoint(file).config == saved_config(file) == config
    assert capsys.readouterr().err == f"warning: {file}: unknown keys of its config are passed over, {key}: {NEWER}\n"


def test_of_many_new_keys_a_few_are_named(written, capsys):
    file = written({f"train.k{n}": 0 for n in range(1000)})
    saved_config(file)
    assert "train.k0, train.k1, train.k2 and 997 more: the file" in capsys.readouterr().err


def test_one_line_beside_the_images(written, run_main, make_image, tmp_path):
    make_image(8, 8).save(tmp_path / "a.png")
    options = "-r", written({"train.foo": 1}), "-i", tmp_path / "a.png", "-o", tmp_path / "out", "--device", "cpu"
    code, _, err = run_main(infer, *options)
    assert code == 0 and (tmp_path / "out" / "a.png").is_file() and err.count("passed over") == 1


@pytest.mark.parametrize("key", ["model.foo", "model.unet.foo", "model.beta_schedule.val.foo", "sample.foo"])
def test_new_keys_that_may_change_the_result_are_refused(written, capsys, key):
    with pytest.raises(UserError) as error:
        load_checkpoint(written({key: 1, "train.bar": 1}))
    assert str(error.value).endswith(f"newer.safetensors: unknown key {key} ({NEWER}: update the project)")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("train.optimizer.type", "lion", "'lion', but must be adam | adamw | sgd"),
        ("sample.solver", "heun", "'heun', but must be ddpm | ddim | dpm++"),
        ("train.save_checkpoint_freq", {"hours": 1}, "{'hours': 1}, but must be a whole number, 1 or more"),
        ("sparse.density", 15, "15, but must be a number in (0, 1]"),
        ("name", 7, "7, but must be text that can name a folder"),
    ],
)
def test_values_that_are_not_known_are_taken_for_those_of_a_newer_version(written, key, value, told):
    """...and not for a mistake of whoever wrote the file by hand."""
    file = written({key: value})
    with pytest.raises(UserError) as error:
        load_checkpoint(file)
    assert str(error.value) == f"{file}: {key} is {told} ({NEWER}: update the project)"


@pytest.mark.parametrize("checkpoints", [1, 2])
def test_export_keeps_new_keys(written, tmp_path, run_main, checkpoints):
    """Those of the first of several."""
    new = {key: {"x": [1, None]} for key in NEW}
    sources = [written(new, name="a"), written({"train.other": 1}, name="b")][:checkpoints]
    file = tmp_path / "exported.safetensors"
    assert run_main(export, "-r", *sources, "-o", file, "--values", "float32", "--preset", "mirrored")[0] == 0
    config = json.loads(read_safetensors(file)[1]["config"])
    assert {key: at(config, key) for key in NEW} == new and "other" not in config["train"]
    assert config["sample"]["mirrored"] and saved_config(file) == check_config(saved_config(file))


def test_a_new_card_has_none_of_the_old(written, tmp_path, run_main):
    (tmp_path / "card.yaml").write_text("card: {purpose: waves}")
    options = "-o", tmp_path / "exported.safetensors", "--card", tmp_path / "card.yaml"
    assert run_main(export, "-r", written({"card.foo": 1, "train.foo": 2}), *options)[0] == 0
    config = json.loads(read_safetensors(tmp_path / "exported.safetensors")[1]["config"])
    assert "foo" not in config["card"] and config["train"]["foo"] == 2


@pytest.mark.parametrize(
    ("key", "missing"), [("train.loss_", "train.loss"), ("datasets.train.batchsize", "datasets.train.batch_size")]
)
def test_a_key_in_place_of_another_is_refused(written, key, missing):
    """As damage leaves it."""
    with pytest.raises(UserError, match=f"unknown key {key} "):
        load_checkpoint(written({key: 1}, without=[missing]))


@pytest.mark.parametrize(
    ("config", "told"),
    [("[]", "a config is a section of keys"), ("{", "not JSON"), ('{"train": 3}', "name is missing")],
)
def test_damage_is_refused_as_it_was(written, config, told):
    tensors, metadata = read_safetensors(file := written({}))
    write_safetensors(file, tensors, metadata | {"config": config})
    with pytest.raises(UserError, match=told):
        load_checkpoint(file)
