"""A network small enough for a test, its config, and images to super-resolve."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core.checkpoint.files import TrainingState, save_checkpoint
from core.config import changed, check_config
from core.log import warn_once
from core.sampling.super_resolution import super_resolve
from model import build_network
from model.published import parameter_order

SMALL = {
    "name": "small",
    "datasets": {"val": {"name": "waves", "l_resolution": 8, "r_resolution": 32, "num_workers": 0}},
    "model": {
        "unet": {"inner_channel": 8, "norm_groups": 4, "channel_multiplier": [1, 2], "attn_res": [16], "res_blocks": 1},
        "lr_encoder": {"n_resblocks": 1, "n_feats": 4},
        "beta_schedule": {"train": {"n_timestep": 20, "linear_start": 1e-3, "linear_end": 0.3}},
        "diffusion": {"image_size": 32, "prediction": "v"},  # random weights give grey levels, not black and white
    },
    "sample": {"solver": "ddim", "steps": 4, "key_steps": "uniform:2"},
}


def wave(width, height, phase):
    """A colourful uint8 array (height, width, 3) without repetition."""
    y, x = np.mgrid[:height, :width] / 7
    channels = [np.sin(x * (1 + 0.3 * c) + phase) * np.cos(y * (1 + 0.2 * c) - phase * c) for c in range(3)]
    return np.uint8(np.stack(channels, axis=2) * 100 + 128)


@pytest.fixture(autouse=True)
def nothing_said():
    """What one test made a command say once, another may make it say again."""
    warn_once.cache_clear()


@pytest.fixture(scope="session")
def make_image():
    """make_image(width, height, phase=0) -> RGB image."""
    return lambda width, height, phase=0.0: Image.fromarray(wave(width, height, phase))


@pytest.fixture
def run_main(capsys):
    """run_main(main, *options) -> (exit code, stdout, stderr) of a command in this process."""

    def run(main, *options):
        try:
            code = main(list(map(str, options)))
        except SystemExit as stop:
            code = stop.code
        return code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def small_config(tmp_path, make_image):
    """A checked config whose experiment and five 32x32 validation images are in tmp_path."""
    folder = tmp_path / "waves"
    folder.mkdir()
    for n in range(5):
        make_image(32, 32, n).save(folder / f"wave{n}.png")
    config = copy.deepcopy(SMALL)
    config["path"] = {"root": str(tmp_path / "experiments")}
    config["datasets"]["val"]["dataroot"] = str(folder)
    return check_config(config)


@pytest.fixture(scope="session")
def small_network():
    """The network of `small_config`, with random weights."""
    torch.manual_seed(0)
    return build_network(check_config(SMALL)["model"]).eval()


@pytest.fixture(scope="session")
def small_checkpoint(small_network, tmp_path_factory):
    """The prefix of a checkpoint of `small_network`."""
    prefix = tmp_path_factory.mktemp("checkpoint") / "I3_E1"
    weights = small_network.state_dict()
    save_checkpoint(prefix, check_config(SMALL), TrainingState(weights, weights, step=3))
    return prefix


@pytest.fixture
def trained_on(small_config, small_network, tmp_path):
    """trained_on(...) -> (config, prefix) of a checkpoint that tells of a training on such images, at fixed sizes."""

    def make(**images):
        images = {"name": "trained", "batch_size": 2, "l_resolution": 8, **images}
        train = {"n_iter": 3, "continuous_scale": False, "optimizer": {"lr": 1e-4}}
        config = changed(small_config, {"datasets.train": images, "train": train})
        weights = small_network.state_dict()
        save_checkpoint(tmp_path / "I3_E1", config, TrainingState(weights, weights, step=3))
        return config, tmp_path / "I3_E1"

    return make


@pytest.fixture
def little_memory(monkeypatch):
    """little_memory(module, most) makes memory hold no more than `most` decoder calls at once where the module
    samples."""

    def make(module, most):
        def super_resolve_in_it(network, lr, size, sampling, *rest):
            group = max(len(group) for group in sampling.executed.groups)
            if len(lr) * min(group, sampling.settings.decode_batch or group) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")
            return super_resolve(network, lr, size, sampling, *rest)

        monkeypatch.setattr(f"{module}.super_resolve", super_resolve_in_it)

    return make


@pytest.fixture(scope="session")
def published_files(golden, tmp_path_factory):
    """The folder, state dict and Adam moments of what `published` copies."""
    state = published_state(golden)
    order = parameter_order(state)
    generator = torch.Generator().manual_seed(0)
    moments = {
        number: {
            "step": torch.tensor(7.0),
            "exp_avg": torch.randn(state[key].shape, generator=generator),
            "exp_avg_sq": torch.rand(state[key].shape, generator=generator),
        }
        for number, key in enumerate(order)
        if not key.startswith(("imnet.", "encoder.sub_mean", "encoder.add_mean"))
    }
    groups = [{"lr": 1e-4, "params": list(range(len(order)))}]
    training = {"epoch": 2, "iter": 7, "scheduler": None, "optimizer": {"state": moments, "param_groups": groups}}
    folder = tmp_path_factory.mktemp("published")
    torch.save(state, folder / "I7_E2_gen.pth")
    torch.save(training, folder / "I7_E2_opt.pth")
    return folder, state, {order[number]: moment for number, moment in moments.items()}


def published_state(golden):
    """The state dict of the small recorded network, as the published code saves it."""
    recorded = json.loads((golden / "network_tiny.json").read_text())
    tensors = load_file(golden / "network_tiny.safetensors")
    state = {}
    for key, shape in recorded["all_state_dict_keys"].items():
        state[key] = tensors.get(f"state.{key}", tensors.get(f"schedule.{key}", torch.zeros(shape)))
    return state


@pytest.fixture
def published(published_files, tmp_path):
    """A published checkpoint of the small recorded network: PREFIX, its state dict and its Adam moments by key."""
    folder, state, moments = published_files
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path / "I7_E2", dict(state), moments
