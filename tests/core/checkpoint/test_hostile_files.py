"""Checkpoints that are not what they say: one line each, and no more time or memory than their bytes are worth."""

import json
import re
import time
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from core.checkpoint.files import load_network, load_training_state
from core.errors import UserError


def metadata_of(file):
    with safe_open(file, "pt") as content:
        return content.metadata()


@pytest.fixture
def rewrite(small_checkpoint, tmp_path):
    """rewrite(change, kind="gen") -> a checkpoint after change(tensors, metadata) of its network or training file."""

    def rewritten(change, kind="gen"):
        for each in ("gen", "opt"):
            source = small_checkpoint.with_name(f"I3_E1_{each}.safetensors")
            tensors, metadata = load_file(source), metadata_of(source)
            if each == kind:
                change(tensors, metadata)
            save_file(tensors, tmp_path / f"I3_E1_{each}.safetensors", metadata)
        return tmp_path / "I3_E1"

    return rewritten


def refused(load, match):
    began = time.perf_counter()
    with pytest.raises(UserError, match=match) as error:
        load()
    assert time.perf_counter() - began < 5 and "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unet.res_blocks", 10**9),
        ("unet.inner_channel", 8000),
        ("unet.channel_multiplier", [1, 10**12]),
        ("unet.channel_multiplier", [1] * 5000),
        ("lr_encoder.n_resblocks", 10**9),
        ("lr_encoder.n_feats", 10**9),
        ("lr_encoder.n_feats", 40),  # as wide as the file might hold: the shapes tell
    ],
)
def test_a_network_larger_than_its_file_is_not_built(rewrite, key, value):
    def change(tensors, metadata):
        config = json.loads(metadata["config"])
        section, name = key.split(".")
        config["model"][section][name] = value
        metadata["config"] = json.dumps(config)

    refused(lambda: load_network(rewrite(change)), "its config describes a network|does not fit|a list of 1 to 16")


@pytest.mark.parametrize("step", ["x", "-1", "9" * 5000, "1.5", ""])
def test_step_of_a_network_file(rewrite, tmp_path, step):
    prefix = rewrite(lambda tensors, metadata: metadata.update(step=step))
    file = prefix.with_name("I3_E1_gen.safetensors").rename(tmp_path / "network.safetensors")
    refused(lambda: load_network(file), r"network\.safetensors: damaged: its step is .*, no whole number")


def test_integers_are_no_weights(rewrite):
    def change(tensors, metadata):
        tensors["encoder.input.bias"] = tensors["encoder.input.bias"].long()

    refused(lambda: load_network(rewrite(change)), r"encoder\.input\.bias is of torch\.int64")


@pytest.mark.parametrize(
    ("counters", "match"),
    [
        ("[" * 100_000, "nested"),
        ('{"step": 1e400, "masker": {}}', "its step"),
        ('{"step": "three", "masker": {}}', "its step"),
        ('{"step": true, "masker": {}}', "its step"),
        ('{"step": 3, "masker": {"start": 4}}', "no counters of masks"),
        ('{"step": 3, "masker": {"who": 4}}', "no counters of masks"),
        ('{"step": 3, "masker": []}', "not a training file"),
        ("[]", "not a training file"),
        ("no JSON", "not JSON"),
    ],
)
def test_counters_of_a_training_file(rewrite, small_config, counters, match):
    prefix = rewrite(lambda tensors, metadata: metadata.update(training=counters), "opt")
    refused(lambda: load_training_state(prefix, small_config), f"I3_E1_opt.safetensors: .*{match}")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("optimizer/decoder.nothing/exp_avg", "no parameter decoder.nothing"),
        ("optimizer/encoder.input.bias/exp_avg", "of encoder.input.bias, exp_avg is no moment of its shape"),
        ("weights/encoder.input.bias", "does not fit"),
    ],
)
def test_tensors_of_a_training_file(rewrite, small_config, name, match):
    prefix = rewrite(lambda tensors, metadata: tensors.update({name: torch.zeros(3, 5)}), "opt")
    refused(lambda: load_training_state(prefix, small_config), re.escape(match))


# ---------------------------------------------------------------------------------------------------------------------
# Published files.


def test_a_published_file_is_no_larger_than_it_looks(tmp_path):
    """A zip that inflates to gigabytes is refused by its directory, before any of it is read."""
    with zipfile.ZipFile(file := tmp_path / "bomb_gen.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("archive/data.pkl", "w", force_zip64=True) as pickle:
            for _ in range(100):
                pickle.write(bytes(1 << 20))
        archive.writestr("archive/version", "3")
    refused(lambda: load_network(file), r"bomb_gen\.pth: [\d,]+ bytes that inflate to 104,857,")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (bytearray(10), "it asks for '__builtin__ bytearray'"),  # which torch would make as long as the pickle says
        (torch.zeros(1).expand(10**9), "bytes for tensors of 4,"),
        (torch.eye(3).to_sparse(), "it asks for"),
        (torch.zeros(3, device="meta"), "it asks for"),
        ({"params_ema": torch.zeros(1)}, "not a published state dict"),
        (3, "denoise_fn.other is no tensor"),
    ],
)
def test_what_is_in_a_published_file(published, tmp_path, value, match):
    state = published[1] if not isinstance(value, dict) else {}
    torch.save({**state, "denoise_fn.other": value}, file := tmp_path / "other_gen.pth")
    refused(lambda: load_network(file), rf"other_gen\.pth: .*{re.escape(match)}")


def test_a_published_network_without_lr_encoder(published, tmp_path):
    state = {key: value for key, value in published[1].items() if not key.startswith("encoder.")}
    torch.save(state, tmp_path / "I1_E1_gen.pth")
    refused(lambda: load_network(tmp_path / "I1_E1"), r"I1_E1_gen\.pth: a network without LR encoder .* as SR3 is")


@pytest.mark.parametrize("betas", [torch.zeros(1), torch.tensor(0.5), torch.full((9,), torch.nan), torch.arange(9)])
def test_schedule_of_a_published_file(published, tmp_path, betas):
    torch.save({**published[1], "betas": betas}, tmp_path / "I1_E1_gen.pth")
    refused(lambda: load_network(tmp_path / "I1_E1"), r"I1_E1_gen\.pth: .*(betas are|is not linear)")


def test_published_moments(published, small_config):
    prefix = published[0]
    file = prefix.with_name(f"{prefix.name}_opt.pth")
    saved = torch.load(file)
    next(iter(saved["optimizer"]["state"].values()))["exp_avg"] = torch.zeros(3, 5)
    torch.save(saved, file)
    refused(lambda: load_training_state(prefix, load_network(prefix)[1]), "exp_avg is no moment of its shape")


# ---------------------------------------------------------------------------------------------------------------------
# Names.


def test_what_is_there_is_not_said_to_be_missing(published, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("g.pt", "folder/face_gen.pth"):
        torch.save(published[1], tmp_path / name)
    refused(lambda: load_network(tmp_path / "g.pt"), r"g\.pt: neither a \.safetensors nor a \.pth file; rename it")
    refused(lambda: load_network(tmp_path / "folder"), r"face_gen\.pth is another: name the file")


def test_the_folder_of_a_run_is_told_to_have_one_of_checkpoints(tmp_path):
    (tmp_path / "a run/checkpoint").mkdir(parents=True)
    (tmp_path / "a run/checkpoint/I4_E2_gen.safetensors").touch()
    refused(lambda: load_network(tmp_path / "a run"), r"in this folder; \S*a run/checkpoint has some: name that$")
